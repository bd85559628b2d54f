//! Ports and DHCP options of interfaces. On the default network they are what other hosts may connect to; on a bridge they are names for
//! people, as in KubeVirt.

use std::collections::HashSet;

use furrow_api::vmi::Interface;
use furrow_model::dhcp_options::{Asked, DhcpOptions};

use super::is_label;
use crate::admission::causes::Causes;

/// Each of them costs flows of the switch.
const PORTS_MAX: usize = 64;

/// Longest name of a port (IANA service names, RFC 6335).
const NAME_MAX: usize = 15;

/// `field`: where the interface stands in its object.
pub(super) fn check(field: &str, interface: &Interface, causes: &mut Causes) {
    if interface.ports.len() > PORTS_MAX {
        let text =
            format!("has {} ports, more than {PORTS_MAX}: without a list all are reachable", interface.ports.len());
        causes.invalid(format!("{field}.ports"), text);
    }
    dhcp_options(field, interface, causes);
    let mut names = HashSet::new();
    for (index, port) in interface.ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        if !(1..=65_535).contains(&port.port) {
            causes.invalid(format!("{field}.port"), "Port field must be in range 0 < x < 65536.");
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !matches!(protocol, "" | "TCP" | "UDP") {
            causes.invalid(format!("{field}.protocol"), "Unknown protocol, only TCP or UDP allowed");
        }
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if name.len() > NAME_MAX || !is_label(name) {
            causes.invalid(format!("{field}.name"), format!("Invalid name of the port: {name}"));
        } else if !names.insert(name) {
            causes.duplicate(format!("{field}.name"), format!("Duplicate name of the port: {name}"));
        }
    }
}

fn dhcp_options(field: &str, interface: &Interface, causes: &mut Causes) {
    let Some(options) = &interface.dhcp_options else { return };
    let asked = Asked {
        boot_file: options.boot_file_name.as_deref().filter(|text| !text.is_empty()),
        tftp_server: options.tftp_server_name.as_deref().filter(|text| !text.is_empty()),
        ntp_servers: options.ntp_servers.iter().map(String::as_str).collect(),
        private: options.private_options.iter().map(|option| (option.option, option.value.as_str())).collect(),
    };
    if let Err(error) = DhcpOptions::parse(&asked) {
        causes.invalid(format!("{field}.dhcpOptions"), error);
    }
}
