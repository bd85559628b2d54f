package server

import (
	"context"
	"errors"
	"log"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// memberFinalizer holds the Node of a server until its etcd member is gone, so that
	// a deletion during which servers stop is finished by whoever is there later.
	memberFinalizer = "k3s.furrow.io/etcd-member"
	// removalResync tries again what etcd refused: it wants the members to have been
	// connected for 5 s.
	removalResync = 5 * time.Second
)

const withoutFinalizer = `{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + memberFinalizer + `"]}}`

// etcdMembers is what this needs of members.Node.
type etcdMembers interface {
	Remove(ctx context.Context, name string) error
	Alone(ctx context.Context) (bool, error)
}

// removal takes the etcd members of deleted Nodes away.
type removal struct {
	own    string
	client kubernetes.Interface
	etcd   etcdMembers
	// said holds what was logged last of a Node, so that it is logged once.
	said map[string]string
}

// removeDeleted does so until the context ends. Every server does it for the others:
// none removes its own member while it runs.
func removeDeleted(ctx context.Context, own string, client kubernetes.Interface, etcd etcdMembers) {
	r := &removal{own: own, client: client, etcd: etcd, said: map[string]string{}}
	handle := func(object any) {
		if node, ok := object.(*corev1.Node); ok {
			r.handle(ctx, node)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything()),
		ObjectType:    &corev1.Node{},
		ResyncPeriod:  removalResync,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    handle,
			UpdateFunc: func(_, object any) { handle(object) },
		},
		// The names of all images of all nodes would be kept for nothing.
		Transform: func(object any) (any, error) {
			if node, ok := object.(*corev1.Node); ok {
				node.Status, node.ManagedFields = corev1.NodeStatus{}, nil
			}
			return object, nil
		},
	})
	informer.RunWithContext(ctx)
}

func (r *removal) handle(ctx context.Context, node *corev1.Node) {
	if node.DeletionTimestamp == nil || !slices.Contains(node.Finalizers, memberFinalizer) {
		delete(r.said, node.Name)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	if err := r.release(ctx, node); err != nil && r.said[node.Name] != err.Error() {
		r.said[node.Name] = err.Error()
		log.Printf("the deletion of the Node %s waits: %v", node.Name, err)
		r.record(ctx, node, err)
	}
}

// record shows the reason to who waits for the deletion. That it cannot be written must
// not hold up the next try.
func (r *removal) record(ctx context.Context, node *corev1.Node, reason error) {
	now := metav1.Now()
	_, err := r.client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: node.Name + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID},
		Type:           corev1.EventTypeWarning, Reason: "EtcdMemberStays", Message: reason.Error(),
		Source:         corev1.EventSource{Component: "k3s", Host: r.own},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		log.Printf("could not write an event on the Node %s: %v", node.Name, err)
	}
}

var errOthersRemove = errors.New("this server is a member of etcd, which the other servers end; its k3s joins again when it is restarted")

// release lets the Node go once its member is gone. The Node of the only server goes
// without: its member is the cluster.
func (r *removal) release(ctx context.Context, node *corev1.Node) error {
	if node.Name == r.own {
		alone, err := r.etcd.Alone(ctx)
		if err != nil {
			return err
		}
		if !alone {
			return errOthersRemove
		}
		log.Printf("the Node of the only server was deleted: its etcd stays, a restart of k3s registers it again")
	} else if err := r.etcd.Remove(ctx, node.Name); err != nil {
		return err
	}
	_, err := r.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, []byte(withoutFinalizer), metav1.PatchOptions{FieldManager: "k3s"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
