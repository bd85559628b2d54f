//! What is served: the medium, whole, and the kernel and initrd that its boot image holds. The medium is an ISO file, or the
//! disk or drive that this system runs from. Kernel, initrd and the kernel's words are taken out of the unified kernel
//! image, so that the medium carries them once and a network boot gets the very words that the boot menu would give.
//! Mounts nothing and writes nothing.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use furrow_host::cmd::{Cmd, CmdError};
use object::{Object, ObjectSection};
use serde::Deserialize;

/// Name of the partition with the boot image.
const ESP: &str = "furrow-medium-esp";
/// Where boot images lie on it.
const IMAGES: &str = "EFI/Linux";
/// Sectors behind the last usable one: the second partition table.
const SECOND_TABLE_SECTORS: u64 = 34;
/// One with a boot image of 50 MB; it may grow.
const MAX_ESP_BYTES: u64 = 512 << 20;

/// Why a medium cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("this system runs from no medium ({0}): name one with `--medium FILE.iso`")]
    NoMedium(String),
    #[error("the medium {path} cannot be read")]
    Read {
        path: String,
        #[source]
        reason: io::Error,
    },
    #[error("the partition table of the medium {path} cannot be read")]
    Table {
        path: String,
        #[source]
        reason: CmdError,
    },
    #[error("{path} is no Furrow medium: {reason}")]
    NotOurs { path: String, reason: String },
}

/// The medium.
#[derive(Debug)]
pub(super) struct Source {
    /// The ISO file or the device.
    pub(super) path: PathBuf,
    /// Bytes of it that are the medium.
    pub(super) bytes: u64,
    pub(super) image: BootImage,
}

/// What a boot image holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BootImage {
    pub(super) version: String,
    pub(super) kernel: Bytes,
    pub(super) initrd: Bytes,
    /// The kernel's words for an installation by node.yaml.
    pub(super) unattended: String,
    /// The same for one that asks at the console.
    pub(super) attended: String,
}

/// sfdisk's report (sfdisk(8), `--json`).
#[derive(Deserialize)]
struct Report {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    sectorsize: u64,
    lastlba: u64,
    partitions: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    start: u64,
    size: u64,
    #[serde(default)]
    name: String,
}

/// Reads what of a medium is kept in memory.
///
/// # Errors
/// Why it is none.
pub(super) async fn open(path: &Path) -> Result<Source, SourceError> {
    let shown = || path.display().to_string();
    let read = |reason| SourceError::Read { path: shown(), reason };
    let not_ours = |reason: String| SourceError::NotOurs { path: shown(), reason };
    let mut file = File::open(path).map_err(read)?;
    let length = file.seek(SeekFrom::End(0)).map_err(read)?;
    let sfdisk = Cmd::new("/usr/sbin/sfdisk").arg("--json").arg(path);
    let report = sfdisk.run().await.map_err(|reason| SourceError::Table { path: shown(), reason })?;
    let (bytes, start, size) = extents(&report.stdout).map_err(not_ours)?;
    if bytes > length {
        return Err(not_ours(format!("it has {length} bytes and should have {bytes}: the file is cut off")));
    }
    if size > MAX_ESP_BYTES {
        return Err(not_ours(format!("its partition {ESP} has {size} bytes")));
    }
    // In memory: the file system's chain of clusters is followed by thousands of small reads.
    let mut esp = vec![0; size as usize];
    file.read_exact_at(&mut esp, start).map_err(read)?;
    let (name, image) = boot_image(esp).map_err(read)?;
    let version = name.trim_start_matches("furrow-").trim_end_matches(".efi").to_owned();
    let image = parse(&image, version).map_err(not_ours)?;
    Ok(Source { path: path.to_owned(), bytes, image })
}

/// The medium's bytes, and where on it the ESP begins and how large it is.
fn extents(report: &[u8]) -> Result<(u64, u64, u64), String> {
    let table: Report = serde_json::from_slice(report).map_err(|e| format!("its partition table: {e}"))?;
    let Table { sectorsize, lastlba, partitions } = table.partitiontable;
    let esp = partitions.iter().find(|p| p.name == ESP).ok_or_else(|| format!("it has no partition {ESP}"))?;
    Ok(((lastlba + SECOND_TABLE_SECTORS) * sectorsize, esp.start * sectorsize, esp.size * sectorsize))
}

/// The boot image on the ESP, with its name.
fn boot_image(esp: Vec<u8>) -> io::Result<(String, Vec<u8>)> {
    let files = fatfs::FileSystem::new(Cursor::new(esp), fatfs::FsOptions::new())?;
    for entry in files.root_dir().open_dir(IMAGES)?.iter() {
        let entry = entry?;
        if entry.file_name().ends_with(".efi") {
            let mut image = Vec::new();
            entry.to_file().read_to_end(&mut image)?;
            return Ok((entry.file_name(), image));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no boot image in {IMAGES}")))
}

/// Takes a unified kernel image apart (the UAPI group's specification): sections before the first `.profile` are every
/// profile's, those after one are that profile's only.
fn parse(image: &[u8], version: String) -> Result<BootImage, String> {
    let file = object::File::parse(image).map_err(|e| format!("its boot image: {e}"))?;
    let mut sections = Vec::new();
    for section in file.sections() {
        let name = section.name().map_err(|e| format!("its boot image: {e}"))?.to_owned();
        sections.push((name, section.data().map_err(|e| format!("its boot image: {e}"))?));
    }
    let whole = |name: &str| {
        let found = sections.iter().find(|(n, _)| n == name);
        found.map(|(_, data)| Bytes::copy_from_slice(data)).ok_or_else(|| format!("its boot image has no {name}"))
    };
    let words = |profile: &str| {
        let found = words_of(&sections, profile);
        found.ok_or_else(|| format!("its boot image has no profile `{profile}`"))
    };
    Ok(BootImage {
        version,
        kernel: whole(".linux")?,
        initrd: whole(".initrd")?,
        unattended: words("unattended")?,
        attended: words("install")?,
    })
}

/// The kernel's words of a profile.
fn words_of(sections: &[(String, &[u8])], profile: &str) -> Option<String> {
    let text = |data: &[u8]| String::from_utf8_lossy(data).trim_end_matches('\0').trim().to_owned();
    let id = format!("ID={profile}");
    let is_it = |(name, data): &(String, &[u8])| name == ".profile" && text(data).lines().any(|line| line == id);
    let from = sections.iter().position(is_it)? + 1;
    let own = sections.get(from..)?.iter().take_while(|(name, _)| name != ".profile");
    own.into_iter().find(|(name, _)| name == ".cmdline").map(|(_, data)| text(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_esp_is_found_by_its_name_and_the_medium_ends_with_its_second_table() {
        let report = br#"{"partitiontable": {"label":"gpt","id":"x","device":"f.iso","unit":"sectors","firstlba":64,
            "lastlba":1000,"sectorsize":512,"partitions": [
            {"node":"f.iso1","start":128,"size":64,"type":"C1","uuid":"u","name":"furrow-medium-esp"},
            {"node":"f.iso2","start":256,"size":640,"type":"4F","uuid":"v","name":"furrow-medium-root"}]}}"#;
        assert_eq!(extents(report), Ok((1034 * 512, 128 * 512, 64 * 512)));
        let other = String::from_utf8_lossy(report).replace(ESP, "data");
        assert_eq!(extents(other.as_bytes()), Err("it has no partition furrow-medium-esp".into()));
    }

    #[test]
    fn a_profile_has_its_own_words() {
        let sections: [(String, &[u8]); 8] = [
            (".cmdline".into(), b"main"),
            (".linux".into(), b"kernel"),
            (".profile".into(), b"ID=main\nTITLE=Furrow"),
            (".profile".into(), b"ID=install\nTITLE=Install"),
            (".cmdline".into(), b"roothash=1 furrow.medium\0"),
            (".profile".into(), b"ID=unattended"),
            (".cmdline".into(), b"roothash=1 furrow.unattended"),
            (".profile".into(), b"ID=rescue"),
        ];
        assert_eq!(words_of(&sections, "install").as_deref(), Some("roothash=1 furrow.medium"));
        assert_eq!(words_of(&sections, "unattended").as_deref(), Some("roothash=1 furrow.unattended"));
        assert_eq!(words_of(&sections, "rescue"), None);
        assert_eq!(words_of(&sections, "other"), None);
    }
}
