//! What control asks of this node directly: operations on guests that run here, which cannot go through the API server
//! because they are asked once and answered at once. HTTPS on every address of the node, for control alone.
//!
//! ```text
//!  control ─(TLS, both certificates)─> requests ─> operations ─> libvirt
//!                                        │              └─> thaw: a frozen guest is thawed in time, also after a restart
//!                                        ├─> streams ─> sockets of QEMU
//!                                        ├─> forward ─> links: the guest's tap
//!                                        └─> images: what a registry has ─> storage's child
//! ```
//!
//! Refuses everybody without control's certificate in the handshake, and to change what a guest is or whether it runs.

mod forward;
#[cfg(test)]
mod forward_tests;
mod guests;
mod images;
mod links;
mod operations;
mod pointer;
mod report;
mod requests;
mod streams;
#[cfg(test)]
mod tests;
mod thaw;
pub(crate) mod tls;
#[cfg(test)]
mod usb_tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use furrow_api::names::AGENT_PORT;
use kube::Client;
use kube::config::Kubeconfig;
use nix::sys::socket::{setsockopt, sockopt};
use tokio_util::sync::CancellationToken;

pub(crate) use forward::Forwards;
use furrow_model::reasons::chain;
use guests::RunningGuests;
use images::LooksAtImages;
use operations::Operations;
use requests::Served;
use streams::Streams;
use thaw::Thaws;

/// Between attempts to begin, while the API server or the address is not there yet.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// A connection that asks nothing is closed after this long.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Operations under way have this long when the agent ends.
const DRAIN: Duration = Duration::from_secs(5);

/// A silent connection is asked for a sign of life after so many seconds, this often, and given up after so many probes;
/// one that takes nothing, after this time.
const KEEP_ALIVE_IDLE_S: u32 = 20;
const KEEP_ALIVE_INTERVAL_S: u32 = 10;
const KEEP_ALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// What the channel works with.
pub(crate) struct Parts {
    /// Kubernetes.
    pub(crate) client: Client,
    /// Guests that run here.
    pub(crate) guests: Arc<dyn RunningGuests>,
    /// Registries.
    pub(crate) images: Arc<dyn LooksAtImages>,
    /// The conversations with their ports.
    pub(crate) forwards: Arc<Forwards>,
    /// The kubeconfig whose user the agent is: its certificate is what it serves with.
    pub(crate) kubeconfig: PathBuf,
    /// Directory that holds one directory a guest, named by UID.
    pub(crate) guests_dir: PathBuf,
    /// Where it is kept which guests are to be thawed.
    pub(crate) thaw_dir: PathBuf,
}

/// Serves until `stop`. Guests do not wait for it: it begins when it can.
pub(crate) fn start(parts: Parts, stop: CancellationToken) {
    tokio::spawn(async move {
        let client = parts.client.clone();
        let thawed: thaw::Thawed = Box::new(move |guest| Box::pin(operations::mark(client.clone(), guest, None)));
        let thaws = Arc::new(Thaws::new(parts.thaw_dir, Arc::clone(&parts.guests), thawed, stop.clone()));
        thaws.resume().await;
        let guests_dir = parts.guests_dir.clone();
        let streams = Streams::new(Arc::clone(&parts.guests), parts.guests_dir, stop.clone());
        let operations = Operations { client: parts.client.clone(), guests: parts.guests, thaws, guests_dir };
        let served = Arc::new(Served::new(operations, streams, parts.forwards, parts.images));
        loop {
            // Safe to cancel: a server that is dropped closes its socket, and operations under way end with the agent.
            tokio::select! {
                () = stop.cancelled() => return,
                result = serve(&parts.client, &parts.kubeconfig, Arc::clone(&served), &stop) => match result {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "control cannot reach this agent yet"),
                },
            }
            // Safe to cancel: waiting changes nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    });
}

async fn serve(
    client: &Client,
    kubeconfig: &Path,
    served: Arc<Served>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let clients = tls::clients_ca(client).await?;
    let path = kubeconfig.display();
    let document = Kubeconfig::read_from(kubeconfig).with_context(|| format!("could not read {path}"))?;
    let config = tls::server(&document, &clients).with_context(|| format!("could not serve with {path}"))?;
    let listener = listen(AGENT_PORT).with_context(|| format!("could not listen on port {AGENT_PORT}"))?;
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config)))
        .context("could not use the socket")?
        .first_request_timeout(FIRST_REQUEST)
        .handle(handle.clone());
    tracing::info!(port = AGENT_PORT, "serving control");
    let serving = server.serve(requests::router(served).into_make_service());
    let mut serving = std::pin::pin!(serving);
    // Safe to cancel: the other arm goes on with the same future.
    tokio::select! {
        () = stop.cancelled() => {}
        result = &mut serving => return result.context("the server failed"),
    }
    handle.graceful_shutdown(Some(DRAIN));
    if let Err(error) = serving.await {
        tracing::debug!(error = chain(&error), "the server ended");
    }
    Ok(())
}

/// Every address: the node's may change while the agent runs. A node may have no IPv6.
pub(crate) fn listen(port: u16) -> std::io::Result<std::net::TcpListener> {
    let all = |address: IpAddr| std::net::TcpListener::bind(SocketAddr::new(address, port));
    let listener = match all(Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => all(Ipv4Addr::UNSPECIFIED.into())?,
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    // Connections inherit it: a stream to a server that lost its power ends, and its guest's display is free again.
    setsockopt(&listener, sockopt::KeepAlive, &true)?;
    setsockopt(&listener, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE_S)?;
    setsockopt(&listener, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL_S)?;
    setsockopt(&listener, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES)?;
    setsockopt(&listener, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)?;
    Ok(listener)
}
