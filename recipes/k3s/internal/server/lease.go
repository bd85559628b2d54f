package server

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"furrow/k3s/internal/component"
)

const leaseTimeout = 5 * time.Second

// takeLeases frees the election leases that this host's former controllers hold. They
// died with their supervisor, and nothing would be controlled until the leases run out.
func takeLeases(ctx context.Context, client kubernetes.Interface, started time.Time) {
	name, err := os.Hostname()
	if err != nil {
		log.Printf("could not free the former controllers' leases: %v", err)
		return
	}
	for _, lease := range []string{component.ControllerManager, component.Scheduler} {
		if err := takeLease(ctx, client, lease, name, started); err != nil {
			// The lease runs out by itself; a conflict says that it has another holder.
			log.Printf("could not free the former lease %s: %v", lease, err)
		}
	}
}

func takeLease(ctx context.Context, client kubernetes.Interface, name, hostname string, started time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	leases := client.CoordinationV1().Leases(metav1.NamespaceSystem)
	lease, err := leases.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("could not read it: %w", err)
	}
	if !leftBehind(lease, hostname, started) {
		return nil
	}
	nobody := ""
	lease.Spec.HolderIdentity = &nobody
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("could not write it: %w", err)
	}
	return nil
}

// leftBehind says whether a lease is held by a process that this host had before the
// supervisor started: components call themselves HOSTNAME_UUID. One that was renewed
// since belongs to another host of the same name.
func leftBehind(lease *coordination.Lease, hostname string, started time.Time) bool {
	holder, renewed := lease.Spec.HolderIdentity, lease.Spec.RenewTime
	return holder != nil && strings.HasPrefix(*holder, hostname+"_") && (renewed == nil || renewed.Time.Before(started))
}
