//! The DHCP servers of this node: one on each guest's tap whose address is managed, answering that guest alone with
//! its reserved address. Which ones there are follows from OVSDB. They sit on the tap itself, before any switch, so
//! that kernel and userspace datapaths are the same to them; flows keep the requests off the LAN. Decisions are in
//! `furrow_model::dhcp`, bytes in `dhcp_wire`. Refuses state: a restart loses nothing.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use furrow_host::netlink::{Netlink, NetlinkError};
use furrow_host::ovsdb::{Ovsdb, Tables};
use furrow_host::packet::{FRAME_LIMIT, Filter, PacketSocket};
use furrow_model::dhcp::{Answer, Lease, answer};
use furrow_model::port::TapName;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dhcp_wire;
use super::rows::{self, Owner};

/// Least time between two answers on one port: a guest that floods costs 200 small answers a second and no more, the
/// rest overflows its socket.
const PACE: Duration = Duration::from_millis(5);

/// Wait after a server could not be started: its tap is about to come, or about to go.
const RETRY: Duration = Duration::from_secs(1);

/// The port that servers listen on.
const SERVER_PORT: u16 = 67;

/// The servers that run, and what they answer.
pub(super) type Serving = BTreeMap<TapName, Lease>;

/// Why there is no server on a tap.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error("could not look for the tap")]
    Look(#[from] NetlinkError),
    #[error("the tap is not there")]
    NoTap,
    #[error("could not listen on the tap")]
    Listen(#[from] io::Error),
}

/// The owner of the servers.
struct Servers {
    netlink: Netlink,
    running: BTreeMap<TapName, (Lease, CancellationToken)>,
    tasks: JoinSet<TapName>,
    serving: watch::Sender<Serving>,
}

/// Keeps the servers that OVSDB asks for, until `stop`.
pub(super) async fn run(ovsdb: Ovsdb, netlink: Netlink, serving: watch::Sender<Serving>, stop: CancellationToken) {
    let mut servers = Servers { netlink, running: BTreeMap::new(), tasks: JoinSet::new(), serving };
    let mut state = ovsdb.state();
    loop {
        // While OVSDB is away its last word stands.
        let wanted = state.borrow_and_update().tables.as_ref().map(wanted_leases);
        let complete = match &wanted {
            Some(wanted) => servers.reconcile(wanted).await,
            None => true,
        };
        // Every arm is safe to drop: ended servers stay in the set until taken, the others take nothing.
        tokio::select! {
            () = stop.cancelled() => break,
            changed = state.changed() => if changed.is_err() { break },
            Some(ended) = servers.tasks.join_next() => servers.forget(ended),
            () = tokio::time::sleep(RETRY), if !complete => {}
        }
    }
    servers.running.values().for_each(|(_, stop)| stop.cancel());
    while servers.tasks.join_next().await.is_some() {}
}

fn wanted_leases(tables: &Tables) -> Serving {
    let bridges = rows::own_bridges(tables);
    let ports = bridges.values().flat_map(|bridge| bridge.ports.values());
    let specs = ports.filter_map(|port| match rows::owner_of(port) {
        Some(Owner::Guest(spec)) => Some(spec),
        _ => None,
    });
    specs.filter_map(|spec| Some((spec.tap(), Lease::of(&spec)?))).collect()
}

impl Servers {
    /// Ends what is not wanted, starts what is; tells whether all of it runs.
    async fn reconcile(&mut self, wanted: &Serving) -> bool {
        self.running.retain(|tap, (lease, stop)| {
            let keep = wanted.get(tap) == Some(lease);
            if !keep {
                stop.cancel();
            }
            keep
        });
        let mut complete = true;
        for (tap, lease) in wanted {
            if self.running.contains_key(tap) {
                continue;
            }
            if let Err(error) = self.start(tap, lease).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(port = tap.as_str(), error, "no DHCP server yet");
                complete = false;
            }
        }
        let serving: Serving = self.running.iter().map(|(tap, (lease, _))| (tap.clone(), lease.clone())).collect();
        self.serving.send_if_modified(|current| {
            let changed = *current != serving;
            *current = serving;
            changed
        });
        complete
    }

    async fn start(&mut self, tap: &TapName, lease: &Lease) -> Result<(), ServerError> {
        let link = self.netlink.link(tap.as_str()).await?.ok_or(ServerError::NoTap)?;
        let socket = PacketSocket::open(link.index, &Filter::udp_to(SERVER_PORT))?;
        let stop = CancellationToken::new();
        self.running.insert(tap.clone(), (lease.clone(), stop.clone()));
        let (tap, lease) = (tap.clone(), lease.clone());
        self.tasks.spawn(async move {
            serve(&socket, &tap, &lease, &stop).await;
            tap
        });
        Ok(())
    }

    /// A server ended by itself, or was told to; the next pass starts it again if it is wanted.
    fn forget(&mut self, ended: Result<TapName, tokio::task::JoinError>) {
        match ended {
            // One that was replaced has left a running successor under its name, whose token is not cancelled but
            // whose socket is open: it is not the one that ended. A successor's own end comes by its own task.
            Ok(tap) if self.running.get(&tap).is_some_and(|(_, stop)| stop.is_cancelled()) => {
                self.running.remove(&tap);
            }
            Ok(_) => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

async fn serve(socket: &PacketSocket, tap: &TapName, lease: &Lease, stop: &CancellationToken) {
    let mut buffer = [0; FRAME_LIMIT];
    loop {
        // Both arms are safe to drop: a frame leaves the socket only when it is returned.
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.receive(&mut buffer) => received,
        };
        let answered = received.and_then(|length| respond(socket, tap, lease, &buffer[..length]));
        if let Err(error) = answered {
            tracing::debug!(port = tap.as_str(), error = &error as &dyn std::error::Error, "DHCP server ended");
            stop.cancel();
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

fn respond(socket: &PacketSocket, tap: &TapName, lease: &Lease, frame: &[u8]) -> io::Result<()> {
    let Some(heard) = dhcp_wire::read(frame) else { return Ok(()) };
    match answer(lease, &heard.request) {
        Answer::Reply(reply) => {
            let Some(frame) = dhcp_wire::write(&heard, lease, reply) else { return Ok(()) };
            tracing::debug!(port = tap.as_str(), answer = ?reply.message, "DHCP answered");
            match socket.send(&frame) {
                // No room on the wire: the client asks again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
                sent => sent,
            }
        }
        Answer::Conflict => {
            tracing::error!(port = tap.as_str(), address = %lease.address, "guest found its address in use by another host");
            Ok(())
        }
        Answer::Silence => Ok(()),
    }
}
