//! Ports on a real switch: what a guest can and cannot send, who answers its DHCP, and what restarts leave alone.

mod lab;

use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable};
use furrow_host::openflow;
use furrow_model::flows::{Cookie, PortCounters, parse_counters};
use furrow_model::podnet::{NodeRange, decide};
use furrow_model::port::PortMac;

use super::podnet::PodNet;
use lab::{ADDRESS, BRIDGE, Guest, Lab, MAC, arrives, datagram, in_lab, in_namespace, run, spec, until};

const SOON: Duration = Duration::from_secs(5);
/// Long enough for a frame that is forwarded to arrive: the others take a millisecond.
const NEVER: Duration = Duration::from_millis(300);

/// Sends until it arrives: a bridge that was just made forwards a moment later.
async fn reaches(lab: &Lab, guest: &Guest, host: &str) -> bool {
    let socket = lab.listen(host, 7).await;
    for _ in 0..10 {
        guest.send(&datagram(MAC, ADDRESS, (1000, 7), b"hello from the guest"));
        if arrives(&socket, b"hello from the guest", SOON / 10).await {
            return true;
        }
    }
    false
}

async fn counters() -> PortCounters {
    let cookie = Cookie::of(&spec("lan").tap()).to_string();
    parse_counters(&openflow::dump_flows(BRIDGE, &cookie).await.unwrap())
}

async fn dhcp(guest: &Guest, kind: MessageType, options: &[DhcpOption]) -> Message {
    let mut message = Message::default();
    message.set_xid(7).set_chaddr(&MAC.parse::<PortMac>().unwrap().bytes());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    guest.send(&datagram(MAC, [0; 4], (68, 67), &message.to_vec().unwrap()));
    let is_answer = |frame: &[u8]| frame.len() > 42 && frame[23] == 17 && frame[36..38] == [0, 68];
    let frame = tokio::time::timeout(SOON, guest.receive(is_answer)).await.expect("DHCP is answered");
    Message::from_bytes(&frame[42..]).unwrap()
}

#[test]
fn a_guest_gets_its_address_and_talks_on_its_vlan_only() {
    in_lab(async |lab| {
        let tap = lab.agent.ports.ensure(&spec("lan")).await.unwrap();
        let guest = Guest::open(tap.as_str());
        let leak = lab.listen("host100", 67).await;
        let offer = dhcp(&guest, MessageType::Discover, &[]).await;
        assert_eq!((offer.opts().msg_type(), offer.yiaddr().octets()), (Some(MessageType::Offer), ADDRESS));
        let server = offer.opts().get(OptionCode::ServerIdentifier).cloned().unwrap();
        let taken = [DhcpOption::RequestedIpAddress(ADDRESS.into()), server];
        let ack = dhcp(&guest, MessageType::Request, &taken).await;
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        let foreign = [DhcpOption::RequestedIpAddress([192, 168, 10, 8].into())];
        assert_eq!(dhcp(&guest, MessageType::Request, &foreign).await.opts().msg_type(), Some(MessageType::Nak));
        assert!(!arrives(&leak, b"", NEVER).await, "DHCP stays on the tap");

        assert!(reaches(lab, &guest, "host100").await);
        let other = lab.listen("host200", 7).await;
        guest.send(&datagram(MAC, ADDRESS, (1000, 7), b"wrong vlan"));
        assert!(!arrives(&other, b"wrong vlan", NEVER).await);

        let host = lab.listen("host100", 7).await;
        host.send(&datagram("02:00:00:00:00:99", [192, 168, 10, 9], (7, 1000), b"hello guest")).unwrap();
        let answered = guest.receive(|frame| frame.ends_with(b"hello guest"));
        let frame = tokio::time::timeout(SOON, answered).await.expect("the LAN reaches the guest");
        assert_eq!(frame[12..14], [0x08, 0x00], "without a tag");
    });
}

#[test]
fn forged_frames_do_not_leave() {
    in_lab(async |lab| {
        let tap = lab.agent.ports.ensure(&spec("lan")).await.unwrap();
        let guest = Guest::open(tap.as_str());
        assert!(reaches(lab, &guest, "host100").await);
        let before = counters().await;
        let host = lab.listen("host100", 7).await;
        let other = lab.listen("host200", 7).await;
        guest.send(&datagram(MAC, [192, 168, 10, 8], (1000, 7), b"forged address"));
        guest.send(&datagram("02:00:5e:10:00:02", ADDRESS, (1000, 7), b"forged mac"));
        let mut tagged = datagram(MAC, ADDRESS, (1000, 7), b"forged tag");
        tagged.splice(12..12, [0x81, 0x00, 0, 200]);
        guest.send(&tagged);
        guest.send(&datagram(MAC, ADDRESS, (67, 68), b"forged dhcp answer"));
        let mut arp = [[0xff; 6], MAC.parse::<PortMac>().unwrap().bytes()].concat();
        arp.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
        arp.extend_from_slice(&MAC.parse::<PortMac>().unwrap().bytes());
        arp.extend_from_slice(&[192, 168, 10, 1, 2, 0, 0, 0, 0, 9, 192, 168, 10, 9]);
        guest.send(&arp);
        for socket in [&host, &other] {
            for payload in [&b"forged address"[..], b"forged mac", b"forged tag"] {
                assert!(!arrives(socket, payload, NEVER / 3).await, "{}", String::from_utf8_lossy(payload));
            }
        }
        // Counters of the userspace datapath follow every half second.
        until(async || counters().await.spoofed_frames >= before.spoofed_frames + 4).await;
        until(async || counters().await.consumed_frames > before.consumed_frames).await;
    });
}

#[test]
fn flows_and_dhcp_return_after_vswitchd_was_killed() {
    in_lab(async |lab| {
        let tap = lab.agent.ports.ensure(&spec("lan")).await.unwrap();
        let guest = Guest::open(tap.as_str());
        assert!(reaches(lab, &guest, "host100").await);
        lab.kill_vswitchd();
        let started = std::time::Instant::now();
        until(async || reaches(lab, &guest, "host100").await).await;
        eprintln!("traffic again after {} ms", started.elapsed().as_millis());
        assert_eq!(dhcp(&guest, MessageType::Discover, &[]).await.opts().msg_type(), Some(MessageType::Offer));
        guest.send(&datagram("02:00:5e:10:00:02", ADDRESS, (1000, 7), b"forged mac"));
        let host = lab.listen("host100", 7).await;
        assert!(!arrives(&host, b"forged mac", NEVER).await);
        lab.agent.ports.ensure(&spec("lan")).await.unwrap();
    });
}

#[test]
fn a_restarted_agent_leaves_a_running_port_alone_and_answers_dhcp() {
    in_lab(async |lab| {
        let tap = lab.agent.ports.ensure(&spec("lan")).await.unwrap();
        let guest = Guest::open(tap.as_str());
        assert!(reaches(lab, &guest, "host100").await);
        until(async || counters().await.passed_frames > 0).await;
        let before = counters().await;
        let tables = lab.agent.ovsdb.tables().unwrap();
        lab.restart_agent().await;
        assert_eq!(dhcp(&guest, MessageType::Discover, &[]).await.opts().msg_type(), Some(MessageType::Offer));
        lab.agent.ports.ensure(&spec("lan")).await.unwrap();
        assert!(counters().await.passed_frames >= before.passed_frames, "flows that stay keep their counters");
        assert_eq!(super::rows::own_bridges(&lab.agent.ovsdb.tables().unwrap()), super::rows::own_bridges(&tables));
        assert!(reaches(lab, &guest, "host100").await);
    });
}

#[test]
fn nothing_is_left_of_a_removed_port() {
    in_lab(async |lab| {
        let ports = lab.agent.ports.clone();
        let (lan, second) = (spec("lan"), spec("second"));
        tokio::try_join!(ports.ensure(&lan), ports.ensure(&second)).unwrap();
        assert_eq!(ports.list().unwrap().len(), 2);
        ports.remove(&lan.tap()).await.unwrap();
        ports.remove(&lan.tap()).await.unwrap();
        let listed = ports.list().unwrap();
        assert_eq!(listed.iter().map(|record| &record.tap).collect::<Vec<_>>(), [&second.tap()]);
        assert_eq!(lab.agent.netlink.link(lan.tap().as_str()).await.unwrap(), None);
        let cookie = Cookie::of(&lan.tap()).to_string();
        until(async || !openflow::dump_flows(BRIDGE, &cookie).await.unwrap().contains("in_port")).await;

        furrow_host::tap::create("fw0123456789a", false).unwrap();
        lab.restart_agent().await;
        assert_eq!(lab.agent.netlink.link("fw0123456789a").await.unwrap(), None, "a leftover tap is swept");
        assert!(lab.agent.netlink.link(second.tap().as_str()).await.unwrap().is_some());
    });
}

#[test]
fn a_port_on_a_bridge_that_is_not_there_is_refused_and_leaves_no_row() {
    in_lab(async |lab| {
        let mut nowhere = spec("lan");
        nowhere.bridge = "br-none".into();
        let error = lab.agent.ports.ensure(&nowhere).await.unwrap_err();
        assert!(error.to_string().contains("br-none"), "{error}");
        assert!(lab.agent.ports.list().unwrap().is_empty());
    });
}

#[test]
fn the_pod_network_follows_the_nodes_and_leaves_other_routes_alone() {
    in_namespace(&["/usr/sbin/nft", "/usr/sbin/ip"], async || {
        let netlink = furrow_host::netlink::Netlink::open().unwrap();
        run("/usr/sbin/ip link add lan0 type veth peer name lan1");
        run("/usr/sbin/ip addr add 10.0.0.1/24 dev lan0");
        run("/usr/sbin/ip link set lan0 up");
        run("/usr/sbin/ip route add 10.99.0.0/16 via 10.0.0.9");
        let node = |name: &str, pods: &str, address: &str| NodeRange {
            name: name.into(),
            pods: pods.parse().ok(),
            address: address.parse().ok(),
        };
        let (one, two) = (node("n1", "10.42.0.0/24", "10.0.0.1"), node("n2", "10.42.1.0/24", "10.0.0.2"));
        let far = node("n3", "10.42.2.0/24", "172.16.0.1");
        let dir = std::env::temp_dir().join(format!("furrow-cni-{}", std::process::id()));
        let mut podnet = PodNet::new(netlink.clone(), dir.clone());
        let routes = async || {
            let routes = netlink.routes().await.unwrap();
            routes.iter().map(|route| format!("{}/{}", route.destination, route.prefix_len)).collect::<Vec<_>>()
        };
        podnet.apply(&decide("n1", &[one.clone(), two.clone()]).unwrap()).await.unwrap();
        podnet.apply(&decide("n1", &[one.clone(), two.clone()]).unwrap()).await.unwrap();
        assert_eq!(routes().await, ["10.0.0.0/24", "10.42.1.0/24", "10.99.0.0/16"]);
        run("/usr/sbin/nft list chain ip furrow-podnet postrouting");
        assert!(std::fs::exists(dir.join("10-furrow.conflist")).unwrap());

        let unreachable = podnet.apply(&decide("n1", &[one.clone(), far, two]).unwrap()).await;
        assert!(unreachable.is_err(), "n3 shares no network with this node");
        assert_eq!(routes().await, ["10.0.0.0/24", "10.42.1.0/24", "10.99.0.0/16"]);
        podnet.apply(&decide("n1", &[one]).unwrap()).await.unwrap();
        assert_eq!(routes().await, ["10.0.0.0/24", "10.99.0.0/16"]);
        std::fs::remove_dir_all(dir).unwrap();
    });
}

/// Not a limit, a measurement: `cargo test -p furrow-agent -- --ignored --nocapture twenty`.
#[test]
#[ignore = "a measurement"]
fn twenty_ports_at_once() {
    in_lab(async |lab| {
        lab.agent.ports.ensure(&spec("warm")).await.unwrap();
        let started = std::time::Instant::now();
        lab.agent.ports.ensure(&spec("single")).await.unwrap();
        eprintln!("one port: {} ms", started.elapsed().as_millis());
        let specs: Vec<_> = (0..20).map(|number| spec(&format!("nic{number}"))).collect();
        let started = std::time::Instant::now();
        let all = specs.iter().map(|spec| lab.agent.ports.ensure(spec));
        futures::future::try_join_all(all).await.unwrap();
        eprintln!("twenty ports: {} ms", started.elapsed().as_millis());
    });
}
