//! Bodies of the subresource API (`subresources.kubevirt.io`): options that clients send, and what a guest's agent says,
//! under KubeVirt's names. Refuses rules: what an option means is control's affair.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use crate::vmi::GuestOsInfo;

/// `dryRun: [All]`.
const DRY_RUN_ALL: &str = "All";

/// Options of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartOptions {
    /// The guest does not execute until it is resumed.
    pub paused: bool,
    /// `All`: only checked.
    pub dry_run: Vec<String>,
}

/// Options of `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopOptions {
    /// Seconds until the guest is killed.
    pub grace_period: Option<i64>,
    /// `All`: only checked.
    pub dry_run: Vec<String>,
}

/// Options of `restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartOptions {
    /// Seconds until the guest is killed; only 0 is allowed.
    pub grace_period_seconds: Option<i64>,
    /// `All`: only checked.
    pub dry_run: Vec<String>,
}

/// Options of `pause` and `unpause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PauseOptions {
    /// `All`: only checked.
    pub dry_run: Vec<String>,
}

/// Options of `freeze`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FreezeUnfreezeTimeout {
    /// When the guest is thawed by itself, as Go writes durations: `5m0s`.
    pub unfreeze_timeout: Option<String>,
}

/// Whether options say that nothing is to be changed.
pub fn is_dry_run(dry_run: &[String]) -> bool {
    dry_run.iter().any(|word| word == DRY_RUN_ALL)
}

/// What a guest's agent says, all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestAgentInfo {
    /// Version of the agent in the guest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub guest_agent_version: String,
    /// Commands that it knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_commands: Vec<GuestAgentCommand>,
    /// The guest's own name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Its operating system.
    pub os: GuestOsInfo,
    /// Its time zone, such as `CET, 3600`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timezone: String,
    /// Who is logged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_list: Vec<GuestUser>,
    /// Its file systems.
    pub fs_info: FilesystemInfo,
    /// `frozen` while they are.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fs_freeze_status: String,
}

/// A command of the agent in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAgentCommand {
    /// Name.
    pub name: String,
    /// Whether the guest allows it.
    #[serde(default)]
    pub enabled: bool,
}

/// Somebody who is logged in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestUser {
    /// Name.
    pub user_name: String,
    /// Domain, on Windows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Since when, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_time: Option<f64>,
}

/// File systems as [`GuestAgentInfo`] holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemInfo {
    /// The file systems.
    #[serde(default)]
    pub disks: Vec<Filesystem>,
}

/// A file system in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filesystem {
    /// Name of the device in the guest, such as `vda1`.
    pub disk_name: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Type.
    pub file_system_type: String,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// The disks that it is on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<FilesystemDisk>,
}

/// A disk that a file system is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilesystemDisk {
    /// Serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Bus.
    pub bus_type: String,
}

/// Who is logged in, as a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserList {
    /// Empty.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The users.
    #[serde(default)]
    pub items: Vec<GuestUser>,
}

/// File systems, as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemList {
    /// Empty.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The file systems.
    #[serde(default)]
    pub items: Vec<Filesystem>,
}

/// Options of `objectgraph`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectGraphOptions {
    /// Whether nodes are listed without which it works as well; absent: yes.
    pub include_optional_nodes: Option<bool>,
    /// Labels that a node must have.
    pub label_selector: Option<LabelSelector>,
}

/// An object and what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectGraphNode {
    /// The object.
    pub object_reference: ObjectReference,
    /// What kind of dependency it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It works without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// What it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ObjectGraphNode>,
}

/// An object by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Group of its kind; empty for Kubernetes' own.
    pub api_group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; empty for objects of the cluster.
    pub namespace: String,
}

/// Options of `migrate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrateOptions {
    /// `All`: only checked.
    pub dry_run: Vec<String>,
    /// Labels that the node must have besides.
    pub added_node_selector: BTreeMap<String, String>,
}

/// Options of `evacuate/cancel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EvacuateCancelOptions {
    /// `All`: only checked.
    pub dry_run: Vec<String>,
    /// The node whose evacuation is called off; empty: any.
    pub evacuation_node_name: String,
}

/// Options of `rename`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RenameOptions {
    /// The name to be.
    pub new_name: String,
    /// The name that it has, if the client says so.
    pub old_name: Option<String>,
    /// `All`: only checked.
    pub dry_run: Vec<String>,
}
