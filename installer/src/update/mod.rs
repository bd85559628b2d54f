//! Updating a node: the medium of another version is written to the free slot, checked, and booted on trial.
//!
//! ```text
//!  forget the old image ─> root and hashes to the free slot ─> name the slot by its hash ─> boot image, with a count of tries
//! ```
//! Until the last step no boot image means the free slot, so that a power cut anywhere leaves the running version to boot.
//! The boot loader counts the tries; `furrow-healthy.service` blesses the new version or restarts the machine.

mod manifest;
mod slots;

use std::path::{Path, PathBuf};

use furrow_host::block;

use self::manifest::{Manifest, ManifestError};
use self::slots::{Slot, SlotError};
use crate::boot_entry::{BootEntry, ENTRIES, IMAGES};
use crate::device::{DeviceError, copy_blocks, file, hex, mounted, set_partition};
use crate::download::{self, DownloadError, Source};
use crate::files::replace;
use crate::install::{uuid, word};
use crate::steps::crash;

/// The certificate whose key signs updates; a part of the root, and so of what dm-verity guards.
const CERTIFICATE: &str = "/usr/lib/furrow/update.crt";
/// Where things are mounted meanwhile.
const WORK: &str = "/run/furrow/update";
/// Where a medium is fetched to, with what has come of one that was cut off.
const FETCHED: &str = "/var/lib/furrow/update";
/// A medium has 600 MB and may grow to 700.
const MEDIUM_LIMIT: u64 = 4 << 30;
/// How often a new version may start without becoming healthy.
const TRIES: u32 = 2;

/// Why an update is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{name} is not what the signed list says: the file is damaged")]
    Digest { name: &'static str },
    #[error("{name} has {bytes} bytes, the slot {size}")]
    TooLarge { name: &'static str, bytes: u64, size: u64 },
    #[error("version {0} runs already")]
    Same(String),
    #[error("no boot entry leads to the running version, so that there would be nothing to go back to")]
    NoEntry,
    #[error("version {0} is on trial itself: wait until `furrow-install status` says that all is well, or restart")]
    OnTrial(String),
    #[error("could not {step}")]
    Device {
        step: &'static str,
        #[source]
        reason: DeviceError,
    },
    #[error(transparent)]
    Block(#[from] block::BlockError),
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("{0} is a file: --ca and --sha256 are for a URL")]
    NoUrl(String),
    #[error("the CA {path} cannot be read")]
    Ca {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// What a medium that is fetched is checked by, beside the signature that every medium has.
#[derive(clap::Args)]
pub(crate) struct Checks {
    /// Certificates in PEM that the server is checked against, instead of the system's.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// SHA-256 of the medium. Plain HTTP needs it.
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
}

/// [`run`] with a file or with what a URL brings.
///
/// # Errors
/// Why nothing changes for the next boot.
pub(crate) async fn from(
    medium: &str,
    checks: &Checks,
    crash_after: Option<&str>,
    say: &dyn Fn(&str),
) -> Result<String, UpdateError> {
    if !medium.contains("://") {
        if checks.ca.is_some() || checks.sha256.is_some() {
            return Err(UpdateError::NoUrl(medium.to_owned()));
        }
        return run(Path::new(medium), crash_after, say).await;
    }
    // Whatever makes an update impossible is told before anything is fetched.
    let hash = word("roothash").unwrap_or_default();
    own_entry(&slots::free(&block::list().await?, &hash)?, &hash).await?;
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| UpdateError::Ca { path: path.display().to_string(), source })
    };
    let ca = checks.ca.as_ref().map(read).transpose()?;
    let proxies = download::node_proxies();
    let source = Source::new(medium, (ca.as_deref(), checks.sha256.as_deref()), proxies.as_ref())?;
    say(&format!("fetching {}", source.shown()));
    let file = source.file(Path::new(FETCHED), MEDIUM_LIMIT, say).await?;
    let done = run(&file, crash_after, say).await;
    // What was refused is refused again, and what was taken is in the slot.
    let _ = std::fs::remove_file(&file);
    done
}

fn at(step: &'static str) -> impl FnOnce(DeviceError) -> UpdateError {
    move |reason| UpdateError::Device { step, reason }
}

/// Writes the version that `medium`, an ISO file, carries. `crash_after` names a step after which the process kills itself,
/// for tests. Returns the new version; the machine must be restarted.
///
/// # Errors
/// Why nothing changes for the next boot.
pub(crate) async fn run(medium: &Path, crash_after: Option<&str>, say: &dyn Fn(&str)) -> Result<String, UpdateError> {
    let hash = word("roothash").unwrap_or_default();
    let slot = slots::free(&block::list().await?, &hash)?;
    let iso = Path::new(WORK).join("medium");
    let done = mounted(medium, &iso, "ro,loop", async |iso| Ok(from_medium(iso, &slot, &hash, crash_after, say).await));
    done.await.map_err(at("read the medium"))?
}

async fn from_medium(
    iso: &Path,
    slot: &Slot,
    running: &str,
    crash_after: Option<&str>,
    say: &dyn Fn(&str),
) -> Result<String, UpdateError> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(file(&path)).map_err(at("read the medium"));
    let dir = iso.join("furrow");
    let signature = read(dir.join("SHA256SUMS.sig"))?;
    let manifest = manifest::read(&read(dir.join("SHA256SUMS"))?, &signature, &read(CERTIFICATE.into())?)?;
    let hash = String::from_utf8_lossy(&read(dir.join("roothash"))?).trim().to_owned();
    expect(&digest_of(hash.as_bytes()), manifest.digest("roothash")?, "roothash")?;
    if hash == running {
        return Err(UpdateError::Same(manifest.version));
    }
    let end = |step: &str| {
        say(step);
        crash(crash_after, step);
    };
    let own = own_entry(slot, running).await?;
    say(&format!("version {} goes to {}", manifest.version, slot.root.path));
    // What boots the slot's old content must go before that content does.
    forget_others(slot, &own).await.map_err(at("remove the older boot image"))?;
    end("forgotten");
    for (name, part) in [("root.erofs", &slot.root), ("root.verity", &slot.verity)] {
        let from = dir.join(name);
        let bytes = std::fs::metadata(&from).map_err(file(&from)).map_err(at("read the medium"))?.len();
        if bytes > part.size {
            return Err(UpdateError::TooLarge { name, bytes, size: part.size });
        }
        let digest = copy_blocks(&from, Path::new(&part.path), say).map_err(at("write the slot"))?;
        expect(&digest, manifest.digest(name)?, name)?;
    }
    end("written");
    name_slot(slot, &hash).await.map_err(at("name the slot"))?;
    end("named");
    boot_image(&iso.join("boot/esp.img"), slot, &manifest, own.sequence + 1).await?;
    end("ready");
    Ok(manifest.version)
}

fn digest_of(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(bytes))
}

fn expect(found: &str, wanted: &str, name: &'static str) -> Result<(), UpdateError> {
    if found == wanted { Ok(()) } else { Err(UpdateError::Digest { name }) }
}

/// The boot entry of the running root, whose hash its image holds.
async fn own_entry(slot: &Slot, running: &str) -> Result<BootEntry, UpdateError> {
    let dir = Path::new(WORK).join("esp");
    // Not read-only: systemd has it mounted for writing since somebody looked into it, and both must agree.
    let found = mounted(Path::new(&slot.esp), &dir, "umask=0077", async |esp| {
        let image = |entry: &BootEntry| std::fs::read(esp.join(entry.image())).unwrap_or_default();
        let is_own = |entry: &BootEntry| image(entry).windows(running.len()).any(|w| w == running.as_bytes());
        Ok(entries(esp)?.into_iter().map(|(_, entry)| entry).find(is_own))
    });
    let own = found.await.map_err(at("read the boot entries"))?.ok_or(UpdateError::NoEntry)?;
    // What is on trial may yet turn out not to be healthy, and the other slot is what the machine would go back to.
    if own.tries.is_some() { Err(UpdateError::OnTrial(own.version)) } else { Ok(own) }
}

/// Removes every boot entry and image but the running one's.
async fn forget_others(slot: &Slot, own: &BootEntry) -> Result<(), DeviceError> {
    mounted(Path::new(&slot.esp), &Path::new(WORK).join("esp"), "umask=0077", async |esp| {
        let remove = |path: &Path| std::fs::remove_file(path).map_err(file(path));
        for (path, _) in entries(esp)?.iter().filter(|(_, entry)| entry != own) {
            remove(path)?;
        }
        // Images go after the entries that name them; some may be left from a run that was killed.
        let dir = esp.join(IMAGES);
        for image in std::fs::read_dir(&dir).map_err(file(&dir))?.flatten() {
            if image.path() != esp.join(own.image()) {
                remove(&image.path())?;
            }
        }
        Ok(())
    })
    .await
}

/// The boot entries on a mounted ESP.
fn entries(esp: &Path) -> Result<Vec<(PathBuf, BootEntry)>, DeviceError> {
    let dir = esp.join(ENTRIES);
    let listed = std::fs::read_dir(&dir).map_err(file(&dir))?.flatten();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).ok()?;
        let entry = BootEntry::parse(&path.file_name()?.to_string_lossy(), &text)?;
        Some((path, entry))
    };
    Ok(listed.filter_map(|entry| read(entry.path())).collect())
}

/// Gives the slot's partitions the UUIDs by which its root is found.
async fn name_slot(slot: &Slot, hash: &str) -> Result<(), DeviceError> {
    for (part, half) in [(&slot.root, &hash[..32]), (&slot.verity, &hash[32..])] {
        set_partition(Path::new(&slot.disk), (part.number, "--part-uuid", &uuid(half)), true).await?;
    }
    Ok(())
}

/// Copies the boot image beside the running one's, and then the entry that makes it boot, with its number of tries.
async fn boot_image(medium_esp: &Path, slot: &Slot, manifest: &Manifest, sequence: u32) -> Result<(), UpdateError> {
    let work = Path::new(WORK);
    let dir = work.join("medium-esp");
    let image = mounted(medium_esp, &dir, "ro,loop", async |esp| {
        let path = esp.join("EFI/Linux").join(&manifest.image);
        std::fs::read(&path).map_err(file(&path))
    });
    let image = image.await.map_err(at("read the medium's boot image"))?;
    expect(&digest_of(&image), manifest.image_digest(), "the boot image")?;
    let entry = BootEntry { version: manifest.version.clone(), sequence, tries: Some(TRIES) };
    mounted(Path::new(&slot.esp), &work.join("esp"), "umask=0077", async |esp| {
        let path = esp.join(entry.image());
        replace(&path, &image, 0o600).map_err(file(&path))?;
        let path = esp.join(ENTRIES).join(entry.file_name());
        replace(&path, entry.text().as_bytes(), 0o600).map_err(file(&path))
    })
    .await
    .map_err(at("write the boot image"))
}

/// When a version came to the mounted ESP.
pub(crate) fn installed_at(esp: &Path, version: &str) -> Option<std::time::SystemTime> {
    let (path, _) = entries(esp).ok()?.into_iter().find(|(_, entry)| entry.version == version)?;
    std::fs::metadata(path).ok()?.modified().ok()
}

/// Versions on the mounted ESP that used up their tries.
pub(crate) fn failed_versions(esp: &Path) -> Vec<String> {
    let all = entries(esp).unwrap_or_default().into_iter();
    all.filter(|(_, entry)| entry.has_failed()).map(|(_, entry)| entry.version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_tries_has_failed() {
        let esp = tempfile::tempdir().expect("a directory");
        for (version, tries) in [("0.1.0-a", None), ("0.2.0-b", Some(0)), ("0.3.0-c", Some(1))] {
            let entry = BootEntry { version: version.into(), sequence: 1, tries };
            let path = esp.path().join(ENTRIES).join(entry.file_name());
            replace(&path, entry.text().as_bytes(), 0o600).expect("written");
        }
        assert_eq!(failed_versions(esp.path()), ["0.2.0-b"]);
    }
}
