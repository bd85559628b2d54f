//! The pool for volumes, and how many copies pools keep: by OSDs on one host, by hosts as soon as there are two. Never
//! fewer than a pool keeps already, and a placement rule that an administrator chose stays.

use furrow_host::ceph::{Monitor, commands};
use furrow_host::cmd::Cmd;
use serde_json::Value;

use super::ceph_conf::copies;
use super::{Node, StepError};
use crate::steps::ceph::DAEMON_TIMEOUT;

/// The pool of volumes; its name is part of every volume handle.
pub(super) const POOL: &str = "volumes";
/// Its placement groups.
const GROUPS: u32 = 32;
/// The rule that puts each copy on another host.
const HOST_RULE: &str = "furrow-host";
/// Number of the rule that every cluster begins with; here it tells OSDs apart.
const FIRST_RULE: u64 = 0;

/// How data is to be replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replication {
    /// Hosts with an OSD that is up.
    hosts: u64,
    /// Copies.
    size: u64,
    /// Copies without which nothing is written.
    min_size: u64,
}

/// The pool for volumes.
pub(super) async fn ensure(node: &Node) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    let pools: Value = ceph.query(commands::pools()).await?;
    let existing = pools.as_array().into_iter().flatten().find(|p| p["pool_name"] == POOL);
    if existing.is_none() {
        ceph.send(commands::pool_create(POOL, GROUPS)).await?;
    }
    replicate(ceph).await?;
    // The application tag is set last, by `rbd pool init`: with it the pool is whole.
    if existing.is_none_or(|p| p["application_metadata"].get("rbd").is_none()) {
        ceph.send(commands::require_client("mimic")).await?;
        let init = Cmd::new("/usr/bin/rbd").args(["pool", "init", POOL]).timeout(DAEMON_TIMEOUT);
        init.run().await?;
    }
    node.wait("the placement groups", DAEMON_TIMEOUT, async || {
        let stat: Value = ceph.query(commands::pg_stat()).await.map_err(|e| e.to_string())?;
        let states = stat["pg_summary"]["num_pg_by_state"].as_array().cloned().unwrap_or_default();
        let active = |s: &Value| s["name"].as_str().is_some_and(|n| n.starts_with("active"));
        if !states.is_empty() && states.iter().all(active) {
            return Ok(());
        }
        let said: Vec<String> =
            states.iter().map(|s| format!("{} {}", s["num"], s["name"].as_str().unwrap_or_default())).collect();
        Err(if said.is_empty() { "none yet".to_owned() } else { said.join(", ") })
    })
    .await
}

/// Raises the copies of all pools to what the OSDs that there are allow. Returns the hosts that have any.
pub(super) async fn replicate(ceph: &Monitor) -> Result<u64, StepError> {
    let wanted = replication(&ceph.query(commands::osd_tree()).await?);
    let mut rule = None;
    if wanted.hosts > 1 {
        ceph.send(commands::crush_rule_create(HOST_RULE, "default", "host")).await?;
        let dump: Value = ceph.query(commands::crush_rule(HOST_RULE)).await?;
        rule = dump["rule_id"].as_u64();
    }
    let pools: Value = ceph.query(commands::pools()).await?;
    for pool in pools.as_array().into_iter().flatten() {
        let Some(name) = pool["pool_name"].as_str() else { continue };
        if rule.is_some() && pool["crush_rule"] == FIRST_RULE {
            ceph.send(commands::pool_set(name, "crush_rule", HOST_RULE)).await?;
        }
        if pool["size"].as_u64().is_some_and(|size| size < wanted.size) {
            ceph.send(commands::pool_set(name, "size", &wanted.size.to_string())).await?;
            ceph.send(commands::pool_set(name, "min_size", &wanted.min_size.to_string())).await?;
        }
    }
    Ok(wanted.hosts)
}

/// What the answer of `ceph osd tree` allows.
fn replication(tree: &Value) -> Replication {
    let nodes = || tree["nodes"].as_array().into_iter().flatten();
    // An OSD that is out is being emptied.
    let holds_data = |osd: &Value| {
        osd["status"] == "up"
            && osd["crush_weight"].as_f64().is_some_and(|w| w > 0.0)
            && osd["reweight"].as_f64() != Some(0.0)
    };
    let up: Vec<&Value> = nodes().filter(|n| n["type"] == "osd" && holds_data(n)).map(|n| &n["id"]).collect();
    let has_osd = |host: &Value| host["children"].as_array().into_iter().flatten().any(|child| up.contains(&child));
    let hosts = nodes().filter(|n| n["type"] == "host" && has_osd(n)).count() as u64;
    // One host can still lose a disk.
    let (size, min_size) = copies(if hosts > 1 { hosts } else { up.len() as u64 });
    Replication { hosts, size, min_size }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts, each with the states of its OSDs.
    fn check(hosts: &[&[&str]], expected: (u64, u64, u64)) {
        let mut nodes = Vec::new();
        let mut next = 0;
        for (n, osds) in hosts.iter().enumerate() {
            let ids: Vec<u64> = (next..next + osds.len() as u64).collect();
            next += osds.len() as u64;
            for (id, status) in ids.iter().zip(*osds) {
                let (status, reweight) = if *status == "out" { ("up", 0.0) } else { (*status, 1.0) };
                let osd = serde_json::json!({"id": id, "type": "osd", "status": status, "crush_weight": 0.01});
                nodes.push(osd);
                nodes.last_mut().expect("there")["reweight"] = reweight.into();
            }
            nodes.push(serde_json::json!({"id": -2 - n as i64, "type": "host", "children": ids}));
        }
        let Replication { hosts, size, min_size } = replication(&serde_json::json!({"nodes": nodes}));
        assert_eq!((hosts, size, min_size), expected, "{nodes:?}");
    }

    #[test]
    fn one_host_counts_its_osds() {
        check(&[&["up"]], (1, 1, 1));
        check(&[&["up", "up"]], (1, 2, 1));
        check(&[&["up", "up", "up", "up"]], (1, 3, 2));
    }

    #[test]
    fn two_or_more_hosts_count_themselves() {
        check(&[&["up", "up", "up"], &["up"]], (2, 2, 1));
        check(&[&["up"], &["up"], &["up"]], (3, 3, 2));
        check(&[&["up"], &["up"], &["up"], &["up"]], (4, 3, 2));
    }

    #[test]
    fn what_holds_no_data_does_not_count() {
        check(&[&["up"], &["down"], &[]], (1, 1, 1));
        check(&[&["up"], &["up"], &["out"]], (2, 2, 1));
        check(&[], (0, 1, 1));
    }
}
