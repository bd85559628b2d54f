package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"furrow/k3s/internal/bootstrap"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
	"furrow/k3s/internal/token"
)

func withCA(t *testing.T) *config.Config {
	t.Helper()
	c := &config.Config{Layout: layout.Layout{DataDir: t.TempDir()}}
	if err := os.MkdirAll(c.Layout.TLS(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Layout.TLS("server-ca.crt"), []byte("ca"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func ensured(t *testing.T, c *config.Config, agentSecret string) tokens {
	t.Helper()
	got, err := ensureTokens(c, agentSecret)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTheAgentsTokenIsASecretOfItsOwnAndStays(t *testing.T) {
	c := withCA(t)
	c.Token = "the servers' secret"
	first := ensured(t, c, "")
	if first.agent.Secret == first.server.Secret {
		t.Error("both are the same")
	}
	if again := ensured(t, c, ""); again.agent.Secret != first.agent.Secret {
		t.Error("a restart changed it")
	}
	if joined := ensured(t, c, "the cluster's agents"); joined.agent.Secret != "the cluster's agents" {
		t.Error("the cluster's was not taken")
	}
	c.AgentToken = "the operator's choice"
	if chosen := ensured(t, c, "the cluster's agents"); chosen.agent.Secret != "the operator's choice" {
		t.Error("the operator's was not taken")
	}
	content, err := os.ReadFile(c.Layout.Server("agent-token"))
	if err != nil || string(content) != "K10"+token.Hash([]byte("ca"))+"::node:the operator's choice\n" {
		t.Errorf("got %q, %v", content, err)
	}
}

func TestAnAgentTokenThatIsTheServersIsReplaced(t *testing.T) {
	c := withCA(t)
	c.Token = "the servers' secret"
	former := "K10" + token.Hash([]byte("ca")) + "::server:the servers' secret\n"
	if err := os.WriteFile(filepath.Join(c.Layout.Server(), "agent-token"), []byte(former), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ensured(t, c, ""); got.agent.Secret == got.server.Secret {
		t.Error("agents could join servers")
	}
}

func TestAServerRefusesATokenForAgents(t *testing.T) {
	c := withCA(t)
	c.Token = "K10" + token.Hash([]byte("ca")) + "::node:0123456789abcdef"
	if _, err := ensureTokens(c, ""); !errors.Is(err, errAgentToken) {
		t.Errorf("got %v", err)
	}
	if _, err := fetchAuthorities(context.Background(), c); !errors.Is(err, errAgentToken) {
		t.Errorf("got %v", err)
	}
}

func parsed(t *testing.T, text string) token.Token {
	t.Helper()
	result, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestOnlyTheServersBootstrapTokenMayReadTheAuthorities(t *testing.T) {
	ctx, client := context.Background(), fake.NewSimpleClientset()
	groups := func() map[string]string {
		t.Helper()
		list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, secret := range list.Items {
			found[string(secret.Data["token-id"])] = string(secret.Data["auth-extra-groups"])
		}
		return found
	}
	check := func(tk tokens) {
		t.Helper()
		if err := ensureBootstrapTokens(ctx, tk, client); err != nil {
			t.Fatal(err)
		}
		agent, _, _ := tk.agent.Bootstrap()
		server, _, _ := tk.server.Bootstrap()
		got := groups()
		if !strings.Contains(got[server], bootstrap.Group) || (agent != server && strings.Contains(got[agent], bootstrap.Group)) {
			t.Errorf("got %v", got)
		}
		if expected := len(map[string]bool{agent: true, server: true}); len(got) != expected {
			t.Errorf("former tokens stay: %v", got)
		}
	}
	check(tokens{parsed(t, "the servers' secret"), parsed(t, "the agents' secret")})
	check(tokens{parsed(t, "a secret that is new"), parsed(t, "the agents' secret")})
	check(tokens{parsed(t, "one secret for both"), parsed(t, "one secret for both")})
}

func TestEtcdIsWhereTheAPIServersAre(t *testing.T) {
	got := clientURLs([]discoveryv1.EndpointSlice{
		{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"10.0.0.2"}}}},
		{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"fd00::1"}}}},
	})
	if !slices.Equal(got, []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://[fd00::1]:2379"}) {
		t.Errorf("got %q", got)
	}
}

func TestOnlyALeaseOfThisHostsFormerProcessesIsTaken(t *testing.T) {
	ctx, started := context.Background(), time.Now()
	for name, test := range map[string]struct {
		holder  string
		renewed time.Time
		taken   bool
	}{
		"this host's, from before":       {"n1_1234", started.Add(-time.Second), true},
		"this host's name, renewed now":  {"n1_1234", started.Add(time.Second), false},
		"another host's":                 {"n2_1234", started.Add(-time.Second), false},
		"a host whose name begins alike": {"n1x_1234", started.Add(-time.Second), false},
	} {
		t.Run(name, func(t *testing.T) {
			renewed := metav1.NewMicroTime(test.renewed)
			client := fake.NewSimpleClientset(&coordination.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: "kube-scheduler", Namespace: metav1.NamespaceSystem},
				Spec:       coordination.LeaseSpec{HolderIdentity: &test.holder, RenewTime: &renewed},
			})
			if err := takeLease(ctx, client, "kube-scheduler", "n1", started); err != nil {
				t.Fatal(err)
			}
			lease, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, "kube-scheduler", metav1.GetOptions{})
			if err != nil || (*lease.Spec.HolderIdentity == "") != test.taken {
				t.Errorf("got %+v, %v", lease, err)
			}
		})
	}
	if err := takeLease(ctx, fake.NewSimpleClientset(), "kube-scheduler", "n1", started); err != nil {
		t.Errorf("no lease yet: %v", err)
	}
}

// fakeEtcd remembers what was removed and may refuse.
type fakeEtcd struct {
	removed []string
	refusal error
	alone   bool
}

func (f *fakeEtcd) Remove(_ context.Context, name string) error {
	if f.refusal == nil {
		f.removed = append(f.removed, name)
	}
	return f.refusal
}

func (f *fakeEtcd) Alone(context.Context) (bool, error) { return f.alone, nil }

func TestADeletedServersNodeGoesAfterItsMember(t *testing.T) {
	now := metav1.Now()
	deleted := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, DeletionTimestamp: &now, Finalizers: []string{memberFinalizer}}}
	}
	present := deleted("n2")
	present.DeletionTimestamp = nil
	unfinalized := deleted("n2")
	unfinalized.Finalizers = []string{"another"}
	for name, test := range map[string]struct {
		node     *corev1.Node
		etcd     fakeEtcd
		removed  []string
		released bool
	}{
		"another server's":             {deleted("n2"), fakeEtcd{}, []string{"n2"}, true},
		"another's, refused by etcd":   {deleted("n2"), fakeEtcd{refusal: errors.New("no quorum")}, nil, false},
		"a Node that is not deleted":   {present, fakeEtcd{}, nil, false},
		"a Node that was not a server": {unfinalized, fakeEtcd{}, nil, false},
		"its own, with other servers":  {deleted("n1"), fakeEtcd{}, nil, false},
		"its own, when it is the only": {deleted("n1"), fakeEtcd{alone: true}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewSimpleClientset(test.node)
			r := &removal{own: "n1", client: client, etcd: &test.etcd, said: map[string]string{}}
			r.handle(context.Background(), test.node)
			if !slices.Equal(test.etcd.removed, test.removed) {
				t.Errorf("removed %q", test.etcd.removed)
			}
			released := false
			for _, action := range client.Actions() {
				released = released || action.GetVerb() == "patch"
			}
			if released != test.released {
				t.Errorf("released: %v", released)
			}
		})
	}
}
