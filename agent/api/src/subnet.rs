//! Subnet (kubeovn.io): the addresses of a VLAN.
//!
//! Fields that mean something only on Kube-OVN's overlay are kept, so that its manifests apply unchanged.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{kubeovn::KubeOvnCondition, meta::is_false, open_enum::open_enum};

open_enum! {
    /// Address family of a subnet.
    listed enum SubnetProtocol {
        /// IPv4.
        Ipv4 = "IPv4",
        /// IPv6.
        Ipv6 = "IPv6",
        /// Both.
        Dual = "Dual",
    }
}

/// The addresses of a VLAN.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "kubeovn.io", version = "v1", kind = "Subnet", plural = "subnets", shortname = "subnet")]
#[kube(status = "SubnetStatus", derive = "PartialEq", derive = "Default", doc = "The addresses of a network.")]
#[kube(printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"))]
#[kube(printcolumn(name = "Vpc", type_ = "string", json_path = ".spec.vpc"))]
#[kube(printcolumn(name = "Vlan", type_ = "string", json_path = ".spec.vlan"))]
#[kube(printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol"))]
#[kube(printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidrBlock"))]
#[kube(printcolumn(name = "Private", type_ = "boolean", json_path = ".spec.private"))]
#[kube(printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"))]
#[kube(printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"))]
#[kube(printcolumn(name = "GatewayType", type_ = "string", json_path = ".spec.gatewayType"))]
#[kube(printcolumn(name = "V4Used", type_ = "number", json_path = ".status.v4usingIPs"))]
#[kube(printcolumn(name = "V4Available", type_ = "number", json_path = ".status.v4availableIPs"))]
#[kube(printcolumn(name = "V6Used", type_ = "number", json_path = ".status.v6usingIPs"))]
#[kube(printcolumn(name = "V6Available", type_ = "number", json_path = ".status.v6availableIPs"))]
#[kube(printcolumn(name = "ExcludeIPs", type_ = "string", json_path = ".spec.excludeIps"))]
#[kube(printcolumn(name = "U2OInterconnectionIP", type_ = "string", json_path = ".status.u2oInterconnectionIP"))]
#[serde(rename_all = "camelCase")]
pub struct SubnetSpec {
    /// Addresses, for instance `192.168.10.0/23`; cannot be changed.
    #[serde(default)]
    pub cidr_block: String,
    /// Default router of the guests; never given to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Addresses and ranges `a..b` that are never given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// Address family; absent: as the CIDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<SubnetProtocol>,
    /// `ovn`, or `<name>.<namespace>.ovn` of a NetworkAttachmentDefinition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The Vlan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// The subnet of networks that name none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub default: bool,
    /// MTU of the guests; absent: the NIC's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<i32>,
    /// Namespaces that use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces that use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub logical_gateway: bool,
    /// The physical network has the gateway: the usual case on a VLAN.
    #[serde(default, skip_serializing_if = "is_false")]
    pub underlay_gateway: bool,
    /// Do not wait for the gateway to answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disable_gateway_check: bool,
    /// `distributed` or `centralized`; of no effect on a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_type: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_node: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway_node_selectors: Vec<LabelSelector>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nat_outgoing: bool,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_egress_gateway: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295i64))]
    pub policy_routing_priority: Option<i64>,
    /// Overlay only.
    #[serde(rename = "policyRoutingTableID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295i64))]
    pub policy_routing_table_id: Option<i64>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table: Option<String>,
    /// Traffic only within the subnet and with `allowSubnets`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub private: bool,
    /// Networks that may talk to a private subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_subnets: Vec<String>,
    /// Overlay only.
    #[serde(rename = "allowEWTraffic", default, skip_serializing_if = "is_false")]
    pub allow_ew_traffic: bool,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acls: Vec<SubnetAcl>,
    /// Of no effect here: a guest's address is always answered by DHCP.
    #[serde(rename = "enableDHCP", default, skip_serializing_if = "is_false")]
    pub enable_dhcp: bool,
    /// More DHCP options, `key=value` joined by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options: Option<String>,
    /// More DHCPv6 options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options: Option<String>,
    /// Router advertisements.
    #[serde(rename = "enableIPv6RA", default, skip_serializing_if = "is_false")]
    pub enable_ipv6_ra: bool,
    /// Router advertisements.
    #[serde(rename = "ipv6RAConfigs", default, skip_serializing_if = "Option::is_none")]
    pub ipv6_ra_configs: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_lb: Option<bool>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable_ecmp: bool,
    /// Overlay only.
    #[serde(rename = "enableExternalLBAddress", default, skip_serializing_if = "is_false")]
    pub enable_external_lb_address: bool,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable_multicast_snoop: bool,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub u2o_interconnection: bool,
    /// Overlay only.
    #[serde(rename = "u2oInterconnectionIP", default, skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_ip: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disable_inter_connection: bool,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_network: Option<String>,
    /// Addresses kept for Vip objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<String>,
}

/// An access rule of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetAcl {
    /// `from-lport` or `to-lport`.
    pub direction: String,
    /// Priority.
    #[schemars(range(min = 0, max = 32767))]
    pub priority: i32,
    /// OVN match.
    #[serde(rename = "match")]
    pub match_: String,
    /// `allow-related`, `allow-stateless`, `allow`, `drop` or `reject`.
    pub action: String,
}

/// How full it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// IPv4 addresses given.
    #[serde(rename = "v4usingIPs", default, skip_serializing_if = "Option::is_none")]
    pub v4_using_ips: Option<f64>,
    /// IPv4 addresses left.
    #[serde(rename = "v4availableIPs", default, skip_serializing_if = "Option::is_none")]
    pub v4_available_ips: Option<f64>,
    /// IPv6 addresses given.
    #[serde(rename = "v6usingIPs", default, skip_serializing_if = "Option::is_none")]
    pub v6_using_ips: Option<f64>,
    /// IPv6 addresses left.
    #[serde(rename = "v6availableIPs", default, skip_serializing_if = "Option::is_none")]
    pub v6_available_ips: Option<f64>,
    /// IPv4 addresses given, as ranges.
    #[serde(rename = "v4usingIPrange", default, skip_serializing_if = "Option::is_none")]
    pub v4_using_ip_range: Option<String>,
    /// IPv4 addresses left, as ranges.
    #[serde(rename = "v4availableIPrange", default, skip_serializing_if = "Option::is_none")]
    pub v4_available_ip_range: Option<String>,
    /// IPv6 addresses given, as ranges.
    #[serde(rename = "v6usingIPrange", default, skip_serializing_if = "Option::is_none")]
    pub v6_using_ip_range: Option<String>,
    /// IPv6 addresses left, as ranges.
    #[serde(rename = "v6availableIPrange", default, skip_serializing_if = "Option::is_none")]
    pub v6_available_ip_range: Option<String>,
    /// Overlay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate_gateway: Option<String>,
    /// Overlay only.
    #[serde(rename = "dhcpV4OptionsUUID", default, skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options_uuid: Option<String>,
    /// Overlay only.
    #[serde(rename = "dhcpV6OptionsUUID", default, skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options_uuid: Option<String>,
    /// Overlay only.
    #[serde(rename = "u2oInterconnectionIP", default, skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_ip: Option<String>,
    /// Overlay only.
    #[serde(rename = "u2oInterconnectionMAC", default, skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_mac: Option<String>,
    /// Overlay only.
    #[serde(rename = "u2oInterconnectionVPC", default, skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_vpc: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<KubeOvnCondition>,
}
