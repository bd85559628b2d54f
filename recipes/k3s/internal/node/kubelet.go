package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/layout"
)

// Cluster is what a node has to know of its cluster.
type Cluster struct{ DNS, Domain, CIDR string }

const resolvedFile = "/run/systemd/resolve/resolv.conf"

// kubeletConfig is a KubeletConfiguration, kubelet.config.k8s.io/v1beta1.
func kubeletConfig(c *config.Config, cluster Cluster) map[string]any {
	l := c.Layout
	settings := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true, "cacheTTL": "2m0s"},
			"x509":      map[string]any{"clientCAFile": l.Agent("client-ca.crt")},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"clusterDNS":               []string{cluster.DNS},
		"clusterDomain":            cluster.Domain,
		"containerRuntimeEndpoint": "unix://" + layout.ContainerdSocket,
		"enableProfilingHandler":   false,
		"eventRecordQPS":           50,
		// The disk is shared with the virtual machines' state; k3s's thresholds.
		"evictionHard":           map[string]any{"imagefs.available": "5%", "nodefs.available": "5%"},
		"evictionMinimumReclaim": map[string]any{"imagefs.available": "10%", "nodefs.available": "10%"},
		"failSwapOn":             false,
		"healthzBindAddress":     "127.0.0.1",
		"healthzPort":            healthPort,
		"kubeAPIBurst":           200,
		"kubeAPIQPS":             100,
		"readOnlyPort":           0,
		"resolvConf":             resolvConf("/etc/resolv.conf", resolvedFile),
		"serializeImagePulls":    false,
		"staticPodPath":          l.Agent("pod-manifests"),
		"tlsMinVersion":          "VersionTLS12",
	}
	if c.Role == config.Server {
		settings["tlsCertFile"] = l.Agent("serving-kubelet.crt")
		settings["tlsPrivateKeyFile"] = l.Agent("serving-kubelet.key")
	} else {
		settings["rotateCertificates"] = true
		settings["serverTLSBootstrap"] = true
	}
	return settings
}

// healthPort is where the kubelet answers /healthz on loopback.
const healthPort = 10248

func kubeletFile(c *config.Config) string { return c.Layout.Agent("etc", "kubelet.yaml") }

func writeKubeletConfig(c *config.Config, cluster Cluster) error {
	content, err := json.MarshalIndent(kubeletConfig(c, cluster), "", "  ")
	if err != nil {
		return fmt.Errorf("could not encode the kubelet's configuration: %w", err)
	}
	return files.Replace(kubeletFile(c), 0o600, content)
}

// resolvConf chooses what pods with DNS policy Default inherit. A resolver on a
// loopback address is out of a pod's reach: take systemd-resolved's upstreams, or none.
func resolvConf(system, resolved string) string {
	content, err := os.ReadFile(system)
	if err != nil {
		return ""
	}
	reachable := false
	for _, line := range strings.Split(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "nameserver" && !strings.HasPrefix(fields[1], "127.") && fields[1] != "::1" {
			reachable = true
		}
	}
	if reachable {
		return system
	}
	if _, err := os.Stat(resolved); err == nil {
		return resolved
	}
	return ""
}

func kubeletFlags(c *config.Config) []string {
	flags := []string{
		"--config=" + kubeletFile(c),
		"--kubeconfig=" + c.Layout.Agent("kubelet.kubeconfig"),
		"--cert-dir=" + c.Layout.Agent("pki"),
		"--hostname-override=" + c.NodeName,
		"--node-ip=" + c.NodeIP,
	}
	if c.Role == config.Agent {
		flags = append(flags, "--bootstrap-kubeconfig="+c.Layout.Agent("bootstrap-kubelet.kubeconfig"))
	}
	if len(c.NodeLabels) > 0 {
		flags = append(flags, "--node-labels="+strings.Join(c.NodeLabels, ","))
	}
	if len(c.NodeTaints) > 0 {
		flags = append(flags, "--register-with-taints="+strings.Join(c.NodeTaints, ","))
	}
	return flags
}

func proxyFlags(c *config.Config, cluster Cluster, mode string) []string {
	file := "kubeproxy.kubeconfig"
	if c.Role == config.Agent {
		// Nodes are granted kube-proxy's role, see the server's rules.yaml.
		file = "kubelet.kubeconfig"
	}
	return []string{
		"--kubeconfig=" + c.Layout.Agent(file),
		"--cluster-cidr=" + cluster.CIDR,
		"--hostname-override=" + c.NodeName,
		"--proxy-mode=" + mode,
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
		"--profiling=false",
		// The node's sysctl settings are the image's, not kube-proxy's.
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0s",
		"--conntrack-tcp-timeout-close-wait=0s",
	}
}

const probeTimeout = 5 * time.Second

// proxyMode is nftables where this kernel and its tool have it.
func proxyMode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if exec.CommandContext(ctx, "nft", "list", "tables").Run() == nil {
		return "nftables"
	}
	return "iptables"
}
