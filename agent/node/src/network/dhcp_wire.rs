//! DHCP in Ethernet frames: reads a client's message, writes a server's. Owns the byte formats (RFC 791, 768, 2131,
//! 2132); refuses to decide what to answer, and to trust a length that a guest gives.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Decodable, Encodable};
use furrow_model::dhcp::{ClientMessage, ClientRequest, Lease, Reply, ServerMessage};

/// The hardware address that answers come from: locally administered, the same on every node, so that a migrated guest
/// finds its server unchanged. The bytes read `fwdhcp`, with the bits of a local unicast address.
const SERVER_MAC: [u8; 6] = [0x66, 0x77, 0x64, 0x68, 0x63, 0x70];

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// The fixed part of a DHCP message with its cookie.
const DHCP_FIXED: usize = 240;

/// Clients may ignore shorter ones (RFC 1542, section 2.1).
const DHCP_MIN: usize = 300;

/// A client's message with what its answer repeats.
#[derive(Debug)]
pub(super) struct Heard {
    /// What the answer depends on.
    pub(super) request: ClientRequest,
    message: Message,
}

/// Reads a frame; `None` for anything that is not a DHCP message of an Ethernet client. The filter of the socket has
/// seen IPv4, UDP, port 67 and no fragment, but lengths are the guest's own.
pub(super) fn read(frame: &[u8]) -> Option<Heard> {
    let ip = frame.get(ETHERNET_HEADER..)?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let udp = ip.get(header.max(IPV4_HEADER)..total)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let dhcp = udp.get(UDP_HEADER..length)?;
    // BOOTREQUEST, Ethernet, 6 bytes: dhcproto slices the address by the length it is told.
    if dhcp.len() < DHCP_FIXED || dhcp[..3] != [1, 1, 6] {
        return None;
    }
    let message = Message::from_bytes(dhcp).ok()?;
    let kind = match message.opts().msg_type()? {
        MessageType::Discover => ClientMessage::Discover,
        MessageType::Request => ClientMessage::Request,
        MessageType::Decline => ClientMessage::Decline,
        MessageType::Release => ClientMessage::Release,
        MessageType::Inform => ClientMessage::Inform,
        _ => return None,
    };
    let requested = match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let server = match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    };
    let request = ClientRequest {
        message: kind,
        mac: message.chaddr().try_into().ok()?,
        client: message.ciaddr(),
        relay: message.giaddr(),
        requested,
        server,
        broadcast: message.flags().broadcast(),
    };
    Some(Heard { request, message })
}

/// Writes the answer as a frame; `None` if it cannot be encoded, which no lease of this product makes happen.
pub(super) fn write(heard: &Heard, lease: &Lease, reply: Reply) -> Option<Vec<u8>> {
    let mut dhcp = encode(heard, lease, reply)?;
    dhcp.resize(dhcp.len().max(DHCP_MIN), 0);
    let to_mac = if reply.to.is_broadcast() { [0xff; 6] } else { lease.mac.bytes() };
    let udp_length = u16::try_from(UDP_HEADER + dhcp.len()).ok()?;
    let total = u16::try_from(IPV4_HEADER).ok()?.checked_add(udp_length)?;

    let mut frame = Vec::with_capacity(ETHERNET_HEADER + usize::from(total));
    frame.extend_from_slice(&to_mac);
    frame.extend_from_slice(&SERVER_MAC);
    frame.extend_from_slice(&[0x08, 0x00]);

    let mut ip = vec![0x45, 0x10];
    ip.extend_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend_from_slice(&lease.server.octets());
    ip.extend_from_slice(&reply.to.octets());
    let checksum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());

    let mut udp = Vec::with_capacity(UDP_HEADER);
    for field in [SERVER_PORT, CLIENT_PORT, udp_length, 0] {
        udp.extend_from_slice(&field.to_be_bytes());
    }
    let pseudo = [&ip[12..20], &[0, 17], &udp_length.to_be_bytes()].concat();
    // 0 would mean "no checksum"; its twin in one's complement does not (RFC 768).
    let checksum = match self::checksum(&[&pseudo, &udp, &dhcp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([ip, udp, dhcp].concat());
    Some(frame)
}

fn encode(heard: &Heard, lease: &Lease, reply: Reply) -> Option<Vec<u8>> {
    let asked = &heard.message;
    let mut message = Message::new_with_id(
        asked.xid(),
        if reply.message == ServerMessage::Nak { Ipv4Addr::UNSPECIFIED } else { asked.ciaddr() },
        reply.yours,
        Ipv4Addr::UNSPECIFIED,
        asked.giaddr(),
        asked.chaddr(),
    );
    let flags = Flags::default();
    message.set_opcode(Opcode::BootReply);
    message.set_flags(if asked.flags().broadcast() { flags.set_broadcast() } else { flags });
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(match reply.message {
        ServerMessage::Offer => MessageType::Offer,
        ServerMessage::Ack => MessageType::Ack,
        ServerMessage::Nak => MessageType::Nak,
    }));
    options.insert(DhcpOption::ServerIdentifier(lease.server));
    if let Some(DhcpOption::ClientIdentifier(id)) = asked.opts().get(OptionCode::ClientIdentifier) {
        // Repeated for clients that check it (RFC 6842).
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    if reply.message == ServerMessage::Nak {
        return message.to_vec().ok();
    }
    if let Some(lease_s) = reply.lease_s {
        options.insert(DhcpOption::AddressLeaseTime(lease_s));
        options.insert(DhcpOption::Renewal(lease_s / 2));
        options.insert(DhcpOption::Rebinding(lease_s / 8 * 7));
    }
    options.insert(DhcpOption::SubnetMask(lease.mask));
    options.insert(DhcpOption::InterfaceMtu(lease.mtu));
    if let Some(gateway) = lease.gateway {
        options.insert(DhcpOption::Router(vec![gateway]));
    }
    if !lease.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(lease.dns.clone()));
    }
    if let Some(hostname) = &lease.hostname {
        options.insert(DhcpOption::Hostname(hostname.clone()));
    }
    asked_for(lease).into_iter().for_each(|option| {
        options.insert(option);
    });
    message.to_vec().ok()
}

/// What the guest's owner wants it to be told besides.
fn asked_for(lease: &Lease) -> Vec<DhcpOption> {
    let asked = &lease.options;
    let bytes = |text: &String| text.clone().into_bytes();
    let mut options = Vec::new();
    options.extend(asked.boot_file.as_ref().map(|name| DhcpOption::BootfileName(bytes(name))));
    options.extend(asked.tftp_server.as_ref().map(|name| DhcpOption::TFTPServerName(bytes(name))));
    if !asked.ntp_servers.is_empty() {
        options.push(DhcpOption::NtpServers(asked.ntp_servers.clone()));
    }
    options.extend(asked.domain.clone().map(DhcpOption::DomainName));
    if !asked.searches.is_empty() {
        let searches = furrow_model::dns::encode(&asked.searches);
        options.push(DhcpOption::Unknown(UnknownOption::new(OptionCode::DomainSearch, searches)));
    }
    let private = asked.private.iter();
    options.extend(
        private.map(|(code, text)| DhcpOption::Unknown(UnknownOption::new(OptionCode::from(*code), bytes(text)))),
    );
    options
}

/// The Internet checksum of parts of even length but the last (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests;
