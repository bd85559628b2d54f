//! A provider network on one node: which NIC carries it, whether that NIC may be taken, and the steps to its bridge.
//! Refuses the management NIC, NICs with addresses, and NICs that something else uses: taking one of those cuts the
//! node off, and no answer is worth that.

use std::collections::{BTreeMap, BTreeSet};

use crate::port::is_interface_name;

/// What stands before a provider network's name in its bridge's.
const BRIDGE_PREFIX: &str = "br-";

/// The kernel's device for every bridge of the kernel datapath: a NIC under it is on some OVS bridge.
const KERNEL_DATAPATH: &str = "ovs-system";

/// The bridge of a provider network.
#[must_use]
pub fn bridge_of(network: &str) -> String {
    format!("{BRIDGE_PREFIX}{network}")
}

/// A ProviderNetwork, as far as a node is concerned by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The NIC on this node; `None` when it names none.
    pub nic: Option<String>,
    /// This node is selected.
    pub concerned: bool,
    /// A field that it sets and that is not realised.
    pub unsupported: Option<&'static str>,
}

/// A link of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// What it is enslaved to.
    pub controller: Option<String>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It has an address that is not link-local.
    pub has_address: bool,
    /// The node is reached through it: it has the node's address or a default route.
    pub management: bool,
}

/// A bridge that Furrow made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnBridge {
    /// Its NICs; an error when vswitchd could not open one, `Ok(false)` while it has not tried.
    pub nics: BTreeMap<String, Result<bool, String>>,
    /// Guests' ports on it.
    pub guests: usize,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Links by name.
    pub nics: BTreeMap<String, Nic>,
    /// Furrow's bridges by name.
    pub bridges: BTreeMap<String, OwnBridge>,
    /// Everybody else's bridges.
    pub foreign_bridges: BTreeSet<String>,
    /// NICs that are ports of others' bridges.
    pub foreign_ports: BTreeSet<String>,
    /// `datapath_type` for new bridges: empty for the kernel's.
    pub datapath: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take a NIC off a bridge.
    RemoveNic {
        /// The bridge.
        bridge: String,
        /// The NIC.
        nic: String,
    },
    /// Remove a bridge.
    RemoveBridge {
        /// The bridge.
        bridge: String,
    },
    /// Make a bridge.
    AddBridge {
        /// The bridge.
        bridge: String,
        /// `datapath_type`.
        datapath: String,
    },
    /// Bring a NIC up.
    RaiseNic {
        /// The NIC.
        nic: String,
    },
    /// Put a NIC on a bridge.
    AddNic {
        /// The bridge.
        bridge: String,
        /// The NIC.
        nic: String,
    },
}

/// How a provider network stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This node has nothing to do with it.
    NotConcerned,
    /// Guests can be put on it.
    Ready {
        /// Its NIC.
        nic: String,
        /// Bytes.
        mtu: u32,
    },
    /// Steps are to be done, or vswitchd has not answered.
    Pending,
    /// It cannot be, until something changes.
    Refused {
        /// For the condition.
        reason: &'static str,
        /// For the reader.
        message: String,
    },
}

/// What to do about one provider network, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order; the first failure ends it.
    pub steps: Vec<Step>,
    /// As of before the steps.
    pub verdict: Verdict,
}

impl Plan {
    fn refused(reason: &'static str, message: String) -> Self {
        Self { steps: Vec::new(), verdict: Verdict::Refused { reason, message } }
    }
}

/// Plans one provider network.
#[must_use]
pub fn plan(wanted: &Wanted, node: &Node) -> Plan {
    if !wanted.concerned {
        return Plan { steps: Vec::new(), verdict: Verdict::NotConcerned };
    }
    let bridge = bridge_of(&wanted.name);
    let (name, nic) = match check(wanted, &bridge, node) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let own = node.bridges.get(&bridge);
    let mut steps = Vec::new();
    for (other, _) in own.into_iter().flat_map(|own| &own.nics).filter(|(other, _)| *other != name) {
        steps.push(Step::RemoveNic { bridge: bridge.clone(), nic: other.clone() });
    }
    if own.is_none() {
        steps.push(Step::AddBridge { bridge: bridge.clone(), datapath: node.datapath.clone() });
    }
    if !nic.up {
        steps.push(Step::RaiseNic { nic: name.clone() });
    }
    let state = own.and_then(|own| own.nics.get(name));
    if state.is_none() {
        steps.push(Step::AddNic { bridge, nic: name.clone() });
    }
    let verdict = match state {
        Some(Err(error)) => Verdict::Refused {
            reason: "InterfaceNotOpen",
            message: format!("ovs-vswitchd could not open {name}: {error}"),
        },
        Some(Ok(true)) if steps.is_empty() => Verdict::Ready { nic: name.clone(), mtu: nic.mtu },
        _ => Verdict::Pending,
    };
    Plan { steps, verdict }
}

/// The NIC that may be taken, or why none may.
fn check<'a>(wanted: &'a Wanted, bridge: &str, node: &'a Node) -> Result<(&'a String, &'a Nic), Plan> {
    let refuse = |reason, message| Err(Plan::refused(reason, message));
    if let Some(field) = wanted.unsupported {
        return refuse("NotSupported", format!("{field} is not supported"));
    }
    if !is_interface_name(bridge) {
        return refuse("NameTooLong", format!("{bridge:?} cannot be the name of a bridge: 15 characters at most"));
    }
    if node.foreign_bridges.contains(bridge) {
        return refuse("BridgeExists", format!("a bridge {bridge} is there already and is not Furrow's"));
    }
    let Some(name) = &wanted.nic else {
        return refuse("NoInterface", "no interface is named for this node".into());
    };
    let Some(nic) = node.nics.get(name) else {
        return refuse("InterfaceNotFound", format!("there is no interface {name}"));
    };
    if nic.management {
        return refuse("ManagementInterface", format!("the node is reached through {name}: it stays as it is"));
    }
    let elsewhere =
        |(other, own): (&String, &OwnBridge)| (other != bridge && own.nics.contains_key(name)).then(|| other.clone());
    let user = node.bridges.iter().find_map(elsewhere);
    let user = user.or_else(|| nic.controller.clone().filter(|controller| controller != KERNEL_DATAPATH));
    let user = user.or_else(|| node.foreign_ports.contains(name).then(|| "another OVS bridge".into()));
    if let Some(user) = user {
        return refuse("InterfaceInUse", format!("{name} is in use by {user}"));
    }
    if nic.has_address {
        return refuse("InterfaceHasAddress", format!("{name} has an address, which would not be reached any more"));
    }
    Ok((name, nic))
}

/// Plans the end of bridges that no provider network asks for any more. One with guests on it stays until they left:
/// their frames have nowhere else to go.
#[must_use]
pub fn plan_leftovers(wanted: &[Wanted], node: &Node) -> Vec<Step> {
    let kept: BTreeSet<String> = wanted.iter().filter(|w| w.concerned).map(|w| bridge_of(&w.name)).collect();
    let leftover = node.bridges.iter().filter(|(name, own)| !kept.contains(*name) && own.guests == 0);
    leftover.map(|(name, _)| Step::RemoveBridge { bridge: name.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic() -> Nic {
        Nic { controller: None, mtu: 1500, up: true, has_address: false, management: false }
    }

    fn wanted() -> Wanted {
        Wanted { name: "prod".into(), nic: Some("eth1".into()), concerned: true, unsupported: None }
    }

    fn node(nic: Nic) -> Node {
        Node { nics: [("eth1".into(), nic)].into(), datapath: "netdev".into(), ..Node::default() }
    }

    fn with_bridge(state: Result<bool, String>) -> Node {
        let own = OwnBridge { nics: [("eth1".into(), state)].into(), guests: 0 };
        Node { bridges: [("br-prod".into(), own)].into(), ..node(nic()) }
    }

    fn refusal(wanted: &Wanted, node: &Node) -> &'static str {
        match plan(wanted, node) {
            Plan { steps, verdict: Verdict::Refused { reason, .. } } if steps.is_empty() => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_new_network_gets_bridge_and_nic() {
        let bridge = "br-prod".to_owned();
        let expected = [
            Step::AddBridge { bridge: bridge.clone(), datapath: "netdev".into() },
            Step::RaiseNic { nic: "eth1".into() },
            Step::AddNic { bridge, nic: "eth1".into() },
        ];
        let plan = plan(&wanted(), &node(Nic { up: false, ..nic() }));
        assert_eq!((plan.steps.as_slice(), plan.verdict), (&expected[..], Verdict::Pending));
    }

    #[test]
    fn a_settled_network_is_ready_and_left_alone() {
        let settled = Plan { steps: vec![], verdict: Verdict::Ready { nic: "eth1".into(), mtu: 1500 } };
        assert_eq!(plan(&wanted(), &with_bridge(Ok(true))), settled);
        assert_eq!(plan(&wanted(), &with_bridge(Ok(false))).verdict, Verdict::Pending);
        let enslaved = Nic { controller: Some("ovs-system".into()), ..nic() };
        let node = Node { nics: [("eth1".into(), enslaved)].into(), ..with_bridge(Ok(true)) };
        assert_eq!(plan(&wanted(), &node), settled);
    }

    #[test]
    fn nics_that_carry_something_else_are_never_taken() {
        assert_eq!(refusal(&wanted(), &node(Nic { management: true, ..nic() })), "ManagementInterface");
        assert_eq!(refusal(&wanted(), &node(Nic { has_address: true, ..nic() })), "InterfaceHasAddress");
        assert_eq!(refusal(&wanted(), &node(Nic { controller: Some("bond0".into()), ..nic() })), "InterfaceInUse");
        let other = Wanted { name: "dev".into(), ..wanted() };
        assert_eq!(refusal(&other, &with_bridge(Ok(true))), "InterfaceInUse");
        let foreign = Node { foreign_ports: ["eth1".into()].into(), ..node(nic()) };
        assert_eq!(refusal(&wanted(), &foreign), "InterfaceInUse");
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(refusal(&Wanted { nic: Some("eth9".into()), ..wanted() }, &node(nic())), "InterfaceNotFound");
        assert_eq!(refusal(&Wanted { nic: None, ..wanted() }, &node(nic())), "NoInterface");
        assert_eq!(refusal(&Wanted { name: "a-very-long-name".into(), ..wanted() }, &node(nic())), "NameTooLong");
        assert_eq!(refusal(&Wanted { unsupported: Some("x"), ..wanted() }, &node(nic())), "NotSupported");
        let foreign = Node { foreign_bridges: ["br-prod".into()].into(), ..node(nic()) };
        assert_eq!(refusal(&wanted(), &foreign), "BridgeExists");
        let broken = plan(&wanted(), &with_bridge(Err("no such device".into()))).verdict;
        assert!(matches!(broken, Verdict::Refused { reason: "InterfaceNotOpen", .. }));
    }

    #[test]
    fn another_nic_replaces_the_old_one_after_it_left() {
        let mut node = with_bridge(Ok(true));
        node.nics.insert("eth2".into(), nic());
        let bridge = "br-prod".to_owned();
        let expected = [
            Step::RemoveNic { bridge: bridge.clone(), nic: "eth1".into() },
            Step::AddNic { bridge, nic: "eth2".into() },
        ];
        assert_eq!(plan(&Wanted { nic: Some("eth2".into()), ..wanted() }, &node).steps, expected);
    }

    #[test]
    fn a_bridge_goes_when_nobody_wants_it_and_no_guest_is_on_it() {
        let mut node = with_bridge(Ok(true));
        let unconcerned = Wanted { concerned: false, ..wanted() };
        assert_eq!(plan(&unconcerned, &node).verdict, Verdict::NotConcerned);
        let removal = [Step::RemoveBridge { bridge: "br-prod".into() }];
        assert_eq!(plan_leftovers(&[unconcerned], &node), removal);
        assert_eq!(plan_leftovers(&[], &node), removal);
        assert_eq!(plan_leftovers(&[wanted()], &node), []);
        node.bridges.get_mut("br-prod").expect("it is there").guests = 1;
        assert_eq!(plan_leftovers(&[], &node), []);
    }
}
