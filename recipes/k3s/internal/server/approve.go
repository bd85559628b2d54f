package server

import (
	"context"
	"log"
	"slices"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	internal "k8s.io/kubernetes/pkg/apis/certificates"

	"crypto/x509"
	"strings"
)

// approvalResync looks again at requests that came before their node's addresses.
const approvalResync = 10 * time.Second

// approveServing approves the serving certificates that agents' kubelets ask for.
// Kubernetes leaves this to the distribution, because only it knows which names a
// node may claim: here those of the node's own object, asked for by the node.
func approveServing(ctx context.Context, client kubernetes.Interface) {
	selector := fields.OneTermEqualSelector("spec.signerName", certificates.KubeletServingSignerName)
	source := cache.NewListWatchFromClient(client.CertificatesV1().RESTClient(), "certificatesigningrequests", metav1.NamespaceAll, selector)
	handle := func(object any) {
		if request, ok := object.(*certificates.CertificateSigningRequest); ok && len(request.Status.Conditions) == 0 {
			decide(ctx, client, request)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &certificates.CertificateSigningRequest{},
		ResyncPeriod:  approvalResync,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    handle,
			UpdateFunc: func(_, object any) { handle(object) },
		},
	})
	informer.RunWithContext(ctx)
}

func decide(ctx context.Context, client kubernetes.Interface, request *certificates.CertificateSigningRequest) {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	node, err := client.CoreV1().Nodes().Get(ctx, strings.TrimPrefix(request.Spec.Username, nodeUser), metav1.GetOptions{})
	if err != nil {
		return // the resync looks again
	}
	parsed, err := internal.ParseCSR(request.Spec.Request)
	if err != nil {
		return
	}
	if reason := refusal(request.Spec, parsed, node); reason != "" {
		log.Printf("not approving the serving certificate request %s of %s: %s", request.Name, request.Spec.Username, reason)
		return
	}
	approved := request.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "NodeOwnsNames", Message: "the node asked for a certificate of its own names",
	})
	_, err = client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, request.Name, approved, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) { // on a conflict another server was first
		log.Printf("could not approve the serving certificate request %s: %v", request.Name, err)
	}
}

const nodeUser = "system:node:"

// refusal says why a request is not approved; empty when it is.
func refusal(spec certificates.CertificateSigningRequestSpec, request *x509.CertificateRequest, node *corev1.Node) string {
	usages := sets.NewString()
	for _, usage := range spec.Usages {
		usages.Insert(string(usage))
	}
	if err := internal.ValidateKubeletServingCSR(request, usages); err != nil {
		return err.Error()
	}
	if spec.Username != nodeUser+node.Name || request.Subject.CommonName != spec.Username {
		return "the requester is not the node that the certificate names"
	}
	if !slices.Contains(spec.Groups, "system:nodes") {
		return "the requester is not in the group system:nodes"
	}
	owned := []string{node.Name}
	for _, address := range node.Status.Addresses {
		owned = append(owned, address.Address)
	}
	for _, name := range request.DNSNames {
		if !slices.Contains(owned, name) {
			return "the node does not have the name " + name
		}
	}
	for _, ip := range request.IPAddresses {
		if !slices.Contains(owned, ip.String()) {
			return "the node does not have the address " + ip.String()
		}
	}
	return ""
}
