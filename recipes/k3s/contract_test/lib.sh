# Ground of the contract test: the throw-away root, the two hosts, waiting.
# Sourced by run; not a program.

scratch=/run/contract
server_ip=10.77.0.11 agent_ip=10.77.0.12 second_ip=10.77.0.13 third_ip=10.77.0.14

now_ms() { date +%s%3N; }
say() { echo "$*" >&2; }

# wait_for SECONDS WHAT COMMAND...: polls; says what was waited for when it fails.
wait_for() {
  local end=$(( $(now_ms) + $1 * 1000 )) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ "$(now_ms)" -lt "$end" ] || { say "waited in vain: $what"; return 1; }
    sleep 0.1
  done
}

# Hides what the machine has of these paths, for this namespace only.
throw_away_root() {
  mount -t tmpfs -o mode=755 run /run
  mkdir -p "$scratch/up" "$scratch/work" "$scratch/tmp" /run/netns /run/lock
  mount -t overlay -o "lowerdir=/etc,upperdir=$scratch/up,workdir=$scratch/work" etc /etc
  rm -rf /etc/rancher /etc/cni
  for dir in /var/lib/rancher /var/lib/kubelet /var/lib/cni /var/log/pods; do
    mkdir -p "$dir"
    mount -t tmpfs -o mode=755 throw-away "$dir"
  done
  # nspawn and some build machines have no kernel log; the kubelet insists on one.
  [ -e /dev/kmsg ] || ln -s null /dev/kmsg
}

server_network() {
  ip link set lo up
  ip link add lan type bridge
  ip addr add "$server_ip/24" dev lan
  ip link set lan up
  ip route add default dev lan
  echo 1 > /proc/sys/net/ipv4/ip_forward
}

# A further host is a process that only holds the namespaces; on() enters them.
start_host() { # NAME ADDRESS
  unshare --mount --net --uts --propagation private sleep infinity &
  echo $! > "$scratch/host-$1.pid"
  disown # its end is no news
  wait_for 5 "the host $1" differs "$!"
  ip link add "to-$1" type veth peer name eth0 netns "$!"
  ip link set "to-$1" master lan up
  on "$1" bash -c ". '$here/lib.sh'; scratch=/run/contract-$1; throw_away_root; hostname k3s-contract-$1
    ip link set lo up; ip addr add $2/24 dev eth0; ip link set eth0 up; ip route add default dev eth0
    echo 1 > /proc/sys/net/ipv4/ip_forward"
}
differs() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
on() { # HOST COMMAND...
  local host=$1
  shift
  nsenter -t "$(cat "$scratch/host-$host.pid")" --mount --net --uts "$@"
}

# A datagram socket as systemd has it; k3s inherits its name.
listen_for_ready() {
  python3 - "$scratch/notify" "$scratch/notified" <<-'P' &
	import socket, sys
	s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])
	while True:
	    with open(sys.argv[2], "ab", 0) as f: f.write(s.recv(4096) + b"\n")
	P
  disown
  wait_for 5 "the notify socket" test -S "$scratch/notify"
  export NOTIFY_SOCKET="$scratch/notify"
}

# What a build machine needs and a node does not: cgroup v1, no CAP_SYS_RESOURCE.
write_machine_settings() {
  local root=$1
  mkdir -p "$root/etc/rancher/k3s/config.yaml.d" /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d
  cat > "$root/etc/rancher/k3s/config.yaml.d/50-machine.yaml" <<-Y
	kubelet-arg+:
	- fail-cgroupv1=false
	- cgroups-per-qos=false
	- enforce-node-allocatable=
	- cgroup-driver=cgroupfs
	Y
  printf 'version = 3\n[plugins."io.containerd.cri.v1.runtime"]\nrestrict_oom_score_adj = true\n' \
    > /var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/50-machine.toml
}

# Pod network, which on a node is the agent's affair.
write_cni() {
  mkdir -p /etc/cni/net.d
  cat > /etc/cni/net.d/10-contract.conflist <<-J
	{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,
	"ipam":{"type":"host-local","ranges":[[{"subnet":"$1"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
	J
}

start_server() {
  "$K3S" server "$@" >> "$scratch/server.log" 2>&1 &
  echo $! > "$scratch/server.pid"
}
server_pid() { cat "$scratch/server.pid"; }
k() { "$K3S" kubectl "$@"; }

children_of_server() { pgrep -f '^/var/lib/rancher/k3s/data/current/bin/(etcd|kube|containerd )' || true; }

# Ends all of the namespace, of which run is the first process, and removes what the
# namespace does not hide: the pods' control groups.
end_everything() {
  local state=containerd/io.containerd.runtime.v2.task/k8s.io id
  local containers pid
  containers=$(
    for pid in self $(cat "$scratch"/host-*.pid); do ls "/proc/$pid/root/run/k3s/$state" 2> /dev/null; done |
      grep -E '^[0-9a-f]{64}$' || true)
  kill "$(server_pid)" 2> /dev/null || true
  wait_for 20 "the server's end" gone "$(server_pid)" || true
  [ "$$" = 1 ] || return 0
  kill -9 -1 2> /dev/null || true
  sleep 0.5
  for id in $containers; do rmdir /sys/fs/cgroup/*/k8s.io/"$id" /sys/fs/cgroup/k8s.io/"$id" 2> /dev/null || true; done
  rmdir /sys/fs/cgroup/*/k8s.io /sys/fs/cgroup/k8s.io 2> /dev/null || true
}
gone() { ! kill -0 "$1" 2> /dev/null || [ "$(ps -o stat= -p "$1" | cut -c1)" = Z ]; }
