//! The node's network as node.yaml says it: which units of systemd-networkd there must be ([`files`]), what is on the machine
//! instead (`change`), and a change that comes back by itself unless somebody confirms it ([`trial`]).
//!
//! ```text
//!  NIC, or bond <- NICs      (member units, .netdev)
//!   └─ VLAN device           (carrier unit, .netdev)
//!       └─ addresses         (20-management.network)
//! ```

pub(crate) mod cards;
mod document;
pub(crate) mod trial;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::document::{Addresses, Device, Kind, Netdev, Network, Role};
use crate::config::{Management, SecondAddress, is_mac};

pub(crate) use self::yaml::{quoted, replace_management, section};

/// Where the units lie. They come before the image's own, which asks every port for DHCP.
pub(crate) const DIR: &str = "/etc/systemd/network";
/// How the names of ours begin; nobody else's do.
const PREFIX: &str = "20-management";

/// The units, by their file names. None where only the address is said and DHCP gives the rest: the image's own do that.
pub(crate) fn files(management: &Management) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, text: String| files.insert(format!("{PREFIX}{name}"), text);
    let named = |name: &str| Device::Name(name.to_owned());
    if let Some(bond) = &management.bond {
        put("-bond.netdev", Netdev { name: management.interface.clone(), kind: Kind::Bond(bond.mode) }.to_string());
        for (n, member) in bond.members.iter().enumerate() {
            let device = if is_mac(member) { Device::Mac(member.to_lowercase()) } else { named(member) };
            let unit = Network { device, role: Role::Member(management.interface.clone()) };
            put(&format!("-member-{}.network", n + 1), unit.to_string());
        }
    }
    if let Some(tag) = management.vlan {
        put("-vlan.netdev", Netdev { name: management.device(), kind: Kind::Vlan(tag) }.to_string());
        let carrier = Network { device: named(&management.interface), role: Role::Carrier(management.device()) };
        put("-carrier.network", carrier.to_string());
    }
    let addresses = addresses(management);
    if addresses != (Addresses { dhcp: true, ..Addresses::default() }) || !files.is_empty() {
        let unit = Network { device: named(&management.device()), role: Role::Addresses(addresses) };
        files.insert(format!("{PREFIX}.network"), unit.to_string());
    }
    files
}

fn addresses(management: &Management) -> Addresses {
    let second = |of: fn(&SecondAddress) -> Option<std::net::IpAddr>| management.second.as_ref().and_then(of);
    let own = management.prefix_length.map(|prefix| (management.address, prefix));
    let other = management.second.as_ref().map(|s| (s.address, s.prefix_length));
    Addresses {
        dhcp: own.is_none(),
        addresses: own.into_iter().chain(other).collect(),
        gateways: management.gateway.into_iter().chain(second(|s| s.gateway)).collect(),
        dns: management.dns.clone(),
        domains: management.search_domains.clone(),
    }
}

/// Devices that the units make; networkd does not remove them when their unit goes.
fn made(management: &Management) -> BTreeSet<String> {
    let bond = management.bond.as_ref().map(|_| management.interface.clone());
    bond.into_iter().chain(management.vlan.map(|_| management.device())).collect()
}

/// The network in words, a line.
pub(crate) fn describe(management: &Management) -> String {
    let mut text = management.interface.clone();
    if let Some(bond) = &management.bond {
        text += &format!(" ({} of {})", bond.mode.name(), bond.members.join(", "));
    }
    if let Some(tag) = management.vlan {
        text += &format!(", VLAN {tag}");
    }
    text += &match management.prefix_length {
        Some(prefix) => format!(", {}/{prefix}", management.address),
        None => format!(", {} by DHCP", management.address),
    };
    if let Some(gateway) = management.gateway {
        text += &format!(" via {gateway}");
    }
    if let Some(second) = &management.second {
        text += &format!(", {}/{}", second.address, second.prefix_length);
        text += &second.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
    }
    if !management.dns.is_empty() {
        let servers: Vec<String> = management.dns.iter().map(ToString::to_string).collect();
        text += &format!(", DNS {}", servers.join(" "));
    }
    if !management.search_domains.is_empty() {
        text += &format!(", domains {}", management.search_domains.join(" "));
    }
    text
}

/// The units of ours that are below a directory, by their file names.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn present(dir: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && (name.ends_with(".network") || name.ends_with(".netdev")) {
            found.insert(name, std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "BLESS is how goldens are rewritten")]
mod tests {
    use super::*;

    fn management(keys: &str) -> Management {
        let text = format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{{keys}}}\nceph: {{disks: [{{path: /dev/b}}]}}\n"
        );
        crate::config::parse(&text).expect("good").management
    }

    /// All units of a network, one after another, as the golden file has them.
    fn check(name: &str, keys: &str) {
        let all: Vec<String> =
            files(&management(keys)).iter().map(|(name, text)| format!("=== {name}\n{text}")).collect();
        let text = all.join("\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/testdata").join(name);
        if std::env::var("BLESS").is_ok() {
            std::fs::write(&path, &text).expect("written");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == golden, "{name} differs from its golden file; BLESS=1 rewrites it:\n{text}");
    }

    #[test]
    fn units_are_as_the_golden_files() {
        check(
            "static.txt",
            "interface: eno1, address: 10.0.0.11, prefixLength: 24, gateway: 10.0.0.1, dns: [10.0.0.2]",
        );
        check(
            "dhcp-vlan.txt",
            "interface: eno1, vlan: 100, address: 10.0.0.11, searchDomains: [example.com, example.org]",
        );
        check(
            "bond-vlan-dual.txt",
            "interface: bond0, bond: {mode: 802.3ad, members: [eno1, '52:54:00:12:34:5A']}, vlan: 7, address: 10.0.0.11, \
             prefixLength: 24, gateway: 10.0.0.1, dns: [10.0.0.2, 'fd00::2'], \
             second: {address: 'fd00::11', prefixLength: 64, gateway: 'fe80::1'}",
        );
        check("bond.txt", "interface: bond0, bond: {members: [eno1, eno2]}, address: 10.0.0.11, prefixLength: 24");
    }

    #[test]
    fn plain_dhcp_is_the_images_own() {
        assert!(files(&management("interface: eno1, address: 10.0.0.11")).is_empty());
    }

    #[test]
    fn every_unit_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted = files(&management("interface: b, bond: {members: [x, y]}, vlan: 3, address: 10.0.0.1"));
        for (name, text) in &wanted {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        std::fs::write(dir.path().join("10-other.network"), "").expect("written");
        assert_eq!(present(dir.path()).expect("read"), wanted);
        assert_eq!(wanted.len(), 6);
    }

    #[test]
    fn the_line_for_people_has_all_of_it() {
        let keys = "interface: b0, bond: {members: [x, y]}, vlan: 3, address: 10.0.0.1, prefixLength: 8, gateway: 10.0.0.2, \
                    second: {address: 'fd00::1', prefixLength: 64}, dns: [10.0.0.3], searchDomains: [a.b]";
        assert_eq!(
            describe(&management(keys)),
            "b0 (active-backup of x, y), VLAN 3, 10.0.0.1/8 via 10.0.0.2, fd00::1/64, DNS 10.0.0.3, domains a.b"
        );
    }
}
