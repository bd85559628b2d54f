//! OSDs' devices by Ceph's own programs: labels, making an OSD, making its directory. Keys travel through standard input
//! and files, never through arguments. Refuses to know which cluster there should be, and to ask it.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::CephError;
use crate::cmd::Cmd;

/// Making BlueStore: a second on an SSD, tens on a slow disk or a busy test machine.
const MKFS_TIMEOUT: Duration = Duration::from_secs(300);

/// What stands in the label of a BlueStore device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Label {
    /// The OSD's own identity.
    pub osd_uuid: String,
    /// The cluster it belongs to.
    pub ceph_fsid: String,
    /// The OSD's number.
    pub whoami: String,
    /// `yes` once the store is made.
    pub mkfs_done: String,
    /// `ready` once the OSD is made: the last thing that making one writes.
    pub ready: String,
}

impl Label {
    /// Whether making the OSD came to its end. One that did not has never held data.
    pub fn is_complete(&self) -> bool {
        self.mkfs_done == "yes" && self.ready == "ready" && self.whoami.parse::<u32>().is_ok()
    }
}

/// The label of a BlueStore device.
///
/// # Errors
/// When the device carries none, or it cannot be read.
pub async fn label(device: &Path) -> Result<Label, CephError> {
    let output = Cmd::new("/usr/bin/ceph-bluestore-tool").args(["show-label", "--dev"]).arg(device).run().await?;
    let failed = |source| CephError::Answer { command: "bluestore-tool show-label", source };
    let labels: std::collections::BTreeMap<String, Label> = serde_json::from_slice(&output.stdout).map_err(failed)?;
    Ok(labels.into_values().next().unwrap_or_default())
}

/// An OSD to be made in `data`, whose `block` links to the device.
#[derive(Debug)]
pub struct NewOsd<'a> {
    /// Its number, given by the monitors.
    pub id: u32,
    /// Its identity.
    pub uuid: &'a str,
    /// Its directory, owned by ceph.
    pub data: &'a Path,
    /// A file with the monitors' map.
    pub monmap: &'a Path,
}

/// Makes a BlueStore OSD. The key goes into the device's label, so that its directory can be made again from the device
/// alone, by [`prime`] or by `ceph-volume raw activate`.
///
/// # Errors
/// When `ceph-osd` fails or takes more than 5 minutes.
pub async fn make_osd(osd: &NewOsd<'_>, key: &str) -> Result<(), CephError> {
    let command = Cmd::new("/usr/bin/ceph-osd")
        .args(["--cluster", "ceph", "--osd-objectstore", "bluestore", "--mkfs", "-i", &osd.id.to_string()])
        .args(["--osd-uuid", osd.uuid, "--keyfile", "-", "--setuser", "ceph", "--setgroup", "ceph"])
        .arg("--monmap")
        .arg(osd.monmap)
        .arg("--osd-data")
        .arg(osd.data)
        .stdin(key)
        .timeout(MKFS_TIMEOUT);
    command.run().await?;
    Ok(())
}

/// Makes an OSD's directory from its device.
///
/// # Errors
/// When the device carries no complete OSD.
pub async fn prime(device: &Path, data: &Path) -> Result<(), CephError> {
    let tool = Cmd::new("/usr/bin/ceph-bluestore-tool").args(["prime-osd-dir", "--no-mon-config", "--dev"]);
    tool.arg(device).arg("--path").arg(data).run().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_osd_whose_making_was_cut_short_is_not_complete() {
        let label = |text: &str| serde_json::from_str::<Label>(text).expect("a label");
        let whole = r#"{"osd_uuid":"u","ceph_fsid":"f","whoami":"0","mkfs_done":"yes","ready":"ready","size":1}"#;
        assert!(label(whole).is_complete());
        assert!(!label(&whole.replace(r#""ready":"ready","#, "")).is_complete());
        assert!(!label(r#"{"osd_uuid":"u","size":1,"description":"main"}"#).is_complete());
    }
}
