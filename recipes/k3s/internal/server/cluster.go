package server

import (
	"context"
	_ "embed"
	"fmt"
	"log"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	"furrow/k3s/internal/bootstrap"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/join"
	"furrow/k3s/internal/kubeconfig"
	"furrow/k3s/internal/token"
)

// rules are the RBAC objects beside those of kubeadm's phases.
//
//go:embed rules.yaml
var rules []byte

// ensureCluster writes the objects that nodes need to join and to run. Every server
// does, all with the same content.
func ensureCluster(ctx context.Context, c *config.Config, t tokens, client kubernetes.Interface, applier *apply.Applier) error {
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
	t, err = publishAuthorities(ctx, c, t, client)
	if err != nil {
		return err
	}
	if err := ensureBootstrapTokens(ctx, t, client); err != nil {
		return err
	}
	if err := publishFacts(c, client); err != nil {
		return err
	}
	public := kubeconfig.Config(fmt.Sprintf("https://%s:%d", host(c.NodeIP), APIPort), c.Layout.TLS("server-ca.crt"), kubeconfig.User{})
	return clusterinfo.CreateBootstrapConfigMapIfNotExists(client, public)
}

// publishAuthorities makes it possible for servers to join, and takes the agents' secret
// over that the cluster has.
func publishAuthorities(ctx context.Context, c *config.Config, t tokens, client kubernetes.Interface) (tokens, error) {
	own, err := bootstrap.Read(c, t.agent.Secret)
	if err != nil {
		return t, err
	}
	agentSecret, err := bootstrap.Publish(ctx, client, own, t.server, c.AgentToken != "")
	if err != nil || agentSecret == t.agent.Secret {
		return t, err
	}
	if t.agent, err = token.Parse(agentSecret); err != nil {
		return t, err
	}
	return t, t.write(c, own.Files["server-ca.crt"])
}

// Descriptions mark the Secrets that this package owns among the cluster's bootstrap
// tokens.
const (
	serverTokenDescription = "join token of k3s's server/node-token"
	agentTokenDescription  = "join token of k3s's server/agent-token"
)

// ensureBootstrapTokens makes the tokens valid for joining, and earlier ones invalid.
func ensureBootstrapTokens(ctx context.Context, t tokens, client kubernetes.Interface) error {
	servers := bootstraptoken.BootstrapToken{
		Description: serverTokenDescription,
		Groups:      []string{constants.NodeBootstrapTokenAuthGroup, bootstrap.Group},
	}
	agents := bootstraptoken.BootstrapToken{
		Description: agentTokenDescription,
		Groups:      []string{constants.NodeBootstrapTokenAuthGroup},
	}
	wanted := []bootstraptoken.BootstrapToken{agents, servers}
	valid := map[string]bool{}
	// Where the operator gave both the same secret, the last one written is the servers'.
	for i, parsed := range []token.Token{t.agent, t.server} {
		id, secret, err := parsed.Bootstrap()
		if err != nil {
			return err
		}
		wanted[i].Token = &bootstraptoken.BootstrapTokenString{ID: id, Secret: secret}
		wanted[i].Usages = []string{"signing", "authentication"}
		valid[id] = true
	}
	if err := bootstrapnode.UpdateOrCreateTokens(client, false, wanted); err != nil {
		return err
	}
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	present, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return fmt.Errorf("could not list the bootstrap tokens: %w", err)
	}
	for _, other := range present.Items {
		description := string(other.Data["description"])
		ours := description == serverTokenDescription || description == agentTokenDescription
		if !ours || valid[string(other.Data["token-id"])] {
			continue
		}
		if err := secrets.Delete(ctx, other.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("could not delete a former join token: %w", err)
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

// role is what k3s says of a server node, and what makes the deletion of its Node wait
// for its etcd member.
const role = `{"metadata":{
	"labels":{"node-role.kubernetes.io/control-plane":"true","node-role.kubernetes.io/etcd":"true"},
	"finalizers":["` + memberFinalizer + `"]}}`

// labelNode marks this node as a server once its kubelet has registered it; the
// kubelet itself may not set labels of that prefix.
func labelNode(ctx context.Context, name string, client kubernetes.Interface) {
	retry(ctx, "could not label the node as a server", func(ctx context.Context) error {
		if err := waitForNode(ctx, name, client); err != nil {
			return err
		}
		_, err := client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(role), metav1.PatchOptions{FieldManager: "k3s"})
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
