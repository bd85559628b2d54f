// Package component describes the children: which program, with which flags and
// which memory settings. It starts nothing.
package component

import (
	"os"
	"strings"
	"time"

	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/notify"
	"furrow/k3s/internal/supervise"
)

// The components, by the name that selects them in this binary.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
	Containerd        = "containerd"
	Kubectl           = "kubectl"
	Ctr               = "ctr"
)

// grace is how long a component may take to stop. The API server would wait a
// minute for the watches of other nodes to go; they reconnect anyway.
const (
	grace          = 10 * time.Second
	apiServerGrace = 3 * time.Second
)

// CollectorPercent is the supervisor's own GOGC, for the same reason as below.
const CollectorPercent = 50

// collectors holds the garbage collector's settings. An idle control plane holds
// little live data but Go keeps as much again free (GOGC=100); collecting at half
// costs little CPU at a node's load. The limit is soft: it makes Go collect harder
// near it and refuses nothing, so a large cluster only spends more CPU.
var collectors = map[string][]string{
	Etcd:              {"GOGC=75", "GOMEMLIMIT=512MiB"},
	APIServer:         {"GOGC=50", "GOMEMLIMIT=1GiB"},
	ControllerManager: {"GOGC=50", "GOMEMLIMIT=512MiB"},
	Scheduler:         {"GOGC=50", "GOMEMLIMIT=256MiB"},
	Kubelet:           {"GOGC=50", "GOMEMLIMIT=256MiB"},
	Proxy:             {"GOGC=50", "GOMEMLIMIT=128MiB"},
	Containerd:        {"GOGC=50", "GOMEMLIMIT=256MiB"},
}

// priorities holds nice values. On a host whose processors are all taken, requests that time
// out make their senders start anew, which makes the host busier; so what answers goes first.
var priorities = map[string]int{Etcd: -10, APIServer: -5}

// Spec is the child that runs a component with its own flags and the operator's.
func Spec(l layout.Layout, name string, own, operator []string) supervise.Spec {
	env := notify.WithoutSocket(os.Environ())
	for i, variable := range env {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			env[i] = "PATH=" + l.Bin() + ":" + path
		}
	}
	patience := grace
	if name == APIServer {
		patience = apiServerGrace
	}
	return supervise.Spec{
		Path:  l.Bin(name),
		Args:  Merge(own, operator),
		Env:   append(env, collectors[name]...),
		Nice:  priorities[name],
		Grace: patience,
	}
}

// accumulating flags add to ours; any other flag of the operator replaces ours.
// Dropping NodeRestriction by asking for one more plugin would be an accident.
var accumulating = map[string]bool{"enable-admission-plugins": true, "feature-gates": true}

// Merge puts the operator's flags (name=value, with or without dashes) after ours.
func Merge(own, operator []string) []string {
	given := map[string]bool{}
	var added []string
	for _, flag := range operator {
		flag = strings.TrimLeft(flag, "-")
		given[flagName(flag)] = true
		added = append(added, "--"+flag)
	}
	var merged []string
	for _, flag := range own {
		if name := flagName(flag); !given[name] || accumulating[name] {
			merged = append(merged, flag)
		}
	}
	return append(merged, added...)
}

func flagName(flag string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	return name
}

// Value finds a flag in a list of the operator's flags.
func Value(operator []string, name string) (string, bool) {
	value, found := "", false
	for _, flag := range operator {
		if flagName(flag) == name {
			_, value, _ = strings.Cut(flag, "=")
			found = true
		}
	}
	return value, found
}
