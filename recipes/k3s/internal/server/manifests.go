package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"furrow/k3s/internal/apply"
)

const (
	// Changes are noticed by the kernel's notification; the rescan covers what that
	// misses (a file reached through a link).
	rescan     = 15 * time.Second
	firstRetry = 300 * time.Millisecond
	lastRetry  = 10 * time.Second
	// Several files are usually written together.
	settle       = 100 * time.Millisecond
	applyTimeout = 30 * time.Second
)

// manifests keeps the cluster at what the files of server/manifests say. A file
// that cannot be applied yet is tried again; removing a file removes nothing.
type manifests struct {
	dir      string
	disabled []string
	applier  *apply.Applier
	// done holds the content that was applied or deleted with success.
	done map[string][sha256.Size]byte
	// failed holds the last error of a file, so that it is logged once.
	failed map[string]string
}

func newManifests(dir string, disabled []string, applier *apply.Applier) *manifests {
	return &manifests{
		dir: dir, disabled: disabled, applier: applier,
		done: map[string][sha256.Size]byte{}, failed: map[string]string{},
	}
}

// run applies until the context ends.
func (m *manifests) run(ctx context.Context) {
	changes := m.watch()
	retry := firstRetry
	for {
		wait := rescan
		if m.pass(ctx) {
			retry = firstRetry
		} else {
			wait, retry = retry, min(2*retry, lastRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
			retry = firstRetry
			time.Sleep(settle)
		case <-time.After(wait):
		}
	}
}

// watch gives a signal for any number of changes; without notification there are
// none and the rescan does the work.
func (m *manifests) watch() <-chan struct{} {
	changes := make(chan struct{}, 1)
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(m.dir)
	}
	if err != nil {
		log.Printf("could not watch %s, reading it every %s instead: %v", m.dir, rescan, err)
		return changes
	}
	go func() {
		for range watcher.Events {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes
}

// pass brings every changed file in and says whether all of them are.
func (m *manifests) pass(ctx context.Context) bool {
	complete := true
	for _, file := range m.files() {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		sum := sha256.Sum256(content)
		if applied, ok := m.done[file]; err == nil && ok && applied == sum {
			continue
		}
		if err == nil {
			err = m.bring(ctx, file, content)
		}
		if err == nil {
			m.done[file] = sum
			delete(m.failed, file)
			log.Printf("manifest %s is in the cluster as it stands", file)
			continue
		}
		complete = false
		if m.failed[file] != err.Error() {
			m.failed[file] = err.Error()
			log.Printf("could not apply the manifest %s, trying again: %v", file, err)
		}
	}
	return complete
}

func (m *manifests) files() []string {
	var files []string
	_ = filepath.WalkDir(m.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			return nil
		}
		switch filepath.Ext(path) {
		case ".yaml", ".yml", ".json":
			// k3s leaves a file out while one named after it with .skip exists.
			if _, err := os.Stat(path + ".skip"); err != nil {
				files = append(files, path)
			}
		}
		return nil
	})
	slices.Sort(files)
	return files
}

func (m *manifests) bring(ctx context.Context, file string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	objects, err := apply.Parse(content)
	if err != nil {
		return err
	}
	if isDisabled(file, m.disabled) {
		return m.applier.Delete(ctx, objects)
	}
	return m.applier.Apply(ctx, sorted(objects))
}

// isDisabled compares base names without suffix, as k3s's --disable does.
func isDisabled(file string, disabled []string) bool {
	base := filepath.Base(file)
	return slices.Contains(disabled, strings.TrimSuffix(base, filepath.Ext(base)))
}

// sorted puts namespaces and definitions before what needs them.
func sorted(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	rank := func(o *unstructured.Unstructured) int {
		switch o.GetKind() {
		case "Namespace", "CustomResourceDefinition":
			return 0
		}
		return 1
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return objects
}
