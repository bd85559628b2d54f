//! Which disks become OSDs: decided from `lsblk`'s facts and the selectors of node.yaml. Pure.
//!
//! A disk that is mounted, part of something, or holds data is never taken, unless its selector says `wipe: true`; a
//! mounted one not even then. A disk that already is an OSD of this cluster is found again, not made anew.

use furrow_host::block::Device;

use crate::config::{DiskSelector, size_bytes};

/// BlueStore needs room for its own metadata; smaller disks are no OSDs.
pub(crate) const MIN_OSD_BYTES: u64 = 5 * 1000 * 1000 * 1000;

/// A disk chosen for an OSD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// It holds data that must be erased first, as the selector allows.
    pub(crate) wipe: bool,
    /// It is an OSD already, of this cluster or of another one.
    pub(crate) is_osd: bool,
    /// The selector that chose it, for the record of what each has been used for.
    pub(crate) selector: String,
}

/// What the selectors found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selection {
    pub(crate) chosen: Vec<Chosen>,
    /// Selectors without a disk, and disks that are not fit.
    pub(crate) faults: Vec<DiskError>,
}

/// Why no disk is chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("ceph.disks[{index}] matches no disk; there are: {present}")]
    NoMatch { index: usize, present: String },
    #[error("ceph.disks[{index}]: {path} ({size} bytes) cannot become an OSD: {reason}")]
    Unfit { index: usize, path: String, size: u64, reason: String },
}

/// The disks for OSDs, in the order of the selectors. `resolved` gives the real path of a selector's path; loop devices
/// are only for tests, which say so by `allow_loops`.
pub(crate) fn choose(
    devices: &[Device],
    selectors: &[DiskSelector],
    allow_loops: bool,
    resolved: &dyn Fn(&str) -> String,
) -> Selection {
    let mut all = Vec::new();
    flatten(devices, &mut all);
    let mut selection = Selection::default();
    for (index, selector) in selectors.iter().enumerate() {
        let matching: Vec<&Device> = all.iter().copied().filter(|d| matches(d, selector, resolved)).collect();
        if matching.is_empty() {
            let present: Vec<String> = all.iter().map(|d| format!("{} ({} bytes)", d.path, d.size)).collect();
            selection.faults.push(DiskError::NoMatch { index, present: present.join(", ") });
        }
        for device in matching {
            if selection.chosen.iter().any(|c| c.path == device.path) {
                continue;
            }
            match fit(device, selector, index, allow_loops) {
                Ok(chosen) => selection.chosen.push(chosen),
                Err(fault) => selection.faults.push(fault),
            }
        }
    }
    selection
}

/// A device and everything on it, as one list.
pub(crate) fn flatten<'a>(devices: &'a [Device], into: &mut Vec<&'a Device>) {
    for device in devices {
        into.push(device);
        flatten(&device.children, into);
    }
}

/// Whether a device is what a selector means.
pub(crate) fn matches(device: &Device, selector: &DiskSelector, resolved: &dyn Fn(&str) -> String) -> bool {
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
        // A selector that describes disks is not about those that the system lives on; one that names a disk is, and
        // `fit` then says why not.
        && (selector.names_a_disk() || mounted_on(device).is_none())
        && selector.min_size.as_deref().and_then(size_bytes).is_none_or(|least| device.size >= least)
}

/// Why a device can be neither Ceph's nor the system's, whatever is on it: what it is, for a sentence. `least`: bytes that
/// are needed.
pub(crate) fn unusable(device: &Device, least: u64) -> Option<String> {
    if let Some(mount) = mounted_on(device) {
        return Some(format!("mounted on {mount}"));
    }
    if device.ro {
        return Some("read-only".into());
    }
    (device.size < least).then(|| format!("smaller than {least} bytes"))
}

/// Where a device or something on it is mounted.
fn mounted_on(device: &Device) -> Option<String> {
    let mut family = Vec::new();
    flatten(std::slice::from_ref(device), &mut family);
    family.iter().flat_map(|d| d.mountpoints.iter().flatten()).next().cloned()
}

fn fit(device: &Device, selector: &DiskSelector, index: usize, allow_loops: bool) -> Result<Chosen, DiskError> {
    let unfit = |reason: String| DiskError::Unfit { index, path: device.path.clone(), size: device.size, reason };
    if let Some(reason) = unusable(device, MIN_OSD_BYTES) {
        return Err(unfit(format!("it is {reason}")));
    }
    if device.kind == "loop" && !allow_loops {
        return Err(unfit("it is a loop device, whose file lies on another disk".into()));
    }
    let selector_text = selector.to_string();
    let chosen = |is_osd| Chosen {
        path: device.path.clone(),
        size: device.size,
        wipe: selector.wipe,
        is_osd,
        selector: selector_text.clone(),
    };
    if device.fstype.as_deref() == Some("ceph_bluestore") {
        return Ok(chosen(true));
    }
    match holds(device) {
        Some(data) if !selector.wipe => Err(unfit(format!("{data}; `wipe: true` would erase it"))),
        _ => Ok(chosen(false)),
    }
}

/// What is on a device, as a clause; None when nothing is known to be.
pub(crate) fn holds(device: &Device) -> Option<String> {
    match (&device.fstype, &device.pttype, device.children.is_empty()) {
        (Some(fs), _, _) => Some(format!("it holds {fs}")),
        (None, Some(table), false) => Some(format!("it has a {table} partition table with partitions")),
        (None, _, false) => Some("other devices are on it".to_owned()),
        (None, Some(table), true) if device.kind == "disk" => Some(format!("it has a {table} partition table")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        furrow_host::block::parse(
            br#"{"blockdevices": [
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
        let selection = choose(&devices(), std::slice::from_ref(&selector), false, &str::to_owned);
        match (selection.faults.first(), expected) {
            (None, Ok(paths)) => {
                let found: Vec<&str> = selection.chosen.iter().map(|c| c.path.as_str()).collect();
                assert_eq!(found.join(","), paths);
            }
            (Some(error), Err(text)) => {
                assert!(error.to_string().contains(text), "`{error}` does not contain `{text}`")
            }
            (_, expected) => panic!("{selector:?} gave {selection:?}, expected {expected:?}"),
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
        check(
            DiskSelector { model: Some("BIG".into()), ..Default::default() },
            Err("/dev/sdc (2000000000000 bytes) cannot become an OSD: it holds linux_raid_member"),
        );
        check(DiskSelector { id: Some("S3".into()), wipe: true, ..Default::default() }, Ok("/dev/sdc"));
    }

    #[test]
    fn never_takes_a_mounted_or_too_small_disk_even_when_told_to() {
        check(DiskSelector { wipe: true, ..path("/dev/sda") }, Err("it is mounted on /boot"));
        check(DiskSelector { wipe: true, ..path("/dev/sdd") }, Err("smaller than"));
    }

    #[test]
    fn a_description_passes_over_the_disk_that_the_system_is_on() {
        check(DiskSelector { model: Some("SYSTEM".into()), ..Default::default() }, Err("matches no disk"));
    }

    #[test]
    fn a_disk_that_is_missing_does_not_hide_the_others() {
        let gone = DiskSelector { id: Some("S9".into()), ..Default::default() };
        let selection = choose(&devices(), &[gone, path("/dev/sdb")], false, &str::to_owned);
        assert_eq!((selection.faults.len(), selection.chosen.len()), (1, 1));
    }

    #[test]
    fn loop_devices_are_for_tests_only() {
        let device =
            Device { path: "/dev/loop0".into(), kind: "loop".into(), size: 24_000_000_000, ..Default::default() };
        let taken =
            |allow| choose(std::slice::from_ref(&device), &[path("/dev/loop0")], allow, &str::to_owned).chosen.len();
        assert_eq!((taken(false), taken(true)), (0, 1));
    }

    #[test]
    fn says_which_disks_there_are_when_none_matches() {
        check(
            DiskSelector { id: Some("S9".into()), ..Default::default() },
            Err("ceph.disks[0] matches no disk; there are: /dev/sda"),
        );
    }
}
