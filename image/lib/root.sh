# The root: the base, the files of image/root, what the recipes built, our programs.
# Files of the base are hard links, so that it takes seconds and no space; nothing
# may write into a finished root (boxes lay an overlay over it).

our_programs=(furrow-agent furrow-control furrow-install)
our_recipes=(k3s coredns pause csi-provisioner)

# gather_parts STAGE: fills a directory with everything above the base.
gather_parts() {
  local stage=$1 recipe out program target=$cache/target/release
  mkdir -p "$stage/usr/bin" "$stage/usr/share/furrow/images" "$stage/usr/share/furrow/manifests"
  for recipe in "${our_recipes[@]}"; do
    if [ "$recipe" = k3s ] && [ -n "${K3S:-}" ]; then
      [ -x "$K3S" ] || die "cannot use K3S=$K3S: it is not an executable file"
      say "k3s: taking $K3S"
      install -m 755 "$K3S" "$stage/usr/bin/k3s"
      continue
    fi
    say "recipe $recipe"
    out=$("$repo_dir/recipes/build" "$recipe" | tail -n 1)
    [ -d "$out" ] || die "recipe $recipe left no output directory"
    gather_recipe "$out" "$stage"
  done
  ln -s k3s "$stage/usr/bin/kubectl"
  ln -s k3s "$stage/usr/bin/ctr"
  # What administrators type.
  [ -e "$stage/usr/bin/furrow" ] || ln -s furrow-install "$stage/usr/bin/furrow"
  install -m 644 "$repo_dir"/agent/api/crds/*.yaml "$repo_dir"/agent/control/manifests/*.yaml \
    "$stage/usr/share/furrow/manifests"
  say "our programs: cargo build --release"
  # Build scripts of C libraries run again whenever these variables differ from those
  # of a plain image/cargo.
  env -u SOURCE_DATE_EPOCH -u LC_ALL -u TZ "$image_dir/cargo" build --release --locked "${our_programs[@]/#/-p}" >&2
  for program in "${our_programs[@]}"; do
    install -s -m 755 "$target/$program" "$stage/usr/bin/$program"
  done
}

# gather_recipe OUT STAGE: the layout that recipes promise: bin, images, manifests.
gather_recipe() {
  local kind
  [ ! -d "$1/bin" ] || install -m 755 "$1"/bin/* "$2/usr/bin"
  for kind in images manifests; do
    [ ! -d "$1/$kind" ] || install -m 644 "$1/$kind"/* "$2/usr/share/furrow/$kind"
  done
}

# lay TREE ROOT: puts a tree over the root. tar replaces files, never writes into them
# (they are the base's own), and existing directories keep their owner and mode.
lay() {
  tar --create --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --mode='a+rX,u+w,go-w' -C "$1" . |
    tar --extract --no-overwrite-dir -C "$2"
}

# assemble BASE STAGE VERSION KEY ROOT
assemble() {
  local base=$1 stage=$2 version=$3 key=$4 root=$5
  cp -al "$base" "$root"
  lay "$image_dir/root" "$root"
  [ -z "$stage" ] || lay "$stage" "$root"
  # Where systemd mounts the ESP.
  mkdir -p "$root/efi"
  ln -sf ../run/systemd/resolve/resolv.conf "$root/etc/resolv.conf"
  rm "$root/usr/lib/os-release"
  sed "/^PRETTY_NAME=/s/=.*/=\"Furrow $version (Debian 13)\"/" "$base/usr/lib/os-release" > "$root/usr/lib/os-release"
  printf 'IMAGE_ID=furrow\nIMAGE_VERSION=%s-%s\n' "$version" "$key" >> "$root/usr/lib/os-release"
  # Nothing below /etc and /var waits for an update at the first boot: ldconfig and its like have run, and what they would
  # write into a node's own layer would hide the files of every later version.
  touch "$root/etc/.updated" "$root/var/.updated"
  # Offline, as systemctl knows in a chroot: it only makes and removes links.
  chroot "$root" systemctl preset-all >/dev/null 2>&1 ||
    die "cannot apply the presets to $root"
  find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -print0 |
    xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
}

# describe VERSION KEY ROOT PACKAGES: image.json.
describe() {
  printf '{\n  "version": "%s",\n  "key": "%s",\n  "size_bytes": %s,\n  "packages": [\n' \
    "$1" "$2" "$(du -sb "$3" | cut -f1)"
  awk '{ printf "%s    {\"name\": \"%s\", \"version\": \"%s\", \"installed_kib\": %s}", (NR > 1 ? ",\n" : ""), $2, $3, $1 }
       END { print "\n  ]\n}" }' "$4"
}
