//! Writing files whole or not at all, and the locks that keep two runs apart. Knows no file by name but the lock.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;

/// Writes a file whole or not at all: beside it, synced, renamed, the directory synced.
///
/// # Errors
/// When any of that fails.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // On FAT, the ESP, a new name leads to an empty file until the file is written out under it.
    file.sync_all()?;
    File::open(parent)?.sync_all()
}

/// Whether a file holds anything but this text, or is not there.
pub(crate) fn differs(path: &Path, text: &str) -> bool {
    !std::fs::read_to_string(path).is_ok_and(|old| old == text)
}

/// [`replace`], where the file is not as it should be already.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn update(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    if differs(path, text) { replace(path, text.as_bytes(), mode) } else { Ok(()) }
}

/// Reads a record; None where there is none.
///
/// # Errors
/// When it is there and cannot be read, or is no such record.
pub(crate) fn record<T: DeserializeOwned>(path: &Path) -> std::io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file, if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes the lock that a file is, which ends with the process; None while another one has it.
///
/// # Errors
/// When the file cannot be made.
pub(crate) fn try_lock(path: &Path) -> std::io::Result<Option<Flock<File>>> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Takes the lock on this node's steps, which ends with the process; None while another run has it.
///
/// # Errors
/// When the lock's file cannot be made.
pub(crate) fn lock(state: &Path) -> std::io::Result<Option<Flock<File>>> {
    try_lock(&state.join("bootstrap/lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_it_should_be_is_left_alone() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/file");
        let inode = || std::fs::metadata(&path).expect("there").ino();
        update(&path, "one", 0o600).expect("written");
        let first = inode();
        update(&path, "one", 0o600).expect("kept");
        assert_eq!(inode(), first);
        update(&path, "two", 0o600).expect("written");
        assert!(!differs(&path, "two") && differs(&path, "one"));
    }

    #[test]
    fn the_lock_is_had_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = lock(dir.path()).expect("made").expect("free");
        assert!(lock(dir.path()).expect("made").is_none());
        drop(first);
        assert!(lock(dir.path()).expect("made").is_some());
    }
}
