//! The firmware's own boot entry for an installed disk: the EFI variable `Boot####` with the title "Furrow", first in
//! `BootOrder` (UEFI specification, 3.1 and 10.3). There is one such entry, made anew for each installation; those of other
//! systems stay, behind it. A reset takes it away. Firmware that keeps no variables starts a disk by the fallback path, so that whatever fails here
//! is told and ends no installation.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use uuid::Uuid;

/// Where the kernel shows the firmware's variables.
pub(crate) const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The namespace of the variables that the specification defines.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, for boot services and for the running system.
const ATTRIBUTES: u32 = 7;
/// LOAD_OPTION_ACTIVE: the firmware may start it.
const ACTIVE: u32 = 1;
/// What the entry is called, and known by.
const TITLE: &str = "Furrow";
/// What it starts on the ESP.
const LOADER: &str = r"\EFI\systemd\systemd-bootx64.efi";

/// Why there is no entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("the firmware shows no variables")]
    NoVariables,
    #[error("all 65536 boot entries are taken")]
    Full,
    #[error("{0} says nothing of the ESP")]
    NoPlace(String),
    #[error("{path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Where an ESP lies, as a hard drive's device path says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Esp {
    /// On its disk, from 1.
    number: u32,
    /// Logical blocks.
    start: u64,
    blocks: u64,
    uuid: Uuid,
}

impl Esp {
    /// Reads a partition's place from sysfs. `uuid`: its own, from the partition table.
    ///
    /// # Errors
    /// When sysfs does not have it.
    pub(crate) fn observe(partition: &str, uuid: Uuid) -> Result<Esp, EntryError> {
        let dir = Path::new("/sys/class/block").join(partition.trim_start_matches("/dev/"));
        let number = |name: &str| -> Result<u64, EntryError> {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path).map_err(file(&path))?;
            text.trim().parse().map_err(|_| EntryError::NoPlace(path.display().to_string()))
        };
        // sysfs counts in 512 bytes, whatever the disk's own blocks are.
        let block = number("../queue/logical_block_size")?.max(512);
        Ok(Esp {
            number: number("partition")?.try_into().map_err(|_| EntryError::NoPlace(partition.to_owned()))?,
            start: number("start")? * 512 / block,
            blocks: number("size")? * 512 / block,
            uuid,
        })
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> EntryError {
    let path = path.display().to_string();
    move |source| EntryError::File { path, source }
}

/// Makes the entry for this ESP the only one of ours and the first in the order; writes nothing that is as it should be.
/// Returns the entry's number.
///
/// # Errors
/// When the firmware has no variables or does not take them.
pub(crate) fn ensure(variables: &Path, esp: &Esp) -> Result<u16, EntryError> {
    let entries = entries(variables)?;
    let wanted = encode(esp);
    let ours = ours(&entries);
    let same = ours.iter().find(|n| entries[n] == wanted);
    let number = match same.or(ours.first()) {
        Some(number) => *number,
        None => (0..=u16::MAX).find(|n| !entries.contains_key(n)).ok_or(EntryError::Full)?,
    };
    if same.is_none() {
        write(variables, &name(number), &wanted)?;
    }
    let old = order(variables)?;
    let rest = old.iter().filter(|n| **n != number && !ours.contains(n));
    let new: Vec<u16> = std::iter::once(number).chain(rest.copied()).collect();
    if new != old {
        write(variables, "BootOrder", &new.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    // Last, so that the order never names what is gone.
    for stale in ours.iter().filter(|n| **n != number) {
        delete(variables, &name(*stale))?;
    }
    Ok(number)
}

/// Removes every entry of ours, first from the order; those of other systems stay. Returns how many there were.
///
/// # Errors
/// When the firmware has no variables or does not take them.
pub(crate) fn forget(variables: &Path) -> Result<usize, EntryError> {
    let ours = ours(&entries(variables)?);
    let old = order(variables)?;
    let new: Vec<u16> = old.iter().copied().filter(|n| !ours.contains(n)).collect();
    if new.is_empty() && !old.is_empty() {
        delete(variables, "BootOrder")?;
    } else if new != old {
        write(variables, "BootOrder", &new.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    for number in &ours {
        delete(variables, &name(*number))?;
    }
    Ok(ours.len())
}

/// The numbers of our entries.
fn ours(entries: &BTreeMap<u16, Vec<u8>>) -> Vec<u16> {
    entries.iter().filter(|(_, entry)| title(entry).as_deref() == Some(TITLE)).map(|(number, _)| *number).collect()
}

fn delete(variables: &Path, name: &str) -> Result<(), EntryError> {
    let path = variables.join(format!("{name}-{GLOBAL}"));
    std::fs::remove_file(&path).map_err(file(&path))
}

/// A variable's name by its entry's number.
pub(crate) fn name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// The boot entries by number, without attributes.
fn entries(variables: &Path) -> Result<BTreeMap<u16, Vec<u8>>, EntryError> {
    let mut found = BTreeMap::new();
    let listed = std::fs::read_dir(variables).map_err(|_| EntryError::NoVariables)?;
    for path in listed.flatten().map(|e| e.path()) {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = file_name.strip_prefix("Boot").and_then(|rest| rest.strip_suffix(&format!("-{GLOBAL}")));
        let Some(number) = digits.filter(|d| d.len() == 4).and_then(|d| u16::from_str_radix(d, 16).ok()) else {
            continue;
        };
        let content = std::fs::read(&path).map_err(file(&path))?;
        found.insert(number, content.get(4..).unwrap_or_default().to_vec());
    }
    // A mounted efivarfs of a machine that booted by UEFI always has something.
    if std::fs::read_dir(variables).map_err(file(variables))?.next().is_none() {
        return Err(EntryError::NoVariables);
    }
    Ok(found)
}

fn order(variables: &Path) -> Result<Vec<u16>, EntryError> {
    let path = variables.join(format!("BootOrder-{GLOBAL}"));
    let content = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file(&path))?,
    };
    let (pairs, _) = content.get(4..).unwrap_or_default().as_chunks::<2>();
    Ok(pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// efivarfs takes attributes and content in one write.
fn write(variables: &Path, name: &str, content: &[u8]) -> Result<(), EntryError> {
    let path = variables.join(format!("{name}-{GLOBAL}"));
    let bytes = [ATTRIBUTES.to_le_bytes().as_slice(), content].concat();
    let mut target =
        std::fs::File::options().write(true).create(true).truncate(true).open(&path).map_err(file(&path))?;
    target.write_all(&bytes).map_err(file(&path))
}

/// EFI_LOAD_OPTION: attributes, length of the path, title, path.
fn encode(esp: &Esp) -> Vec<u8> {
    let mut path = Vec::new();
    let mut drive = Vec::new();
    drive.extend(esp.number.to_le_bytes());
    drive.extend(esp.start.to_le_bytes());
    drive.extend(esp.blocks.to_le_bytes());
    drive.extend(esp.uuid.to_bytes_le());
    // A GPT, whose partitions have a GUID for a signature.
    drive.extend([2, 2]);
    node(&mut path, (4, 1), &drive);
    node(&mut path, (4, 4), &utf16(LOADER));
    node(&mut path, (0x7f, 0xff), &[]);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(utf16(TITLE));
    option.extend(path);
    option
}

/// A node of a device path: type, subtype, length with this head, content.
fn node(path: &mut Vec<u8>, (kind, subkind): (u8, u8), content: &[u8]) {
    path.extend([kind, subkind]);
    path.extend((content.len() as u16 + 4).to_le_bytes());
    path.extend(content);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The title of an EFI_LOAD_OPTION.
fn title(option: &[u8]) -> Option<String> {
    let (pairs, _) = option.get(6..)?.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    Some(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp(uuid: u128) -> Esp {
        Esp { number: 1, start: 2048, blocks: 1_048_576, uuid: Uuid::from_u128(uuid) }
    }

    /// A firmware with an entry of another system, which is started first.
    fn firmware() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let mut option = ACTIVE.to_le_bytes().to_vec();
        option.extend([4, 0]);
        option.extend(utf16("UEFI Shell"));
        option.extend([0x7f, 0xff, 4, 0]);
        write(dir.path(), "Boot0000", &option).expect("written");
        write(dir.path(), "BootOrder", &[0, 0]).expect("written");
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("listed")
            .flatten()
            .map(|e| e.file_name().to_string_lossy()[..8].to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_is_made_once_and_first() {
        let dir = firmware();
        for _ in 0..2 {
            assert_eq!(ensure(dir.path(), &esp(7)).expect("made"), 1);
            assert_eq!(order(dir.path()).expect("read"), [1, 0]);
            assert_eq!(names(dir.path()), ["Boot0000", "Boot0001", "BootOrde"]);
        }
    }

    #[test]
    fn another_installation_takes_the_older_ones_place() {
        let dir = firmware();
        ensure(dir.path(), &esp(7)).expect("made");
        // One more of ours, as another disk's installation may have left it.
        write(dir.path(), "Boot0005", &encode(&esp(8))).expect("written");
        write(dir.path(), "BootOrder", &[0, 0, 5, 0, 1, 0]).expect("written");
        assert_eq!(ensure(dir.path(), &esp(9)).expect("made"), 1);
        assert_eq!(entries(dir.path()).expect("read")[&1], encode(&esp(9)));
        assert_eq!(order(dir.path()).expect("read"), [1, 0]);
        assert_eq!(names(dir.path()), ["Boot0000", "Boot0001", "BootOrde"]);
    }

    #[test]
    fn a_reset_takes_ours_away_and_no_other() {
        let dir = firmware();
        ensure(dir.path(), &esp(7)).expect("made");
        for left in [1, 0] {
            assert_eq!(forget(dir.path()).expect("gone"), left);
            assert_eq!(order(dir.path()).expect("read"), [0]);
            assert_eq!(names(dir.path()), ["Boot0000", "BootOrde"]);
        }
        write(dir.path(), "Boot0000", &encode(&esp(7))).expect("written");
        assert_eq!(forget(dir.path()).expect("gone"), 1);
        assert!(names(dir.path()).is_empty(), "an order of nothing is none");
    }

    #[test]
    fn firmware_without_variables_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(ensure(dir.path(), &esp(7)), Err(EntryError::NoVariables)));
        assert!(matches!(ensure(&dir.path().join("none"), &esp(7)), Err(EntryError::NoVariables)));
    }

    #[test]
    fn an_entry_is_laid_out_as_the_specification_says() {
        let option = encode(&esp(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        assert_eq!(title(&option).as_deref(), Some("Furrow"));
        let drive = &option[6 + 14..][..42];
        assert_eq!(&drive[..8], [4, 1, 42, 0, 1, 0, 0, 0]);
        assert_eq!(
            &drive[24..40],
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert_eq!(&drive[40..], [2, 2]);
        let length = u16::from_le_bytes([option[4], option[5]]) as usize;
        assert_eq!(length, option.len() - 20);
        assert_eq!(&option[option.len() - 4..], [0x7f, 0xff, 4, 0]);
    }
}
