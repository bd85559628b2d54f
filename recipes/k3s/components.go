package main

import (
	"context"
	"fmt"
	"os"
	_ "time/tzdata" // time zones of CronJobs

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	containerd "github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"          // log format json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of client-go
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric of the version
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"furrow/k3s/internal/component"
	"furrow/k3s/internal/layout"
)

// components are the upstream programs in this binary. Each takes the process over
// and returns its exit code; it finds its arguments in os.Args.
var components = map[string]func() int{
	component.Etcd: func() int {
		etcdmain.Main(os.Args)
		return 0
	},
	component.APIServer:         cobraProgram(apiserver.NewAPIServerCommand),
	component.ControllerManager: cobraProgram(controllers.NewControllerManagerCommand),
	component.Scheduler:         cobraProgram(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	component.Kubelet: cobraProgram(func() *cobra.Command {
		return kubelet.NewKubeletCommand(context.Background())
	}),
	component.Proxy:      cobraProgram(proxy.NewProxyCommand),
	component.Kubectl:    runKubectl,
	component.Containerd: func() int { return report("containerd", containerd.App().Run(os.Args)) },
	component.Ctr:        runCtr,
}

func cobraProgram(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

// runKubectl is kubectl with k3s's default: the administrator's kubeconfig.
func runKubectl() int {
	if _, set := os.LookupEnv("KUBECONFIG"); !set {
		if file, err := os.Open(layout.Kubeconfig); err == nil {
			file.Close()
			_ = os.Setenv("KUBECONFIG", layout.Kubeconfig)
		}
	}
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
		return 1
	}
	return 0
}

// runCtr is ctr with k3s's defaults: its containerd, Kubernetes' namespace.
func runCtr() int {
	for name, value := range map[string]string{
		"CONTAINERD_ADDRESS":   layout.ContainerdSocket,
		"CONTAINERD_NAMESPACE": "k8s.io",
	} {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, value)
		}
	}
	return report("ctr", ctr.New().Run(os.Args))
}

func report(name string, err error) int {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
		return 1
	}
	return 0
}
