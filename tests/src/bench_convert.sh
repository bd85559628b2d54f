# Milliseconds that `qemu-img convert` takes from a local copy of the image into a new RBD image of the same pool,
# with the options that make it fastest: out of order, and nothing written where the source has zeros.
set -euo pipefail
trap 'rbd --id furrow-agent rm --no-progress volumes/bench >/dev/null 2>&1 || true' EXIT
from=$(date +%s%N)
rbd --id furrow-agent create --size 3G volumes/bench
qemu-img convert -n -W -f qcow2 -O raw --target-is-zero /var/tmp/bench.qcow2 rbd:volumes/bench:id=furrow-agent
to=$(date +%s%N)
echo $(((to - from) / 1000000))
