//! What Furrow writes into OVSDB's `external_ids`, and reads back: which bridges and ports are its own, and what a
//! guest's port is for. Refuses to recognise anything without its mark, so that an administrator's bridges stay his.

use std::collections::BTreeMap;

use furrow_host::ovsdb::vswitch::{self, Bridge, OWNER, Port};
use furrow_host::ovsdb::{Operation, Tables};
use furrow_model::port::{ObservedPort, PortSpec};

/// `furrow-owner` of a provider network's bridge.
pub(super) const BRIDGE: &str = "bridge";
/// `furrow-owner` of a provider network's NIC.
pub(super) const NIC: &str = "nic";
/// `furrow-owner` of a guest's port.
const GUEST: &str = "port";

/// The whole port, as JSON.
const PORT: &str = "furrow-port";
/// uid of the VMI, for people and for `list` when `furrow-port` cannot be read.
const VMI_UID: &str = "furrow-vmi-uid";
/// `namespace/name` of the VMI, likewise.
const VMI: &str = "furrow-vmi";
/// Interface name, for people.
const GUEST_NIC: &str = "furrow-nic";

/// Whose a port is.
pub(super) enum Owner {
    /// A provider network's way out.
    Nic,
    /// A guest's.
    Guest(Box<PortSpec>),
}

/// The bridges of provider networks, by name.
pub(super) fn own_bridges(tables: &Tables) -> BTreeMap<String, Bridge> {
    let mut bridges = vswitch::bridges(tables);
    bridges.retain(|_, bridge| bridge.owner.as_deref() == Some(BRIDGE));
    bridges
}

/// Whose a port is; `None` for others', and for a guest's that cannot be read any more, which then forwards nothing.
pub(super) fn owner_of(port: &Port) -> Option<Owner> {
    match port.external_ids.get(OWNER).map(String::as_str) {
        Some(NIC) => Some(Owner::Nic),
        Some(GUEST) => spec_of(port).map(|spec| Owner::Guest(Box::new(spec))),
        _ => None,
    }
}

/// What a guest's port is for.
pub(super) fn spec_of(port: &Port) -> Option<PortSpec> {
    serde_json::from_str(port.external_ids.get(PORT)?).ok()
}

/// uid and name of the VMI of a guest's port, even if the rest cannot be read.
pub(super) fn vmi_of(port: &Port) -> Option<(String, String)> {
    let ids = &port.external_ids;
    (ids.get(OWNER)? == GUEST)
        .then(|| (ids.get(VMI_UID).cloned().unwrap_or_default(), ids.get(VMI).cloned().unwrap_or_default()))
}

/// A port in the model's words.
pub(super) fn observe(bridge: &Bridge, port: &Port) -> ObservedPort {
    ObservedPort {
        bridge: bridge.name.clone(),
        spec: spec_of(port),
        tag: port.tag.and_then(|tag| u16::try_from(tag).ok()),
        open: port.ofport.is_some_and(|number| number > 0),
    }
}

/// Operations that put a guest's port on a bridge, or change the one that is there.
pub(super) fn guest_port(spec: &PortSpec, bridge: Option<&Bridge>) -> Vec<Operation> {
    let tap = spec.tap();
    let (mac, vlan) = (spec.mac.to_string(), spec.vlan.id());
    let whole = serde_json::to_string(spec).expect("a port of strings and numbers serializes");
    let external_ids = [
        (OWNER, GUEST),
        (VMI_UID, spec.vmi_uid.as_str()),
        (VMI, spec.vmi.as_str()),
        (GUEST_NIC, spec.nic.as_str()),
        (PORT, whole.as_str()),
    ];
    // The names that Open vSwitch's integration guide gives to a VM's interface.
    let interface_ids =
        [("iface-id", spec.ip_object.as_str()), ("attached-mac", mac.as_str()), ("iface-status", "active")];
    let config = vswitch::PortConfig {
        name: tap.as_str(),
        tag: Some(vlan),
        external_ids: &external_ids,
        interface_ids: &interface_ids,
    };
    match bridge {
        Some(bridge) => vswitch::add_port(bridge, &config),
        None => vswitch::change_port(&config),
    }
}

/// Operations that put a NIC on a bridge, as a trunk of every VLAN.
pub(super) fn nic_port(nic: &str, bridge: &Bridge) -> Vec<Operation> {
    let external_ids = [(OWNER, NIC)];
    let config = vswitch::PortConfig { name: nic, tag: None, external_ids: &external_ids, interface_ids: &[] };
    vswitch::add_port(bridge, &config)
}
