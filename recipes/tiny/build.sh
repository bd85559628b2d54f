#!/usr/bin/env bash
# Builds the guest `tiny`: a disk that boots by itself under SeaBIOS and OVMF and runs
# from its initramfs. Nothing is mounted and no loop device is needed.
#
# usage: recipes/tiny/build.sh OUTDIR        (as root; mmdebstrap and qemu-utils)
#
#   sectors 0              boot record
#   partition 1, 28 MiB    FAT: boot loaders, kernel, initramfs
#   partition 2,  1 MiB    no file system: what the guest is told to keep (see README.md)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
"$here/../../image/need" mmdebstrap qemu-utils
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1764547200} LC_ALL=C TZ=UTC

boot_start=2048 boot_sectors=$((28 * 2048))
keep_start=$((boot_start + boot_sectors)) keep_sectors=2048
modules=(
  virtio_blk virtio_scsi sd_mod sr_mod ahci
  virtio_net virtio-rng virtio_balloon virtio_mem
  isofs vfat nls_ascii nls_cp437 nls_iso8859-1 nls_utf8
  button evdev
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=$work/tools

say() { printf 'tiny [%3d s] %s\n' "$SECONDS" "$*" >&2; }

# unpack_packages: the packages of recipe.toml, unpacked and not configured: neither
# the guest nor the tools need it, and no maintainer script runs.
unpack_packages() {
  local include
  include=$(sed -n '/^packages/,/^]/s/#.*//; /^packages/,/^]/p' "$here/recipe.toml" |
    sed 's/#.*//' | grep -o '"[^"]*"' | tr -d '"' | paste -sd,)
  mmdebstrap --quiet --variant=extract --include="$include" \
    --aptopt='APT::Install-Recommends "false"' trixie "$tools" >&2
  # syslinux starts mtools through a shell; dash's link is its maintainer script's work.
  ln -sf bash "$tools/bin/sh"
}

# add_modules ROOT: the modules and what they depend on, uncompressed, and the order
# in which the guest inserts them.
add_modules() {
  local root=$1 release module path
  release=$(basename "$tools"/boot/vmlinuz-* | sed 's/^vmlinuz-//')
  chroot "$tools" depmod "$release"
  mkdir -p "$root/lib/modules"
  for module in "${modules[@]}"; do
    chroot "$tools" modprobe --set-version "$release" --show-depends --ignore-install "$module" |
      awk '$1 == "insmod" { print $2 }'
  done | awk '!seen[$0]++' | while read -r path; do
    xz --decompress --stdout "$tools$path" > "$root/lib/modules/$(basename "$path" .xz)"
    basename "$path" .xz >> "$root/lib/modules/order"
  done
}

# make_initramfs: uncompressed, since the emulated processors of the tests take longer
# to decompress it than to read it.
make_initramfs() {
  local root=$tools/initramfs
  cp -r "$here/initramfs" "$root"
  mkdir -p "$root"/{bin,dev,etc,lib,mnt,proc,run,sys,tmp,var}
  cp "$tools/bin/busybox" "$root/bin/busybox"
  chroot "$tools" /bin/busybox --list | while read -r applet; do
    [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
  done
  ln -s bin "$root/sbin"
  ln -s bin/busybox "$root/init"
  add_modules "$root"
  chmod -R u=rwX,go=rX "$root"
  find "$root" -print0 | xargs -0 touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
  chroot "$tools" bash -euo pipefail -c 'cd /initramfs && find . -print0 | sort -z |
    cpio --null --create --format=newc --owner=0:0 --reproducible --quiet' > "$tools/boot/initrd"
}

# write_loader_config: the same kernel command line for both boot loaders. syslinux
# serves BIOS, because it reads the kernel faster than GRUB under emulation; GRUB serves
# UEFI, where syslinux finds no memory for a kernel of today.
write_loader_config() {
  local options="console=ttyS0 quiet loglevel=3 mitigations=off random.trust_cpu=on panic=1 8250.nr_uarts=1 memhp_default_state=online"
  cat > "$tools/boot/syslinux.cfg" <<CFG
DEFAULT tiny
PROMPT 0
TIMEOUT 0
LABEL tiny
  LINUX /vmlinuz
  INITRD /initrd
  APPEND $options
CFG
  cat > "$tools/boot/grub.cfg" <<CFG
search --no-floppy --file --set=root /vmlinuz
linux /vmlinuz $options
initrd /initrd
boot
CFG
  chroot "$tools" grub-mkimage --format=x86_64-efi --output=/boot/grub.efi --prefix=/ \
    --config=/boot/grub.cfg boot fat linux part_msdos search search_fs_file
}

# make_boot_partition: FAT, filled and made bootable inside the disk image.
make_boot_partition() {
  local offset=$((boot_start * 512))
  mv "$tools"/boot/vmlinuz-* "$tools/boot/vmlinuz"
  # syslinux reaches the image through /proc/self/fd.
  unshare --mount --pid --fork --mount-proc="$tools/proc" chroot "$tools" bash -euc "
    export MTOOLS_SKIP_CHECK=1
    disk=/disk@@$offset
    mformat -i \$disk -T $boot_sectors -h 64 -s 32 -H $boot_start -N f0550001 -v TINY ::
    mmd -i \$disk ::/EFI ::/EFI/BOOT
    mcopy -i \$disk /boot/vmlinuz /boot/initrd /boot/syslinux.cfg ::/
    mcopy -i \$disk /boot/grub.efi ::/EFI/BOOT/BOOTX64.EFI
    syslinux --install --offset $offset /disk
  "
}

make_disk() {
  local disk=$tools/disk
  truncate -s $(((keep_start + keep_sectors) * 512)) "$disk"
  chroot "$tools" sfdisk --quiet --no-reread --no-tell-kernel /disk <<TABLE
label: dos
label-id: 0xf0550001
start=$boot_start, size=$boot_sectors, type=ef, bootable
start=$keep_start, size=$keep_sectors, type=da
TABLE
  dd if="$tools/usr/lib/syslinux/mbr/mbr.bin" of="$disk" conv=notrunc status=none
  printf 'furrow-tiny 1\n' | dd of="$disk" bs=512 seek="$keep_start" conv=notrunc status=none
  write_loader_config
  make_boot_partition
}

say "unpacking Debian packages"
unpack_packages
say "initramfs"
make_initramfs
say "disk"
make_disk
mv "$tools/disk" "$out/tiny.raw"
qemu-img convert -c -O qcow2 "$out/tiny.raw" "$out/tiny.qcow2"
say "tiny.raw $(du -k --apparent-size "$out/tiny.raw" | cut -f1) KiB, tiny.qcow2 $(du -k "$out/tiny.qcow2" | cut -f1) KiB"
