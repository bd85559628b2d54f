package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"furrow/k3s/internal/component"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/shimbin"
)

// shimName is what containerd looks for in its PATH for runtime io.containerd.runc.v2.
const shimName = "containerd-shim-runc-v2"

// InstallPrograms fills the directory of programs: a link to this binary for every
// component, and the container shim. The shim is a program of its own because one
// runs for every pod: as a part of this binary each would carry Kubernetes' start-up
// cost, about 40 MiB.
func InstallPrograms(l layout.Layout) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("could not find this program's own path: %w", err)
	}
	for _, name := range []string{
		component.Etcd, component.APIServer, component.ControllerManager, component.Scheduler,
		component.Kubelet, component.Proxy, component.Containerd, component.Kubectl, component.Ctr, "k3s",
	} {
		if err := link(self, l.Bin(name)); err != nil {
			return err
		}
	}
	return installShim(l.Bin(shimName), shimbin.Compressed())
}

// installShim unpacks the shim unless this very one is there: unpacking costs the
// supervisor memory that it would never need again. Running shims keep the file
// that they were started from.
func installShim(file string, compressed []byte) error {
	stamp := file + ".sha256"
	sum := sha256.Sum256(compressed)
	wanted := []byte(hex.EncodeToString(sum[:]))
	if present, err := os.ReadFile(stamp); err == nil && bytes.Equal(present, wanted) {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
	}
	reader, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("could not unpack the container shim: %w", err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		return fmt.Errorf("could not unpack the container shim: %w", err)
	}
	if err := files.Replace(file, 0o755, content); err != nil {
		return err
	}
	return files.Replace(stamp, 0o644, wanted)
}

func link(target, path string) error {
	if present, err := os.Readlink(path); err == nil && present == target {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	_ = os.Remove(temporary)
	if err := os.Symlink(target, temporary); err != nil {
		return fmt.Errorf("could not link %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("could not link %s: %w", path, err)
	}
	return nil
}
