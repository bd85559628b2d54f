//! The state of guests' TPMs: on this node as long as the guest runs, in its image always. Owns the images (their format is
//! `furrow_model::tpm`) and the directories:
//!
//! ```text
//!  <root>/<uid of the guest>/tpm2/tpm2-00.permall   swtpm's; libvirt gives directory and file to swtpm's user
//!                           /image.json             which image it is from, written last
//! ```
//! They are in memory (`/run`): a node that restarted has none, and its guests begin with what their images have. An image is
//! open for as long as it is read or written. Refuses to look into a state: it is ciphertext.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use furrow_api::reservation::ReservedVolume;
use furrow_host::rbd::{Ceph, Image, Pool, RbdError, RbdErrorKind, Writer};
use furrow_host::renames::renamed_to;
use furrow_model::tpm::{self, IMAGE_BYTES, Kept, MAX_STATE_BYTES, STATE_DIR, STATE_FILE, TpmError, Write};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::guest::ports::HostError;
use crate::guest::tpm::{Saved, TpmChanges, TpmGuest, TpmStates};

/// How long it may take to read a megabyte and to write half of one.
const LIMIT: Duration = Duration::from_secs(30);
/// Which image a state is from.
const NOTE: &str = "image.json";
/// A note that is not whole yet.
const NEW_NOTE: &str = "image.json.new";

/// Why a state was not read or written.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("could not {action} the image {image} of the TPM's state")]
    Ceph { action: &'static str, image: String, source: RbdError },
    #[error("could not {action} the image {image} of the TPM's state")]
    State { action: &'static str, image: String, source: TpmError },
    #[error("could not {action} the state of a TPM in {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("could not read {}: it does not say which image the state of the TPM is from", .path.display())]
    Note { path: PathBuf, source: serde_json::Error },
}

impl From<StateError> for HostError {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::Ceph { source, .. } if source.kind() == RbdErrorKind::NotFound => {
                Self::passing("VolumeNotFound", &error)
            }
            StateError::Ceph { .. } => Self::passing("VolumeUnreachable", &error),
            StateError::File { .. } => Self::passing("TPMStateUnreachable", &error),
            StateError::State { .. } | StateError::Note { .. } => Self::permanent("StateNotRecognised", &error),
        }
    }
}

/// Where a state is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// `namespace/name` of the guest.
    vmi: String,
    pool: String,
    image: String,
}

impl Note {
    fn path(&self) -> String {
        format!("{}/{}", self.pool, self.image)
    }
}

/// The states of this node.
pub(crate) struct NodeTpm {
    ceph: Ceph,
    root: PathBuf,
    /// One thing at a time for each guest: an image has one lock.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl NodeTpm {
    pub(super) fn new(ceph: Ceph, root: PathBuf) -> Self {
        Self { ceph, root, turns: Mutex::default() }
    }

    async fn turn(&self, guest: &str) -> OwnedMutexGuard<()> {
        let turn = {
            // An entry is added or taken away in one call: one who panicked meanwhile left nothing half done.
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(guest.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    async fn restore_one(&self, guest: &TpmGuest<'_>, volume: &ReservedVolume) -> Result<(), StateError> {
        let _turn = self.turn(guest.uid).await;
        let note = Note { vmi: guest.vmi.to_owned(), pool: volume.pool.clone(), image: volume.image.clone() };
        let uid = guest.uid.to_owned();
        let work = move |now: Option<&Kept>| {
            let state = now.map(|kept| kept.state().to_vec()).unwrap_or_default();
            Ok((state, tpm::claim(now, &uid)?))
        };
        let state = on_image(&self.ceph, &note, "claim", work).await?;
        let (root, uid) = (self.root.clone(), guest.uid.to_owned());
        let bytes = state.len();
        in_files("write", &self.root, move || lay_out(&root, &uid, &note, &state)).await?;
        tracing::info!(vm = guest.vmi, uid = guest.uid, image = volume.image, bytes, "state of a TPM restored");
        Ok(())
    }

    async fn save_one(&self, guest: &str) -> Result<Saved, StateError> {
        let _turn = self.turn(guest).await;
        let home = self.root.join(guest);
        let found = in_files("read", &home, {
            let home = home.clone();
            move || read(&home)
        });
        let Some((note, state)) = found.await? else { return Ok(Saved::Nothing) };
        let note = serde_json::from_slice::<Note>(&note).map_err(|source| StateError::Note { path: home, source })?;
        let (uid, bytes) = (guest.to_owned(), state.len());
        let work = move |now: Option<&Kept>| {
            let write = tpm::save(now, &uid, &state)?;
            Ok((write.is_some(), write))
        };
        match on_image(&self.ceph, &note, "write to", work).await {
            Ok(true) => {
                tracing::debug!(vm = note.vmi, uid = guest, image = note.image, bytes, "state of a TPM written")
            }
            Ok(false) => {}
            Err(StateError::Ceph { source, .. }) if source.kind() == RbdErrorKind::NotFound => {
                return Ok(Saved::Superseded(format!("its image {} is gone", note.path())));
            }
            Err(StateError::State { source: source @ TpmError::Claimed { .. }, .. }) => {
                return Ok(Saved::Superseded(format!("its image {} is another's: {source}", note.path())));
            }
            Err(error) => return Err(error),
        }
        Ok(Saved::Kept)
    }

    async fn remove_one(&self, guest: &str) -> Result<(), StateError> {
        let _turn = self.turn(guest).await;
        let home = self.root.join(guest);
        in_files("remove", &home, {
            let home = home.clone();
            move || remove_all(&home)
        })
        .await?;
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(guest);
        Ok(())
    }
}

impl TpmStates for NodeTpm {
    fn restore<'a>(&'a self, guest: TpmGuest<'a>, volume: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>> {
        async move { Ok(self.restore_one(&guest, volume).await?) }.boxed()
    }

    fn changes(&self, guest: &str) -> std::io::Result<TpmChanges> {
        renamed_to(&self.root.join(guest).join(STATE_DIR), STATE_FILE)
    }

    fn save<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<Saved, HostError>> {
        self.save_one(guest).map(|result| result.map_err(HostError::from)).boxed()
    }

    fn remove<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<(), HostError>> {
        self.remove_one(guest).map(|result| result.map_err(HostError::from)).boxed()
    }

    fn has(&self, guest: &str) -> bool {
        self.root.join(guest).exists()
    }

    fn list(&self) -> Result<Vec<(String, String)>, HostError> {
        list(&self.root).map_err(|source| StateError::File { action: "list", path: self.root.clone(), source }.into())
    }
}

async fn in_files<T: Send + 'static>(
    action: &'static str,
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StateError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| StateError::File { action, path: path.to_owned(), source })
}

/// A guest's directory with this state and nothing else. swtpm's user has to get to its own part of it.
fn lay_out(root: &Path, guest: &str, note: &Note, state: &[u8]) -> std::io::Result<()> {
    let (home, through) = (root.join(guest), 0o711);
    std::fs::DirBuilder::new().recursive(true).mode(through).create(root)?;
    remove_all(&home)?;
    std::fs::DirBuilder::new().mode(through).create(&home)?;
    let dir = home.join(STATE_DIR);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    // An empty directory is one that libvirt has a new TPM made in.
    if !state.is_empty() {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(dir.join(STATE_FILE))?.write_all(state)?;
    }
    let new = home.join(NEW_NOTE);
    std::fs::write(&new, serde_json::to_vec(note)?)?;
    std::fs::rename(new, home.join(NOTE))
}

/// Note and state of a guest; `None` where it has no state here. The directory is swtpm's user's, who must not make us read
/// anything else.
fn read(home: &Path) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let there = |result: std::io::Result<_>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let Some(note) = there(std::fs::read(home.join(NOTE)))? else { return Ok(None) };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let path = home.join(STATE_DIR).join(STATE_FILE);
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut state = Vec::new();
    // One more than fits, so that one that does not is seen to be too long.
    file.take(MAX_STATE_BYTES as u64 + 1).read_to_end(&mut state)?;
    Ok(Some((note, state)))
}

fn remove_all(home: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(home) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// UIDs of guests with a state here, with their `namespace/name`.
fn list(root: &Path) -> std::io::Result<Vec<(String, String)>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let uid = entry.file_name().to_string_lossy().into_owned();
        match std::fs::read(entry.path().join(NOTE)) {
            Ok(note) => match serde_json::from_slice::<Note>(&note) {
                Ok(note) => found.push((uid, note.vmi)),
                // It is left to be looked at: it may be all that there is of a TPM.
                Err(error) => tracing::error!(uid, error = %error, "the state of a TPM does not say whose it is"),
            },
            // The note is written before the guest starts: there is nothing to lose.
            Err(error) if error.kind() == ErrorKind::NotFound => remove_all(&entry.path())?,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn on_image<T: Send + 'static>(
    ceph: &Ceph,
    note: &Note,
    action: &'static str,
    work: impl FnOnce(Option<&Kept>) -> Result<(T, Option<Write>), TpmError> + Send + 'static,
) -> Result<T, StateError> {
    let image = note.image.clone();
    let done = ceph.run(&note.pool, "use the state of a TPM", LIMIT, move |pool| change(pool, &image, work));
    let done = done.await.map_err(|source| StateError::Ceph { action, image: note.path(), source })?;
    done.map_err(|source| StateError::State { action, image: note.path(), source })
}

/// Reads, decides and writes under the image's lock, so that nobody writes in between.
pub(super) fn change<T>(
    pool: &Pool,
    image: &str,
    work: impl FnOnce(Option<&Kept>) -> Result<(T, Option<Write>), TpmError>,
) -> Result<Result<T, TpmError>, RbdError> {
    let image = pool.open_image(image)?;
    image.lock()?;
    let bytes = read_image(&image)?;
    let answer = match tpm::newest(&bytes).and_then(|now| work(now.as_ref())) {
        Ok((answer, write)) => {
            if let Some(Write { offset, bytes }) = write {
                let writer = Writer::new(&image, bytes.len());
                writer.write(offset, bytes)?;
                writer.finish()?;
            }
            Ok(answer)
        }
        Err(error) => Err(error),
    };
    image.unlock()?;
    Ok(answer)
}

fn read_image(image: &Image) -> Result<Vec<u8>, RbdError> {
    let mut bytes = vec![0; IMAGE_BYTES];
    // What a short image does not have is zero.
    image.read(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn note() -> Note {
        Note { vmi: "shop/web".into(), pool: "volumes".into(), image: "csi-vol-tpm".into() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_state_is_laid_where_its_tpm_alone_reads_it_and_nothing_older_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("tpm");
        lay_out(&root, "u-1", &note(), b"old").expect("laid out");
        std::fs::write(root.join("u-1/tpm2/tpm2-00.volatilestate"), "of another run").expect("written");
        lay_out(&root, "u-1", &note(), b"new").expect("laid out again");
        let files: Vec<_> =
            std::fs::read_dir(root.join("u-1/tpm2")).expect("it").flatten().map(|f| f.file_name()).collect();
        assert_eq!(files, [STATE_FILE]);
        let (_, state) = read(&root.join("u-1")).expect("read").expect("a state");
        assert_eq!(state, b"new");
        let modes = ["", "u-1", "u-1/tpm2", "u-1/tpm2/tpm2-00.permall"].map(|path| mode(&root.join(path)));
        assert_eq!(modes, [0o711, 0o711, 0o700, 0o600]);
        assert_eq!(list(&root).expect("listed"), [("u-1".to_owned(), "shop/web".to_owned())]);
    }

    #[test]
    fn a_new_tpm_begins_with_an_empty_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        lay_out(dir.path(), "u-1", &note(), b"").expect("laid out");
        assert_eq!(std::fs::read_dir(dir.path().join("u-1/tpm2")).expect("it").count(), 0);
        assert_eq!(read(&dir.path().join("u-1")).expect("read"), None, "there is nothing to write yet");
    }

    #[test]
    fn what_was_cut_short_before_a_guest_started_is_no_state() {
        let dir = tempfile::tempdir().expect("a directory");
        lay_out(dir.path(), "u-1", &note(), b"one").expect("laid out");
        std::fs::remove_file(dir.path().join("u-1").join(NOTE)).expect("removed");
        assert_eq!(read(&dir.path().join("u-1")).expect("read"), None);
        assert_eq!(list(dir.path()).expect("listed"), []);
        assert!(!dir.path().join("u-1").exists());
        assert_eq!(list(&dir.path().join("nowhere")).expect("listed"), []);
    }

    #[test]
    fn the_owner_of_the_directory_does_not_choose_what_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().join("u-1");
        lay_out(dir.path(), "u-1", &note(), b"").expect("laid out");
        let file = home.join(STATE_DIR).join(STATE_FILE);
        std::os::unix::fs::symlink("/etc/hostname", &file).expect("linked");
        assert!(read(&home).is_err(), "a link is not followed");
        std::fs::remove_file(&file).expect("removed");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        assert!(read(&home).is_err(), "a pipe is not waited for");
        std::fs::remove_file(&file).expect("removed");
        std::fs::write(&file, vec![1; MAX_STATE_BYTES + 100]).expect("written");
        let (_, state) = read(&home).expect("read").expect("a state");
        assert_eq!(state.len(), MAX_STATE_BYTES + 1);
    }
}
