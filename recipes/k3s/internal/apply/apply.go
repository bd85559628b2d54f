// Package apply brings Kubernetes manifests into the cluster by server-side apply,
// and out of it. It keeps no state in the cluster beside the objects themselves.
package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// fieldManager owns the fields that come from manifests.
const fieldManager = "k3s"

// Applier writes objects of any kind.
type Applier struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// New connects an applier; nothing is asked of the server before the first use.
func New(config *rest.Config) (*Applier, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("could not make a dynamic client: %w", err)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("could not make a discovery client: %w", err)
	}
	return &Applier{client, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(clients.Discovery()))}, nil
}

// Parse reads a stream of YAML or JSON documents, lists taken apart.
func Parse(manifest []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d is not a Kubernetes object: %w", len(objects)+1, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.IsList() {
			err = object.EachListItem(func(item runtime.Object) error {
				objects = append(objects, item.(*unstructured.Unstructured))
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("the list in document %d is malformed: %w", len(objects)+1, err)
			}
			continue
		}
		objects = append(objects, object)
	}
}

// Apply writes every object and goes on after a failure: one object that waits for
// another (a custom resource for its definition) must not hold up the rest. All
// failures are returned together.
func (a *Applier) Apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	return a.each(objects, func(resource dynamic.ResourceInterface, object *unstructured.Unstructured) error {
		_, err := resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		return err
	})
}

// Delete removes every object, the last first; one that is gone already is fine.
func (a *Applier) Delete(ctx context.Context, objects []*unstructured.Unstructured) error {
	reversed := make([]*unstructured.Unstructured, 0, len(objects))
	for i := len(objects) - 1; i >= 0; i-- {
		reversed = append(reversed, objects[i])
	}
	background := metav1.DeletePropagationBackground
	return a.each(reversed, func(resource dynamic.ResourceInterface, object *unstructured.Unstructured) error {
		err := resource.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

func (a *Applier) each(objects []*unstructured.Unstructured, act func(dynamic.ResourceInterface, *unstructured.Unstructured) error) error {
	var failures []error
	for _, object := range objects {
		resource, err := a.resource(object)
		if err == nil {
			err = act(resource, object)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err))
		}
	}
	return errors.Join(failures...)
}

func (a *Applier) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		// The kind may have been defined since the server was last asked.
		a.mapper.Reset()
		mapping, err = a.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return a.client.Resource(mapping.Resource), nil
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	return a.client.Resource(mapping.Resource).Namespace(object.GetNamespace()), nil
}
