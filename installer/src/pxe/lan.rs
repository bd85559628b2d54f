//! The LAN that is served: one interface with its address, and the addresses that are given out on it. Refuses, with the
//! reason, what dnsmasq would refuse without one. Changes nothing.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

/// DHCP's server port.
pub(super) const DHCP_PORT: u16 = 67;
/// Where clients ask a proxy for the rest of its offer.
const PROXY_PORT: u16 = 4011;
/// TFTP.
const TFTP_PORT: u16 = 69;
/// A LAN of machines to install has fewer.
const MAX_ADDRESSES: u32 = 4096;

/// Why a LAN cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LanError {
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("interface {0} has no IPv4 address: give it one first, such as `ip address add 10.0.0.1/24 dev {0}`")]
    NoAddress(String),
    #[error("the interfaces cannot be listed: {0}")]
    List(#[source] nix::Error),
    #[error("--range {range}: {reason}")]
    Range { range: Range, reason: String },
    #[error("UDP port {port} ({what}) is taken on this machine: `ss -lunp sport = :{port}` names the program")]
    PortTaken { port: u16, what: &'static str },
    #[error("UDP port {port} ({what}) cannot be used: {reason}")]
    Port { port: u16, what: &'static str, reason: std::io::Error },
}

/// An interface with its address.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lan {
    pub(super) interface: String,
    pub(super) address: Ipv4Addr,
    /// Bits of the network's prefix.
    pub(super) prefix: u8,
}

/// The first and the last address that are given out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let (first, last) = text.split_once('-').ok_or("expected FIRST-LAST, such as 10.0.0.100-10.0.0.200")?;
        let address = |text: &str| text.parse().map_err(|_| format!("`{text}` is no IPv4 address"));
        Ok(Range { first: address(first)?, last: address(last)? })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Lan {
    /// Looks an interface up.
    ///
    /// # Errors
    /// When it is not there or has no address.
    pub(super) fn of(interface: &str) -> Result<Lan, LanError> {
        let mut is_there = false;
        for found in nix::ifaddrs::getifaddrs().map_err(LanError::List)?.filter(|a| a.interface_name == interface) {
            is_there = true;
            let of = |socket: Option<nix::sys::socket::SockaddrStorage>| Some(socket?.as_sockaddr_in()?.ip());
            if let (Some(address), Some(mask)) = (of(found.address), of(found.netmask)) {
                let prefix = mask.to_bits().leading_ones() as u8;
                return Ok(Lan { interface: interface.to_owned(), address, prefix });
            }
        }
        let name = interface.to_owned();
        Err(if is_there { LanError::NoAddress(name) } else { LanError::NoInterface(name) })
    }

    /// The network's mask.
    pub(super) fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The network's own address.
    pub(super) fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask().to_bits())
    }

    /// Whether these addresses may be given out here.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn check(&self, range: Range) -> Result<(), LanError> {
        let refuse = |reason: String| Err(LanError::Range { range, reason });
        let network = format!("{}/{}", self.network(), self.prefix);
        let broadcast = Ipv4Addr::from_bits(self.network().to_bits() | !self.mask().to_bits());
        for address in [range.first, range.last] {
            if address.to_bits() & self.mask().to_bits() != self.network().to_bits() {
                return refuse(format!("{address} is not in {network}, the network of {}", self.interface));
            }
            if address == self.network() || address == broadcast {
                return refuse(format!("{address} is no host's address in {network}"));
            }
        }
        if range.first > range.last {
            return refuse("the first address comes after the last".into());
        }
        if (range.first..=range.last).contains(&self.address) {
            return refuse(format!("it has the address of {} itself, {}", self.interface, self.address));
        }
        if range.last.to_bits() - range.first.to_bits() >= MAX_ADDRESSES {
            return refuse(format!("it has more than {MAX_ADDRESSES} addresses"));
        }
        Ok(())
    }
}

/// Whether the ports that dnsmasq needs are free. Another program's socket for the same port on another interface counts
/// too: the kernel would deliver to either.
///
/// # Errors
/// The first port that is not.
pub(super) fn check_ports(is_proxy: bool) -> Result<(), LanError> {
    let proxy = is_proxy.then_some((PROXY_PORT, "proxy DHCP"));
    for (port, what) in [(DHCP_PORT, "DHCP"), (TFTP_PORT, "TFTP")].into_iter().chain(proxy) {
        match UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(LanError::PortTaken { port, what });
            }
            Err(reason) => return Err(LanError::Port { port, what, reason }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, expected: &str) {
        let lan = Lan { interface: "eno1".into(), address: Ipv4Addr::new(10, 0, 0, 1), prefix: 23 };
        let said = match lan.check(range.parse().expect("a range")) {
            Ok(()) => "good".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expected), "`{said}` does not contain `{expected}`");
    }

    #[test]
    fn a_range_lies_in_the_interfaces_network() {
        check("10.0.0.100-10.0.1.200", "good");
        check("10.0.0.100-10.0.2.1", "10.0.2.1 is not in 10.0.0.0/23, the network of eno1");
        check("10.0.0.0-10.0.0.9", "no host's address");
        check("10.0.0.9-10.0.1.255", "no host's address");
        check("10.0.0.1-10.0.0.9", "has the address of eno1 itself");
        check("10.0.0.9-10.0.0.2", "the first address comes after the last");
    }

    #[test]
    fn a_range_is_two_addresses() {
        assert!("10.0.0.1".parse::<Range>().is_err());
        assert!("10.0.0.1-x".parse::<Range>().is_err());
    }

    #[test]
    fn the_loopback_has_an_address_and_nonsense_is_no_interface() {
        assert_eq!(Lan::of("lo").expect("an address").prefix, 8);
        assert!(matches!(Lan::of("nonsense0"), Err(LanError::NoInterface(_))));
    }
}
