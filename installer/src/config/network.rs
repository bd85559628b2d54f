//! node.yaml's words for the network: bond, VLAN, second address, time servers, proxy; and what of them is refused. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Management, Refusal, Secret, is_dns_label, is_http_url, refuse};

/// Bytes of a device's name that the kernel takes (IFNAMSIZ less its end).
const MAX_NAME: usize = 15;
/// NICs of one bond; the kernel takes more, no server has them on one network.
const MAX_MEMBERS: usize = 8;

/// Several NICs as one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Bond {
    /// How they share the work.
    #[serde(default)]
    pub(crate) mode: BondMode,
    /// NICs, by name or by MAC address.
    pub(crate) members: Vec<String>,
}

/// How the NICs of a bond share the work; names as of the kernel and systemd.netdev(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum BondMode {
    /// One works, the others wait; needs nothing of the switch.
    #[default]
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// LACP; the switch's ports must be set up for it.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// By a hash of the addresses; the switch's ports must be a static group.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// Sends by load; needs nothing of the switch.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// Sends and receives by load; needs nothing of the switch.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// All of them, the usual ones first.
    pub(crate) const ALL: [BondMode; 5] =
        [BondMode::ActiveBackup, BondMode::Lacp, BondMode::BalanceXor, BondMode::BalanceTlb, BondMode::BalanceAlb];

    /// As in the document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BondMode::ActiveBackup => "active-backup",
            BondMode::Lacp => "802.3ad",
            BondMode::BalanceXor => "balance-xor",
            BondMode::BalanceTlb => "balance-tlb",
            BondMode::BalanceAlb => "balance-alb",
        }
    }
}

/// An address of the other family.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SecondAddress {
    /// The address.
    pub(crate) address: IpAddr,
    /// Bits of its network's prefix.
    pub(crate) prefix_length: u8,
    /// Default route of that family.
    pub(crate) gateway: Option<IpAddr>,
}

/// Through what the node reaches servers outside.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Proxy {
    /// For http, such as `http://proxy:3128`. It may hold a login.
    pub(crate) http: Option<Secret>,
    /// For https.
    pub(crate) https: Option<Secret>,
    /// Hosts, domains and networks that are reached directly, beside the cluster's own.
    #[serde(default)]
    pub(crate) no_proxy: Vec<String>,
}

impl Management {
    /// The device that has the addresses.
    pub(crate) fn device(&self) -> String {
        match self.vlan {
            Some(tag) => format!("{}.{tag}", self.interface),
            None => self.interface.clone(),
        }
    }
}

/// Whether this is six bytes in hexadecimal with colons between, as the kernel writes a MAC address.
pub(crate) fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_device_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"/:*?[]!%\"'\\,;".contains(c);
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(plain) && ![".", ".."].contains(&text)
}

/// Whether an address can be a host's own.
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether two addresses of one family have the first `prefix` bits in common.
fn share(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let differing = (bits(one) ^ bits(other)).leading_zeros();
    differing >= u32::from(prefix)
}

pub(super) fn check_management(management: &Management) -> Result<(), Refusal> {
    if !is_device_name(&management.interface) {
        return refuse("management.interface", &management.interface, "a device name of 1-15 characters");
    }
    if let Some(bond) = &management.bond {
        check_bond(&management.interface, bond)?;
    }
    check_vlan(management)?;
    let address = management.address;
    if !is_host(address) {
        return refuse("management.address", address, "an address that one machine can have");
    }
    match management.prefix_length {
        Some(prefix) => {
            check_subnet("management", (address, prefix), management.gateway)?;
        }
        None if management.gateway.is_some() => {
            return refuse("management.prefixLength", "nothing", "a prefix length beside gateway");
        }
        None => {}
    }
    if let Some(second) = &management.second {
        if second.address.is_ipv4() == address.is_ipv4() || !is_host(second.address) {
            let family = if address.is_ipv4() { "an IPv6 address" } else { "an IPv4 address" };
            return refuse("management.second.address", second.address, &format!("{family} of one machine"));
        }
        check_subnet("management.second", (second.address, second.prefix_length), second.gateway)?;
    }
    if let Some((n, domain)) = management.search_domains.iter().enumerate().find(|(_, d)| !is_domain(d)) {
        return refuse(format!("management.searchDomains[{n}]"), domain, "a domain such as example.com");
    }
    check_vip(management)
}

fn check_bond(name: &str, bond: &Bond) -> Result<(), Refusal> {
    if bond.members.is_empty() || bond.members.len() > MAX_MEMBERS {
        return refuse("management.bond.members", bond.members.len(), &format!("1 to {MAX_MEMBERS} NICs"));
    }
    for (n, member) in bond.members.iter().enumerate() {
        let key = format!("management.bond.members[{n}]");
        if member == name {
            return refuse(key, member, "a NIC: management.interface is the bond's own name, such as bond0");
        }
        if !is_mac(member) && !is_device_name(member) {
            return refuse(key, member, "a device name, or a MAC address such as 52:54:00:12:34:56");
        }
        if bond.members[..n].iter().any(|m| m.eq_ignore_ascii_case(member)) {
            return refuse(key, member, "each NIC once");
        }
    }
    Ok(())
}

fn check_vlan(management: &Management) -> Result<(), Refusal> {
    match management.vlan {
        Some(tag) if !(1..=4094).contains(&tag) => refuse("management.vlan", tag, "a VLAN tag of 1 to 4094"),
        Some(tag) if management.device().len() > MAX_NAME => {
            let expected = format!("a tag with which `{}` has at most {MAX_NAME} characters", management.device());
            refuse("management.vlan", tag, &expected)
        }
        _ => Ok(()),
    }
}

/// An address, its prefix and its gateway under `key`.
fn check_subnet(key: &str, (address, prefix): (IpAddr, u8), gateway: Option<IpAddr>) -> Result<(), Refusal> {
    let most = if address.is_ipv4() { 32 } else { 128 };
    if !(1..=most).contains(&prefix) {
        return refuse(format!("{key}.prefixLength"), prefix, &format!("1 to {most}"));
    }
    let Some(gateway) = gateway else { return Ok(()) };
    let key = format!("{key}.gateway");
    if gateway.is_ipv4() != address.is_ipv4() {
        return refuse(key, gateway, "an address of the same family as the address beside it");
    }
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if gateway == address || !(share(address, gateway, prefix) || link_local) {
        return refuse(key, gateway, &format!("another address of the network {address}/{prefix}"));
    }
    Ok(())
}

fn check_vip(management: &Management) -> Result<(), Refusal> {
    match management.vip {
        Some(vip) if vip.is_ipv4() != management.address.is_ipv4() => {
            refuse("management.vip", vip, "an address of the same family as management.address")
        }
        Some(vip) if vip == management.address => {
            refuse("management.vip", vip, "an address that is no node's own: it moves between the servers")
        }
        Some(vip) if !is_host(vip) => refuse("management.vip", vip, "an address of the management network"),
        _ => Ok(()),
    }
}

fn is_domain(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    (1..=253).contains(&text.len()) && text.split('.').all(is_dns_label)
}

pub(super) fn check_ntp(servers: &[String]) -> Result<(), Refusal> {
    match servers.iter().enumerate().find(|(_, s)| !(is_domain(s) || s.parse::<IpAddr>().is_ok())) {
        Some((n, server)) => refuse(format!("ntp[{n}]"), server, "a time server's name or address"),
        None => Ok(()),
    }
}

/// Whether this is a proxy's URL. What would end the value in an environment file, or begin another one, is in no URL.
pub(super) fn is_proxy_url(text: &str) -> bool {
    is_http_url(text) && !text.contains(['\'', '"', '\\', '$', '`'])
}

pub(super) fn check_proxy(proxy: &Proxy) -> Result<(), Refusal> {
    if proxy.http.is_none() && proxy.https.is_none() {
        return refuse("proxy", "neither", "http or https, or both");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-:/*[]_".contains(c);
    match proxy.no_proxy.iter().enumerate().find(|(_, e)| e.is_empty() || !e.chars().all(plain)) {
        Some((n, entry)) => {
            refuse(format!("proxy.noProxy[{n}]"), entry, "a host, a domain such as .example.com, or a network")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const GOOD: &str = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement:\n  interface: bond0\n  address: 10.0.0.11\n  prefixLength: 24\nceph: {disks: [{path: /dev/vdb}]}\n";

    fn check_refused(more: &str, expected: &str) {
        let text = GOOD.replace("  prefixLength: 24\n", &format!("  prefixLength: 24\n{more}"));
        let error = parse(&text).expect_err("it was accepted").to_string();
        assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
    }

    #[test]
    fn a_whole_network_is_accepted() {
        let more = "  bond: {mode: 802.3ad, members: [eno1, '52:54:00:12:34:56']}\n  vlan: 100\n  gateway: 10.0.0.1\n  dns: [10.0.0.2, 'fd00::2']\n  searchDomains: [example.com]\n  second: {address: 'fd00::11', prefixLength: 64, gateway: 'fe80::1'}\nntp: [10.0.0.3, time.example.com]\nproxy: {http: 'http://u:p@proxy:3128', noProxy: [.example.com, 10.0.0.0/8]}\n";
        let text = GOOD.replace("  prefixLength: 24\n", &format!("  prefixLength: 24\n{more}"));
        let config = parse(&text).expect("good");
        assert_eq!(config.management.device(), "bond0.100");
        assert!(!format!("{config:?}").contains("u:p@"), "a proxy's login is shown");
    }

    #[test]
    fn a_dhcp_network_may_add_name_servers_but_no_gateway() {
        let text = GOOD.replace("prefixLength: 24", "dns: [10.0.0.2]");
        assert!(parse(&text).is_ok());
        let text = GOOD.replace("prefixLength: 24", "gateway: 10.0.0.1");
        assert!(parse(&text).is_err());
    }

    #[test]
    fn refusals_name_the_key_and_what_was_expected() {
        for (more, expected) in [
            ("  bond: {members: []}\n", "line 8: management.bond.members: `0` is not allowed, expected 1 to 8 NICs"),
            ("  bond: {members: [bond0]}\n", "management.bond.members[0]: `bond0` is not allowed, expected a NIC"),
            ("  bond: {members: [eno1, eno1]}\n", "management.bond.members[1]: `eno1` is not allowed, expected each"),
            ("  bond: {members: [a/b]}\n", "management.bond.members[0]: `a/b` is not allowed, expected a device name"),
            ("  bond: {mode: fast, members: [eno1]}\n", "line 8"),
            ("  vlan: 4095\n", "line 8: management.vlan: `4095` is not allowed, expected a VLAN tag of 1 to 4094"),
            ("  gateway: 10.0.1.1\n", "management.gateway: `10.0.1.1` is not allowed, expected another address of"),
            ("  gateway: 10.0.0.11\n", "management.gateway: `10.0.0.11`"),
            ("  gateway: 'fd00::1'\n", "management.gateway: `fd00::1` is not allowed, expected an address of the same"),
            ("  searchDomains: [a b]\n", "management.searchDomains[0]: `a b`"),
            ("  second: {address: 10.0.0.12, prefixLength: 24}\n", "management.second.address: `10.0.0.12`"),
            ("  second: {address: 'fd00::1', prefixLength: 129}\n", "management.second.prefixLength: `129`"),
            ("ntp: ['a b']\n", "line 8: ntp[0]: `a b` is not allowed, expected a time server's name or address"),
            ("proxy: {}\n", "proxy: `neither` is not allowed, expected http or https"),
            ("proxy: {http: 'proxy:3128'}\n", "proxy.http: `(hidden)` is not allowed, expected a URL"),
            ("proxy: {http: 'http://p', noProxy: ['a b']}\n", "proxy.noProxy[0]: `a b`"),
            ("admin: {passwordHash: secret}\n", "admin.passwordHash: `(hidden)` is not allowed, expected a hash"),
            ("admin: {passwordHash: '$1$ab$abcdefghijklmnopqrstuv'}\n", "admin.passwordHash: `(hidden)`"),
        ] {
            check_refused(more, expected);
        }
    }

    #[test]
    fn a_password_is_a_hash_of_a_method_that_is_not_broken() {
        let hash = format!("$6$rounds=5000$saltsalt${}", "a".repeat(86));
        let text = GOOD.replace("ceph:", &format!("admin: {{passwordHash: '{hash}'}}\nceph:"));
        let config = parse(&text).expect("good");
        assert!(!format!("{config:?}").contains(&hash), "the hash is shown");
        let broken = text.replace("admin: {", "admin: {more: 1, ");
        let error = parse(&broken).expect_err("unknown key").to_string();
        assert!(!error.contains("saltsalt"), "{error}");
    }
}
