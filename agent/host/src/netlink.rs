//! Links, addresses and IPv4 routes of the kernel over rtnetlink. Owns the one netlink connection of a process and
//! the words the rest of Furrow uses for it; refuses to decide anything, and touches only what it is told by name or
//! index. Formats: rtnetlink(7), linux/rtnetlink.h.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::{LinkUnspec, MulticastGroup, RouteMessageBuilder};

/// How long one request may take. The kernel answers in microseconds unless the RTNL lock is held by something stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The mark of Furrow's own routes in the routing table (`proto 242` in `ip route`), so that a reconciler never takes
/// an administrator's route for its own. Unassigned in linux/rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 242;

/// Why the kernel's network state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket, or it could not be bound.
    #[error("could not open a netlink socket")]
    Open(#[source] std::io::Error),
    /// The kernel refused.
    #[error("could not {action}")]
    Refused {
        /// What was asked, with its object.
        action: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// No answer in time.
    #[error("could not {action} within {timeout_ms} ms")]
    Timeout {
        /// What was asked, with its object.
        action: String,
        /// The limit in milliseconds.
        timeout_ms: u128,
    },
}

/// One network interface of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name, at most 15 characters.
    pub name: String,
    /// Hardware address, empty where the link has none.
    pub mac: Vec<u8>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// Index of the bridge, bond or OVS datapath it is enslaved to.
    pub controller: Option<u32>,
    /// `tun`, `veth`, `bond`, ...; `None` for a physical device.
    pub kind: Option<String>,
    /// For taps: made for several queues.
    pub tun_multi_queue: Option<bool>,
}

/// A unicast IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Network address.
    pub destination: Ipv4Addr,
    /// Length of its prefix in bits.
    pub prefix_len: u8,
    /// Next hop.
    pub gateway: Option<Ipv4Addr>,
    /// Index of the link it leaves by.
    pub link: Option<u32>,
    /// Who made it, see [`ROUTE_PROTOCOL`].
    pub protocol: u8,
}

/// A handle to the netlink connection; clones share it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread. Needs a tokio runtime; the connection's task
    /// ends when the last clone is dropped.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// Refused or timed out.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let dump = self.handle.link().get().execute().try_collect::<Vec<LinkMessage>>();
        let messages = limited("list links".into(), dump).await?;
        Ok(messages.iter().map(link_of).collect())
    }

    /// One link by name; `None` when there is no such link.
    ///
    /// # Errors
    /// Refused or timed out.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let found = async {
            let mut stream = pin!(self.handle.link().get().match_name(name).execute());
            match stream.try_next().await {
                Ok(message) => Ok(message.as_ref().map(link_of)),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        limited(format!("read link {name}"), found).await
    }

    /// Brings a link up, with an MTU in bytes if one is given.
    ///
    /// # Errors
    /// Refused (no such link, MTU out of its range) or timed out.
    pub async fn set_up(&self, index: u32, mtu: Option<u32>) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(index).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        limited(format!("bring link {index} up"), self.handle.link().set(message.build()).execute()).await
    }

    /// Removes a virtual link. One that is already gone is success.
    ///
    /// # Errors
    /// Refused (physical devices cannot be removed) or timed out.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let removal = async { absent_is_done(self.handle.link().del(index).execute().await) };
        limited(format!("remove link {index}"), removal).await
    }

    /// The addresses of every link, by link index.
    ///
    /// # Errors
    /// Refused or timed out.
    pub async fn addresses(&self) -> Result<BTreeMap<u32, Vec<IpAddr>>, NetlinkError> {
        let dump = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let mut by_link: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
        for message in limited("list addresses".into(), dump).await? {
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                // For IPv4 `Local` is the own address; `Address` is the peer's on point-to-point links.
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            by_link.entry(message.header.index).or_default().extend(own.or(any));
        }
        Ok(by_link)
    }

    /// The unicast IPv4 routes of the main table.
    ///
    /// # Errors
    /// Refused or timed out.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let dump = self.handle.route().get(query).execute().try_collect::<Vec<RouteMessage>>();
        Ok(limited("list routes".into(), dump).await?.iter().filter_map(route_of).collect())
    }

    /// Adds a route through a next hop, or replaces the one to the same destination. It carries [`ROUTE_PROTOCOL`].
    ///
    /// # Errors
    /// Refused (the next hop is not on a connected network) or timed out.
    pub async fn replace_route(&self, to: (Ipv4Addr, u8), gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.0, to.1)
            .gateway(gateway)
            .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
            .build();
        let action = format!("route {}/{} through {gateway}", to.0, to.1);
        limited(action, self.handle.route().add(message).replace().execute()).await
    }

    /// Removes a route. One that is already gone is success.
    ///
    /// # Errors
    /// Refused or timed out.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.destination, route.prefix_len)
            .protocol(RouteProtocol::from(route.protocol));
        if let Some(gateway) = route.gateway {
            message = message.gateway(gateway);
        }
        let removal = async { absent_is_done(self.handle.route().del(message.build()).execute().await) };
        limited(format!("remove the route to {}/{}", route.destination, route.prefix_len), removal).await
    }
}

/// A stream with one item for every change of any link or IPv4 address: a hint to look again, without content.
/// Uses a connection of its own, whose task ends when the stream is dropped.
///
/// # Errors
/// [`NetlinkError::Open`].
pub fn changes() -> Result<impl Stream<Item = ()> + Send + Unpin, NetlinkError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    Ok(messages.map(|_| ()))
}

async fn limited<T>(
    action: String,
    work: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    // Dropping a request at the deadline is safe: netlink has no transaction to leave open, and callers re-read.
    match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NetlinkError::Refused { action, source }),
        Err(_) => Err(NetlinkError::Timeout { action, timeout_ms: REQUEST_TIMEOUT.as_millis() }),
    }
}

fn is_absent(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    let absent = [libc::ENODEV, libc::ESRCH, libc::ENOENT];
    message.code.is_some_and(|code| absent.contains(&-code.get()))
}

fn absent_is_done(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp),
        controller: None,
        kind: None,
        tun_multi_queue: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => read_infos(&mut link, infos),
            _ => {}
        }
    }
    link
}

fn read_infos(link: &mut Link, infos: &[LinkInfo]) {
    // IFLA_TUN_MULTI_QUEUE of linux/if_link.h.
    const TUN_MULTI_QUEUE: u16 = 7;
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Tun(attributes)) => {
                let queues = attributes.iter().find(|attribute| attribute.kind() == TUN_MULTI_QUEUE);
                link.tun_multi_queue = queues.map(|attribute| {
                    let mut value = vec![0; attribute.value_len()];
                    attribute.emit_value(&mut value);
                    value != [0]
                });
            }
            _ => {}
        }
    }
}

/// `None` for what is not a unicast IPv4 route of the main table.
fn route_of(message: &RouteMessage) -> Option<Route> {
    use rtnetlink::packet_route::route::RouteType;
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_len: message.header.destination_prefix_length,
        gateway: None,
        link: None,
        protocol: message.header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Destination(_) => return None,
            _ => {}
        }
    }
    Some(route)
}
