//! The partitions of a node's disk: names, sizes and contents, as data and as systemd-repart's definitions. Pure.
//!
//! ```text
//!  furrow-esp │ root A │ its hashes │ root B │ its hashes │ furrow-state │ furrow-osd (where node.yaml names it)
//! ```
//! A root and its hash tree are found by their UUIDs, which are the halves of the root's hash (the UAPI group's
//! discoverable partitions), so that a boot image fits whichever slot holds its root.

use std::fmt;

use furrow_host::block::Device;

/// The ESP's name from the beginning of an installation to its end.
pub(crate) const UNFINISHED_LABEL: &str = "furrow-installing";
/// The ESP.
pub(crate) const ESP_LABEL: &str = "furrow-esp";
/// The first slot's root, which an installation fills.
pub(crate) const ROOT_LABEL: &str = "furrow-root-a";
/// The first slot's hash tree.
pub(crate) const VERITY_LABEL: &str = "furrow-verity-a";
/// `/var`, `/root` and what is changed below `/etc`.
pub(crate) const STATE_LABEL: &str = "furrow-state";
/// The rest of a disk that Ceph shares with the system, when a selector of `ceph.disks` names it.
pub(crate) const OSD_LABEL: &str = "furrow-osd";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Two boot images of 60 MB and a third being written.
const ESP_BYTES: u64 = 512 * MIB;
/// A root of 560 MB may grow threefold.
const ROOT_BYTES: u64 = 2 * GIB;
/// The hash tree of 2 GiB is 16.3 MiB.
const VERITY_BYTES: u64 = 32 * MIB;
/// etcd, the monitor's store, container images and logs.
const STATE_MIN_BYTES: u64 = 8 * GIB;
/// What the state gets at most of a disk that it shares with Ceph.
const STATE_MAX_BYTES: u64 = 128 * GIB;
/// BlueStore's own least is 5 GB.
const OSD_MIN_BYTES: u64 = 6 * GIB;
/// Partition tables at both ends, and alignment.
const TABLE_BYTES: u64 = 4 * MIB;

/// The least disk that the system fits on.
pub(crate) const MIN_DISK_BYTES: u64 = TABLE_BYTES + ESP_BYTES + 2 * (ROOT_BYTES + VERITY_BYTES) + STATE_MIN_BYTES;

/// The least disk that the system and Ceph share.
pub(crate) const MIN_SHARED_BYTES: u64 = MIN_DISK_BYTES + OSD_MIN_BYTES;

/// Why a disk cannot be divided.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("a disk that Ceph shares with the system needs {needed} bytes, this one has {size}")]
    TooSmallToShare { needed: u64, size: u64 },
    #[error("the medium's root hash `{0}` is not 64 hexadecimal digits")]
    Hash(String),
}

/// What a partition is, in systemd-repart's words.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Esp,
    Root,
    RootVerity,
    Generic,
}

/// One partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Partition {
    kind: Kind,
    /// Its name in the partition table.
    pub(crate) label: &'static str,
    /// Bytes; the last partition takes what is left.
    bytes: u64,
    grows: bool,
    uuid: Option<String>,
    format: Option<&'static str>,
    what: &'static str,
}

/// The partitions in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) partitions: Vec<Partition>,
}

/// Divides a disk of `size` bytes. `osd`: Ceph gets a part. `hash`: the root's, in hexadecimal.
///
/// # Errors
/// When it does not fit.
pub(crate) fn plan(size: u64, osd: bool, hash: &str) -> Result<Layout, LayoutError> {
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(LayoutError::Hash(hash.to_owned()));
    }
    if osd && size < MIN_SHARED_BYTES {
        return Err(LayoutError::TooSmallToShare { needed: MIN_SHARED_BYTES, size });
    }
    let fixed = TABLE_BYTES + ESP_BYTES + 2 * (ROOT_BYTES + VERITY_BYTES);
    // A tenth of a disk, so that a small one is Ceph's for the most part.
    let state = if osd { (size / 10).clamp(STATE_MIN_BYTES, STATE_MAX_BYTES) } else { size - fixed };
    let part =
        |kind, label, bytes, what| Partition { kind, label, bytes, grows: false, uuid: None, format: None, what };
    let filled = |partition: Partition, half: &str| Partition { uuid: Some(uuid(half)), ..partition };
    let mut partitions = vec![
        Partition { format: Some("vfat"), ..part(Kind::Esp, UNFINISHED_LABEL, ESP_BYTES, "boot images") },
        filled(part(Kind::Root, ROOT_LABEL, ROOT_BYTES, "the system, read-only"), &hash[..32]),
        filled(part(Kind::RootVerity, VERITY_LABEL, VERITY_BYTES, "its hashes"), &hash[32..]),
        part(Kind::Root, "furrow-root-b", ROOT_BYTES, "for the next version"),
        part(Kind::RootVerity, "furrow-verity-b", VERITY_BYTES, "its hashes"),
        Partition { format: Some("ext4"), ..part(Kind::Generic, STATE_LABEL, state, "the node's own state") },
    ];
    if osd {
        partitions.push(part(Kind::Generic, OSD_LABEL, size - fixed - state, "for Ceph"));
    }
    if let Some(last) = partitions.last_mut() {
        last.grows = true;
    }
    Ok(Layout { partitions })
}

/// Whether a partition is the root with this hash.
pub(crate) fn is_root(partition: &Device, hash: &str) -> bool {
    let wanted = hash.get(..32).map(uuid);
    wanted.is_some_and(|wanted| partition.partuuid.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(&wanted)))
}

/// A partition's UUID from 32 hexadecimal digits: the root's hash names the root by its first half and the hash tree by its
/// second.
pub(crate) fn uuid(half: &str) -> String {
    format!("{}-{}-{}-{}-{}", &half[..8], &half[8..12], &half[12..16], &half[16..20], &half[20..32])
}

impl Partition {
    /// systemd-repart's definition (repart.d(5)).
    pub(crate) fn definition(&self) -> String {
        let kind = match self.kind {
            Kind::Esp => "esp",
            Kind::Root => "root-x86-64",
            Kind::RootVerity => "root-x86-64-verity",
            Kind::Generic => "linux-generic",
        };
        let mut text = format!("[Partition]\nType={kind}\nLabel={}\n", self.label);
        if self.grows {
            text += "Weight=1000\n";
        } else {
            text += &format!("SizeMinBytes={0}\nSizeMaxBytes={0}\n", self.bytes);
        }
        if let Some(uuid) = &self.uuid {
            text += &format!("UUID={uuid}\n");
        }
        if let Some(format) = self.format {
            text += &format!("Format={format}\n");
        }
        text
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = if self.label == UNFINISHED_LABEL { ESP_LABEL } else { self.label };
        write!(f, "{label:16} {:>7} MiB  {}", self.bytes / MIB, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn a_root_is_found_by_its_hash() {
        let layout = plan(100 * GIB, false, HASH).expect("fits");
        let [_, root, verity, ..] = layout.partitions.as_slice() else { panic!("too few") };
        assert!(root.definition().contains("UUID=00112233-4455-6677-8899-aabbccddeeff\n"), "{}", root.definition());
        assert!(verity.definition().contains("UUID=01234567-89ab-cdef-0123-456789abcdef\n"));
    }

    #[test]
    fn partitions_fill_the_disk_and_no_more() {
        for (size, osd) in [(MIN_DISK_BYTES, false), (MIN_SHARED_BYTES, true), (4000 * GIB, true)] {
            let layout = plan(size, osd, HASH).expect("fits");
            let sum: u64 = layout.partitions.iter().map(|p| p.bytes).sum();
            assert_eq!(sum + TABLE_BYTES, size, "{layout:?}");
            assert!(layout.partitions.iter().all(|p| p.bytes > 0));
            assert_eq!(layout.partitions.iter().filter(|p| p.grows).count(), 1);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(plan(MIN_DISK_BYTES, true, HASH), Err(LayoutError::TooSmallToShare { .. })));
        assert!(matches!(plan(100 * GIB, false, "beef"), Err(LayoutError::Hash(_))));
    }

    #[test]
    fn labels_fit_a_partition_table() {
        let layout = plan(100 * GIB, true, HASH).expect("fits");
        assert!(layout.partitions.iter().all(|p| p.label.len() <= 36));
    }
}
