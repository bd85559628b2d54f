package bootstrap

import (
	"context"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/token"
)

func servers(t *testing.T) *config.Config {
	t.Helper()
	c := &config.Config{
		Layout: layout.Layout{DataDir: t.TempDir()}, ClusterCIDR: "10.42.0.0/16",
		ServiceCIDR: "10.43.0.0/16", ClusterDNS: "10.43.0.10", ClusterDomain: "cluster.local",
	}
	if err := os.MkdirAll(c.Layout.TLS("etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

func bundle(c *config.Config) Bundle {
	b := Bundle{Files: map[string][]byte{}, AgentSecret: "the agents' secret", Settings: settings(c)}
	for _, name := range authorities {
		b.Files[name] = []byte("content of " + name)
	}
	return b
}

func secret(t *testing.T, text string) token.Token {
	t.Helper()
	parsed, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestOnlyTheServersTokenOpensTheBundle(t *testing.T) {
	own := bundle(servers(t))
	data, err := own.seal(secret(t, "the servers' secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range data {
		if strings.Contains(string(value), "content of") {
			t.Error("the Secret shows its content")
		}
	}
	opened, err := open(data, secret(t, "the servers' secret"))
	if err != nil || !opened.equal(own) {
		t.Errorf("got %+v, %v", opened, err)
	}
	if _, err := open(data, secret(t, "the agents' secret")); err == nil {
		t.Error("another token opened it")
	}
	data["bundle"][20] ^= 1
	if _, err := open(data, secret(t, "the servers' secret")); err == nil {
		t.Error("an altered bundle was accepted")
	}
}

func TestABundleThatLacksAFileIsRefused(t *testing.T) {
	own := bundle(servers(t))
	delete(own.Files, "etcd/peer-ca.key")
	data, err := own.seal(secret(t, "the servers' secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(data, secret(t, "the servers' secret")); err == nil || !strings.Contains(err.Error(), "etcd/peer-ca.key") {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsWrittenIsWhatTheNextServerReads(t *testing.T) {
	c := servers(t)
	own := bundle(c)
	if err := own.Write(c); err != nil {
		t.Fatal(err)
	}
	if !Present(c) {
		t.Error("the copy is not seen")
	}
	read, err := Read(c, own.AgentSecret)
	if err != nil || !read.equal(own) {
		t.Errorf("got %+v, %v", read, err)
	}
	info, err := os.Stat(c.Layout.TLS("etcd", "peer-ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	if err := os.Remove(c.Layout.TLS("etcd", "peer-ca.key")); err != nil || Present(c) {
		t.Errorf("half a copy is taken for whole, %v", err)
	}
}

func TestAServerOfAnotherConfigurationIsRefusedByTheKeysName(t *testing.T) {
	c := servers(t)
	own := bundle(c)
	if err := own.CheckSettings(c); err != nil {
		t.Error(err)
	}
	c.ServiceCIDR = "10.96.0.0/12"
	if err := own.CheckSettings(c); err == nil || !strings.Contains(err.Error(), "service-cidr is 10.96.0.0/12 here and 10.43.0.0/16") {
		t.Errorf("got %v", err)
	}
}

func TestServersDoNotWriteAgainstEachOther(t *testing.T) {
	ctx, client := context.Background(), fake.NewSimpleClientset()
	first := bundle(servers(t))
	second := bundle(servers(t))
	second.AgentSecret = "made by the second server"
	serverToken, other := secret(t, "the servers' secret"), secret(t, "a token that is new")
	publish := func(b Bundle, with token.Token, pinned bool, expected string, writes bool) {
		t.Helper()
		client.ClearActions()
		agents, err := Publish(ctx, client, b, with, pinned)
		if err != nil || agents != expected {
			t.Errorf("got %q, %v", agents, err)
		}
		if wrote := len(client.Actions()) > 1; wrote != writes {
			t.Errorf("got %v", client.Actions())
		}
	}
	publish(first, serverToken, false, first.AgentSecret, true)
	publish(first, serverToken, false, first.AgentSecret, false)
	publish(second, serverToken, false, first.AgentSecret, false)
	publish(second, serverToken, true, second.AgentSecret, true)
	publish(second, other, false, second.AgentSecret, true)
	present, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(present.Data, serverToken); err == nil {
		t.Error("the former token still opens it")
	}
}
