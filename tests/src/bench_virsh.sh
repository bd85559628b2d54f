# Milliseconds that `virsh create` takes for the domain of the VMI @NAME@: the same XML with another name and UUID,
# on a clone of its disk and on a port of its own, so that nothing is shared with the running guest.
set -euo pipefail
virsh="virsh -c qemu:///system"
domain=default_@NAME@
tap=bx$(echo @NAME@ | tr -dc 0-9)
image=$($virsh dumpxml "$domain" | sed -n "s/.*<source protocol='rbd' name='\([^']*\)'.*/\1/p" | head -1)
rbd --id furrow-agent snap create --no-progress "$image@bench" >/dev/null
rbd --id furrow-agent clone --rbd-default-clone-format 2 "$image@bench" "$image-bench"
ip tuntap add "$tap" mode tap vnet_hdr && ip link set "$tap" up
ovs-vsctl --may-exist add-port br-provider "$tap" tag=100
trap '$virsh destroy "$domain-bench" >/dev/null 2>&1 || true
  ovs-vsctl --if-exists del-port "$tap"; ip link del "$tap" 2>/dev/null || true
  rbd --id furrow-agent rm --no-progress "$image-bench" >/dev/null 2>&1 || true
  rbd --id furrow-agent snap rm --no-progress "$image@bench" >/dev/null 2>&1 || true; rm -f /tmp/bench-@NAME@.xml' EXIT
$virsh dumpxml --security-info --inactive "$domain" 2>/dev/null > /tmp/bench-@NAME@.xml || $virsh dumpxml "$domain" > /tmp/bench-@NAME@.xml
uuid=$($virsh domuuid "$domain" | tr -d '\n')
sed -i -e "s#<name>$domain</name>#<name>$domain-bench</name>#" -e "s#$uuid#$(cat /proc/sys/kernel/random/uuid)#" -e "s#$image#$image-bench#" \
  -e "s#<target dev='fw[^']*'#<target dev='$tap'#" -e "s#/var/lib/furrow/guests/\([^/]*\)/\([a-z]*\)\.\(sock\|log\)#/tmp/bench-\1-\2.\3#" /tmp/bench-@NAME@.xml
from=$(date +%s%N)
$virsh create /tmp/bench-@NAME@.xml >/dev/null
to=$(date +%s%N)
echo $(((to - from) / 1000000))
