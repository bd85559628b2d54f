//! VirtualMachine: the template of a guest and whether it should run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    datavolume::DataVolumeSpec,
    meta::{Condition, Empty, TemplateMeta, is_false},
    open_enum::open_enum,
    vmi::{ChangedBlockTrackingStatus, DataVolumeRef, Disk, MigratedVolume, PvcVolume, VirtualMachineInstanceSpec},
};

open_enum! {
    /// Whether a guest should run, and what follows when it ends.
    listed enum RunStrategy {
        /// Never.
        Halted = "Halted",
        /// Always; started again whatever ended it.
        Always = "Always",
        /// As the start and stop requests say.
        Manual = "Manual",
        /// Started again when it failed.
        RerunOnFailure = "RerunOnFailure",
        /// Once.
        Once = "Once",
        /// Waits for a migration from another cluster.
        WaitAsReceiver = "WaitAsReceiver",
    }
}

open_enum! {
    /// One word for people and for tools that show it; order of precedence in facts of KubeVirt's controller.
    any enum PrintableStatus {
        /// Not running, nothing under way.
        Stopped = "Stopped",
        /// Its volumes are being made.
        Provisioning = "Provisioning",
        /// On its way up.
        Starting = "Starting",
        /// Runs.
        Running = "Running",
        /// Paused.
        Paused = "Paused",
        /// On its way down.
        Stopping = "Stopping",
        /// Being deleted.
        Terminating = "Terminating",
        /// Fails to start, waits before the next try.
        CrashLoopBackOff = "CrashLoopBackOff",
        /// Moves to another node.
        Migrating = "Migrating",
        /// Its node cannot be asked.
        Unknown = "Unknown",
        /// No node takes it.
        ErrorUnschedulable = "ErrorUnschedulable",
        /// An image cannot be pulled.
        ErrImagePull = "ErrImagePull",
        /// An image cannot be pulled, waits before the next try.
        ImagePullBackOff = "ImagePullBackOff",
        /// A claim is missing.
        ErrorPvcNotFound = "ErrorPvcNotFound",
        /// A DataVolume failed.
        DataVolumeError = "DataVolumeError",
        /// A claim is not bound.
        WaitingForVolumeBinding = "WaitingForVolumeBinding",
        /// Waits for a migration from another cluster.
        WaitingForReceiver = "WaitingForReceiver",
    }
}

open_enum! {
    /// What a state change request asks for.
    listed enum StateChangeAction {
        /// Start.
        Start = "Start",
        /// Stop.
        Stop = "Stop",
    }
}

/// The template of a guest and whether it should run. `running` and `runStrategy` exclude each other.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubevirt.io", version = "v1", kind = "VirtualMachine", plural = "virtualmachines", namespaced)]
#[kube(status = "VirtualMachineStatus", derive = "PartialEq", derive = "Default", category = "all")]
#[kube(
    shortname = "vm",
    shortname = "vms",
    doc = "A virtual machine: it keeps its disks and addresses over stop and start."
)]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.printableStatus"))]
#[kube(printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Deprecated upstream: true is `Always`, false is `Halted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Whether the guest should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// Instancetype that fills in sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instancetype: Option<InstancetypeMatcher>,
    /// Preference that fills in devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<InstancetypeMatcher>,
    /// The guest.
    pub template: VirtualMachineInstanceTemplateSpec,
    /// DataVolumes made for this VM and deleted with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_volume_templates: Vec<DataVolumeTemplateSpec>,
    /// `Replacement` or `Migration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_volumes_strategy: Option<String>,
}

/// The guest that a VM makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceTemplateSpec {
    /// Labels and annotations of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,
    /// Its spec.
    pub spec: VirtualMachineInstanceSpec,
}

/// A DataVolume made for a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataVolumeTemplateSpec {
    /// Kept for old clients; of no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Kept for old clients; of no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, labels and annotations.
    pub metadata: TemplateMeta,
    /// Its spec.
    pub spec: DataVolumeSpec,
    /// Kept for old clients; of no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Empty>,
}

/// A reference to an instancetype or a preference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstancetypeMatcher {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kind; absent: the cluster-wide one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// ControllerRevision to use instead of the object as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// Volume whose labels name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// `Reject` (default) or `Ignore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<String>,
}

/// What is known of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Snapshot being taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_in_progress: Option<String>,
    /// Restore under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_in_progress: Option<String>,
    /// Its guest exists.
    #[serde(default, skip_serializing_if = "is_false")]
    pub created: bool,
    /// Its guest is ready.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ready: bool,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<PrintableStatus>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Start and stop requests not yet carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_change_requests: Vec<StateChangeRequest>,
    /// Hotplug requests not yet carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_requests: Vec<VolumeRequest>,
    /// Which volumes can be snapshotted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_snapshot_statuses: Vec<VolumeSnapshotStatus>,
    /// Failures to start, for the back-off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_failure: Option<StartFailure>,
    /// Memory dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_dump_request: Option<MemoryDumpRequest>,
    /// Generation that the running guest was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Generation that the guest should be made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_generation: Option<i64>,
    /// Strategy in effect at the last pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// Change of volumes under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_update_state: Option<VolumeUpdateState>,
    /// Changed block tracking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_block_tracking: Option<ChangedBlockTrackingStatus>,
    /// Instancetype in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instancetype_ref: Option<InstancetypeStatusRef>,
    /// Preference in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference_ref: Option<InstancetypeStatusRef>,
}

/// A request to start or stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateChangeRequest {
    /// What.
    pub action: StateChangeAction,
    /// More about it; `paused: "true"` starts paused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// UID of the guest to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A hotplug request; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRequest {
    /// Plug in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_volume_options: Option<AddVolumeOptions>,
    /// Plug out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_volume_options: Option<RemoveVolumeOptions>,
}

/// A volume to plug in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddVolumeOptions {
    /// Name of volume and disk.
    pub name: String,
    /// The disk.
    pub disk: Disk,
    /// Where its bytes come from.
    pub volume_source: HotplugVolumeSource,
    /// `All`: only checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
}

/// Where the bytes of a hotplugged disk come from; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HotplugVolumeSource {
    /// A claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PvcVolume>,
    /// A DataVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_volume: Option<DataVolumeRef>,
}

/// A volume to plug out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoveVolumeOptions {
    /// Name of the volume.
    pub name: String,
    /// `All`: only checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
}

/// Whether a volume can be snapshotted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// Name of the volume.
    pub name: String,
    /// It can.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enabled: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Failures to start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// In a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub consecutive_fail_count: Option<i32>,
    /// UID of the last guest that failed.
    #[serde(rename = "lastFailedVMIUID", default, skip_serializing_if = "Option::is_none")]
    pub last_failed_vmi_uid: Option<String>,
    /// No start before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_timestamp: Option<Time>,
}

/// A memory dump.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryDumpRequest {
    /// Claim to write to.
    #[serde(default)]
    pub claim_name: String,
    /// Phase.
    #[serde(default)]
    pub phase: String,
    /// To be removed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remove: bool,
    /// Start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// End.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
    /// File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Change of volumes under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeUpdateState {
    /// Moving them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_migration_state: Option<VolumeMigrationState>,
}

/// Volumes being moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMigrationState {
    /// The volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrated_volumes: Vec<MigratedVolume>,
}

/// An instancetype or preference in effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstancetypeStatusRef {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The copy in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_revision_ref: Option<ControllerRevisionRef>,
    /// Volume whose labels named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// What an unlabelled volume did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<String>,
}

/// A ControllerRevision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerRevisionRef {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
