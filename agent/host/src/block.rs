//! Block devices: what `lsblk` knows of them, what is really on them (`blkid`, the first bytes), and erasing. Refuses to
//! decide which device may be erased: [`erase`] does as told, its caller has looked with [`contents`] just before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::cmd::{Cmd, CmdError};

/// What every BlueStore device begins with (Ceph, `bluestore_bdev_label_t`).
const BLUESTORE_MAGIC: &[u8] = b"bluestore block device";

/// Anything that describes a device's contents stands in its first MiB: partition tables, file systems, RAID, LVM,
/// LUKS. GPT's second copy and RAID 1.0's record at the end are `wipefs`' part.
const HEAD_BYTES: usize = 1024 * 1024;

/// What is zeroed at the beginning: BlueStore's label and superblock too lie within it.
const ERASE_BYTES: u64 = 100 * 1024 * 1024;

/// Probing and wiping touch little; a disk that takes longer is broken.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// A block device as `lsblk --json` shows it, partitions and what is stacked on it as children.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Kernel name, `/dev/...`.
    pub path: String,
    /// `disk`, `part`, `loop`, `lvm`, `raid1`, `crypt`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Model, often padded with blanks.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World Wide Name.
    pub wwn: Option<String>,
    /// File system or other signature.
    pub fstype: Option<String>,
    /// Label of a GPT partition.
    pub partlabel: Option<String>,
    /// UUID of a GPT partition, lower case.
    pub partuuid: Option<String>,
    /// Number of a partition on its disk.
    pub partn: Option<u32>,
    /// Kind of partition table.
    pub pttype: Option<String>,
    /// Where it is mounted; `[SWAP]` for swap.
    pub mountpoints: Vec<Option<String>>,
    /// Read-only.
    pub ro: bool,
    /// What lies on it.
    pub children: Vec<Device>,
}

#[derive(Deserialize)]
struct Lsblk {
    blockdevices: Vec<Device>,
}

/// Why a device could not be looked at or erased.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CmdError),
    /// `lsblk` printed what it does not document.
    #[error("could not read the answer of lsblk")]
    Lsblk(#[source] serde_json::Error),
    /// Reading or writing the device itself failed.
    #[error("could not {what} {path}")]
    Device {
        /// What was tried.
        what: &'static str,
        /// The device.
        path: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing: no signature, and its first MiB is zero.
    Blank,
    /// The kernel holds it: mounted (in any namespace), swap, or part of another device.
    InUse,
    /// A BlueStore device.
    BlueStore,
    /// Something else, in words.
    Data(String),
}

/// The arguments with which `lsblk` prints what [`parse`] reads. Without the column NAME it prints a flat list unless it
/// is told the tree's column: partitions would not stand below their disks.
const LSBLK_ARGS: [&str; 5] = [
    "--json",
    "--bytes",
    "--tree=PATH",
    "--output",
    "PATH,TYPE,SIZE,MODEL,SERIAL,WWN,FSTYPE,PARTLABEL,PARTUUID,PARTN,PTTYPE,MOUNTPOINTS,RO",
];

/// All block devices that have a device node here. In a container sysfs shows the host's as well, which are not ours.
///
/// # Errors
/// When `lsblk` fails or cannot be understood.
pub async fn list() -> Result<Vec<Device>, BlockError> {
    let output = Cmd::new("/usr/bin/lsblk").args(LSBLK_ARGS).run().await?;
    let mut devices = parse(&output.stdout)?;
    devices.retain(|device| is_block_device(Path::new(&device.path)));
    Ok(devices)
}

/// Reads the answer of `lsblk`.
///
/// # Errors
/// When it is not what `lsblk --json` of util-linux 2.41 prints.
pub fn parse(json: &[u8]) -> Result<Vec<Device>, BlockError> {
    serde_json::from_slice::<Lsblk>(json).map(|answer| answer.blockdevices).map_err(BlockError::Lsblk)
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Whether a device begins as BlueStore does; one that cannot be read does not.
pub fn is_bluestore(path: &Path) -> bool {
    let mut head = [0_u8; BLUESTORE_MAGIC.len()];
    File::open(path).and_then(|mut device| device.read_exact(&mut head)).is_ok() && head == BLUESTORE_MAGIC
}

/// What is on a device now, by a look at the device itself: what udev or a cache knew may be old.
///
/// # Errors
/// When it cannot be read.
pub async fn contents(path: &Path) -> Result<Contents, BlockError> {
    let failed = |source| BlockError::Device { what: "read", path: path.display().to_string(), source };
    // O_EXCL on a block device asks the kernel for a claim, which whoever has mounted it, in any namespace, refuses.
    let device = OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL | nix::libc::O_CLOEXEC).open(path);
    let device = match device {
        Ok(device) => device,
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => return Ok(Contents::InUse),
        Err(error) => return Err(failed(error)),
    };
    let mut head = Vec::with_capacity(HEAD_BYTES);
    device.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
    if head.starts_with(BLUESTORE_MAGIC) {
        return Ok(Contents::BlueStore);
    }
    let probe = Cmd::new("/usr/sbin/blkid").args(["--probe", "--output", "export"]).arg(path).timeout(PROBE_TIMEOUT);
    let probe = probe.run_unchecked().await?;
    Ok(judge(probe.code, &probe.text(), head.iter().any(|byte| *byte != 0)))
}

/// blkid's exit codes: 0 found, 2 nothing found, 8 several contradicting signatures (blkid(8)).
fn judge(code: Option<i32>, export: &str, head_is_used: bool) -> Contents {
    let value = |key: &str| export.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (code, value("TYPE"), value("PTTYPE")) {
        (_, Some(kind), _) => Contents::Data(kind.to_owned()),
        (_, None, Some(table)) => Contents::Data(format!("a {table} partition table")),
        (Some(2), None, None) if !head_is_used => Contents::Blank,
        (Some(0 | 2), None, None) if head_is_used => Contents::Data("bytes of no known format".to_owned()),
        (Some(8), None, None) => Contents::Data("several signatures at once".to_owned()),
        // Anything unexpected is taken for data: a disk refused is an error message, a disk erased is a loss.
        (code, None, None) => Contents::Data(format!("something that blkid could not name (code {code:?})")),
    }
}

/// Removes every signature and zeroes the first 100 MiB.
///
/// # Errors
/// When the device is in use or cannot be written.
pub async fn erase(path: &Path) -> Result<(), BlockError> {
    Cmd::new("/usr/sbin/wipefs").args(["--all", "--quiet"]).arg(path).timeout(PROBE_TIMEOUT).run().await?;
    let owned = path.to_owned();
    let zeroed = tokio::task::spawn_blocking(move || zero_head(&owned)).await;
    let failed = |source| BlockError::Device { what: "erase", path: path.display().to_string(), source };
    zeroed.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}

fn zero_head(path: &Path) -> io::Result<()> {
    let flags = nix::libc::O_EXCL | nix::libc::O_CLOEXEC;
    let mut device = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let end = device.seek(SeekFrom::End(0))?.min(ERASE_BYTES);
    device.seek(SeekFrom::Start(0))?;
    let zeros = vec![0_u8; HEAD_BYTES];
    let mut left = end;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
        device.write_all(&zeros[..now])?;
        left -= now as u64;
    }
    device.sync_all()
}

/// The most telling stable link to a device below `/dev/disk/by-id`, the device's own path when there is none (loop
/// devices, virtual disks without serial).
pub fn stable_path(path: &Path) -> std::path::PathBuf {
    let Ok(links) = std::fs::read_dir("/dev/disk/by-id") else { return path.to_owned() };
    let Ok(device) = std::fs::metadata(path).map(|metadata| metadata.rdev()) else { return path.to_owned() };
    let mut same: Vec<_> = links
        .flatten()
        .map(|link| link.path())
        .filter(|link| std::fs::metadata(link).is_ok_and(|metadata| metadata.rdev() == device))
        .collect();
    same.sort();
    same.into_iter().next().unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_without_any_sign_is_blank() {
        assert_eq!(judge(Some(2), "", false), Contents::Blank);
        assert_eq!(judge(Some(2), "", true), Contents::Data("bytes of no known format".into()));
        assert_eq!(judge(Some(0), "TYPE=ext4\nUUID=1\n", true), Contents::Data("ext4".into()));
        assert_eq!(judge(Some(0), "PTTYPE=gpt\n", true), Contents::Data("a gpt partition table".into()));
        assert_eq!(judge(Some(8), "", true), Contents::Data("several signatures at once".into()));
        assert!(matches!(judge(Some(4), "", false), Contents::Data(_)), "an unknown answer is not a blank disk");
        assert!(matches!(judge(None, "", false), Contents::Data(_)));
    }

    #[tokio::test]
    async fn erasing_leaves_nothing_that_bluestore_or_blkid_know() {
        let dir = std::env::temp_dir().join(format!("furrow-block-{}", std::process::id()));
        std::fs::write(&dir, [BLUESTORE_MAGIC, &[7_u8; 4096]].concat()).expect("written");
        assert!(is_bluestore(&dir));
        zero_head(&dir).expect("zeroed");
        assert!(!is_bluestore(&dir));
        assert!(std::fs::read(&dir).expect("read").iter().all(|byte| *byte == 0), "and keeps its size");
        std::fs::remove_file(&dir).expect("removed");
    }

    #[test]
    fn reads_what_lsblk_prints() {
        let json =
            br#"{"blockdevices":[{"path":"/dev/sda","type":"disk","size":1000,"model":"M ","serial":null,"wwn":null,
            "fstype":null,"partlabel":null,"pttype":"gpt","mountpoints":[null],"ro":false,
            "children":[{"path":"/dev/sda1","type":"part","size":10,"mountpoints":["/"],"ro":false}]}]}"#;
        let devices = parse(json).expect("read");
        assert_eq!(devices[0].children[0].mountpoints, [Some("/".to_owned())]);
    }
}
