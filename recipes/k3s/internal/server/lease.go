package server

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"furrow/k3s/internal/supervise"
)

const leaseTimeout = 5 * time.Second

// startElected starts a controller that holds an election lease, and frees the lease that
// its predecessor on this host left behind: that one died with its supervisor, or has
// just ended, and nothing would be controlled until its lease runs out.
func startElected(ctx context.Context, client kubernetes.Interface, group *supervise.Group, spec supervise.Spec, started time.Time) {
	freeLease(ctx, client, filepath.Base(spec.Path), started)
	spec.Again = func() ([]string, error) {
		freeLease(ctx, client, filepath.Base(spec.Path), time.Now())
		return spec.Args, nil
	}
	group.Start(spec)
}

func freeLease(ctx context.Context, client kubernetes.Interface, lease string, ended time.Time) {
	name, err := os.Hostname()
	if err == nil {
		err = takeLease(ctx, client, lease, name, ended)
	}
	if err != nil {
		// The lease runs out by itself; a conflict says that it has another holder.
		log.Printf("could not free the former lease %s: %v", lease, err)
	}
}

func takeLease(ctx context.Context, client kubernetes.Interface, name, hostname string, ended time.Time) error {
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
	if !leftBehind(lease, hostname, ended) {
		return nil
	}
	nobody := ""
	lease.Spec.HolderIdentity = &nobody
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("could not write it: %w", err)
	}
	return nil
}

// leftBehind says whether a lease is held by a process of this host that has ended by
// then: components call themselves HOSTNAME_UUID. One that was renewed since belongs to
// another host of the same name.
func leftBehind(lease *coordination.Lease, hostname string, ended time.Time) bool {
	holder, renewed := lease.Spec.HolderIdentity, lease.Spec.RenewTime
	return holder != nil && strings.HasPrefix(*holder, hostname+"_") && (renewed == nil || renewed.Time.Before(ended))
}
