//! Which objects a change concerns. Marking too many costs a pass that finds nothing to do; marking too few costs a wait
//! until the resync, so that in doubt an object is marked.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use furrow_api::meta::Condition;
use furrow_api::vmi::{VmiPhase, Volume};
use furrow_api::{
    DataVolume, IP, KubeVirt, Subnet, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstancePreset, VirtualMachineInstanceReplicaSet, VirtualMachinePool,
};

use crate::cluster::{Cluster, controller, find, key_of};
use crate::dispatch::Key;
use crate::vmi::copies_claim;

/// An object to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A VirtualMachine.
    Vm(Key),
    /// A VirtualMachineInstance.
    Vmi(Key),
    /// A DataVolume.
    DataVolume(Key),
    /// A Subnet.
    Subnet(Key),
    /// An IP.
    Ip(Key),
    /// The KubeVirt object.
    KubeVirt(Key),
    /// A request for a certificate.
    Request(Key),
    /// Where the subresource API is served.
    Endpoints(Key),
    /// What a VirtualMachine refers to.
    Types(Key),
    /// A VirtualMachineInstanceReplicaSet.
    ReplicaSet(Key),
    /// A VirtualMachinePool.
    Pool(Key),
    /// A VirtualMachineInstanceMigration.
    Migration(Key),
}

/// All objects.
pub(crate) fn everything(cluster: &Cluster) -> Vec<Mark> {
    let mut marks: Vec<_> = cluster.vms.state().iter().map(|vm| Mark::Vm(key_of(vm.as_ref()))).collect();
    marks.extend(cluster.vms.state().iter().filter_map(|vm| crate::instancetype::key(vm)).map(Mark::Types));
    marks.extend(cluster.replica_sets.state().iter().map(|set| Mark::ReplicaSet(key_of(set.as_ref()))));
    marks.extend(cluster.pools.state().iter().map(|pool| Mark::Pool(key_of(pool.as_ref()))));
    marks.extend(cluster.migrations.state().iter().map(|found| Mark::Migration(key_of(found.as_ref()))));
    marks.extend(cluster.vmis.state().iter().map(|vmi| Mark::Vmi(key_of(vmi.as_ref()))));
    marks.extend(cluster.data_volumes.state().iter().map(|volume| Mark::DataVolume(key_of(volume.as_ref()))));
    marks.extend(cluster.subnets.state().iter().map(|subnet| Mark::Subnet(key_of(subnet.as_ref()))));
    marks.extend(cluster.ips.state().iter().map(|ip| Mark::Ip(key_of(ip.as_ref()))));
    marks.extend(cluster.kubevirts.state().iter().map(|kubevirt| Mark::KubeVirt(key_of(kubevirt.as_ref()))));
    marks.extend(cluster.requests.state().iter().map(|request| Mark::Request(key_of(request.as_ref()))));
    marks
}

/// A virtual machine changed; when it is gone, its addresses are.
pub(crate) fn of_vm(cluster: &Cluster, vm: &VirtualMachine, deleted: bool) -> Vec<Mark> {
    let mut marks = if deleted { addresses_of(cluster, vm) } else { Vec::new() };
    marks.push(Mark::Vm(key_of(vm)));
    marks.extend(crate::instancetype::key(vm).map(Mark::Types));
    let pool = controller::<VirtualMachinePool>(vm);
    marks.extend(pool.map(|pool| Mark::Pool(Key::new(&vm.namespace().unwrap_or_default(), &pool.name))));
    marks
}

/// A guest changed; when it is gone, its addresses may be.
pub(crate) fn of_vmi(cluster: &Cluster, vmi: &VirtualMachineInstance, deleted: bool) -> Vec<Mark> {
    let mut marks = if deleted { addresses_of(cluster, vmi) } else { Vec::new() };
    marks.extend([Mark::Vmi(key_of(vmi)), Mark::Vm(key_of(vmi))]);
    marks.extend(sets_of(cluster, vmi));
    marks
}

/// The set that a guest belongs to, or those that may take in one that belongs to nobody.
fn sets_of(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Vec<Mark> {
    let namespace = vmi.namespace().unwrap_or_default();
    if let Some(owner) = controller::<VirtualMachineInstanceReplicaSet>(vmi) {
        return vec![Mark::ReplicaSet(Key::new(&namespace, &owner.name))];
    }
    if vmi.owner_references().iter().any(|owner| owner.controller == Some(true)) {
        return Vec::new();
    }
    let sets = cluster.replica_sets.state();
    let near = sets.iter().filter(|set| set.namespace().as_deref() == Some(namespace.as_str()));
    let takes = near.filter(|set| crate::selector::matches(&set.spec.selector, vmi.labels()));
    takes.map(|set| Mark::ReplicaSet(key_of(set.as_ref()))).collect()
}

fn addresses_of(cluster: &Cluster, object: &impl ResourceExt) -> Vec<Mark> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let ips = cluster.ips.state();
    let own = ips.iter().filter(|ip| ip.spec.namespace == namespace && ip.spec.pod_name == name);
    own.map(|ip| Mark::Ip(key_of(ip.as_ref()))).collect()
}

/// A reservation pod changed.
pub(crate) fn of_pod(_: &Cluster, pod: &Pod, _: bool) -> Vec<Mark> {
    let namespace = pod.namespace().unwrap_or_default();
    let owner = controller::<VirtualMachineInstance>(pod);
    owner.map(|owner| Mark::Vmi(Key::new(&namespace, &owner.name))).into_iter().collect()
}

/// A DataVolume changed: itself, who uses it, and copies of its claim.
pub(crate) fn of_data_volume(cluster: &Cluster, volume: &DataVolume, _: bool) -> Vec<Mark> {
    let namespace = volume.namespace().unwrap_or_default();
    let mut marks = of_claim_named(cluster, &namespace, &volume.name_any());
    marks.extend(guest_of(volume));
    marks
}

/// The guest whose own DataVolume this is, see `vmi::container_disk`.
fn guest_of(volume: &DataVolume) -> Option<Mark> {
    let owner = controller::<VirtualMachineInstance>(volume)?;
    Some(Mark::Vmi(Key::new(&volume.namespace().unwrap_or_default(), &owner.name)))
}

/// A claim changed: its DataVolume, who uses it, and copies of it.
pub(crate) fn of_claim(cluster: &Cluster, claim: &PersistentVolumeClaim, _: bool) -> Vec<Mark> {
    of_claim_named(cluster, &claim.namespace().unwrap_or_default(), &claim.name_any())
}

/// A volume changed: whoever waits for its claim.
pub(crate) fn of_volume(cluster: &Cluster, volume: &PersistentVolume, _: bool) -> Vec<Mark> {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let key = claim.and_then(|claim| Some((claim.namespace.clone()?, claim.name.clone()?)));
    key.map(|(namespace, name)| of_claim_named(cluster, &namespace, &name)).unwrap_or_default()
}

fn of_claim_named(cluster: &Cluster, namespace: &str, name: &str) -> Vec<Mark> {
    let mut marks = vec![Mark::DataVolume(Key::new(namespace, name))];
    // A guest's own claims, see `vmi::scratch`.
    let owner = find(&cluster.claims, namespace, name);
    let owner = owner.and_then(|claim| controller::<VirtualMachineInstance>(claim.as_ref()).map(|o| o.name.clone()));
    marks.extend(owner.map(|owner| Mark::Vmi(Key::new(namespace, &owner))));
    // The state of a guest's machine, see `vmi::state`. A guest has its machine's name.
    let machine = find(&cluster.claims, namespace, name);
    let machine = machine.and_then(|claim| controller::<VirtualMachine>(claim.as_ref()).map(|o| o.name.clone()));
    marks.extend(machine.map(|machine| Mark::Vmi(Key::new(namespace, &machine))));
    let uses = |volume: &Volume| volume.claim_name() == Some(name) || copies_claim(volume, name);
    for vmi in cluster.vmis.state() {
        if vmi.namespace().as_deref() == Some(namespace) && vmi.spec.volumes.iter().any(uses) {
            marks.push(Mark::Vmi(key_of(vmi.as_ref())));
        }
    }
    for vm in cluster.vms.state() {
        let volumes = &vm.spec.template.spec.volumes;
        let templates = &vm.spec.data_volume_templates;
        let uses = volumes.iter().any(|volume| volume.claim_name() == Some(name))
            || templates.iter().any(|template| template.metadata.name.as_deref() == Some(name));
        if uses && vm.namespace().as_deref() == Some(namespace) {
            marks.push(Mark::Vm(key_of(vm.as_ref())));
        }
    }
    for copy in cluster.data_volumes.state() {
        let source = copy.spec.source.as_ref().and_then(|source| source.pvc.as_ref());
        let own = copy.namespace().unwrap_or_default();
        let copies = source.is_some_and(|source| {
            let from = if source.namespace.is_empty() { own.as_str() } else { source.namespace.as_str() };
            source.name == name && from == namespace
        });
        if copies {
            marks.push(Mark::DataVolume(key_of(copy.as_ref())));
            marks.extend(guest_of(&copy));
        }
    }
    marks
}

/// A storage class or its profile changed: DataVolumes that are not done.
pub(crate) fn of_storage<K>(cluster: &Cluster, _: &K, _: bool) -> Vec<Mark> {
    unfinished_data_volumes(cluster)
}

/// A node changed: imports that it can take, or has to hand over, and whether control is reached there.
pub(crate) fn of_node(cluster: &Cluster, _: &Node, _: bool) -> Vec<Mark> {
    let mut marks = unfinished_data_volumes(cluster);
    marks.push(Mark::Endpoints(crate::subresources::endpoints::key()));
    // It says how the nodes are.
    marks.extend(cluster.kubevirts.state().iter().map(|kubevirt| Mark::KubeVirt(key_of(kubevirt.as_ref()))));
    marks
}

fn unfinished_data_volumes(cluster: &Cluster) -> Vec<Mark> {
    let volumes = cluster.data_volumes.state();
    let unfinished = volumes.iter().filter(|volume| !volume.status.as_ref().is_some_and(|s| s.phase.is_final()));
    unfinished.map(|volume| Mark::DataVolume(key_of(volume.as_ref()))).collect()
}

/// A Subnet changed: its counters, and guests that wait for an address.
pub(crate) fn of_subnet(cluster: &Cluster, subnet: &Subnet, _: bool) -> Vec<Mark> {
    let mut marks = waiting_guests(cluster);
    marks.push(Mark::Subnet(key_of(subnet)));
    marks
}

/// A part of a network changed: guests that wait for an address.
pub(crate) fn of_network<K>(cluster: &Cluster, _: &K, _: bool) -> Vec<Mark> {
    waiting_guests(cluster)
}

/// An address came or went: its Subnet's counters; when it went, somebody may get it.
pub(crate) fn of_ip(cluster: &Cluster, ip: &IP, deleted: bool) -> Vec<Mark> {
    let mut marks = if deleted { waiting_guests(cluster) } else { Vec::new() };
    marks.extend([Mark::Subnet(Key::new("", &ip.spec.subnet)), Mark::Ip(key_of(ip))]);
    marks
}

/// Guests that are held up before they have a pod.
fn waiting_guests(cluster: &Cluster) -> Vec<Mark> {
    let held_up = |vmi: &VirtualMachineInstance| {
        let status = vmi.status.as_ref();
        status.is_some_and(|status| {
            status.phase == VmiPhase::Pending
                && Condition::find(&status.conditions, "Synchronized").is_some_and(|condition| !condition.is_true())
        })
    };
    let vmis = cluster.vmis.state();
    vmis.iter().filter(|vmi| held_up(vmi)).map(|vmi| Mark::Vmi(key_of(vmi.as_ref()))).collect()
}

/// A set of guests changed.
pub(crate) fn of_replica_set(_: &Cluster, set: &VirtualMachineInstanceReplicaSet, _: bool) -> Vec<Mark> {
    vec![Mark::ReplicaSet(key_of(set))]
}

/// A pool changed.
pub(crate) fn of_pool(_: &Cluster, pool: &VirtualMachinePool, _: bool) -> Vec<Mark> {
    vec![Mark::Pool(key_of(pool))]
}

/// A request to move a guest changed.
pub(crate) fn of_migration(_: &Cluster, migration: &VirtualMachineInstanceMigration, _: bool) -> Vec<Mark> {
    vec![Mark::Migration(key_of(migration))]
}

/// A preset changed: it concerns guests that are made later, and no object.
pub(crate) fn of_preset(_: &Cluster, _: &VirtualMachineInstancePreset, _: bool) -> Vec<Mark> {
    Vec::new()
}

/// The settings changed.
pub(crate) fn of_kubevirt(_: &Cluster, kubevirt: &KubeVirt, _: bool) -> Vec<Mark> {
    vec![Mark::KubeVirt(key_of(kubevirt))]
}

/// A request for a certificate came.
pub(crate) fn of_request(_: &Cluster, request: &CertificateSigningRequest, _: bool) -> Vec<Mark> {
    vec![Mark::Request(key_of(request))]
}
