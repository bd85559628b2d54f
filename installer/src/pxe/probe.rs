//! Whether another DHCP server answers on a LAN: one DHCPDISCOVER, sent before our own server starts, and the offers that
//! come within five seconds. It asks for nothing that an offer gives.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use tokio::net::UdpSocket;

use super::lan::DHCP_PORT;

/// DHCP's client port.
const CLIENT_PORT: u16 = 68;
/// Servers ping an address before they offer it; dnsmasq does for three seconds.
const WAIT: Duration = Duration::from_secs(5);
/// The largest frame of an Ethernet.
const MAX_BYTES: usize = 1500;

/// The first server that offers an address on this interface.
///
/// # Errors
/// When the question cannot be asked.
pub(super) async fn server(interface: &str) -> io::Result<Option<Ipv4Addr>> {
    let number: u32 = std::process::id() ^ 0x4655_5252;
    let socket = client(interface)?;
    socket.send_to(&discover(number, &mac(interface)?)?, (Ipv4Addr::BROADCAST, DHCP_PORT)).await?;
    let mut buffer = [0; MAX_BYTES];
    let deadline = tokio::time::Instant::now() + WAIT;
    // An offer that comes after the deadline is only not seen.
    while let Ok(received) = tokio::time::timeout_at(deadline, socket.recv_from(&mut buffer)).await {
        let (n, from) = received?;
        if let Some(server) = offer(&buffer[..n], number, from) {
            return Ok(Some(server));
        }
    }
    Ok(None)
}

/// A socket that hears what is broadcast to clients, on this interface only.
fn client(interface: &str) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT))?;
    UdpSocket::from_std(socket.into())
}

fn mac(interface: &str) -> io::Result<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>();
    bytes.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("the address of {interface}: {e}")))
}

fn discover(number: u32, mac: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootRequest).set_xid(number).set_flags(Flags::default().set_broadcast()).set_chaddr(mac);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    message.to_vec().map_err(|e| io::Error::other(e.to_string()))
}

/// The server of an offer that answers our question.
fn offer(datagram: &[u8], number: u32, from: SocketAddr) -> Option<Ipv4Addr> {
    let message = Message::from_bytes(datagram).ok()?;
    let is_offer =
        matches!(message.opts().get(OptionCode::MessageType), Some(DhcpOption::MessageType(MessageType::Offer)));
    // A proxy offers no address.
    if message.xid() != number || !is_offer || message.yiaddr().is_unspecified() {
        return None;
    }
    match (message.opts().get(OptionCode::ServerIdentifier), from) {
        (Some(DhcpOption::ServerIdentifier(server)), _) => Some(*server),
        (_, SocketAddr::V4(from)) => Some(*from.ip()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_of_an_address_to_us_names_its_server() {
        let server = Ipv4Addr::new(10, 0, 0, 9);
        let from = SocketAddr::from((server, DHCP_PORT));
        let mut message = Message::default();
        message.set_opcode(Opcode::BootReply).set_xid(7).set_yiaddr(Ipv4Addr::new(10, 0, 0, 50));
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Offer));
        assert_eq!(offer(&message.to_vec().expect("encoded"), 7, from), Some(server));
        assert_eq!(offer(&message.to_vec().expect("encoded"), 8, from), None);
        message.set_yiaddr(Ipv4Addr::UNSPECIFIED);
        assert_eq!(offer(&message.to_vec().expect("encoded"), 7, from), None);
        assert_eq!(offer(&discover(7, &[2, 0, 0, 0, 0, 1]).expect("encoded"), 7, from), None);
        assert_eq!(offer(b"nonsense", 7, from), None);
    }
}
