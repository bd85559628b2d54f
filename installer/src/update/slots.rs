//! Which of the two slots an update is written to: the one that this system does not run from. Pure.

use furrow_host::block::Device;

use crate::install::{ESP_LABEL, UNFINISHED_LABEL, is_root, uuid};

/// A partition that is written to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) path: String,
    /// On its disk, from 1.
    pub(super) number: u32,
    /// Bytes.
    pub(super) size: u64,
}

/// The slot that is free.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    pub(super) disk: String,
    pub(super) esp: String,
    pub(super) root: Part,
    pub(super) verity: Part,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum SlotError {
    #[error("this system does not run from an installed disk: no partition has the UUID {0}")]
    NotInstalled(String),
    #[error("the disk {disk} has no partition {label}")]
    NoPartition { disk: String, label: String },
}

/// The slot beside the one whose root has this hash.
pub(super) fn free(devices: &[Device], root_hash: &str) -> Result<Slot, SlotError> {
    let is_active = |d: &&Device| is_root(d, root_hash);
    let disk = devices.iter().find(|d| d.children.iter().any(|c| is_active(&c)));
    let disk = disk.ok_or_else(|| SlotError::NotInstalled(root_hash.get(..32).map(uuid).unwrap_or_default()))?;
    let in_a = disk.children.iter().filter(is_active).any(|d| d.partlabel.as_deref() == Some("furrow-root-a"));
    let letter = if in_a { "b" } else { "a" };
    let part = |label: &str| {
        let found = disk.children.iter().find(|d| d.partlabel.as_deref() == Some(label));
        let found = found.and_then(|d| Some(Part { path: d.path.clone(), number: d.partn?, size: d.size }));
        found.ok_or_else(|| SlotError::NoPartition { disk: disk.path.clone(), label: label.to_owned() })
    };
    Ok(Slot {
        disk: disk.path.clone(),
        // An installation that was cut off at its very end is named right at the next boot, not within this one.
        esp: part(ESP_LABEL).or_else(|missing| part(UNFINISHED_LABEL).map_err(|_| missing))?.path,
        root: part(&format!("furrow-root-{letter}"))?,
        verity: part(&format!("furrow-verity-{letter}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00112233445566778899aabbccddeeff";
    const B: &str = "ffeeddccbbaa99887766554433221100";

    fn devices() -> Vec<Device> {
        let part = |n: u32, label: &str, uuid: &str| {
            format!(
                r#"{{"path":"/dev/sda{n}","type":"part","size":100,"partn":{n},"partlabel":"{label}","partuuid":"{uuid}","mountpoints":[null]}}"#
            )
        };
        let (a, b) = (uuid(A), uuid(B));
        let parts = [
            part(1, "furrow-esp", "e"),
            part(2, "furrow-root-a", &a),
            part(3, "furrow-verity-a", "va"),
            part(4, "furrow-root-b", &b),
            part(5, "furrow-verity-b", "vb"),
        ];
        let json = format!(
            r#"{{"blockdevices":[{{"path":"/dev/sda","type":"disk","size":1000,"mountpoints":[null],"children":[{}]}}]}}"#,
            parts.join(",")
        );
        furrow_host::block::parse(json.as_bytes()).expect("devices")
    }

    #[test]
    fn the_slot_that_runs_is_never_the_free_one() {
        for (running, free_root) in [(A, 4), (B, 2)] {
            let slot = free(&devices(), &format!("{running}{running}")).expect("a slot");
            assert_eq!((slot.root.number, slot.verity.number), (free_root, free_root + 1));
            assert_eq!(slot.esp, "/dev/sda1");
        }
    }

    #[test]
    fn a_medium_has_no_slot() {
        assert!(matches!(free(&devices(), &"12".repeat(32)), Err(SlotError::NotInstalled(_))));
    }
}
