// Package kubeconfig writes kubeconfig files in k3s's shape. It makes no keys.
package kubeconfig

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"furrow/k3s/internal/files"
)

// k3s names cluster, user and context alike.
const name = "default"

// User says how a kubeconfig authenticates: by certificate files, or by a token.
type User struct {
	CertFile, KeyFile string
	Token             string
}

// Config builds a kubeconfig that refers to files, so that a renewed certificate
// is picked up by whoever watches it.
func Config(server, caFile string, user User) *api.Config {
	return &api.Config{
		Clusters: map[string]*api.Cluster{name: {Server: server, CertificateAuthority: caFile}},
		AuthInfos: map[string]*api.AuthInfo{name: {
			ClientCertificate: user.CertFile, ClientKey: user.KeyFile, Token: user.Token,
		}},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}
}

// Embedded is Config with the files' content inside, for use on another machine.
func Embedded(server, caFile string, user User) (*api.Config, error) {
	config := Config(server, caFile, user)
	if err := api.FlattenConfig(config); err != nil {
		return nil, fmt.Errorf("could not embed the certificates into the kubeconfig: %w", err)
	}
	return config, nil
}

// Write replaces the file at once: a reader sees the old or the new content.
func Write(file string, mode os.FileMode, config *api.Config) error {
	content, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("could not encode the kubeconfig %s: %w", file, err)
	}
	return files.Replace(file, mode, content)
}
