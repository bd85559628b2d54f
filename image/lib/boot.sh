# What boots: the root as a read-only file system with its hash tree, the initrd, and the unified kernel image that ties
# them together. Everything runs in the build root, whose tools are those of the node's own Debian.

# in_tools COMMAND...: in the build root, which sees the caches.
in_tools() { "$image_dir/lib/in-build-root" --bind "$cache" "$@"; }

# at_build_time COMMAND...: in the build root with a clock that stands at the build's time: a signature for Secure Boot
# carries the hour, and sbsign has no other way to be told it.
at_build_time() {
  in_tools --bind "$(dirname "$sign_key")" env TZ=UTC \
    faketime -f "$(date -u -d "@$SOURCE_DATE_EPOCH" '+%F %T')" "$@"
}

# A UUID that depends on a text only.
uuid_of() { echo "$1" | sha256sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/'; }

# make_root_image ROOT WORK: root.erofs, root.verity and roothash.
make_root_image() {
  local root=$1 work=$2 salt
  say "root: compressing (about a minute)"
  # Clusters of 16 KiB cost 3 % against 64, and a page of a program that is read alone is unpacked with fewer others.
  # Level 6 saves 2 % in twice the time; deduplication saves more, on one processor, in ten times the time.
  in_tools mkfs.erofs --quiet --workers="$(nproc)" -zzstd,level=3 -C16384 -T "$SOURCE_DATE_EPOCH" \
    -U "$(uuid_of "$root")" "$work/root.erofs" "$root" >&2
  salt=$(echo "$root" | sha256sum | cut -d' ' -f1)
  in_tools veritysetup format --salt="$salt" --uuid="$(uuid_of "verity $root")" \
    --root-hash-file="$work/roothash" "$work/root.erofs" "$work/root.verity" > /dev/null
}

# make_initrd WORK: dracut's archive and ours, compressed.
make_initrd() {
  local work=$1
  cp "$source_dir/boot/vmlinuz" "$work/vmlinuz"
  cp -a "$image_dir/initrd/files" "$work/initrd.d"
  chmod -R u=rwX,go=rX "$work/initrd.d"
  find "$work/initrd.d" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  in_tools sh -c 'cd "$1/initrd.d" && find . -mindepth 1 | LC_ALL=C sort |
    cpio --quiet --reproducible --owner=0:0 -o -H newc > "$1/own.cpio"' sh "$work"
  in_tools sh -c 'cat "$1" "$2/own.cpio" | zstd -q -15 -T0 > "$2/initrd.zst"' sh "$source_dir/boot/initrd.cpio" "$work"
  rm -rf "$work/initrd.d" "$work/own.cpio"
}

# words_of PROFILE-WORDS ROOTHASH: the kernel's command line.
words_of() {
  local words="roothash=$2 rootfstype=erofs ro console=tty0 console=ttyS0,115200 panic=30"
  case " $1 " in
    # Not by the hash: a disk with the same version is not the medium.
    *" furrow.medium "*)
      words+=" systemd.verity_root_data=/dev/disk/by-partlabel/furrow-medium-root"
      words+=" systemd.verity_root_hash=/dev/disk/by-partlabel/furrow-medium-verity"
      ;;
  esac
  [ "$1" = - ] || words+=" $1"
  echo "$words"
}

# make_uki SOURCE WORK: furrow-VERSION.efi, signed, with a profile for each way to boot.
make_uki() {
  local source=$1 work=$2 version hash name words title stub first=1 joins=() main
  version=$(version_of "$source")
  hash=$(cat "$work/roothash")
  stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
  while IFS='|' read -r name words title; do
    name=$(echo $name) words=$(echo $words) title=$(echo $title)
    if [ -n "$first" ]; then
      first=
      main=(--profile="$(printf 'ID=%s\nTITLE=%s %s' "$name" "$title" "$version")" --cmdline="$(words_of "$words" "$hash")")
      continue
    fi
    in_tools ukify build --profile="$(printf 'ID=%s\nTITLE=%s %s' "$name" "$title" "$version")" \
      --cmdline="$(words_of "$words" "$hash")" --output="$work/profile-$name.efi" >&2
    joins+=(--join-profile="$work/profile-$name.efi")
  done < <(sed '/^#/d; /^ *$/d' "$image_dir/uki/profiles")
  at_build_time ukify build --stub="$stub" --linux="$work/vmlinuz" \
    --initrd="$work/initrd.zst" --uname="$(cat "$source_dir/boot/release")" --os-release="@$source/root/usr/lib/os-release" \
    "${main[@]}" "${joins[@]}" --signtool=sbsign --secureboot-private-key="$sign_key" \
    --secureboot-certificate="$sign_cert" --output="$work/furrow-$version.efi" >&2
  rm -f "$work"/profile-*.efi
}

# version_of SOURCE: as in the name of the unified kernel image: X.Y.Z-KEY.
version_of() { sed -n 's/^IMAGE_VERSION=//p' "$1/root/usr/lib/os-release"; }
