//! The OpenFlow table of a provider bridge: who may send what. Everything not named here is dropped; what is let
//! through goes to NORMAL, OVS's own learning switch, which applies the VLAN tags. Refuses to forward for a port that
//! it was not told about.
//!
//! ```text
//! priority
//!   200  from a guest: DHCP requests (answered on the tap, never on the LAN), DHCP server answers, router adverts -> drop
//!        from a guest: what it says to its node (`reach`: taken on the tap as well)                             -> drop
//!   150  to a guest: TCP connections to ports that are not for others, where a guest lists those that are             -> drop
//!   100  from a guest: ARP and IPv4 with its own MAC and address                                                  -> NORMAL
//!    50  from a guest: the rest, counted as spoofed                                                               -> drop
//!    10  from the NIC                                                                                             -> NORMAL
//!     0  anything else                                                                                            -> drop
//! ```
//! Syntax: ovs-fields(7), ovs-actions(7), ovs-ofctl(8).

use std::collections::BTreeMap;
use std::fmt;

use crate::port::{PortAddress, PortSpec, TapName};
use crate::port_ranges;
use crate::reach::NODE_ADDRESS;

/// Marks the flows that belong to no guest.
const BASE_COOKIE: Cookie = Cookie(0xfa00_0000_0000_0000);

/// Set in the cookies of guests' ports, above the 44 bits of the tap's name.
const PORT_COOKIE: u64 = 0xfa00_1000_0000_0000;

const PRIORITY_REFUSED: u16 = 200;
const PRIORITY_CLOSED: u16 = 150;
const PRIORITY_OWN: u16 = 100;
const PRIORITY_SPOOFED: u16 = 50;
const PRIORITY_NIC: u16 = 10;

/// The number by which vswitchd knows a port of a bridge, 1 to 65279 (OpenFlow reserves the rest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfPort(u16);

impl OfPort {
    /// Takes `Interface.ofport`; `None` while vswitchd has not opened the interface (-1), or for a reserved number.
    #[must_use]
    pub fn new(number: i64) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| (1..0xff00).contains(number)).map(Self)
    }
}

/// Names a group of flows, so that they can be replaced and counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(u64);

impl Cookie {
    /// The cookie of a guest's port.
    #[must_use]
    pub fn of(tap: &TapName) -> Self {
        Self(PORT_COOKIE | tap.bits())
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What happens to a matching frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Drop,
    Normal,
}

/// One entry of the table. Displays as a line for ovs-ofctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    cookie: Cookie,
    priority: u16,
    matches: Vec<String>,
    action: Action,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookie={},table=0,priority={}", self.cookie, self.priority)?;
        for field in &self.matches {
            write!(f, ",{field}")?;
        }
        f.write_str(match self.action {
            Action::Drop => ",actions=drop",
            Action::Normal => ",actions=NORMAL",
        })
    }
}

/// The flows that every bridge has: frames from its NICs are switched, all others are dropped.
fn base_flows(nics: &[OfPort]) -> Vec<Flow> {
    let mut flows: Vec<Flow> = nics
        .iter()
        .map(|nic| Flow {
            cookie: BASE_COOKIE,
            priority: PRIORITY_NIC,
            matches: vec![format!("in_port={}", nic.0)],
            action: Action::Normal,
        })
        .collect();
    flows.push(Flow { cookie: BASE_COOKIE, priority: 0, matches: Vec::new(), action: Action::Drop });
    flows
}

/// The flows of one guest's port.
#[must_use]
pub fn port_flows(spec: &PortSpec, ofport: OfPort) -> Vec<Flow> {
    let cookie = Cookie::of(&spec.tap());
    let flow = |priority, matches: &[String], action| {
        let mut all = vec![format!("in_port={}", ofport.0)];
        all.extend_from_slice(matches);
        Flow { cookie, priority, matches: all, action }
    };
    let refuse = |matches: &str| flow(PRIORITY_REFUSED, &[matches.to_owned()], Action::Drop);
    // No 802.1Q header at all (OVS sets 0x1000 where there is one): a guest never chooses its own VLAN. In the very
    // form that the table gives back, or `replace-flows` would renew these flows, and their counters, each time.
    let allow = |matches: String| {
        flow(PRIORITY_OWN, &["vlan_tci=0x0000/0x1fff".into(), format!("dl_src={}", spec.mac), matches], Action::Normal)
    };
    let mut flows = vec![
        refuse("udp,tp_src=67"),
        refuse("udp6,tp_src=547"),
        refuse("icmp6,icmp_type=134"),
        refuse(&format!("ip,nw_dst={NODE_ADDRESS}")),
        refuse(&format!("arp,arp_tpa={NODE_ADDRESS}")),
        flow(PRIORITY_SPOOFED, &[], Action::Drop),
    ];
    match &spec.address {
        Some(PortAddress { address, .. }) => {
            flows.push(refuse("udp,tp_src=68,tp_dst=67"));
            flows.push(allow(format!("ip,nw_src={address}")));
            for sender in [address.to_string(), "0.0.0.0".into()] {
                // 0.0.0.0 is how a host asks whether its address is in use (RFC 5227).
                flows.push(allow(format!("arp,arp_sha={},arp_spa={sender}", spec.mac)));
            }
        }
        None => {
            flows.push(allow(format!("arp,arp_sha={}", spec.mac)));
            flows.extend([allow("ip".into()), allow("ipv6".into())]);
        }
    }
    flows.extend(closed_ports(spec, cookie));
    flows
}

/// First frames of TCP connections to the guest's other ports are dropped, wherever they come from. Frames of connections
/// that the guest has opened are not first ones. UDP has no first frame: what is a reply is not told from what is not.
fn closed_ports(spec: &PortSpec, cookie: Cookie) -> Vec<Flow> {
    let Some(open) = &spec.tcp_ports else { return Vec::new() };
    let closed = port_ranges::complement(open);
    let flow = |protocol: &str, (value, mask): port_ranges::Masked| {
        let mut matches = vec![protocol.to_owned(), format!("dl_dst={}", spec.mac)];
        if mask != 0 {
            matches.push(format!("tp_dst={value:#x}/{mask:#x}"));
        }
        matches.push("tcp_flags=+syn-ack".to_owned());
        Flow { cookie, priority: PRIORITY_CLOSED, matches, action: Action::Drop }
    };
    ["tcp", "tcp6"].into_iter().flat_map(|protocol| closed.iter().map(move |masked| flow(protocol, *masked))).collect()
}

/// Input of `ovs-ofctl --bundle replace-flows`: the whole table.
#[must_use]
pub fn whole_table<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> String {
    flows.into_iter().map(|flow| format!("{flow}\n")).collect()
}

/// Flows by the cookie that names them together.
pub type Groups = BTreeMap<Cookie, Vec<Flow>>;

/// The groups of a whole bridge: the base, and one a port.
#[must_use]
pub fn groups<'a>(nics: &[OfPort], ports: impl IntoIterator<Item = (&'a PortSpec, OfPort)>) -> Groups {
    let mut groups = Groups::from([(BASE_COOKIE, base_flows(nics))]);
    groups.extend(ports.into_iter().map(|(spec, ofport)| (Cookie::of(&spec.tap()), port_flows(spec, ofport))));
    groups
}

/// Input of `ovs-ofctl --bundle add-flows` that makes `present` into `wanted`: of each group that differs, the old
/// flows go and the new ones come. Empty when nothing differs.
#[must_use]
pub fn changes(present: &Groups, wanted: &Groups) -> String {
    let mut text = String::new();
    let stale = present.iter().filter(|(cookie, flows)| wanted.get(cookie) != Some(flows));
    text.extend(stale.map(|(cookie, _)| format!("delete cookie={cookie}/-1\n")));
    for (_, flows) in wanted.iter().filter(|(cookie, flows)| present.get(cookie) != Some(flows)) {
        text.extend(flows.iter().map(|flow| format!("add {flow}\n")));
    }
    text
}

/// What a guest's port let through and what it held back, since its flows were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Frames from the guest that were switched.
    pub passed_frames: u64,
    /// Bytes of them.
    pub passed_bytes: u64,
    /// Frames with an address that is not the guest's, or of a kind it may not send.
    pub spoofed_frames: u64,
    /// DHCP requests, answered on the tap, and router or server messages that no guest may send.
    pub consumed_frames: u64,
}

/// Reads the output of `ovs-ofctl dump-flows BRIDGE cookie=.../-1` for one port. Lines it does not know count nothing.
#[must_use]
pub fn parse_counters(dump: &str) -> PortCounters {
    let mut counters = PortCounters::default();
    for line in dump.lines() {
        let number = |key: &str| {
            let rest = line.split([',', ' ']).find_map(|part| part.strip_prefix(key))?;
            rest.strip_prefix('=')?.parse::<u64>().ok()
        };
        let (Some(frames), Some(priority)) = (number("n_packets"), number("priority")) else { continue };
        match u16::try_from(priority) {
            Ok(PRIORITY_REFUSED) => counters.consumed_frames += frames,
            Ok(PRIORITY_OWN) => {
                counters.passed_frames += frames;
                counters.passed_bytes += number("n_bytes").unwrap_or(0);
            }
            Ok(PRIORITY_SPOOFED) => counters.spoofed_frames += frames,
            _ => {}
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortRequest;

    fn spec(ip: Option<&str>) -> PortSpec {
        let request = PortRequest {
            vmi_uid: "6ad58a25".into(),
            vmi: "shop/db".into(),
            nic: "lan".into(),
            bridge: "br-prod".into(),
            vlan: 100,
            mac: "02:00:5e:10:00:01".into(),
            ip: ip.map(str::to_owned),
            prefix_len: Some(23),
            mtu: 1500,
            ..PortRequest::default()
        };
        PortSpec::parse(request).expect("a valid request")
    }

    fn lines(spec: &PortSpec) -> Vec<String> {
        let ofport = OfPort::new(7).expect("a valid number");
        let prefix = format!("cookie={},table=0,", Cookie::of(&spec.tap()));
        let strip = |flow: &Flow| flow.to_string().strip_prefix(&prefix).expect("its cookie").to_owned();
        port_flows(spec, ofport).iter().map(strip).collect()
    }

    #[test]
    fn a_port_with_an_address_lets_only_its_own_out() {
        let expected = [
            "priority=200,in_port=7,udp,tp_src=67,actions=drop",
            "priority=200,in_port=7,udp6,tp_src=547,actions=drop",
            "priority=200,in_port=7,icmp6,icmp_type=134,actions=drop",
            "priority=200,in_port=7,ip,nw_dst=169.254.169.252,actions=drop",
            "priority=200,in_port=7,arp,arp_tpa=169.254.169.252,actions=drop",
            "priority=50,in_port=7,actions=drop",
            "priority=200,in_port=7,udp,tp_src=68,tp_dst=67,actions=drop",
            "priority=100,in_port=7,vlan_tci=0x0000/0x1fff,dl_src=02:00:5e:10:00:01,ip,nw_src=192.168.10.7,actions=NORMAL",
            "priority=100,in_port=7,vlan_tci=0x0000/0x1fff,dl_src=02:00:5e:10:00:01,arp,arp_sha=02:00:5e:10:00:01,\
             arp_spa=192.168.10.7,actions=NORMAL",
            "priority=100,in_port=7,vlan_tci=0x0000/0x1fff,dl_src=02:00:5e:10:00:01,arp,arp_sha=02:00:5e:10:00:01,\
             arp_spa=0.0.0.0,actions=NORMAL",
        ];
        assert_eq!(lines(&spec(Some("192.168.10.7"))), expected);
    }

    #[test]
    fn a_port_without_an_address_is_held_to_its_mac() {
        let lines = lines(&spec(None));
        assert!(lines.iter().all(|line| line.contains("actions=drop") || line.contains("dl_src=02:00:5e:10:00:01")));
        assert!(!lines.iter().any(|line| line.contains("tp_dst=67")), "a foreign DHCP server may answer it");
    }

    #[test]
    fn connections_reach_listed_ports_only() {
        let open = |ports: Option<Vec<u16>>| lines(&PortSpec { tcp_ports: ports, ..spec(Some("192.168.10.7")) });
        let closed = |ports| open(ports).into_iter().filter(|line| line.contains("tcp_flags")).collect::<Vec<_>>();
        assert_eq!(closed(None), [""; 0]);
        assert_eq!(
            closed(Some(Vec::new())),
            [
                "priority=150,tcp,dl_dst=02:00:5e:10:00:01,tcp_flags=+syn-ack,actions=drop",
                "priority=150,tcp6,dl_dst=02:00:5e:10:00:01,tcp_flags=+syn-ack,actions=drop",
            ]
        );
        let web = closed(Some(vec![80]));
        assert!(web.iter().all(|line| line.contains("actions=drop")), "{web:?}");
        let first = "priority=150,tcp,dl_dst=02:00:5e:10:00:01,tp_dst=0x0/0xffc0,tcp_flags=+syn-ack,actions=drop";
        assert_eq!((web.len(), web[0].as_str()), (2 * 16, first));
    }

    #[test]
    fn a_bridge_drops_what_nobody_named() {
        let flows = base_flows(&[OfPort::new(1).expect("valid")]);
        assert_eq!(
            whole_table(&flows),
            "cookie=0xfa00000000000000,table=0,priority=10,in_port=1,actions=NORMAL\n\
             cookie=0xfa00000000000000,table=0,priority=0,actions=drop\n"
        );
    }

    #[test]
    fn only_groups_that_differ_are_touched_and_old_flows_go_first() {
        let [one, two] = [7, 8].map(|number| OfPort::new(number).expect("valid"));
        let (kept, moved) = (spec(Some("192.168.10.7")), PortSpec { nic: "second".into(), ..spec(None) });
        let present = groups(&[], [(&kept, one), (&moved, one)]);
        let wanted = groups(&[], [(&kept, one), (&moved, two)]);
        let text = changes(&present, &wanted);
        let cookie = Cookie::of(&moved.tap());
        assert!(text.starts_with(&format!("delete cookie={cookie}/-1\nadd cookie={cookie},")), "{text}");
        assert!(!text.contains(&Cookie::of(&kept.tap()).to_string()));
        assert_eq!(changes(&wanted, &wanted), "");
        let gone = groups(&[], [(&kept, one)]);
        assert_eq!(changes(&wanted, &gone), format!("delete cookie={cookie}/-1\n"));
    }

    #[test]
    fn counters_are_summed_by_what_the_flows_mean() {
        let dump = "NXST_FLOW reply (xid=0x4):\n \
            cookie=0xfa0011, duration=1.2s, table=0, n_packets=3, n_bytes=180, priority=200,udp,in_port=7 actions=drop\n \
            cookie=0xfa0011, duration=1.2s, table=0, n_packets=5, n_bytes=500, priority=100,ip,in_port=7 actions=NORMAL\n \
            cookie=0xfa0011, duration=1.2s, table=0, n_packets=2, n_bytes=84, priority=100,arp,in_port=7 actions=NORMAL\n \
            cookie=0xfa0011, duration=1.2s, table=0, n_packets=9, n_bytes=600, priority=50,in_port=7 actions=drop\n";
        let expected = PortCounters { passed_frames: 7, passed_bytes: 584, spoofed_frames: 9, consumed_frames: 3 };
        assert_eq!(parse_counters(dump), expected);
    }

    #[test]
    fn numbers_that_openflow_reserves_are_no_ports() {
        assert_eq!([-1, 0, 0xff00, 0xffff, 70_000].map(OfPort::new), [None; 5]);
    }
}
