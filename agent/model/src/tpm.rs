//! The state of a guest's TPM beyond its guests: how it lies in its image, and when it is written. Two slots of one state
//! each are written in turn, so that the one before is whole while the next is written. The newest that is whole counts; a
//! slot that was written in part is none.
//!
//! ```text
//!  0         4 KiB                512 KiB   +4 KiB                1 MiB
//!  | header | state (ciphertext) | header | state (ciphertext)   |
//! ```
//! A header is: the mark, the generation, the guest that wrote it, the length, and the SHA-256 of these and of the state;
//! numbers are little endian. A guest claims the image before it starts, and from then on no guest before it can write.
//! Refuses an image that holds something else, and a state that is not encrypted.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The directory in which swtpm keeps its state, in that of the guest's TPM; libvirt's own name for it.
pub const STATE_DIR: &str = "tpm2";
/// The file in which swtpm keeps what a TPM does not forget. A change is a new file that takes this name
/// (`swtpm_nvstore_dir.c`): what is read of it is always one whole state.
pub const STATE_FILE: &str = "tpm2-00.permall";
/// Size of a slot, bytes.
pub const SLOT_BYTES: usize = 512 << 10;
/// Bytes at the beginning of an image that belong to its slots.
pub const IMAGE_BYTES: usize = 2 * SLOT_BYTES;
/// The longest state. swtpm's own are a few KiB; its NV memory has at most 128 KiB.
pub const MAX_STATE_BYTES: usize = SLOT_BYTES - HEADER_BYTES;

const HEADER_BYTES: usize = 4096;
const MARK: &[u8; 8] = b"FurrowT1";
const GUEST_BYTES: usize = 64;
const DIGEST_BYTES: usize = 32;
/// swtpm's header, the version that it has since swtpm 0.2, and its flag for a state that is encrypted.
const SWTPM_HEADER_BYTES: usize = 10;
const SWTPM_VERSION: u8 = 2;
const SWTPM_ENCRYPTED: u8 = 1;

/// Between a write and the next look: a guest whose TPM writes all the time costs its cluster four writes a second.
const PAUSE_MS: u64 = 250;
/// After the first failure; doubled by each that follows.
const RETRY_FLOOR_MS: u64 = 1_000;
/// A state that is not written yet is lost with its node: it is tried often.
const RETRY_CEILING_MS: u64 = 30_000;

/// Why an image has no state that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// Neither empty nor a state.
    #[error("it holds no state of a TPM that is whole, and is not empty")]
    Foreign,
    /// Not what swtpm writes with a key.
    #[error("it is no encrypted state of a TPM that is whole")]
    NotSealed,
    /// More than a slot takes.
    #[error("the state has {bytes} bytes, a slot takes {MAX_STATE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A guest of a later start has claimed it.
    #[error("guest {guest} has claimed it")]
    Claimed {
        /// The UID of that guest.
        guest: String,
    },
    /// Longer than a header takes.
    #[error("{0:?} is no UID of a guest")]
    Guest(String),
}

/// What an image holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    generation: u64,
    slot: usize,
    guest: String,
    state: Vec<u8>,
}

impl Kept {
    /// swtpm's file; empty where the image is claimed and nothing was kept yet.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept(generation {} of {}, {} bytes)", self.generation, self.guest, self.state.len())
    }
}

/// What is written, by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where in the image.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

enum Slot {
    Empty,
    Foreign,
    Torn,
    Whole(Kept),
}

fn digest(header: &[u8], state: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha256::new();
    hash.update(header);
    hash.update(state);
    hash.finalize().into()
}

/// All of a header but its digest.
fn header(generation: u64, guest: &str, length: usize) -> Vec<u8> {
    let mut header = [MARK.as_slice(), &generation.to_le_bytes(), guest.as_bytes()].concat();
    header.resize(MARK.len() + 8 + GUEST_BYTES, 0);
    header.extend_from_slice(&(length as u64).to_le_bytes());
    header
}

fn read_slot(slot: usize, bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    if !bytes.starts_with(MARK) {
        return Slot::Foreign;
    }
    whole(slot, bytes).map_or(Slot::Torn, Slot::Whole)
}

fn whole(slot: usize, bytes: &[u8]) -> Option<Kept> {
    let (_, rest) = bytes.split_first_chunk::<8>()?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (guest, rest) = rest.split_first_chunk::<GUEST_BYTES>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (expected, _) = rest.split_first_chunk::<DIGEST_BYTES>()?;
    let generation = u64::from_le_bytes(*generation);
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let guest = std::str::from_utf8(guest).ok()?.trim_end_matches('\0').to_owned();
    let state = bytes.get(HEADER_BYTES..)?.get(..length)?;
    let expects = digest(&header(generation, &guest, length), state);
    (expects == *expected).then(|| Kept { generation, slot, guest, state: state.to_vec() })
}

/// The newest that an image holds; `None` where nothing was ever kept. `image`: its first [`IMAGE_BYTES`] bytes.
///
/// # Errors
/// When there is something, and nothing of it is whole.
pub fn newest(image: &[u8]) -> Result<Option<Kept>, TpmError> {
    let (mut newest, mut torn): (Option<Kept>, _) = (None, 0);
    for (slot, bytes) in image.chunks(SLOT_BYTES).take(2).enumerate() {
        match read_slot(slot, bytes) {
            Slot::Empty => {}
            Slot::Foreign => torn += 2,
            Slot::Torn => torn += 1,
            Slot::Whole(kept) if newest.as_ref().is_none_or(|other| kept.generation > other.generation) => {
                newest = Some(kept);
            }
            Slot::Whole(_) => {}
        }
    }
    match newest {
        // The very first claim may have been written in part: there was nothing before it.
        None if torn > 1 => Err(TpmError::Foreign),
        newest => Ok(newest),
    }
}

/// What is written for a guest before it starts, with the state that there is; `None` where it has claimed it already.
///
/// # Errors
/// When its UID is none.
pub fn claim(now: Option<&Kept>, guest: &str) -> Result<Option<Write>, TpmError> {
    if guest.is_empty() || guest.len() > GUEST_BYTES || guest.contains('\0') {
        return Err(TpmError::Guest(guest.to_owned()));
    }
    let mine = now.is_some_and(|kept| kept.guest == guest);
    Ok((!mine).then(|| write(now, guest, now.map_or([].as_slice(), Kept::state))))
}

/// What is written of a guest's state; `None` where the image has it already.
///
/// # Errors
/// When it is no state that could be read again, or the guest has no claim.
pub fn save(now: Option<&Kept>, guest: &str, state: &[u8]) -> Result<Option<Write>, TpmError> {
    if state.len() > MAX_STATE_BYTES {
        return Err(TpmError::TooLong { bytes: state.len() });
    }
    if !is_sealed(state) {
        return Err(TpmError::NotSealed);
    }
    match now {
        Some(kept) if kept.guest != guest => Err(TpmError::Claimed { guest: kept.guest.clone() }),
        None => Err(TpmError::Claimed { guest: "nobody".to_owned() }),
        Some(kept) if kept.state == state => Ok(None),
        Some(_) => Ok(Some(write(now, guest, state))),
    }
}

/// Whether a file is a whole state that swtpm has encrypted. It begins with a header (`swtpm_nvstore.c`, `blobheader`):
/// version, least version, length of the header, flags, length of all; big endian.
fn is_sealed(state: &[u8]) -> bool {
    let header = state.split_first_chunk::<SWTPM_HEADER_BYTES>().map(|(header, _)| *header);
    let Some([version, _, header_high, header_low, _, flags, length @ ..]) = header else { return false };
    let whole = usize::try_from(u32::from_be_bytes(length)) == Ok(state.len());
    let header_bytes = usize::from(u16::from_be_bytes([header_high, header_low]));
    version >= SWTPM_VERSION && header_bytes == SWTPM_HEADER_BYTES && flags & SWTPM_ENCRYPTED != 0 && whole
}

fn write(now: Option<&Kept>, guest: &str, state: &[u8]) -> Write {
    let slot = now.map_or(0, |kept| 1 - kept.slot.min(1));
    let generation = now.map_or(0, |kept| kept.generation) + 1;
    let mut bytes = header(generation, guest, state.len());
    bytes.extend_from_slice(&digest(&bytes, state));
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(state);
    Write { offset: (slot * SLOT_BYTES) as u64, bytes }
}

/// What came of an attempt to write the state of a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The image has it.
    Kept,
    /// It may pass.
    Failed,
    /// There is no image to write to any more, or a guest of a later start has it.
    Superseded,
}

/// When the next attempt is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextSave {
    /// When the state has changed, but not before this many milliseconds are over.
    OnChange {
        /// The pause.
        after_ms: u64,
    },
    /// After this many milliseconds, changed or not.
    After {
        /// The pause.
        ms: u64,
    },
    /// Never.
    Done,
}

/// The attempts to write the state of one running guest.
#[derive(Debug, Default)]
pub struct Saving {
    failures: u32,
}

impl Saving {
    /// What follows from an attempt.
    pub fn next(&mut self, outcome: Outcome) -> NextSave {
        match outcome {
            Outcome::Kept => {
                self.failures = 0;
                NextSave::OnChange { after_ms: PAUSE_MS }
            }
            Outcome::Failed => {
                let ms = RETRY_FLOOR_MS.saturating_mul(1 << self.failures.min(16)).min(RETRY_CEILING_MS);
                self.failures = self.failures.saturating_add(1);
                NextSave::After { ms }
            }
            Outcome::Superseded => NextSave::Done,
        }
    }
}

/// The UUID under which libvirt is told the key of a guest's TPM: version 5 of the guest's UID in a namespace of our own.
#[must_use]
pub fn secret_uuid(guest: &str) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x0f9c_2f62_54b1_4d0e_9a3c_6675_7272_6f77);
    Uuid::new_v5(&NAMESPACE, guest.as_bytes())
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
