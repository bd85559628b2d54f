//! Erasing so that a cut at any moment leaves what can be found and erased again, or a blank disk. Knows where signatures
//! stand; refuses to know which disk is meant.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// BlueStore's label, by which an OSD's disk is known.
const LABEL_BYTES: u64 = 4096;
/// BlueStore's label and superblock lie within it, as does whatever describes another content.
const OSD_BYTES: u64 = 100 << 20;
/// The entries of a GUID partition table: 128 of 128 bytes (UEFI specification, 5.3).
const ENTRIES_BYTES: u64 = 16 << 10;
/// What is written at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Zeroes what makes a disk an OSD's. The label, by which it is found again after a cut, goes last.
///
/// # Errors
/// When the disk is in use, such as by its OSD, or cannot be written.
pub(super) fn osd(path: &Path) -> io::Result<()> {
    // On a block device O_EXCL asks the kernel for a claim, which whoever uses it refuses.
    let flags = nix::libc::O_EXCL | nix::libc::O_CLOEXEC;
    let mut device = File::options().write(true).custom_flags(flags).open(path)?;
    let end = device.seek(SeekFrom::End(0))?;
    stretches_of_osd(end).into_iter().try_for_each(|(from, to)| zero(&mut device, from, to))
}

/// What is zeroed of an OSD's disk of so many bytes, in this order: from one byte to before another.
fn stretches_of_osd(end: u64) -> [(u64, u64); 2] {
    let end = end.min(OSD_BYTES);
    let label = LABEL_BYTES.min(end);
    [(label, end), (0, label)]
}

/// Zeroes both copies of a disk's partition table, the backup first, and nothing of its partitions: those that are in use
/// stay readable until the machine restarts, because the kernel goes on with the table that it knows. `block`: the disk's
/// logical block, bytes.
///
/// # Errors
/// When the disk cannot be written.
pub(super) fn table(path: &Path, block: u64) -> io::Result<()> {
    // Without a claim: the system that runs this is on it.
    let mut device = File::options().write(true).open(path)?;
    let end = device.seek(SeekFrom::End(0))?;
    stretches_of_table(end, block).into_iter().try_for_each(|(from, to)| zero(&mut device, from, to))
}

/// What is zeroed of a disk of so many bytes, in this order.
fn stretches_of_table(end: u64, block: u64) -> [(u64, u64); 2] {
    // Entries, then the header in the last block.
    let backup = (end.saturating_sub(ENTRIES_BYTES + block), end);
    // Protective MBR, header, entries: in one write.
    [backup, (0, (2 * block + ENTRIES_BYTES).min(end))]
}

/// Writes zeros from one byte to before another, on stable storage before it returns.
fn zero(device: &mut File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0_u8; CHUNK_BYTES as usize];
    device.seek(SeekFrom::Start(from))?;
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let now = left.min(CHUNK_BYTES);
        device.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    device.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of ones in a disk's place.
    fn disk(bytes: usize) -> tempfile::NamedTempFile {
        let mut disk = tempfile::NamedTempFile::new().expect("a file");
        disk.write_all(&vec![1_u8; bytes]).expect("written");
        disk
    }

    /// The stretches of zeros: where each begins and how long it is.
    fn zeros(disk: &tempfile::NamedTempFile) -> Vec<(usize, usize)> {
        let content = std::fs::read(disk.path()).expect("read");
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (at, _) in content.iter().enumerate().filter(|(_, byte)| **byte == 0) {
            match found.last_mut() {
                Some((begin, length)) if *begin + *length == at => *length += 1,
                _ => found.push((at, 1)),
            }
        }
        found
    }

    #[test]
    fn both_copies_of_a_table_go_and_nothing_between_them() {
        const SIZE: usize = 4 << 20;
        for block in [512, 4096_usize] {
            let disk = disk(SIZE);
            table(disk.path(), block as u64).expect("erased");
            let backup = (16 << 10) + block;
            assert_eq!(zeros(&disk), [(0, backup + block), (SIZE - backup, backup)], "blocks of {block}");
        }
    }

    #[test]
    fn an_osds_disk_loses_its_head_and_keeps_its_size() {
        let small = disk(3 << 20);
        osd(small.path()).expect("erased");
        assert_eq!(zeros(&small), [(0, 3 << 20)]);
    }

    #[test]
    fn what_a_cut_needs_goes_last() {
        assert_eq!(stretches_of_osd(1 << 30), [(4096, 100 << 20), (0, 4096)], "the label, by which it is found again");
        let table = stretches_of_table(1 << 30, 512);
        assert_eq!(table, [((1 << 30) - 16896, 1 << 30), (0, 17408)], "the table that the firmware reads first");
    }

    #[test]
    fn a_disk_that_is_gone_is_an_error() {
        assert!(osd(Path::new("/nonexistent")).is_err() && table(Path::new("/nonexistent"), 512).is_err());
    }
}
