//! The cluster as this process sees it: a cache of every kind that a decision reads, kept by watches, and which object
//! each change concerns. Refuses to decide anything. What is read from here may be a moment old; where that matters, the
//! caller asks the API server.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use furrow_api::{
    DataVolume, IP, KubeVirt, NetworkAttachmentDefinition, ProviderNetwork, StorageProfile, Subnet, VirtualMachine,
    VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstancePreset,
    VirtualMachineInstanceReplicaSet, VirtualMachinePool, Vlan, names,
};
use furrow_model::certificate::CLIENT_SIGNER;

use crate::calls::Object;
use crate::dispatch::Key;
use crate::events::Events;
use crate::marks::{self, Mark};

/// Everything that controllers share.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The API server.
    pub(crate) client: Client,
    /// Where events go.
    pub(crate) events: Events,
    /// Virtual machines.
    pub(crate) vms: Store<VirtualMachine>,
    /// Guests.
    pub(crate) vmis: Store<VirtualMachineInstance>,
    /// Reservation pods, no others.
    pub(crate) pods: Store<Pod>,
    /// DataVolumes.
    pub(crate) data_volumes: Store<DataVolume>,
    /// Claims.
    pub(crate) claims: Store<PersistentVolumeClaim>,
    /// Volumes.
    pub(crate) volumes: Store<PersistentVolume>,
    /// Storage classes.
    pub(crate) classes: Store<StorageClass>,
    /// What storage classes can do.
    pub(crate) profiles: Store<StorageProfile>,
    /// Subnets.
    pub(crate) subnets: Store<Subnet>,
    /// Tags.
    pub(crate) vlans: Store<Vlan>,
    /// Physical networks.
    pub(crate) provider_networks: Store<ProviderNetwork>,
    /// Names of networks.
    pub(crate) nads: Store<NetworkAttachmentDefinition>,
    /// Addresses.
    pub(crate) ips: Store<IP>,
    /// Settings.
    pub(crate) kubevirts: Store<KubeVirt>,
    /// Nodes.
    pub(crate) nodes: Store<Node>,
    /// Requests for certificates of clients of the API server.
    pub(crate) requests: Store<CertificateSigningRequest>,
    /// Sets of guests.
    pub(crate) replica_sets: Store<VirtualMachineInstanceReplicaSet>,
    /// Pools of virtual machines.
    pub(crate) pools: Store<VirtualMachinePool>,
    /// Requests to move guests.
    pub(crate) migrations: Store<VirtualMachineInstanceMigration>,
    /// Presets of guests.
    pub(crate) presets: Store<VirtualMachineInstancePreset>,
    queues: Arc<OnceLock<Queues>>,
}

/// Where marks go while this process leads.
#[derive(Debug, Clone)]
pub(crate) struct Queues {
    /// Of the virtual machine controller.
    pub(crate) vm: mpsc::Sender<Key>,
    /// Of the guest controller.
    pub(crate) vmi: mpsc::Sender<Key>,
    /// Of the DataVolume controller.
    pub(crate) data_volume: mpsc::Sender<Key>,
    /// Of the Subnet controller.
    pub(crate) subnet: mpsc::Sender<Key>,
    /// Of the controller of IP objects.
    pub(crate) ip: mpsc::Sender<Key>,
    /// Of the KubeVirt controller.
    pub(crate) kubevirt: mpsc::Sender<Key>,
    /// Of the controller of certificate requests.
    pub(crate) request: mpsc::Sender<Key>,
    /// Of the controller of the subresource API's endpoints.
    pub(crate) endpoints: mpsc::Sender<Key>,
    /// Of the controller of what virtual machines refer to.
    pub(crate) types: mpsc::Sender<Key>,
    /// Of the controller of sets of guests.
    pub(crate) replica_set: mpsc::Sender<Key>,
    /// Of the controller of pools.
    pub(crate) pool: mpsc::Sender<Key>,
    /// Of the controller of migrations.
    pub(crate) migration: mpsc::Sender<Key>,
}

impl Cluster {
    /// Starts all watches. Each runs until the process ends.
    pub(crate) fn start(client: Client, events: Events) -> Self {
        let all = || watcher::Config::default();
        let launchers = || all().labels(&format!("{}={}", names::LABEL_APP, names::APP_VIRT_LAUNCHER));
        let (vms, vm_feed) = feed::<VirtualMachine>(&client, all());
        let (vmis, vmi_feed) = feed::<VirtualMachineInstance>(&client, all());
        let (pods, pod_feed) = feed::<Pod>(&client, launchers());
        let (data_volumes, data_volume_feed) = feed::<DataVolume>(&client, all());
        let (claims, claim_feed) = feed::<PersistentVolumeClaim>(&client, all());
        let (volumes, volume_feed) = feed::<PersistentVolume>(&client, all());
        let (classes, class_feed) = feed::<StorageClass>(&client, all());
        let (profiles, profile_feed) = feed::<StorageProfile>(&client, all());
        let (subnets, subnet_feed) = feed::<Subnet>(&client, all());
        let (vlans, vlan_feed) = feed::<Vlan>(&client, all());
        let (provider_networks, provider_network_feed) = feed::<ProviderNetwork>(&client, all());
        let (nads, nad_feed) = feed::<NetworkAttachmentDefinition>(&client, all());
        let (ips, ip_feed) = feed::<IP>(&client, all());
        let (kubevirts, kubevirt_feed) = feed::<KubeVirt>(&client, all());
        let (nodes, node_feed) = feed::<Node>(&client, all());
        let of_clients = all().fields(&format!("spec.signerName={CLIENT_SIGNER}"));
        let (requests, request_feed) = feed::<CertificateSigningRequest>(&client, of_clients);
        let (replica_sets, replica_set_feed) = feed::<VirtualMachineInstanceReplicaSet>(&client, all());
        let (pools, pool_feed) = feed::<VirtualMachinePool>(&client, all());
        let (migrations, migration_feed) = feed::<VirtualMachineInstanceMigration>(&client, all());
        let (presets, preset_feed) = feed::<VirtualMachineInstancePreset>(&client, all());
        let queues = Arc::new(OnceLock::new());
        let cluster = Self {
            client,
            events,
            vms,
            vmis,
            pods,
            data_volumes,
            claims,
            volumes,
            classes,
            profiles,
            subnets,
            vlans,
            provider_networks,
            nads,
            ips,
            kubevirts,
            nodes,
            requests,
            replica_sets,
            pools,
            migrations,
            presets,
            queues,
        };
        cluster.run(vm_feed, marks::of_vm);
        cluster.run(vmi_feed, marks::of_vmi);
        cluster.run(pod_feed, marks::of_pod);
        cluster.run(data_volume_feed, marks::of_data_volume);
        cluster.run(claim_feed, marks::of_claim);
        cluster.run(volume_feed, marks::of_volume);
        cluster.run(class_feed, marks::of_storage);
        cluster.run(profile_feed, marks::of_storage);
        cluster.run(subnet_feed, marks::of_subnet);
        cluster.run(vlan_feed, marks::of_network);
        cluster.run(provider_network_feed, marks::of_network);
        cluster.run(nad_feed, marks::of_network);
        cluster.run(ip_feed, marks::of_ip);
        cluster.run(kubevirt_feed, marks::of_kubevirt);
        cluster.run(node_feed, marks::of_node);
        cluster.run(request_feed, marks::of_request);
        cluster.run(replica_set_feed, marks::of_replica_set);
        cluster.run(pool_feed, marks::of_pool);
        cluster.run(migration_feed, marks::of_migration);
        cluster.run(preset_feed, marks::of_preset);
        cluster
    }

    /// Waits until every cache has been filled once.
    pub(crate) async fn wait_until_filled(&self) -> anyhow::Result<()> {
        self.vms.wait_until_ready().await?;
        self.vmis.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.data_volumes.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.volumes.wait_until_ready().await?;
        self.classes.wait_until_ready().await?;
        self.profiles.wait_until_ready().await?;
        self.subnets.wait_until_ready().await?;
        self.vlans.wait_until_ready().await?;
        self.provider_networks.wait_until_ready().await?;
        self.nads.wait_until_ready().await?;
        self.ips.wait_until_ready().await?;
        self.kubevirts.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.requests.wait_until_ready().await?;
        self.replica_sets.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.migrations.wait_until_ready().await?;
        self.presets.wait_until_ready().await?;
        Ok(())
    }

    /// Lets marks go to these queues from now on. Before, nobody would take them, and watches would stand still.
    pub(crate) fn lead(&self, queues: Queues) {
        drop(self.queues.set(queues));
    }

    /// The API of a kind in a namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Object + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of a cluster-wide kind.
    pub(crate) fn api_all<K: Object>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn run<K: Object>(&self, mut feed: Feed<K>, marks: fn(&Self, &K, bool) -> Vec<Mark>) {
        let cluster = self.clone();
        tokio::spawn(async move {
            // The stream restarts by itself, with a back-off; it never ends.
            loop {
                match feed.try_next().await {
                    Ok(Some(Event::Apply(object))) => cluster.mark(marks(&cluster, &object, false)).await,
                    Ok(Some(Event::Delete(object))) => cluster.mark(marks(&cluster, &object, true)).await,
                    // What was deleted while the watch was down is told by no event.
                    Ok(Some(Event::InitDone)) => cluster.mark(marks::everything(&cluster)).await,
                    Ok(Some(Event::Init | Event::InitApply(_))) => {}
                    Ok(None) => break,
                    Err(error) => {
                        let error = furrow_model::reasons::chain(&error);
                        tracing::warn!(kind = %K::kind(&()), error, "watch failed, starting it again");
                    }
                }
            }
        });
    }

    async fn mark(&self, marks: Vec<Mark>) {
        let Some(queues) = self.queues.get() else { return };
        for mark in marks {
            let (queue, key) = match mark {
                Mark::Vm(key) => (&queues.vm, key),
                Mark::Vmi(key) => (&queues.vmi, key),
                Mark::DataVolume(key) => (&queues.data_volume, key),
                Mark::Subnet(key) => (&queues.subnet, key),
                Mark::Ip(key) => (&queues.ip, key),
                Mark::KubeVirt(key) => (&queues.kubevirt, key),
                Mark::Request(key) => (&queues.request, key),
                Mark::Endpoints(key) => (&queues.endpoints, key),
                Mark::Types(key) => (&queues.types, key),
                Mark::ReplicaSet(key) => (&queues.replica_set, key),
                Mark::Pool(key) => (&queues.pool, key),
                Mark::Migration(key) => (&queues.migration, key),
            };
            // It fails only when the controllers end, and with them the process.
            drop(queue.send(key).await);
        }
    }
}

type Feed<K> = futures::stream::BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// A cache and the events that fill it: an object is in the cache before its event is seen.
fn feed<K: Object>(client: &Client, config: watcher::Config) -> (Store<K>, Feed<K>) {
    let (reader, writer) = store::<K>();
    let api: Api<K> = Api::all(client.clone());
    let events = watch(api, config).modify(forget).default_backoff().reflect(writer);
    (reader, events.boxed())
}

/// Leaves out what no decision reads and what is often larger than the rest.
fn forget<K: Resource + 'static>(object: &mut K) {
    if let Some(node) = (object as &mut dyn std::any::Any).downcast_mut::<Node>()
        && let Some(status) = &mut node.status
    {
        status.images = None;
    }
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// An object of a namespace, from a cache.
pub(crate) fn find<K: Object>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>> {
    store.get(&ObjectRef::new(name).within(namespace))
}

/// A cluster-wide object, from a cache.
pub(crate) fn find_cluster<K: Object>(store: &Store<K>, name: &str) -> Option<Arc<K>> {
    store.get(&ObjectRef::new(name))
}

/// The controller of an object, if it is of kind `K`.
pub(crate) fn controller<K: Object>(object: &impl ResourceExt) -> Option<&OwnerReference> {
    let group = K::group(&());
    object.owner_references().iter().find(|owner| {
        let owner_group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        owner.controller == Some(true) && owner.kind == K::kind(&()) && owner_group == group
    })
}

/// The key of an object.
pub(crate) fn key_of(object: &impl ResourceExt) -> Key {
    Key::new(object.namespace().as_deref().unwrap_or_default(), &object.name_any())
}
