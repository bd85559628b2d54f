package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	certutil "k8s.io/client-go/util/cert"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
)

func factsFile(c *config.Config) string { return c.Layout.Agent("etc", "cluster.json") }

// store keeps the facts for a start without the server.
func store(c *config.Config, facts Facts) error {
	content, err := json.Marshal(facts)
	if err != nil {
		return fmt.Errorf("could not encode the cluster's facts: %w", err)
	}
	if err := files.Replace(factsFile(c), 0o600, content); err != nil {
		return err
	}
	return files.Replace(c.Layout.Agent("client-ca.crt"), 0o644, []byte(facts.ClientCA))
}

func stored(c *config.Config) (Facts, error) {
	content, err := os.ReadFile(factsFile(c))
	if err != nil {
		return Facts{}, fmt.Errorf("could not read the cluster's facts: %w", err)
	}
	var facts Facts
	if err := json.Unmarshal(content, &facts); err != nil {
		return Facts{}, fmt.Errorf("could not read the cluster's facts in %s: %w", factsFile(c), err)
	}
	return facts, nil
}

// forget removes the identity of a former membership: the kubelet would go on with
// it instead of asking for a new one.
func forget(c *config.Config) error {
	for _, file := range []string{kubeletKubeconfig(c), identityFile(c)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("could not remove the former identity: %w", err)
		}
	}
	return nil
}

// stillValid says whether a PEM file's first certificate has not expired.
func stillValid(pem []byte) bool {
	certificates, err := certutil.ParseCertsPEM(pem)
	return err == nil && time.Now().Before(certificates[0].NotAfter)
}

// LinkIdentity gives the kubelet's certificate k3s's names. The kubelet keeps
// certificate and key in one file and renews it in place, so both are links to it.
func LinkIdentity(c *config.Config) error {
	for _, name := range []string{"client-kubelet.crt", "client-kubelet.key"} {
		link := c.Layout.Agent(name)
		if target, err := os.Readlink(link); err == nil && target == identityFile(c) {
			continue
		}
		temporary := link + ".new"
		_ = os.Remove(temporary)
		if err := os.Symlink(identityFile(c), temporary); err != nil {
			return fmt.Errorf("could not link %s: %w", link, err)
		}
		if err := os.Rename(temporary, link); err != nil {
			return fmt.Errorf("could not link %s: %w", link, err)
		}
	}
	return nil
}
