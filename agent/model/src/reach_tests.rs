//! Conversations with a guest in memory: smoltcp again, behind a wire that strips and adds Ethernet headers.

use smoltcp::socket::tcp::State;

use super::*;

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 7);
const MAC: &str = "02:00:5e:10:00:01";
/// The gateway's, by which the guest answers.
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn peer(port: u16) -> Peer {
    Peer { mac: MAC.parse().expect("a MAC"), address: GUEST, port, mtu: 1500 }
}

fn begin(transport: Transport) -> Conversation {
    Conversation::begin(peer(22), transport, 50_000, 7).expect("a conversation")
}

/// A guest that listens on port 22, or on none.
struct Guest {
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    tcp: SocketHandle,
    udp: SocketHandle,
}

impl Guest {
    fn new(listens: bool) -> Self {
        let mut link = Link { mtu: 1500, ..Link::default() };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(IpAddress::Ipv4(GUEST), 24)).expect("room"));
        let (mut tcp, mut udp) = (tcp_socket(), udp_socket());
        if listens {
            tcp.listen(22).expect("it listens");
            udp.bind(22).expect("it listens");
        }
        let mut sockets = SocketSet::new(Vec::new());
        let (tcp, udp) = (sockets.add(tcp), sockets.add(udp));
        Self { interface, link, sockets, tcp, udp }
    }

    fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.tcp)
    }
}

/// Lets both speak for a while; gives the frames of the node.
fn speak(node: &mut Conversation, guest: &mut Guest, clock_ms: &mut u64) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    for _ in 0..200 {
        *clock_ms += 1;
        node.poll(Duration::from_millis(*clock_ms));
        while let Some(frame) = node.frame() {
            guest.link.received.push_back(frame[ETHERNET_HEADER..].to_vec());
            seen.push(frame);
        }
        let now = Instant::from_millis(i64::try_from(*clock_ms).expect("it is small"));
        guest.interface.poll(now, &mut guest.link, &mut guest.sockets);
        while let Some(packet) = guest.link.sent.pop_front() {
            let source: PortMac = MAC.parse().expect("a MAC");
            node.take(&[&GATEWAY_MAC[..], &source.bytes(), &ETHERTYPE_IPV4, &packet].concat());
        }
    }
    seen
}

#[test]
fn bytes_go_both_ways_and_both_ends_are_seen() {
    let (mut node, mut guest, mut clock) = (begin(Transport::Tcp), Guest::new(true), 0);
    assert_eq!(node.stage(), Stage::Connecting);
    let frames = speak(&mut node, &mut guest, &mut clock);
    assert_eq!(node.stage(), Stage::Open);
    // To the guest's NIC, from the node's own address, IPv4 from 169.254.169.252 to the guest.
    assert_eq!(frames[0][..14], [2, 0, 0x5e, 0x10, 0, 1, 0x66, 0x77, 0x72, 0x65, 0x61, 0x63, 8, 0]);
    assert_eq!(frames[0][26..34], [169, 254, 169, 252, 192, 168, 10, 7]);

    let long: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    assert_eq!(node.write(&long), long.len());
    speak(&mut node, &mut guest, &mut clock);
    let mut buffer = vec![0; 32 << 10];
    assert_eq!(guest.tcp().recv_slice(&mut buffer), Ok(long.len()));
    assert_eq!(buffer[..long.len()], long);
    assert!(node.is_flushed());

    guest.tcp().send_slice(b"hello").expect("sent");
    guest.tcp().close();
    speak(&mut node, &mut guest, &mut clock);
    assert_eq!(node.stage(), Stage::Open, "what the guest has said is read first");
    assert_eq!(node.read(&mut buffer), Some(5));
    assert_eq!((&buffer[..5], node.stage()), (&b"hello"[..], Stage::Ended));

    node.finish();
    speak(&mut node, &mut guest, &mut clock);
    assert!(node.is_flushed());
    assert!(matches!(guest.tcp().state(), State::TimeWait | State::Closed), "{}", guest.tcp().state());
}

#[test]
fn a_segment_larger_than_the_link_is_taken_whole_and_without_a_checksum() {
    let (mut node, mut guest, mut clock) = (begin(Transport::Tcp), Guest::new(true), 0);
    speak(&mut node, &mut guest, &mut clock);
    guest.tcp().send_slice(&[b'x'; 1000]).expect("sent");
    clock += 1;
    guest.interface.poll(Instant::from_millis(clock as i64), &mut guest.link, &mut guest.sockets);
    let small = guest.link.sent.pop_front().expect("a packet");
    // As a guest's NIC would have had to cut it: 9000 bytes, and a checksum left to be filled in.
    let mut large = [&small[..small.len() - 1000], &[b'y'; 9000]].concat();
    let length = u16::try_from(large.len()).expect("it fits");
    large[2..4].copy_from_slice(&length.to_be_bytes());
    large[36..38].copy_from_slice(&[0, 0]);
    node.take(&[&[0; 12][..], &ETHERTYPE_IPV4, &large].concat());
    speak(&mut node, &mut guest, &mut clock);
    let mut buffer = [0; 10_000];
    assert_eq!((node.read(&mut buffer), buffer[0]), (Some(9000), b'y'));
}

#[test]
fn a_port_that_nobody_listens_on_breaks_and_a_reset_reaches_the_guest() {
    let (mut node, mut guest, mut clock) = (begin(Transport::Tcp), Guest::new(false), 0);
    speak(&mut node, &mut guest, &mut clock);
    assert_eq!(node.stage(), Stage::Broken);

    let (mut node, mut guest, mut clock) = (begin(Transport::Tcp), Guest::new(true), 0);
    speak(&mut node, &mut guest, &mut clock);
    node.reset();
    speak(&mut node, &mut guest, &mut clock);
    assert!(!guest.tcp().is_active(), "{}", guest.tcp().state());
}

#[test]
fn a_guest_that_falls_silent_is_given_up() {
    let (mut node, mut guest, mut clock) = (begin(Transport::Tcp), Guest::new(true), 0);
    speak(&mut node, &mut guest, &mut clock);
    let mut now = Duration::from_millis(clock);
    for _ in 0..10_000 {
        let Some(wait) = node.poll(now) else { break };
        while node.frame().is_some() {}
        now += wait.max(Duration::from_millis(1));
        if node.stage() != Stage::Open {
            break;
        }
    }
    assert_eq!(node.stage(), Stage::Ended);
    assert!(now < Duration::from_secs(120), "{now:?}");
}

#[test]
fn a_datagram_stays_a_datagram() {
    let (mut node, mut guest, mut clock) = (begin(Transport::Udp), Guest::new(true), 0);
    assert_eq!((node.write(b"one"), node.write(b"two"), node.write(&[0; 1473])), (3, 3, 1473));
    speak(&mut node, &mut guest, &mut clock);
    let socket = guest.sockets.get_mut::<udp::Socket<'_>>(guest.udp);
    let (first, from) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from)).expect("a datagram");
    assert_eq!((first.as_slice(), from.endpoint.port), (&b"one"[..], 50_000));
    assert_eq!(socket.recv().map(|(bytes, _)| bytes.to_vec()), Ok(b"two".to_vec()));
    assert!(socket.recv().is_err(), "one that the link does not carry is lost");
    socket.send_slice(b"answer", from.endpoint).expect("sent");
    socket.send_slice(b"", from.endpoint).expect("sent");
    speak(&mut node, &mut guest, &mut clock);
    let mut buffer = [0; 100];
    assert_eq!((node.read(&mut buffer), &buffer[..6]), (Some(6), &b"answer"[..]));
    assert_eq!((node.read(&mut buffer), node.read(&mut buffer)), (Some(0), None));
    assert_eq!(node.stage(), Stage::Open);
}

#[test]
fn a_guest_that_asks_who_the_node_is_gets_an_answer_and_nobody_else_does() {
    let mut node = begin(Transport::Tcp);
    let question = |asked: [u8; 4]| {
        let mac: PortMac = MAC.parse().expect("a MAC");
        let asker = [&mac.bytes()[..], &GUEST.octets(), &[0; 6], &asked].concat();
        [&[0xff; 6][..], &mac.bytes(), &ETHERTYPE_ARP, &ARP_REQUEST, &asker].concat()
    };
    node.take(&question([192, 168, 10, 1]));
    assert_eq!(node.frame(), None);
    node.take(&question(NODE_ADDRESS.octets()));
    let answer = node.frame().expect("an answer");
    assert_eq!(answer[..6], [2, 0, 0x5e, 0x10, 0, 1]);
    assert_eq!(answer[20..32], [0, 2, 0x66, 0x77, 0x72, 0x65, 0x61, 0x63, 169, 254, 169, 252]);
    assert_eq!(answer[32..], [2, 0, 0x5e, 0x10, 0, 1, 192, 168, 10, 7]);
}

#[test]
fn whatever_a_guest_sends_costs_a_bounded_queue() {
    let mut node = begin(Transport::Tcp);
    let packet = [&[0x45; 12][..], &GUEST.octets(), &NODE_ADDRESS.octets(), &[0xff; 40]].concat();
    for length in 0..200 {
        let frame = [&[0; 12][..], &ETHERTYPE_IPV4, &packet].concat();
        node.take(&frame[..length.min(frame.len())]);
        node.take(&frame);
    }
    assert!(node.link.received.len() <= FRAMES);
    node.poll(Duration::ZERO);
    assert!(node.link.received.is_empty());
    assert_eq!(node.stage(), Stage::Connecting);
}

#[test]
fn what_is_no_host_or_no_port_is_refused() {
    let check = |peer: Peer, node_port, expected| {
        assert_eq!(Conversation::begin(peer, Transport::Tcp, node_port, 0).err(), Some(expected));
    };
    check(peer(0), 50_000, ReachError::Peer(GUEST, 0));
    check(peer(22), 80, ReachError::NodePort(80));
    let everybody = Ipv4Addr::BROADCAST;
    check(Peer { address: everybody, ..peer(22) }, 50_000, ReachError::Peer(everybody, 22));
}
