package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/template"

	"github.com/pelletier/go-toml/v2"

	"furrow/k3s/internal/component"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/notify"
)

const (
	imagesPlugin  = "io.containerd.cri.v1.images"
	runtimePlugin = "io.containerd.cri.v1.runtime"
	// Snapshotter is the storage of unpacked images.
	Snapshotter = "overlayfs"
)

type table = map[string]any

// containerdConfig is the configuration in containerd's version 3 format.
func containerdConfig(c *config.Config, systemdCgroup bool) table {
	return table{
		"version": 3,
		// k3s's drop-ins: each is a whole document with its own version, merged key
		// by key over this one.
		"imports": []string{c.Layout.Agent("etc", "containerd", "config-v3.toml.d") + "/*.toml"},
		"plugins": table{
			// Its default lies in /opt, which a node's image may not have.
			"io.containerd.internal.v1.opt": table{"path": c.Layout.Agent("containerd")},
			imagesPlugin: table{
				"snapshotter":                  Snapshotter,
				"disable_snapshot_annotations": true,
				"pinned_images":                table{"sandbox": c.PauseImage},
			},
			runtimePlugin: table{
				"enable_unprivileged_ports": true,
				"enable_unprivileged_icmp":  true,
				"cni": table{
					"bin_dirs": []string{layout.CNIBinDir},
					"conf_dir": layout.CNIConfigDir,
				},
				"containerd": table{
					"default_runtime_name": "runc",
					"runtimes": table{"runc": table{
						"runtime_type": "io.containerd.runc.v2",
						"options":      table{"SystemdCgroup": systemdCgroup},
					}},
				},
			},
		},
	}
}

// writeContainerdConfig writes config.toml, through the operator's template
// config-v3.toml.tmpl if there is one; {{ template "base" . }} in it is ours.
func writeContainerdConfig(c *config.Config) error {
	base, err := toml.Marshal(containerdConfig(c, systemdCgroups(c.KubeletArgs)))
	if err != nil {
		return fmt.Errorf("could not encode containerd's configuration: %w", err)
	}
	dir := c.Layout.Agent("etc", "containerd")
	custom, err := os.ReadFile(dir + "/config-v3.toml.tmpl")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("could not read containerd's template: %w", err)
	default:
		if base, err = expand(custom, base); err != nil {
			return err
		}
	}
	return files.Replace(dir+"/config.toml", 0o600, base)
}

func expand(custom, base []byte) ([]byte, error) {
	parsed, err := template.New("config-v3.toml.tmpl").Parse(string(custom))
	if err == nil {
		// The base is data: braces in it must not be read as a template.
		_, err = parsed.New("base").Parse("{{ .Base }}")
	}
	var out bytes.Buffer
	if err == nil {
		err = parsed.Execute(&out, struct{ Base string }{string(base)})
	}
	if err != nil {
		return nil, fmt.Errorf("could not expand config-v3.toml.tmpl: %w", err)
	}
	return out.Bytes(), nil
}

// systemdCgroups chooses who makes the pods' cgroups. The kubelet asks the runtime,
// so one decision serves both; kubelet-arg cgroup-driver overrides it.
func systemdCgroups(kubeletArgs []string) bool {
	if driver, ok := component.Value(kubeletArgs, "cgroup-driver"); ok {
		return driver == "systemd"
	}
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && notify.UnderSystemd()
}

func containerdFlags(c *config.Config) []string {
	return []string{
		"--config=" + c.Layout.Agent("etc", "containerd", "config.toml"),
		"--address=" + layout.ContainerdSocket,
		"--state=" + layout.RuntimeDir + "/containerd",
		"--root=" + c.Layout.Agent("containerd"),
		"--log-level=warn",
	}
}
