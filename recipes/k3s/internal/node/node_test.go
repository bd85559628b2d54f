package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
)

func TestTheKubeletsDriverDecidesTheRuntimes(t *testing.T) {
	if systemdCgroups([]string{"cgroup-driver=cgroupfs"}) || !systemdCgroups([]string{"cgroup-driver=systemd"}) {
		t.Error("kubelet-arg cgroup-driver was not followed")
	}
}

func TestAContainerdTemplateExtendsTheBase(t *testing.T) {
	c := &config.Config{Layout: layout.Layout{DataDir: "/d"}, PauseImage: "x/pause:{{1}}"}
	base, err := toml.Marshal(containerdConfig(c, true))
	if err != nil {
		t.Fatal(err)
	}
	out, err := expand([]byte("{{ template \"base\" . }}\n[debug]\nlevel = 'info'\n"), base)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := toml.Unmarshal(out, &document); err != nil {
		t.Fatal(err)
	}
	if document["debug"] == nil || !strings.Contains(string(out), "x/pause:{{1}}") || !strings.Contains(string(out), "/d/agent/etc/containerd/config-v3.toml.d/*.toml") {
		t.Errorf("got %s", out)
	}
}

func TestPodsInheritOnlyAResolverTheyCanReach(t *testing.T) {
	dir := t.TempDir()
	system, resolved := filepath.Join(dir, "system"), filepath.Join(dir, "resolved")
	check := func(content, expected string) {
		t.Helper()
		if err := os.WriteFile(system, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := resolvConf(system, resolved); got != expected {
			t.Errorf("%q: got %q", content, got)
		}
	}
	check("nameserver 10.0.0.1\n", system)
	check("nameserver 127.0.0.53\n", "")
	if err := os.WriteFile(resolved, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("# none\nnameserver 127.0.0.53\n", resolved)
}

func TestArchivesAreKnownByTheirSuffix(t *testing.T) {
	for name, expected := range map[string]bool{"a.tar": true, "a.tar.zst": true, "a.tar.gz": true, "a.tgz": true, "a.txt": false, "tar": false} {
		if isArchive(name) != expected {
			t.Errorf("%s: expected %v", name, expected)
		}
	}
}
