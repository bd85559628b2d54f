//! Empties OSDs and takes them out of Ceph's maps. An OSD that is out keeps serving what it holds until other OSDs have it;
//! whether they do is asked of Ceph itself (`osd safe-to-destroy`) and never concluded from numbers. Shows what is left.

use std::fmt;
use std::time::{Duration, Instant};

use furrow_host::ceph::{Monitor, commands};
use serde_json::Value;

use super::observe::{idle_groups, is_host, unfound};
use super::plan::gigabytes;
use crate::steps::{self, Node, StepError};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// The node looks for its mark every two minutes, then its daemons end.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
/// A monitor notices within seconds that an OSD's connection is gone.
const DOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// What is still to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Left {
    /// Bytes on the OSDs.
    bytes: u64,
    /// Placement groups that they have.
    groups: u64,
    /// Objects that are not where, or not as often as, they are to be.
    objects: u64,
}

impl Left {
    /// From the answers of `ceph osd df` and `ceph status`.
    fn read(usage: &Value, status: &Value, osds: &[u64]) -> Left {
        let own = |osd: &&Value| osd["id"].as_u64().is_some_and(|id| osds.contains(&id));
        let own: Vec<&Value> = usage["nodes"].as_array().into_iter().flatten().filter(own).collect();
        let sum = |key: &str| own.iter().filter_map(|osd| osd[key].as_u64()).sum::<u64>();
        let objects = |key: &str| status["pgmap"][key].as_u64().unwrap_or(0);
        Left {
            bytes: sum("kb_used_data") * 1024,
            groups: sum("pgs"),
            objects: objects("misplaced_objects") + objects("degraded_objects"),
        }
    }
}

/// How far it is, for people.
struct Progress {
    begun: Left,
    left: Left,
    elapsed: Duration,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left { groups, bytes, objects } = self.left;
        let done = |from: u64, left: u64| from.saturating_sub(left) * 100 / from.max(1);
        // Objects say it more finely than groups, once Ceph has counted them.
        let percent = if self.begun.objects > 0 && groups == 0 || self.begun.groups == 0 {
            done(self.begun.objects, objects)
        } else {
            done(self.begun.groups, groups)
        };
        write!(f, "{percent} %: {groups} placement groups and {} left, {objects} objects to copy", gigabytes(bytes))?;
        let moved = self.begun.groups.saturating_sub(groups);
        if moved == 0 || groups == 0 {
            return Ok(());
        }
        let rest = self.elapsed.as_secs() * groups / moved;
        write!(f, ", about {} min {} s", rest / 60, rest % 60)
    }
}

async fn left(ceph: &Monitor, osds: &[u64]) -> Result<(Left, Value), StepError> {
    let usage: Value = ceph.query(commands::osd_df()).await?;
    let status: Value = ceph.query(commands::status()).await?;
    Ok((Left::read(&usage, &status, osds), status))
}

/// Takes OSDs out and waits until no data needs them. `whole`: every copy has a place, so that all are waited for.
pub(super) async fn drain(node: &Node, osds: &[u64], whole: bool, limit: Duration) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    let mut begun = left(ceph, osds).await?.0;
    node.say(&Progress { begun, left: begun, elapsed: Duration::ZERO }.to_string());
    ceph.send(commands::osd_out(osds)).await?;
    let (from, mut said) = (Instant::now(), None::<Instant>);
    loop {
        let (now, status) = left(ceph, osds).await?;
        begun = Left { objects: begun.objects.max(now.objects), groups: begun.groups.max(now.groups), ..begun };
        let waits_for = if whole { not_safe(ceph, osds).await? } else { not_serving(&status) };
        let Some(reason) = waits_for else {
            node.say("no data needs its OSDs any more");
            return Ok(());
        };
        let progress = Progress { begun, left: now, elapsed: from.elapsed() };
        if from.elapsed() >= limit {
            let last = format!("{progress}; {reason}; run it again to go on");
            return Err(StepError::Timeout { what: "the OSDs to be emptied".into(), seconds: limit.as_secs(), last });
        }
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said = Some(Instant::now());
            node.say(&format!("{progress} ({reason})"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why OSDs cannot go yet; None when Ceph says that they can.
async fn not_safe(ceph: &Monitor, osds: &[u64]) -> Result<Option<String>, StepError> {
    match ceph.send(commands::osd_safe_to_destroy(osds)).await {
        Ok(_) => Ok(None),
        Err(error) => match error.refusal() {
            Some(status) => Ok(Some(status.lines().last().unwrap_or("ceph does not say why").to_owned())),
            None => Err(error.into()),
        },
    }
}

/// Which groups do not serve; what serves has all its objects on the OSDs that live.
fn not_serving(status: &Value) -> Option<String> {
    let idle = idle_groups(status);
    match (idle.is_empty(), unfound(status)) {
        (true, 0) => None,
        (true, unfound) => Some(format!("{unfound} objects have no copy that is known")),
        (false, _) => Some(format!("placement groups: {}", idle.join(", "))),
    }
}

/// Waits until the daemons of OSDs have ended; those of a node that does not stop are declared down.
pub(super) async fn await_stop(node: &Node, osds: &[u64]) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    let waited = node.wait("its OSDs to stop", STOP_TIMEOUT, async || are_down(ceph, osds).await).await;
    match waited {
        Err(StepError::Timeout { last, .. }) => {
            node.say(&format!("it has not stopped by itself ({last}): going on without it"));
            Ok(())
        }
        other => other,
    }
}

async fn are_down(ceph: &Monitor, osds: &[u64]) -> Result<(), String> {
    let dump: Value = ceph.query(commands::osd_dump()).await.map_err(|e| e.to_string())?;
    let up = |id: &&u64| dump["osds"].as_array().into_iter().flatten().any(|o| o["osd"] == **id && o["up"] == 1);
    let up: Vec<String> = osds.iter().filter(up).map(|id| format!("osd.{id}")).collect();
    if up.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(PAUSE).await;
    Err(format!("{} up", up.join(", ")))
}

/// Takes OSDs, with their keys, and then their host out of Ceph's maps.
pub(super) async fn purge(node: &Node, osds: &[u64], host: &str) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    if !osds.is_empty() {
        node.wait("the OSDs to be down", DOWN_TIMEOUT, async || {
            if are_down(ceph, osds).await.is_err() {
                ceph.send(commands::osd_down(osds)).await.map_err(|e| e.to_string())?;
            }
            are_down(ceph, osds).await
        })
        .await?;
    }
    for osd in osds {
        ceph.send(commands::osd_purge(*osd)).await?;
    }
    let tree: Value = ceph.query(commands::osd_tree()).await?;
    if tree["nodes"].as_array().into_iter().flatten().any(|item| is_host(item, host)) {
        ceph.send(commands::crush_remove(host)).await?;
    }
    Ok(())
}

/// Keeps fewer copies in a pool.
pub(super) async fn lower(node: &Node, pool: &str, size: u64) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    ceph.send(commands::pool_set(pool, "min_size", &steps::copies(size).1.to_string())).await?;
    ceph.send(commands::pool_set(pool, "size", &size.to_string())).await?;
    Ok(())
}

/// Takes a monitor and a manager out of Ceph.
pub(super) async fn remove_daemons(node: &Node, name: &str) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    ceph.send(commands::mon_remove(name)).await?;
    ceph.send(commands::auth_remove(&format!("mgr.{name}"))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_is_counted_on_the_nodes_own_osds() {
        let usage = json!({"nodes": [
            {"id": 0, "kb_used_data": 1000, "pgs": 5}, {"id": 1, "kb_used_data": 9, "pgs": 9},
            {"id": 2, "kb_used_data": 24, "pgs": 1},
        ]});
        let status = json!({"pgmap": {"misplaced_objects": 7, "degraded_objects": 1}});
        let expected = Left { bytes: 1024 * 1024, groups: 6, objects: 8 };
        assert_eq!(Left::read(&usage, &status, &[0, 2]), expected);
    }

    #[test]
    fn progress_says_how_far_and_how_long() {
        let begun = Left { bytes: 8_000_000_000, groups: 32, objects: 400 };
        let left = Left { bytes: 2_500_000_000, groups: 8, objects: 100 };
        let progress = Progress { begun, left, elapsed: Duration::from_secs(90) };
        let expected = "75 %: 8 placement groups and 2.5 GB left, 100 objects to copy, about 0 min 30 s";
        assert_eq!(progress.to_string(), expected);
        let progress = Progress { begun: Left { groups: 0, ..begun }, left: Left { groups: 0, ..left }, ..progress };
        assert_eq!(progress.to_string(), "75 %: 0 placement groups and 2.5 GB left, 100 objects to copy");
    }

    #[test]
    fn a_lost_node_waits_for_groups_that_serve() {
        let status = |state: &str, unfound: u64| json!({"pgmap": {"pgs_by_state": [{"state_name": state, "count": 3}], "unfound_objects": unfound}});
        assert_eq!(not_serving(&status("active+undersized+degraded", 0)), None);
        assert_eq!(not_serving(&status("down", 0)).as_deref(), Some("placement groups: 3 down"));
        assert_eq!(not_serving(&status("active", 2)).as_deref(), Some("2 objects have no copy that is known"));
    }
}
