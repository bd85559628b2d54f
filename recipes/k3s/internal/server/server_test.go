package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"slices"
	"strings"
	"testing"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"furrow/k3s/internal/apply"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/layout"
)

func TestAServingCertificateIsForTheNodesOwnNamesOnly(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.5"}}},
	}
	for name, test := range map[string]struct {
		user, commonName, dns, ip string
		approved                  bool
	}{
		"own names":          {"system:node:n1", "system:node:n1", "n1", "10.0.0.5", true},
		"another's address":  {"system:node:n1", "system:node:n1", "n1", "10.0.0.6", false},
		"another's name":     {"system:node:n1", "system:node:n1", "n2", "10.0.0.5", false},
		"asked for by other": {"system:node:n2", "system:node:n1", "n1", "10.0.0.5", false},
		"in another's name":  {"system:node:n1", "system:node:n2", "n1", "10.0.0.5", false},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
				Subject:  pkix.Name{CommonName: test.commonName, Organization: []string{"system:nodes"}},
				DNSNames: []string{test.dns}, IPAddresses: []net.IP{net.ParseIP(test.ip)},
			}, key)
			if err != nil {
				t.Fatal(err)
			}
			request, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			spec := certificates.CertificateSigningRequestSpec{
				Username: test.user, Groups: []string{"system:nodes", "system:authenticated"},
				Usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
			}
			if reason := refusal(spec, request, node); (reason == "") != test.approved {
				t.Errorf("got %q", reason)
			}
		})
	}
}

func TestDisableNamesAManifestByItsBase(t *testing.T) {
	for file, expected := range map[string]bool{"/m/coredns.yaml": true, "/m/furrow-coredns.yaml": false, "/m/sub/coredns.yml": true} {
		if isDisabled(file, []string{"coredns"}) != expected {
			t.Errorf("%s: expected %v", file, expected)
		}
	}
}

func TestListsAreTakenApartAndDefinitionsComeFirst(t *testing.T) {
	objects, err := apply.Parse([]byte(`
# a comment alone
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: Namespace, metadata: {name: b}}
---
{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, object := range sorted(objects) {
		names = append(names, object.GetName())
	}
	if !slices.Equal(names, []string{"b", "a", "c"}) {
		t.Errorf("got %q", names)
	}
}

func TestTheRulesOfNodesAreManifests(t *testing.T) {
	if objects, err := apply.Parse(rules); err != nil || len(objects) != 5 {
		t.Errorf("got %d objects, %v", len(objects), err)
	}
}

func TestOwnAuthenticationFlagsTakeTheFilesPlace(t *testing.T) {
	c := &config.Config{Layout: layout.Layout{DataDir: "/d"}, NodeIP: "10.0.0.5"}
	has := func() bool {
		return slices.ContainsFunc(apiServerFlags(c), func(f string) bool { return strings.HasPrefix(f, "--authentication-config=") })
	}
	if !has() {
		t.Error("the file is not used")
	}
	if c.APIServerArgs = []string{"oidc-issuer-url=https://x"}; has() {
		t.Error("the API server would refuse both")
	}
}
