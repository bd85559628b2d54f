//! Ceph on one node: monitor, manager, OSDs, the pool for volumes and the users with the least they need. Daemons are
//! Debian's units; OSDs by `ceph-volume raw`, so that whole disks, partitions and loop devices are the same.
//!
//! Never erases a disk that the plan does not mark for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::cmd::Cmd;
use serde::Deserialize;

use super::{Node, StepError, file_error, is_active, systemctl};
use crate::disks::Chosen;
use crate::record::replace;

const CONF: &str = "/etc/ceph/ceph.conf";
const ADMIN_KEYRING: &str = "/etc/ceph/ceph.client.admin.keyring";
const OSD_KEYRING: &str = "/var/lib/ceph/bootstrap-osd/ceph.keyring";
/// The pool of volumes; its name is part of every volume handle.
const POOL: &str = "volumes";
/// A monitor alone forms a quorum at once; an OSD needs a few seconds. Loaded test machines need much more.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(120);

/// Modules that a hypervisor's node does not need; several cannot load on Debian 13 (PyO3 in sub-interpreters). The mgr is
/// the largest daemon of the node: this takes 130 MB off it.
const DISABLED_MODULES: &str =
    "restful zabbix influx telegraf alerts insights test_orchestrator selftest localpool mirroring snap_schedule stats osd_perf_query osd_support";

async fn ceph(args: &[&str]) -> Result<String, StepError> {
    let out = Cmd::new("/usr/bin/ceph").args(["--connect-timeout", "20"]).args(args).timeout(Duration::from_secs(60));
    Ok(out.run().await?.text())
}

/// Configuration, keyrings, map and data of the monitor, then its daemon.
pub(crate) async fn monitor(node: &Node) -> Result<(), StepError> {
    let name = &node.config.hostname;
    let data = PathBuf::from(format!("/var/lib/ceph/mon/ceph-{name}"));
    // Made last: a data directory without it is half a monitor that has never served, and is made anew.
    let complete = data.join("furrow-complete");
    let fsid = fsid().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    write(Path::new(CONF), &conf(node, &fsid), 0o644)?;
    if !complete.exists() {
        make_monitor(node, &fsid, &data).await?;
        write(&complete, "", 0o644)?;
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
    let _ = std::fs::remove_dir_all(&work);
    let _ = std::fs::remove_dir_all(data);
    for dir in [&work, &data.to_path_buf()] {
        std::fs::create_dir_all(dir).map_err(file_error("make", dir))?;
    }
    let (keyring, map) = (text(&work.join("keyring")), text(&work.join("monmap")));
    let tool = || Cmd::new("/usr/bin/ceph-authtool");
    tool().args(["--create-keyring", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]).run().await?;
    let all = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mds", "allow *", "--cap", "mgr", "allow *"];
    tool().args(["--create-keyring", ADMIN_KEYRING, "--gen-key", "-n", "client.admin"]).args(all).run().await?;
    tool().args([keyring.as_str(), "--import-keyring", ADMIN_KEYRING]).run().await?;
    let address = node.config.management.address;
    let addresses = format!("[v2:{address}:3300,v1:{address}:6789]");
    Cmd::new("/usr/bin/monmaptool").args(["--create", "--addv", name, &addresses, "--fsid", fsid, &map]).run().await?;
    Cmd::new("/usr/bin/ceph-mon").args(["--mkfs", "-i", name, "--monmap", &map, "--keyring", &keyring]).run().await?;
    own(&text(data)).await?;
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

fn write(path: &Path, content: &str, mode: u32) -> Result<(), StepError> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    replace(path, content.as_bytes(), mode).map_err(file_error("write", path))
}

/// The manager's key and daemon.
pub(crate) async fn manager(node: &Node) -> Result<(), StepError> {
    let name = &node.config.hostname;
    let keyring = PathBuf::from(format!("/var/lib/ceph/mgr/ceph-{name}/keyring"));
    if !keyring.exists() {
        let caps = ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"];
        let key = ceph(&[&["auth", "get-or-create", &format!("mgr.{name}")], caps.as_slice()].concat()).await?;
        write(&keyring, &key, 0o600)?;
        own(&format!("/var/lib/ceph/mgr/ceph-{name}")).await?;
    }
    systemctl(&["enable", &format!("ceph-mgr@{name}.service")]).await?;
    systemctl(&["start", &format!("ceph-mgr@{name}.service")]).await.map(|_| ())
}

/// What `ceph-volume raw list` says of a device.
#[derive(Debug, Deserialize)]
struct RawOsd {
    ceph_fsid: String,
    osd_id: u32,
}

/// An OSD on each disk: prepared once, activated at every boot.
pub(crate) async fn osds(node: &Node, disks: &[Chosen]) -> Result<(), StepError> {
    if !Path::new(OSD_KEYRING).exists() {
        let key = ceph(&["auth", "get", "client.bootstrap-osd"]).await?;
        write(Path::new(OSD_KEYRING), &key, 0o600)?;
        own(OSD_KEYRING).await?;
    }
    let mut ids = Vec::new();
    for disk in disks {
        let id = osd(node, disk).await?;
        ids.push(id.to_string());
    }
    node.wait("the OSDs to be up", DAEMON_TIMEOUT, async || {
        let answer = ceph(&["osd", "dump", "-f", "json"]).await.map_err(|e| e.to_string())?;
        let dump: serde_json::Value = serde_json::from_str(&answer).map_err(|e| e.to_string())?;
        let osds = dump["osds"].as_array().cloned().unwrap_or_default();
        let up = |id: &String| osds.iter().any(|o| o["osd"].to_string() == *id && o["up"] == 1);
        let down: Vec<&String> = ids.iter().filter(|id| !up(id)).collect();
        if down.is_empty() { Ok(()) } else { Err(format!("down: {down:?}")) }
    })
    .await
}

async fn osd(node: &Node, disk: &Chosen) -> Result<u32, StepError> {
    // The intent is on disk before the first write: a disk that was being made when power went is ours to make anew.
    let intent = node.state.join(format!("bootstrap/osd{}", disk.path.replace('/', "-")));
    let fsid = fsid().unwrap_or_default();
    let found = raw_osd(&disk.path).await?;
    let id = match found {
        Some(osd) if osd.ceph_fsid == fsid && !intent.exists() => osd.osd_id,
        Some(osd) if osd.ceph_fsid != fsid && !disk.wipe => {
            return Err(StepError::ForeignOsd { path: disk.path.clone(), fsid: osd.ceph_fsid });
        }
        _ => prepare(node, disk, &intent).await?,
    };
    let unit = format!("ceph-osd@{id}.service");
    if !is_active(&unit).await? {
        let volume = Cmd::new("/usr/sbin/ceph-volume").timeout(Duration::from_secs(120));
        volume_env(volume).args(["raw", "activate", "--device", &disk.path, "--no-systemd"]).run().await?;
        let _ = systemctl(&["reset-failed", &unit]).await;
        systemctl(&["start", &unit]).await?;
    }
    Ok(id)
}

/// ceph-volume refuses loop devices unless this is set; only the environment of the bootstrap itself can say so.
fn volume_env(command: Cmd) -> Cmd {
    const NAME: &str = "CEPH_VOLUME_ALLOW_LOOP_DEVICES";
    match std::env::var_os(NAME) {
        Some(value) => command.env(NAME, value),
        None => command,
    }
}

async fn raw_osd(path: &str) -> Result<Option<RawOsd>, StepError> {
    let volume = volume_env(Cmd::new("/usr/sbin/ceph-volume").timeout(Duration::from_secs(60)));
    let answer = volume.args(["raw", "list", path]).run_unchecked().await?.text();
    let Some(start) = answer.find('{') else { return Ok(None) };
    let list: BTreeMap<String, RawOsd> =
        serde_json::from_str(&answer[start..]).map_err(|e| StepError::Answer("ceph-volume raw list", e.to_string()))?;
    Ok(list.into_values().next())
}

async fn prepare(node: &Node, disk: &Chosen, intent: &Path) -> Result<u32, StepError> {
    if intent.exists() {
        purge_unborn().await?;
    }
    if intent.exists() || disk.wipe {
        node.say(&format!("erasing {}", disk.path));
        Cmd::new("/usr/sbin/wipefs").args(["--all", &disk.path]).run().await?;
        // BlueStore's label is beyond what wipefs knows of older versions.
        let zero = ["if=/dev/zero", &format!("of={}", disk.path), "bs=1M", "count=100", "oflag=direct", "conv=fsync"];
        Cmd::new("/usr/bin/dd").args(zero).timeout(Duration::from_secs(120)).run().await?;
    }
    write(intent, "", 0o600)?;
    node.say(&format!("making an OSD on {} ({} GB)", disk.path, disk.size / 1_000_000_000));
    let volume = volume_env(Cmd::new("/usr/sbin/ceph-volume").timeout(Duration::from_secs(300)));
    volume.args(["raw", "prepare", "--bluestore", "--data", &disk.path]).run().await?;
    let osd = raw_osd(&disk.path).await?;
    let osd = osd.ok_or_else(|| StepError::Answer("ceph-volume raw list", format!("no OSD on {}", disk.path)))?;
    std::fs::remove_file(intent).map_err(file_error("remove", intent))?;
    Ok(osd.osd_id)
}

/// Removes OSDs that have an id but never booted: they hold nothing.
async fn purge_unborn() -> Result<(), StepError> {
    let answer = ceph(&["osd", "dump", "-f", "json"]).await?;
    let dump: serde_json::Value = serde_json::from_str(&answer).map_err(|e| StepError::Answer("ceph osd dump", e.to_string()))?;
    for osd in dump["osds"].as_array().into_iter().flatten() {
        if osd["up_from"] == 0 && osd["up"] == 0 {
            ceph(&["osd", "purge", &osd["osd"].to_string(), "--yes-i-really-mean-it"]).await?;
        }
    }
    Ok(())
}

/// The pool for volumes.
pub(crate) async fn pool(node: &Node) -> Result<(), StepError> {
    let pools = ceph(&["osd", "pool", "ls", "detail", "-f", "json"]).await?;
    let pools: serde_json::Value = serde_json::from_str(&pools).map_err(|e| StepError::Answer("ceph osd pool ls", e.to_string()))?;
    let existing = pools.as_array().into_iter().flatten().find(|p| p["pool_name"] == POOL);
    if existing.is_none() {
        ceph(&["osd", "pool", "create", POOL, "32", "32", "replicated", "--autoscale-mode=off"]).await?;
    }
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
            write(&path, &key, 0o600)?;
        }
    }
    Ok(())
}
