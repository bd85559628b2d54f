package config

// kind says how an option's text becomes values.
type kind int

const (
	text kind = iota
	boolean
	// list keeps each occurrence whole: component arguments hold commas.
	list
	// words splits each occurrence at commas, as k3s does for addresses and names.
	words
)

type option struct {
	kind kind
	// serverOnly options are accepted and ignored by an agent, as k3s does, so
	// that one drop-in can serve both roles.
	serverOnly bool
	help       string
}

// options is the whole contract; a key that is not here is refused by name.
var options = map[string]option{
	"token":                       {text, false, "shared secret of the cluster, or the server's node-token"},
	"token-file":                  {text, false, "file that holds the token"},
	"agent-token":                 {text, true, "secret by which agents join but no server (made when not given)"},
	"agent-token-file":            {text, true, "file that holds the agent-token"},
	"server":                      {text, false, "https://HOST:PORT of the server to join"},
	"data-dir":                    {text, false, "directory of all state"},
	"node-name":                   {text, false, "name of the Node object (default: the host's name)"},
	"node-ip":                     {words, false, "address of this node (default: that of the default route)"},
	"node-label":                  {list, false, "label of the Node, key=value"},
	"node-taint":                  {list, false, "taint of the Node, key=value:effect"},
	"pause-image":                 {text, false, "image of a pod's sandbox"},
	"kubelet-arg":                 {list, false, "flag of the kubelet, name=value"},
	"kube-proxy-arg":              {list, false, "flag of kube-proxy, name=value"},
	"cluster-init":                {boolean, true, "start a new cluster on embedded etcd (always so)"},
	"tls-san":                     {words, true, "further name or address in the API server's certificate"},
	"cluster-cidr":                {words, true, "network of the pods"},
	"service-cidr":                {words, true, "network of the Services"},
	"cluster-dns":                 {words, true, "address of the cluster's DNS Service"},
	"cluster-domain":              {text, true, "domain of the cluster's DNS"},
	"disable":                     {words, true, "manifest in server/manifests to leave out and delete, by base name"},
	"flannel-backend":             {text, true, "must be none"},
	"disable-network-policy":      {boolean, true, "must be true"},
	"write-kubeconfig-mode":       {text, true, "mode of k3s.yaml, octal"},
	"etcd-arg":                    {list, true, "flag of etcd, name=value"},
	"kube-apiserver-arg":          {list, true, "flag of the API server, name=value"},
	"kube-controller-manager-arg": {list, true, "flag of the controller manager, name=value"},
	"kube-scheduler-arg":          {list, true, "flag of the scheduler, name=value"},
}
