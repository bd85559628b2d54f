//! Ceph on one node: monitor, manager, OSDs, the pool for volumes and the users with the least they need. Daemons are
//! Debian's units. OSDs are [`super::osd`]'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::ceph::query;
use furrow_host::cmd::Cmd;

use super::{Node, StepError, file_error, systemctl, update};
use crate::disks::Chosen;

const CONF: &str = "/etc/ceph/ceph.conf";
const ADMIN_KEYRING: &str = "/etc/ceph/ceph.client.admin.keyring";
/// The pool of volumes; its name is part of every volume handle.
const POOL: &str = "volumes";
/// A monitor alone forms a quorum at once; an OSD needs a few seconds. Loaded test machines need much more.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(120);

/// Modules that a hypervisor's node does not need; several cannot load on Debian 13 (PyO3 in sub-interpreters). The mgr is
/// the largest daemon of the node: this takes 130 MB off it.
const DISABLED_MODULES: &str = "restful zabbix influx telegraf alerts insights test_orchestrator selftest localpool mirroring snap_schedule stats osd_perf_query osd_support";

async fn ceph(args: &[&str]) -> Result<String, StepError> {
    let out = Cmd::new("/usr/bin/ceph").args(["--connect-timeout", "20"]).args(args).timeout(Duration::from_secs(60));
    Ok(out.run().await?.text())
}

/// Configuration, keyrings, map and data of the monitor, then its daemon.
pub(crate) async fn monitor(node: &Node) -> Result<(), StepError> {
    let name = &node.config.hostname;
    let data = PathBuf::from(format!("/var/lib/ceph/mon/ceph-{name}"));
    let lost = |lost| StepError::Lost { data: text(&data), lost };
    let fsid = match fsid() {
        Some(fsid) => fsid,
        None if data.exists() => return Err(lost(CONF)),
        None => uuid::Uuid::new_v4().to_string(),
    };
    update(Path::new(CONF), &conf(node, &fsid), 0o644)?;
    match (data.exists(), Path::new(ADMIN_KEYRING).exists()) {
        (true, false) => return Err(lost(ADMIN_KEYRING)),
        (true, true) => {}
        (false, _) => make_monitor(node, &fsid, &data).await?,
    }
    systemctl(&["enable", &format!("ceph-mon@{name}.service")]).await?;
    let _ = systemctl(&["reset-failed", &format!("ceph-mon@{name}.service")]).await;
    systemctl(&["start", &format!("ceph-mon@{name}.service")]).await?;
    node.wait("the monitor's quorum", DAEMON_TIMEOUT, async || {
        let out = Cmd::new("/usr/bin/ceph").args(["--connect-timeout", "5", "quorum_status"]).run_unchecked().await;
        let out = out.map_err(|e| e.to_string())?;
        if out.code == Some(0) { Ok(()) } else { Err(out.stderr_tail.trim().to_owned()) }
    })
    .await
}

fn fsid() -> Option<String> {
    let text = std::fs::read_to_string(CONF).ok()?;
    let line = text.lines().find(|l| l.trim_start().starts_with("fsid"))?;
    line.split_once('=').map(|(_, value)| value.trim().to_owned())
}

fn conf(node: &Node, fsid: &str) -> String {
    let address = node.config.management.address;
    let name = &node.config.hostname;
    let labels = &node.config.kubernetes.node_labels;
    let place = |key: &str, bucket: &str| labels.get(key).map(|v| format!(" {bucket}={v}")).unwrap_or_default();
    let zone = place("topology.kubernetes.io/zone", "datacenter");
    let rack = place("topology.kubernetes.io/rack", "rack");
    let memory = u64::from(node.config.ceph.osd_memory_mib) << 20;
    format!(
        "# Written by furrow-install from /etc/furrow/node.yaml.\n\
         [global]\nfsid = {fsid}\nmon_initial_members = {name}\n\
         mon_host = [v2:{address}:3300,v1:{address}:6789]\n\
         # One host: a copy on another host is impossible, and OSDs are told apart instead. `ceph health` says so.\n\
         osd_pool_default_size = 1\nosd_pool_default_min_size = 1\nmon_allow_pool_size_one = true\nosd_crush_chooseleaf_type = 0\n\
         auth_allow_insecure_global_id_reclaim = false\n\
         [mon]\nmgr_initial_modules = iostat\n\
         [mgr]\nmgr_disabled_modules = {DISABLED_MODULES}\n\
         [osd]\nosd_memory_target = {memory}\ncrush_location = root=default{zone}{rack} host={name}\n\
         [client]\nrbd_default_clone_format = 2\n"
    )
}

async fn make_monitor(node: &Node, fsid: &str, data: &Path) -> Result<(), StepError> {
    let name = node.config.hostname.as_str();
    let work = node.state.join("bootstrap/mon");
    // Made beside its place and moved there whole: what stands in its place is a monitor that may have served, and is
    // never removed.
    let staged = data.with_file_name("furrow-new");
    for dir in [&work, &staged] {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).map_err(file_error("make", dir))?;
    }
    let (keyring, map) = (text(&work.join("keyring")), text(&work.join("monmap")));
    let tool = || Cmd::new("/usr/bin/ceph-authtool");
    tool().args(["--create-keyring", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]).run().await?;
    let all =
        ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mds", "allow *", "--cap", "mgr", "allow *"];
    tool().args(["--create-keyring", ADMIN_KEYRING, "--gen-key", "-n", "client.admin"]).args(all).run().await?;
    tool().args([keyring.as_str(), "--import-keyring", ADMIN_KEYRING]).run().await?;
    let address = node.config.management.address;
    let addresses = format!("[v2:{address}:3300,v1:{address}:6789]");
    Cmd::new("/usr/bin/monmaptool").args(["--create", "--addv", name, &addresses, "--fsid", fsid, &map]).run().await?;
    let make = Cmd::new("/usr/bin/ceph-mon").timeout(DAEMON_TIMEOUT);
    make.args(["--mkfs", "-i", name, "--monmap", &map, "--keyring", &keyring, "--mon-data", &text(&staged)])
        .run()
        .await?;
    own(&text(&staged)).await?;
    nix::unistd::sync();
    std::fs::rename(&staged, data).map_err(file_error("make", data))?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(())
}

/// Gives a tree to the user that Ceph's daemons run as.
async fn own(path: &str) -> Result<(), StepError> {
    Cmd::new("/usr/bin/chown").args(["-R", "ceph:ceph", path]).run().await?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The manager's key and daemon.
pub(crate) async fn manager(node: &Node) -> Result<(), StepError> {
    let name = &node.config.hostname;
    let keyring = PathBuf::from(format!("/var/lib/ceph/mgr/ceph-{name}/keyring"));
    if !keyring.exists() {
        let caps = ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"];
        let key = ceph(&[&["auth", "get-or-create", &format!("mgr.{name}")], caps.as_slice()].concat()).await?;
        update(&keyring, &key, 0o600)?;
        own(&format!("/var/lib/ceph/mgr/ceph-{name}")).await?;
    }
    systemctl(&["enable", &format!("ceph-mgr@{name}.service")]).await?;
    systemctl(&["start", &format!("ceph-mgr@{name}.service")]).await.map(|_| ())
}

/// An OSD on each disk.
pub(crate) async fn osds(node: &Node, disks: &[Chosen]) -> Result<(), StepError> {
    let fsid = fsid().ok_or_else(|| StepError::Answer("/etc/ceph/ceph.conf", "no fsid".into()))?;
    super::osd::ensure(node, &fsid, disks).await
}

/// The pool for volumes.
pub(crate) async fn pool(node: &Node) -> Result<(), StepError> {
    let pools = ceph(&["osd", "pool", "ls", "detail", "-f", "json"]).await?;
    let pools: serde_json::Value =
        serde_json::from_str(&pools).map_err(|e| StepError::Answer("ceph osd pool ls", e.to_string()))?;
    let existing = pools.as_array().into_iter().flatten().find(|p| p["pool_name"] == POOL);
    if existing.is_none() {
        ceph(&["osd", "pool", "create", POOL, "32", "32", "replicated", "--autoscale-mode=off"]).await?;
    }
    replicate().await?;
    // The application tag is set last, by `rbd pool init`: with it the pool is whole.
    if existing.is_none_or(|p| p["application_metadata"].get("rbd").is_none()) {
        ceph(&["osd", "set-require-min-compat-client", "mimic", "--yes-i-really-mean-it"]).await?;
        let init = Cmd::new("/usr/bin/rbd").args(["pool", "init", POOL]).timeout(DAEMON_TIMEOUT);
        init.run().await?;
    }
    node.wait("the placement groups", DAEMON_TIMEOUT, async || {
        let answer = ceph(&["pg", "stat", "-f", "json"]).await.map_err(|e| e.to_string())?;
        let stat: serde_json::Value = serde_json::from_str(&answer).map_err(|e| e.to_string())?;
        let states = stat["pg_summary"]["num_pg_by_state"].as_array().cloned().unwrap_or_default();
        let active = |s: &serde_json::Value| s["name"].as_str().is_some_and(|n| n.starts_with("active"));
        if !states.is_empty() && states.iter().all(active) { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await
}

/// As many copies as there are OSDs, at most three; never fewer than a pool already keeps.
async fn replicate() -> Result<(), StepError> {
    let osds: Vec<u32> = query(&["osd", "ls"]).await?;
    let copies = osds.len().clamp(1, 3) as u64;
    let pools: serde_json::Value = query(&["osd", "pool", "ls", "detail"]).await?;
    for pool in pools.as_array().into_iter().flatten() {
        let Some(name) = pool["pool_name"].as_str() else { continue };
        if pool["size"].as_u64().is_some_and(|size| size < copies) {
            ceph(&["osd", "pool", "set", name, "size", &copies.to_string()]).await?;
            ceph(&["osd", "pool", "set", name, "min_size", &copies.div_ceil(2).to_string()]).await?;
        }
    }
    Ok(())
}

/// Users with the least that each needs.
pub(crate) async fn users() -> Result<(), StepError> {
    let volumes = format!("profile rbd pool={POOL}");
    let users: [(&str, Vec<&str>); 2] = [
        ("furrow-qemu", vec!["mon", "profile rbd", "osd", &volumes]),
        ("furrow-agent", vec!["mon", "profile rbd", "mgr", &volumes, "osd", &volumes]),
    ];
    for (user, caps) in users {
        let path = PathBuf::from(format!("/etc/ceph/ceph.client.{user}.keyring"));
        if !path.exists() {
            let key = ceph(&[&["auth", "get-or-create", &format!("client.{user}")], caps.as_slice()].concat()).await?;
            update(&path, &key, 0o600)?;
        }
    }
    Ok(())
}
