// Package config reads k3s's configuration: the command line over
// config.yaml.d/*.yaml over config.yaml. It refuses unknown keys and settings
// that this build cannot honour; it touches nothing but those files.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"furrow/k3s/internal/layout"
)

// DefaultPauseImage is the image that recipes/pause makes. Nothing is pulled from
// a network on a Furrow node, so the default has to be a local name.
const DefaultPauseImage = "localhost/furrow/pause:1"

// Role is the subcommand: server or agent.
type Role string

// The two roles.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Config is a validated configuration.
type Config struct {
	Role           Role
	Layout         layout.Layout
	Token          string
	AgentToken     string
	ServerURL      string
	NodeName       string
	NodeIP         string
	NodeLabels     []string
	NodeTaints     []string
	TLSSANs        []string
	ClusterCIDR    string
	ServiceCIDR    string
	ClusterDNS     string
	ClusterDomain  string
	Disable        []string
	KubeconfigMode os.FileMode
	PauseImage     string

	EtcdArgs, APIServerArgs, ControllerArgs, SchedulerArgs, KubeletArgs, ProxyArgs []string
}

// Host is what the configuration takes from the machine where no key says it.
type Host struct {
	Name string
	// Address is asked for only when node-ip is not set.
	Address func() (string, error)
}

// Load reads the files and the command line of a role.
func Load(role Role, args []string, host Host) (*Config, error) {
	fromArgs, file, err := parseArgs(role, args)
	if err != nil {
		return nil, err
	}
	values, err := readFiles(file)
	if err != nil {
		return nil, err
	}
	// A list on the command line replaces the files' list, as k3s documents.
	for name, value := range fromArgs {
		values[name] = value
	}
	return build(role, values, host)
}

func build(role Role, v values, host Host) (*Config, error) {
	c := &Config{
		Role:           role,
		Layout:         layout.Layout{DataDir: v.text("data-dir", layout.DefaultDataDir)},
		ServerURL:      strings.TrimSuffix(v.text("server", ""), "/"),
		NodeName:       strings.ToLower(v.text("node-name", host.Name)),
		NodeLabels:     v["node-label"],
		NodeTaints:     v["node-taint"],
		TLSSANs:        v["tls-san"],
		ClusterCIDR:    v.text("cluster-cidr", "10.42.0.0/16"),
		ServiceCIDR:    v.text("service-cidr", "10.43.0.0/16"),
		ClusterDomain:  v.text("cluster-domain", "cluster.local"),
		Disable:        v["disable"],
		PauseImage:     v.text("pause-image", DefaultPauseImage),
		EtcdArgs:       v["etcd-arg"],
		APIServerArgs:  v["kube-apiserver-arg"],
		ControllerArgs: v["kube-controller-manager-arg"],
		SchedulerArgs:  v["kube-scheduler-arg"],
		KubeletArgs:    v["kubelet-arg"],
		ProxyArgs:      v["kube-proxy-arg"],
	}
	var err error
	if c.Token, err = readToken(v, "token"); err != nil {
		return nil, err
	}
	if c.AgentToken, err = readToken(v, "agent-token"); err != nil {
		return nil, err
	}
	if c.NodeIP, err = nodeIP(v, host); err != nil {
		return nil, err
	}
	if c.KubeconfigMode, err = fileMode(v.text("write-kubeconfig-mode", "0600")); err != nil {
		return nil, err
	}
	if err = c.setAddresses(v); err != nil {
		return nil, err
	}
	return c, c.check(v)
}

// readToken takes a token from its key or from the file that NAME-file names.
func readToken(v values, name string) (string, error) {
	token, file := v.text(name, ""), v.text(name+"-file", "")
	switch {
	case file == "":
		return token, nil
	case token != "":
		return "", fmt.Errorf("%[1]s and %[1]s-file are both set; one of them names the token", name)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("could not read the %s-file: %w", name, err)
	}
	return strings.TrimSpace(string(content)), nil
}

func nodeIP(v values, host Host) (string, error) {
	if text := v.text("node-ip", ""); text != "" {
		if _, err := netip.ParseAddr(text); err != nil {
			return "", fmt.Errorf("node-ip %q is not an address", text)
		}
		return text, nil
	}
	address, err := host.Address()
	if err != nil {
		return "", fmt.Errorf("node-ip is not set and no address of this host serves: %w", err)
	}
	return address, nil
}

func fileMode(text string) (os.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, fmt.Errorf("write-kubeconfig-mode %q is not an octal file mode", text)
	}
	return os.FileMode(mode), nil
}

// setAddresses checks the networks and derives the DNS address: the tenth of the
// service network, as k3s and kubeadm have it.
func (c *Config) setAddresses(v values) error {
	if _, err := netip.ParsePrefix(c.ClusterCIDR); err != nil {
		return fmt.Errorf("cluster-cidr %q is not a network", c.ClusterCIDR)
	}
	services, err := netip.ParsePrefix(c.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("service-cidr %q is not a network", c.ServiceCIDR)
	}
	tenth := services.Masked().Addr()
	for range 10 {
		tenth = tenth.Next()
	}
	c.ClusterDNS = v.text("cluster-dns", tenth.String())
	dns, err := netip.ParseAddr(c.ClusterDNS)
	if err != nil || !services.Contains(dns) {
		return fmt.Errorf("cluster-dns %q is not an address of service-cidr %s", c.ClusterDNS, c.ServiceCIDR)
	}
	return nil
}

// check refuses what this build does not have, rather than ignoring it.
func (c *Config) check(v values) error {
	if c.NodeName == "" {
		return errors.New("node-name is not set and this host has no name")
	}
	if c.Role == Agent {
		if c.ServerURL == "" || c.Token == "" {
			return errors.New("an agent needs server and token (or token-file)")
		}
		return nil
	}
	if c.ServerURL != "" && c.Token == "" {
		return errors.New("a server that joins needs token (or token-file): the content of server/node-token")
	}
	if backend := v.text("flannel-backend", "vxlan"); backend != "none" {
		return fmt.Errorf("flannel-backend is %s: this build has no pod network of its own, set it to none", backend)
	}
	if v.text("disable-network-policy", "false") != "true" {
		return errors.New("disable-network-policy is not true: this build has no network policy controller")
	}
	return nil
}
