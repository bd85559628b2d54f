# Starts ovsdb-server and ovs-vswitchd of the node image's base root, in the caller's network and mount namespaces.
# $1: the base root; $2: state directory, which the daemons see as /mnt.
set -euo pipefail
base=$1 state=$2
for d in /proc /sys /dev; do mount --rbind "$d" "$base$d"; done
mount --bind "$state" "$base/mnt"
mount -t tmpfs tmpfs "$base/run"
mkdir -p "$base/run/openvswitch"
chroot "$base" ovsdb-tool create /mnt/conf.db /usr/share/openvswitch/vswitch.ovsschema
chroot "$base" ovsdb-server /mnt/conf.db --remote=punix:/mnt/db.sock --detach --no-chdir \
  --pidfile=/mnt/switch-db.pid --log-file=/mnt/ovsdb-server.log --unixctl=/mnt/ovsdb.ctl >/dev/null 2>&1
chroot "$base" ovs-vsctl --db=unix:/mnt/db.sock --no-wait init
chroot "$base" ovs-vswitchd unix:/mnt/db.sock --disable-system --detach --no-chdir \
  --pidfile=/mnt/switch.pid --log-file=/mnt/ovs-vswitchd.log --unixctl=/mnt/vswitchd.ctl >/dev/null 2>&1
