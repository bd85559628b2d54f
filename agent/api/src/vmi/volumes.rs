//! `spec.volumes`: where the bytes of a disk come from.

use k8s_openapi::{
    api::core::v1::{DownwardAPIVolumeFile, LocalObjectReference},
    apimachinery::pkg::api::resource::Quantity,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VirtualMachineInstanceSpec;
use crate::meta::{Empty, is_false};

/// A named volume. Exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name, a DNS label, unique in the VMI.
    pub name: String,
    /// A file of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_disk: Option<HostDisk>,
    /// A claim of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PvcVolume>,
    /// A seed in cloud-init's NoCloud format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init_no_cloud: Option<CloudInit>,
    /// A seed in cloud-init's ConfigDrive format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init_config_drive: Option<CloudInit>,
    /// Windows answer files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysprep: Option<Sysprep>,
    /// An image from a registry, lost at every restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_disk: Option<ContainerDisk>,
    /// A claim under a throw-away overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralVolume>,
    /// A scratch disk that lives as long as the VMI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_disk: Option<EmptyDisk>,
    /// The claim that a DataVolume fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_volume: Option<DataVolumeRef>,
    /// A ConfigMap as a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolume>,
    /// A Secret as a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolume>,
    /// Metadata of the VMI as a disk.
    #[serde(rename = "downwardAPI", default, skip_serializing_if = "Option::is_none")]
    pub downward_api: Option<DownwardApiVolume>,
    /// A service account's token as a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountVolume>,
    /// Host metrics as a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downward_metrics: Option<Empty>,
    /// Where a memory dump goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_dump: Option<PvcVolume>,
    /// A path of the launcher's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_path: Option<ContainerPath>,
}

impl Volume {
    /// Name of the claim behind it, when it is a claim.
    #[must_use]
    pub fn claim_name(&self) -> Option<&str> {
        let by_data_volume = self.data_volume.as_ref().map(|source| source.name.as_str());
        by_data_volume.or_else(|| self.persistent_volume_claim.as_ref().map(|source| source.claim_name.as_str()))
    }

    /// Whether it may be plugged into a running guest, and out of it.
    #[must_use]
    pub fn is_hotpluggable(&self) -> bool {
        self.data_volume.as_ref().is_some_and(|source| source.hotpluggable)
            || self.persistent_volume_claim.as_ref().is_some_and(|source| source.hotpluggable)
    }

    /// The field of the Kubernetes object that it is made of, if it is one of these.
    #[must_use]
    pub fn object_kind(&self) -> Option<&'static str> {
        let kinds = [
            ("configMap", self.config_map.is_some()),
            ("secret", self.secret.is_some()),
            ("sysprep", self.sysprep.is_some()),
            ("downwardAPI", self.downward_api.is_some()),
            ("serviceAccount", self.service_account.is_some()),
        ];
        kinds.into_iter().find_map(|(kind, there)| there.then_some(kind))
    }

    /// Whether it can be shown to a guest as a file system (virtiofs) that follows its object: what KubeVirt calls a config
    /// volume.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.object_kind().is_some_and(|kind| kind != "sysprep")
    }
}

impl VirtualMachineInstanceSpec {
    /// Whether some of its volumes are those of DataVolumes.
    #[must_use]
    pub fn has_data_volumes(&self) -> bool {
        self.volumes.iter().any(|volume| volume.data_volume.is_some())
    }

    /// The service account whose token the guest is given: its pod's.
    #[must_use]
    pub fn token_account(&self) -> Option<&str> {
        let accounts = self.volumes.iter().filter_map(|volume| volume.service_account.as_ref());
        let mut names = accounts.filter_map(|account| account.service_account_name.as_deref());
        names.find(|name| !name.is_empty())
    }
}

/// A file of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDisk {
    /// Absolute path.
    pub path: String,
    /// `Disk` or `DiskOrCreate`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Size when created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// The path is shared between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
}

/// A claim of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcVolume {
    /// Name of the PersistentVolumeClaim.
    pub claim_name: String,
    /// The guest may not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// May be plugged in and out while running.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hotpluggable: bool,
}

/// The claim that a DataVolume fills.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataVolumeRef {
    /// Name of the DataVolume, and of its claim.
    pub name: String,
    /// May be plugged in and out while running.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hotpluggable: bool,
}

/// Data for cloud-init. User data and network data each from at most one place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInit {
    /// Secret with the key `userdata` (or `userData`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
    /// User data, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_base64: Option<String>,
    /// User data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Secret with the key `networkdata` (or `networkData`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_secret_ref: Option<LocalObjectReference>,
    /// Network data, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_base64: Option<String>,
    /// Network data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<String>,
}

/// Windows answer files, from one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sysprep {
    /// Secret with `autounattend.xml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalObjectReference>,
    /// ConfigMap with `autounattend.xml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalObjectReference>,
}

/// An image from a registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerDisk {
    /// Image reference.
    pub image: String,
    /// Secret for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<String>,
    /// Path of the disk in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Always`, `Never` or `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
}

/// A claim under a throw-away overlay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralVolume {
    /// The claim below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PvcSource>,
}

/// A reference to a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcSource {
    /// Name of the PersistentVolumeClaim.
    pub claim_name: String,
    /// Read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// A scratch disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDisk {
    /// Size.
    pub capacity: Quantity,
}

/// A ConfigMap as a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapVolume {
    /// Name of the ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// File system label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_label: Option<String>,
}

/// A Secret as a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVolume {
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// It may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// File system label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_label: Option<String>,
}

/// Metadata of the VMI as a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownwardApiVolume {
    /// Files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<DownwardAPIVolumeFile>,
    /// File system label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_label: Option<String>,
}

/// A service account's token as a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountVolume {
    /// Name of the ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// A path of the launcher's container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPath {
    /// Absolute path.
    pub path: String,
    /// Read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// A claim that helps an operation and is no disk of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UtilityVolume {
    /// Name, unique among all volumes.
    pub name: String,
    /// Name of the PersistentVolumeClaim.
    pub claim_name: String,
    /// Read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `MemoryDump` or `Backup`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
}
