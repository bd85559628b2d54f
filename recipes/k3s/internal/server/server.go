// Package server runs the control plane: etcd, the API server, the controllers and
// the scheduler, then the objects that nodes need, then server/manifests. It leaves
// pods and their network to others.
package server

import (
	"context"
	"fmt"
	"log"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"furrow/k3s/internal/apply"
	"furrow/k3s/internal/component"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/members"
	"furrow/k3s/internal/node"
	"furrow/k3s/internal/notify"
	"furrow/k3s/internal/supervise"
)

const (
	readyWait  = 50 * time.Millisecond
	listenWait = 10 * time.Millisecond
	readyAsk   = 2 * time.Second
	// The kubeadm phases and the manifests are a few hundred requests at a start.
	clientQPS   = 200
	clientBurst = 400
)

// Run starts everything and returns when the context ends or a start-up step fails.
// The children are the caller's to stop.
func Run(ctx context.Context, c *config.Config, group *supervise.Group) error {
	started := time.Now()
	joinTokens, err := prepare(ctx, c)
	if err != nil {
		return err
	}
	if err := node.InstallPrograms(c.Layout); err != nil {
		return err
	}
	runtime := make(chan error, 1)
	go func() { runtime <- node.StartRuntime(ctx, c, group) }()
	etcd := members.New(c, members.Self{Name: c.NodeName, PeerURL: peerURL(c)}, etcdURL, func(ctx context.Context) ([]string, error) {
		return etcdContacts(ctx, c)
	})
	if err := startEtcd(ctx, c, etcd, group); err != nil {
		return err
	}
	group.Start(component.Spec(c.Layout, component.APIServer, apiServerFlags(c), c.APIServerArgs))

	restConfig, client, err := connect(c)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, client); err != nil {
		return err
	}
	log.Printf("the API server is ready after %s", time.Since(started).Round(time.Millisecond))
	notify.Ready("the API server is ready")
	controllers := component.Spec(c.Layout, component.ControllerManager, controllerFlags(c), c.ControllerArgs)
	startElected(ctx, client, group, controllers, started)
	scheduler := component.Spec(c.Layout, component.Scheduler, schedulerFlags(c), c.SchedulerArgs)
	startElected(ctx, client, group, scheduler, started)

	var background sync.WaitGroup
	defer background.Wait()
	if err := tend(ctx, &background, c, joinTokens, etcd, restConfig, client); err != nil {
		return err
	}
	if err := <-runtime; err != nil {
		return err
	}
	cluster := node.Cluster{DNS: c.ClusterDNS, Domain: c.ClusterDomain, CIDR: c.ClusterCIDR}
	if err := node.StartKubelet(ctx, c, cluster, group); err != nil {
		return err
	}
	if err := node.WaitHealthy(ctx); err == nil {
		log.Printf("the kubelet is up after %s", time.Since(started).Round(time.Millisecond))
	}
	// Starting took memory (certificates, images) that supervising does not.
	debug.FreeOSMemory()
	<-ctx.Done()
	return nil
}

// startEtcd starts etcd and returns when it answers and votes.
func startEtcd(ctx context.Context, c *config.Config, etcd *members.Node, group *supervise.Group) error {
	start, err := etcd.Prepare(ctx)
	if err != nil {
		return err
	}
	spec := component.Spec(c.Layout, component.Etcd, etcdFlags(c, start), c.EtcdArgs)
	spec.Again = func() ([]string, error) {
		start, err := etcd.Prepare(ctx)
		return component.Merge(etcdFlags(c, start), c.EtcdArgs), err
	}
	group.Start(spec)
	if err := waitListening(ctx, fmt.Sprintf("127.0.0.1:%d", etcdPort)); err != nil {
		return err
	}
	return etcd.Voting(ctx)
}

// tend starts what goes on for as long as the server runs.
func tend(ctx context.Context, background *sync.WaitGroup, c *config.Config, t tokens, etcd *members.Node, restConfig *rest.Config, client kubernetes.Interface) error {
	applier, err := apply.New(restConfig)
	if err != nil {
		return err
	}
	background.Go(func() {
		retry(ctx, "could not write the cluster's own objects", func(ctx context.Context) error {
			return ensureCluster(ctx, c, t, client, applier)
		})
	})
	background.Go(func() { newManifests(c.Layout.Server("manifests"), c.Disable, applier).run(ctx) })
	background.Go(func() { approveServing(ctx, client) })
	background.Go(func() { labelNode(ctx, c.NodeName, client) })
	background.Go(func() { etcd.Tend(ctx) })
	background.Go(func() { removeDeleted(ctx, c.NodeName, client, etcd) })
	return nil
}

func connect(c *config.Config) (*rest.Config, kubernetes.Interface, error) {
	restConfig, err := clientcmd.BuildConfigFromFlags("", c.Layout.Server("cred", "admin.kubeconfig"))
	if err != nil {
		return nil, nil, fmt.Errorf("could not read the administrator's kubeconfig: %w", err)
	}
	restConfig.QPS, restConfig.Burst = clientQPS, clientBurst
	restConfig.UserAgent = "k3s-server"
	// Manifests may name what is deprecated; that is for their author to see in
	// kubectl, not for this log.
	restConfig.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("could not make a client for the API server: %w", err)
	}
	return restConfig, client, nil
}

// waitListening returns when something accepts connections. An API server that finds
// no etcd at its start waits a second before it looks again.
func waitListening(ctx context.Context, address string) error {
	for {
		connection, err := (&net.Dialer{Timeout: readyAsk}).DialContext(ctx, "tcp", address)
		if err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(listenWait):
		}
	}
}

func waitReady(ctx context.Context, client kubernetes.Interface) error {
	last := time.Now()
	for {
		ask, cancel := context.WithTimeout(ctx, readyAsk)
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ask)
		cancel()
		if err == nil {
			return nil
		}
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			notify.Status("waiting for the API server")
			log.Printf("the API server is not ready yet: %v", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readyWait):
		}
	}
}
