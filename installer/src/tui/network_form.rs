//! The questions about the management network, as the installer and the console of a node ask them, and their answers as the
//! section of node.yaml. Pure.

use std::net::IpAddr;

use super::form::{Field, items};
use crate::config::{Bond, BondMode, Management, SecondAddress};

/// How the addresses come.
const WAYS: [&str; 2] = ["static", "DHCP"];
/// Bond modes, after what means no bond.
const MODES: [&str; 6] = ["none", "active-backup", "802.3ad", "balance-xor", "balance-tlb", "balance-alb"];

/// Places in the form.
pub(crate) const ADDRESS: usize = 1;
pub(crate) const GATEWAY: usize = 2;
pub(crate) const DNS: usize = 3;
const DOMAINS: usize = 4;
const VLAN: usize = 5;
const SECOND: usize = 6;
const SECOND_GATEWAY: usize = 7;
pub(crate) const MODE: usize = 8;
const INTERFACE: usize = 9;
const MEMBERS: usize = 10;

/// What is asked of an installation: the cards were chosen on a page of their own.
pub(crate) fn questions() -> Vec<Field> {
    vec![
        Field::choice("addresses", "Space turns; with DHCP the server must always give the same address", &WAYS, 0),
        Field::text("address", "with its prefix length, such as 10.0.0.11/24; by DHCP without", ""),
        Field::text("gateway", "empty for none", ""),
        Field::text("DNS", "addresses with commas between, empty for none", ""),
        Field::text("domains", "that short names are looked up in; empty for none", ""),
        Field::text("VLAN", "tag, 1 to 4094; empty for none", ""),
        Field::text("IPv6", "a second address, such as fd00::11/64; empty for none", ""),
        Field::text("gateway 6", "of the second address; empty for none", ""),
        Field::choice("bond", "Space turns; how several cards work as one", &MODES, 0),
    ]
}

/// The form of a node that has a network, which may also change the cards.
pub(crate) fn of(management: &Management) -> Vec<Field> {
    let mut fields = questions();
    let show = |address: IpAddr, prefix: Option<u8>| match prefix {
        Some(prefix) => format!("{address}/{prefix}"),
        None => address.to_string(),
    };
    let or_empty = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    if management.prefix_length.is_none() {
        fields[0].turn(true);
    }
    fields[ADDRESS].set(show(management.address, management.prefix_length));
    fields[GATEWAY].set(or_empty(management.gateway));
    fields[DNS].set(management.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    fields[DOMAINS].set(management.search_domains.join(", "));
    fields[VLAN].set(management.vlan.map(|tag| tag.to_string()).unwrap_or_default());
    if let Some(second) = &management.second {
        fields[SECOND].set(show(second.address, Some(second.prefix_length)));
        fields[SECOND_GATEWAY].set(or_empty(second.gateway));
    }
    let mode = management.bond.as_ref().map_or("none", |bond| bond.mode.name());
    set_mode(&mut fields, mode);
    fields.push(Field::text("interface", "the card, or the bond's own name", management.interface.clone()));
    let members = management.bond.as_ref().map(|b| b.members.join(", ")).unwrap_or_default();
    fields.push(Field::text("cards", "of the bond, by name or MAC address, with commas between", members));
    fields
}

/// Turns the bond's choice to this mode.
pub(crate) fn set_mode(fields: &mut [Field], mode: &str) {
    for _ in 0..MODES.len() {
        if fields[MODE].answer() != mode {
            fields[MODE].turn(true);
        }
    }
}

/// The answers, for these cards; several need a bond.
///
/// # Errors
/// Which answer is wrong.
pub(crate) fn management(fields: &[Field], cards: &[&str]) -> Result<Management, String> {
    let answer = |n: usize| fields.get(n).map(Field::answer).unwrap_or_default();
    let by_dhcp = answer(0) == "DHCP";
    let (address, prefix) = match (answer(ADDRESS).split_once('/'), by_dhcp) {
        (Some((address, prefix)), false) => (parsed(address)?, Some(bits(prefix)?)),
        (None, false) => return Err("the address needs a prefix length, such as /24".into()),
        // The lease says the prefix.
        (Some((address, _)), true) => (parsed(address)?, None),
        (None, true) => (parsed(answer(ADDRESS))?, None),
    };
    let optional = |n: usize| if answer(n).is_empty() { Ok(None) } else { parsed(answer(n)).map(Some) };
    let second = match answer(SECOND).split_once('/') {
        Some((address, prefix)) => Some(SecondAddress {
            address: parsed(address)?,
            prefix_length: bits(prefix)?,
            gateway: optional(SECOND_GATEWAY)?,
        }),
        None if answer(SECOND).is_empty() => None,
        None => return Err("the second address needs a prefix length, such as /64".into()),
    };
    let vlan = match answer(VLAN) {
        "" => None,
        tag => Some(tag.parse().map_err(|_| format!("`{tag}` is no VLAN tag"))?),
    };
    let (interface, bond) = devices(fields, cards)?;
    Ok(Management {
        interface,
        bond,
        vlan,
        address,
        prefix_length: prefix,
        gateway: if by_dhcp { None } else { optional(GATEWAY)? },
        dns: items(answer(DNS)).into_iter().map(parsed).collect::<Result<_, _>>()?,
        search_domains: items(answer(DOMAINS)).into_iter().map(str::to_owned).collect(),
        second,
        vip: None,
    })
}

/// The interface and the bond that it may be.
fn devices(fields: &[Field], cards: &[&str]) -> Result<(String, Option<Bond>), String> {
    let answer = |n: usize| fields.get(n).map(Field::answer);
    let mode = BondMode::ALL.into_iter().find(|mode| Some(mode.name()) == answer(MODE));
    let (name, members) = match (answer(INTERFACE), cards) {
        (Some(name), _) => (name.to_owned(), items(answer(MEMBERS).unwrap_or_default())),
        (None, [card]) if mode.is_none() => ((*card).to_owned(), Vec::new()),
        (None, cards) => ("bond0".to_owned(), cards.to_vec()),
    };
    match mode {
        Some(mode) => Ok((name, Some(Bond { mode, members: members.into_iter().map(str::to_owned).collect() }))),
        None if cards.len() > 1 => Err("several cards need a bond: turn `bond` with Space".into()),
        None => Ok((name, None)),
    }
}

fn parsed(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no address"))
}

fn bits(text: &str) -> Result<u8, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no prefix length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &str) -> Management {
        let text = format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{{keys}}}\nceph: {{disks: [{{path: /dev/b}}]}}\n"
        );
        crate::config::parse(&text).expect("good").management
    }

    #[test]
    fn a_networks_form_gives_the_same_network() {
        for keys in [
            "interface: eno1, address: 10.0.0.11",
            "interface: eno1, address: 10.0.0.11, dns: [10.0.0.2]",
            "interface: eno1, address: 10.0.0.11, prefixLength: 24, gateway: 10.0.0.1, dns: [10.0.0.2, 10.0.0.3]",
            "interface: b0, bond: {mode: 802.3ad, members: [eno1, '52:54:00:00:00:01']}, vlan: 7, address: 10.0.0.11, \
             prefixLength: 24, searchDomains: [a.b, c.d], second: {address: 'fd00::11', prefixLength: 64, gateway: 'fd00::1'}",
        ] {
            assert_eq!(management(&of(&config(keys)), &[]).as_ref(), Ok(&config(keys)), "{keys}");
        }
    }

    #[test]
    fn several_cards_are_a_bond() {
        let mut fields = questions();
        fields[ADDRESS].set("10.0.0.11/24");
        assert_eq!(management(&fields, &["eno1"]).map(|m| m.interface), Ok("eno1".into()));
        assert!(management(&fields, &["eno1", "eno2"]).is_err_and(|e| e.contains("need a bond")));
        set_mode(&mut fields, "802.3ad");
        let made = management(&fields, &["eno1", "eno2"]).expect("a bond");
        assert_eq!(made.interface, "bond0");
        assert_eq!(made.bond.map(|b| (b.mode, b.members.len())), Some((BondMode::Lacp, 2)));
    }

    #[test]
    fn wrong_answers_are_named() {
        for (n, text, expected) in [
            (ADDRESS, "10.0.0.11", "needs a prefix length"),
            (ADDRESS, "10.0.0/24", "`10.0.0` is no address"),
            (ADDRESS, "10.0.0.1/x", "`x` is no prefix length"),
            (GATEWAY, "router", "`router` is no address"),
            (DNS, "10.0.0.2; 10.0.0.3", "`10.0.0.2;` is no address"),
            (VLAN, "ten", "`ten` is no VLAN tag"),
            (SECOND, "fd00::1", "the second address needs a prefix length"),
        ] {
            let mut fields = questions();
            fields[ADDRESS].set("10.0.0.11/24");
            fields[n].set(text);
            let error = management(&fields, &["eno1"]).expect_err("it was accepted");
            assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
        }
    }

    #[test]
    fn every_mode_of_node_yaml_is_offered() {
        assert_eq!(BondMode::ALL.map(BondMode::name).as_slice(), &MODES[1..]);
    }
}
