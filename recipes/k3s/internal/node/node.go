// Package node runs the part of k3s that every node has: containerd, the imported
// images, the kubelet and kube-proxy. It decides nothing about the control plane.
package node

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"furrow/k3s/internal/component"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/supervise"
)

const (
	healthWait    = 100 * time.Millisecond
	healthRequest = time.Second
)

// StartRuntime starts containerd and returns when it answers and the archives of
// agent/images are in it.
func StartRuntime(ctx context.Context, c *config.Config, group *supervise.Group) error {
	if err := writeContainerdConfig(c); err != nil {
		return err
	}
	group.Start(component.Spec(c.Layout, component.Containerd, containerdFlags(c), nil))
	client, err := connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return importImages(ctx, client, c.Layout.Agent("images"))
}

// StartKubelet starts the kubelet and kube-proxy. The API server should answer by
// now: a kubelet that does not reach it backs off for seconds.
func StartKubelet(ctx context.Context, c *config.Config, cluster Cluster, group *supervise.Group) error {
	if err := writeKubeletConfig(c, cluster); err != nil {
		return err
	}
	mode := proxyMode(ctx)
	log.Printf("node %s at %s, kube-proxy in %s mode", c.NodeName, c.NodeIP, mode)
	group.Start(component.Spec(c.Layout, component.Kubelet, kubeletFlags(c), c.KubeletArgs))
	if c.Role == config.Agent {
		// kube-proxy reads the kubelet's kubeconfig, which appears with its certificate.
		if err := waitForFile(ctx, c.Layout.Agent("kubelet.kubeconfig")); err != nil {
			return err
		}
	}
	group.Start(component.Spec(c.Layout, component.Proxy, proxyFlags(c, cluster, mode), c.ProxyArgs))
	return nil
}

func waitForFile(ctx context.Context, path string) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthWait):
		}
	}
}

// WaitHealthy returns when the kubelet answers.
func WaitHealthy(ctx context.Context) error {
	client := http.Client{Timeout: healthRequest}
	for {
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", healthPort))
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthWait):
		}
	}
}
