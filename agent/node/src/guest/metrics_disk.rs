//! The disk of metrics of a guest that has one (`volumes[].downwardMetrics`): a file in the guest's directory, written in
//! place by a task a guest for as long as it runs. QEMU reads it past the page cache (`cache="none"`), and so does what
//! looks at it in the guest, so that both see what was written last.
//!
//! The directory is QEMU's user's: the file is opened by root without following a link, and only if it is the one that was
//! made. Refuses to sync it: it is worth nothing after the guest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::Volume;
use furrow_model::metrics_disk::{DISK_BYTES, DiskUpdate, HEADER_BYTES, disk_update};
use furrow_model::reasons::chain;
use kube::ResourceExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::host_metrics::{FRESH, document};
use super::seed::SeedError;
use super::{Context, Key};

/// Name of the file in the guest's directory.
pub(super) const FILE: &str = "host-metrics.img";
/// What is there before the first metrics, as KubeVirt has it.
const NOTHING: &str = "<metrics>\n</metrics>\n";

fn has_one(volumes: &[Volume]) -> bool {
    volumes.iter().any(|volume| volume.downward_metrics.is_some())
}

/// Makes the disk of a guest that starts, if it is to have one. Blocks.
pub(super) fn make(guest_dir: &Path, volumes: &[Volume]) -> Result<(), SeedError> {
    if !has_one(volumes) {
        return Ok(());
    }
    let path = guest_dir.join(FILE);
    let made = || -> io::Result<()> {
        // What an attempt before this one left.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.set_len(DISK_BYTES)?;
        disk_update(NOTHING).map_or(Ok(()), |update| write(&file, &update))
    };
    made().map_err(|source| SeedError::Write { path: path.clone(), source })
}

/// Starts writing to a running guest's disk, until the guard is dropped; `None` when it has none.
pub(super) fn start(context: &Arc<Context>, key: &Key, vmi: &VirtualMachineInstance) -> Option<DropGuard> {
    has_one(&vmi.spec.volumes).then(|| {
        let path = context.facts.guests_dir.join(vmi.uid().unwrap_or_default()).join(FILE);
        let stop = context.stop.child_token();
        tokio::spawn(run(Arc::clone(context), key.domain_name(), path, stop.clone()));
        stop.drop_guard()
    })
}

async fn run(context: Arc<Context>, domain: String, path: PathBuf, stop: CancellationToken) {
    let mut told = false;
    let writing = async {
        loop {
            let text = document(&context, &domain).await;
            let path = path.clone();
            let written = tokio::task::spawn_blocking(move || update(&path, &text)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error)))
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!(domain, error = chain(&error), "a guest's disk of metrics cannot be written");
            }
            tokio::time::sleep(FRESH).await;
        }
    };
    // Safe to cancel: a write that was begun ends by itself, and a guest that is over reads no more.
    stop.run_until_cancelled(writing).await;
}

fn update(path: &Path, text: &str) -> io::Result<()> {
    let update = disk_update(text).ok_or_else(|| io::Error::other("the metrics do not fit"))?;
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 || found.len() != DISK_BYTES {
        return Err(io::Error::other("it is not the file that was made"));
    }
    write(&file, &update)
}

fn write(file: &File, update: &DiskUpdate) -> io::Result<()> {
    file.write_all_at(&update.locked, 0)?;
    file.write_all_at(&update.document, HEADER_BYTES as u64)?;
    file.write_all_at(&update.unlocked, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_that_was_made_is_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let told = Volume { name: "told".into(), downward_metrics: Some(Default::default()), ..Volume::default() };
        make(dir.path(), &[Volume::default()]).expect("nothing to do");
        let path = dir.path().join(FILE);
        assert!(!path.exists());
        for _ in 0..2 {
            make(dir.path(), std::slice::from_ref(&told)).expect("made");
        }
        update(&path, "<metrics/>").expect("written");
        let disk = std::fs::read(&path).expect("read");
        assert_eq!(u64::try_from(disk.len()).expect("a size"), DISK_BYTES);
        assert_eq!(&disk[HEADER_BYTES..HEADER_BYTES + 11], b"<metrics/>\n");
        assert_eq!(disk[4..8], [0; 4], "it is unlocked");
        let other = dir.path().join("other");
        std::fs::rename(&path, &other).expect("renamed");
        std::os::unix::fs::symlink(&other, &path).expect("linked");
        assert!(update(&path, "<metrics/>").is_err(), "a link is not followed");
        std::fs::remove_file(&path).expect("removed");
        std::fs::hard_link(&other, &path).expect("linked");
        assert!(update(&path, "<metrics/>").is_err(), "it has another name");
    }
}
