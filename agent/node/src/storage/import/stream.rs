//! The pass over a source: what it is, layer by layer, and the copy of plain bytes.
//!
//! At most one compression around an image is undone; a compressed file within a compressed file
//! is plain bytes to the guest, as it would be to `dd`.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use furrow_model::import::{Compression, Content, SNIFF_BYTES, content};

use super::error::ImportError;
use super::fetch::Source;
use super::protocol::Spec;
use super::qcow2::{self, Parts};
use super::spool::Spool;
use super::target::{Target, write_data};

/// Plain bytes are written in pieces of this size: one RBD object.
const PIECE: usize = 4 << 20;
/// What a decompressor reads at once.
pub(super) const INPUT_BUFFER: usize = 256 << 10;

/// How far the pass is, for reports.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of the source that were worked off.
    pub(super) done: AtomicU64,
    /// How many there are; 0: unknown.
    pub(super) total: AtomicU64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    /// Bytes that went to Ceph.
    pub(super) written: u64,
    /// Size of the disk in the image, in bytes.
    pub(super) virtual_size: u64,
}

/// Counts what is read through it as progress.
struct Counted<R> {
    inner: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads the source into the target.
pub(super) fn copy(
    spec: &Spec,
    source: &mut Source,
    target: &Target,
    progress: &Arc<Progress>,
) -> Result<Copied, ImportError> {
    let mut stream = source.open()?;
    progress.total.store(source.len.unwrap_or(0), Ordering::Relaxed);
    let head = head_of(&mut stream)?;
    let kind = content(&head);
    if kind == Content::Qcow2 {
        return copy_qcow2(spec, source, Cursor::new(head).chain(stream), target, progress);
    }
    let counted = Counted { inner: Cursor::new(head).chain(stream), progress: Arc::clone(progress) };
    match kind {
        Content::Compressed(compression) => {
            let mut inner = decompressor(compression, counted)?;
            let head = head_of(&mut inner)?;
            let kind = content(&head);
            let inner = Cursor::new(head).chain(inner);
            match kind {
                Content::Qcow2 => {
                    let spool = Spool::keep(&spec.directory, inner, None, spec.capacity_bytes)?;
                    let len = spool.len;
                    qcow2::copy(&Parts::Spooled(spool), len, target, &Arc::default())
                }
                Content::Refused(what) => Err(ImportError::Format { what }),
                Content::Raw | Content::Compressed(_) => copy_raw(inner, target),
            }
        }
        Content::Refused(what) => Err(ImportError::Format { what }),
        Content::Raw | Content::Qcow2 => {
            if let Some(len) = source.len.filter(|len| *len > target.capacity()) {
                return Err(ImportError::TooLarge { virtual_size: len, capacity_bytes: target.capacity() });
            }
            copy_raw(counted, target)
        }
    }
}

/// By ranges if the server sends them, else by way of a spool.
fn copy_qcow2(
    spec: &Spec,
    source: &Source,
    whole: impl Read,
    target: &Target,
    progress: &Arc<Progress>,
) -> Result<Copied, ImportError> {
    if let Some(len) = source.len {
        let mut whole = whole;
        // The head decides first: an image that is refused needs no further request.
        let head = read_up_to(&mut whole, furrow_model::qcow2::HEAD_BYTES)?;
        qcow2::check_head(&head, len, target.capacity())?;
        match qcow2::copy(&Parts::Remote(Box::new(source.clone())), len, target, progress) {
            Err(ImportError::NoRanges { .. }) => {}
            other => return other,
        }
        let whole = Cursor::new(head).chain(whole);
        return spooled(spec, whole, Some(len), target, progress);
    }
    spooled(spec, whole, None, target, progress)
}

fn spooled(
    spec: &Spec,
    whole: impl Read,
    len: Option<u64>,
    target: &Target,
    progress: &Arc<Progress>,
) -> Result<Copied, ImportError> {
    let counted = Counted { inner: whole, progress: Arc::clone(progress) };
    let spool = Spool::keep(&spec.directory, counted, len, spec.capacity_bytes)?;
    let len = spool.len;
    qcow2::copy(&Parts::Spooled(spool), len, target, &Arc::default())
}

pub(super) fn decompressor<'a>(
    compression: Compression,
    input: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>, ImportError> {
    let input = BufReader::with_capacity(INPUT_BUFFER, input);
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(input);
            Box::new(decoder.map_err(|e| ImportError::Damaged(e.to_string()))?)
        }
    })
}

/// Enough of the beginning to tell what it is.
pub(super) fn head_of(input: &mut impl Read) -> Result<Vec<u8>, ImportError> {
    read_up_to(input, SNIFF_BYTES)
}

pub(super) fn read_up_to(input: &mut impl Read, limit: usize) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::with_capacity(limit);
    input.take(limit as u64).read_to_end(&mut bytes).map_err(ImportError::of_read)?;
    Ok(bytes)
}

/// Writes plain bytes, zeros left out.
pub(super) fn copy_raw(mut input: impl Read, target: &Target) -> Result<Copied, ImportError> {
    let writer = target.writer();
    let mut offset = 0u64;
    loop {
        let mut buffer = writer.buffer(PIECE);
        (&mut input).take(PIECE as u64).read_to_end(&mut buffer).map_err(ImportError::of_read)?;
        if buffer.is_empty() {
            break;
        }
        let end = offset + buffer.len() as u64;
        if end > target.capacity() {
            return Err(ImportError::TooLong { capacity_bytes: target.capacity() });
        }
        write_data(&writer, offset, buffer)?;
        offset = end;
    }
    let written = writer.finish()?;
    if offset == 0 {
        return Err(ImportError::Empty);
    }
    Ok(Copied { written, virtual_size: offset })
}
