package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"furrow/k3s/internal/bootstrap"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/members"
	"furrow/k3s/internal/pki"
	"furrow/k3s/internal/token"
)

// prepare makes everything that the components read: certificates, kubeconfigs,
// the tokens. It may be run again at every start.
func prepare(ctx context.Context, c *config.Config) (tokens, error) {
	if err := c.Layout.MakeDirs(true); err != nil {
		return tokens{}, err
	}
	fetched := bootstrap.Bundle{}
	if c.ServerURL != "" && !(members.HasData(c) && bootstrap.Present(c)) {
		var err error
		if fetched, err = fetchAuthorities(ctx, c); err != nil {
			return tokens{}, err
		}
	}
	if err := pki.EnsureServer(c); err != nil {
		return tokens{}, err
	}
	if err := copyCAs(c); err != nil {
		return tokens{}, err
	}
	if err := writeKubeconfigs(c); err != nil {
		return tokens{}, err
	}
	if err := files.Replace(authenticationFile(c), 0o600, []byte(authentication)); err != nil {
		return tokens{}, err
	}
	return ensureTokens(c, fetched.AgentSecret)
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
		if err := files.Replace(c.Layout.Agent(name), 0o644, content); err != nil {
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

var errAgentToken = errors.New("the token is one for agents: a server takes the content of another server's node-token")

// tokens are the secrets by which nodes join.
type tokens struct {
	// server lets servers and agents join, agent only agents.
	server, agent token.Token
}

// ensureTokens takes the configured tokens, else those of the cluster or of the last
// start, else makes them, and writes what an administrator copies to a joining node.
func ensureTokens(c *config.Config, agentSecret string) (tokens, error) {
	ca, err := os.ReadFile(c.Layout.TLS("server-ca.crt"))
	if err != nil {
		return tokens{}, fmt.Errorf("could not read the server's certificate authority: %w", err)
	}
	var t tokens
	if t.server, err = storedToken(c.Token, c.Layout.Server("token"), ""); err != nil {
		return tokens{}, err
	}
	if t.server.User == token.AgentUser {
		return tokens{}, errAgentToken
	}
	if c.AgentToken != "" {
		agentSecret = c.AgentToken
	}
	// Earlier versions wrote the servers' secret there.
	if t.agent, err = storedToken(agentSecret, c.Layout.Server("agent-token"), t.server.Secret); err != nil {
		return tokens{}, fmt.Errorf("agent-token: %w", err)
	}
	for _, parsed := range []token.Token{t.server, t.agent} {
		if err := parsed.CheckCA(ca); err != nil {
			return tokens{}, err
		}
	}
	return t, t.write(c, ca)
}

// storedToken parses the given token, or the one in a file unless its secret is not
// wanted, or makes one.
func storedToken(text, file, unwanted string) (token.Token, error) {
	if text != "" {
		return token.Parse(text)
	}
	stored, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return token.Token{}, fmt.Errorf("could not read the token: %w", err)
	}
	if err == nil {
		if parsed, err := token.Parse(string(stored)); err != nil || parsed.Secret != unwanted {
			return parsed, err
		}
	}
	return token.Parse(token.Generate())
}

func (t tokens) write(c *config.Config, ca []byte) error {
	for name, text := range map[string]string{
		"token":       t.server.Full(token.ServerUser, ca),
		"node-token":  t.server.Full(token.ServerUser, ca),
		"agent-token": t.agent.Full(token.AgentUser, ca),
	} {
		if err := files.Replace(c.Layout.Server(name), 0o600, []byte(text+"\n")); err != nil {
			return err
		}
	}
	return nil
}
