package pki

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
)

func authority(t *testing.T) (*Authority, Leaf) {
	t.Helper()
	dir := t.TempDir()
	a, err := EnsureAuthority(filepath.Join(dir, "ca"), "test-ca")
	if err != nil {
		t.Fatal(err)
	}
	return a, Leaf{
		Path: filepath.Join(dir, "leaf"), Name: "someone", Groups: []string{"group"},
		DNSNames: []string{"a.test"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}, Usages: both,
	}
}

func ensured(t *testing.T, a *Authority, leaf Leaf) *x509.Certificate {
	t.Helper()
	if err := a.EnsureLeaf(leaf); err != nil {
		t.Fatal(err)
	}
	cert, err := pkiutil.TryLoadCertFromDisk(filepath.Split(leaf.Path))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestACertificateStaysUntilItsDescriptionChanges(t *testing.T) {
	a, leaf := authority(t)
	first := ensured(t, a, leaf)
	if !ensured(t, a, leaf).Equal(first) {
		t.Error("an unchanged certificate was made anew")
	}
	leaf.DNSNames = append(leaf.DNSNames, "b.test")
	if ensured(t, a, leaf).Equal(first) {
		t.Error("a certificate that lacks a name stayed")
	}
}

func TestACertificateIsRenewedWithin90DaysOfItsEnd(t *testing.T) {
	a, leaf := authority(t)
	cert := ensured(t, a, leaf)
	if reason := a.compare(cert, leaf, cert.NotAfter.Add(-91*24*time.Hour)); reason != "" {
		t.Errorf("too early: %s", reason)
	}
	if reason := a.compare(cert, leaf, cert.NotAfter.Add(-89*24*time.Hour)); reason == "" {
		t.Error("too late")
	}
}

func TestACertificateOfAnotherAuthorityIsReplaced(t *testing.T) {
	a, leaf := authority(t)
	cert := ensured(t, a, leaf)
	other, _ := authority(t)
	if other.compare(cert, leaf, time.Now()) == "" {
		t.Error("it stayed")
	}
}

func TestHalfAnAuthorityIsAnErrorAndNotReplaced(t *testing.T) {
	a, _ := authority(t)
	path := filepath.Join(t.TempDir(), "ca")
	if err := pkiutil.WriteCert(filepath.Dir(path), "ca", a.cert); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureAuthority(path, "test-ca"); err == nil {
		t.Error("an authority without its key was accepted")
	}
}

func TestWhatAPowerCutLeftIsMadeWhole(t *testing.T) {
	a, leaf := authority(t)
	first := ensured(t, a, leaf)
	other, otherLeaf := authority(t)
	ensured(t, other, otherLeaf)
	// The key of a renewal is there, its certificate is not.
	key, err := os.ReadFile(otherLeaf.Path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(leaf.Path+".key", key, 0o600); err != nil {
		t.Fatal(err)
	}
	if ensured(t, a, leaf).Equal(first) {
		t.Error("a certificate with another's key stayed")
	}
	path := filepath.Join(filepath.Dir(leaf.Path), "ca")
	if err := os.Remove(path + ".crt"); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureAuthority(path, "test-ca"); err != nil {
		t.Errorf("an authority's key that was never used: %v", err)
	}
}

func TestAServersCertificatesHoldForTheirUses(t *testing.T) {
	l := layout.Layout{DataDir: t.TempDir()}
	for _, dir := range []string{l.TLS("etcd"), l.Agent()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := &config.Config{
		Layout: l, NodeName: "n1", NodeIP: "10.0.0.5", ServiceCIDR: "10.43.0.0/16",
		ClusterDomain: "cluster.local", TLSSANs: []string{"api.test", "10.9.9.9"},
	}
	if err := EnsureServer(c); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(l.TLS("server-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cert, err := pkiutil.TryLoadCertFromDisk(l.TLS(), "serving-kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubernetes.default.svc.cluster.local", "localhost", "api.test", "10.9.9.9", "10.43.0.1", "127.0.0.1", "10.0.0.5"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
