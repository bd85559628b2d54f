//! The network of a node: the pod network, provider networks as OVS bridges, and guests' ports on them. Owns every tap
//! named `fw...`, every OVS row with Furrow's mark, the CNI configuration and the routes to other nodes' pods. Refuses
//! the management network: its NIC, addresses and routes are never touched.
//!
//! ```text
//!   Node objects --> podnet                       ProviderNetworks --> provider --+
//!   guests --> Ports --(tap, row)--> OVSDB <--------------------------(bridge, NIC)+
//!                                      |--> flow_table: flows of each bridge
//!                                      +--> dhcp: a server on each tap
//! ```

mod dhcp;
mod dhcp_wire;
mod flow_table;
mod podnet;
mod ports;
mod provider;
mod provider_status;
mod retry;
mod rows;
mod watched;

use std::path::PathBuf;
use std::time::Duration;

use furrow_host::netlink::{Netlink, NetlinkError};
use furrow_host::ovsdb::{DEFAULT_SOCKET, Ovsdb, vswitch};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use ports::Ports;

/// How long the start waits for OVSDB: it is up before the agent, unless it is broken, and then guests must wait but
/// the pod network must not.
const OVSDB_WAIT: Duration = Duration::from_secs(5);

/// Starts everything that the network of node `node` needs; it ends with `stop`. Returns the ports for guests.
pub(crate) async fn start(client: Client, node: String, stop: CancellationToken) -> Result<Ports, NetlinkError> {
    let netlink = Netlink::open()?;
    tokio::spawn(podnet::run(client.clone(), node.clone(), netlink.clone(), stop.clone()));
    let ovsdb = Ovsdb::start(PathBuf::from(DEFAULT_SOCKET), vswitch::MONITORED, stop.clone());
    let ports = start_switching(&ovsdb, &netlink, &stop).await;
    tokio::spawn(provider::run(client, node, ovsdb, netlink, stop));
    Ok(ports)
}

/// Ports to look at and not to change: for `furrow-agent plan`, beside an agent that runs. Ends with `stop`.
pub(crate) async fn observer(stop: &CancellationToken) -> Result<Ports, NetlinkError> {
    let ovsdb = Ovsdb::start(PathBuf::from(DEFAULT_SOCKET), vswitch::MONITORED, stop.clone());
    connected(&ovsdb).await;
    // Nobody sends into these: a wait for flows or DHCP would end at once.
    let (_, flows) = watch::channel(flow_table::Installed::new());
    let (_, leases) = watch::channel(dhcp::Serving::new());
    Ok(Ports::new(ovsdb, Netlink::open()?, flows, leases))
}

/// Whether OVSDB is there, after a moment's patience.
async fn connected(ovsdb: &Ovsdb) -> bool {
    let mut state = ovsdb.state();
    // Dropping the wait at the deadline is safe: it only reads.
    let there = tokio::time::timeout(OVSDB_WAIT, state.wait_for(|state| state.tables.is_some())).await;
    there.is_ok_and(|there| there.is_ok())
}

/// The part that needs no Kubernetes.
async fn start_switching(ovsdb: &Ovsdb, netlink: &Netlink, stop: &CancellationToken) -> Ports {
    let (installed, flows) = watch::channel(flow_table::Installed::new());
    let (serving, leases) = watch::channel(dhcp::Serving::new());
    tokio::spawn(flow_table::run(ovsdb.clone(), installed, stop.clone()));
    tokio::spawn(dhcp::run(ovsdb.clone(), netlink.clone(), serving, stop.clone()));
    let ports = Ports::new(ovsdb.clone(), netlink.clone(), flows, leases);
    let swept = if connected(ovsdb).await {
        ports.sweep().await.map_err(|error| furrow_model::reasons::chain(&error))
    } else {
        Err("ovsdb-server is not reachable".to_owned())
    };
    if let Err(error) = swept {
        tracing::warn!(error, "leftover taps were not looked for");
    }
    ports
}

#[cfg(test)]
mod tests;
