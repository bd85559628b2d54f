//! Instancetypes, which give a virtual machine its size, and preferences, which choose its devices where it does not say
//! itself. Field names are those of instancetype.kubevirt.io/v1beta1. What they mean is `furrow_model::instancetype`'s
//! affair; here is only their shape.

mod preference;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use preference::*;

use crate::vmi::{DiskIoThreads, Gpu, HostDevice, Hugepages, IoThreadsPolicy, LaunchSecurity, Numa, Realtime};

/// Group of the four kinds.
pub const GROUP: &str = "instancetype.kubevirt.io";
/// Version of the four kinds.
pub const VERSION: &str = "v1beta1";

/// Size of a virtual machine.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "instancetype.kubevirt.io",
    version = "v1beta1",
    kind = "VirtualMachineInstancetype",
    plural = "virtualmachineinstancetypes",
    namespaced
)]
#[kube(derive = "PartialEq", derive = "Default", category = "all", doc = "A size that virtual machines can refer to.")]
#[kube(shortname = "vminstancetype", shortname = "vminstancetypes", shortname = "vmf", shortname = "vmfs")]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstancetypeSpec {
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Scheduler; absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Processors.
    pub cpu: CpuInstancetype,
    /// Memory.
    pub memory: MemoryInstancetype,
    /// GPUs passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Host devices passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_devices: Vec<HostDevice>,
    /// Who owns the threads that do a disk's input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_threads_policy: Option<IoThreadsPolicy>,
    /// Options of the `supplementalPool` policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_threads: Option<DiskIoThreads>,
    /// Confidential computing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_security: Option<LaunchSecurity>,
    /// Annotations of the guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The same for all namespaces.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "instancetype.kubevirt.io",
    version = "v1beta1",
    kind = "VirtualMachineClusterInstancetype",
    plural = "virtualmachineclusterinstancetypes"
)]
#[kube(derive = "PartialEq", derive = "Default", doc = "A size that virtual machines of all namespaces can refer to.")]
#[kube(shortname = "vmclusterinstancetype", shortname = "vmclusterinstancetypes")]
#[kube(shortname = "vmcf", shortname = "vmcfs")]
#[serde(transparent)]
pub struct VirtualMachineClusterInstancetypeSpec(pub VirtualMachineInstancetypeSpec);

/// Processors of an instancetype.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuInstancetype {
    /// vCPUs; a preference says whether they are sockets, cores or threads.
    #[schemars(range(min = 1, max = 4096))]
    pub guest: i32,
    /// `host-model`, `host-passthrough` or a model that libvirt knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Pins each vCPU to a physical one of its own.
    #[serde(rename = "dedicatedCPUPlacement", default, skip_serializing_if = "Option::is_none")]
    pub dedicated_cpu_placement: Option<bool>,
    /// NUMA topology of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<Numa>,
    /// One more dedicated CPU for the emulator's threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate_emulator_thread: Option<bool>,
    /// Real-time scheduling of vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<Realtime>,
    /// Ceiling for sockets plugged in while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_sockets: Option<i32>,
}

/// Memory of an instancetype.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryInstancetype {
    /// What the guest sees.
    pub guest: Quantity,
    /// Backs guest memory by huge pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Hugepages>,
    /// Percent of the guest's memory that is not requested from the scheduler; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub overcommit_percent: Option<i32>,
    /// Ceiling for memory plugged in while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_guest: Option<Quantity>,
}
