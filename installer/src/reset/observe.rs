//! Gathers the facts about a node that is to be made blank: its disks, its cluster, what is lost. Reads only, and no question
//! takes longer than [`LIMIT`]: a node is often reset because something does not answer.

use std::path::PathBuf;
use std::time::Duration;

use furrow_host::block::{self, Device};
use furrow_host::ceph::{self, Label, Monitor, commands};
use furrow_host::cmd::Cmd;
use k8s_openapi::api::core::v1::{Node as KubeNode, PersistentVolume};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use super::plan::{Facts, Osd, Standing};
use crate::config::Role;
use crate::disks::flatten;
use crate::install::{STATE_LABEL, is_root, word};
use crate::membership;
use crate::steps::{self, Node, StepError};

/// What lives answers within this.
const LIMIT: Duration = Duration::from_secs(10);

/// Everything about this node.
///
/// # Errors
/// When its own disks or records cannot be read.
pub(super) async fn facts(node: &Node) -> Result<Facts, StepError> {
    let devices = block::list().await?;
    let made = steps::made_osds(&node.state)?;
    let (mut osds, mut missing) = (Vec::new(), made.clone());
    for disk in osd_disks(&devices).await {
        if made.contains(&disk.label.osd_uuid) {
            missing.remove(&disk.label.osd_uuid);
            osds.push(Osd { disk: format!("{}: osd.{}", disk.words, disk.label.whoami), uuid: disk.label.osd_uuid });
        }
    }
    let standing = Box::pin(standing(node)).await?;
    let lost = match standing {
        Standing::Alone | Standing::Unknown(_) => Some(Box::pin(lost()).await),
        Standing::NoCluster | Standing::Removed | Standing::Member(_) => None,
    };
    Ok(Facts {
        name: node.config.hostname.clone(),
        standing,
        system: system_disk(&devices).map(|disk| format!("{}: the system and its state", describe(disk, disk))),
        osds,
        missing: missing.into_iter().collect(),
        lost,
    })
}

/// A disk or partition that carries a BlueStore label.
pub(super) struct OsdDisk {
    pub(super) path: PathBuf,
    pub(super) label: Label,
    /// The disk for people.
    words: String,
}

/// All that are here. One whose label cannot be read is nobody's.
pub(super) async fn osd_disks(devices: &[Device]) -> Vec<OsdDisk> {
    let mut found = Vec::new();
    for disk in devices {
        let mut family = Vec::new();
        flatten(std::slice::from_ref(disk), &mut family);
        for device in family {
            let path = PathBuf::from(&device.path);
            if !block::is_bluestore(&path) {
                continue;
            }
            if let Ok(label) = ceph::label(&path).await {
                found.push(OsdDisk { path, label, words: describe(device, disk) });
            }
        }
    }
    found
}

/// The disk that this system was installed to and runs from. A medium has no partition for state.
pub(super) fn system_disk(devices: &[Device]) -> Option<&Device> {
    with_root(devices, &word("roothash")?)
}

fn with_root<'a>(devices: &'a [Device], hash: &str) -> Option<&'a Device> {
    let has_root = |part: &Device| is_root(part, hash);
    let has_state = |part: &Device| part.partlabel.as_deref() == Some(STATE_LABEL) && has_var(part);
    devices.iter().find(|disk| disk.children.iter().any(has_root) && disk.children.iter().any(has_state))
}

/// Another disk may have been installed from the same medium, so that only its mount tells this system's state.
fn has_var(part: &Device) -> bool {
    part.mountpoints.iter().flatten().any(|at| at == "/var")
}

/// The disk that the mark is on. By its mount alone: once its table is erased, nothing else of it is known.
pub(super) fn marked_disk(devices: &[Device]) -> Option<&Device> {
    devices.iter().find(|disk| disk.children.iter().any(has_var))
}

/// A device for people. A partition has the model and the serial number of its disk.
fn describe(device: &Device, disk: &Device) -> String {
    let mut text = format!("{} ({} GB", device.path, device.size / 1_000_000_000);
    for (what, value) in [("model", &disk.model), ("serial", &disk.serial)] {
        if let Some(value) = value {
            text += &format!(", {what} {}", value.trim());
        }
    }
    text + ")"
}

/// How the node stands to a cluster.
async fn standing(node: &Node) -> Result<Standing, StepError> {
    if membership::removed(&node.state).is_some() {
        return Ok(Standing::Removed);
    }
    let joined = node.joined()?;
    // The CA is the first thing that a new cluster is made of.
    if joined.is_none() && !node.state.join("ca/ca.key").exists() {
        return Ok(Standing::NoCluster);
    }
    let word = membership::word(&node.config).await;
    Ok(match (word, joined) {
        (Some(true), _) => Standing::Removed,
        // A worker is never alone: it sees no more of its cluster than its server.
        (Some(false), Some(joined)) if joined.role == Role::Agent => {
            Standing::Member(format!("the server that it joined at, {}", joined.server))
        }
        (None, Some(joined)) if joined.role == Role::Agent => {
            Standing::Unknown(format!("no server of the cluster that it joined at {} answers", joined.server))
        }
        (word, _) => match Box::pin(others(&node.config.hostname)).await {
            Ok(others) if others.is_empty() => Standing::Alone,
            Ok(others) => Standing::Member(others.join(", ")),
            // Not this one's API server has said so.
            Err(_) if word == Some(false) => Standing::Member("another server, which answers".into()),
            // Also the first server: nothing here speaks of workers.
            Err(reason) => Standing::Unknown(reason),
        },
    })
}

/// A question to the API server or to Ceph.
async fn within<T, E: ToString>(question: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    // Dropping the question is safe: it reads only.
    match tokio::time::timeout(LIMIT, question).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// The other nodes of the cluster, as this server's API says.
async fn others(name: &str) -> Result<Vec<String>, String> {
    let client = steps::client(Role::Server).await.map_err(|error| error.to_string())?;
    let all = Api::<KubeNode>::all(client);
    let list = within(Box::pin(all.list_metadata(&ListParams::default()))).await;
    let list = list.map_err(|reason| format!("this node's API server: {reason}"))?;
    Ok(list.items.iter().map(ResourceExt::name_any).filter(|other| other != name).collect())
}

/// What is lost with the only node of a cluster.
async fn lost() -> String {
    let volumes = async {
        let client = steps::client(Role::Server).await.map_err(|error| error.to_string())?;
        let all = Api::<PersistentVolume>::all(client);
        Ok::<usize, String>(within(Box::pin(all.list_metadata(&ListParams::default()))).await?.items.len())
    };
    let volumes = Box::pin(volumes).await;
    let ceph = Monitor::administrator().limits(LIMIT / 2, LIMIT / 2);
    let bytes = within(Box::pin(ceph.query::<Value>(commands::df()))).await.map(|answer| stored(&answer));
    loss(volumes, bytes, guests().await.len())
}

/// Bytes that users have stored, from the answer of `ceph df`. Ceph's own pools begin with a dot.
fn stored(answer: &Value) -> u64 {
    let pools = answer["pools"].as_array().into_iter().flatten();
    let users = pools.filter(|pool| !pool["name"].as_str().unwrap_or_default().starts_with('.'));
    users.filter_map(|pool| pool["stats"]["stored"].as_u64()).sum()
}

fn loss(volumes: Result<usize, String>, bytes: Result<u64, String>, guests: usize) -> String {
    let volumes =
        volumes.map_or_else(|why| format!("an unknown number of volumes ({why})"), |n| format!("{n} volumes"));
    let bytes = bytes.map_or_else(
        |why| format!("an unknown amount of data ({why})"),
        |n| format!("{:.1} GB of data", n as f64 / 1e9),
    );
    format!("{volumes} with {bytes}; {guests} guests run")
}

/// Names of the guests that run here; none where libvirt does not answer.
pub(super) async fn guests() -> Vec<String> {
    let list = Cmd::new("/usr/bin/virsh").args(["--connect", "qemu:///system", "list", "--name"]).timeout(LIMIT);
    let text = list.run().await.map(|out| out.text()).unwrap_or_default();
    text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    /// A medium, a disk that was installed from it once, and the running one, with the same root.
    fn devices() -> Vec<Device> {
        let root = crate::install::uuid(&HASH[..32]);
        let text = json!({"blockdevices": [
            {"path": "/dev/sdb", "type": "disk", "size": 32_000_000_000_u64, "model": "STICK", "mountpoints": [null],
             "children": [{"path": "/dev/sdb2", "type": "part", "partuuid": root, "mountpoints": [null]}]},
            {"path": "/dev/saa", "type": "disk", "size": 500_000_000_000_u64, "mountpoints": [null], "children": [
                {"path": "/dev/saa2", "type": "part", "partuuid": root, "mountpoints": [null]},
                {"path": "/dev/saa6", "type": "part", "partlabel": STATE_LABEL, "mountpoints": [null]}]},
            {"path": "/dev/sda", "type": "disk", "size": 500_000_000_000_u64, "model": "SSD ", "serial": "S1",
             "mountpoints": [null], "children": [
                {"path": "/dev/sda2", "type": "part", "partuuid": root, "mountpoints": [null]},
                {"path": "/dev/sda6", "type": "part", "partlabel": STATE_LABEL, "mountpoints": ["/var"]},
                {"path": "/dev/sda7", "type": "part", "size": 300_000_000_000_u64, "mountpoints": [null]}]},
        ]});
        block::parse(text.to_string().as_bytes()).expect("devices")
    }

    #[test]
    fn the_systems_disk_is_the_installed_one_and_never_a_medium() {
        let devices = devices();
        assert_eq!(with_root(&devices, HASH).expect("found").path, "/dev/sda");
        assert_eq!(with_root(&devices[..2], HASH), None);
        assert_eq!(marked_disk(&devices).expect("found").path, "/dev/sda");
        assert_eq!(marked_disk(&devices[..2]), None);
        assert_eq!(with_root(&devices, &"12".repeat(32)), None);
    }

    #[test]
    fn a_partition_is_known_by_its_disk() {
        let disk = &devices()[2];
        assert_eq!(describe(disk, disk), "/dev/sda (500 GB, model SSD, serial S1)");
        assert_eq!(describe(&disk.children[2], disk), "/dev/sda7 (300 GB, model SSD, serial S1)");
    }

    #[test]
    fn what_is_lost_is_one_line_also_where_nobody_answers() {
        let pool = |name: &str, stored: u64| json!({"name": name, "stats": {"stored": stored}});
        let answer = json!({"pools": [pool(".mgr", 7), pool("volumes", 1_200_000_000), pool("more", 300_000_000)]});
        assert_eq!(stored(&answer), 1_500_000_000);
        assert_eq!(loss(Ok(3), Ok(stored(&answer)), 2), "3 volumes with 1.5 GB of data; 2 guests run");
        let silent = loss(Err("no answer".into()), Err("no monitor".into()), 0);
        assert_eq!(
            silent,
            "an unknown number of volumes (no answer) with an unknown amount of data (no monitor); 0 guests run"
        );
    }
}
