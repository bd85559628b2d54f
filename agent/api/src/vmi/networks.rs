//! `spec.networks` and `spec.domain.devices.interfaces`: two lists joined by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    meta::{Empty, is_false},
    open_enum::open_enum,
};

/// What admission takes as a MAC address: six octets, all separated by `:` or all by `-`.
pub const MAC_PATTERN: &str = "^([0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(-[0-9A-Fa-f]{2}){5})$";

open_enum! {
    /// Wanted state of an interface.
    listed enum InterfaceState {
        /// Link up; the default.
        Up = "up",
        /// Link down.
        Down = "down",
        /// The interface is to be removed.
        Absent = "absent",
    }
}

/// A network that interfaces of the same name attach to. Exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Name, a DNS label, unique in the VMI.
    pub name: String,
    /// The cluster's default network for virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodNetwork>,
    /// The network that a NetworkAttachmentDefinition names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multus: Option<MultusNetwork>,
}

/// The cluster's default network for virtual machines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodNetwork {
    /// Of no effect here: the address is the Subnet's, not a private one behind NAT.
    #[serde(rename = "vmNetworkCIDR", default, skip_serializing_if = "Option::is_none")]
    pub vm_network_cidr: Option<String>,
    /// Of no effect here, for the same reason.
    #[serde(rename = "vmIPv6NetworkCIDR", default, skip_serializing_if = "Option::is_none")]
    pub vm_ipv6_network_cidr: Option<String>,
}

/// The network that a NetworkAttachmentDefinition names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MultusNetwork {
    /// `name` or `namespace/name`.
    pub network_name: String,
    /// Makes it the VM's first network.
    #[serde(default, skip_serializing_if = "is_false")]
    pub default: bool,
}

/// A network interface. At most one binding; none means `bridge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Name of the network it attaches to.
    pub name: String,
    /// `virtio` (default), `e1000`, `e1000e`, `igb`, `ne2k_pci`, `pcnet`, `rtl8139`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// On the network's own layer 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Empty>,
    /// Removed upstream in 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slirp: Option<Empty>,
    /// On the default network; routed, not translated, here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Empty>,
    /// A virtual function passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Empty>,
    /// Removed upstream in 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macvtap: Option<Empty>,
    /// Removed upstream in 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passt: Option<Empty>,
    /// User mode networking by passt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passt_binding: Option<Empty>,
    /// A binding plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<PluginBinding>,
    /// Ports to expose; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// MAC address; absent: allocated, and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = MAC_PATTERN))]
    pub mac_address: Option<String>,
    /// Lower boots first; unique over disks and interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub boot_order: Option<i32>,
    /// PCI address in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// More DHCP options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_options: Option<DhcpOptions>,
    /// Tag handed to the guest in config drive metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// ACPI index, for stable names in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16383))]
    pub acpi_index: Option<i32>,
    /// Wanted state; absent: up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<InterfaceState>,
}

/// A binding plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginBinding {
    /// Name in the KubeVirt configuration.
    pub name: String,
}

/// A port to expose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Name for Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` (default) or `UDP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// More DHCP options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DhcpOptions {
    /// Option 67.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file_name: Option<String>,
    /// Option 66.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tftp_server_name: Option<String>,
    /// Option 42.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<String>,
    /// Options 224 to 254.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_options: Vec<DhcpPrivateOption>,
}

/// A private DHCP option.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DhcpPrivateOption {
    /// Number.
    #[schemars(range(min = 224, max = 254))]
    pub option: i32,
    /// Value.
    pub value: String,
}
