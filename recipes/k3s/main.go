// k3s by contract: one binary that keeps k3s's command line, configuration, files
// and join protocol, made of upstream Kubernetes, etcd and containerd.
//
// `k3s server` and `k3s agent` supervise; every component runs as a child, which is
// this binary under the component's name. See README.md for what is not here.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/pflag"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/component-base/version"

	"furrow/k3s/internal/component"
	"furrow/k3s/internal/config"
	"furrow/k3s/internal/join"
	"furrow/k3s/internal/node"
	"furrow/k3s/internal/notify"
	"furrow/k3s/internal/server"
	"furrow/k3s/internal/supervise"
)

const usage = `usage: k3s COMMAND [FLAGS]

  server    run a control plane and a node
  agent     run a node of an existing cluster
  kubectl   talk to the cluster
  ctr       talk to containerd
  --version print the version

Flags of server and agent are also keys of /etc/rancher/k3s/config.yaml.
`

func main() {
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	command := os.Args[1]
	if run, ok := components[command]; ok {
		os.Args = os.Args[1:]
		os.Exit(run())
	}
	switch command {
	case string(config.Server), string(config.Agent):
		os.Exit(supervised(config.Role(command), os.Args[2:]))
	case "--version", "-v", "version":
		fmt.Printf("k3s version %s (k3s-compatible build of upstream modules)\n", version.Get().GitVersion)
	case "--help", "-h", "help":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "k3s: unknown command %q\n%s", command, usage)
		os.Exit(2)
	}
}

// supervised runs a role until a signal ends it, and the children after it.
func supervised(role config.Role, args []string) int {
	log.SetFlags(0) // the journal has the time
	log.SetPrefix("k3s: ")
	debug.SetGCPercent(component.CollectorPercent)
	name, _ := os.Hostname()
	c, err := config.Load(role, args, config.Host{Name: name, Address: defaultAddress})
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err != nil {
		log.Print(err)
		return 1
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	group := &supervise.Group{}
	if role == config.Server {
		err = server.Run(ctx, c, group)
	} else {
		err = runAgent(ctx, c, group)
	}
	if ctx.Err() != nil {
		err = nil
	}
	cancel() // what a child waits for before its next start
	notify.Stopping()
	group.Stop()
	if err != nil {
		log.Print(err)
		return 1
	}
	return 0
}

func runAgent(ctx context.Context, c *config.Config, group *supervise.Group) error {
	if err := c.Layout.MakeDirs(false); err != nil {
		return err
	}
	if err := node.InstallPrograms(c.Layout); err != nil {
		return err
	}
	runtime := make(chan error, 1)
	go func() { runtime <- node.StartRuntime(ctx, c, group) }()
	facts, err := join.Join(ctx, c)
	if err != nil {
		return err
	}
	if err := <-runtime; err != nil {
		return err
	}
	cluster := node.Cluster{DNS: facts.ClusterDNS, Domain: facts.ClusterDomain, CIDR: facts.ClusterCIDR}
	if err := node.StartKubelet(ctx, c, cluster, group); err != nil {
		return err
	}
	if err := node.WaitHealthy(ctx); err != nil {
		return err
	}
	if err := join.LinkIdentity(c); err != nil {
		return err
	}
	notify.Ready("the kubelet is up")
	<-ctx.Done()
	return nil
}

// defaultAddress is the address of the default route's interface.
func defaultAddress() (string, error) {
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		return "", err
	}
	return ip.String(), nil
}
