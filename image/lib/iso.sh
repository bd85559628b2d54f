# The medium: an ISO 9660 file system, over whose files a partition table is laid. A CD's firmware starts the ESP by the
# El Torito catalogue, a stick's by the partition table, and each byte is there once.

esp_type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
root_type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
verity_type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5

# make_memtest WORK: memtest.efi, Debian's memory test, signed, and its entry of the boot menu.
make_memtest() {
  local work=$1 kept=$cache/memtest
  if [ ! -s "$kept/memtest.efi" ]; then
    rm -rf "$kept"
    mkdir -p "$kept"
    in_tools sh -euc 'cd "$1"
      apt-get update -qq && apt-get download -qq memtest86+ && rm -rf /var/lib/apt/lists/*
      dpkg-deb -x memtest86+_*.deb . && mv boot/memtest86+x64.efi memtest.efi' sh "$kept" >&2
  fi
  sign_efi "$kept/memtest.efi" "$work/memtest.efi"
  # Behind the profiles of the boot image, whose key is `furrow`.
  printf 'title Memory test\nsort-key memtest\nefi /EFI/memtest.efi\noptions console=ttyS0,115200\n' > "$work/memtest.conf"
}

# sign_efi FILE SIGNED
sign_efi() {
  at_build_time sbsign --key "$sign_key" --cert "$sign_cert" --output "$2" "$1" 2>/dev/null
}

# make_esp WORK UKI FILE: a FAT file system with the boot loader and the unified kernel image.
make_esp() {
  local work=$1 uki=$2 file=$3 mib
  mib=$(($(stat -c %s "$uki") / 1048576 + 8))
  truncate -s "${mib}M" "$file"
  sign_efi /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$work/systemd-bootx64.efi"
  make_memtest "$work"
  # Keys are enrolled when somebody chooses that entry, never by themselves: firmware that has taken them starts nothing
  # else any more. The loader offers the entry only while the firmware has no keys (setup mode).
  printf 'timeout 10\ndefault *@install\nsecure-boot-enroll manual\n' > "$work/loader.conf"
  make_enrolment "$work/enrolment"
  # Times and the volume's number are fixed: two builds must not differ by their hour.
  in_tools env SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" TZ=UTC sh -euc '
    esp=$1 uki=$2 work=$3
    mkfs.fat -F 32 -n FURROW-ESP -i 46555252 --invariant "$esp" > /dev/null
    export MTOOLS_SKIP_CHECK=1
    mmd -i "$esp" ::/EFI ::/EFI/BOOT ::/EFI/Linux ::/loader ::/loader/entries ::/loader/keys ::/loader/keys/auto
    mcopy -i "$esp" "$work/systemd-bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$esp" "$uki" ::/EFI/Linux/
    mcopy -i "$esp" "$work/loader.conf" ::/loader/
    mcopy -i "$esp" "$work/memtest.efi" ::/EFI/
    mcopy -i "$esp" "$work/memtest.conf" ::/loader/entries/
    mcopy -i "$esp" "$work"/enrolment/*.auth ::/loader/keys/auto/
    mcopy -i "$esp" "$work/enrolment/furrow.cer" ::/
  ' sh "$file" "$uki" "$work"
}

# make_iso SOURCE WORK: furrow-VERSION.iso.
make_iso() {
  local source=$1 work=$2 version iso tree
  version=$(version_of "$source")
  iso=$work/furrow-$version.iso tree=$work/tree
  say "medium: assembling"
  mkdir -p "$tree/boot" "$tree/furrow"
  make_esp "$work" "$work/furrow-$version.efi" "$tree/boot/esp.img"
  make_bios_sector "$work" "$tree/boot/bios.bin"
  ln "$work/root.erofs" "$work/root.verity" "$work/roothash" "$tree/furrow"
  sign_list "$work" "$tree/furrow"
  find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  in_tools env SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" xorriso -report_about WARNING -as mkisofs -V FURROW -R -l \
    -b boot/bios.bin -no-emul-boot -boot-load-size 4 \
    -eltorito-alt-boot -e boot/esp.img -no-emul-boot -o "$iso" "$tree" >&2
  lay_partitions "$work" "$iso"
  rm -rf "$tree" "$work/loader.conf" "$work/enrolment" "$work/bios.bin" "$work/memtest.efi" "$work/memtest.conf"
}

# sign_list WORK DIR: the digests that an update is checked by, and their signature.
sign_list() {
  (cd "$1" && sha256sum -- root.erofs root.verity roothash furrow-*.efi) > "$2/SHA256SUMS"
  openssl dgst -sha256 -sign "$sign_key" -out "$2/SHA256SUMS.sig" "$2/SHA256SUMS"
}

# make_bios_sector WORK FILE: what firmware without UEFI starts, from CD or stick: it says what is needed, and stops.
make_bios_sector() {
  in_tools sh -euc 'as --32 -o "$1/bios.o" "$2" && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o "$1/bios.bin" "$1/bios.o"
    rm "$1/bios.o"' sh "$1" "$image_dir/bios/message.S"
  [ "$(stat -c %s "$1/bios.bin")" -le 440 ] || die "the BIOS message does not fit before the partition table"
  cp "$1/bios.bin" "$2"
  truncate -s 2048 "$2"
}

# extent ISO PATH: first 512-byte sector and number of sectors of a file in the ISO.
extent() {
  local report
  report=$(in_tools xorriso -indev "$1" -find "$2" -exec report_lba 2>/dev/null | sed -n 's/^File data lba: *//p')
  # Columns: extent, start block, blocks, size; blocks are 2048 bytes.
  echo "$report" | awk -F, '{ print $2 * 4, $3 * 4 }'
}

# lay_partitions WORK ISO
lay_partitions() {
  local work=$1 iso=$2 esp root verity
  read -r -a esp <<< "$(extent "$iso" /boot/esp.img)"
  read -r -a root <<< "$(extent "$iso" /furrow/root.erofs)"
  read -r -a verity <<< "$(extent "$iso" /furrow/root.verity)"
  [ "${#esp[@]}${#root[@]}${#verity[@]}" = 222 ] || die "cannot find the files in $iso"
  # Room for the second table at the end.
  truncate -s "$((($(stat -c %s "$iso") / 1048576 + 2)))M" "$iso"
  in_tools sh -c 'sfdisk --quiet --wipe never "$1"' sh "$iso" >&2 <<TABLE
label: gpt
label-id: $(uuid_of "medium $(cat "$work/roothash")")
first-lba: 64
start=${esp[0]}, size=${esp[1]}, type=$esp_type, name=furrow-medium-esp, uuid=$(uuid_of "esp $(cat "$work/roothash")")
start=${root[0]}, size=${root[1]}, type=$root_type, name=furrow-medium-root, uuid=$(uuid_of "root $(cat "$work/roothash")")
start=${verity[0]}, size=${verity[1]}, type=$verity_type, name=furrow-medium-verity, uuid=$(uuid_of "verity $(cat "$work/roothash")")
TABLE
  # The message also stands where a BIOS looks on a stick; sfdisk keeps the bytes before its own.
  dd if="$work/bios.bin" of="$iso" conv=notrunc status=none
}
