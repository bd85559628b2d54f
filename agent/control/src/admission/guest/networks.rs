//! Networks and interfaces of a guest.

use std::collections::HashMap;

use furrow_api::vmi::{Interface, Network, VirtualMachineInstanceSpec};
use furrow_model::mac::Mac;

use super::{Identity, is_label};
use crate::admission::causes::Causes;
use crate::admission::facts::MacHolder;

/// What QEMU can show as a network card.
const MODELS: [&str; 7] = ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"];

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let interfaces = &spec.domain.devices.interfaces;
    let mut seen = HashMap::new();
    for (index, network) in spec.networks.iter().enumerate() {
        let field = format!("{base}.networks[{index}]");
        if let Some(first) = seen.insert(network.name.as_str(), index) {
            let text = format!("{field} and {base}.networks[{first}] must not have the same Name.");
            causes.duplicate(format!("{field}.name"), text);
        }
        self::network(&field, network, causes);
        if !interfaces.iter().any(|interface| interface.name == network.name) {
            let field = format!("{field}.name");
            causes.invalid(&field, format!("{field} '{}' not found.", network.name));
        }
    }
    let mut seen = HashMap::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let field = format!("{base}.domain.devices.interfaces[{index}]");
        if let Some(first) = seen.insert(interface.name.as_str(), index) {
            let other = format!("{base}.domain.devices.interfaces[{first}]");
            causes.duplicate(format!("{field}.name"), format!("{field} and {other} must not have the same Name."));
        }
        let network = spec.networks.iter().find(|network| network.name == interface.name);
        if network.is_none() {
            let field = format!("{field}.name");
            causes.invalid(&field, format!("{field} '{}' not found.", interface.name));
        }
        self::interface(&field, interface, network, causes);
    }
}

fn network(field: &str, network: &Network, causes: &mut Causes) {
    if !is_label(&network.name) {
        causes.invalid(format!("{field}.name"), format!("{:?} is not a DNS label", network.name));
    }
    match (&network.pod, &network.multus) {
        (Some(_), Some(_)) => causes.invalid(field, format!("{field} should have only one network type")),
        (None, None) => causes.required(field, format!("{field} should have a network type")),
        (Some(_), None) => {}
        (None, Some(multus)) => {
            let name = multus.network_name.as_str();
            let (namespace, name) = name.split_once('/').map_or((None, name), |(space, name)| (Some(space), name));
            if name.is_empty() || name.contains('/') || namespace == Some("") {
                let text = format!("{:?} is neither name nor namespace/name", multus.network_name);
                causes.invalid(format!("{field}.multus.networkName"), text);
            }
        }
    }
}

fn interface(field: &str, interface: &Interface, network: Option<&Network>, causes: &mut Causes) {
    let bindings = [
        interface.binding.is_some(),
        interface.bridge.is_some(),
        interface.macvtap.is_some(),
        interface.masquerade.is_some(),
        interface.passt.is_some(),
        interface.passt_binding.is_some(),
        interface.slirp.is_some(),
        interface.sriov.is_some(),
    ];
    if bindings.into_iter().filter(|there| *there).count() > 1 {
        causes.invalid(field, format!("{field} should have only one interface binding method"));
    }
    // Masquerade means an address behind the node's. Here it means the default network without translation, and has no
    // meaning elsewhere.
    if interface.masquerade.is_some() && network.is_some_and(|network| network.pod.is_none()) {
        causes.invalid(format!("{field}.masquerade"), "Masquerade interface only implemented with pod network");
    }
    if let Some(model) = interface.model.as_deref().filter(|model| !model.is_empty() && !MODELS.contains(model)) {
        let text = format!("interface {} uses model {model} that is not supported.", interface.name);
        causes.unsupported(format!("{field}.model"), text);
    }
    super::ports::check(field, interface, causes);
    if let Some(mac) = interface.mac_address.as_deref().filter(|mac| mac.parse::<Mac>().is_err()) {
        let text = format!("interface {} has malformed MAC address ({mac}).", interface.name);
        causes.invalid(format!("{field}.macAddress"), text);
    }
}

/// Two cards with one address on one network take each other's frames.
pub(super) fn check_hardware_addresses(
    base: &str,
    spec: &VirtualMachineInstanceSpec,
    identity: Identity<'_>,
    holders: &[MacHolder],
    causes: &mut Causes,
) {
    let mut seen: HashMap<Mac, usize> = HashMap::new();
    for (index, interface) in spec.domain.devices.interfaces.iter().enumerate() {
        let Some(Ok(mac)) = interface.mac_address.as_deref().map(str::parse::<Mac>) else { continue };
        let field = format!("{base}.domain.devices.interfaces[{index}].macAddress");
        if let Some(first) = seen.insert(mac, index) {
            let other = format!("{base}.domain.devices.interfaces[{first}]");
            causes.duplicate(&field, format!("{field} {mac} is also that of {other}"));
        }
        let other = |holder: &&MacHolder| {
            holder.mac == mac && (holder.namespace != identity.namespace || holder.name != identity.name)
        };
        if let Some(holder) = holders.iter().find(other) {
            // What other namespaces hold is not this user's to know.
            let who = if holder.namespace == identity.namespace {
                format!("virtual machine {}", holder.name)
            } else {
                "a virtual machine of another namespace".to_owned()
            };
            causes.duplicate(&field, format!("{field} {mac} is already that of {who}"));
        }
    }
}
