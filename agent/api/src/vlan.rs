//! Vlan (kubeovn.io): a tag on a ProviderNetwork.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{kubeovn::KubeOvnCondition, meta::is_false};

/// A tag on a ProviderNetwork.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubeovn.io", version = "v1", kind = "Vlan", plural = "vlans", shortname = "vlan")]
#[kube(status = "VlanStatus", derive = "PartialEq", derive = "Default", doc = "A tag on a physical network.")]
#[kube(printcolumn(name = "ID", type_ = "string", json_path = ".spec.id"))]
#[kube(printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"))]
#[kube(printcolumn(name = "conflict", type_ = "boolean", json_path = ".status.conflict"))]
#[serde(rename_all = "camelCase")]
pub struct VlanSpec {
    /// 802.1Q VLAN id; 0: untagged. 4095 is reserved.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4094))]
    pub id: i32,
    /// The ProviderNetwork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Of no effect here; kept for old manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_interface_name: Option<String>,
    /// Old name of `id`; of no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
}

/// What uses it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VlanStatus {
    /// Subnets on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Another Vlan has the same tag on the same network.
    #[serde(default, skip_serializing_if = "is_false")]
    pub conflict: bool,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<KubeOvnCondition>,
}
