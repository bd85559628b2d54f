# The cases of the contract test, in the order in which run calls them. Each runs in
# a subshell: what must last is a file or a process. Sourced by run.

write_config() {
  mkdir -p /etc/rancher/k3s
  cat > /etc/rancher/k3s/config.yaml <<-Y
	cluster-init: true
	node-name: server1
	node-ip: $server_ip
	tls-san: [api.example.test]
	flannel-backend: none
	disable-network-policy: true
	disable: [unwanted]
	write-kubeconfig-mode: "0640"
	node-label: ["example.test/rack=r1"]
	Y
}

refused() {
  local pattern=$1 output
  shift
  if output=$(timeout 20 "$@" 2>&1); then say "was not refused: $output"; return 1; fi
  grep -q -- "$pattern" <<< "$output" || { say "the error does not say '$pattern': $output"; return 1; }
}

refuses_an_unknown_key_by_name() {
  mkdir -p "$scratch/bad"
  echo 'no-such-key: 1' > "$scratch/bad/config.yaml"
  refused no-such-key "$K3S" server --config "$scratch/bad/config.yaml"
}

refuses_a_pod_network_of_its_own() {
  echo 'disable-network-policy: true' > "$scratch/bad/config.yaml"
  refused flannel-backend "$K3S" server --config "$scratch/bad/config.yaml"
}

server_gets_ready() {
  write_config
  write_machine_settings ""
  write_cni 10.42.0.0/24
  mkdir -p /var/lib/rancher/k3s/agent/images /var/lib/rancher/k3s/server/manifests
  cp "$PAUSE" /var/lib/rancher/k3s/agent/images/
  manifest one > /var/lib/rancher/k3s/server/manifests/contract.yaml
  start_server
  wait_for 60 "READY=1 on NOTIFY_SOCKET" grep -q READY=1 "$scratch/notified"
  [ "$(k get --raw /readyz)" = ok ]
}

has_the_contract_files() {
  local data=/var/lib/rancher/k3s mode
  mode=$(stat -c %a /etc/rancher/k3s/k3s.yaml)
  [ "$mode" = 640 ] || { say "k3s.yaml has mode $mode"; return 1; }
  grep -q 'server: https://127.0.0.1:6443' /etc/rancher/k3s/k3s.yaml
  grep -Eq '^K10[0-9a-f]{64}::' "$data/server/node-token" || { say "node-token is not K10<hash>::"; return 1; }
  [ "$(stat -Lc %a "$data/server/node-token")" = 600 ]
  for file in server/tls/server-ca.crt server/tls/client-ca.crt server/tls/request-header-ca.crt \
    server/tls/client-admin.key server/tls/serving-kube-apiserver.crt server/db/etcd/member \
    agent/client-kubelet.crt agent/client-kubelet.key agent/kubelet.kubeconfig agent/client-ca.crt \
    agent/etc/containerd/config.toml; do
    [ -e "$data/$file" ] || { say "$file is missing"; return 1; }
  done
  [ "$(stat -c %a "$data/server/tls/server-ca.key")" = 600 ]
  local hash; hash=$(sha256sum < "$data/server/tls/server-ca.crt" | cut -d' ' -f1)
  grep -q "^K10$hash::" "$data/server/node-token" || { say "node-token does not pin the server CA"; return 1; }
  openssl x509 -in "$data/server/tls/serving-kube-apiserver.crt" -noout -ext subjectAltName | grep -q api.example.test
}

node_gets_ready() {
  wait_for 60 "node server1 Ready" node_is_ready server1
  [ "$(k get node server1 -o jsonpath='{.metadata.labels.example\.test/rack}')" = r1 ]
  wait_for 10 "the control-plane label" is_control_plane server1
  [ "$(k get node server1 -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')" = "$server_ip" ]
}
is_control_plane() {
  [ "$(k get node "$1" -o jsonpath='{.metadata.labels.node-role\.kubernetes\.io/control-plane}')" = true ]
}
node_is_ready() {
  [ "$(k get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

imports_and_pins_images() {
  "$K3S" ctr images ls | grep localhost/furrow/pause:1 | grep -q io.cri-containerd.pinned=pinned
}

manifest() {
  printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: contract}\n---\n'
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: contract, namespace: contract}\ndata: {value: %s}\n' "$1"
}
value_is() { [ "$(k get configmap -n contract contract -o 'jsonpath={.data.value}')" = "$1" ]; }

applies_manifests_and_applies_them_again_when_changed() {
  wait_for 30 "the ConfigMap of the manifest" value_is one
  manifest two > /var/lib/rancher/k3s/server/manifests/contract.yaml
  wait_for 30 "the changed value" value_is two
}

removes_a_disabled_manifest() {
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unwanted, namespace: contract}\n' |
    tee "$scratch/unwanted.yaml" | k apply -f -
  cp "$scratch/unwanted.yaml" /var/lib/rancher/k3s/server/manifests/unwanted.yaml
  wait_for 30 "the end of the disabled object" absent configmap -n contract unwanted
}
absent() { [ -z "$(k get "$@" --ignore-not-found -o name)" ]; }

pod() { # NAME NODE
  cat <<-Y
	apiVersion: v1
	kind: Pod
	metadata: {name: $1, namespace: default}
	spec:
	  nodeName: $2
	  terminationGracePeriodSeconds: 1
	  containers: [{name: c, image: "localhost/furrow/pause:1", imagePullPolicy: Never}]
	Y
}
pod_runs() { [ "$(k get pod "$1" -o 'jsonpath={.status.phase}')" = Running ]; }
container_of() { k get pod "$1" -o 'jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}'; }

runs_a_pod() {
  local started
  wait_for 30 "the default service account" k get serviceaccount default
  started=$(now_ms)
  pod one "" | sed '/nodeName/d' | k apply -f -
  wait_for 60 "pod one" pod_runs one
  say "created to Running in $(( $(now_ms) - started )) ms"
}

answers_logs_and_exec_over_the_kubelet() {
  k logs one
  # The image has no shell: that the runtime says so proves the way to it.
  local output
  output=$(k exec one -- /nothing 2>&1 || true)
  grep -q 'exec: "/nothing"' <<< "$output" || { say "exec answered: $output"; return 1; }
}

reaches_the_api_by_its_service_address() {
  local version
  version=$(curl -sk --max-time 10 https://10.43.0.1/version) || { say "no answer on 10.43.0.1:443"; return 1; }
  grep -q gitVersion <<< "$version"
}

refuses_strangers() {
  local code
  code=$(curl -sk -o /dev/null -w '%{http_code}' "https://$server_ip:6443/api/v1/namespaces")
  [ "$code" = 401 ] || [ "$code" = 403 ] || { say "an anonymous list got $code"; return 1; }
  code=$(curl -sk -o /dev/null -w '%{http_code}' "https://$server_ip:10250/pods")
  [ "$code" = 401 ] || { say "the kubelet let a stranger in: $code"; return 1; }
  # A node may not touch another node.
  if KUBECONFIG=/var/lib/rancher/k3s/agent/kubelet.kubeconfig k label node other x=y > "$scratch/label" 2>&1; then return 1; fi
}

agent_files() {
  mkdir -p /etc/rancher/k3s /var/lib/rancher/k3s/agent/images
  printf 'server: https://%s:6443\nnode-name: agent1\nnode-ip: %s\ntoken: %s\n' "$server_ip" "$agent_ip" "$1" > /etc/rancher/k3s/config.yaml
  write_machine_settings ""
  write_cni 10.42.1.0/24
}

start_agent() { # TOKEN
  on agent env K3S="$K3S" bash -c "here='$here'; . '$here/lib.sh'; . '$here/cases.sh'; agent_files '$1'"
  # Through a file descriptor: the agent's mounts hide the server's files.
  on agent sh -c 'cat > /var/lib/rancher/k3s/agent/images/pause.tar.zst' < "$PAUSE"
  on agent env -u NOTIFY_SOCKET "$K3S" agent >> "$scratch/agent.log" 2>&1 &
  echo $! > "$scratch/agent.pid"
}

agent_refuses_the_token_of_another_cluster() {
  local token false_hash
  token=$(cat /var/lib/rancher/k3s/server/node-token)
  false_hash=$(sha256sum <<< wrong | cut -d' ' -f1)
  on agent mkdir -p /run/other
  on agent sh -c "printf 'server: https://$server_ip:6443\nnode-name: agent2\nnode-ip: $agent_ip\ndata-dir: /run/other\ntoken: K10$false_hash::${token#*::}\n' > /run/other.yaml"
  tries_in_vain agent 'CA is not the one' agent
  absent node agent2 || { say "a node with a wrong pin joined"; return 1; }
}

# Runs a role with /run/other.yaml on a host until it says why it cannot join.
tries_in_vain() { # HOST PATTERN ROLE
  local pid
  nsenter -t "$(cat "$scratch/host-$1.pid")" --mount --net --uts env -u NOTIFY_SOCKET "$K3S" "$3" --config /run/other.yaml > "$scratch/refused.log" 2>&1 &
  pid=$!
  wait_for 20 "a refusal" grep -Eq "$2" "$scratch/refused.log" || { cat "$scratch/refused.log" >&2; return 1; }
  kill -9 "$pid" 2> /dev/null || true
  wait "$pid" 2> /dev/null || true
}

agent_joins_by_the_node_token() {
  start_agent "$(cat /var/lib/rancher/k3s/server/node-token)"
  wait_for 60 "node agent1 Ready" node_is_ready agent1
  pod two agent1 | k apply -f -
  wait_for 60 "pod two on the agent" pod_runs two
  wait_for 30 "logs through the agent's serving certificate" k logs two
  wait_for 10 "client-kubelet.crt" on agent test -e /var/lib/rancher/k3s/agent/client-kubelet.crt
}

server_files() { # NAME ADDRESS TOKEN PODS
  mkdir -p /etc/rancher/k3s /var/lib/rancher/k3s/agent/images
  printf '%s\n' "server: https://$server_ip:6443" "token: $3" "node-name: $1" "node-ip: $2" \
    'flannel-backend: none' 'disable-network-policy: true' > /etc/rancher/k3s/config.yaml
  write_machine_settings ""
  write_cni "$4"
}

start_server_on() { # HOST
  # Not by on(): the number has to be that of k3s itself.
  nsenter -t "$(cat "$scratch/host-$1.pid")" --mount --net --uts env -u NOTIFY_SOCKET "$K3S" server >> "$scratch/$1.log" 2>&1 &
  echo $! > "$scratch/$1.pid"
}

join_server() { # HOST NAME ADDRESS PODS
  on "$1" env K3S="$K3S" bash -c "here='$here'; . '$here/lib.sh'; . '$here/cases.sh'
    server_files $2 $3 '$(cat /var/lib/rancher/k3s/server/node-token)' $4"
  start_server_on "$1"
}

# The members of etcd, one a line: NAME, started or not, voter or learner.
members() {
  local tls=/var/lib/rancher/k3s/server/tls/etcd
  curl -sf --max-time 5 --cacert $tls/server-ca.crt --cert $tls/client.crt --key $tls/client.key \
    -d '{}' https://127.0.0.1:2379/v3/cluster/member/list | python3 -c '
import json, re, sys
for m in json.load(sys.stdin)["members"]:
    print(re.sub("-[0-9a-f]{8}$", "", m.get("name", "-")), "started" if m.get("clientURLs") else "not-started", "learner" if m.get("isLearner") else "voter")' | sort
}
voters_are() { [ "$(members)" = "$(printf '%s started voter\n' "$@")" ]; }

agent_token_cannot_join_a_server() {
  local token
  token=$(cat /var/lib/rancher/k3s/server/agent-token)
  grep -Eq '^K10[0-9a-f]{64}::node:' <<< "$token" || { say "agent-token is not K10<hash>::node:<secret>"; return 1; }
  [ "${token#*:node:}" != "$(sed s/.*:server:// /var/lib/rancher/k3s/server/node-token)" ] || { say "both tokens have one secret"; return 1; }
  # As it is, and pretending to be the other kind: the server has to refuse, not the client.
  for text in "$token" "${token/::node:/::server:}"; do
    on second sh -c "mkdir -p /run/other; printf '%s\n' 'server: https://$server_ip:6443' 'node-name: server9' 'node-ip: $second_ip' \
      'flannel-backend: none' 'disable-network-policy: true' 'data-dir: /run/other' 'token: $text' > /run/other.yaml"
    tries_in_vain second 'forbidden|for agents' server
    if on second test -e /run/other/server/tls/server-ca.key; then say "the agents' token brought the authority's key"; return 1; fi
  done
  voters_are server1
}

two_servers_join_as_members_at_once() {
  join_server second server2 "$second_ip" 10.42.2.0/24
  join_server third server3 "$third_ip" 10.42.3.0/24
  wait_for 120 "three members that vote" voters_are server1 server2 server3
  wait_for 60 "node server2 Ready" node_is_ready server2
  wait_for 60 "node server3 Ready" node_is_ready server3
  wait_for 10 "the control-plane label" is_control_plane server2
  k --server "https://$second_ip:6443" create configmap of-second -n contract --from-literal=value=two
  [ "$(k --server "https://$third_ip:6443" get configmap of-second -n contract -o 'jsonpath={.data.value}')" = two ]
  for file in tls/server-ca.crt tls/client-ca.key tls/service.key tls/etcd/peer-ca.key agent-token; do
    for host in second third; do
      on "$host" cat "/var/lib/rancher/k3s/server/$file" | cmp -s - "/var/lib/rancher/k3s/server/$file" || { say "$file differs on $host"; return 1; }
    done
  done
}

serves_on_when_a_server_dies() {
  kill -9 "$(server_pid)"
  wait_for 10 "the end of the children" no_children
  wait_for 30 "a write without the first server" written_without_first
  start_server
  wait_for 60 "the first server" k get configmap without-first -n contract
  wait_for 30 "all members" voters_are server1 server2 server3
}

written_without_first() {
  k --server "https://$second_ip:6443" create configmap without-first -n contract ||
    k --server "https://$second_ip:6443" get configmap without-first -n contract
}

deleting_a_servers_node_removes_its_member() {
  timeout 60 "$K3S" kubectl delete node server3
  wait_for 10 "two members" voters_are server1 server2
  k get --raw /readyz
}

# k3s leaves a removed server alone until somebody starts it again.
a_removed_server_joins_again_when_it_is_restarted() {
  wait_for 60 "the removed server to notice" grep -Eq 'removed|no member' "$scratch/third.log"
  absent node server3 || { say "the removed server came back by itself"; return 1; }
  kill -9 "$(cat "$scratch/third.pid")"
  wait_for 10 "the end of the removed server" gone "$(cat "$scratch/third.pid")"
  start_server_on third
  wait_for 90 "three members again" voters_are server1 server2 server3
  wait_for 60 "node server3 Ready" node_is_ready server3
  for name in server3 server2; do timeout 60 "$K3S" kubectl delete node "$name"; done
  wait_for 20 "one member" voters_are server1
  for host in second third; do
    kill -9 "$(cat "$scratch/$host.pid")"
    wait_for 10 "the end of the server on $host" gone "$(cat "$scratch/$host.pid")"
  done
}

holder() { k get lease -n kube-system "$1" -o 'jsonpath={.spec.holderIdentity}'; }
is_held_anew() { local now; now=$(holder "$1"); [ -n "$now" ] && [ "$now" != "${2:-}" ]; }

converges_after_kill_and_keeps_the_pods() {
  local before after lease
  before=$(container_of one)
  wait_for 30 "the controllers' lease" is_held_anew kube-controller-manager
  lease=$(holder kube-controller-manager)
  kill -9 "$(server_pid)"
  wait_for 10 "the end of the children" no_children
  start_server
  wait_for 60 "the API server" k get --raw /readyz
  # A lease lasts 15 s; that of this host's former controllers must not be waited for.
  wait_for 8 "the controllers to begin" is_held_anew kube-controller-manager "$lease"
  wait_for 60 "node server1 Ready" node_is_ready server1
  sleep 3
  after=$(container_of one)
  [ "$before" = "$after" ] || { say "the pod's container changed: $before, then $after"; return 1; }
  for name in etcd kube-apiserver kubelet containerd; do
    count=$(pgrep -c -f "^/var/lib/rancher/k3s/data/current/bin/$name ") || true
    [ "$count" -ge 1 ] || { say "$name does not run"; return 1; }
  done
  value_is two
}
no_children() { [ -z "$(server_children)" ]; }
server_children() {
  # The agent's have the same names but live in another network namespace.
  local pid
  for pid in $(children_of_server); do
    [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || echo "$pid"
  done
}

stops_in_order_and_leaves_the_pods() {
  local shims
  shims=$(pgrep -c -f containerd-shim-runc-v2)
  kill -TERM "$(server_pid)"
  wait_for 30 "the server's end" gone "$(server_pid)"
  no_children || { say "children outlive the server: $(server_children)"; return 1; }
  [ "$(pgrep -c -f containerd-shim-runc-v2)" = "$shims" ] || { say "pods were stopped"; return 1; }
}

renews_nothing_without_need() {
  local before after
  before=$(cd /var/lib/rancher/k3s/server/tls && find . -name '*.crt' -o -name '*.key' | sort | xargs sha256sum)
  start_server
  wait_for 60 "the API server" k get --raw /readyz
  after=$(cd /var/lib/rancher/k3s/server/tls && find . -name '*.crt' -o -name '*.key' | sort | xargs sha256sum)
  [ "$before" = "$after" ]
}
