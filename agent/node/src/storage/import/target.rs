//! The image that an import fills: opened under its lock, emptied, written, released.
//!
//! ```text
//!   open, nobody else there -> lock -> note "importing" -> discard leftovers -> write
//!     -> flush -> (golden: snapshot) -> note away -> close
//! ```
//! The note is what keeps clones and guests away until the end; it is there before the first
//! byte. Zeros are not written: the image reads as zeros where nothing was.

use furrow_host::rbd::{Cluster, ClusterConfig, Image, RbdError, RbdErrorKind, Secret, Writer};

use super::error::ImportError;
use super::protocol::Spec;
use crate::storage::images::{BASE, NOTE_IMPORT};

/// Bytes on their way to Ceph. librbd keeps them until they are acknowledged.
const IN_FLIGHT: usize = 12 << 20;
/// Zeros are looked for in pieces of this size, in bytes: the smallest allocation that pays.
const PIECE: usize = 64 << 10;
/// A gap of zeros shorter than this is written, for fewer requests.
const SHORT_GAP: usize = 192 << 10;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// The image, locked.
pub(super) struct Target {
    image: Image,
    capacity: u64,
    golden: bool,
}

impl Target {
    /// Opens, locks and empties the image.
    pub(super) fn open(spec: &Spec) -> Result<Self, ImportError> {
        let options = [
            // One stream of large writes gains nothing from a cache, and memory is budgeted.
            ("rbd_cache", "false"),
            ("ms_async_op_threads", "1"),
            ("librados_thread_count", "1"),
            ("rbd_op_threads", "1"),
        ];
        let config = ClusterConfig {
            conf: spec.conf.clone(),
            id: spec.ceph_user.clone(),
            keyring: None,
            key: Some(Secret::new(spec.ceph_key.as_str())),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let pool = Cluster::connect(&config)?.pool(&spec.pool)?;
        let others = pool.open_read_only(&spec.image)?.watchers()?;
        if !others.is_empty() {
            return Err(ImportError::InUse { users: others.into_iter().map(|w| w.address).collect() });
        }
        let image = pool.open_image(&spec.image)?;
        image.lock()?;
        let capacity = spec.capacity_bytes.min(image.size()?);
        if image.metadata(NOTE_IMPORT)?.is_some() {
            match image.remove_snapshot(BASE) {
                Err(error) if error.kind() != RbdErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            image.discard_all(|_| {})?;
        } else {
            image.set_metadata(NOTE_IMPORT, "running")?;
        }
        Ok(Self { image, capacity, golden: spec.golden })
    }

    /// The image's size in bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// A writer for as long as data comes.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer::new(&self.image, IN_FLIGHT)
    }

    /// Everything was written: makes the content valid.
    pub(super) fn complete(&self) -> Result<(), RbdError> {
        self.image.flush()?;
        if self.golden {
            self.image.snapshot(BASE)?;
        }
        self.image.remove_metadata(NOTE_IMPORT)?;
        self.image.unlock()
    }
}

/// Writes what is not zero of `buffer` to `offset`.
pub(super) fn write_data(writer: &Writer<'_>, offset: u64, buffer: Vec<u8>) -> Result<(), RbdError> {
    let runs = data_runs(&buffer);
    match runs.as_slice() {
        [] => Ok(()),
        [(0, end)] if *end == buffer.len() => writer.write(offset, buffer),
        runs => {
            for (start, end) in runs {
                let mut part = writer.buffer(end - start);
                part.extend_from_slice(&buffer[*start..*end]);
                writer.write(offset + *start as u64, part)?;
            }
            Ok(())
        }
    }
}

/// The parts of a buffer that are not zero, as start and end.
fn data_runs(buffer: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, piece) in buffer.chunks(PIECE).enumerate() {
        if piece == &ZEROS[..piece.len()] {
            continue;
        }
        let (start, end) = (index * PIECE, index * PIECE + piece.len());
        match runs.last_mut() {
            Some(last) if start - last.1 <= SHORT_GAP => last.1 = end,
            _ => runs.push((start, end)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gaps_of_zeros_are_left_out() {
        let mut buffer = vec![0u8; 10 * PIECE + 100];
        assert_eq!(data_runs(&buffer), []);
        buffer[PIECE + 5] = 1;
        buffer[3 * PIECE] = 1;
        buffer[10 * PIECE + 99] = 1;
        assert_eq!(data_runs(&buffer), [(PIECE, 4 * PIECE), (10 * PIECE, 10 * PIECE + 100)]);
    }
}
