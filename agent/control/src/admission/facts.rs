//! What admission asks of the cluster, in its own words, and the answers from this process's caches. A cache may be a
//! moment old; where that would refuse what is right, the API server is asked. Refuses to judge.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use furrow_api::vmi::EvictionStrategy;
use furrow_api::{ProviderNetwork, Subnet, VirtualMachine, VirtualMachineInstance, VirtualMachineInstancePreset, Vlan};
use furrow_model::instancetype::{Source, Which};
use furrow_model::mac::Mac;
use furrow_model::vm::memory::ClusterRoom;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::Value;

/// Something that could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("could not decide: {0}")]
pub(crate) struct FactsError(pub(crate) String);

/// Somebody who has a hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MacHolder {
    pub(crate) mac: Mac,
    /// Namespace of the virtual machine.
    pub(crate) namespace: String,
    /// Name of the virtual machine.
    pub(crate) name: String,
}

/// Somebody who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressHolder {
    /// The IP object.
    pub(crate) object: String,
    pub(crate) subnet: String,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) mac: Option<Mac>,
}

/// Labels and spec of an object.
pub(crate) type Labelled = (BTreeMap<String, String>, Value);

/// A reservation pod and its guest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reserved {
    pub(crate) vmi: VirtualMachineInstance,
    /// The pod's node; empty before it is bound.
    pub(crate) node: String,
    /// The pod ended.
    pub(crate) over: bool,
}

/// The cluster, as far as admission needs it.
pub(crate) trait Facts: Send + Sync + 'static {
    /// Provisioner of a storage class; `None` when there is no such class.
    fn provisioner(&self, class: &str) -> impl Future<Output = Result<Option<String>, FactsError>> + Send;
    /// Subnets that are not being deleted.
    fn subnets(&self) -> Vec<Arc<Subnet>>;
    /// Vlans that are not being deleted.
    fn vlans(&self) -> Vec<Arc<Vlan>>;
    /// ProviderNetworks that are not being deleted.
    fn provider_networks(&self) -> Vec<Arc<ProviderNetwork>>;
    /// Hardware addresses that virtual machines have or ask for.
    fn macs(&self) -> Vec<MacHolder>;
    /// Addresses that are given.
    fn addresses(&self) -> Vec<AddressHolder>;
    /// Machine type of virtual machines that name none.
    fn default_machine_type(&self) -> Option<String>;
    /// Room to grow of guests that name none.
    fn cluster_room(&self) -> ClusterRoom;
    /// Presets of a namespace that are not being deleted.
    fn presets(&self, namespace: &str) -> Vec<Arc<VirtualMachineInstancePreset>>;
    /// Spec of what a virtual machine refers to; the inner error is for the user: why there is none.
    fn type_spec(
        &self,
        vm: &VirtualMachine,
        which: Which,
    ) -> impl Future<Output = Result<Result<Option<Value>, String>, FactsError>> + Send;
    /// Labels and spec of what a volume's defaults may come from; `None` when there is no such object.
    fn labels_of(&self, source: &Source) -> impl Future<Output = Result<Option<Labelled>, FactsError>> + Send;
    /// Eviction strategy of guests that name none.
    fn eviction_strategy(&self) -> Option<EvictionStrategy>;
    /// A reservation pod with its guest; `None` for any other pod.
    fn reserved(&self, namespace: &str, pod: &str)
    -> impl Future<Output = Result<Option<Reserved>, FactsError>> + Send;
    /// Writes into a guest's status that it is to leave a node; with dry run that is only tried.
    fn mark_evacuation(
        &self,
        vmi: &VirtualMachineInstance,
        node: &str,
        dry_run: bool,
    ) -> impl Future<Output = Result<(), FactsError>> + Send;
    /// Whether a user may copy a claim of a namespace.
    fn may_clone(
        &self,
        user: &UserInfo,
        namespace: &str,
        claim: &str,
    ) -> impl Future<Output = Result<bool, FactsError>> + Send;
}
