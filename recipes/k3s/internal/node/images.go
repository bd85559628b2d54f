package node

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"

	"furrow/k3s/internal/layout"
)

const (
	criNamespace = "k8s.io"
	// archiveLabel holds the SHA-256 of the archive that an image came from, so that
	// a restart imports only what changed. It lives and dies with the image.
	archiveLabel    = "k3s.furrow.io/archive"
	containerdWait  = 100 * time.Millisecond
	containerdStart = 60 * time.Second
	importTimeout   = 5 * time.Minute
	connectTimeout  = time.Second
)

// connect waits until containerd answers.
func connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, containerdStart)
	defer cancel()
	for {
		c, err := client.New(layout.ContainerdSocket, client.WithDefaultNamespace(criNamespace), client.WithTimeout(connectTimeout))
		if err == nil {
			var serving bool
			if serving, err = c.IsServing(ctx); err == nil && serving {
				return c, nil
			}
			c.Close()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("containerd does not answer on %s: %w", layout.ContainerdSocket, err)
		case <-time.After(containerdWait):
		}
	}
}

// importImages loads every archive of a directory. A broken archive is reported
// and left out: the node must come up to be repaired.
func importImages(ctx context.Context, c *client.Client, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("could not list the image archives: %w", err)
	}
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	for _, entry := range entries {
		if !isArchive(entry.Name()) {
			continue
		}
		started := time.Now()
		names, err := importArchive(ctx, c, filepath.Join(dir, entry.Name()))
		if err != nil {
			log.Printf("could not import the image archive %s: %v", entry.Name(), err)
		} else if len(names) > 0 {
			log.Printf("imported %s from %s in %s", strings.Join(names, ", "), entry.Name(), time.Since(started).Round(time.Millisecond))
		}
	}
	return nil
}

var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"}

func isArchive(name string) bool {
	return slices.ContainsFunc(archiveSuffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// importArchive returns the images that it brought in, none when they are there.
func importArchive(ctx context.Context, c *client.Client, path string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, importTimeout)
	defer cancel()
	sum, err := fileSum(path)
	if err != nil {
		return nil, err
	}
	present, err := c.ImageService().List(ctx, fmt.Sprintf("labels.%q==%q", archiveLabel, sum))
	if err != nil {
		return nil, fmt.Errorf("could not list images: %w", err)
	}
	if len(present) > 0 {
		return nil, nil
	}
	reader, closeAll, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	images, err := c.Import(ctx, reader,
		client.WithDigestRef(archive.DigestTranslator("import-"+sum[:12])),
		client.WithSkipDigestRef(func(name string) bool { return name != "" }),
		client.WithImportPlatform(platforms.DefaultStrict()),
		client.WithImageLabels(map[string]string{
			archiveLabel: sum,
			// Known to the CRI plugin, and kept by the kubelet's garbage collection:
			// nothing could bring the image back.
			"io.cri-containerd.image":  "managed",
			"io.cri-containerd.pinned": "pinned",
		}))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, image := range images {
		if err := client.NewImage(c, image).Unpack(ctx, Snapshotter); err != nil {
			return nil, fmt.Errorf("could not unpack %s: %w", image.Name, err)
		}
		names = append(names, image.Name)
	}
	return names, nil
}

func fileSum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// openArchive decompresses by the name's suffix.
func openArchive(path string) (io.Reader, func(), error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	closeFile := func() { file.Close() }
	switch {
	case strings.HasSuffix(path, "zst"):
		reader, err := zstd.NewReader(file)
		if err != nil {
			closeFile()
			return nil, nil, err
		}
		return reader, func() { reader.Close(); closeFile() }, nil
	case strings.HasSuffix(path, "gz"):
		reader, err := gzip.NewReader(file)
		if err != nil {
			closeFile()
			return nil, nil, err
		}
		return reader, closeFile, nil
	}
	return file, closeFile, nil
}
