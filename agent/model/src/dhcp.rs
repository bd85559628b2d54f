//! What a guest's port answers to DHCP (RFC 2131): always the one address reserved for it. Refuses to lease: there is
//! no pool, no state and no clock, so an answer repeated after any restart is the same. The wire format is the
//! caller's.

use std::net::Ipv4Addr;

use crate::dhcp_options::DhcpOptions;
use crate::port::{PortMac, PortSpec};

/// Lease time in seconds. The address belongs to the VM, not to the lease: a day keeps renewals rare and lets a
/// changed gateway or resolver arrive within one.
pub const LEASE_S: u32 = 24 * 60 * 60;

/// The server's identity on a network without a gateway: link-local, so never an address of the network itself.
const SERVER_WITHOUT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

/// What the port's guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The only client that is answered.
    pub mac: PortMac,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Network mask.
    pub mask: Ipv4Addr,
    /// Router.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers in order.
    pub dns: Vec<Ipv4Addr>,
    /// Bytes.
    pub mtu: u16,
    /// Name of the guest.
    pub hostname: Option<String>,
    /// What the guest asked to be told besides.
    pub options: DhcpOptions,
    /// Who answers: the gateway's address, so that a renewal goes to a host that exists; the port consumes it.
    pub server: Ipv4Addr,
}

impl Lease {
    /// The lease of a port; `None` when its address is not managed.
    #[must_use]
    pub fn of(spec: &PortSpec) -> Option<Self> {
        let address = spec.address.as_ref()?;
        let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix_len)).unwrap_or(0);
        Some(Self {
            mac: spec.mac,
            address: address.address,
            mask: Ipv4Addr::from_bits(mask),
            gateway: address.gateway,
            dns: address.dns.clone(),
            mtu: spec.mtu,
            hostname: spec.hostname.clone(),
            options: spec.dhcp_options.clone().unwrap_or_default(),
            server: address.gateway.unwrap_or(SERVER_WITHOUT_GATEWAY),
        })
    }
}

/// The message types that clients send (RFC 2132, option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMessage {
    /// Looking for servers.
    Discover,
    /// Taking an offer, checking an old address, or renewing.
    Request,
    /// The address is in use by somebody else.
    Decline,
    /// Giving the address back.
    Release,
    /// Has an address, wants the rest.
    Inform,
}

/// A message of a client, as far as an answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRequest {
    /// Its type.
    pub message: ClientMessage,
    /// `chaddr`, for Ethernet.
    pub mac: [u8; 6],
    /// `ciaddr`: the address it already has, unspecified if none.
    pub client: Ipv4Addr,
    /// `giaddr`: the relay it came through, unspecified if none.
    pub relay: Ipv4Addr,
    /// Option 50: the address it asks for.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server whose offer it takes.
    pub server: Option<Ipv4Addr>,
    /// The client cannot receive unicast yet.
    pub broadcast: bool,
}

/// The message types that a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMessage {
    /// Here is an address.
    Offer,
    /// It is yours.
    Ack,
    /// What you ask for is not yours: start again.
    Nak,
}

/// An answer to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Its type. All but `Nak` carry the lease's options.
    pub message: ServerMessage,
    /// `yiaddr`: the address given, unspecified for `Nak` and after `Inform`.
    pub yours: Ipv4Addr,
    /// Lease time in seconds; `None` for `Nak` and after `Inform`.
    pub lease_s: Option<u32>,
    /// Where the IP packet goes; the limited broadcast address when the client cannot receive unicast.
    pub to: Ipv4Addr,
}

/// What to do about a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Reply(Reply),
    /// Say nothing: not for this server, or nothing to say.
    Silence,
    /// Say nothing, and tell an operator: the guest found its address in use by another host.
    Conflict,
}

/// Decides the answer.
#[must_use]
pub fn answer(lease: &Lease, request: &ClientRequest) -> Answer {
    // A guest's own relay or another MAC behind the port (nested guests) is not what was reserved.
    if request.mac != lease.mac.bytes() || !request.relay.is_unspecified() {
        return Answer::Silence;
    }
    match request.message {
        ClientMessage::Discover => Answer::Reply(give(lease, request, ServerMessage::Offer)),
        ClientMessage::Request => answer_request(lease, request),
        ClientMessage::Inform => Answer::Reply(Reply {
            message: ServerMessage::Ack,
            yours: Ipv4Addr::UNSPECIFIED,
            lease_s: None,
            to: if request.client.is_unspecified() { Ipv4Addr::BROADCAST } else { request.client },
        }),
        ClientMessage::Decline => Answer::Conflict,
        ClientMessage::Release => Answer::Silence,
    }
}

fn answer_request(lease: &Lease, request: &ClientRequest) -> Answer {
    if request.server.is_some_and(|server| server != lease.server) {
        return Answer::Silence;
    }
    // Selecting and rebooting clients name the address in option 50, renewing and rebinding ones in ciaddr
    // (RFC 2131, section 4.3.2).
    let wanted = request.requested.or(Some(request.client).filter(|address| !address.is_unspecified()));
    match wanted {
        Some(address) if address == lease.address => Answer::Reply(give(lease, request, ServerMessage::Ack)),
        Some(_) => Answer::Reply(Reply {
            message: ServerMessage::Nak,
            yours: Ipv4Addr::UNSPECIFIED,
            lease_s: None,
            to: Ipv4Addr::BROADCAST,
        }),
        None => Answer::Silence,
    }
}

fn give(lease: &Lease, request: &ClientRequest, message: ServerMessage) -> Reply {
    let to = if !request.client.is_unspecified() {
        request.client
    } else if request.broadcast {
        Ipv4Addr::BROADCAST
    } else {
        lease.address
    };
    Reply { message, yours: lease.address, lease_s: Some(LEASE_S), to }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 7);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 8);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn lease() -> Lease {
        let mut request = crate::port::PortRequest {
            bridge: "br-a".into(),
            mac: "02:00:5e:10:00:01".into(),
            ip: Some(OWN.to_string()),
            prefix_len: Some(23),
            gateway: Some(GATEWAY.to_string()),
            mtu: 1500,
            ..Default::default()
        };
        request.dns = vec!["192.168.10.2".into()];
        Lease::of(&PortSpec::parse(request).expect("valid")).expect("it has an address")
    }

    fn from(message: ClientMessage) -> ClientRequest {
        ClientRequest {
            message,
            mac: lease().mac.bytes(),
            client: NONE,
            relay: NONE,
            requested: None,
            server: None,
            broadcast: false,
        }
    }

    fn check(request: ClientRequest, expected: Option<(ServerMessage, Ipv4Addr, Ipv4Addr)>) {
        let got = match answer(&lease(), &request) {
            Answer::Reply(reply) => Some((reply.message, reply.yours, reply.to)),
            Answer::Silence | Answer::Conflict => None,
        };
        assert_eq!(got, expected, "{request:?}");
    }

    #[test]
    fn a_lease_carries_mask_and_server() {
        let lease = lease();
        assert_eq!(lease.mask, Ipv4Addr::new(255, 255, 254, 0));
        assert_eq!(lease.server, GATEWAY);
    }

    #[test]
    fn discover_is_offered_the_reserved_address() {
        check(from(ClientMessage::Discover), Some((ServerMessage::Offer, OWN, OWN)));
        let deaf = ClientRequest { broadcast: true, ..from(ClientMessage::Discover) };
        check(deaf, Some((ServerMessage::Offer, OWN, Ipv4Addr::BROADCAST)));
        let greedy = ClientRequest { requested: Some(OTHER), ..from(ClientMessage::Discover) };
        check(greedy, Some((ServerMessage::Offer, OWN, OWN)));
    }

    #[test]
    fn the_reserved_address_is_acknowledged_in_every_state() {
        let request = from(ClientMessage::Request);
        let selecting = ClientRequest { requested: Some(OWN), server: Some(GATEWAY), ..request.clone() };
        let rebooting = ClientRequest { requested: Some(OWN), ..request.clone() };
        let renewing = ClientRequest { client: OWN, ..request };
        for request in [selecting, rebooting, renewing] {
            check(request, Some((ServerMessage::Ack, OWN, OWN)));
        }
    }

    #[test]
    fn any_other_address_is_refused_by_broadcast() {
        let request = from(ClientMessage::Request);
        let rebooting = ClientRequest { requested: Some(OTHER), ..request.clone() };
        let renewing = ClientRequest { client: OTHER, ..request };
        for request in [rebooting, renewing] {
            check(request, Some((ServerMessage::Nak, NONE, Ipv4Addr::BROADCAST)));
        }
    }

    #[test]
    fn strangers_and_relays_are_not_answered() {
        check(ClientRequest { mac: [2, 0, 0, 0, 0, 9], ..from(ClientMessage::Discover) }, None);
        check(ClientRequest { relay: GATEWAY, ..from(ClientMessage::Discover) }, None);
        let elsewhere = ClientRequest { server: Some(OTHER), requested: Some(OWN), ..from(ClientMessage::Request) };
        check(elsewhere, None);
        check(from(ClientMessage::Release), None);
        check(from(ClientMessage::Request), None);
    }

    #[test]
    fn inform_gets_options_without_an_address() {
        let request = ClientRequest { client: OWN, ..from(ClientMessage::Inform) };
        check(request.clone(), Some((ServerMessage::Ack, NONE, OWN)));
        assert!(matches!(answer(&lease(), &request), Answer::Reply(Reply { lease_s: None, .. })));
    }

    #[test]
    fn a_declined_address_is_a_conflict() {
        assert_eq!(answer(&lease(), &from(ClientMessage::Decline)), Answer::Conflict);
    }
}
