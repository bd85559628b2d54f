package server

import (
	"context"
	_ "embed"
	"fmt"
	"log"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	bootstraptoken "k8s.io/kubernetes/cmd/kubeadm/app/apis/bootstraptoken/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/bootstraptoken/clusterinfo"
	bootstrapnode "k8s.io/kubernetes/cmd/kubeadm/app/phases/bootstraptoken/node"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/apiclient"

	"furrow/k3s/internal/apply"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/join"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/token"
)

// rules are the RBAC objects beside those of kubeadm's phases.
//
//go:embed rules.yaml
var rules []byte

// ensureCluster writes the objects that nodes need to join and to run.
func ensureCluster(ctx context.Context, c *config.Config, t token.Token, client kubernetes.Interface, applier *apply.Applier) error {
	objects, err := apply.Parse(rules)
	if err != nil {
		return err
	}
	if err := applier.Apply(ctx, objects); err != nil {
		return err
	}
	for _, phase := range []func(kubernetes.Interface) error{
		bootstrapnode.AllowBootstrapTokensToPostCSRs,
		bootstrapnode.AllowBootstrapTokensToGetNodes,
		bootstrapnode.AutoApproveNodeBootstrapTokens,
		bootstrapnode.AutoApproveNodeCertificateRotation,
		bootstrapnode.AllowAPIServerToAccessKubeletAPI,
		clusterinfo.CreateClusterInfoRBACRules,
	} {
		if err := phase(client); err != nil {
			return err
		}
	}
	if err := ensureBootstrapToken(ctx, t, client); err != nil {
		return err
	}
	if err := publishFacts(c, client); err != nil {
		return err
	}
	public := kubeconfig.Config(fmt.Sprintf("https://%s:%d", host(c.NodeIP), APIPort), c.Layout.TLS("server-ca.crt"), kubeconfig.User{})
	return clusterinfo.CreateBootstrapConfigMapIfNotExists(client, public)
}

// tokenDescription marks the Secret that this package owns among the cluster's
// bootstrap tokens.
const tokenDescription = "join token of k3s's server/node-token"

// ensureBootstrapToken makes the token valid for joining, and an earlier one invalid.
func ensureBootstrapToken(ctx context.Context, t token.Token, client kubernetes.Interface) error {
	id, secret, err := t.Bootstrap()
	if err != nil {
		return err
	}
	err = bootstrapnode.UpdateOrCreateTokens(client, false, []bootstraptoken.BootstrapToken{{
		Token:       &bootstraptoken.BootstrapTokenString{ID: id, Secret: secret},
		Description: tokenDescription,
		Usages:      []string{"signing", "authentication"},
		Groups:      []string{constants.NodeBootstrapTokenAuthGroup},
	}})
	if err != nil {
		return err
	}
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	tokens, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return fmt.Errorf("could not list the bootstrap tokens: %w", err)
	}
	for _, other := range tokens.Items {
		if string(other.Data["description"]) != tokenDescription || string(other.Data["token-id"]) == id {
			continue
		}
		if err := secrets.Delete(ctx, other.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("could not delete the former join token: %w", err)
		}
	}
	return nil
}

// publishFacts writes what an agent cannot know by itself.
func publishFacts(c *config.Config, client kubernetes.Interface) error {
	ca, err := os.ReadFile(c.Layout.TLS("client-ca.crt"))
	if err != nil {
		return fmt.Errorf("could not read the client certificate authority: %w", err)
	}
	facts := join.Facts{ClientCA: string(ca), ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, ClusterCIDR: c.ClusterCIDR}
	return apiclient.CreateOrUpdate(client.CoreV1().ConfigMaps(metav1.NamespaceSystem), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: join.FactsName, Namespace: metav1.NamespaceSystem},
		Data:       facts.Data(),
	})
}

// roleLabels is what k3s says of a server node.
const roleLabels = `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true","node-role.kubernetes.io/etcd":"true"}}}`

// labelNode marks this node as a server once its kubelet has registered it; the
// kubelet itself may not set labels of that prefix.
func labelNode(ctx context.Context, name string, client kubernetes.Interface) {
	retry(ctx, "could not label the node as a server", func(ctx context.Context) error {
		if err := waitForNode(ctx, name, client); err != nil {
			return err
		}
		_, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(roleLabels), metav1.PatchOptions{FieldManager: "k3s"})
		return err
	})
}

// waitForNode gives an error only when the time is up: that a kubelet has not
// registered yet is not worth a line.
func waitForNode(ctx context.Context, name string, client kubernetes.Interface) error {
	return wait.PollUntilContextCancel(ctx, retryEvery, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err == nil, nil
	})
}

const (
	retryEvery   = 300 * time.Millisecond
	retryTimeout = 20 * time.Second
)

// retry repeats an action until it succeeds or the context ends; an error is
// logged when it differs from the last.
func retry(ctx context.Context, what string, action func(context.Context) error) {
	last := ""
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, retryTimeout)
		err := action(attempt)
		cancel()
		if err == nil {
			return
		}
		if err.Error() != last {
			last = err.Error()
			log.Printf("%s, trying again: %v", what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}
