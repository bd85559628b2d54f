# The base: Debian's packages, unconfigured and without what a node never uses.
# Immutable once made: the trees of the images above it share its files by hard links.

# locate_base: sets base_dir, which need not be there yet.
locate_base() {
  local key
  key=$(content_key "$image_dir/packages" "$image_dir/prune" "$image_dir/ids" \
    "$image_dir/initrd/dracut.conf" "$image_dir/lib/base.sh" "$image_dir/lib/fixed-ids")
  base_dir=$cache/image/base-$key-$SOURCE_DATE_EPOCH
}

# ensure_base: makes the base unless its inputs have been built before.
ensure_base() {
  local work started=$SECONDS
  [ ! -e "$base_dir" ] || return 0
  "$image_dir/need" mmdebstrap
  work=$base_dir.tmp
  rm -rf "$work"
  mkdir -p "$work"
  say "base: installing $(entries "$image_dir/packages" | wc -l) packages and what they need (about 2 minutes)"
  install_packages "$work/root"
  list_packages "$work/root" > "$work/packages.txt"
  keep_kernel "$work/root" "$work/boot"
  say "base: pruning"
  prune_base "$work/root"
  settle_base "$work/root"
  mv "$work" "$base_dir"
  forget_others "$cache/image/base-" "$base_dir"
  say "base: $(du -sm "$base_dir/root" | cut -f1) MB after $((SECONDS - started)) s"
}

# install_packages ROOT: variant `essential` because it has no apt; the host's apt
# installs from outside. Maintainer scripts see Python that writes no bytecode, as
# its caches are made once, reproducibly, in settle_base.
install_packages() {
  local include
  include=$(entries "$image_dir/packages" | paste -sd,)
  PYTHONDONTWRITEBYTECODE=1 mmdebstrap --quiet --variant=essential --include="$include" \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --essential-hook="'$image_dir/lib/fixed-ids' '$image_dir/ids' \"\$1\"" \
    --essential-hook="install -D -m 644 '$image_dir/initrd/dracut.conf' \"\$1/etc/dracut.conf.d/furrow.conf\"" \
    trixie "$1" >&2
}

# keep_kernel ROOT DIR: the kernel and the initrd that dracut made for it, before they are pruned.
keep_kernel() {
  mkdir "$2"
  cp "$1"/boot/vmlinuz-* "$2/vmlinuz"
  cp "$1"/boot/initrd.img-* "$2/initrd.cpio"
  ls "$1/usr/lib/modules" > "$2/release"
}

# list_packages ROOT: name, version and installed size in KiB, the largest first.
list_packages() {
  dpkg-query --admindir="$1/var/lib/dpkg" --show \
    --showformat='${Installed-Size} ${Package} ${Version}\n' | sort -k1,1nr -k2
}

prune_base() {
  local root=$1 pattern
  while read -r pattern; do
    # Unquoted on purpose: the pattern expands below the root.
    (cd "$root" && rm -rf -- $pattern)
  done < <(entries "$image_dir/prune")
  find "$root"/var/log "$root"/var/cache -type f -delete
  find "$root/usr/share/doc" -mindepth 1 -depth ! -name copyright -empty -delete
  find "$root" -xdev -name __pycache__ -prune -exec rm -rf {} +
}

# settle_base ROOT: caches are made anew so that they do not depend on the order of
# installation, and every time becomes the same.
settle_base() {
  local root=$1
  chroot "$root" ldconfig
  rm -f "$root/var/cache/ldconfig/aux-cache"
  # Unchecked hash-based caches hold no time stamp; the root is read-only anyway.
  PYTHONHASHSEED=0 chroot "$root" python3 -m compileall -q -j1 \
    --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.13 >/dev/null || true
  # Read at boot: an empty file says "not yet set" and, unlike a missing one, does
  # not make systemd apply the presets again.
  install -m 444 /dev/null "$root/etc/machine-id"
  find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -print0 |
    xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
}
