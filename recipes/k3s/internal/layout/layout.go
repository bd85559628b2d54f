// Package layout names every path of k3s's contract, so that no other package
// spells one. It creates directories and nothing else.
package layout

import (
	"fmt"
	"os"
	"path/filepath"
)

const (
	// ConfigFile is read when no --config is given.
	ConfigFile = "/etc/rancher/k3s/config.yaml"
	// Kubeconfig is the administrator's kubeconfig that a server writes.
	Kubeconfig = "/etc/rancher/k3s/k3s.yaml"
	// DefaultDataDir is where k3s keeps everything that must outlive a restart.
	DefaultDataDir = "/var/lib/rancher/k3s"
	// RuntimeDir holds containerd's sockets and state, lost at a reboot.
	RuntimeDir = "/run/k3s"
	// ContainerdSocket is containerd's gRPC socket, also the CRI endpoint.
	ContainerdSocket = RuntimeDir + "/containerd/containerd.sock"
	// CNIConfigDir and CNIBinDir are read by containerd; Debian's
	// containernetworking-plugins installs into the latter.
	CNIConfigDir = "/etc/cni/net.d"
	CNIBinDir    = "/usr/lib/cni"
)

// Layout is the data directory of one node.
type Layout struct{ DataDir string }

// Server joins a path under the control plane's part of the data directory.
func (l Layout) Server(elem ...string) string {
	return filepath.Join(append([]string{l.DataDir, "server"}, elem...)...)
}

// TLS joins a path under the control plane's certificates.
func (l Layout) TLS(elem ...string) string {
	return l.Server(append([]string{"tls"}, elem...)...)
}

// Agent joins a path under the node's part of the data directory.
func (l Layout) Agent(elem ...string) string {
	return filepath.Join(append([]string{l.DataDir, "agent"}, elem...)...)
}

// Bin joins a path under the directory of links to this binary, one a component,
// so that a process carries its component's name.
func (l Layout) Bin(elem ...string) string {
	return filepath.Join(append([]string{l.DataDir, "data", "current", "bin"}, elem...)...)
}

// MakeDirs creates the directories, those with keys readable by root only.
func (l Layout) MakeDirs(server bool) error {
	private := []string{l.Agent(), l.Agent("pki")}
	public := []string{
		l.Bin(), l.Agent("images"), l.Agent("containerd"), l.Agent("pod-manifests"),
		l.Agent("etc", "containerd", "config-v3.toml.d"), RuntimeDir + "/containerd", CNIConfigDir,
	}
	if server {
		private = append(private, l.Server(), l.TLS(), l.TLS("etcd"), l.Server("cred"), l.Server("db", "etcd"))
		public = append(public, l.Server("manifests"), filepath.Dir(Kubeconfig))
	}
	for _, dir := range private {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("could not create the directory %s: %w", dir, err)
		}
	}
	for _, dir := range public {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("could not create the directory %s: %w", dir, err)
		}
	}
	return nil
}
