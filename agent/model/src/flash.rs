//! The flash chip of a UEFI guest that keeps its variables: an image whose content the firmware's template makes, once.
//! Decides from the beginning of an image whether it is still to be written, and in which order it is written, so that a
//! template that was written in part is never taken for a store. Refuses to write over anything that it does not know.
//!
//! The template is a firmware volume (UEFI PI specification 1.8, volume 3, 3.2.1: `EFI_FIRMWARE_VOLUME_HEADER`): 16 zero
//! bytes, a GUID, the length of the volume in 8 bytes, the signature `_FVH`. QEMU maps a chip of just the image's size
//! directly below the code, and OVMF looks for its variables at a fixed address: a byte more or less is another address.

use std::ops::Range;

/// Bytes of an image that [`decide`] needs to see; the header is within them, and they are written by one request.
pub const HEAD_BYTES: usize = 4096;
/// QEMU has room for 8 MiB of flash, of which the code takes about half.
const MAX_BYTES: u64 = 4 << 20;
/// QEMU's flash has sectors of this size.
const SECTOR_BYTES: u64 = 4096;
/// Where the length of the volume stands.
const LENGTH: Range<usize> = 32..40;
/// Where the signature stands.
const SIGNATURE: Range<usize> = 40..44;
/// What of the header never changes: all before the checksum of what may.
const FIXED: Range<usize> = 0..44;

/// A file that is no template of UEFI variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no firmware volume of a multiple of {SECTOR_BYTES} and at most {MAX_BYTES} bytes")]
pub struct TemplateError;

/// An image that holds something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it holds {bytes} bytes that are no UEFI variables of {wanted} bytes, and is not written over")]
pub struct ForeignError {
    /// The image's size.
    pub bytes: u64,
    /// The template's size.
    pub wanted: u64,
}

/// The variables that a new machine has.
#[derive(Clone, PartialEq, Eq)]
pub struct Template(Vec<u8>);

/// What is to be done with an image before a guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flash {
    /// Nothing.
    Ready,
    /// It has the variables and was grown since, by a change of its claim: it is cut to its size.
    Cut,
    /// Nothing was ever kept in it: it is given its size, and the template is written.
    Write,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Template({} bytes)", self.0.len())
    }
}

impl Template {
    /// A template from the content of its file.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(content: Vec<u8>) -> Result<Self, TemplateError> {
        let bytes = content.len() as u64;
        let fits = bytes >= HEAD_BYTES as u64 && bytes <= MAX_BYTES && bytes.is_multiple_of(SECTOR_BYTES);
        if fits && length(&content) == Some(bytes) { Ok(Self(content)) } else { Err(TemplateError) }
    }

    /// Its size, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// What is written into a new image, as offsets and pieces, each after the one before is safe. The header comes last:
    /// an image that has it has all.
    #[must_use]
    pub fn pieces(&self) -> [(u64, &[u8]); 2] {
        let (head, body) = self.0.split_at(HEAD_BYTES);
        [(HEAD_BYTES as u64, body), (0, head)]
    }
}

/// The length that a firmware volume says it has; `None` where there is no such volume.
fn length(head: &[u8]) -> Option<u64> {
    let signature = head.get(SIGNATURE)?;
    let length = head.get(LENGTH)?.try_into().ok().map(u64::from_le_bytes)?;
    (signature == b"_FVH").then_some(length)
}

/// What is to be done with an image of `bytes` bytes that begins with `head`.
///
/// # Errors
/// When it holds something else than variables of this template's kind.
pub fn decide(bytes: u64, head: &[u8; HEAD_BYTES], template: &Template) -> Result<Flash, ForeignError> {
    let wanted = template.bytes();
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Flash::Write);
    }
    if head.get(FIXED) != template.0.get(FIXED) || bytes < wanted {
        return Err(ForeignError { bytes, wanted });
    }
    Ok(if bytes == wanted { Flash::Ready } else { Flash::Cut })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(sectors: usize, body: u8) -> Vec<u8> {
        let mut content = vec![body; sectors * 4096];
        content[..16].fill(0);
        content[16..32].copy_from_slice(b"0123456789abcdef");
        let length = content.len() as u64;
        content[LENGTH].copy_from_slice(&length.to_le_bytes());
        content[SIGNATURE].copy_from_slice(b"_FVH");
        content
    }

    fn template(sectors: usize) -> Template {
        Template::new(content(sectors, 0xff)).expect("a template")
    }

    fn head(image: &[u8]) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let there = image.len().min(HEAD_BYTES);
        head[..there].copy_from_slice(&image[..there]);
        head
    }

    #[test]
    fn a_template_is_a_firmware_volume_that_fits_into_the_flash() {
        assert_eq!(template(132).bytes(), 540_672);
        let refused = |content: Vec<u8>| assert_eq!(Template::new(content), Err(TemplateError));
        refused(Vec::new());
        refused(vec![0; 540_672]);
        refused(content(1025, 0));
        let mut shorter = content(132, 0);
        shorter.truncate(131 * 4096);
        refused(shorter);
    }

    #[test]
    fn an_image_is_written_once_and_never_over_something_else() {
        let template = template(132);
        let check = |bytes: u64, image: &[u8], expected| assert_eq!(decide(bytes, &head(image), &template), expected);
        check(1 << 20, &[], Ok(Flash::Write));
        check(540_672, &[], Ok(Flash::Write));
        check(540_672, &content(132, 7), Ok(Flash::Ready));
        check(1 << 20, &content(132, 7), Ok(Flash::Cut));
        let foreign = |bytes| Err(ForeignError { bytes, wanted: 540_672 });
        check(4096, &content(132, 7), foreign(4096));
        check(540_672, &content(131, 7), foreign(540_672));
        check(540_672, b"a file system", foreign(540_672));
    }

    proptest! {
        /// Whatever of the pieces arrived before a crash: what is not whole is written anew.
        #[test]
        fn half_a_template_is_never_taken_for_a_store(sectors in 2usize..16, arrived in 0usize..=2, torn in 0usize..65536) {
            let template = template(sectors);
            let mut image = vec![0u8; sectors * 4096];
            let pieces = template.pieces();
            for (offset, piece) in &pieces[..arrived] {
                let offset = usize::try_from(*offset).expect("small");
                image[offset..offset + piece.len()].copy_from_slice(piece);
            }
            if arrived == 0 {
                // The first piece is large: a part of it may have arrived.
                let part = torn.min(pieces[0].1.len());
                image[4096..4096 + part].copy_from_slice(&pieces[0].1[..part]);
            }
            let decided = decide(image.len() as u64, &head(&image), &template);
            if arrived == pieces.len() {
                prop_assert_eq!(decided, Ok(Flash::Ready));
                prop_assert_eq!(&image, &template.0);
            } else {
                prop_assert_eq!(decided, Ok(Flash::Write));
            }
        }
    }
}
