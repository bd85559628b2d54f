//! ProviderNetwork (kubeovn.io): one OVS bridge a node, `br-<name>`, over a NIC of that node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::is_false;

/// Which NIC of which node carries the network.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubeovn.io", version = "v1", kind = "ProviderNetwork", plural = "provider-networks")]
#[kube(singular = "provider-network", shortname = "pn", shortname = "pns")]
#[kube(status = "ProviderNetworkStatus", derive = "PartialEq", derive = "Default")]
#[kube(doc = "A physical network and the NICs that carry it.")]
#[kube(printcolumn(name = "DefaultInterface", type_ = "string", json_path = ".spec.defaultInterface"))]
#[kube(printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"))]
#[serde(rename_all = "camelCase")]
pub struct ProviderNetworkSpec {
    /// NIC on every node that has no entry of its own. At most 15 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub default_interface: String,
    /// NICs of particular nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custom_interfaces: Vec<CustomInterface>,
    /// Nodes concerned; absent: all but `excludeNodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Nodes not concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_nodes: Vec<String>,
    /// Swap the names of bridge and NIC.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exchange_link_name: bool,
    /// Make missing VLAN interfaces.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_create_vlan_subinterfaces: bool,
    /// VLAN interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlan_interfaces: Vec<String>,
    /// Leave VLAN interfaces of the NIC in place.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preserve_vlan_interfaces: bool,
}

/// A NIC of particular nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomInterface {
    /// NIC.
    #[schemars(length(min = 1, max = 15))]
    pub interface: String,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub nodes: Vec<String>,
}

/// On which nodes the network is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderNetworkStatus {
    /// All nodes concerned have it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ready: bool,
    /// Nodes that have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready_nodes: Vec<String>,
    /// Nodes that should have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready_nodes: Vec<String>,
    /// Vlans on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<String>,
    /// One a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ProviderNetworkCondition>,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderNetworkCondition {
    /// Node.
    pub node: String,
    /// Type.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When `status` changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}
