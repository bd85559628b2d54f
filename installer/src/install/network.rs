//! The management network as systemd-networkd's unit (systemd.network(5)). Pure.

use crate::config::Management;

/// The unit's place; it comes before the image's own, which asks every port for DHCP.
pub(crate) const PATH: &str = "etc/systemd/network/20-management.network";

/// The unit, for a node whose address node.yaml gives whole. None where only the address is said and DHCP gives the rest.
pub(crate) fn unit(management: &Management) -> Option<String> {
    let prefix = management.prefix_length?;
    let mut text = format!(
        "# Written by furrow-install from node.yaml.\n[Match]\nName={}\n\n[Network]\nAddress={}/{prefix}\n",
        management.interface, management.address
    );
    for (key, values) in [("Gateway", management.gateway.as_slice()), ("DNS", &management.dns)] {
        for value in values {
            text += &format!("{key}={value}\n");
        }
    }
    Some(text + "LinkLocalAddressing=ipv6\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_prefix_is_static() {
        let mut management = Management {
            interface: "eno1".into(),
            address: "10.0.0.11".parse().expect("an address"),
            prefix_length: Some(24),
            gateway: Some("10.0.0.1".parse().expect("an address")),
            dns: vec!["10.0.0.2".parse().expect("an address")],
            vip: None,
        };
        let text = unit(&management).expect("static");
        assert!(
            text.contains("Name=eno1\n") && text.contains("Address=10.0.0.11/24\nGateway=10.0.0.1\nDNS=10.0.0.2\n")
        );
        management.prefix_length = None;
        assert_eq!(unit(&management), None);
    }
}
