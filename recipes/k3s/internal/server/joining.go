package server

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"furrow/k3s/internal/bootstrap"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/notify"
	"furrow/k3s/internal/token"
)

const (
	fetchEvery     = time.Second
	contactTimeout = 5 * time.Second
)

// fetchAuthorities brings the authorities of the cluster that this server joins. It
// waits for the server to answer, and ends with an error only when another try could not
// go better.
func fetchAuthorities(ctx context.Context, c *config.Config) (bootstrap.Bundle, error) {
	parsed, err := token.Parse(c.Token)
	if err != nil {
		return bootstrap.Bundle{}, err
	}
	if parsed.User == token.AgentUser {
		return bootstrap.Bundle{}, errAgentToken
	}
	last := ""
	for {
		bundle, err := bootstrap.Fetch(ctx, c, parsed)
		if err == nil {
			if err := bundle.CheckSettings(c); err != nil {
				return bootstrap.Bundle{}, err
			}
			log.Printf("joining the cluster of %s as a server", c.ServerURL)
			return bundle, bundle.Write(c)
		}
		if err.Error() != last {
			last = err.Error()
			notify.Status(fmt.Sprintf("waiting to join %s: %s", c.ServerURL, last))
			log.Printf("could not join the cluster at %s as a server, trying again: %v", c.ServerURL, err)
		}
		select {
		case <-ctx.Done():
			return bootstrap.Bundle{}, ctx.Err()
		case <-time.After(fetchEvery):
		}
	}
}

// etcdContacts are the client URLs of the servers that the joined server knows: where an
// API server runs, an etcd that votes does.
func etcdContacts(ctx context.Context, c *config.Config) ([]string, error) {
	identity := kubeconfig.User{CertFile: c.Layout.TLS("client-admin.crt"), KeyFile: c.Layout.TLS("client-admin.key")}
	settings := kubeconfig.Config(c.ServerURL, c.Layout.TLS("server-ca.crt"), identity)
	restConfig, err := clientcmd.NewDefaultClientConfig(*settings, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("could not make a client for %s: %w", c.ServerURL, err)
	}
	restConfig.Timeout = contactTimeout
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("could not make a client for %s: %w", c.ServerURL, err)
	}
	servers, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return nil, fmt.Errorf("could not ask %s for the cluster's servers: %w", c.ServerURL, err)
	}
	if urls := clientURLs(servers.Items); len(urls) > 0 {
		return urls, nil
	}
	return nil, fmt.Errorf("%s names no server of the cluster yet", c.ServerURL)
}

func clientURLs(slices []discoveryv1.EndpointSlice) []string {
	var urls []string
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				if _, err := netip.ParseAddr(address); err == nil {
					urls = append(urls, fmt.Sprintf("https://%s:%d", host(address), etcdPort))
				}
			}
		}
	}
	return urls
}
