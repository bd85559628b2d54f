# Shared by image/build and the files beside this one: where things are, what is
# said while they are made.

image_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
repo_dir=$(dirname "$image_dir")
cache=${FURROW_CACHE:-$HOME/.cache/furrow}
# One moment for all timestamps of the image: two builds must not differ by their
# hour. It is raised by hand, at releases.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1764547200}
export LC_ALL=C TZ=UTC

say() { printf '%s [%3d s] %s\n' "${0##*/}" "$SECONDS" "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# entries FILE: the first word of each line that is not a comment.
entries() { sed 's/#.*//' "$1" | awk 'NF { print $1 }'; }

# content_key PATH...: a digest over files and trees: names, modes, contents, links.
content_key() {
  local path
  for path in "$@"; do
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
      -C "$(dirname "$path")" "$(basename "$path")"
  done | sha256sum | cut -c1-16
}

# tree_digest DIR: a digest over every path below DIR with its mode, owner, content,
# link target and extended attributes (file capabilities); times do not count.
tree_digest() {
  tar --create --sort=name --mtime=@0 --numeric-owner --hard-dereference \
    --xattrs --xattrs-include='*' \
    --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' -C "$1" . | sha256sum | cut -d' ' -f1
}

# in_use DIR: whether some mount of this machine, such as a running box, lies on DIR.
in_use() { grep -qsF "$1" /proc/[0-9]*/mountinfo; }

# forget_others PREFIX KEEP: removes older results beside KEEP, but for those in use. Where several checkouts share a
# cache, FURROW_KEEP_OLD=1 leaves each of them its own.
forget_others() {
  local old
  [ -z "${FURROW_KEEP_OLD:-}" ] || return 0
  for old in "$1"*/; do
    old=${old%/}
    [ -d "$old" ] && [ "$old" != "$2" ] || continue
    in_use "$old" || rm -rf "$old"
  done
}
