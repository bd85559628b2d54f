// Package pki makes and renews the certificates of a server: which ones there are,
// where they lie (k3s's names) and when they are made anew. Keys and signatures are
// made by kubeadm's own functions; this package has no cryptography.
package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"

	"furrow/k3s/internal/files"
)

const (
	// P-256 keys are made in a millisecond, RSA ones in a second on a slow machine.
	algorithm  = kubeadm.EncryptionAlgorithmECDSAP256
	caLife     = 10 * 365 * 24 * time.Hour
	leafLife   = 365 * 24 * time.Hour
	renewAhead = 90 * 24 * time.Hour
	// Clocks of nodes differ; a certificate made now must hold on one that is behind.
	backdate = 5 * time.Minute
)

// Authority is a certificate authority with its key.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Leaf describes a certificate: where it lies, without suffix, and what it says.
type Leaf struct {
	Path     string
	Name     string
	Groups   []string
	DNSNames []string
	IPs      []net.IP
	Usages   []x509.ExtKeyUsage
}

// EnsureAuthority loads the authority at path, or makes it if nothing is there.
// A certificate whose key is missing is an error: making a new authority over it
// would strand every node. A key alone is what a power cut left, and nobody has
// seen a certificate of it.
func EnsureAuthority(path, name string) (*Authority, error) {
	dir, base := filepath.Split(path)
	if exists(path + ".crt") {
		cert, key, err := pkiutil.TryLoadCertAndKeyFromDisk(dir, base)
		if err == nil && !belong(cert, key) {
			err = errors.New("the key is that of another certificate")
		}
		if err != nil {
			return nil, fmt.Errorf("could not load the certificate authority %s: %w", path, err)
		}
		return &Authority{cert, key}, nil
	}
	key, err := pkiutil.GeneratePrivateKey(algorithm)
	if err != nil {
		return nil, fmt.Errorf("could not make the key of %s: %w", path, err)
	}
	now := time.Now().UTC()
	cert, err := pkiutil.NewSelfSignedCACert(&pkiutil.CertConfig{
		Config:   certutil.Config{CommonName: fmt.Sprintf("%s@%d", name, now.Unix()), NotBefore: now.Add(-backdate)},
		NotAfter: now.Add(caLife),
	}, key)
	if err != nil {
		return nil, fmt.Errorf("could not make the certificate authority %s: %w", path, err)
	}
	if err := writePair(path, cert, key); err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// EnsureLeaf keeps a certificate that is valid for long enough, made by this
// authority and says what the description says; otherwise it makes a new one.
func (a *Authority) EnsureLeaf(leaf Leaf) error {
	reason := a.staleness(leaf)
	if reason == "" {
		return nil
	}
	log.Printf("making the certificate %s: %s", leaf.Path, reason)
	key, err := pkiutil.GeneratePrivateKey(algorithm)
	if err != nil {
		return fmt.Errorf("could not make the key of %s: %w", leaf.Path, err)
	}
	now := time.Now().UTC()
	cert, err := pkiutil.NewSignedCert(&pkiutil.CertConfig{
		Config: certutil.Config{
			CommonName:   leaf.Name,
			Organization: leaf.Groups,
			AltNames:     certutil.AltNames{DNSNames: leaf.DNSNames, IPs: leaf.IPs},
			Usages:       leaf.Usages,
			NotBefore:    now.Add(-backdate),
		},
		NotAfter: earlier(now.Add(leafLife), a.cert.NotAfter),
	}, key, a.cert, a.key, false)
	if err != nil {
		return fmt.Errorf("could not sign the certificate %s: %w", leaf.Path, err)
	}
	return writePair(leaf.Path, cert, key)
}

// staleness says why a certificate has to be made; empty when it may stay.
func (a *Authority) staleness(leaf Leaf) string {
	dir, base := filepath.Split(leaf.Path)
	cert, key, err := pkiutil.TryLoadCertAndKeyFromDisk(dir, base)
	switch {
	case err != nil && !exists(leaf.Path+".crt"):
		return "it does not exist"
	case err != nil:
		return err.Error()
	case !belong(cert, key):
		return "its key is another's"
	}
	return a.compare(cert, leaf, time.Now())
}

func (a *Authority) compare(cert *x509.Certificate, leaf Leaf, now time.Time) string {
	switch {
	case cert.CheckSignatureFrom(a.cert) != nil:
		return "another authority made it"
	case now.Add(renewAhead).After(cert.NotAfter) && cert.NotAfter.Before(a.cert.NotAfter):
		return "it expires on " + cert.NotAfter.Format(time.DateOnly)
	case cert.Subject.CommonName != leaf.Name || !slices.Equal(cert.Subject.Organization, leaf.Groups):
		return "it names another subject"
	}
	for _, name := range leaf.DNSNames {
		if !slices.Contains(cert.DNSNames, name) {
			return "it lacks the name " + name
		}
	}
	for _, ip := range leaf.IPs {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return "it lacks the address " + ip.String()
		}
	}
	return ""
}

// EnsureKey makes a private key without a certificate, for signing tokens.
func EnsureKey(path string) error {
	dir, base := filepath.Split(path)
	if _, err := pkiutil.TryLoadKeyFromDisk(dir, base); err == nil {
		return nil
	} else if exists(path + ".key") {
		return fmt.Errorf("could not load the key %s.key: %w", path, err)
	}
	key, err := pkiutil.GeneratePrivateKey(algorithm)
	if err != nil {
		return fmt.Errorf("could not make the key %s.key: %w", path, err)
	}
	return writeKey(path, key)
}

// writePair writes the key first: a certificate that is there has its key.
func writePair(path string, cert *x509.Certificate, key crypto.Signer) error {
	if err := writeKey(path, key); err != nil {
		return err
	}
	return files.Replace(path+".crt", 0o644, pkiutil.EncodeCertPEM(cert))
}

// writeKey writes a key so that a power cut leaves it whole or not there.
func writeKey(path string, key crypto.Signer) error {
	content, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("could not encode the key %s.key: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("could not make the directory of %s.key: %w", path, err)
	}
	return files.Replace(path+".key", 0o600, content)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func belong(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && public.Equal(cert.PublicKey)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
