//! A conversation of a node with a port of one of its guests, over TCP or UDP, without an address of the guest's network:
//! frames go straight into the guest's tap and come back out of it, before any switch. The guest sees a link-local
//! sender, as with a cloud's metadata service, and answers by its gateway; `flows` keep these answers off the LAN, so that
//! guests of isolated VLANs are reached too and the node never has a leg in their networks. Owns the bytes of the link and
//! the use of smoltcp; refuses sockets, tasks and clocks, and every frame that is not of this one conversation.
//!
//! ```text
//!   take(frame) ─> [ARP for the node: answered] [IPv4 to the node: TCP or UDP machine] ─> frame()
//!                                     write(bytes) ─┘   └─> read(bytes)
//! ```

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::port::PortMac;

/// Whom guests see: link-local, so never an address of their networks, and not the one that DHCP answers from.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 252);

/// The hardware address of these frames: locally administered, the same on every node. The bytes read `fwreac`.
pub const NODE_MAC: [u8; 6] = [0x66, 0x77, 0x72, 0x65, 0x61, 0x63];

/// Largest frame that a guest hands over: an IPv4 packet of any length, whose segmentation it left to its NIC.
pub const FRAME_MAX_BYTES: usize = ETHERNET_HEADER + u16::MAX as usize;

/// Largest UDP payload over IPv4 (RFC 768 in RFC 791).
pub const DATAGRAM_MAX_BYTES: usize = 65_507;

/// Ports that the node's side is given: those of RFC 6335 for such use.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet over IPv4, addresses of 6 and 4 bytes, a request (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
const ARP_BYTES: usize = 28;

/// Bytes kept in each direction of a TCP conversation; the guest is on this machine, so that this fills any link.
const TCP_BUFFER: usize = 32 << 10;
/// Bytes and datagrams kept in each direction of a UDP conversation.
const UDP_BUFFER: usize = 64 << 10;
const UDP_DATAGRAMS: usize = 64;
/// Frames that wait to be sent or taken; more are held back by the machine or lost, as on any wire.
const FRAMES: usize = 64;

/// A guest that lives acknowledges within this time.
const SILENCE_MS: u64 = 60_000;
/// An idle conversation asks for a sign of life this often.
const KEEP_ALIVE_MS: u64 = 20_000;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A stream of bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Whom the node speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The guest's NIC.
    pub mac: PortMac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// What its link carries, bytes without the Ethernet header.
    pub mtu: u16,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The guest has not answered yet.
    Connecting,
    /// Bytes go both ways.
    Open,
    /// The guest has said all that it had to say, and it was read.
    Ended,
    /// The guest refused, reset, or fell silent.
    Broken,
}

/// Why there is no conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// Not an address or a port of a host.
    #[error("{0}:{1} is not a port of a host")]
    Peer(Ipv4Addr, u16),
    /// The number is not one of [`NODE_PORTS`].
    #[error("port {0} is not one that the node's side may have")]
    NodePort(u16),
}

/// One conversation.
pub struct Conversation {
    peer: Peer,
    transport: Transport,
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    answered: bool,
}

impl Conversation {
    /// Begins one. `node_port`: of [`NODE_PORTS`], and of no other conversation with this guest. `seed`: not to be
    /// guessed, since sequence numbers come from it.
    ///
    /// # Errors
    /// When there can be no such conversation.
    pub fn begin(peer: Peer, transport: Transport, node_port: u16, seed: u64) -> Result<Self, ReachError> {
        let host = !(peer.address.is_unspecified() || peer.address.is_multicast() || peer.address.is_broadcast());
        if !host || peer.port == 0 {
            return Err(ReachError::Peer(peer.address, peer.port));
        }
        if !NODE_PORTS.contains(&node_port) {
            return Err(ReachError::NodePort(node_port));
        }
        let mut link = Link { mtu: usize::from(peer.mtu), ..Link::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        // There is room for one: the list is empty.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(NODE_ADDRESS), 32));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let refused = |_| ReachError::Peer(peer.address, peer.port);
        let socket = match transport {
            Transport::Tcp => {
                let mut socket = tcp_socket();
                let to = IpEndpoint::new(IpAddress::Ipv4(peer.address), peer.port);
                let from = IpEndpoint::new(IpAddress::Ipv4(NODE_ADDRESS), node_port);
                socket.connect(interface.context(), to, from).map_err(refused)?;
                sockets.add(socket)
            }
            Transport::Udp => {
                let mut socket = udp_socket();
                let from = IpEndpoint::new(IpAddress::Ipv4(NODE_ADDRESS), node_port);
                socket.bind(from).map_err(|_| ReachError::NodePort(node_port))?;
                sockets.add(socket)
            }
        };
        Ok(Self { peer, transport, interface, link, sockets, socket, answered: false })
    }

    /// Takes a frame that left the guest. One that is not of this conversation is dropped; so is one for which there is no
    /// room, and the guest sends it again.
    pub fn take(&mut self, frame: &[u8]) {
        let (Some(ethertype), Some(packet)) = (frame.get(12..ETHERNET_HEADER), frame.get(ETHERNET_HEADER..)) else {
            return;
        };
        if ethertype == ETHERTYPE_ARP {
            if let Some(answer) = arp_answer(packet) {
                self.link.queue(self.peer.mac, ETHERTYPE_ARP, &answer);
            }
        } else if ethertype == ETHERTYPE_IPV4
            && packet.get(12..16) == Some(&self.peer.address.octets())
            && packet.get(16..20) == Some(&NODE_ADDRESS.octets())
            && self.link.received.len() < FRAMES
        {
            self.link.received.push_back(packet.to_vec());
        }
    }

    /// Lets time go on to `now` since the beginning, works through what was taken and written, and says when to come back
    /// at the latest; `None`: when something happens.
    pub fn poll(&mut self, now: Duration) -> Option<Duration> {
        let now = Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        self.answered |= self.transport == Transport::Udp || self.tcp().may_send();
        self.interface.poll_delay(now, &self.sockets).map(|delay| Duration::from_micros(delay.total_micros()))
    }

    /// The next frame to put into the guest's tap.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        if let Some(whole) = self.link.whole.pop_front() {
            return Some(whole);
        }
        let packet = self.link.sent.pop_front()?;
        Some(ethernet(self.peer.mac, ETHERTYPE_IPV4, &packet))
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.transport == Transport::Udp {
            return Stage::Open;
        }
        let socket = self.tcp();
        match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => Stage::Connecting,
            _ if socket.can_recv() || socket.may_recv() => Stage::Open,
            tcp::State::Closed if !self.answered => Stage::Broken,
            // A reset takes the machine there at once, without the guest's FIN; what was read before stays read.
            _ => Stage::Ended,
        }
    }

    /// Whether [`Self::write`] would take something.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        match self.transport {
            Transport::Tcp => self.tcp().can_send(),
            Transport::Udp => self.udp().can_send(),
        }
    }

    /// Gives bytes, for UDP one datagram, to be sent; says how many were taken. A datagram that the link does not carry
    /// in one frame is lost.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let to = IpEndpoint::new(IpAddress::Ipv4(self.peer.address), self.peer.port);
        match self.transport {
            Transport::Tcp => self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).send_slice(bytes).unwrap_or(0),
            Transport::Udp => {
                if bytes.len() <= usize::from(self.peer.mtu).saturating_sub(28) {
                    // Without room it is lost, as on any wire.
                    let _ = self.sockets.get_mut::<udp::Socket<'_>>(self.socket).send_slice(bytes, to);
                }
                bytes.len()
            }
        }
    }

    /// Takes what the guest has sent, for UDP one datagram, which is cut to the buffer; `None`: nothing yet.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.transport {
            Transport::Tcp => {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
                socket.can_recv().then(|| socket.recv_slice(buffer).unwrap_or(0)).filter(|read| *read > 0)
            }
            Transport::Udp => {
                let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.socket);
                // Another host's datagram cannot be here: `take` has seen its sender. Another port's can.
                while let Ok((datagram, from)) = socket.recv() {
                    if from.endpoint.port == self.peer.port {
                        let length = datagram.len().min(buffer.len());
                        buffer[..length].copy_from_slice(&datagram[..length]);
                        return Some(length);
                    }
                }
                None
            }
        }
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) {
        if self.transport == Transport::Tcp {
            self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).close();
        }
    }

    /// Ends it at once: the guest is told by a reset with the next [`Self::poll`].
    pub fn reset(&mut self) {
        if self.transport == Transport::Tcp {
            self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).abort();
        }
    }

    /// Whether all that was written has reached the guest, and after [`Self::finish`] that this was all.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        match self.transport {
            Transport::Tcp => {
                let socket = self.tcp();
                let said = !matches!(socket.state(), tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck);
                socket.send_queue() == 0 && said
            }
            Transport::Udp => self.udp().send_queue() == 0 && self.link.sent.is_empty(),
        }
    }

    fn tcp(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.socket)
    }

    fn udp(&self) -> &udp::Socket<'static> {
        self.sockets.get(self.socket)
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // People type into this.
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(smoltcp::time::Duration::from_millis(SILENCE_MS)));
    socket.set_keep_alive(Some(smoltcp::time::Duration::from_millis(KEEP_ALIVE_MS)));
    socket
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_DATAGRAMS], vec![0; UDP_BUFFER]);
    udp::Socket::new(buffer(), buffer())
}

fn ethernet(to: PortMac, ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to.bytes()[..], &NODE_MAC, &ethertype, packet].concat()
}

/// A guest with a route to link-local hosts asks who the node is. Any other question is somebody else's.
fn arp_answer(packet: &[u8]) -> Option<Vec<u8>> {
    let request = packet.get(..ARP_BYTES)?;
    let (asker, asked) = (request.get(8..18)?, request.get(24..28)?);
    if request.get(..8)? != ARP_REQUEST || asked != NODE_ADDRESS.octets() {
        return None;
    }
    let mut answer = ARP_REQUEST.to_vec();
    answer[7] = 2;
    answer.extend_from_slice(&NODE_MAC);
    answer.extend_from_slice(&NODE_ADDRESS.octets());
    answer.extend_from_slice(asker);
    Some(answer)
}

/// The guest's link as smoltcp sees it: IPv4 packets.
#[derive(Debug, Default)]
struct Link {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    /// Frames that are no packets of smoltcp's.
    whole: VecDeque<Vec<u8>>,
}

impl Link {
    fn queue(&mut self, to: PortMac, ethertype: [u8; 2], packet: &[u8]) {
        if self.whole.len() < FRAMES {
            self.whole.push_back(ethernet(to, ethertype, packet));
        }
    }
}

struct Received(Vec<u8>);

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.sent.len() < FRAMES).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Guests leave checksums to their NIC, which is memory here: what comes in has none that could be verified.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.icmpv4 = Checksum::Tx;
        capabilities
    }
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
