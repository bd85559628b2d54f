//! The parts that are the cluster's: bootstrap, Kubernetes, etcd, Ceph, services.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use furrow_host::ceph::commands;
use furrow_host::cmd::Cmd;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::ListParams;
use kube::{Api, Client};

use super::{Level, Part, command};
use crate::config::{NodeConfig, Role};
use crate::join::Joined;
use crate::steps::{STATE, ceph_reader, client, k3s_unit, readiness};
use crate::{membership, record};

/// Health checks of Ceph that a single node cannot help having; they are shown, but are no fault.
const EXPECTED: [&str; 3] = ["POOL_NO_REDUNDANCY", "MON_DISK_LOW", "OSD_NO_DOWN_OUT_INTERVAL"];
/// An API server that lives answers within this.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Monitors that live take a connection within this, and answer within this.
const CEPH_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that runs etcd says so by this label, as k3s's does.
const ETCD_LABEL: &str = "node-role.kubernetes.io/etcd=true";

/// How far the node has been brought; while it is not there, at what it is and why it waits.
pub(super) async fn bootstrap(config: &Result<NodeConfig, String>) -> Vec<Part> {
    if let Some(reason) = membership::removed(Path::new(STATE)) {
        return vec![Part::new("membership", Level::Fault, reason)];
    }
    let mut parts = Vec::new();
    if let Err(error) = Joined::role(Path::new(STATE)) {
        parts.push(Part::new("join record", Level::Fault, error.to_string()));
    }
    if let Err(reason) = config {
        parts.push(Part::new("node.yaml", Level::Fault, reason.clone()));
    }
    let finished = record::load(Path::new(STATE)).finished;
    let keys = ["--property=ActiveState", "--property=StatusText", "--property=Result"];
    let unit = command("/usr/bin/systemctl", &[&["show", "furrow-bootstrap.service"], keys.as_slice()].concat()).await;
    parts.push(bootstrap_part(finished.contains_key("node-ready"), finished.len(), &unit.unwrap_or_default()));
    parts
}

/// `unit`: what `systemctl show` prints of it.
fn bootstrap_part(ready: bool, steps: usize, unit: &str) -> Part {
    let value = |key: &str| unit.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    let (state, said, result) = (value("ActiveState"), value("StatusText"), value("Result"));
    match (state, ready) {
        ("activating", false) if result != "success" && !result.is_empty() => {
            Part::new("bootstrap", Level::Fault, format!("{steps} steps done; it failed and is tried again: {said}"))
        }
        ("activating", false) => Part::new("bootstrap", Level::Fault, format!("{steps} steps done, at work: {said}")),
        ("activating", true) => Part::new("bootstrap", Level::Well, format!("{steps} steps done, at work: {said}")),
        ("failed", _) => Part::new("bootstrap", Level::Fault, format!("{steps} steps done, it failed: {said}")),
        (_, true) => Part::new("bootstrap", Level::Well, format!("{steps} steps done")),
        (_, false) => Part::new("bootstrap", Level::Fault, format!("{steps} steps done, node-ready is not")),
    }
}

/// This node, and on servers etcd.
pub(super) async fn kubernetes(role: Role) -> Vec<Part> {
    let client = match client(role).await {
        Ok(client) => client,
        Err(error) => return vec![Part::new("kubernetes", Level::Fault, error.to_string())],
    };
    let node = Part::of("kubernetes", this_node(&client, role).await);
    if role == Role::Agent {
        // The kubelet's identity sees no more of the cluster than its node.
        return vec![node];
    }
    if node.level == Level::Fault && node.text.contains("does not answer") {
        return vec![node, Part::new("etcd", Level::Fault, "not known: the API server does not answer")];
    }
    vec![node, etcd(&client).await]
}

async fn within<T>(ask: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    let answer = tokio::time::timeout(API_TIMEOUT, ask).await;
    let late = || format!("the API server does not answer within {} s", API_TIMEOUT.as_secs());
    answer.map_err(|_| late())?.map_err(|e| e.to_string())
}

async fn this_node(client: &Client, role: Role) -> Result<String, String> {
    let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let node = within(Api::<KubeNode>::all(client.clone()).get(&name)).await?;
    let version = node.status.as_ref().and_then(|s| s.node_info.as_ref()).map(|i| i.kubelet_version.clone());
    readiness(&node)?;
    Ok(format!("node {name} ({}) is Ready, {}", role.name(), version.unwrap_or_default()))
}

/// Whether etcd has its quorum, and how many of its servers may still fail.
async fn etcd(client: &Client) -> Part {
    let request = match http::Request::get("/readyz/etcd").body(Vec::new()) {
        Ok(request) => request,
        Err(error) => return Part::new("etcd", Level::Fault, error.to_string()),
    };
    if let Err(reason) = within(client.request_text(request)).await {
        return Part::new("etcd", Level::Fault, format!("no quorum: {reason}"));
    }
    let params = ListParams::default().labels(ETCD_LABEL);
    match within(Api::<KubeNode>::all(client.clone()).list(&params)).await {
        Err(reason) => {
            Part::new("etcd", Level::Warning, format!("has its quorum; its servers are not known: {reason}"))
        }
        Ok(nodes) => {
            let servers = nodes.items.iter();
            let servers: BTreeMap<String, bool> =
                servers.map(|n| (n.metadata.name.clone().unwrap_or_default(), readiness(n).is_ok())).collect();
            quorum(&servers)
        }
    }
}

/// Etcd with these servers, each Ready or not, of which enough answered.
fn quorum(servers: &BTreeMap<String, bool>) -> Part {
    let well = servers.values().filter(|ready| **ready).count();
    let spare = well.saturating_sub(servers.len() / 2 + 1);
    let mut text = format!("has its quorum: {well} of {} servers are Ready, ", servers.len());
    text += &match spare {
        0 => "none may fail".to_owned(),
        spare => format!("{spare} may fail"),
    };
    let down: Vec<&str> = servers.iter().filter(|(_, ready)| !**ready).map(|(name, _)| name.as_str()).collect();
    if down.is_empty() {
        return Part::new("etcd", Level::Well, text);
    }
    Part::new("etcd", Level::Warning, format!("{text}; not Ready: {}", down.join(", ")))
}

pub(super) async fn ceph(role: Role) -> Result<String, String> {
    let monitors = ceph_reader(role).limits(CEPH_TIMEOUT, CEPH_TIMEOUT);
    let health: serde_json::Value = monitors.query(commands::health_detail()).await.map_err(|e| e.to_string())?;
    let status = health["status"].as_str().unwrap_or("no status");
    let checks = health["checks"].as_object().cloned().unwrap_or_default();
    let say = |name: &str| format!("{name}: {}", checks[name]["summary"]["message"].as_str().unwrap_or(""));
    let faults: Vec<String> = checks.keys().filter(|c| !EXPECTED.contains(&c.as_str())).map(|c| say(c)).collect();
    let known: Vec<String> = checks.keys().filter(|c| EXPECTED.contains(&c.as_str())).map(|c| say(c)).collect();
    let all = [faults.as_slice(), known.as_slice()].concat().join("; ");
    let text = if all.is_empty() { status.to_owned() } else { format!("{status} ({all})") };
    if status == "HEALTH_ERR" { Err(text) } else { Ok(text) }
}

/// The units that a node needs, its OSDs, and whatever else has failed.
pub(super) async fn services(role: Role) -> Vec<Part> {
    let control: &[&'static str] = if role == Role::Server { &["furrow-control"] } else { &[] };
    let units: Vec<&'static str> = [k3s_unit(role).trim_end_matches(".service"), "libvirtd", "furrow-agent"]
        .into_iter()
        .chain(control.iter().copied())
        .collect();
    let asked = Cmd::new("/usr/bin/systemctl").arg("is-active").args(&units).run_unchecked().await;
    let answer = asked.map(|out| out.text()).unwrap_or_default();
    let mut parts = active(&units, &answer);
    let list = ["list-units", "--all", "--plain", "--no-legend", "--no-pager"];
    let osds = command("/usr/bin/systemctl", &[&list, ["ceph-osd@*"].as_slice()].concat()).await.unwrap_or_default();
    parts.extend(osd_part(&osds));
    let failed = command("/usr/bin/systemctl", &[&list, ["--state=failed"].as_slice()].concat()).await;
    let failed = failed.unwrap_or_default();
    let names: Vec<&str> = failed.lines().filter_map(|l| l.split_whitespace().next()).collect();
    if !names.is_empty() {
        parts.push(Part::new("failed units", Level::Warning, names.join(", ")));
    }
    parts
}

/// What `systemctl is-active` answers, a line a unit.
fn active(units: &[&'static str], answer: &str) -> Vec<Part> {
    let mut lines = answer.lines();
    let part = |unit: &&'static str| match lines.next() {
        Some("active") => Part::new(unit, Level::Well, "active"),
        Some(state) => Part::new(unit, Level::Fault, format!("{state}: see its journal")),
        None => Part::new(unit, Level::Fault, "systemd does not answer"),
    };
    units.iter().map(part).collect()
}

/// The OSDs of this node, from `systemctl list-units`.
fn osd_part(list: &str) -> Option<Part> {
    let mut down = Vec::new();
    let mut up = Vec::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let Some(id) = words.next().and_then(|u| u.strip_prefix("ceph-osd@")?.strip_suffix(".service")) else {
            continue;
        };
        match words.nth(1) {
            Some("active") => up.push(format!("osd.{id}")),
            state => down.push(format!("osd.{id} is {}", state.unwrap_or("not known"))),
        }
    }
    match (up.is_empty(), down.is_empty()) {
        (true, true) => None,
        (_, true) => Some(Part::new("osds", Level::Well, format!("{} run", up.join(", ")))),
        _ => Some(Part::new("osds", Level::Warning, [down, up].concat().join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_tells_at_what_it_is() {
        for (ready, unit, level, text) in [
            (true, "ActiveState=active\nStatusText=\nResult=success", Level::Well, "9 steps done"),
            (
                false,
                "ActiveState=activating\nStatusText=waiting for x\nResult=success",
                Level::Fault,
                "at work: waiting for x",
            ),
            (true, "ActiveState=activating\nStatusText=y\nResult=success", Level::Well, "at work: y"),
            (
                false,
                "ActiveState=activating\nStatusText=z\nResult=exit-code",
                Level::Fault,
                "it failed and is tried again: z",
            ),
            (false, "", Level::Fault, "node-ready is not"),
        ] {
            let part = bootstrap_part(ready, 9, unit);
            assert!(part.level == level && part.text.ends_with(text), "{unit}: {part:?}");
        }
    }

    #[test]
    fn etcds_spare_servers_are_counted() {
        let servers = |all: &[(&str, bool)]| all.iter().map(|(n, ready)| ((*n).to_owned(), *ready)).collect();
        for (all, level, text) in [
            (&[("a", true)][..], Level::Well, "1 of 1 servers are Ready, none may fail"),
            (&[("a", true), ("b", true)], Level::Well, "2 of 2 servers are Ready, none may fail"),
            (&[("a", true), ("b", true), ("c", true)], Level::Well, "3 of 3 servers are Ready, 1 may fail"),
            (
                &[("a", true), ("b", false), ("c", true)],
                Level::Warning,
                "2 of 3 servers are Ready, none may fail; not Ready: b",
            ),
        ] {
            assert_eq!(quorum(&servers(all)), Part::new("etcd", level, format!("has its quorum: {text}")));
        }
    }

    #[test]
    fn units_are_told_one_by_one() {
        let parts = active(&["k3s", "libvirtd", "furrow-agent"], "active\nfailed\n");
        let told: Vec<_> = parts.iter().map(|p| (p.name, p.level, p.text.as_str())).collect();
        assert_eq!(
            told,
            [
                ("k3s", Level::Well, "active"),
                ("libvirtd", Level::Fault, "failed: see its journal"),
                ("furrow-agent", Level::Fault, "systemd does not answer")
            ]
        );
    }

    #[test]
    fn an_osd_that_is_down_comes_first() {
        let line = |n: u8, state: &str| format!("ceph-osd@{n}.service loaded {state} running Ceph\n");
        assert_eq!(osd_part(""), None);
        assert_eq!(osd_part(&line(0, "active")), Some(Part::new("osds", Level::Well, "osd.0 run")));
        let both = line(0, "active") + &line(1, "failed");
        assert_eq!(osd_part(&both), Some(Part::new("osds", Level::Warning, "osd.1 is failed, osd.0")));
    }
}
