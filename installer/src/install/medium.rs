//! What the machine was started from: the medium's partitions, its version, and a node.yaml beside it. Reads only.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use furrow_host::cmd::Cmd;

/// Label of a file system with a `node.yaml` for an unattended installation.
pub(crate) const CONFIG_LABEL: &str = "FURROW-CONFIG";
/// The same for FAT, whose labels have 11 characters.
const CONFIG_LABEL_FAT: &str = "FURROW-CFG";
/// The node.yaml that came over the network with the medium; `image/initrd/files/usr/lib/furrow/network` puts it there.
const CONFIG_FROM_NETWORK: &str = "/run/furrow/network/node.yaml";
/// USB sticks answer late.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(30);

/// The medium.
pub(crate) struct Medium {
    /// The root, checked against its hash as it is read.
    pub(crate) root: PathBuf,
    /// The root's hash tree.
    pub(crate) verity: PathBuf,
    /// The partition with the boot files.
    pub(crate) esp: PathBuf,
    /// The disk that they are on, which nothing is installed to.
    pub(crate) disk: String,
    /// The root's hash, hexadecimal.
    pub(crate) root_hash: String,
    /// Version of what is installed.
    pub(crate) version: String,
}

/// Finds the medium that this system runs from.
///
/// # Errors
/// Why it is none.
pub(crate) fn find() -> Result<Medium, String> {
    let root_hash = word("roothash").ok_or("the kernel was not told a root hash")?;
    let by_label = |label: &str| {
        let link = format!("/dev/disk/by-partlabel/{label}");
        std::fs::canonicalize(&link).map_err(|e| format!("{link}: {e}"))
    };
    let verity = by_label("furrow-medium-verity")?;
    let release = std::fs::read_to_string("/usr/lib/os-release").map_err(|e| format!("os-release: {e}"))?;
    let version = release.lines().find_map(|l| l.strip_prefix("IMAGE_VERSION=")).unwrap_or("unknown");
    Ok(Medium {
        root: PathBuf::from("/dev/mapper/root"),
        disk: disk_of(&verity)?,
        verity,
        esp: by_label("furrow-medium-esp")?,
        root_hash,
        version: version.to_owned(),
    })
}

/// The disk of a partition; for one on a loop device, which a CD is seen through, the loop device.
fn disk_of(partition: &Path) -> Result<String, String> {
    let name = partition.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let link = format!("/sys/class/block/{name}/..");
    let parent = std::fs::canonicalize(&link).map_err(|e| format!("{link}: {e}"))?;
    Ok(format!("/dev/{}", parent.file_name().unwrap_or_default().to_string_lossy()))
}

/// The value of `NAME=VALUE` on the kernel's command line, the last one if there are several.
pub(crate) fn word(name: &str) -> Option<String> {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|w| w.strip_prefix(name)?.strip_prefix('=')).next_back().map(str::to_owned)
}

/// Whether the kernel's command line asks for an installation that nobody watches.
pub(crate) fn is_unattended() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().any(|w| w == "furrow.unattended")
}

/// The file system labelled [`CONFIG_LABEL`], if it is there.
pub(crate) fn config_device() -> Option<PathBuf> {
    let links = [CONFIG_LABEL, CONFIG_LABEL_FAT].map(|label| Path::new("/dev/disk/by-label").join(label));
    links.into_iter().find(|link| link.exists())
}

/// What is said where it is needed and missing.
pub(crate) fn no_config() -> String {
    let seconds = CONFIG_TIMEOUT.as_secs();
    format!("no file system labelled {CONFIG_LABEL} (or {CONFIG_LABEL_FAT}) within {seconds} s")
}

/// Gives `read` the node.yaml that came with the medium over the network, otherwise that of the file system labelled
/// [`CONFIG_LABEL`], and the directory it is in, which is there for so long; None when there is neither.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn labelled_config<T>(read: impl AsyncFnOnce(String, &Path) -> T) -> Result<Option<T>, String> {
    let from_network = Path::new(CONFIG_FROM_NETWORK);
    if from_network.exists() {
        let text = std::fs::read_to_string(from_network).map_err(|e| format!("{CONFIG_FROM_NETWORK}: {e}"))?;
        return Ok(Some(read(text, from_network.parent().unwrap_or(Path::new("/"))).await));
    }
    let begun = Instant::now();
    let device = loop {
        if let Some(link) = config_device() {
            break link;
        }
        if begun.elapsed() > CONFIG_TIMEOUT {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let dir = "/run/furrow/config".to_owned();
    std::fs::create_dir_all(&dir).map_err(|e| format!("{dir}: {e}"))?;
    let mount = Cmd::new("/usr/bin/mount").args(["--options", "ro,nodev,noexec,nosuid"]).arg(device).arg(&dir);
    mount.run().await.map_err(|e| e.to_string())?;
    let done = match std::fs::read_to_string(format!("{dir}/node.yaml")) {
        Ok(text) => Ok(Some(read(text, Path::new(&dir)).await)),
        Err(error) => Err(format!("node.yaml on {CONFIG_LABEL}: {error}")),
    };
    let _ = Cmd::new("/usr/bin/umount").arg(&dir).run().await;
    done
}
