//! VirtualMachineInstanceMigration: a request to move a guest, and what became of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kubevirt::MigrationConfiguration,
    meta::{Condition, is_false},
    open_enum::open_enum,
};

open_enum! {
    /// Where a migration is.
    any enum MigrationPhase {
        /// Nobody looked at it yet.
        Unset = "",
        /// Accepted.
        Pending = "Pending",
        /// Looks for a node.
        Scheduling = "Scheduling",
        /// Has a node.
        Scheduled = "Scheduled",
        /// The target is being made.
        PreparingTarget = "PreparingTarget",
        /// The target waits.
        TargetReady = "TargetReady",
        /// Memory is moving.
        Running = "Running",
        /// The guest runs on the target.
        Succeeded = "Succeeded",
        /// The guest still runs on the source.
        Failed = "Failed",
        /// Waits for the other cluster.
        WaitingForSync = "WaitingForSync",
        /// Speaks with the other cluster.
        Synchronizing = "Synchronizing",
    }
}

/// Which guest to move.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubevirt.io", version = "v1", kind = "VirtualMachineInstanceMigration", namespaced)]
#[kube(plural = "virtualmachineinstancemigrations", status = "VirtualMachineInstanceMigrationStatus")]
#[kube(derive = "PartialEq", derive = "Default", category = "all", shortname = "vmim", shortname = "vmims")]
#[kube(doc = "A request to move a guest to another node.")]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "VMI", type_ = "string", json_path = ".spec.vmiName"))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationSpec {
    /// Name of the guest, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmi_name: Option<String>,
    /// Labels that the target must have besides the guest's own selector.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_node_selector: BTreeMap<String, String>,
    /// Set on the source of a migration between clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_to: Option<MigrationSource>,
    /// Set on the target of a migration between clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<MigrationTarget>,
    /// `system-critical`, `user-triggered` or `system-maintenance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
}

/// The source of a migration between clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSource {
    /// Identifier on both sides.
    #[serde(rename = "migrationID")]
    pub migration_id: String,
    /// Where the other side listens.
    #[serde(rename = "connectURL")]
    pub connect_url: String,
}

/// The target of a migration between clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationTarget {
    /// Identifier on both sides.
    #[serde(rename = "migrationID")]
    pub migration_id: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationStatus {
    /// Phase.
    #[serde(default, skip_serializing_if = "MigrationPhase::is_unset")]
    pub phase: MigrationPhase,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When each phase was entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_transition_timestamps: Vec<MigrationPhaseTransitionTimestamp>,
    /// Details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<VirtualMachineInstanceMigrationState>,
    /// Where this side listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synchronization_addresses: Vec<String>,
}

/// When a phase was entered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPhaseTransitionTimestamp {
    /// The phase.
    #[serde(default, skip_serializing_if = "MigrationPhase::is_unset")]
    pub phase: MigrationPhase,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_transition_timestamp: Option<Time>,
}

/// Details of a migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationState {
    /// Start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// End.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
    /// When the target ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_domain_ready_timestamp: Option<Time>,
    /// The target has seen the domain.
    #[serde(default, skip_serializing_if = "is_false")]
    pub target_node_domain_detected: bool,
    /// Address of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_address: Option<String>,
    /// Ports of the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub target_direct_migration_node_ports: BTreeMap<String, i32>,
    /// Node of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node: Option<String>,
    /// Pod of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_pod: Option<String>,
    /// Attachment pod of the target.
    #[serde(rename = "targetAttachmentPodUID", default, skip_serializing_if = "Option::is_none")]
    pub target_attachment_pod_uid: Option<String>,
    /// Node of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_node: Option<String>,
    /// Pod of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_pod: Option<String>,
    /// Over.
    #[serde(default, skip_serializing_if = "is_false")]
    pub completed: bool,
    /// Failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub failed: bool,
    /// To be aborted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub abort_requested: bool,
    /// `Succeeded`, `Failed` or `Aborting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_status: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// UID of the migration object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_uid: Option<String>,
    /// `PreCopy`, `PostCopy` or `Paused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Policy in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_policy_name: Option<String>,
    /// Settings in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_configuration: Option<MigrationConfiguration>,
    /// CPUs of the target.
    #[serde(rename = "targetCPUSet", default, skip_serializing_if = "Vec::is_empty")]
    pub target_cpu_set: Vec<i32>,
    /// NUMA topology of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_topology: Option<String>,
    /// Claim with the source's persistent state.
    #[serde(rename = "sourcePersistentStatePVCName", default, skip_serializing_if = "Option::is_none")]
    pub source_persistent_state_pvc_name: Option<String>,
    /// Claim with the target's persistent state.
    #[serde(rename = "targetPersistentStatePVCName", default, skip_serializing_if = "Option::is_none")]
    pub target_persistent_state_pvc_name: Option<String>,
    /// What the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_state: Option<MigrationSideState>,
    /// What the target says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_state: Option<MigrationSideState>,
    /// `Pod` or `Migration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_network_type: Option<String>,
    /// Accounted beside the guest's memory on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_memory_overhead: Option<Quantity>,
}

/// What one side of a migration says; some fields are one side's only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSideState {
    /// Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// UID of the migration object.
    #[serde(rename = "migrationUID", default, skip_serializing_if = "Option::is_none")]
    pub migration_uid: Option<String>,
    /// libvirt domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// Namespace in the domain's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_namespace: Option<String>,
    /// Where this side listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_address: Option<String>,
    /// Claim with persistent state.
    #[serde(rename = "persistentStatePVCName", default, skip_serializing_if = "Option::is_none")]
    pub persistent_state_pvc_name: Option<String>,
    /// SELinux context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_context: Option<String>,
    /// UID of the guest.
    #[serde(rename = "virtualMachineInstanceUID", default, skip_serializing_if = "Option::is_none")]
    pub virtual_machine_instance_uid: Option<String>,
    /// Source: selectors for the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selectors: BTreeMap<String, String>,
    /// Target: when it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_ready_timestamp: Option<Time>,
    /// Target: it has seen the domain.
    #[serde(default, skip_serializing_if = "is_false")]
    pub domain_detected: bool,
    /// Target: address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<String>,
    /// Target: ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub direct_migration_node_ports: BTreeMap<String, i32>,
    /// Target: attachment pod.
    #[serde(rename = "attachmentPodUID", default, skip_serializing_if = "Option::is_none")]
    pub attachment_pod_uid: Option<String>,
    /// Target: CPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_set: Vec<i32>,
    /// Target: NUMA topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_topology: Option<String>,
}
