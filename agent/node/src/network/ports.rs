//! Guests' ports on this node: a tap, a row in OVSDB, flows, a DHCP answer. Observes, plans in `furrow_model::port`,
//! executes one `match` a step, and reports when the port can carry traffic. Flows and DHCP follow from OVSDB by their
//! own tasks; this only waits for them. Refuses two callers for one port at a time: a guest has one owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use furrow_host::netlink::{Netlink, NetlinkError};
use furrow_host::openflow;
use furrow_host::ovsdb::vswitch::{self, Bridge, Port};
use furrow_host::ovsdb::{Ovsdb, OvsdbError};
use furrow_host::tap::{self, TapError};
use furrow_model::dhcp::Lease;
use furrow_model::flows::{Cookie, OfPort, parse_counters, port_flows};
use furrow_model::port::{Observed, ObservedTap, PortSpec, Step, TapName, plan, plan_removal};
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::dhcp::Serving;
use super::flow_table::Installed;
use super::rows;
use crate::guest::ports::{HostError, PortRecord};

/// How long flows and DHCP may take to follow a row: one run of ovs-ofctl and one socket, and a restart of vswitchd.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// What could not be done to a port.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// The provider network is not realised on this node, or not yet.
    #[error("there is no bridge {bridge} on this node: its ProviderNetwork is not ready here")]
    NoBridge { bridge: String },
    /// OVSDB refused or is away.
    #[error("could not change port {tap} in OVSDB")]
    Ovsdb {
        tap: TapName,
        #[source]
        source: OvsdbError,
    },
    /// The kernel refused.
    #[error("could not set up tap {tap}")]
    Netlink {
        tap: TapName,
        #[source]
        source: NetlinkError,
    },
    /// The tap driver refused.
    #[error("could not set up tap {tap}")]
    Tap {
        tap: TapName,
        #[source]
        source: TapError,
    },
    /// vswitchd does not take it.
    #[error("ovs-vswitchd could not open port {tap}: {reason}")]
    NotOpen { tap: TapName, reason: String },
    /// Its flows are not in the table.
    #[error("the flows of port {tap} were not installed within {timeout_ms} ms")]
    NoFlows { tap: TapName, timeout_ms: u128 },
    /// Nobody answers its DHCP.
    #[error("DHCP of port {tap} was not answered for within {timeout_ms} ms")]
    NoDhcp { tap: TapName, timeout_ms: u128 },
    /// This process is stopping.
    #[error("the network of this node is shutting down")]
    Stopping,
}

impl PortError {
    /// The reason for conditions and events. All of them may pass: the provider network comes, daemons come back.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoBridge { .. } => "ProviderNetworkNotReady",
            Self::Ovsdb { .. } => "OvsdbFailed",
            Self::Netlink { .. } | Self::Tap { .. } => "TapFailed",
            Self::NotOpen { .. } => "PortNotOpen",
            Self::NoFlows { .. } => "FlowsNotInstalled",
            Self::NoDhcp { .. } => "DhcpNotServed",
            Self::Stopping => "NetworkStopping",
        }
    }
}

/// A handle to the ports of this node; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ovsdb: Ovsdb,
    netlink: Netlink,
    installed: watch::Receiver<Installed>,
    serving: watch::Receiver<Serving>,
}

/// Where a port is, if it is.
struct Found {
    bridge: Bridge,
    port: Port,
}

impl Ports {
    pub(super) fn new(
        ovsdb: Ovsdb,
        netlink: Netlink,
        installed: watch::Receiver<Installed>,
        serving: watch::Receiver<Serving>,
    ) -> Self {
        Self { shared: Arc::new(Shared { ovsdb, netlink, installed, serving }) }
    }

    /// Makes the port, or brings what is there to what it is to be. When it returns, the port switches frames, holds
    /// back foreign ones, and DHCP is answered. A port that is as it should be is not touched.
    pub(crate) async fn ensure(&self, spec: &PortSpec) -> Result<TapName, PortError> {
        let started = Instant::now();
        let tap = spec.tap();
        let (observed, _) = self.observe(&tap).await?;
        let steps = plan(spec, &observed).steps;
        for step in &steps {
            self.execute(&tap, Some(spec), step).await?;
        }
        let made = !matches!(steps.as_slice(), [Step::Flows, Step::Dhcp]);
        if made {
            let elapsed_ms = started.elapsed().as_millis();
            tracing::info!(port = tap.as_str(), vmi = spec.vmi, nic = spec.nic, elapsed_ms, "port ready");
        }
        Ok(tap)
    }

    /// Removes the port and its tap. One that is not there is no error.
    pub(crate) async fn remove(&self, tap: &TapName) -> Result<(), PortError> {
        let (observed, found) = self.observe(tap).await?;
        let steps = plan_removal(&observed).steps;
        if let Some(found) = &found {
            self.report_counters(&found.bridge.name, tap).await;
        }
        for step in &steps {
            self.execute(tap, None, step).await?;
        }
        Ok(())
    }

    /// Every guest's port that OVSDB knows.
    pub(crate) fn list(&self) -> Result<Vec<PortRecord>, OvsdbError> {
        let tables = self.shared.ovsdb.tables()?;
        let bridges = rows::own_bridges(&tables);
        let ports = bridges.values().flat_map(|bridge| &bridge.ports);
        let record = |(name, port): (&String, &Port)| {
            let (vmi_uid, vmi) = rows::vmi_of(port)?;
            Some(PortRecord { tap: TapName::recognise(name)?, vmi_uid, vmi })
        };
        Ok(ports.filter_map(record).collect())
    }

    /// The port of a guest's interface, and the number of its tap's link; `None` when it has none here.
    pub(crate) async fn link(&self, vmi_uid: &str, nic: &str) -> Result<Option<(PortSpec, u32)>, PortError> {
        let tap = TapName::of(vmi_uid, nic);
        let found = self.find(&tap)?;
        let Some(spec) = found.and_then(|found| rows::spec_of(&found.port)) else { return Ok(None) };
        let link = self.shared.netlink.link(tap.as_str()).await;
        let link = link.map_err(|source| PortError::Netlink { tap, source })?;
        Ok(link.map(|link| (spec, link.index)))
    }

    /// Removes taps that a killed predecessor made and did not get to enter into OVSDB. Only before the first
    /// `ensure`, and only taps that nothing has open.
    pub(super) async fn sweep(&self) -> Result<(), PortError> {
        let name = TapName::of("", "");
        let known = self.list().map_err(|source| PortError::Ovsdb { tap: name.clone(), source })?;
        let links = self.shared.netlink.links().await;
        for link in links.map_err(|source| PortError::Netlink { tap: name, source })? {
            let Some(tap) = TapName::recognise(&link.name) else { continue };
            let orphan = link.kind.as_deref() == Some("tun") && !link.running;
            if orphan && !known.iter().any(|record| record.tap == tap) {
                self.execute(&tap, None, &Step::RemoveTap).await?;
                tracing::info!(port = tap.as_str(), "tap without a port removed");
            }
        }
        Ok(())
    }

    async fn observe(&self, tap: &TapName) -> Result<(Observed, Option<Found>), PortError> {
        let link = self.shared.netlink.link(tap.as_str()).await;
        let link = link.map_err(|source| PortError::Netlink { tap: tap.clone(), source })?;
        let found = self.find(tap)?;
        let observed = Observed {
            tap: link.map(|link| ObservedTap {
                multi_queue: link.tun_multi_queue.unwrap_or(false),
                mtu: link.mtu,
                up: link.up,
            }),
            port: found.as_ref().map(|found| rows::observe(&found.bridge, &found.port)),
        };
        Ok((observed, found))
    }

    fn find(&self, tap: &TapName) -> Result<Option<Found>, PortError> {
        let tables = self.shared.ovsdb.tables().map_err(|source| PortError::Ovsdb { tap: tap.clone(), source })?;
        let on = |mut bridge: Bridge| bridge.ports.remove(tap.as_str()).map(|port| Found { bridge, port });
        Ok(vswitch::bridges(&tables).into_values().find_map(on))
    }

    /// The one place where a step meets the machine.
    async fn execute(&self, tap: &TapName, spec: Option<&PortSpec>, step: &Step) -> Result<(), PortError> {
        let started = Instant::now();
        match (step, spec) {
            (Step::RemovePort { .. }, _) => self.remove_port(tap).await?,
            (Step::RemoveTap, _) => self.remove_tap(tap).await?,
            (Step::CreateTap { multi_queue }, _) => {
                tap::create(tap.as_str(), *multi_queue).map_err(|source| PortError::Tap { tap: tap.clone(), source })?
            }
            (Step::RaiseTap { mtu }, _) => self.raise_tap(tap, *mtu).await?,
            (Step::AddPort, Some(spec)) => self.add_port(tap, spec).await?,
            (Step::ChangePort, Some(spec)) => self.apply(tap, rows::guest_port(spec, None)).await?,
            (Step::Flows, Some(spec)) => self.flows_follow(tap, spec).await?,
            (Step::Dhcp, Some(spec)) => self.dhcp_follows(tap, spec).await?,
            // A plan for a removal has no step that needs a specification.
            (Step::AddPort | Step::ChangePort | Step::Flows | Step::Dhcp, None) => {}
        }
        let elapsed_ms = started.elapsed().as_millis();
        tracing::debug!(port = tap.as_str(), step = ?step, elapsed_ms, "step done");
        Ok(())
    }

    async fn apply(&self, tap: &TapName, operations: Vec<furrow_host::ovsdb::Operation>) -> Result<(), PortError> {
        let applied = self.shared.ovsdb.apply(operations).await;
        applied.map(drop).map_err(|source| PortError::Ovsdb { tap: tap.clone(), source })
    }

    async fn remove_port(&self, tap: &TapName) -> Result<(), PortError> {
        match self.find(tap)? {
            Some(found) => self.apply(tap, vswitch::remove_port(found.bridge.uuid, found.port.uuid)).await,
            None => Ok(()),
        }
    }

    async fn remove_tap(&self, tap: &TapName) -> Result<(), PortError> {
        let fail = |source| PortError::Netlink { tap: tap.clone(), source };
        match self.shared.netlink.link(tap.as_str()).await.map_err(fail)? {
            Some(link) => self.shared.netlink.delete_link(link.index).await.map_err(fail),
            None => Ok(()),
        }
    }

    async fn raise_tap(&self, tap: &TapName, mtu: u16) -> Result<(), PortError> {
        let fail = |source| PortError::Netlink { tap: tap.clone(), source };
        let link = self.shared.netlink.link(tap.as_str()).await.map_err(fail)?;
        let gone = || PortError::NotOpen { tap: tap.clone(), reason: "its tap vanished while it was set up".into() };
        self.shared.netlink.set_up(link.ok_or_else(gone)?.index, Some(u32::from(mtu))).await.map_err(fail)
    }

    async fn add_port(&self, tap: &TapName, spec: &PortSpec) -> Result<(), PortError> {
        let tables = self.shared.ovsdb.tables().map_err(|source| PortError::Ovsdb { tap: tap.clone(), source })?;
        let bridge = rows::own_bridges(&tables).remove(&spec.bridge);
        let bridge = bridge.ok_or_else(|| PortError::NoBridge { bridge: spec.bridge.clone() })?;
        self.apply(tap, rows::guest_port(spec, Some(&bridge))).await
    }

    /// Waits until the table holds exactly this port's flows.
    async fn flows_follow(&self, tap: &TapName, spec: &PortSpec) -> Result<(), PortError> {
        let found = self.find(tap)?;
        let number = found.as_ref().and_then(|found| found.port.ofport.and_then(OfPort::new));
        let Some(ofport) = number else {
            let reason = found.and_then(|found| found.port.error).unwrap_or_else(|| "it gave no reason".into());
            return Err(PortError::NotOpen { tap: tap.clone(), reason });
        };
        let (cookie, wanted) = (Cookie::of(tap), port_flows(spec, ofport));
        let mut installed = self.shared.installed.clone();
        let there = installed
            .wait_for(|bridges| bridges.get(&spec.bridge).is_some_and(|groups| groups.get(&cookie) == Some(&wanted)));
        followed(there).await.map_err(|late| match late {
            Late::Timeout => PortError::NoFlows { tap: tap.clone(), timeout_ms: FOLLOW_TIMEOUT.as_millis() },
            Late::Stopping => PortError::Stopping,
        })
    }

    /// Waits until a server answers with this port's lease.
    async fn dhcp_follows(&self, tap: &TapName, spec: &PortSpec) -> Result<(), PortError> {
        let Some(lease) = Lease::of(spec) else { return Ok(()) };
        let mut serving = self.shared.serving.clone();
        let there = serving.wait_for(|serving| serving.get(tap) == Some(&lease));
        followed(there).await.map_err(|late| match late {
            Late::Timeout => PortError::NoDhcp { tap: tap.clone(), timeout_ms: FOLLOW_TIMEOUT.as_millis() },
            Late::Stopping => PortError::Stopping,
        })
    }

    /// The last moment at which the port's counters can be read. A failure costs a line in the log, not the removal.
    async fn report_counters(&self, bridge: &str, tap: &TapName) {
        if let Ok(dump) = openflow::dump_flows(bridge, &Cookie::of(tap).to_string()).await {
            let counters = parse_counters(&dump);
            let (passed_frames, spoofed_frames) = (counters.passed_frames, counters.spoofed_frames);
            tracing::info!(port = tap.as_str(), passed_frames, spoofed_frames, "port is going");
        }
    }
}

enum Late {
    Timeout,
    Stopping,
}

async fn followed<T>(wait: impl Future<Output = Result<T, watch::error::RecvError>>) -> Result<(), Late> {
    // Dropping the wait at the deadline is safe: it only reads.
    match tokio::time::timeout(FOLLOW_TIMEOUT, wait).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Late::Stopping),
        Err(_) => Err(Late::Timeout),
    }
}

impl crate::guest::ports::Ports for Ports {
    fn ensure<'a>(&'a self, spec: &'a PortSpec) -> BoxFuture<'a, Result<TapName, HostError>> {
        Box::pin(
            async move { Self::ensure(self, spec).await.map_err(|error| HostError::passing(error.reason(), &error)) },
        )
    }

    fn remove<'a>(&'a self, tap: &'a TapName) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(
            async move { Self::remove(self, tap).await.map_err(|error| HostError::passing(error.reason(), &error)) },
        )
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PortRecord>, HostError>> {
        let listed = Self::list(self).map_err(|error| HostError::passing("OvsdbFailed", &error));
        Box::pin(std::future::ready(listed))
    }
}
