//! Which disks become OSDs: decided from `lsblk`'s facts and the selectors of node.yaml. Pure.
//!
//! A disk that is mounted, part of something, or holds data is never taken, unless its selector says `wipe: true`; a
//! mounted one not even then. A disk that already is an OSD of this cluster is found again, not made anew.

use serde::Deserialize;

use crate::config::{DiskSelector, size_bytes};

/// BlueStore needs room for its own metadata; smaller disks are no OSDs.
const MIN_OSD_BYTES: u64 = 5 * 1000 * 1000 * 1000;

/// Arguments of `lsblk` that print what [`parse`] reads.
pub(crate) const LSBLK_ARGS: [&str; 4] =
    ["--json", "--bytes", "--output", "PATH,TYPE,SIZE,MODEL,SERIAL,WWN,FSTYPE,PARTLABEL,PTTYPE,MOUNTPOINTS,RO"];

/// A block device as `lsblk --json` shows it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Device {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) size: u64,
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) wwn: Option<String>,
    pub(crate) fstype: Option<String>,
    pub(crate) partlabel: Option<String>,
    pub(crate) pttype: Option<String>,
    pub(crate) mountpoints: Vec<Option<String>>,
    pub(crate) ro: bool,
    pub(crate) children: Vec<Device>,
}

/// A disk chosen for an OSD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// It holds data that must be erased first, as the selector allows.
    pub(crate) wipe: bool,
    /// It is an OSD already.
    pub(crate) is_osd: bool,
}

/// Why no disk is chosen.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("could not read the answer of lsblk: {0}")]
    Lsblk(String),
    #[error("ceph.disks[{index}] matches no disk; there are: {present}")]
    NoMatch { index: usize, present: String },
    #[error("ceph.disks[{index}]: {path} ({size} bytes) cannot become an OSD: {reason}")]
    Unfit { index: usize, path: String, size: u64, reason: String },
}

#[derive(Deserialize)]
struct Lsblk {
    blockdevices: Vec<Device>,
}

/// Reads the answer of `lsblk` with [`LSBLK_ARGS`].
pub(crate) fn parse(json: &str) -> Result<Vec<Device>, DiskError> {
    serde_json::from_str::<Lsblk>(json).map(|l| l.blockdevices).map_err(|e| DiskError::Lsblk(e.to_string()))
}

/// The disks for OSDs, in the order of the selectors. `resolved` gives the real path of a selector's path.
pub(crate) fn choose(
    devices: &[Device],
    selectors: &[DiskSelector],
    resolved: &dyn Fn(&str) -> String,
) -> Result<Vec<Chosen>, DiskError> {
    let mut all = Vec::new();
    flatten(devices, &mut all);
    let mut chosen: Vec<Chosen> = Vec::new();
    for (index, selector) in selectors.iter().enumerate() {
        let matching: Vec<&Device> = all.iter().copied().filter(|d| matches(d, selector, resolved)).collect();
        if matching.is_empty() {
            let present: Vec<String> = all.iter().map(|d| format!("{} ({} bytes)", d.path, d.size)).collect();
            return Err(DiskError::NoMatch { index, present: present.join(", ") });
        }
        for device in matching {
            if chosen.iter().any(|c| c.path == device.path) {
                continue;
            }
            chosen.push(fit(device, selector, index)?);
        }
    }
    Ok(chosen)
}

fn flatten<'a>(devices: &'a [Device], into: &mut Vec<&'a Device>) {
    for device in devices {
        into.push(device);
        flatten(&device.children, into);
    }
}

fn matches(device: &Device, selector: &DiskSelector, resolved: &dyn Fn(&str) -> String) -> bool {
    let says = |wanted: &Option<String>, found: &[&Option<String>]| match wanted {
        None => true,
        Some(w) => found.iter().any(|f| f.as_deref().map(str::trim) == Some(w)),
    };
    // Without a path or label only whole disks are meant.
    let kind_fits = match (&selector.path, &selector.partition_label) {
        (None, None) => device.kind == "disk",
        _ => true,
    };
    kind_fits
        && selector.path.as_ref().is_none_or(|p| resolved(p) == device.path)
        && says(&selector.id, &[&device.serial, &device.wwn])
        && says(&selector.model, &[&device.model])
        && says(&selector.partition_label, &[&device.partlabel])
        && selector.min_size.as_deref().and_then(size_bytes).is_none_or(|least| device.size >= least)
}

fn fit(device: &Device, selector: &DiskSelector, index: usize) -> Result<Chosen, DiskError> {
    let unfit = |reason: String| DiskError::Unfit { index, path: device.path.clone(), size: device.size, reason };
    let mut family = Vec::new();
    flatten(std::slice::from_ref(device), &mut family);
    if let Some(mount) = family.iter().flat_map(|d| d.mountpoints.iter().flatten()).next() {
        return Err(unfit(format!("it is mounted on {mount}")));
    }
    if device.ro {
        return Err(unfit("it is read-only".into()));
    }
    if device.size < MIN_OSD_BYTES {
        return Err(unfit(format!("it is smaller than {MIN_OSD_BYTES} bytes")));
    }
    if device.fstype.as_deref() == Some("ceph_bluestore") {
        return Ok(Chosen { path: device.path.clone(), size: device.size, wipe: false, is_osd: true });
    }
    let holds = match (&device.fstype, &device.pttype, device.children.is_empty()) {
        (Some(fs), _, _) => Some(format!("it holds {fs}")),
        (None, Some(table), false) => Some(format!("it has a {table} partition table with partitions")),
        (None, _, false) => Some("other devices are on it".to_owned()),
        (None, Some(table), true) if device.kind == "disk" => Some(format!("it has a {table} partition table")),
        _ => None,
    };
    match holds {
        Some(data) if !selector.wipe => Err(unfit(format!("{data}; `wipe: true` would erase it"))),
        data => Ok(Chosen { path: device.path.clone(), size: device.size, wipe: data.is_some(), is_osd: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        parse(
            r#"{"blockdevices": [
            {"path":"/dev/sda","type":"disk","size":500000000000,"model":"SYSTEM","serial":"S1","pttype":"gpt","mountpoints":[null],
             "children":[{"path":"/dev/sda1","type":"part","size":1000000000,"fstype":"vfat","partlabel":"esp","mountpoints":["/boot"]},
                         {"path":"/dev/sda2","type":"part","size":400000000000,"partlabel":"ceph","mountpoints":[null]}]},
            {"path":"/dev/sdb","type":"disk","size":2000000000000,"model":"BIG","serial":"S2","mountpoints":[null]},
            {"path":"/dev/sdc","type":"disk","size":2000000000000,"model":"BIG","serial":"S3","fstype":"linux_raid_member","mountpoints":[null]},
            {"path":"/dev/sdd","type":"disk","size":1000000000,"model":"SMALL","serial":"S4","mountpoints":[null]},
            {"path":"/dev/sde","type":"disk","size":2000000000000,"model":"OLD","serial":"S5","fstype":"ceph_bluestore","mountpoints":[null]}
            ]}"#,
        )
        .expect("json")
    }

    fn check(selector: DiskSelector, expected: Result<&str, &str>) {
        match (choose(&devices(), std::slice::from_ref(&selector), &str::to_owned), expected) {
            (Ok(chosen), Ok(paths)) => {
                let found: Vec<&str> = chosen.iter().map(|c| c.path.as_str()).collect();
                assert_eq!(found.join(","), paths);
            }
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "`{error}` does not contain `{text}`"),
            (result, expected) => panic!("{selector:?} gave {result:?}, expected {expected:?}"),
        }
    }

    fn path(path: &str) -> DiskSelector {
        DiskSelector { path: Some(path.into()), ..Default::default() }
    }

    #[test]
    fn selects_by_each_criterion() {
        check(path("/dev/sdb"), Ok("/dev/sdb"));
        check(DiskSelector { id: Some("S2".into()), ..Default::default() }, Ok("/dev/sdb"));
        check(DiskSelector { partition_label: Some("ceph".into()), ..Default::default() }, Ok("/dev/sda2"));
        check(path("/dev/sde"), Ok("/dev/sde"));
    }

    #[test]
    fn never_takes_a_disk_with_data_unless_told_to() {
        check(DiskSelector { model: Some("BIG".into()), ..Default::default() }, Err("/dev/sdc (2000000000000 bytes) cannot become an OSD: it holds linux_raid_member"));
        check(DiskSelector { model: Some("BIG".into()), wipe: true, ..Default::default() }, Ok("/dev/sdb,/dev/sdc"));
    }

    #[test]
    fn never_takes_a_mounted_or_too_small_disk_even_when_told_to() {
        check(DiskSelector { wipe: true, ..path("/dev/sda") }, Err("it is mounted on /boot"));
        check(DiskSelector { wipe: true, ..path("/dev/sdd") }, Err("smaller than"));
    }

    #[test]
    fn says_which_disks_there_are_when_none_matches() {
        check(DiskSelector { id: Some("S9".into()), ..Default::default() }, Err("ceph.disks[0] matches no disk; there are: /dev/sda"));
    }
}
