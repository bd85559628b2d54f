// Package bootstrap carries what all servers of a cluster have in common, the
// authorities' keys above all, from one server to the next: in a Secret, encrypted by
// the secret of the server token and readable only by who joins with that token. The
// encryption is kubeadm's; this package makes no keys.
package bootstrap

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/crypto"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/join"
	"furrow/k3s/internal/token"
)

const (
	// SecretName is the Secret in kube-system.
	SecretName = "k3s-server-bootstrap"
	// Group is carried by the server token's bootstrap token; rules.yaml lets it, and
	// no other group, read the Secret.
	Group = "system:bootstrappers:k3s:servers"

	saltSize       = 16
	requestTimeout = 10 * time.Second
)

// authorities are the files under server/tls that all servers share.
var authorities = []string{
	"server-ca.crt", "server-ca.key", "client-ca.crt", "client-ca.key",
	"request-header-ca.crt", "request-header-ca.key",
	"etcd/server-ca.crt", "etcd/server-ca.key", "etcd/peer-ca.crt", "etcd/peer-ca.key",
	"service.key",
}

// Bundle is what all servers have in common.
type Bundle struct {
	Files map[string][]byte `json:"files"`
	// AgentSecret is the secret of agent-token.
	AgentSecret string `json:"agentSecret"`
	// Settings are keys of config.yaml that have to be the same on every server.
	Settings map[string]string `json:"settings"`
}

// Present says whether this server has the authorities, all of them.
func Present(c *config.Config) bool {
	return !slices.ContainsFunc(authorities, func(name string) bool {
		_, err := os.Stat(c.Layout.TLS(filepath.FromSlash(name)))
		return err != nil
	})
}

// Read collects what this server has.
func Read(c *config.Config, agentSecret string) (Bundle, error) {
	b := Bundle{Files: map[string][]byte{}, AgentSecret: agentSecret, Settings: settings(c)}
	for _, name := range authorities {
		content, err := os.ReadFile(c.Layout.TLS(filepath.FromSlash(name)))
		if err != nil {
			return Bundle{}, fmt.Errorf("could not read an authority of the cluster: %w", err)
		}
		b.Files[name] = content
	}
	return b, nil
}

func settings(c *config.Config) map[string]string {
	return map[string]string{
		"cluster-cidr": c.ClusterCIDR, "service-cidr": c.ServiceCIDR,
		"cluster-dns": c.ClusterDNS, "cluster-domain": c.ClusterDomain,
	}
}

// CheckSettings refuses a server that is configured for another cluster.
func (b Bundle) CheckSettings(c *config.Config) error {
	own := settings(c)
	for _, key := range slices.Sorted(maps.Keys(own)) {
		if b.Settings[key] != own[key] {
			return fmt.Errorf("%s is %s here and %s in the cluster that this server joins: it has to be the same", key, own[key], b.Settings[key])
		}
	}
	return nil
}

// Write puts the authorities in place. Each file is whole or not there, and a server
// fetches and writes all of them at every start until its etcd has data, so a copy that
// was interrupted is never taken for a cluster's authorities.
func (b Bundle) Write(c *config.Config) error {
	for _, name := range authorities {
		mode := os.FileMode(0o600)
		if filepath.Ext(name) == ".crt" {
			mode = 0o644
		}
		if err := files.Replace(c.Layout.TLS(filepath.FromSlash(name)), mode, b.Files[name]); err != nil {
			return err
		}
	}
	return nil
}

// seal encrypts the bundle; open reverses it.
func (b Bundle) seal(t token.Token) (map[string][]byte, error) {
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("could not encode the cluster's authorities: %w", err)
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails: crypto/rand ends the process instead
	key, err := t.Key(salt)
	if err != nil {
		return nil, err
	}
	sealed, err := crypto.EncryptBytes(plain, key)
	if err != nil {
		return nil, fmt.Errorf("could not encrypt the cluster's authorities: %w", err)
	}
	return map[string][]byte{"salt": salt, "bundle": sealed}, nil
}

func open(data map[string][]byte, t token.Token) (Bundle, error) {
	if len(data["salt"]) != saltSize {
		return Bundle{}, errors.New("the Secret kube-system/" + SecretName + " is malformed")
	}
	key, err := t.Key(data["salt"])
	if err != nil {
		return Bundle{}, err
	}
	plain, err := crypto.DecryptBytes(data["bundle"], key)
	if err != nil {
		return Bundle{}, errors.New("the token does not open the Secret kube-system/" + SecretName + ": it is not the servers' token, or a server is about to replace it")
	}
	var b Bundle
	if err := json.Unmarshal(plain, &b); err != nil {
		return Bundle{}, fmt.Errorf("could not decode the cluster's authorities: %w", err)
	}
	for _, name := range authorities {
		if len(b.Files[name]) == 0 {
			return Bundle{}, fmt.Errorf("the cluster's authorities lack %s", name)
		}
	}
	return b, nil
}

// Fetch asks the server for the bundle, after checking that it is the token's cluster.
func Fetch(ctx context.Context, c *config.Config, t token.Token) (Bundle, error) {
	found, err := join.Discover(c, t)
	if err != nil {
		return Bundle{}, err
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: c.ServerURL, BearerToken: found.Credential, Timeout: requestTimeout,
		TLSClientConfig: rest.TLSClientConfig{CAData: found.CA}, UserAgent: "k3s-server",
	})
	if err != nil {
		return Bundle{}, fmt.Errorf("could not make a client for %s: %w", c.ServerURL, err)
	}
	secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, SecretName, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return Bundle{}, fmt.Errorf("the token does not let a server join, only the content of a server's node-token does: %w", err)
	case err != nil:
		return Bundle{}, fmt.Errorf("could not read the cluster's authorities: %w", err)
	}
	b, err := open(secret.Data, t)
	if err != nil {
		return Bundle{}, err
	}
	if !bytes.Equal(b.Files["server-ca.crt"], found.CA) {
		return Bundle{}, errors.New("the cluster's authorities are not those that the server itself uses")
	}
	return b, nil
}

// Publish keeps the Secret at what this server has, encrypted by its token. A Secret of
// the same content stays, so that servers do not write against each other. pinned says
// that the operator chose the agents' secret; otherwise the cluster's counts, and
// Publish returns it.
func Publish(ctx context.Context, client kubernetes.Interface, own Bundle, t token.Token, pinned bool) (string, error) {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	present, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	absent := apierrors.IsNotFound(err)
	if err != nil && !absent {
		return "", fmt.Errorf("could not read the Secret %s: %w", SecretName, err)
	}
	if !absent {
		if theirs, err := open(present.Data, t); err == nil {
			if !pinned && theirs.AgentSecret != "" {
				own.AgentSecret = theirs.AgentSecret
			}
			if theirs.equal(own) {
				return own.AgentSecret, nil
			}
		}
	}
	data, err := own.seal(t)
	if err != nil {
		return "", err
	}
	if absent {
		_, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: metav1.NamespaceSystem}, Data: data,
		}, metav1.CreateOptions{})
	} else {
		present.Data = data // with the version that was read: another server's write is not lost
		_, err = secrets.Update(ctx, present, metav1.UpdateOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("could not write the Secret %s: %w", SecretName, err)
	}
	log.Printf("the cluster's authorities are in the Secret kube-system/%s for servers that join", SecretName)
	return own.AgentSecret, nil
}

func (b Bundle) equal(other Bundle) bool {
	return maps.EqualFunc(b.Files, other.Files, bytes.Equal) && b.AgentSecret == other.AgentSecret && maps.Equal(b.Settings, other.Settings)
}
