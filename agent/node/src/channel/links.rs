//! What forwarding needs of the node's network, in its own words: a way into the tap of a guest. Owned here, by the
//! consumer; implemented by the network's ports and a packet socket, and by a guest in memory in tests. Refuses bridges.

use std::io;
use std::net::Ipv4Addr;

use furrow_host::packet::{Filter, PacketSocket};
use furrow_model::port::PortMac;
use furrow_model::reach::{NODE_ADDRESS, Transport};
use futures::future::BoxFuture;

use crate::guest::ports::HostError;
use crate::network::Ports;

/// Frames of one conversation with a guest.
pub(crate) trait Frames: Send + Sync {
    /// Waits for one and gives its length in `buffer`. Safe to drop.
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>>;
    /// Sends one, without waiting.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
}

/// A guest's NIC, and the way to it.
pub(crate) struct GuestLink {
    /// Its hardware address.
    pub(super) mac: PortMac,
    /// Its address, where that is managed.
    pub(super) address: Option<Ipv4Addr>,
    /// Bytes.
    pub(super) mtu: u16,
    /// The way.
    pub(super) frames: Box<dyn Frames>,
}

/// The links of guests on this node.
pub(crate) trait GuestLinks: Send + Sync {
    /// Opens the way to a NIC of a guest for what it says to this port of the node; `None` when it has no such NIC here.
    fn open<'a>(
        &'a self,
        vmi_uid: &'a str,
        nic: &'a str,
        node_port: (Transport, u16),
    ) -> BoxFuture<'a, Result<Option<GuestLink>, HostError>>;
}

impl Frames for PacketSocket {
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(Self::receive(self, buffer))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        Self::send(self, frame)
    }
}

impl GuestLinks for Ports {
    fn open<'a>(
        &'a self,
        vmi_uid: &'a str,
        nic: &'a str,
        (transport, port): (Transport, u16),
    ) -> BoxFuture<'a, Result<Option<GuestLink>, HostError>> {
        Box::pin(async move {
            let link = self.link(vmi_uid, nic).await.map_err(|error| HostError::passing("PortNotFound", &error))?;
            let Some((spec, index)) = link else { return Ok(None) };
            let filter = Filter::said_to(NODE_ADDRESS, transport == Transport::Udp, port);
            let socket = PacketSocket::open(index, &filter);
            let frames = socket.map_err(|error| HostError::passing("PortNotOpen", &error))?;
            let address = spec.address.map(|managed| managed.address);
            Ok(Some(GuestLink { mac: spec.mac, address, mtu: spec.mtu, frames: Box::new(frames) }))
        })
    }
}
