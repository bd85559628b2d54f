//! Ceph on one node: configuration, monitor, manager, OSDs and the users with the least they need. Daemons are Debian's
//! units. The file's text is [`super::ceph_conf`]'s, OSDs are [`super::osd`]'s, pools [`super::pools`]'s.
//!
//! A monitor that joins is made from the others' map and starts with its own address: it copies their data first, and
//! only then enters the map, so that the quorum never waits for one that has nothing yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::ceph::{Monitor, commands};
use furrow_host::cmd::Cmd;
use serde_json::Value;

use super::ceph_conf::{self, Facts, Part};
use super::pools::POOL;
use super::{Node, StepError, file_error, systemctl, update};
use crate::config::{NodeConfig, Role};
use crate::disks::Chosen;
use crate::join::Joined;

const CONF: &str = "/etc/ceph/ceph.conf";
const ADMIN_KEYRING: &str = "/etc/ceph/ceph.client.admin.keyring";
/// By it a node without the administrator's key makes its OSDs; Debian's tools look for it there.
const BOOTSTRAP_KEYRING: &str = "/var/lib/ceph/bootstrap-osd/ceph.keyring";
/// A monitor alone forms a quorum at once; an OSD needs a few seconds. Loaded test machines need much more.
pub(super) const DAEMON_TIMEOUT: Duration = Duration::from_secs(120);
/// A monitor that joins, or that starts with others after a power cut, waits for them and copies what it lacks.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a monitor listens.
const MONITOR_PORT: u16 = 3300;
/// This machine takes a connection to itself at once.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// As whom a node without the administrator's key asks the monitors.
pub(super) fn osd_maker() -> Monitor {
    Monitor::new("bootstrap-osd", BOOTSTRAP_KEYRING)
}

/// As whom a node of this role reads what the monitors know.
pub(crate) fn reader(role: Role) -> Monitor {
    match role {
        Role::Server => Monitor::administrator(),
        // It may read the map; its key stays for as long as the node does.
        Role::Agent => Monitor::of("furrow-agent"),
    }
}

/// Configuration, keyrings, map and data of the monitor, then its daemon.
pub(crate) async fn monitor(node: &Node) -> Result<(), StepError> {
    let name = node.config.hostname.as_str();
    let data = PathBuf::from(format!("/var/lib/ceph/mon/ceph-{name}"));
    let lost = |lost| StepError::Lost { data: text(&data), lost };
    let joined = node.joined()?;
    let same = |facts: &Facts| joined.as_ref().is_none_or(|joined| joined.material.ceph.fsid == facts.fsid);
    let facts = match (known().filter(same), &joined) {
        (Some(facts), _) => facts,
        (None, Some(joined)) => told(joined),
        (None, None) if data.exists() => return Err(lost(CONF)),
        (None, None) => Facts {
            fsid: uuid::Uuid::new_v4().to_string(),
            mon_host: ceph_conf::monitor_address(node.config.management.address),
            hosts: 1,
        },
    };
    let part = Part::of(Role::Server, joined.is_some());
    update(Path::new(CONF), &ceph_conf::render(&node.config, &facts, part), 0o644)?;
    if let Some(joined) = &joined {
        give(Path::new(ADMIN_KEYRING), joined, "client.admin")?;
    }
    match (data.exists(), Path::new(ADMIN_KEYRING).exists()) {
        (true, false) => return Err(lost(ADMIN_KEYRING)),
        (true, true) => {}
        (false, _) => make_monitor(node, &facts.fsid, joined.as_ref(), &data).await?,
    }
    systemctl(&["enable", &format!("ceph-mon@{name}.service")]).await?;
    let _ = systemctl(&["reset-failed", &format!("ceph-mon@{name}.service")]).await;
    systemctl(&["start", &format!("ceph-mon@{name}.service")]).await?;
    let ceph = node.ceph()?;
    node.wait("the monitor's quorum", QUORUM_TIMEOUT, async || in_quorum(ceph, &node.config).await).await?;
    let facts = Facts { mon_host: describe(ceph).await?.1, ..facts };
    update(Path::new(CONF), &ceph_conf::render(&node.config, &facts, part), 0o644)
}

/// Whether the monitors have a quorum with this one in it.
async fn in_quorum(ceph: &Monitor, config: &NodeConfig) -> Result<(), String> {
    let name = config.hostname.as_str();
    // Ceph's own look for a monitor that has only just been started pauses for seconds.
    let listens = tokio::net::TcpStream::connect((config.management.address, MONITOR_PORT));
    match tokio::time::timeout(LISTEN_TIMEOUT, listens).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("it does not listen yet: {error}")),
        Err(_) => return Err("it does not listen yet".to_owned()),
    }
    let status: Value = ceph.query(commands::quorum_status()).await.map_err(|e| e.to_string())?;
    let names: Vec<&str> = status["quorum_names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.contains(&name) { Ok(()) } else { Err(format!("it consists of {} without {name}", names.join(", "))) }
}

/// What the file says that is there.
fn known() -> Option<Facts> {
    Facts::read(&std::fs::read_to_string(CONF).ok()?)
}

/// What the cluster said when this node joined.
fn told(joined: &Joined) -> Facts {
    let ceph = &joined.material.ceph;
    Facts { fsid: ceph.fsid.clone(), mon_host: ceph.mon_host.clone(), hosts: 1 }
}

fn keyring<'a>(joined: &'a Joined, entity: &'static str) -> Result<&'a str, StepError> {
    let keyring = joined.material.ceph.keyrings.get(entity);
    keyring.map(String::as_str).ok_or_else(|| StepError::Answer("the join record", format!("no keyring of {entity}")))
}

/// Writes a keyring that came by joining, unless one is there: the key may have been changed since.
fn give(path: &Path, joined: &Joined, entity: &'static str) -> Result<(), StepError> {
    if path.exists() { Ok(()) } else { update(path, keyring(joined, entity)?, 0o600) }
}

/// Configuration and keyrings of a node without a monitor.
pub(crate) async fn client(node: &Node) -> Result<(), StepError> {
    let joined = node.joined()?;
    let joined = joined.as_ref().ok_or_else(|| StepError::Answer("the join record", "it is gone".into()))?;
    let facts = known().filter(|facts| facts.fsid == joined.material.ceph.fsid).unwrap_or_else(|| told(joined));
    update(Path::new(CONF), &ceph_conf::render(&node.config, &facts, Part::Client), 0o644)?;
    for user in USERS {
        give(&user_keyring(user), joined, user)?;
    }
    give(Path::new(BOOTSTRAP_KEYRING), joined, "client.bootstrap-osd")?;
    node.wait("the monitors to answer", QUORUM_TIMEOUT, async || {
        let ceph = node.ceph().map_err(|e| e.to_string())?;
        let dump: Value = ceph.query(commands::mon_dump()).await.map_err(|e| e.to_string())?;
        ceph_conf::monitor_addresses(&dump).map(|_| ()).ok_or_else(|| "the map names no monitor".to_owned())
    })
    .await
}

/// Brings the file in line with the monitors and hosts that there are; `hosts` is None where this node does not know.
pub(super) async fn follow(node: &Node, ceph: &Monitor, hosts: Option<u64>) -> Result<bool, StepError> {
    let joined = node.joined()?;
    let role = joined.as_ref().map_or(Role::Server, |joined| joined.role);
    let dump: Value = ceph.query(commands::mon_dump()).await?;
    let senseless = || StepError::Answer("ceph mon dump", "no monitor in it".into());
    let mon_host = ceph_conf::monitor_addresses(&dump).ok_or_else(senseless)?;
    // A bootstrap that is under way writes the file itself, and the next look comes soon.
    let lock = crate::files::lock(&node.state).map_err(file_error("lock the steps below", &node.state))?;
    let (Some(_lock), Some(before)) = (lock, known()) else { return Ok(false) };
    let hosts = hosts.map_or(before.hosts, |hosts| ceph_conf::copies(hosts).0.max(before.hosts));
    let after = Facts { fsid: before.fsid.clone(), mon_host, hosts };
    if before == after {
        return Ok(false);
    }
    let part = Part::of(role, joined.is_some());
    update(Path::new(CONF), &ceph_conf::render(&node.config, &after, part), 0o644)?;
    Ok(true)
}

async fn make_monitor(node: &Node, fsid: &str, joined: Option<&Joined>, data: &Path) -> Result<(), StepError> {
    let name = node.config.hostname.as_str();
    let work = node.state.join("bootstrap/mon");
    // Made beside its place and moved there whole: what stands in its place is a monitor that may have served, and is
    // never removed.
    let staged = data.with_file_name("furrow-new");
    for dir in [&work, &staged] {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).map_err(file_error("make", dir))?;
    }
    let (keys, map) = (work.join("keyring"), text(&work.join("monmap")));
    match joined {
        None => first_map(node, fsid, &text(&keys), &map).await?,
        Some(joined) => {
            update(&keys, keyring(joined, "mon.")?, 0o600)?;
            let ceph = node.ceph()?;
            let ask = async || ceph.send(commands::mon_getmap()).await.map_err(|e| e.to_string());
            let bytes = node.wait("the cluster's monitors", QUORUM_TIMEOUT, ask).await?;
            std::fs::write(&map, bytes).map_err(file_error("write", Path::new(&map)))?;
        }
    }
    let make = Cmd::new("/usr/bin/ceph-mon").timeout(DAEMON_TIMEOUT);
    make.args(["--mkfs", "-i", name, "--monmap", &map, "--keyring", &text(&keys), "--mon-data", &text(&staged)])
        .run()
        .await?;
    own(&text(&staged)).await?;
    nix::unistd::sync();
    std::fs::rename(&staged, data).map_err(file_error("make", data))?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(())
}

/// Keys and map of a new cluster's only monitor.
async fn first_map(node: &Node, fsid: &str, keyring: &str, map: &str) -> Result<(), StepError> {
    let name = node.config.hostname.as_str();
    let tool = || Cmd::new("/usr/bin/ceph-authtool");
    tool().args(["--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]).run().await?;
    let all =
        ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mds", "allow *", "--cap", "mgr", "allow *"];
    tool().args(["--create-keyring", ADMIN_KEYRING, "--gen-key", "-n", "client.admin"]).args(all).run().await?;
    tool().args([keyring, "--import-keyring", ADMIN_KEYRING]).run().await?;
    let addresses = ceph_conf::monitor_address(node.config.management.address);
    Cmd::new("/usr/bin/monmaptool").args(["--create", "--addv", name, &addresses, "--fsid", fsid, map]).run().await?;
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
        let capabilities = [("mon", "allow profile mgr"), ("osd", "allow *"), ("mds", "allow *")];
        let make = commands::auth_get_or_create(&format!("mgr.{name}"), &capabilities);
        let key = node.ceph()?.text(make).await?;
        update(&keyring, &key, 0o600)?;
        own(&format!("/var/lib/ceph/mgr/ceph-{name}")).await?;
    }
    systemctl(&["enable", &format!("ceph-mgr@{name}.service")]).await?;
    systemctl(&["start", &format!("ceph-mgr@{name}.service")]).await.map(|_| ())
}

/// An OSD on each disk.
pub(crate) async fn osds(node: &Node, disks: &[Chosen]) -> Result<(), StepError> {
    let facts = known().ok_or_else(|| StepError::Answer("/etc/ceph/ceph.conf", "no fsid".into()))?;
    super::osd::ensure(node, &facts.fsid, disks).await
}

/// Those whose keys every node has.
const USERS: [&str; 2] = ["client.furrow-qemu", "client.furrow-agent"];

fn user_keyring(entity: &str) -> PathBuf {
    PathBuf::from(format!("/etc/ceph/ceph.{entity}.keyring"))
}

/// Users with the least that each needs.
pub(crate) async fn users(node: &Node) -> Result<(), StepError> {
    let volumes = format!("profile rbd pool={POOL}");
    let [qemu, agent] = USERS;
    let (monitors, osds, manager) = (("mon", "profile rbd"), ("osd", volumes.as_str()), ("mgr", volumes.as_str()));
    let users = [(qemu, vec![monitors, osds]), (agent, vec![monitors, manager, osds])];
    for (user, capabilities) in users {
        let path = user_keyring(user);
        if !path.exists() {
            let key = node.ceph()?.text(commands::auth_get_or_create(user, &capabilities)).await?;
            update(&path, &key, 0o600)?;
        }
    }
    Ok(())
}

/// The keyring of an entity, as it is in the cluster.
pub(crate) async fn keyring_of(ceph: &Monitor, entity: &str) -> Result<String, StepError> {
    Ok(ceph.text(commands::auth_get(entity)).await?)
}

/// The cluster's identity and its monitors' addresses.
pub(crate) async fn describe(ceph: &Monitor) -> Result<(String, String), StepError> {
    let dump: Value = ceph.query(commands::mon_dump()).await?;
    let senseless = || StepError::Answer("ceph mon dump", "no identity or monitor in it".into());
    let fsid = dump["fsid"].as_str().ok_or_else(senseless)?.to_owned();
    Ok((fsid, ceph_conf::monitor_addresses(&dump).ok_or_else(senseless)?))
}
