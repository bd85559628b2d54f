//! Reads qcow2 images: header, tables and compressed clusters, from bytes that its caller fetches.
//!
//! The format is QEMU's `docs/interop/qcow2.txt`, versions 2 and 3, with zlib and zstd
//! compression and extended L2 entries. Only what the guest sees now is read: snapshots inside
//! the image are passed over. Refused are images that would make the host read anything but the
//! image itself (backing file, external data file), encrypted ones, and inconsistent ones.
//!
//! The caller's part, in this order:
//! ```text
//!   Header::parse(first bytes) -> Header::l1_range -> Header::tables(L1) -> for each table:
//!   Header::extents(L2) -> order(extents): by place in the file, so that ONE pass reads them
//! ```
//! Nothing here allocates more than in proportion to the bytes that it is given.

mod decode;
mod table;

pub use decode::Decoder;
pub use table::{Extent, TableRef, order};

/// So many bytes of the file's beginning hold every header (or all of a shorter file).
pub const HEAD_BYTES: usize = 64 << 10;
/// QEMU's own bound on the first table: 32 MiB.
const MAX_L1_BYTES: u64 = 32 << 20;

/// Why an image is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// It ends within its header.
    #[error("the image ends within its header")]
    Short,
    /// Another version of the format.
    #[error("the image has version {0} of qcow: versions 2 and 3 are read")]
    Version(u32),
    /// It is an overlay of another file.
    #[error("the image has a backing file ({0:?}): only images that stand alone are read")]
    BackingFile(String),
    /// Its data is in another file.
    #[error("the image keeps its data in an external file: only images that stand alone are read")]
    DataFile,
    /// It is encrypted.
    #[error("the image is encrypted (method {0}): only plain images are read")]
    Encrypted(u32),
    /// QEMU marked it as corrupt.
    #[error("the image is marked as corrupt: repair it with qemu-img check -r all")]
    MarkedCorrupt,
    /// It needs something that is not known here.
    #[error("the image needs features that are not known (bits {0:#x})")]
    Features(u64),
    /// It is compressed by a method that is not known here.
    #[error("the image is compressed by method {0}: zlib (0) and zstd (1) are read")]
    Compression(u8),
    /// A number in the header is impossible.
    #[error("the image is inconsistent: {0}")]
    Header(&'static str),
    /// A table entry is impossible.
    #[error("the image is inconsistent: the entry for byte {guest} of the disk {what}")]
    Entry {
        /// Offset in the disk, in bytes.
        guest: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two parts of the disk are in one place of the file.
    #[error("the image is inconsistent: bytes {first} and {second} of the disk share a place in the file")]
    Shared {
        /// Offset in the disk, in bytes.
        first: u64,
        /// The other's.
        second: u64,
    },
    /// A compressed cluster cannot be decompressed.
    #[error("the image is damaged: the compressed cluster for byte {guest} of the disk cannot be decompressed")]
    Damaged {
        /// Offset in the disk, in bytes.
        guest: u64,
    },
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Raw deflate.
    Zlib,
    /// One zstd frame.
    Zstd,
}

/// The facts of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk, in bytes.
    pub virtual_size: u64,
    /// How compressed clusters are compressed.
    pub method: Method,
    cluster_bits: u32,
    l1_offset: u64,
    l1_entries: u64,
    extended: bool,
    version: u32,
    /// Length of the file, in bytes.
    file_len: u64,
}

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

impl Header {
    /// Reads the header from the file's first bytes ([`HEAD_BYTES`], or all of a shorter file).
    pub fn parse(head: &[u8], file_len: u64) -> Result<Self, Qcow2Error> {
        let version = be32(head, 4)?;
        if head.get(..4) != Some(b"QFI\xfb") {
            return Err(Qcow2Error::Header("it does not begin like one"));
        }
        if version != 2 && version != 3 {
            return Err(Qcow2Error::Version(version));
        }
        refuse_foreign_data(head, version)?;
        let cluster_bits = be32(head, 20)?;
        let virtual_size = be64(head, 24)?;
        let l1_entries = u64::from(be32(head, 36)?);
        let l1_offset = be64(head, 40)?;
        let features = if version == 3 { be64(head, 72)? } else { 0 };
        let extended = features & EXTENDED_L2 != 0;
        let method = method(head, version, features)?;
        let lowest = if extended { 14 } else { 9 };
        if !(lowest..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::Header("its cluster size is impossible"));
        }
        if virtual_size > 1 << 56 {
            return Err(Qcow2Error::Header("its disk size is impossible"));
        }
        let header = Self { virtual_size, method, cluster_bits, l1_offset, l1_entries, extended, version, file_len };
        header.check_l1()?;
        Ok(header)
    }

    fn check_l1(&self) -> Result<(), Qcow2Error> {
        let needed = self.virtual_size.div_ceil(self.table_reach());
        let bytes = self.l1_entries * 8;
        if self.l1_entries < needed {
            return Err(Qcow2Error::Header("its first table is too short for its disk"));
        }
        if bytes > MAX_L1_BYTES {
            return Err(Qcow2Error::Header("its first table is larger than 32 MiB"));
        }
        if needed > 0 && (!self.l1_offset.is_multiple_of(self.cluster_size()) || self.l1_offset == 0) {
            return Err(Qcow2Error::Header("its first table is not where one can be"));
        }
        if needed > 0 && self.l1_offset.checked_add(needed * 8).is_none_or(|end| end > self.file_len) {
            return Err(Qcow2Error::Header("its first table is beyond the end of the file"));
        }
        Ok(())
    }

    /// Size of a cluster, in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Size of a second table, in bytes.
    pub fn table_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    /// How much of the disk one second table describes, in bytes.
    fn table_reach(&self) -> u64 {
        let entries = self.cluster_size() / self.entry_bytes();
        entries << self.cluster_bits
    }

    fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Where the first table is: offset and length in bytes.
    pub fn l1_range(&self) -> (u64, usize) {
        let entries = self.virtual_size.div_ceil(self.table_reach());
        (self.l1_offset, usize::try_from(entries * 8).unwrap_or(0))
    }
}

/// Refuses what would need bytes from outside the image, or a key.
fn refuse_foreign_data(head: &[u8], version: u32) -> Result<(), Qcow2Error> {
    let backing_offset = be64(head, 8)?;
    if backing_offset != 0 {
        let len = usize::try_from(be32(head, 16)?).unwrap_or(0).min(1023);
        let start = usize::try_from(backing_offset).unwrap_or(usize::MAX);
        let name = start.checked_add(len).and_then(|end| head.get(start..end)).unwrap_or_default();
        return Err(Qcow2Error::BackingFile(String::from_utf8_lossy(name).into_owned()));
    }
    let encryption = be32(head, 32)?;
    if encryption != 0 {
        return Err(Qcow2Error::Encrypted(encryption));
    }
    if version < 3 {
        return Ok(());
    }
    let features = be64(head, 72)?;
    if features & DATA_FILE != 0 {
        return Err(Qcow2Error::DataFile);
    }
    if features & CORRUPT != 0 {
        return Err(Qcow2Error::MarkedCorrupt);
    }
    // A dirty image has reference counts that are out of date; they are not read here.
    let unknown = features & !(DIRTY | COMPRESSION | EXTENDED_L2);
    if unknown != 0 { Err(Qcow2Error::Features(unknown)) } else { Ok(()) }
}

fn method(head: &[u8], version: u32, features: u64) -> Result<Method, Qcow2Error> {
    if features & COMPRESSION == 0 {
        return Ok(Method::Zlib);
    }
    if version < 3 || be32(head, 100)? <= 104 {
        return Err(Qcow2Error::Header("it names no compression method"));
    }
    match *head.get(104).ok_or(Qcow2Error::Short)? {
        0 => Ok(Method::Zlib),
        1 => Ok(Method::Zstd),
        other => Err(Qcow2Error::Compression(other)),
    }
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, Qcow2Error> {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map(u32::from_be_bytes).ok_or(Qcow2Error::Short)
}

fn be64(bytes: &[u8], at: usize) -> Result<u64, Qcow2Error> {
    let field = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    field.map(u64::from_be_bytes).ok_or(Qcow2Error::Short)
}

#[cfg(test)]
mod tests;
