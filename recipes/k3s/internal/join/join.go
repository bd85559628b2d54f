// Package join makes a machine a node of an existing cluster: it learns the
// cluster's authority from the server and proves it by the token, then leaves a
// bootstrap kubeconfig with which the kubelet asks for its own certificate. The
// protocol is kubeadm's; this package adds the check of k3s's pinned hash. A server
// that joins begins with the same discovery.
package join

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	discovery "k8s.io/kubernetes/cmd/kubeadm/app/discovery/token"
	configutil "k8s.io/kubernetes/cmd/kubeadm/app/util/kubeconfig"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/token"
)

// FactsName is the ConfigMap in kube-system that tells agents about the cluster.
const FactsName = "k3s-agent-config"

const (
	discoveryTimeout = 15 * time.Second
	requestTimeout   = 5 * time.Second
	retryEvery       = time.Second
)

// Facts is what an agent has to be told.
type Facts struct{ ClientCA, ClusterDNS, ClusterDomain, ClusterCIDR string }

// Data is the ConfigMap's content.
func (f Facts) Data() map[string]string {
	return map[string]string{
		"client-ca.crt": f.ClientCA, "cluster-dns": f.ClusterDNS,
		"cluster-domain": f.ClusterDomain, "cluster-cidr": f.ClusterCIDR,
	}
}

func factsOf(data map[string]string) (Facts, error) {
	f := Facts{data["client-ca.crt"], data["cluster-dns"], data["cluster-domain"], data["cluster-cidr"]}
	if f.ClientCA == "" || f.ClusterDNS == "" || f.ClusterDomain == "" || f.ClusterCIDR == "" {
		return Facts{}, errors.New("the server's ConfigMap kube-system/" + FactsName + " is incomplete")
	}
	return f, nil
}

// Paths of an agent's own files.
func bootstrapFile(c *config.Config) string { return c.Layout.Agent("bootstrap-kubelet.kubeconfig") }
func identityFile(c *config.Config) string {
	return c.Layout.Agent("pki", "kubelet-client-current.pem")
}

// Join returns the cluster's facts, from the server or, when this node is a member
// already and the server does not answer, as they were at the last start.
func Join(ctx context.Context, c *config.Config) (Facts, error) {
	parsed, err := token.Parse(c.Token)
	if err != nil {
		return Facts{}, err
	}
	if isMember(c, parsed) {
		// The server may have moved; the kubelet only ever writes this file once.
		if err := writeIdentity(c); err != nil {
			return Facts{}, err
		}
		facts, err := refresh(ctx, c)
		if err == nil {
			return facts, nil
		}
		log.Printf("could not ask %s about the cluster, going on with what is known: %v", c.ServerURL, err)
		return stored(c)
	}
	last := ""
	for {
		facts, err := first(ctx, c, parsed)
		if err == nil {
			return facts, nil
		}
		if err.Error() != last {
			last = err.Error()
			log.Printf("could not join the cluster at %s, trying again: %v", c.ServerURL, err)
		}
		select {
		case <-ctx.Done():
			return Facts{}, ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// isMember says whether the kubelet has a certificate that still holds, from the
// cluster that the token names.
func isMember(c *config.Config, t token.Token) bool {
	certificate, err := os.ReadFile(identityFile(c))
	if err != nil || !stillValid(certificate) {
		return false
	}
	ca, err := os.ReadFile(c.Layout.Agent("server-ca.crt"))
	return err == nil && t.CheckCA(ca) == nil
}

func kubeletKubeconfig(c *config.Config) string { return c.Layout.Agent("kubelet.kubeconfig") }

func writeIdentity(c *config.Config) error {
	user := kubeconfig.User{CertFile: identityFile(c), KeyFile: identityFile(c)}
	return kubeconfig.Write(kubeletKubeconfig(c), 0o600, kubeconfig.Config(c.ServerURL, c.Layout.Agent("server-ca.crt"), user))
}

// Discovery is what a machine knows of a cluster before it is a part of it.
type Discovery struct {
	// CA is the server's authority, PEM, proved by the token.
	CA []byte
	// Credential is the bootstrap token.
	Credential string
}

// Discover asks the server for its authority and checks it by the token.
func Discover(c *config.Config, t token.Token) (Discovery, error) {
	server, err := url.Parse(c.ServerURL)
	if err != nil || server.Scheme != "https" || server.Host == "" {
		return Discovery{}, fmt.Errorf("server %q is not https://HOST:PORT", c.ServerURL)
	}
	id, secret, err := t.Bootstrap()
	if err != nil {
		return Discovery{}, err
	}
	credential := id + "." + secret
	info, err := discovery.RetrieveValidatedConfigInfo(nil, &kubeadm.Discovery{
		BootstrapToken: &kubeadm.BootstrapTokenDiscovery{
			Token: credential, APIServerEndpoint: server.Host, UnsafeSkipCAVerification: true,
		},
	}, discoveryTimeout)
	if err != nil {
		return Discovery{}, err
	}
	_, cluster, err := configutil.GetClusterFromKubeConfig(info)
	if err != nil {
		return Discovery{}, err
	}
	ca := cluster.CertificateAuthorityData
	return Discovery{ca, credential}, t.CheckCA(ca)
}

func first(ctx context.Context, c *config.Config, t token.Token) (Facts, error) {
	found, err := Discover(c, t)
	if err != nil {
		return Facts{}, err
	}
	if err := files.Replace(c.Layout.Agent("server-ca.crt"), 0o644, found.CA); err != nil {
		return Facts{}, err
	}
	if err := forget(c); err != nil {
		return Facts{}, err
	}
	bootstrap := kubeconfig.Config(c.ServerURL, c.Layout.Agent("server-ca.crt"), kubeconfig.User{Token: found.Credential})
	if err := kubeconfig.Write(bootstrapFile(c), 0o600, bootstrap); err != nil {
		return Facts{}, err
	}
	return ask(ctx, c, bootstrapFile(c))
}

func refresh(ctx context.Context, c *config.Config) (Facts, error) {
	return ask(ctx, c, kubeletKubeconfig(c))
}

// ask reads the facts as the user of a kubeconfig and keeps them.
func ask(ctx context.Context, c *config.Config, file string) (Facts, error) {
	restConfig, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return Facts{}, fmt.Errorf("could not read the kubeconfig %s: %w", file, err)
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(restConfig, "k3s-agent"))
	if err != nil {
		return Facts{}, fmt.Errorf("could not use the kubeconfig %s: %w", file, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, FactsName, metav1.GetOptions{})
	if err != nil {
		return Facts{}, fmt.Errorf("could not read the cluster's facts: %w", err)
	}
	facts, err := factsOf(object.Data)
	if err != nil {
		return Facts{}, err
	}
	return facts, store(c, facts)
}
