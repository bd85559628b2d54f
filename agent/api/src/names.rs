//! Names that more than one part must agree on: labels, annotations, namespaces, objects, users, files.

/// Namespace of leases, the CA and the CSI side-cars.
pub const SYSTEM_NAMESPACE: &str = "furrow-system";
/// Namespace of the KubeVirt object, where clients look for it.
pub const KUBEVIRT_NAMESPACE: &str = "kubevirt";
/// Name of the KubeVirt object.
pub const KUBEVIRT_NAME: &str = "kubevirt";
/// Name of the CDIConfig singleton.
pub const CDI_CONFIG_NAME: &str = "config";

/// Field manager of control's writes.
pub const CONTROL_FIELD_MANAGER: &str = "furrow-control";
/// Field manager of the agent's writes.
pub const FIELD_MANAGER_AGENT: &str = "furrow-agent";

/// KubeVirt's label that says what a pod is for.
pub const LABEL_APP: &str = "kubevirt.io";
/// Value of [`LABEL_APP`] on a reservation pod.
pub const APP_VIRT_LAUNCHER: &str = "virt-launcher";
/// UID of the VMI that a pod was made for.
pub const LABEL_CREATED_BY: &str = "kubevirt.io/created-by";
/// Name of the VMI on its pod.
pub const LABEL_VM_NAME: &str = "vm.kubevirt.io/name";
/// Node that runs a VMI; the agent watches by it.
pub const LABEL_NODE_NAME: &str = "kubevirt.io/nodeName";
/// VMI that a migration is for; `virtctl migrate-cancel` selects by it.
pub const LABEL_VMI_NAME: &str = "kubevirt.io/vmi-name";
/// Subnet of an IP object.
pub const LABEL_SUBNET: &str = "ovn.kubernetes.io/subnet";
/// Name of the VM whose machine's state a claim keeps (KubeVirt's label).
pub const LABEL_STATE_FOR: &str = "persistent-state-for";
/// Which part of the machine's state a claim keeps: `nvram` or `tpm`.
pub const LABEL_STATE: &str = "furrow.io/state";
/// Label of a node whose kubelet sets CPUs aside: `true` or `false` (KubeVirt's label).
pub const LABEL_CPU_MANAGER: &str = "cpumanager";
/// Label of a node where processes in real time may have a CPU whole (KubeVirt's label).
pub const LABEL_REALTIME: &str = "kubevirt.io/realtime";
/// On a claim whose state is encrypted: the Secret of its namespace that has the key. Written once, when that was made; from
/// then on none is made for it, since the state could not be read with another.
pub const ANNOTATION_STATE_KEY: &str = "furrow.io/state-key";
/// Type of that Secret. Control makes Secrets of no other type.
pub const SECRET_STATE_KEY: &str = "furrow.io/state-key";
/// What of that Secret the key is made from: a text without an end of line.
pub const STATE_PASSPHRASE: &str = "passphrase";
/// Node that imports a DataVolume; its agent watches by it.
pub const LABEL_IMPORT_NODE: &str = "furrow.io/import-node";

/// JSON of [`crate::reservation::Reservation`] on a reservation pod. Only control may write it.
pub const ANNOTATION_RESERVATION: &str = "furrow.io/reservation";
/// JSON of [`crate::import::ImportJob`] on a DataVolume.
pub const ANNOTATION_IMPORT: &str = "furrow.io/import";
/// On the DataVolumes of [`SYSTEM_NAMESPACE`] that are the cluster's copies of container disks.
pub const LABEL_CONTAINER_DISK: &str = "furrow.io/container-disk";
/// The reference that such a copy was first asked for by.
pub const ANNOTATION_CONTAINER_IMAGE: &str = "furrow.io/container-image";
/// Path of the disk in the image, on such a copy.
pub const ANNOTATION_CONTAINER_DISK_PATH: &str = "furrow.io/container-disk-path";
/// When such a copy was last cloned, RFC 3339, to the hour or so.
pub const ANNOTATION_LAST_USED: &str = "furrow.io/last-used";
/// `NAMESPACE/NAME` of the pull secret, on such a copy.
pub const ANNOTATION_PULL_SECRET: &str = "furrow.io/pull-secret";
/// An allocation that a Subnet has promised and whose IP object may not exist yet.
pub const ANNOTATION_PENDING_ALLOCATION: &str = "furrow.io/pending-allocation";
/// The name that a VM is being given; written by the subresource `rename`.
pub const ANNOTATION_RENAME_TO: &str = "furrow.io/rename-to";
/// JSON of the VM (name and UID) that a VM succeeds, for as long as it takes over from it. Only control's word counts.
pub const ANNOTATION_SUCCEEDS: &str = "furrow.io/succeeds";
/// JSON list of volumes that were plugged into a VMI and are not its VM's.
pub const ANNOTATION_EPHEMERAL_VOLUMES: &str = "furrow.io/ephemeral-volumes";
/// On a guest: the generation of its reservation pod that reserves what its spec asks for. The node adds memory to the
/// guest when its kubelet has granted the pod that.
pub const ANNOTATION_RESERVED_GENERATION: &str = "furrow.io/reserved-generation";
/// Keeps a VMI until its guest is gone.
pub const FINALIZER_VMI: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Keeps a VM until its VMI is gone.
pub const FINALIZER_VM: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// Default StorageClass.
pub const STORAGE_CLASS: &str = "csi-rbd-sc";
/// CSI driver and provisioner.
pub const CSI_DRIVER: &str = "rbd.furrow.io";
/// Volume of the reservation pod that the kubelet puts a service account's token into.
pub const SERVICE_ACCOUNT_VOLUME: &str = "service-account";
/// Image of the reservation pod's only container.
pub const PAUSE_IMAGE: &str = "localhost/furrow/pause:1";

/// Ceph pool of volumes.
pub const CEPH_POOL: &str = "volumes";
/// Ceph user (without `client.`) that QEMU opens images as.
pub const CEPH_USER_QEMU: &str = "furrow-qemu";
/// Ceph user (without `client.`) of the agent.
pub const CEPH_USER_AGENT: &str = "furrow-agent";
/// UUID of the libvirt secret that holds the key of [`CEPH_USER_QEMU`].
pub const CEPH_SECRET_UUID: &str = "6f2c1d1e-6675-4272-8f77-66757272f001";
/// Usage name of that secret.
pub const CEPH_SECRET_USAGE: &str = "client.furrow-qemu secret";

/// User name of a node's agent is this and the node's name.
pub const AGENT_USER_PREFIX: &str = "furrow:agent:";
/// Group of all agents.
pub const AGENT_GROUP: &str = "furrow:agents";
/// User of control.
pub const CONTROL_USER: &str = "furrow:control";
/// Group of control.
pub const CONTROL_GROUP: &str = "furrow:controls";

/// Namespace of Kubernetes' own objects.
pub const KUBE_NAMESPACE: &str = "kube-system";
/// ConfigMap there in which the API server says which certificates to trust: those of clients, and its own as a proxy.
pub const AUTHENTICATION_CONFIG: &str = "extension-apiserver-authentication";
/// Group of the subresource API.
pub const SUBRESOURCES_GROUP: &str = "subresources.kubevirt.io";
/// Service in [`SYSTEM_NAMESPACE`] behind which control serves it.
pub const SUBRESOURCES_SERVICE: &str = "furrow-control";
/// Port of the servers on which control serves it.
pub const SUBRESOURCES_PORT: u16 = 8444;
/// Port of every node on which its agent answers control.
pub const AGENT_PORT: u16 = 8445;
/// Port of every node on which its agent shows metrics.
pub const AGENT_METRICS_PORT: u16 = 8446;
/// Port of the servers on which control shows metrics.
pub const CONTROL_METRICS_PORT: u16 = 8447;
