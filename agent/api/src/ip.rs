//! IP (kubeovn.io): an address and the VM's interface that has it. It lives as long as the VM, running or not.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An address and who has it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubeovn.io", version = "v1", kind = "IP", plural = "ips", shortname = "ip")]
#[kube(derive = "PartialEq", derive = "Default", doc = "An address and the interface that has it.")]
#[kube(printcolumn(name = "V4IP", type_ = "string", json_path = ".spec.v4IpAddress"))]
#[kube(printcolumn(name = "V6IP", type_ = "string", json_path = ".spec.v6IpAddress"))]
#[kube(printcolumn(name = "Mac", type_ = "string", json_path = ".spec.macAddress"))]
#[kube(printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"))]
#[kube(printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"))]
#[serde(rename_all = "camelCase")]
pub struct IPSpec {
    /// Name of the VM.
    pub pod_name: String,
    /// Namespace of the VM.
    pub namespace: String,
    /// The Subnet.
    pub subnet: String,
    /// Deprecated upstream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attach_subnets: Vec<String>,
    /// Node of a pod; empty for a VM, which may be anywhere.
    #[serde(default)]
    pub node_name: String,
    /// Address; two joined by a comma on a dual-stack subnet.
    pub ip_address: String,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4_ip_address: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6_ip_address: Option<String>,
    /// Deprecated upstream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attach_ips: Vec<String>,
    /// MAC address, lower case with `:`.
    pub mac_address: String,
    /// Deprecated upstream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attach_macs: Vec<String>,
    /// Of no effect here.
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// `VirtualMachine`, `StatefulSet` or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_type: Option<String>,
}
