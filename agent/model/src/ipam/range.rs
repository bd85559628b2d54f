//! The addresses of a Subnet that guests may have.

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// A Subnet whose addresses cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not `a.b.c.d/n`.
    #[error("cidrBlock {0:?} is not an IPv4 network such as 192.168.10.0/23")]
    Cidr(String),
    /// Larger than /8 or smaller than /30.
    #[error("cidrBlock {0:?} has a prefix that is not between 8 and 30")]
    Prefix(String),
    /// The gateway is no IPv4 address of the network.
    #[error("gateway {gateway:?} is not an address of {cidr}")]
    Gateway {
        /// As written.
        gateway: String,
        /// The network.
        cidr: String,
    },
    /// Neither an address nor `first..last`.
    #[error("excludeIps entry {0:?} is neither an IPv4 address nor a range such as 192.168.10.1..192.168.10.9")]
    Exclude(String),
}

/// The addresses of a Subnet that guests may have: all of the network but its first and last, the gateway and what is
/// excluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    network: u32,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    /// Sorted, disjoint, inclusive, cut to the network: what no guest gets.
    closed: Vec<(u32, u32)>,
}

impl Range {
    /// Reads a Subnet's `cidrBlock`, `gateway` and `excludeIps`. An excluded address outside the network is no error:
    /// it could not have been given either.
    ///
    /// # Errors
    /// When one of them is malformed, or the gateway is not in the network.
    pub fn parse(cidr: &str, gateway: Option<&str>, exclude: &[String]) -> Result<Self, RangeError> {
        let bad = || RangeError::Cidr(cidr.to_owned());
        let (base, prefix) = cidr.trim().split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(8..=30).contains(&prefix) {
            return Err(RangeError::Prefix(cidr.to_owned()));
        }
        let network = u32::from(base) & (u32::MAX << (32 - prefix));
        let last = network | !(u32::MAX << (32 - prefix));
        let mut closed = vec![(network, network), (last, last)];
        let gateway = gateway.map(str::trim).filter(|text| !text.is_empty());
        let gateway = match gateway {
            None => None,
            Some(text) => {
                let refuse = || RangeError::Gateway { gateway: text.to_owned(), cidr: cidr.to_owned() };
                let address: Ipv4Addr = text.parse().map_err(|_| refuse())?;
                if !(network..=last).contains(&u32::from(address)) {
                    return Err(refuse());
                }
                closed.push((address.into(), address.into()));
                Some(address)
            }
        };
        for entry in exclude {
            closed.push(interval(entry).ok_or_else(|| RangeError::Exclude(entry.clone()))?);
        }
        Ok(Self { network, prefix, gateway, closed: merged(closed, network, last) })
    }

    /// Length of the network's prefix in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The router.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.gateway
    }

    /// Whether the network has this address at all.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.network..=self.last()).contains(&u32::from(address))
    }

    /// Whether a guest may have this address.
    #[must_use]
    pub fn open(&self, address: Ipv4Addr) -> bool {
        self.contains(address) && self.closing(address.into()).is_none()
    }

    /// How many addresses guests may have together.
    #[must_use]
    pub fn size(&self) -> u64 {
        let all = u64::from(self.last() - self.network) + 1;
        all - self.closed.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>()
    }

    /// A free address: the next one after `after`, and round the end of the network, so that one that was just given
    /// back is the last to be given again and no neighbour still has its old owner in the ARP cache.
    #[must_use]
    pub fn next_free(&self, taken: &HashSet<Ipv4Addr>, after: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let start = after.filter(|a| self.contains(*a)).map_or(self.network, u32::from);
        self.scan(start.saturating_add(1), self.last(), taken).or_else(|| self.scan(self.network, start, taken))
    }

    /// The first open and untaken address from `first` to `last`. Its steps are bounded by the number of taken
    /// addresses and exclusions, not by the size of the network.
    fn scan(&self, first: u32, last: u32, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mut candidate = first;
        while candidate <= last {
            let behind = match self.closing(candidate) {
                Some(end) => end,
                None if taken.contains(&candidate.into()) => candidate,
                None => return Some(candidate.into()),
            };
            candidate = behind.checked_add(1)?;
        }
        None
    }

    /// The end of the closed interval that has this address.
    fn closing(&self, address: u32) -> Option<u32> {
        let index = self.closed.partition_point(|(first, _)| *first <= address);
        self.closed[..index].last().filter(|(_, last)| address <= *last).map(|(_, last)| *last)
    }

    fn last(&self) -> u32 {
        self.network | !(u32::MAX << (32 - self.prefix))
    }
}

/// An address, or `first..last`.
fn interval(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let parse = |part: &str| part.trim().parse::<Ipv4Addr>().ok().map(u32::from);
    let (first, last) = (parse(first)?, parse(last)?);
    (first <= last).then_some((first, last))
}

/// Sorted and disjoint, cut to `network..=last`.
fn merged(mut intervals: Vec<(u32, u32)>, network: u32, last: u32) -> Vec<(u32, u32)> {
    intervals.retain(|(first, end)| *first <= last && *end >= network);
    intervals.sort_unstable();
    let mut disjoint: Vec<(u32, u32)> = Vec::with_capacity(intervals.len());
    for (first, end) in intervals {
        let (first, end) = (first.max(network), end.min(last));
        match disjoint.last_mut() {
            Some((_, previous)) if first <= previous.saturating_add(1) => *previous = end.max(*previous),
            _ => disjoint.push((first, end)),
        }
    }
    disjoint
}
