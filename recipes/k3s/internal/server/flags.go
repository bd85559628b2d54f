package server

import (
	"fmt"
	"strings"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/members"
)

// Ports of the control plane on this host.
const (
	APIPort  = 6443
	etcdPort = 2379
	peerPort = 2380
)

// apiURL is how everything on this host reaches the API server.
var apiURL = fmt.Sprintf("https://127.0.0.1:%d", APIPort)

// electionFlags keep a controller that a busy host slows down from losing its election:
// with Kubernetes' 15 s it ends, its start makes the host busier, and it loses the next.
// After the death of a server another's controllers take over within the lease, about
// when the node itself is found dead. All servers must agree on these.
var electionFlags = []string{
	"--leader-elect-lease-duration=45s",
	"--leader-elect-renew-deadline=35s",
	"--leader-elect-retry-period=5s",
}

// etcdURL is how this host's etcd is reached on this host, peerURL by other servers'.
var etcdURL = fmt.Sprintf("https://127.0.0.1:%d", etcdPort)

func peerURL(c *config.Config) string {
	return fmt.Sprintf("https://%s:%d", host(c.NodeIP), peerPort)
}

func etcdFlags(c *config.Config, start members.Start) []string {
	tls := func(file string) string { return c.Layout.TLS("etcd", file) }
	peer, client := peerURL(c), fmt.Sprintf("https://%s:%d", host(c.NodeIP), etcdPort)
	state := "new"
	if start.Existing {
		state = "existing"
	}
	return []string{
		"--name=" + c.NodeName,
		"--data-dir=" + c.Layout.Server("db", "etcd"),
		"--listen-client-urls=" + etcdURL + "," + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + start.InitialCluster,
		"--initial-cluster-state=" + state,
		"--listen-metrics-urls=http://127.0.0.1:2381",
		"--client-cert-auth=true",
		"--trusted-ca-file=" + tls("server-ca.crt"),
		"--cert-file=" + tls("server-client.crt"),
		"--key-file=" + tls("server-client.key"),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + tls("peer-ca.crt"),
		"--peer-cert-file=" + tls("peer-server-client.crt"),
		"--peer-key-file=" + tls("peer-server-client.key"),
		"--log-level=warn",
	}
}

func apiServerFlags(c *config.Config) []string {
	tls := func(file string) string { return c.Layout.TLS(file) }
	etcd := func(file string) string { return c.Layout.TLS("etcd", file) }
	flags := []string{
		"--advertise-address=" + c.NodeIP,
		"--allow-privileged=true",
		"--api-audiences=https://kubernetes.default.svc." + c.ClusterDomain + ",k3s",
		"--authorization-mode=Node,RBAC",
		"--bind-address=" + anyAddress(c.NodeIP),
		"--client-ca-file=" + tls("client-ca.crt"),
		"--enable-admission-plugins=NodeRestriction",
		// Services without a selector are aggregated APIs here: their endpoints are
		// addresses of nodes, which only this routing reaches.
		"--enable-aggregator-routing=true",
		"--enable-bootstrap-token-auth=true",
		// The member on this host: it knows the others, and a server without its own
		// etcd is one that is being removed.
		"--etcd-servers=" + etcdURL,
		"--etcd-cafile=" + etcd("server-ca.crt"),
		"--etcd-certfile=" + etcd("client.crt"),
		"--etcd-keyfile=" + etcd("client.key"),
		"--kubelet-certificate-authority=" + tls("server-ca.crt"),
		"--kubelet-client-certificate=" + tls("client-kube-apiserver.crt"),
		"--kubelet-client-key=" + tls("client-kube-apiserver.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--profiling=false",
		"--proxy-client-cert-file=" + tls("client-auth-proxy.crt"),
		"--proxy-client-key-file=" + tls("client-auth-proxy.key"),
		"--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-client-ca-file=" + tls("request-header-ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		fmt.Sprintf("--secure-port=%d", APIPort),
		"--service-account-issuer=https://kubernetes.default.svc." + c.ClusterDomain,
		"--service-account-key-file=" + tls("service.key"),
		"--service-account-signing-key-file=" + tls("service.key"),
		"--service-cluster-ip-range=" + c.ServiceCIDR,
		"--tls-cert-file=" + tls("serving-kube-apiserver.crt"),
		"--tls-private-key-file=" + tls("serving-kube-apiserver.key"),
	}
	if !ownAuthentication(c.APIServerArgs) {
		flags = append(flags, "--authentication-config="+authenticationFile(c))
	}
	return flags
}

// ownAuthentication says whether the operator configures authentication by flags
// that the API server refuses beside a configuration file.
func ownAuthentication(operator []string) bool {
	for _, flag := range operator {
		name := strings.TrimLeft(flag, "-")
		if strings.HasPrefix(name, "oidc-") || strings.HasPrefix(name, "anonymous-auth") ||
			strings.HasPrefix(name, "authentication-config") {
			return true
		}
	}
	return false
}

func controllerFlags(c *config.Config) []string {
	tls := func(file string) string { return c.Layout.TLS(file) }
	kubeconfig := c.Layout.Server("cred", "controller.kubeconfig")
	return append([]string{
		"--allocate-node-cidrs=true",
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--cluster-cidr=" + c.ClusterCIDR,
		"--cluster-signing-kube-apiserver-client-cert-file=" + tls("client-ca.crt"),
		"--cluster-signing-kube-apiserver-client-key-file=" + tls("client-ca.key"),
		"--cluster-signing-kubelet-client-cert-file=" + tls("client-ca.crt"),
		"--cluster-signing-kubelet-client-key-file=" + tls("client-ca.key"),
		"--cluster-signing-kubelet-serving-cert-file=" + tls("server-ca.crt"),
		"--cluster-signing-kubelet-serving-key-file=" + tls("server-ca.key"),
		"--cluster-signing-legacy-unknown-cert-file=" + tls("server-ca.crt"),
		"--cluster-signing-legacy-unknown-key-file=" + tls("server-ca.key"),
		"--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
		"--kube-api-burst=200",
		"--kube-api-qps=100",
		"--kubeconfig=" + kubeconfig,
		"--profiling=false",
		"--root-ca-file=" + tls("server-ca.crt"),
		"--service-account-private-key-file=" + tls("service.key"),
		"--service-cluster-ip-range=" + c.ServiceCIDR,
		"--use-service-account-credentials=true",
	}, electionFlags...)
}

func schedulerFlags(c *config.Config) []string {
	kubeconfig := c.Layout.Server("cred", "scheduler.kubeconfig")
	return append([]string{
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--kube-api-burst=200",
		"--kube-api-qps=100",
		"--kubeconfig=" + kubeconfig,
		"--profiling=false",
	}, electionFlags...)
}

// host brackets an IPv6 address for use in a URL.
func host(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

func anyAddress(ip string) string {
	if strings.Contains(ip, ":") {
		return "::"
	}
	return "0.0.0.0"
}
