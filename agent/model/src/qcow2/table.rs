//! The tables of an image: which part of the disk is where in the file.
//!
//! Every offset is checked against the file and every reserved bit against zero: an image that
//! says something else than what was understood is refused, not read differently.

use super::{Header, Qcow2Error};

/// Bits 9 to 55: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const SECTOR: u64 = 512;
const SUBCLUSTERS: u64 = 32;
/// Plain extents are joined up to this many bytes.
const MAX_PLAIN: u32 = 4 << 20;

/// A second table: which part of the disk it describes and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef {
    /// First byte of the disk that it describes.
    pub guest: u64,
    /// Its offset in the file; its length is [`Header::table_bytes`].
    pub offset: u64,
}

/// A part of the disk that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the disk, in bytes.
    pub guest: u64,
    /// Offset in the file, in bytes.
    pub host: u64,
    /// Bytes in the file. A compressed extent is one cluster of the disk, and its last bytes may
    /// be another one's.
    pub stored: u32,
    /// Whether it is compressed.
    pub compressed: bool,
}

impl Header {
    /// Reads the first table; tables that describe nothing are left out.
    pub fn tables(&self, l1: &[u8]) -> Result<Vec<TableRef>, Qcow2Error> {
        let mut found: Vec<TableRef> = Vec::new();
        for (index, entry) in l1.chunks_exact(8).enumerate() {
            let entry = number(entry);
            let guest = index as u64 * self.table_reach();
            let error = |what| Qcow2Error::Entry { guest, what };
            if entry & !(OFFSET | COPIED) != 0 {
                return Err(error("has reserved bits set in the first table"));
            }
            let offset = entry & OFFSET;
            if offset == 0 || guest >= self.virtual_size {
                continue;
            }
            self.check_cluster(offset).map_err(error)?;
            found.push(TableRef { guest, offset });
        }
        let mut offsets: Vec<TableRef> = found.clone();
        offsets.sort_unstable_by_key(|table| table.offset);
        if let Some(pair) = offsets.windows(2).find(|pair| pair[0].offset == pair[1].offset) {
            return Err(Qcow2Error::Shared { first: pair[0].guest, second: pair[1].guest });
        }
        Ok(found)
    }

    /// Adds what a second table describes to `extents`.
    pub fn extents(&self, table: TableRef, l2: &[u8], extents: &mut Vec<Extent>) -> Result<(), Qcow2Error> {
        let entry_bytes = if self.extended { 16 } else { 8 };
        for (index, entry) in l2.chunks_exact(entry_bytes).enumerate() {
            let guest = table.guest + (index as u64) * self.cluster_size();
            if guest >= self.virtual_size {
                break;
            }
            let (descriptor, bitmap) = (number(&entry[..8]), entry.get(8..16).map(number));
            if descriptor & COMPRESSED != 0 {
                extents.push(self.compressed(guest, descriptor, bitmap)?);
            } else {
                self.plain(guest, descriptor, bitmap, extents)?;
            }
        }
        Ok(())
    }

    fn compressed(&self, guest: u64, descriptor: u64, bitmap: Option<u64>) -> Result<Extent, Qcow2Error> {
        let error = |what| Qcow2Error::Entry { guest, what };
        if descriptor & COPIED != 0 || bitmap.is_some_and(|bitmap| bitmap != 0) {
            return Err(error("is compressed and has bits set that a compressed one has not"));
        }
        let offset_bits = 62 - (self.cluster_bits - 8);
        let host = descriptor & ((1 << offset_bits) - 1);
        let sectors = ((descriptor & !COMPRESSED) >> offset_bits) + 1;
        let nominal = sectors * SECTOR - host % SECTOR;
        // The file may end before the last sector does.
        let stored = nominal.min(self.file_len.saturating_sub(host));
        if host == 0 || stored == 0 {
            return Err(error("is compressed and beyond the end of the file"));
        }
        let stored = u32::try_from(stored).map_err(|_| error("is compressed and impossibly long"))?;
        Ok(Extent { guest, host, stored, compressed: true })
    }

    fn plain(&self, guest: u64, descriptor: u64, bitmap: Option<u64>, to: &mut Vec<Extent>) -> Result<(), Qcow2Error> {
        let error = |what| Qcow2Error::Entry { guest, what };
        let zero_bit = if self.version >= 3 && bitmap.is_none() { ZERO } else { 0 };
        if descriptor & !(OFFSET | COPIED | zero_bit) != 0 {
            return Err(error("has reserved bits set"));
        }
        let host = descriptor & OFFSET;
        if host != 0 {
            self.check_cluster(host).map_err(error)?;
        }
        match bitmap {
            None if host == 0 || descriptor & zero_bit != 0 => {}
            None => push(to, guest, host, self.cluster_size()),
            Some(bitmap) => {
                let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
                if allocated & zero != 0 || (allocated != 0 && host == 0) {
                    return Err(error("has subclusters that contradict each other"));
                }
                let size = self.cluster_size() / SUBCLUSTERS;
                for sub in (0..SUBCLUSTERS).filter(|sub| allocated >> sub & 1 == 1) {
                    push(to, guest + sub * size, host + sub * size, size);
                }
            }
        }
        Ok(())
    }

    fn check_cluster(&self, offset: u64) -> Result<(), &'static str> {
        if !offset.is_multiple_of(self.cluster_size()) {
            return Err("points between two clusters");
        }
        // The last cluster of a file may be cut short at its end: what is missing is zero.
        if offset >= self.file_len { Err("points beyond the end of the file") } else { Ok(()) }
    }
}

/// Adds a plain extent, joined to the one before it when both continue it.
fn push(to: &mut Vec<Extent>, guest: u64, host: u64, bytes: u64) {
    let bytes = bytes as u32;
    if let Some(last) = to.last_mut()
        && !last.compressed
        && last.guest + u64::from(last.stored) == guest
        && last.host + u64::from(last.stored) == host
        && last.stored + bytes <= MAX_PLAIN
    {
        last.stored += bytes;
        return;
    }
    to.push(Extent { guest, host, stored: bytes, compressed: false });
}

/// Sorts by place in the file, and refuses an image in which two parts of the disk share one.
/// Compressed extents may overlap each other: they begin anywhere and end at a sector's end.
pub fn order(extents: &mut [Extent]) -> Result<(), Qcow2Error> {
    extents.sort_unstable_by_key(|extent| extent.host);
    for pair in extents.windows(2) {
        let (one, two) = (pair[0], pair[1]);
        let overlap = one.host + u64::from(one.stored) > two.host;
        if overlap && !(one.compressed && two.compressed) {
            return Err(Qcow2Error::Shared { first: one.guest, second: two.guest });
        }
    }
    Ok(())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
