//! The KubeVirt object: the cluster's configuration, and the health that every KubeVirt tool reads.
//!
//! Only the settings that Furrow reads are typed. Others pass the schema, and admission refuses them with their path.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    meta::{Condition, is_false},
    open_enum::open_enum,
    vmi::EvictionStrategy,
};

open_enum! {
    /// Where a KubeVirt deployment is.
    any enum KubeVirtPhase {
        /// Being installed.
        Deploying = "Deploying",
        /// Installed.
        Deployed = "Deployed",
        /// Being removed.
        Deleting = "Deleting",
        /// Removed.
        Deleted = "Deleted",
    }
}

/// Settings of the cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubevirt.io", version = "v1", kind = "KubeVirt", plural = "kubevirts", namespaced)]
#[kube(status = "KubeVirtStatus", derive = "PartialEq", derive = "Default", category = "all")]
#[kube(shortname = "kv", shortname = "kvs", doc = "Settings and health of virtualization in this cluster.")]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtSpec {
    /// Settings of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<KubeVirtConfiguration>,
}

/// Settings of guests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtConfiguration {
    /// Settings by architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture_configuration: Option<ArchitectureConfiguration>,
    /// Default CPU model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Default CPU request of a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<Quantity>,
    /// Runtime class of guests' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_runtime_class: Option<String>,
    /// Settings for developers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub developer_configuration: Option<DeveloperConfiguration>,
    /// Default eviction strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<EvictionStrategy>,
    /// Room of guests to grow while they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_update_configuration: Option<LiveUpdateConfiguration>,
    /// Default machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Seconds between balloon statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub mem_balloon_stats_period: Option<i32>,
    /// Settings of migrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<MigrationConfiguration>,
    /// More settings of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machine_options: Option<VirtualMachineOptions>,
}

/// Settings by architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ArchitectureConfiguration {
    /// Of guests that name no architecture; `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_architecture: Option<String>,
    /// Of amd64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amd64: Option<ArchitectureSettings>,
}

/// Settings of one architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ArchitectureSettings {
    /// Default machine type; before the one for all architectures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
}

/// Settings for developers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct DeveloperConfiguration {
    /// vCPUs a requested CPU; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpu_allocation_ratio: Option<i32>,
    /// Gates to open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<String>,
    /// Gates to keep closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled_feature_gates: Vec<String>,
    /// Guest memory in percent of requested memory; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_overcommit: Option<i32>,
    /// Software emulation instead of KVM.
    #[serde(default, skip_serializing_if = "is_false")]
    pub use_emulation: bool,
}

/// Room of guests to grow while they run, where they name none of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct LiveUpdateConfiguration {
    /// Sockets that each guest has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_cpu_sockets: Option<i32>,
    /// Memory that each guest has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_guest: Option<Quantity>,
    /// How many times its size a guest has room for, where the other two are absent; absent: 4 for sockets, 1 for memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_hotplug_ratio: Option<i32>,
}

/// Settings of migrations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct MigrationConfiguration {
    /// Taint that drains a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_drain_taint_key: Option<String>,
    /// At once from one node; absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub parallel_outbound_migrations_per_node: Option<i32>,
    /// At once in the cluster; absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub parallel_migrations_per_cluster: Option<i32>,
    /// Slow the guest down when it does not converge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
    /// Bytes a second; absent or 0: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// Seconds a GiB; absent: 150.
    #[serde(rename = "completionTimeoutPerGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub completion_timeout_per_gib: Option<i64>,
    /// Seconds without progress; absent: 150.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub progress_timeout: Option<i64>,
    /// Migrate what looks unsafe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_migration_override: Option<bool>,
    /// Switch to post-copy when it does not converge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_post_copy: Option<bool>,
    /// Pause the guest when it does not converge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_workload_disruption: Option<bool>,
    /// Migrate in clear text.
    #[serde(rename = "disableTLS", default, skip_serializing_if = "Option::is_none")]
    pub disable_tls: Option<bool>,
    /// Network for migrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Of no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_s_e_linux_level_on_migration: Option<bool>,
}

/// More settings of guests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineOptions {
    /// No free page reporting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_free_page_reporting: Option<crate::meta::Empty>,
    /// No log of serial consoles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_serial_console_log: Option<crate::meta::Empty>,
}

/// Health of virtualization in this cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeVirtStatus {
    /// Phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<KubeVirtPhase>,
    /// `Available`, `Progressing`, `Degraded`, `Created`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Version that is in charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,
    /// Registry wanted.
    #[serde(rename = "targetKubeVirtRegistry", default, skip_serializing_if = "Option::is_none")]
    pub target_kubevirt_registry: Option<String>,
    /// Version wanted.
    #[serde(rename = "targetKubeVirtVersion", default, skip_serializing_if = "Option::is_none")]
    pub target_kubevirt_version: Option<String>,
    /// Deployment wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_deployment_config: Option<String>,
    /// Deployment wanted.
    #[serde(rename = "targetDeploymentID", default, skip_serializing_if = "Option::is_none")]
    pub target_deployment_id: Option<String>,
    /// Registry in effect.
    #[serde(rename = "observedKubeVirtRegistry", default, skip_serializing_if = "Option::is_none")]
    pub observed_kubevirt_registry: Option<String>,
    /// Version in effect.
    #[serde(rename = "observedKubeVirtVersion", default, skip_serializing_if = "Option::is_none")]
    pub observed_kubevirt_version: Option<String>,
    /// Deployment in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_deployment_config: Option<String>,
    /// Deployment in effect.
    #[serde(rename = "observedDeploymentID", default, skip_serializing_if = "Option::is_none")]
    pub observed_deployment_id: Option<String>,
    /// Guests on an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outdated_virtual_machine_instance_workloads: Option<i32>,
    /// Generation seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Architecture of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_architecture: Option<String>,
    /// Generations of what was installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<GenerationStatus>,
    /// Where migrations between clusters arrive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synchronization_addresses: Vec<String>,
}

/// Generation of an installed object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationStatus {
    /// Group.
    pub group: String,
    /// Resource.
    pub resource: String,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Generation.
    pub last_generation: i64,
    /// Hash, for objects without generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}
