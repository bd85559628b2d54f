//! The VirtualMachineInstance and its `spec`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodDNSConfig, Toleration, TopologySpreadConstraint};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access::AccessCredential,
    domain::DomainSpec,
    networks::Network,
    probes::Probe,
    status::VirtualMachineInstanceStatus,
    volumes::{UtilityVolume, Volume},
};
use crate::open_enum::open_enum;

open_enum! {
    /// What a drain of the node does to the guest.
    listed enum EvictionStrategy {
        /// It is shut down; the run strategy decides what follows.
        None = "None",
        /// It is migrated; the drain waits.
        LiveMigrate = "LiveMigrate",
        /// It is migrated where that works, shut down otherwise.
        LiveMigrateIfPossible = "LiveMigrateIfPossible",
        /// Somebody else acts on `status.evacuationNodeName`.
        External = "External",
    }
}

open_enum! {
    /// How a guest is started.
    listed enum StartStrategy {
        /// Paused.
        Paused = "Paused",
    }
}

/// What a guest is made of and where it may run.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachineInstance",
    plural = "virtualmachineinstances",
    namespaced
)]
#[kube(status = "VirtualMachineInstanceStatus", derive = "PartialEq", derive = "Default", category = "all")]
#[kube(shortname = "vmi", shortname = "vmis", doc = "A guest that runs, or ran, on a node.")]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "IP", type_ = "string", json_path = ".status.interfaces[0].ipAddress"))]
#[kube(printcolumn(name = "NodeName", type_ = "string", json_path = ".status.nodeName"))]
#[kube(printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#)]
#[kube(
    printcolumn = r#"{"name":"Live-Migratable","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type=='LiveMigratable')].status"}"#
)]
#[kube(
    printcolumn = r#"{"name":"Paused","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type=='Paused')].status"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceSpec {
    /// Priority class of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// The virtual hardware.
    pub domain: DomainSpec,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity to nodes and other workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Scheduler; absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Service account of the guest's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How guests are spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// What a drain of the node does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<EvictionStrategy>,
    /// How the guest is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_strategy: Option<StartStrategy>,
    /// Seconds from the request to shut down to the power cut; absent: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Volumes for disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub volumes: Vec<Volume>,
    /// A guest that fails it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// A guest that fails it gets no Service traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Host name; absent: the VMI's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub hostname: Option<String>,
    /// Subdomain, by which the guest has a DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// Networks for interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub networks: Vec<Network>,
    /// DNS policy, as of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_policy: Option<String>,
    /// DNS parameters, as of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<PodDNSConfig>,
    /// SSH keys and passwords for the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub access_credentials: Vec<AccessCredential>,
    /// `amd64`, `arm64` or `s390x`; absent: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Claims of dynamic resource allocation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_claims: Vec<ResourceClaim>,
    /// Claims that help an operation and are no disk of the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub utility_volumes: Vec<UtilityVolume>,
}

/// A claim of dynamic resource allocation; one of the two names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceClaim {
    /// Name in this VMI.
    pub name: String,
    /// An existing ResourceClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_claim_name: Option<String>,
    /// A template to make one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_claim_template_name: Option<String>,
}
