package pki

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"furrow/k3s/internal/config"
)

// KubeletClient is the user that the API server is to a kubelet; kubeadm's RBAC
// rule grants it the kubelet API.
const KubeletClient = "kube-apiserver-kubelet-client"

var (
	client = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	both   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// EnsureServer makes whatever is missing or stale of a server's certificates.
func EnsureServer(c *config.Config) error {
	tls := c.Layout.TLS
	groups := []struct {
		path, name string
		leaves     []Leaf
	}{
		{tls("server-ca"), "k3s-server-ca", servingLeaves(c)},
		{tls("client-ca"), "k3s-client-ca", clientLeaves(c)},
		{tls("request-header-ca"), "k3s-request-header-ca", []Leaf{
			{Path: tls("client-auth-proxy"), Name: "system:auth-proxy", Usages: client},
		}},
		{tls("etcd", "server-ca"), "etcd-server-ca", []Leaf{
			{Path: tls("etcd", "server-client"), Name: "etcd-server", Usages: both, DNSNames: []string{"localhost", c.NodeName}, IPs: localAnd(c.NodeIP)},
			{Path: tls("etcd", "client"), Name: "etcd-client", Usages: client},
		}},
		{tls("etcd", "peer-ca"), "etcd-peer-ca", []Leaf{
			{Path: tls("etcd", "peer-server-client"), Name: "etcd-peer", Usages: both, DNSNames: []string{"localhost", c.NodeName}, IPs: localAnd(c.NodeIP)},
		}},
	}
	for _, group := range groups {
		authority, err := EnsureAuthority(group.path, group.name)
		if err != nil {
			return err
		}
		for _, leaf := range group.leaves {
			if err := authority.EnsureLeaf(leaf); err != nil {
				return err
			}
		}
	}
	return EnsureKey(tls("service"))
}

func servingLeaves(c *config.Config) []Leaf {
	apiserver := Leaf{
		Path: c.Layout.TLS("serving-kube-apiserver"), Name: "kube-apiserver", Usages: server,
		DNSNames: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + c.ClusterDomain, "localhost", c.NodeName,
		},
		IPs: append(localAnd(c.NodeIP), firstAddress(c.ServiceCIDR)),
	}
	for _, san := range c.TLSSANs {
		if ip := net.ParseIP(san); ip != nil {
			apiserver.IPs = append(apiserver.IPs, ip)
		} else {
			apiserver.DNSNames = append(apiserver.DNSNames, strings.ToLower(san))
		}
	}
	kubelet := Leaf{
		Path: c.Layout.Agent("serving-kubelet"), Name: "system:node:" + c.NodeName, Groups: []string{"system:nodes"},
		Usages: server, DNSNames: []string{c.NodeName, "localhost"}, IPs: localAnd(c.NodeIP),
	}
	return []Leaf{apiserver, kubelet}
}

func clientLeaves(c *config.Config) []Leaf {
	user := func(file, name string, groups ...string) Leaf {
		return Leaf{Path: c.Layout.TLS(file), Name: name, Groups: groups, Usages: client}
	}
	kubelet := user("", "system:node:"+c.NodeName, "system:nodes")
	kubelet.Path = c.Layout.Agent("client-kubelet")
	proxy := user("", "system:kube-proxy")
	proxy.Path = c.Layout.Agent("client-kube-proxy")
	return []Leaf{
		user("client-admin", "system:admin", "system:masters"),
		user("client-controller", "system:kube-controller-manager"),
		user("client-scheduler", "system:kube-scheduler"),
		user("client-kube-apiserver", KubeletClient),
		kubelet, proxy,
	}
}

func localAnd(ip string) []net.IP {
	return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.ParseIP(ip)}
}

// firstAddress is the address of the kubernetes Service. The network was checked
// when the configuration was read.
func firstAddress(cidr string) net.IP {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		panic(fmt.Sprintf("service-cidr %q was validated as a network", cidr))
	}
	return net.IP(prefix.Masked().Addr().Next().AsSlice())
}
