# Milliseconds from a common start to the end of `virsh create`, for the domains of the VMIs named by the arguments, all
# started at the same time, a line each: the same XML with another name and UUID, on a clone of the disk and on a port
# of its own, so that nothing is shared with the running guests. These stand still meanwhile and stay so: otherwise the
# next start to be measured would share the processors with guests that still boot.
set -euo pipefail
virsh() { command virsh -q -c qemu:///system "$@"; }
rbd() { command rbd --id furrow-agent "$@" >/dev/null 2>&1; }
work=$(mktemp -d)

# tap_of NAME: its port's name.
tap_of() { echo "bx$(echo "$1" | tr -dc 0-9)"; }

# prepare NAME: a copy of the disk, a port, and the XML in $work.
prepare() {
  local domain=default_$1 tap image uuid
  tap=$(tap_of "$1")
  virsh dumpxml --security-info "$domain" > "$work/$1.xml"
  image=$(sed -n "s/.*<source protocol='rbd' name='\([^']*\)'.*/\1/p" "$work/$1.xml")
  uuid=$(virsh domuuid "$domain")
  rbd snap create --no-progress "$image@bench"
  rbd clone --rbd-default-clone-format 2 "$image@bench" "$image-bench"
  echo "$image" > "$work/$1.image"
  ip tuntap add "$tap" mode tap vnet_hdr && ip link set "$tap" up
  ovs-vsctl --may-exist add-port br-provider "$tap" tag=100
  sed -i -e "s#<name>$domain</name>#<name>$domain-bench</name>#" -e "s#$image#$image-bench#" \
    -e "s#$uuid#$(cat /proc/sys/kernel/random/uuid)#" -e "s#<target dev='fw[^']*'#<target dev='$tap'#" \
    -e "s#/var/lib/furrow/guests/[^/]*/\([a-z]*\)\.\(sock\|log\)#$work/$1-\1.\2#" "$work/$1.xml"
}

# end NAME: takes away what `prepare` and `create` made.
end() {
  local image tap
  tap=$(tap_of "$1")
  virsh destroy "default_$1-bench" >/dev/null 2>&1 || true
  ovs-vsctl --if-exists del-port "$tap"
  ip link del "$tap" 2>/dev/null || true
  image=$(cat "$work/$1.image" 2>/dev/null) || return 0
  rbd rm --no-progress "$image-bench" || true
  rbd snap rm --no-progress "$image@bench" || true
}

create() {
  virsh create "$work/$1.xml" > "$work/$1.out" 2>&1 || { cat "$work/$1.out" >&2; return 1; }
  echo $((($(date +%s%N) - started) / 1000000))
}

finish() {
  for name in "$@"; do end "$name"; done
  rm -rf "$work"
}
trap 'finish "$@"' EXIT
for name in "$@"; do prepare "$name"; done
for name in "$@"; do virsh suspend "default_$name" >/dev/null; done
started=$(date +%s%N)
jobs=()
for name in "$@"; do create "$name" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done
