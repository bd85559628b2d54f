//! CDIConfig (cdi.kubevirt.io), one object named `config`: where clients find the upload proxy, and defaults of imports.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::is_false;

/// Settings of imports.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "cdi.kubevirt.io", version = "v1beta1", kind = "CDIConfig", plural = "cdiconfigs")]
#[kube(status = "CDIConfigStatus", derive = "PartialEq", derive = "Default", doc = "Settings of imports.")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct CDIConfigSpec {
    /// Address of the upload proxy to tell clients.
    #[serde(rename = "uploadProxyURLOverride", default, skip_serializing_if = "Option::is_none")]
    pub upload_proxy_url_override: Option<String>,
    /// Of no effect here: imports need no scratch space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_space_storage_class: Option<String>,
    /// Gates to open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<String>,
    /// Share lost to a file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_overhead: Option<FilesystemOverhead>,
    /// Default of DataVolumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<bool>,
    /// Seconds after which a finished DataVolume is deleted; negative or absent: never.
    #[serde(rename = "dataVolumeTTLSeconds", default, skip_serializing_if = "Option::is_none")]
    pub data_volume_ttl_seconds: Option<i32>,
    /// Registries without TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
}

/// Share lost to a file system, for instance `0.06`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemOverhead {
    /// For all storage classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<String>,
    /// By storage class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_class: BTreeMap<String, String>,
}

/// Settings in effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct CDIConfigStatus {
    /// Address of the upload proxy.
    #[serde(rename = "uploadProxyURL", default, skip_serializing_if = "Option::is_none")]
    pub upload_proxy_url: Option<String>,
    /// Certificate of the upload proxy's authority, PEM.
    #[serde(rename = "uploadProxyCA", default, skip_serializing_if = "Option::is_none")]
    pub upload_proxy_ca: Option<String>,
    /// Of no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_space_storage_class: Option<String>,
    /// Share lost to a file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_overhead: Option<FilesystemOverhead>,
    /// Default of DataVolumes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preallocation: bool,
}
