package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/pki"
	"furrow/k3s/internal/token"
)

// prepare makes everything that the components read: certificates, kubeconfigs,
// the token. It may be run again at every start.
func prepare(c *config.Config) (token.Token, error) {
	if err := c.Layout.MakeDirs(true); err != nil {
		return token.Token{}, err
	}
	if err := pki.EnsureServer(c); err != nil {
		return token.Token{}, err
	}
	if err := copyCAs(c); err != nil {
		return token.Token{}, err
	}
	if err := writeKubeconfigs(c); err != nil {
		return token.Token{}, err
	}
	if err := kubeconfig.Replace(authenticationFile(c), 0o600, []byte(authentication)); err != nil {
		return token.Token{}, err
	}
	return ensureToken(c)
}

func authenticationFile(c *config.Config) string {
	return c.Layout.Server("cred", "authentication.yaml")
}

// authentication lets nobody in without credentials but for the health endpoints
// and the signed facts that a joining node needs before it can trust this server.
const authentication = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
  - path: /version
  - path: /api/v1/namespaces/kube-public/configmaps/cluster-info
`

// copyCAs puts the authorities where the node's part of k3s has them.
func copyCAs(c *config.Config) error {
	for _, name := range []string{"server-ca.crt", "client-ca.crt"} {
		content, err := os.ReadFile(c.Layout.TLS(name))
		if err != nil {
			return fmt.Errorf("could not read the certificate authority: %w", err)
		}
		if err := kubeconfig.Replace(c.Layout.Agent(name), 0o644, content); err != nil {
			return err
		}
	}
	return nil
}

func writeKubeconfigs(c *config.Config) error {
	ca := c.Layout.TLS("server-ca.crt")
	certs := func(path string) kubeconfig.User {
		return kubeconfig.User{CertFile: path + ".crt", KeyFile: path + ".key"}
	}
	for file, cert := range map[string]string{
		c.Layout.Server("cred", "admin.kubeconfig"):      c.Layout.TLS("client-admin"),
		c.Layout.Server("cred", "controller.kubeconfig"): c.Layout.TLS("client-controller"),
		c.Layout.Server("cred", "scheduler.kubeconfig"):  c.Layout.TLS("client-scheduler"),
		c.Layout.Agent("kubelet.kubeconfig"):             c.Layout.Agent("client-kubelet"),
		c.Layout.Agent("kubeproxy.kubeconfig"):           c.Layout.Agent("client-kube-proxy"),
	} {
		if err := kubeconfig.Write(file, 0o600, kubeconfig.Config(apiURL, ca, certs(cert))); err != nil {
			return err
		}
	}
	admin, err := kubeconfig.Embedded(apiURL, ca, certs(c.Layout.TLS("client-admin")))
	if err != nil {
		return err
	}
	return kubeconfig.Write(layout.Kubeconfig, c.KubeconfigMode, admin)
}

// ensureToken takes the configured token, else the one of the last start, else
// makes one, and writes what an administrator copies to a joining node.
func ensureToken(c *config.Config) (token.Token, error) {
	file := c.Layout.Server("token")
	text := c.Token
	if text == "" {
		stored, err := os.ReadFile(file)
		switch {
		case err == nil:
			text = strings.TrimSpace(string(stored))
		case errors.Is(err, fs.ErrNotExist):
			text = token.Generate()
		default:
			return token.Token{}, fmt.Errorf("could not read the token: %w", err)
		}
	}
	parsed, err := token.Parse(text)
	if err != nil {
		return token.Token{}, err
	}
	ca, err := os.ReadFile(c.Layout.TLS("server-ca.crt"))
	if err != nil {
		return token.Token{}, fmt.Errorf("could not read the server's certificate authority: %w", err)
	}
	if err := parsed.CheckCA(ca); err != nil {
		return token.Token{}, err
	}
	full := []byte(parsed.NodeToken(ca) + "\n")
	for _, name := range []string{"token", "node-token", "agent-token"} {
		if err := kubeconfig.Replace(c.Layout.Server(name), 0o600, full); err != nil {
			return token.Token{}, err
		}
	}
	return parsed, nil
}
