//! The disk on which a guest finds metrics of its host and of itself (`volumes[].downwardMetrics`): vhostmd's format, which
//! `vm-dump-metrics` in guests looks for on every disk. The document is that of [`crate::vhostmd`].
//!
//! ```text
//!   0  "mvbd"    4  1 while it is written    8  sum of the document's bytes    12  its length    16  the document
//! ```
//!
//! Numbers are of 32 bits, big-endian (`vhostmd` 1.1, `vhostmd/virtio.c`; KubeVirt's `pkg/downwardmetrics/vhostmd`). Owns
//! in which order it is written. Refuses a document that does not fit.

/// Size of the disk, bytes; KubeVirt's.
pub const DISK_BYTES: u64 = 262_144;

/// Longest document, bytes; KubeVirt's.
const DOCUMENT_MAX_BYTES: usize = 262_144 - 24;

/// Length of the header, and where the document begins.
pub const HEADER_BYTES: usize = 16;

const SIGNATURE: &[u8; 4] = b"mvbd";

/// A document for a disk. A reader that finds the disk locked, or another sum, tries again: so it is locked first, and
/// unlocked when the document is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUpdate {
    /// The header of a disk that is being written; first.
    pub locked: [u8; HEADER_BYTES],
    /// The document; second, behind the header.
    pub document: Vec<u8>,
    /// The header of a disk that can be read; last.
    pub unlocked: [u8; HEADER_BYTES],
}

/// What is written for a document; `None` when it does not fit.
#[must_use]
pub fn disk_update(document: &str) -> Option<DiskUpdate> {
    // A line feed ends it: `vm-dump-metrics` adds none.
    let document = format!("{}\n", document.trim_end()).into_bytes();
    let length = u32::try_from(document.len()).ok().filter(|_| document.len() <= DOCUMENT_MAX_BYTES)?;
    let sum = document.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let header = |busy: u32| {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(SIGNATURE);
        header[4..8].copy_from_slice(&busy.to_be_bytes());
        header[8..12].copy_from_slice(&sum.to_be_bytes());
        header[12..].copy_from_slice(&length.to_be_bytes());
        header
    };
    Some(DiskUpdate { locked: header(1), unlocked: header(0), document })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_locked_while_its_document_is_written() {
        let update = disk_update("<metrics>\n</metrics>\n\n").expect("it fits");
        assert_eq!(update.document, b"<metrics>\n</metrics>\n");
        // 21 bytes; their sum by hand: 2 * (metrics 759 + '<' 60 + '>' 62) + '/' 47 + 2 * '\n' 10.
        let sum = 2 * (759 + 60 + 62) + 47 + 2 * 10;
        assert_eq!(sum, 0x0725);
        assert_eq!(update.locked, *b"mvbd\0\0\0\x01\0\0\x07\x25\0\0\0\x15");
        assert_eq!(update.unlocked, *b"mvbd\0\0\0\0\0\0\x07\x25\0\0\0\x15");
    }

    #[test]
    fn a_document_that_does_not_fit_is_refused() {
        let fits = disk_update(&"x".repeat(DOCUMENT_MAX_BYTES - 1)).expect("it fits");
        assert!(HEADER_BYTES + fits.document.len() <= usize::try_from(DISK_BYTES).expect("a size"));
        assert_eq!(disk_update(&"x".repeat(DOCUMENT_MAX_BYTES)), None);
    }
}
