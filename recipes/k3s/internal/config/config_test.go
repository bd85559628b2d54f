package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var host = Host{Name: "Node-A", Address: func() (string, error) { return "10.0.0.5", nil }}

const base = "flannel-backend: none\ndisable-network-policy: true\n"

// load writes config.yaml and numbered drop-ins and loads them for a role.
func load(t *testing.T, role Role, args []string, main string, dropIns ...string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, main)
	for i, dropIn := range dropIns {
		write(t, filepath.Join(file+".d", string(rune('0'+i))+".yaml"), dropIn)
	}
	return Load(role, append(args, "--config", file), host)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustLoad(t *testing.T, args []string, main string, dropIns ...string) *Config {
	t.Helper()
	c, err := load(t, Server, args, main, dropIns...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaultsAreThoseOfK3s(t *testing.T) {
	c := mustLoad(t, nil, base)
	if c.NodeName != "node-a" || c.NodeIP != "10.0.0.5" || c.ClusterCIDR != "10.42.0.0/16" ||
		c.ServiceCIDR != "10.43.0.0/16" || c.ClusterDNS != "10.43.0.10" || c.KubeconfigMode != 0o600 {
		t.Errorf("got %+v", c)
	}
}

func TestDropInsReplaceAndAppend(t *testing.T) {
	c := mustLoad(t, nil, base+"kubelet-arg: [a=1]\nnode-label: [x=1]\n",
		"kubelet-arg+: [b=2]\nnode-label: y=2\n", "kubelet-arg+: ['c=3,4']\n")
	if !slices.Equal(c.KubeletArgs, []string{"a=1", "b=2", "c=3,4"}) {
		t.Errorf("kubelet-arg: %q", c.KubeletArgs)
	}
	if !slices.Equal(c.NodeLabels, []string{"y=2"}) {
		t.Errorf("node-label: %q", c.NodeLabels)
	}
}

func TestTheCommandLineReplacesTheFiles(t *testing.T) {
	c := mustLoad(t, []string{"--disable", "x,y", "--disable=z", "--node-ip", "10.1.1.1"}, base+"disable: [a]\nnode-ip: 10.2.2.2\n")
	if !slices.Equal(c.Disable, []string{"x", "y", "z"}) || c.NodeIP != "10.1.1.1" {
		t.Errorf("got %q %s", c.Disable, c.NodeIP)
	}
}

func TestAnUnquotedModeIsOctal(t *testing.T) {
	if c := mustLoad(t, nil, base+"write-kubeconfig-mode: 0644\n"); c.KubeconfigMode != 0o644 {
		t.Errorf("got %o", c.KubeconfigMode)
	}
}

func TestDNSIsTheTenthServiceAddress(t *testing.T) {
	if c := mustLoad(t, nil, base+"service-cidr: 10.96.0.0/12\n"); c.ClusterDNS != "10.96.0.10" {
		t.Errorf("got %s", c.ClusterDNS)
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		role       Role
		main, says string
	}{
		"an unknown key, by name and line": {Server, base + "kubelet-args: []\n", `line 3: unknown key "kubelet-args"`},
		"a pod network of its own":         {Server, "disable-network-policy: true\n", "flannel-backend is vxlan"},
		"a network policy controller":      {Server, "flannel-backend: none\n", "disable-network-policy"},
		"joining without a token":          {Server, base + "server: https://a:6443\n", "a server that joins needs token"},
		"appending to no list":             {Server, base + "token+: x\n", "appends to an option that is no list"},
		"a list for one value":             {Server, base + "token: [a, b]\n", "takes one value"},
		"a boolean that is none":           {Server, base + "cluster-init: perhaps\n", "not true or false"},
		"DNS outside the services":         {Server, base + "cluster-dns: 10.1.1.1\n", "not an address of service-cidr"},
		"an agent without a server":        {Agent, "token: abc\n", "an agent needs server and token"},
		"no YAML mapping":                  {Server, "- a\n", "is not a YAML mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, test.role, nil, test.main)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, expected %q", err, test.says)
			}
		})
	}
}

func TestAnAgentIgnoresKeysOfTheServer(t *testing.T) {
	if _, err := load(t, Agent, nil, "server: https://a:6443\ntoken: t\ncluster-cidr: 10.42.0.0/16\n"); err != nil {
		t.Error(err)
	}
}

func TestTheTokenComesFromItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "secret\n")
	if c := mustLoad(t, nil, base+"token-file: "+file+"\n"); c.Token != "secret" {
		t.Errorf("got %q", c.Token)
	}
	if _, err := load(t, Server, nil, base+"token: x\ntoken-file: "+file+"\n"); err == nil {
		t.Error("token and token-file together were accepted")
	}
}
