//! VirtualMachinePool (pool.kubevirt.io): so many virtual machines of one template, each with an index and disks of its
//! own.

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    meta::{Condition, Empty, TemplateMeta, is_false},
    open_enum::open_enum,
    vm::VirtualMachineSpec,
};

open_enum! {
    /// In which order virtual machines are taken.
    listed enum PoolSortPolicy {
        /// In no order; the default.
        Random = "Random",
        /// Lowest index first.
        AscendingOrder = "AscendingOrder",
        /// Highest index first.
        DescendingOrder = "DescendingOrder",
        /// Youngest first.
        Newest = "Newest",
        /// Oldest first.
        Oldest = "Oldest",
    }
}

open_enum! {
    /// What is left of a virtual machine that is removed by scaling in.
    listed enum StatePreservation {
        /// Nothing; the default.
        Disabled = "Disabled",
        /// Its disks.
        Offline = "Offline",
        /// Its disks and its memory.
        Online = "Online",
    }
}

/// So many virtual machines of one template.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "pool.kubevirt.io",
    version = "v1beta1",
    kind = "VirtualMachinePool",
    plural = "virtualmachinepools",
    namespaced
)]
#[kube(status = "VirtualMachinePoolStatus", derive = "PartialEq", derive = "Default", category = "all")]
#[kube(shortname = "vmpool", shortname = "vmpools", doc = "So many virtual machines of one template.")]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.labelSelector"
))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePoolSpec {
    /// How many; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Which virtual machines are its own; the template's labels must match it. It cannot be changed.
    pub selector: LabelSelector,
    /// The virtual machine.
    pub virtual_machine_template: VirtualMachineTemplateSpec,
    /// Nothing is made, changed or deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// Names of what the virtual machines refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_generation: Option<PoolNameGeneration>,
    /// How many may be down at once for an update, a number or percent of the replicas; absent: 100%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// How virtual machines are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_in_strategy: Option<PoolScaleInStrategy>,
    /// How a changed template reaches them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<PoolUpdateStrategy>,
    /// When one that does not start is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autohealing: Option<PoolAutohealing>,
}

/// The virtual machine that a pool makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTemplateSpec {
    /// Labels and annotations of the virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,
    /// Its spec.
    pub spec: VirtualMachineSpec,
}

/// Names of what the virtual machines refer to: whether each gets one with its index at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolNameGeneration {
    /// ConfigMaps of volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_index_to_config_map_refs: Option<bool>,
    /// Secrets of volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_index_to_secret_refs: Option<bool>,
}

/// How virtual machines are removed; at most one, none is `proactive`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolScaleInStrategy {
    /// By nobody but users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Empty>,
    /// By nobody but users; what they delete is not made anew while there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opportunistic: Option<PoolOpportunisticScaleIn>,
    /// By the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proactive: Option<PoolProactiveScaleIn>,
}

/// Removed by users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolOpportunisticScaleIn {
    /// What is left of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_preservation: Option<StatePreservation>,
}

/// Removed by the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolProactiveScaleIn {
    /// Which first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_policy: Option<PoolSelectionPolicy>,
    /// What is left of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_preservation: Option<StatePreservation>,
}

/// Which virtual machines are taken, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolSelectionPolicy {
    /// The order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort_policy: Option<PoolSortPolicy>,
    /// Those that match all of these, no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectors: Option<PoolSelectors>,
}

/// Which virtual machines are taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolSelectors {
    /// By labels of the guest's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// By the node selector of the guest's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector_requirement_matcher: Option<Vec<NodeSelectorRequirement>>,
}

/// How a changed template reaches virtual machines; at most one, none is `proactive`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolUpdateStrategy {
    /// Not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Empty>,
    /// The virtual machine at once, its guest at its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opportunistic: Option<Empty>,
    /// The guest too, by a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proactive: Option<PoolProactiveUpdate>,
}

/// Guests are restarted for an update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolProactiveUpdate {
    /// Which first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_policy: Option<PoolSelectionPolicy>,
}

/// When one that does not start is replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolAutohealing {
    /// Failed starts in a row; absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub start_up_failure_threshold: Option<i32>,
    /// How long it has not been ready, such as `5m`; absent: five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_failing_to_start_duration: Option<String>,
}

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePoolStatus {
    /// Virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Those of them that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// `ReplicaFailure`, `ReplicaPaused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The selector as text, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
}
