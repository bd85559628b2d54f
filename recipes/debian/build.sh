#!/usr/bin/env bash
# Builds the guest `debian`: a Debian 13 cloud image as compressed qcow2, for BIOS and
# UEFI. Nothing is mounted and no loop device is needed, so the boot loaders are put
# in place by hand.
#
# usage: recipes/debian/build.sh OUTDIR      (as root; mmdebstrap, e2fsprogs, qemu-utils)
#
# The partitions have the numbers and the order of Debian's own cloud images: the root
# file system is number 1 and lies last, so that growpart can extend it.
#
#   14  BIOS boot   2048 .. 4095    GRUB's core image
#   15  ESP         4096 .. 12287   GRUB for UEFI
#    1  root       12288 .. end     ext4
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
"$here/../../image/need" e2fsprogs mmdebstrap qemu-utils
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1764547200} LC_ALL=C TZ=UTC
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH

disk_sectors=$((2 * 1024 * 2048))
bios_start=2048 esp_start=4096 root_start=12288
# The backup of the partition table takes the last 33 sectors; ends on a MiB.
root_sectors=$((disk_sectors - root_start - 2048))
root_uuid=8a3c5b1e-0f0d-4d6b-9c57-f0550002d0d1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=$work/tools root=$work/root disk=$work/tools/disk

say() { printf 'debian [%3d s] %s\n' "$SECONDS" "$*" >&2; }

# packages KEY: a list of recipe.toml, joined by commas.
packages() {
  sed -n "/^$1 = /,/^]/p" "$here/recipe.toml" | sed 's/#.*//' | grep -o '"[^"]*"' | tr -d '"' | paste -sd,
}

# install_packages: the guest. Our files for the initramfs must be there before the
# kernel's maintainer script makes one.
install_packages() {
  mmdebstrap --quiet --variant=minbase --include="$(packages packages)" \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook="copy-in '$here/files/etc/initramfs-tools' /etc" \
    --essential-hook="mkdir -p \"\$1/usr/share/initramfs-tools\"" \
    --essential-hook="copy-in '$here/files/usr/share/initramfs-tools/modules.d' /usr/share/initramfs-tools" \
    trixie "$root" >&2
}

# settle_root: our files, and nothing of this machine or this hour.
settle_root() {
  tar --create --owner=0 --group=0 --mode='a+rX,u+w,go-w' -C "$here/files" . |
    tar --extract --no-overwrite-dir -C "$root"
  mkdir -p "$root/boot/efi"
  chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
  # Timers that want a network or idle hours: a test guest has neither.
  chroot "$root" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  install -m 444 /dev/null "$root/etc/machine-id"
  # cloud-init makes the host keys, and the package sources from its own template.
  rm -rf "$root"/etc/ssh/ssh_host_* "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
    "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/hostname \
    "$root"/etc/{passwd,group,shadow,gshadow,subuid,subgid}- "$root"/var/lib/dbus/machine-id \
    "$root"/var/lib/systemd/{random-seed,catalog} "$root"/var/lib/dpkg/*-old \
    "$root"/var/cache/ldconfig/aux-cache "$root"/var/cache/debconf/*-old
  find "$root"/var/log "$root"/var/cache/apt "$root"/var/lib/apt/lists -type f -delete
  # With SOURCE_DATE_EPOCH set, the packages' scripts make caches that are checked
  # against a hash of the source at every import.
  chroot "$root" python3 -m compileall -q -f --invalidation-mode timestamp \
    /usr/lib/python3 /usr/lib/python3.13 >/dev/null || true
  # Packages' files keep their times, which Python's caches refer to.
  find "$root" -newer "$work/started" -print0 |
    xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
}

partition_disk() {
  truncate -s $((disk_sectors * 512)) "$disk"
  chroot "$tools" sfdisk --quiet --no-reread --no-tell-kernel /disk <<TABLE
label: gpt
label-id: f0550002-0000-4000-8000-000000000000
14: start=$bios_start, size=$((esp_start - bios_start)), type=21686148-6449-6E6F-744E-656564454649, uuid=f0550002-0000-4000-8000-000000000014
15: start=$esp_start, size=$((root_start - esp_start)), type=uefi, uuid=f0550002-0000-4000-8000-000000000015
1: start=$root_start, size=$root_sectors, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=f0550002-0000-4000-8000-000000000001
TABLE
}

# make_root_filesystem: without features that GRUB or older tools do not know.
make_root_filesystem() {
  mke2fs -q -t ext4 -L root -U "$root_uuid" -d "$root" \
    -O ^orphan_file,^metadata_csum_seed \
    -E "offset=$((root_start * 512)),hash_seed=$root_uuid,nodiscard" \
    "$disk" $((root_sectors / 2))K 2>/dev/null
}

# little_endian NUMBER BYTES: as bytes on stdout.
little_endian() {
  local number=$1 count=$2
  for ((; count > 0; count--)); do
    printf "\\x$(printf %02x $((number & 255)))"
    number=$((number >> 8))
  done
}

# patch FILE OFFSET: writes stdin into the file at this byte.
patch() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# make_grub: both core images look for the root file system and read its grub.cfg.
make_grub() {
  local modules=(part_gpt ext2 search search_fs_uuid normal configfile linux boot echo test)
  cat > "$tools/grub.cfg" <<CFG
search --no-floppy --fs-uuid --set=root $root_uuid
set prefix=(\$root)/boot/grub
configfile /boot/grub/grub.cfg
CFG
  chroot "$tools" grub-mkimage --format=i386-pc --output=/core.img --prefix=/boot/grub \
    --config=/grub.cfg biosdisk "${modules[@]}"
  chroot "$tools" grub-mkimage --format=x86_64-efi --output=/grub.efi --prefix=/boot/grub \
    --config=/grub.cfg fat "${modules[@]}"
}

# install_bios_grub: what grub-bios-setup does. Offsets are of GRUB's i386-pc boot.h:
# boot.img keeps the sector of the core image at 0x5c and a jump at 0x66 that is
# needed on floppies only; the core image's first sector ends with a block list whose
# only entry, at 0x1f4, names the sector that follows.
install_bios_grub() {
  local boot=$tools/boot.img core=$tools/core.img
  cp "$tools/usr/lib/grub/i386-pc/boot.img" "$boot"
  [ "$(stat -c %s "$core")" -le $(((esp_start - bios_start) * 512)) ] ||
    { say "cannot embed GRUB: its core image is larger than its partition"; exit 1; }
  little_endian "$bios_start" 8 | patch "$boot" $((0x5c))
  printf '\x90\x90' | patch "$boot" $((0x66))
  little_endian $((bios_start + 1)) 8 | patch "$core" $((0x1f4))
  # The partition table in the boot sector's last 72 bytes stays.
  dd if="$boot" of="$disk" bs=440 count=1 conv=notrunc status=none
  dd if="$core" of="$disk" bs=512 seek="$bios_start" conv=notrunc status=none
}

install_uefi_grub() {
  chroot "$tools" bash -euc "
    export MTOOLS_SKIP_CHECK=1
    esp=/disk@@$((esp_start * 512))
    mformat -i \$esp -T $((root_start - esp_start)) -h 16 -s 32 -H $esp_start -N f0550002 -v ESP ::
    mmd -i \$esp ::/EFI ::/EFI/BOOT
    mcopy -i \$esp /grub.efi ::/EFI/BOOT/BOOTX64.EFI
  "
}

touch "$work/started"
say "unpacking tools"
mmdebstrap --quiet --variant=extract --include="$(packages tools)" \
  --aptopt='APT::Install-Recommends "false"' trixie "$tools" >&2
say "installing Debian packages"
install_packages
settle_root
say "root file system of $(du -sm "$root" | cut -f1) MB"
partition_disk
make_root_filesystem
make_grub
install_bios_grub
install_uefi_grub
say "compressing"
qemu-img convert -c -O qcow2 "$disk" "$work/debian.qcow2"
mv "$work/debian.qcow2" "$out/debian.qcow2"
say "debian.qcow2 $(du -m "$out/debian.qcow2" | cut -f1) MB"
