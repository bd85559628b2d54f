package members

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
)

// host makes a node that joins server, or begins a cluster when that is empty. Whoever
// asks for the other members fails.
func host(t *testing.T, server string) *Node {
	t.Helper()
	c := &config.Config{Layout: layout.Layout{DataDir: t.TempDir()}, ServerURL: server}
	if err := os.MkdirAll(c.Layout.Server("db", "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	return New(c, self, "https://127.0.0.1:2379", func(context.Context) ([]string, error) {
		return nil, errors.New("unreachable")
	})
}

func (n *Node) put(t *testing.T, elem ...string) {
	t.Helper()
	file := filepath.Join(append([]string{n.dataDir()}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func prepared(n *Node) (Start, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	return n.Prepare(ctx)
}

func TestTheFirstServerBeginsACluster(t *testing.T) {
	start, err := prepared(host(t, ""))
	if err != nil || start.Existing || start.InitialCluster != "b=https://10.0.0.2:2380" {
		t.Errorf("got %+v, %v", start, err)
	}
}

func TestAnEtcdWithDataStartsWithoutAskingAnybody(t *testing.T) {
	n := host(t, "https://10.0.0.1:6443")
	n.put(t, "member", "wal", "0.wal")
	if _, err := prepared(n); err != nil {
		t.Error(err)
	}
}

func TestAServerThatLostItsDataBeginsNoSecondCluster(t *testing.T) {
	n := host(t, "")
	if err := n.store(known{ID: 2, Others: []string{"https://10.0.0.1:2379"}}); err != nil {
		t.Fatal(err)
	}
	if start, err := prepared(n); err == nil {
		t.Errorf("got %+v", start)
	}
}

func TestPartsOfAFormerEtcdAreSetAside(t *testing.T) {
	n := host(t, "https://10.0.0.1:6443")
	n.put(t, "member", "snap", "db")
	if _, err := prepared(n); err == nil {
		t.Error("it did not wait for the others")
	}
	if HasData(n.config) {
		t.Error("a snapshot alone was taken for data")
	}
	if _, err := os.Stat(filepath.Join(n.dataDir()+"-former", "member", "snap", "db")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(n.dataDir()); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := n.setAside(); err != nil {
		t.Error(err)
	}
}
