//! A file on this node that keeps a source whose parts the server does not send, or that comes
//! compressed: an image's tables must be read before its data. It has no name, so nothing of it
//! is left when the process ends, however it ends.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::error::ImportError;

/// So much of the file system stays free for everybody else, in bytes.
const RESERVE: u64 = 1 << 30;
/// A qcow2 file of a disk that fits may be so much larger than the disk: tables and rounding.
const OVERHEAD: u64 = 64 << 20;
const PIECE: usize = 1 << 20;

/// A kept source.
#[derive(Clone)]
pub(super) struct Spool {
    file: Arc<File>,
    /// Its length in bytes.
    pub(super) len: u64,
}

/// The largest file that is kept for a claim of so many bytes.
pub(super) fn limit(capacity_bytes: u64) -> u64 {
    capacity_bytes.saturating_add(capacity_bytes / 8).saturating_add(OVERHEAD)
}

impl Spool {
    /// Keeps all of `input`. `expected`: its length, if it is known.
    pub(super) fn keep(
        directory: &Path,
        mut input: impl Read,
        expected: Option<u64>,
        capacity_bytes: u64,
    ) -> Result<Self, ImportError> {
        let failed = |e: io::Error| ImportError::Spool(e.to_string());
        let limit = limit(capacity_bytes);
        if expected.is_some_and(|len| len > limit) {
            return Err(ImportError::TooLong { capacity_bytes });
        }
        let space = nix::sys::statvfs::statvfs(directory).map_err(|e| failed(e.into()))?;
        let free = (space.blocks_available() as u64).saturating_mul(space.fragment_size() as u64);
        let room = free.saturating_sub(RESERVE);
        if expected.is_some_and(|len| len > room) {
            let len = expected.unwrap_or(0);
            return Err(ImportError::Spool(format!("it has {len} bytes, the node has room for {room}")));
        }
        let path = directory.join("spool");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        let mut buffer = vec![0u8; PIECE];
        let mut len = 0u64;
        loop {
            let read = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImportError::of_read(error)),
            };
            len += read as u64;
            if len > limit {
                return Err(ImportError::TooLong { capacity_bytes });
            }
            if len > room {
                return Err(ImportError::Spool(format!("the node has room for {room} bytes")));
            }
            file.write_all(&buffer[..read]).map_err(failed)?;
        }
        Ok(Self { file: Arc::new(file), len })
    }

    /// Reads a part of it.
    pub(super) fn part(&self, offset: u64, len: usize) -> Result<Vec<u8>, ImportError> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| ImportError::Spool(e.to_string()))?;
        Ok(bytes)
    }

    /// Reads from `offset` to the end.
    pub(super) fn stream(&self, offset: u64) -> SpoolStream {
        SpoolStream { file: Arc::clone(&self.file), offset }
    }
}

/// A reader of a spool.
pub(super) struct SpoolStream {
    file: Arc<File>,
    offset: u64,
}

impl Read for SpoolStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
