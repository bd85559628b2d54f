//! The flow tables of Furrow's bridges. What they should hold follows from OVSDB alone: ports remember what they are
//! for. One task a bridge brings the table there, again whenever OVSDB changes, and from nothing when vswitchd was
//! restarted and forgot it. Refuses to be told: nobody adds a flow by hand here.
//!
//! ```text
//!   connect to the bridge -> replace the whole table -> on every change of OVSDB, change the groups that differ
//!          ^---------------------- the connection closed: vswitchd is gone, and its flows with it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use furrow_host::cmd::CmdError;
use furrow_host::openflow::{self, Presence};
use furrow_host::ovsdb::vswitch::{self, Bridge};
use furrow_host::ovsdb::{Ovsdb, State};
use furrow_model::flows::{self, Groups, OfPort};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rows::{self, Owner};

/// Waits between attempts to reach a bridge: short, because guests have no network meanwhile.
const RECONNECT: Duration = Duration::from_millis(200);

/// Wait after a table could not be changed: ovs-ofctl failed for a reason that may stay.
const RETRY: Duration = Duration::from_secs(2);

/// What the bridges hold, as far as this process has put it there, by bridge.
pub(super) type Installed = BTreeMap<String, Groups>;

/// One bridge's table.
struct FlowTable {
    bridge: String,
    state: watch::Receiver<State>,
    installed: watch::Sender<Installed>,
}

/// Why a table has to be brought up anew.
enum Ended {
    /// vswitchd, or the bridge in it, went away.
    Gone,
    /// A change was refused.
    Failed(CmdError),
    /// Nobody is left to serve.
    Stopped,
}

/// Keeps the tables of all bridges that carry Furrow's mark, until `stop`.
pub(super) async fn run(ovsdb: Ovsdb, installed: watch::Sender<Installed>, stop: CancellationToken) {
    let mut state = ovsdb.state();
    let mut tables: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        // While OVSDB is away its last word stands.
        let known = state.borrow_and_update().tables.as_ref().map(rows::own_bridges);
        if let Some(known) = known {
            let wanted: BTreeSet<String> = known.into_keys().collect();
            tables.retain(|bridge, stop| {
                let keep = wanted.contains(bridge);
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for bridge in wanted {
                let (state, installed, stop) = (ovsdb.state(), installed.clone(), &stop);
                tables.entry(bridge.clone()).or_insert_with(|| {
                    let stop = stop.child_token();
                    tokio::spawn(FlowTable { bridge, state, installed }.run(stop.clone()));
                    stop
                });
            }
        }
        // Both arms are safe to drop: neither takes anything.
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

impl FlowTable {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Dropping a pass is safe: the next process, or the next pass, replaces the whole table.
            let ended = tokio::select! {
                () = stop.cancelled() => Ended::Stopped,
                ended = self.serve() => ended,
            };
            self.installed.send_modify(|installed| drop(installed.remove(&self.bridge)));
            match ended {
                Ended::Gone => {}
                Ended::Stopped => return,
                Ended::Failed(error) => {
                    // In the macro, because a named `dyn Error` would live over the wait and is not Sync.
                    tracing::error!(
                        bridge = self.bridge,
                        error = &error as &dyn std::error::Error,
                        "flow table is not as it should be"
                    );
                    // Dropping the wait is safe: it has no state.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// One life of vswitchd: the whole table first, then changes.
    async fn serve(&mut self) -> Ended {
        let presence = loop {
            match Presence::connect(&self.bridge).await {
                Ok(presence) => break presence,
                // A bridge just added, or a vswitchd just started, is there in a moment.
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        };
        let mut gone = std::pin::pin!(presence.ended());
        let mut present: Option<Groups> = None;
        loop {
            if let Some(wanted) = self.wanted() {
                if let Err(error) = self.bring(present.as_ref(), &wanted).await {
                    return Ended::Failed(error);
                }
                if present.as_ref() != Some(&wanted) {
                    let bridge = self.bridge.clone();
                    self.installed.send_modify(|installed| drop(installed.insert(bridge, wanted.clone())));
                }
                present = Some(wanted);
            }
            // Both arms are safe to drop: the connection is kept outside, and a change is seen again by looking.
            tokio::select! {
                error = &mut gone => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(bridge = self.bridge, error, "vswitchd went away; flows follow its return");
                    return Ended::Gone;
                }
                changed = self.state.changed() => if changed.is_err() { return Ended::Stopped },
            }
        }
    }

    /// What OVSDB says the table should hold; `None` while OVSDB is away or has no such bridge.
    fn wanted(&mut self) -> Option<Groups> {
        let state = self.state.borrow_and_update();
        let bridge = vswitch::bridges(state.tables.as_ref()?).remove(&self.bridge)?;
        Some(wanted_groups(&bridge))
    }

    async fn bring(&self, present: Option<&Groups>, wanted: &Groups) -> Result<(), CmdError> {
        let Some(present) = present else {
            openflow::replace_flows(&self.bridge, &flows::whole_table(wanted.values().flatten())).await?;
            tracing::info!(bridge = self.bridge, groups = wanted.len(), "flow table installed");
            return Ok(());
        };
        let changes = flows::changes(present, wanted);
        if changes.is_empty() { Ok(()) } else { openflow::change_flows(&self.bridge, &changes).await }
    }
}

/// The groups of a bridge: its open NICs, and its open guests' ports that say what they are for.
pub(super) fn wanted_groups(bridge: &Bridge) -> Groups {
    let mut nics = Vec::new();
    let mut ports = Vec::new();
    for port in bridge.ports.values() {
        let Some(ofport) = port.ofport.and_then(OfPort::new) else { continue };
        match rows::owner_of(port) {
            Some(Owner::Nic) => nics.push(ofport),
            Some(Owner::Guest(spec)) => ports.push((spec, ofport)),
            None => {}
        }
    }
    nics.sort();
    flows::groups(&nics, ports.iter().map(|(spec, ofport)| (spec.as_ref(), *ofport)))
}
