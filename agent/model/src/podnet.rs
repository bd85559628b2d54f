//! The pod network of one node as data: the CNI configuration of its own pod range, the routes to the other nodes'
//! ranges through their addresses, and what leaves the cluster under the node's address. Refuses overlays: a node
//! that shares no layer 2 with this one gets a route that the kernel refuses, and that is reported.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::Serialize;

/// The bridge that this node's pods hang on.
pub const POD_BRIDGE: &str = "cni0";

/// The nftables table that this module owns, family `ip`.
pub const NFT_TABLE: &str = "furrow-podnet";

/// Where host-local keeps the addresses it gave. On /run, because no pod outlives a reboot: kept on disk, the
/// addresses of pods that a power cut ended would be lost until the range is full.
const HOST_LOCAL_DIR: &str = "/run/furrow/cni";

/// An IPv4 network: the bits below the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: Ipv4Addr,
    prefix_len: u8,
}

/// What is not an IPv4 network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 network such as 10.42.0.0/24")]
pub struct NotANetwork(String);

impl Network {
    /// Its first address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of its prefix in bits, 0 to 32.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let refuse = || NotANetwork(text.to_owned());
        let (address, prefix_len) = text.split_once('/').ok_or_else(refuse)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| refuse())?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
        if prefix_len > 32 || address.to_bits() & !mask != 0 {
            return Err(refuse());
        }
        Ok(Self { address, prefix_len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// What a node object says about its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRange {
    /// Node name.
    pub name: String,
    /// `spec.podCIDR`, once the controller manager has given one.
    pub pods: Option<Network>,
    /// The first IPv4 `InternalIP` in `status.addresses`.
    pub address: Option<Ipv4Addr>,
}

/// A route to another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    /// The pods' range.
    pub to: Network,
    /// The address of their node.
    pub through: Ipv4Addr,
}

/// Everything the pod network of this node is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Content of the CNI configuration list.
    pub conflist: String,
    /// Input of `nft -f`: replaces [`NFT_TABLE`] in one transaction.
    pub ruleset: String,
    /// The routes to have.
    pub routes: BTreeSet<PodRoute>,
}

/// What to do about routes, removals first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePlan {
    /// No longer wanted, or wanted through another node.
    pub remove: Vec<PodRoute>,
    /// Missing.
    pub add: Vec<PodRoute>,
}

/// Decides the pod network of node `me`; `None` while it has no pod range yet.
#[must_use]
pub fn decide(me: &str, nodes: &[NodeRange]) -> Option<PodNetwork> {
    let own = nodes.iter().find(|node| node.name == me)?.pods?;
    let routes = nodes
        .iter()
        .filter(|node| node.name != me)
        .filter_map(|node| Some(PodRoute { to: node.pods?, through: node.address? }))
        .filter(|route| route.to != own)
        .collect();
    let ranges: BTreeSet<Network> = nodes.iter().filter_map(|node| node.pods).collect();
    Some(PodNetwork { conflist: conflist(own), ruleset: ruleset(own, &ranges), routes })
}

/// Compares the routes that are there (only Furrow's own) with those to have.
#[must_use]
pub fn plan_routes(present: &BTreeSet<PodRoute>, wanted: &BTreeSet<PodRoute>) -> RoutePlan {
    RoutePlan {
        remove: present.difference(wanted).copied().collect(),
        add: wanted.difference(present).copied().collect(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Conflist {
    cni_version: &'static str,
    name: &'static str,
    plugins: (BridgePlugin, PortmapPlugin),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BridgePlugin {
    r#type: &'static str,
    bridge: &'static str,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    hairpin_mode: bool,
    ip_masq: bool,
    ipam: HostLocal,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HostLocal {
    r#type: &'static str,
    data_dir: &'static str,
    ranges: [[Range; 1]; 1],
}

#[derive(Serialize)]
struct Range {
    subnet: String,
}

#[derive(Serialize)]
struct PortmapPlugin {
    r#type: &'static str,
    capabilities: PortmapCapabilities,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PortmapCapabilities {
    port_mappings: bool,
}

/// CNI specification 1.0.0, plugins `bridge`, `host-local` and `portmap`.
fn conflist(own: Network) -> String {
    let bridge = BridgePlugin {
        r#type: "bridge",
        bridge: POD_BRIDGE,
        is_gateway: true,
        is_default_gateway: true,
        force_address: true,
        hairpin_mode: true,
        // The plugin would hide pods from each other across nodes behind their nodes' addresses: see `ruleset`.
        ip_masq: false,
        ipam: HostLocal {
            r#type: "host-local",
            data_dir: HOST_LOCAL_DIR,
            ranges: [[Range { subnet: own.to_string() }]],
        },
    };
    let portmap = PortmapPlugin { r#type: "portmap", capabilities: PortmapCapabilities { port_mappings: true } };
    let document = Conflist { cni_version: "1.0.0", name: "furrow", plugins: (bridge, portmap) };
    let mut text = serde_json::to_string_pretty(&document).expect("a document of strings and booleans serializes");
    text.push('\n');
    text
}

/// Pods leave the cluster under the node's address, and reach each other, on every node, under their own.
fn ruleset(own: Network, ranges: &BTreeSet<Network>) -> String {
    let elements: Vec<String> = ranges.iter().map(Network::to_string).collect();
    format!(
        "table ip {NFT_TABLE} {{}}\n\
         delete table ip {NFT_TABLE}\n\
         table ip {NFT_TABLE} {{\n\
         \tset pods {{\n\
         \t\ttype ipv4_addr\n\
         \t\tflags interval\n\
         \t\tauto-merge\n\
         \t\telements = {{ {} }}\n\
         \t}}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {own} ip daddr != @pods ip daddr != 224.0.0.0/4 oifname != \"{POD_BRIDGE}\" masquerade\n\
         \t}}\n\
         }}\n",
        elements.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, pods: &str, address: &str) -> NodeRange {
        NodeRange { name: name.into(), pods: pods.parse().ok(), address: address.parse().ok() }
    }

    #[test]
    fn decides_nothing_before_the_node_has_a_range() {
        assert_eq!(decide("a", &[node("a", "", "10.0.0.1")]), None);
        assert_eq!(decide("a", &[]), None);
    }

    #[test]
    fn routes_lead_to_the_other_nodes_only() {
        let nodes = [
            node("a", "10.42.0.0/24", "10.0.0.1"),
            node("b", "10.42.1.0/24", "10.0.0.2"),
            node("c", "", "10.0.0.3"),
            node("d", "10.42.3.0/24", ""),
        ];
        let network = decide("a", &nodes).expect("it has a range");
        let route = PodRoute { to: "10.42.1.0/24".parse().expect("valid"), through: Ipv4Addr::new(10, 0, 0, 2) };
        assert_eq!(network.routes, BTreeSet::from([route]));
    }

    #[test]
    fn the_conflist_names_the_own_range() {
        let network = decide("a", &[node("a", "10.42.0.0/24", "10.0.0.1")]).expect("it has a range");
        let parsed: serde_json::Value = serde_json::from_str(&network.conflist).expect("valid JSON");
        assert_eq!(parsed["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.42.0.0/24");
        assert_eq!(parsed["plugins"][0]["ipMasq"], false);
        assert_eq!(parsed["plugins"][1]["capabilities"]["portMappings"], true);
        assert!(network.ruleset.contains("elements = { 10.42.0.0/24 }"));
    }

    #[test]
    fn a_range_that_moved_is_removed_before_it_is_added() {
        let to: Network = "10.42.1.0/24".parse().expect("valid");
        let old = PodRoute { to, through: Ipv4Addr::new(10, 0, 0, 2) };
        let new = PodRoute { to, through: Ipv4Addr::new(10, 0, 0, 9) };
        let plan = plan_routes(&BTreeSet::from([old]), &BTreeSet::from([new]));
        assert_eq!(plan, RoutePlan { remove: vec![old], add: vec![new] });
        assert_eq!(plan_routes(&BTreeSet::from([new]), &BTreeSet::from([new])), RoutePlan::default());
    }

    #[test]
    fn networks_with_host_bits_are_refused() {
        for text in ["10.42.0.1/24", "10.42.0.0", "10.42.0.0/33", "fd00::/64", ""] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert_eq!("0.0.0.0/0".parse::<Network>().map(|n| n.to_string()), Ok("0.0.0.0/0".to_owned()));
    }
}
