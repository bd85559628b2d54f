//! OSDs: those on this machine's disks are found by their labels and started, those that are missing are made.
//!
//! ```text
//! disk: blank, or data that may be erased --(identity kept, number given, made)--> labelled, not complete --> complete
//!                                                    ^---------------- killed ------------------'
//! ```
//! Made by `ceph-osd --mkfs` rather than by `ceph-volume`, with the same result on disk: the identity is chosen and kept
//! before the monitors hear of it, so that a kill leaves no number behind, and nothing is ever remembered by a device's
//! name, which the next boot may give to another disk. A disk is looked at once more right before it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::block::{self, Contents, Device};
use furrow_host::ceph::{self, Label, Monitor, NewOsd, commands};
use furrow_host::cmd::Cmd;
use serde::{Deserialize, Serialize};

use super::{Node, StepError, file_error, is_active, systemctl};
use crate::disks::{self, Chosen};
use crate::files::{record, replace};

/// An OSD is up a few seconds after its start; loaded test machines need much more.
const UP_TIMEOUT: Duration = Duration::from_secs(300);

/// What this node has made so far.
#[derive(Default, Serialize, Deserialize)]
struct Made {
    /// Identity of each OSD to the selector that its disk was chosen by.
    osds: BTreeMap<String, String>,
    /// The one that is being made.
    pending: Option<Pending>,
}

/// An OSD that the monitors may have heard of and whose disk may be half written.
#[derive(Clone, Serialize, Deserialize)]
struct Pending {
    uuid: String,
    selector: String,
    /// Its key, which the monitors are told with its identity: asking again with another one would be refused.
    #[serde(default)]
    key: String,
}

fn made_path(state: &Path) -> PathBuf {
    state.join("bootstrap/osds.json")
}

impl Made {
    /// Unlike the record of steps this one forbids erasing, so one that cannot be read is an error, not an empty one.
    fn load(state: &Path) -> Result<Made, StepError> {
        let path = made_path(state);
        Ok(record(&path).map_err(file_error("read", &path))?.unwrap_or_default())
    }

    /// Takes the pending one for made if its disk says that it is complete: a kill came between the two. Without this its
    /// number would be given to the next disk. Says whether anything changed.
    fn reconcile<'a>(&mut self, complete: impl Iterator<Item = &'a str>) -> bool {
        let Some(pending) = self.pending.clone() else { return false };
        let is_complete = complete.into_iter().any(|uuid| uuid == pending.uuid);
        if is_complete {
            self.osds.insert(pending.uuid, pending.selector);
            self.pending = None;
        }
        is_complete
    }

    /// Takes up an OSD that is here and not in the record, which was lost: without it its selector could erase again. Says
    /// whether it was missing.
    fn recall(&mut self, device: &Path, label: &Label, chosen: &[Chosen]) -> bool {
        let selector = chosen.iter().find(|disk| Path::new(&disk.path) == device).map(|disk| disk.selector.clone());
        let missing = !self.osds.contains_key(&label.osd_uuid);
        if missing {
            self.osds.insert(label.osd_uuid.clone(), selector.unwrap_or_default());
        }
        missing
    }

    fn save(&self, state: &Path) -> Result<(), StepError> {
        let path = made_path(state);
        let text = serde_json::to_string_pretty(self).map_err(|e| file_error("write", &path)(e.into()))?;
        replace(&path, text.as_bytes(), 0o600).map_err(file_error("write", &path))
    }
}

/// Whether this node has made an OSD before: from then on a disk that is missing is a fault to report, not a reason to
/// leave the others off.
///
/// # Errors
/// When the record of them is there and cannot be read.
pub(crate) fn any_made(state: &Path) -> Result<bool, StepError> {
    Ok(!Made::load(state)?.osds.is_empty())
}

/// Identities of the OSDs that this node has made, and of one that it was about to make.
///
/// # Errors
/// When the record of them is there and cannot be read.
pub(crate) fn made(state: &Path) -> Result<BTreeSet<String>, StepError> {
    let made = Made::load(state)?;
    Ok(made.osds.into_keys().chain(made.pending.map(|pending| pending.uuid)).collect())
}

/// Starts the OSDs of this cluster that are here, makes those that the plan chose, and waits until all are up.
pub(crate) async fn ensure(node: &Node, fsid: &str, chosen: &[Chosen]) -> Result<(), StepError> {
    let mut ids = Vec::new();
    let cluster = Cluster { fsid, osds: known(node.ceph()?).await? };
    let present = present(node, &cluster).await?;
    let mut made = Made::load(&node.state)?;
    let mut changed = made.reconcile(present.iter().map(|(_, label)| label.osd_uuid.as_str()));
    for (device, label) in &present {
        changed |= made.recall(device, label, chosen);
    }
    if changed {
        made.save(&node.state)?;
    }
    for (device, label) in present {
        ids.push(activate(&device, &label).await?);
    }
    for disk in chosen {
        if let Some(label) = make(node, &cluster, disk).await? {
            ids.push(activate(Path::new(&disk.path), &label).await?);
        }
    }
    let ceph = node.ceph()?;
    node.wait("the OSDs to be up", UP_TIMEOUT, async || all_up(ceph, &ids).await).await
}

/// The cluster that OSDs are made for.
struct Cluster<'a> {
    fsid: &'a str,
    /// Identities of its OSDs. One that was purged with its node is not among them, whatever its disk says.
    osds: BTreeSet<String>,
}

impl Cluster<'_> {
    /// Whether the OSD on a disk is complete and one of its own.
    fn has(&self, label: &Label) -> bool {
        label.ceph_fsid == self.fsid && label.is_complete() && self.osds.contains(&label.osd_uuid)
    }
}

async fn known(ceph: &Monitor) -> Result<BTreeSet<String>, StepError> {
    let dump: serde_json::Value = ceph.query(commands::osd_dump()).await?;
    let osds = dump["osds"].as_array().into_iter().flatten();
    Ok(osds.filter_map(|osd| osd["uuid"].as_str().map(str::to_owned)).collect())
}

async fn all_up(ceph: &Monitor, ids: &[u32]) -> Result<(), String> {
    let dump: serde_json::Value = ceph.query(commands::osd_dump()).await.map_err(|e| e.to_string())?;
    let up = |id: &u32| dump["osds"].as_array().into_iter().flatten().any(|osd| osd["osd"] == *id && osd["up"] == 1);
    let down: Vec<String> = ids.iter().filter(|id| !up(id)).map(|id| format!("osd.{id}")).collect();
    if down.is_empty() { Ok(()) } else { Err(format!("{} not up", down.join(", "))) }
}

/// The complete OSDs of this cluster on any disk of this machine, whatever the disk is called today.
async fn present(node: &Node, cluster: &Cluster<'_>) -> Result<Vec<(PathBuf, Label)>, StepError> {
    let devices = block::list().await?;
    let mut all: Vec<&Device> = Vec::new();
    disks::flatten(&devices, &mut all);
    let mut found = Vec::new();
    for device in all.into_iter().map(|device| PathBuf::from(&device.path)).filter(|path| block::is_bluestore(path)) {
        match ceph::label(&device).await {
            Ok(label) if cluster.has(&label) => found.push((device, label)),
            Ok(_) => {}
            // One broken disk must not keep the others off; should it be chosen for an OSD, `make` refuses it.
            Err(error) => node.say(&format!("passing over {}: {error}", device.display())),
        }
    }
    Ok(found)
}

/// Makes an OSD on a disk. `None` when it is there already (and has been started) or is left alone.
async fn make(node: &Node, cluster: &Cluster<'_>, disk: &Chosen) -> Result<Option<Label>, StepError> {
    let path = Path::new(&disk.path);
    let mut made = Made::load(&node.state)?;
    let again = made.osds.values().any(|selector| *selector == disk.selector);
    let holds = match block::contents(path).await? {
        Contents::Blank => None,
        Contents::BlueStore => {
            let Ok(label) = ceph::label(path).await else {
                let what = "a BlueStore label that cannot be read".to_owned();
                return Err(StepError::DiskHolds { path: disk.path.clone(), what });
            };
            if cluster.has(&label) {
                return Ok(None);
            }
            // Half made by an earlier run of this very node: it has never held data.
            if made.pending.as_ref().is_some_and(|pending| pending.uuid == label.osd_uuid) {
                block::erase(path).await?;
                None
            } else if label.ceph_fsid == cluster.fsid {
                Some("an OSD that this cluster does not know (any more)".to_owned())
            } else {
                Some(format!("an OSD of cluster {}", label.ceph_fsid))
            }
        }
        // ceph-osd itself holds a disk of ours; anything else that does must not be disturbed.
        Contents::InUse if is_running_osd(cluster.fsid, path).await => return Ok(None),
        Contents::InUse => {
            return Err(StepError::DiskHolds { path: disk.path.clone(), what: "something in use".into() });
        }
        Contents::Data(what) => Some(what),
    };
    match holds {
        Some(what) if again => {
            let selector = &disk.selector;
            node.say(&format!(
                "leaving {} alone: it holds {what}, and {selector} has had its disk erased once",
                disk.path
            ));
            return Ok(None);
        }
        Some(what) if !disk.wipe => return Err(StepError::DiskHolds { path: disk.path.clone(), what }),
        Some(what) => {
            node.say(&format!("erasing {}, which holds {what}", disk.path));
            block::erase(path).await?;
        }
        None => {}
    }
    let label = write_osd(node, disk, &mut made).await?;
    made.reconcile(std::iter::once(label.osd_uuid.as_str()));
    made.save(&node.state)?;
    Ok(Some(label))
}

async fn is_running_osd(fsid: &str, path: &Path) -> bool {
    block::is_bluestore(path) && ceph::label(path).await.is_ok_and(|l| l.ceph_fsid == fsid && l.is_complete())
}

/// Identity, number, key, store; each can be done again with the same result.
async fn write_osd(node: &Node, disk: &Chosen, made: &mut Made) -> Result<Label, StepError> {
    let path = Path::new(&disk.path);
    let monitors = node.ceph()?;
    let pending = match made.pending.clone().filter(|pending| !pending.key.is_empty()) {
        Some(pending) => Pending { selector: disk.selector.clone(), ..pending },
        None => {
            let key = Cmd::new("/usr/bin/ceph-authtool").arg("--gen-print-key").run().await?.text().trim().to_owned();
            Pending { uuid: uuid::Uuid::new_v4().to_string(), selector: disk.selector.clone(), key }
        }
    };
    made.pending = Some(pending.clone());
    made.save(&node.state)?;
    let Pending { uuid, key, .. } = pending;
    let id = number(monitors, &uuid, &key).await?;
    node.say(&format!("making osd.{id} on {} ({} GB)", disk.path, disk.size / 1_000_000_000));
    let data = data_dir(id);
    // What a cut-short attempt left in it; a complete OSD never comes here.
    let _ = std::fs::remove_dir_all(&data);
    link(path, &data).await?;
    write(&data.join("keyring"), format!("[osd.{id}]\n\tkey = {key}\n").as_bytes()).await?;
    let monmap = data.join("activate.monmap");
    let map = monitors.send(commands::mon_getmap()).await?;
    std::fs::write(&monmap, map).map_err(file_error("write", &monmap))?;
    own(&data).await?;
    ceph::make_osd(&NewOsd { id, uuid: &uuid, data: &data, monmap: &monmap }, &key).await?;
    Ok(ceph::label(path).await?)
}

/// The number that the monitors give an identity and its key; the same at each asking.
async fn number(ceph: &Monitor, uuid: &str, key: &str) -> Result<u32, StepError> {
    let answer = ceph.text(commands::osd_new(uuid, key)).await?;
    answer.trim().parse().map_err(|_| StepError::Answer("ceph osd new", answer.clone()))
}

fn data_dir(id: u32) -> PathBuf {
    PathBuf::from(format!("/var/lib/ceph/osd/ceph-{id}"))
}

async fn write(path: &Path, content: &[u8]) -> Result<(), StepError> {
    replace(path, content, 0o600).map_err(file_error("write", path))
}

/// Gives a file or tree, and the device behind a link in it, to the user that Ceph's daemons run as.
async fn own(path: &Path) -> Result<(), StepError> {
    Cmd::new("/usr/bin/chown").args(["-R", "ceph:ceph"]).arg(path).run().await?;
    Ok(())
}

/// Makes an OSD's directory point to its device, and both belong to ceph. udev gives devices back to root at each boot.
async fn link(device: &Path, data: &Path) -> Result<(), StepError> {
    std::fs::create_dir_all(data).map_err(file_error("make", data))?;
    let block = data.join("block");
    let target = block::stable_path(device);
    if std::fs::read_link(&block).ok().as_deref() != Some(&target) {
        let _ = std::fs::remove_file(&block);
        std::os::unix::fs::symlink(&target, &block).map_err(file_error("make", &block))?;
    }
    Cmd::new("/usr/bin/chown").arg("ceph:ceph").arg(device).run().await?;
    Cmd::new("/usr/bin/chown").args(["-h", "ceph:ceph"]).arg(&block).run().await?;
    Ok(())
}

/// Starts a complete OSD, its directory made from the device if it is gone. Returns its number.
async fn activate(device: &Path, label: &Label) -> Result<u32, StepError> {
    let id: u32 = label.whoami.parse().map_err(|_| StepError::Answer("the label", label.whoami.clone()))?;
    let data = data_dir(id);
    let unit = format!("ceph-osd@{id}.service");
    let whole = |file: &str| data.join(file).exists();
    if is_active(&unit).await? {
        return Ok(id);
    }
    if !(whole("keyring") && whole("whoami") && whole("fsid") && whole("type")) {
        std::fs::create_dir_all(&data).map_err(file_error("make", &data))?;
        ceph::prime(device, &data).await?;
        own(&data).await?;
    }
    link(device, &data).await?;
    // A unit that gave up earlier starts from zero; one that never ran has nothing to reset, which is an error.
    let _ = systemctl(&["reset-failed", &unit]).await;
    systemctl(&["start", &unit]).await?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_known_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!any_made(dir.path()).expect("nothing yet"));
        let pending = Some(Pending { uuid: "u".into(), selector: "path=/dev/b".into(), key: "k".into() });
        let mut made = Made { pending, ..Made::default() };
        made.save(dir.path()).expect("saved");
        assert!(!any_made(dir.path()).expect("pending is not made"));
        assert!(made.reconcile(["u"].into_iter()));
        made.save(dir.path()).expect("saved");
        assert!(any_made(dir.path()).expect("made"));
    }

    #[test]
    fn a_complete_osds_identity_is_never_given_to_another_disk() {
        let pending = Some(Pending { uuid: "u".into(), selector: "s".into(), key: "k".into() });
        let mut made = Made { pending, ..Made::default() };
        assert!(!made.reconcile(["other"].into_iter()), "still being made");
        assert!(made.reconcile(["other", "u"].into_iter()));
        assert!(made.pending.is_none() && made.osds["u"] == "s");
    }

    #[test]
    fn an_osd_that_was_purged_is_not_one_of_the_clusters() {
        let cluster = Cluster { fsid: "f", osds: ["u".to_owned()].into() };
        let label = |uuid: &str, fsid: &str| Label {
            osd_uuid: uuid.into(),
            ceph_fsid: fsid.into(),
            whoami: "0".into(),
            mkfs_done: "yes".into(),
            ready: "ready".into(),
        };
        assert!(cluster.has(&label("u", "f")));
        assert!(!cluster.has(&label("purged", "f")) && !cluster.has(&label("u", "other")));
        assert!(!cluster.has(&Label { ready: String::new(), ..label("u", "f") }), "half made");
    }

    #[test]
    fn a_lost_record_is_made_again_from_the_disks() {
        let label = Label { osd_uuid: "u".into(), ..Label::default() };
        let disk = Chosen { path: "/dev/b".into(), size: 1, wipe: true, is_osd: true, selector: "path=/dev/b".into() };
        let mut made = Made::default();
        assert!(made.recall(Path::new("/dev/b"), &label, &[disk]));
        assert_eq!(made.osds["u"], "path=/dev/b");
        assert!(!made.recall(Path::new("/dev/c"), &label, &[]), "and is not changed by the disk's new name");
    }

    #[test]
    fn a_record_that_cannot_be_read_allows_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("bootstrap")).expect("made");
        std::fs::write(made_path(dir.path()), "{").expect("written");
        assert!(any_made(dir.path()).is_err());
    }
}
