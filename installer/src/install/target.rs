//! Which disk is installed to: decided from `lsblk`'s facts and `install.disk`. Pure.
//!
//! Exactly one disk must be meant. The medium itself, a disk that is mounted or part of something, and one that is too
//! small are never taken; one that holds data only where `wipe: true` names it.

use std::fmt;

use furrow_host::block::Device;

use super::layout::{MIN_DISK_BYTES, UNFINISHED_LABEL};
use crate::config::{Install, Pick};
use crate::disks::{flatten, holds, matches, unusable};

/// The disk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    model: Option<String>,
    serial: Option<String>,
    /// What is on it and will be erased.
    pub(crate) holds: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} GB", self.path, self.size / 1_000_000_000)?;
        for (what, value) in [("model", &self.model), ("serial", &self.serial)] {
            if let Some(value) = value {
                write!(f, ", {what} {}", value.trim())?;
            }
        }
        f.write_str(")")
    }
}

/// Why no disk is chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("install.disk ({selector}) matches no disk; there are: {present}")]
    NoMatch { selector: String, present: String },
    #[error(
        "install.disk ({selector}) matches more than one disk: {found}; say more, or `pick: largest` or `pick: smallest`"
    )]
    Several { selector: String, found: String },
    #[error("install.disk: {path} ({size} bytes) cannot be installed to: {reason}")]
    Unfit { path: String, size: u64, reason: String },
}

/// Chooses the disk. `medium`: path of the disk that the medium is. `resolved` gives the real path of a selector's path.
pub(crate) fn choose(
    devices: &[Device],
    install: &Install,
    medium: &str,
    resolved: &dyn Fn(&str) -> String,
) -> Result<Target, TargetError> {
    let disks: Vec<&Device> =
        devices.iter().filter(|d| d.kind == "disk" && d.path != medium && !d.path.starts_with("/dev/zram")).collect();
    let selector = &install.disk;
    let mut found: Vec<&Device> = disks.iter().copied().filter(|d| matches(d, selector, resolved)).collect();
    found.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    let list = |these: &[&Device]| these.iter().map(|d| target(d).to_string()).collect::<Vec<_>>().join(", ");
    let chosen = match (install.pick, found.as_slice()) {
        (_, []) => {
            return Err(TargetError::NoMatch { selector: selector.to_string(), present: list(&disks) });
        }
        (_, [one]) => *one,
        (Some(Pick::Smallest), [first, ..]) => *first,
        (Some(Pick::Largest), [.., last]) => *last,
        (None, several) => {
            return Err(TargetError::Several { selector: selector.to_string(), found: list(several) });
        }
    };
    let unfit = |reason: String| TargetError::Unfit { path: chosen.path.clone(), size: chosen.size, reason };
    if let Some(reason) = unusable_disk(chosen, MIN_DISK_BYTES) {
        return Err(unfit(format!("it is {reason}")));
    }
    let mut target = target(chosen);
    // A disk whose installation was not finished holds nothing of anyone's.
    let unfinished = chosen.children.iter().any(|c| c.partlabel.as_deref() == Some(UNFINISHED_LABEL));
    target.holds = holds(chosen).filter(|_| !unfinished);
    match &target.holds {
        Some(data) if !selector.wipe => Err(unfit(format!("{data}; `wipe: true` would erase it"))),
        _ => Ok(target),
    }
}

fn target(device: &Device) -> Target {
    let (model, serial) = (device.model.clone(), device.serial.clone());
    Target { path: device.path.clone(), size: device.size, model, serial, holds: None }
}

/// Why a whole disk cannot be taken, whatever is on it: [`unusable`], or something is stacked on it beside partitions (RAID,
/// LVM, multipath, encryption).
pub(crate) fn unusable_disk(device: &Device, least: u64) -> Option<String> {
    let mut family = Vec::new();
    flatten(&device.children, &mut family);
    let stacked = || family.iter().find(|d| d.kind != "part").map(|d| format!("part of {} ({})", d.path, d.kind));
    unusable(device, least).or_else(stacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiskSelector;

    fn devices() -> Vec<Device> {
        furrow_host::block::parse(
            br#"{"blockdevices": [
            {"path":"/dev/sda","type":"disk","size":500000000000,"model":"SSD","serial":"S1","mountpoints":[null]},
            {"path":"/dev/sdb","type":"disk","size":2000000000000,"model":"SSD","serial":"S2","pttype":"gpt","mountpoints":[null],
             "children":[{"path":"/dev/sdb1","type":"part","size":1000,"partlabel":"data","mountpoints":[null]}]},
            {"path":"/dev/sdc","type":"disk","size":64000000000,"model":"STICK","serial":"S3","mountpoints":[null]},
            {"path":"/dev/sdd","type":"disk","size":4000000000,"model":"TINY","serial":"S4","mountpoints":[null]},
            {"path":"/dev/sde","type":"disk","size":900000000000,"model":"RAID","serial":"S5","fstype":"linux_raid_member","mountpoints":[null],
             "children":[{"path":"/dev/md0","type":"raid1","size":1000,"mountpoints":[null]}]},
            {"path":"/dev/sdf","type":"disk","size":300000000000,"model":"HALF","serial":"S6","pttype":"gpt","mountpoints":[null],
             "children":[{"path":"/dev/sdf1","type":"part","size":1000,"partlabel":"furrow-installing","mountpoints":[null]}]}
        ]}"#,
        )
        .expect("devices")
    }

    fn check(disk: DiskSelector, pick: Option<Pick>, expected: &str) {
        let install = Install { disk, pick, power_off: false, webhook: None };
        let text = match choose(&devices(), &install, "/dev/sdc", &str::to_owned) {
            Ok(target) => format!("{target}, erases {:?}", target.holds),
            Err(error) => error.to_string(),
        };
        assert!(text.contains(expected), "`{text}` does not contain `{expected}`");
    }

    fn model(model: &str) -> DiskSelector {
        DiskSelector { model: Some(model.into()), ..DiskSelector::default() }
    }

    #[test]
    fn one_disk_is_meant() {
        check(model("SSD"), None, "matches more than one disk: /dev/sda (500 GB, model SSD, serial S1), /dev/sdb");
        check(model("SSD"), Some(Pick::Smallest), "/dev/sda (500 GB, model SSD, serial S1), erases None");
        check(model("NVME"), None, "matches no disk; there are: /dev/sda");
    }

    #[test]
    fn the_medium_is_never_the_target() {
        check(model("STICK"), None, "matches no disk");
    }

    #[test]
    fn unfit_disks_are_refused_by_name() {
        check(model("TINY"), None, "/dev/sdd (4000000000 bytes) cannot be installed to: it is smaller");
        check(model("RAID"), None, "it is part of /dev/md0 (raid1)");
        check(model("SSD"), Some(Pick::Largest), "it has a gpt partition table with partitions; `wipe: true`");
    }

    #[test]
    fn data_is_erased_where_wipe_says_so() {
        let disk = DiskSelector { id: Some("S2".into()), wipe: true, ..DiskSelector::default() };
        check(disk, None, "erases Some(\"it has a gpt partition table");
    }

    #[test]
    fn an_unfinished_installation_is_nobodys_data() {
        check(model("HALF"), None, "/dev/sdf (300 GB, model HALF, serial S6), erases None");
    }
}
