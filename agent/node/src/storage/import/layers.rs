//! The disk in the layers of an image: found while they stream past, never unpacked. A raw disk goes straight into the
//! volume, whose note keeps everybody out until the layer's digest has been compared; a qcow2 disk is kept on the node
//! meanwhile, since its tables must be read before its data.
//!
//! Bounds: what is skipped of a layer, the disk by its claim, the time by the child's silence and the source's own limits.

use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use furrow_model::import::{Content, content};
use furrow_model::oci::{Kind, Layer, Search};
use furrow_model::qcow2::HEAD_BYTES;

use super::error::ImportError;
use super::qcow2::{self, Parts};
use super::registry::{Image, Registry};
use super::spool::Spool;
use super::stream::{Copied, INPUT_BUFFER, Progress, copy_raw, decompressor, head_of, read_up_to};
use super::target::Target;

/// So much of a layer may be read without being the disk, in bytes: a few bytes can decompress to any number.
const SKIPPED_MAX_BYTES: u64 = 64 << 30;

/// Whether whoever got the disk wants the rest of its layer looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Stop,
}

/// Hands the disk of an image, and its length, to `take`; `disk_max_bytes`: as much of it as may be read.
pub(super) fn find(
    registry: &Registry,
    (image, path): (&Image, Option<&str>),
    progress: &Arc<Progress>,
    disk_max_bytes: u64,
    mut take: impl FnMut(&mut dyn Read, u64) -> Result<Flow, ImportError>,
) -> Result<(), ImportError> {
    let mut search = Search::new(path);
    let limit = SKIPPED_MAX_BYTES.saturating_add(disk_max_bytes);
    for layer in image.layers.iter().rev() {
        if one(registry, layer, (&mut search, limit), progress, &mut take)? == Flow::Stop {
            return Ok(());
        }
        if !search.next_layer() {
            break;
        }
    }
    search.found()?;
    Ok(())
}

fn one(
    registry: &Registry,
    layer: &Layer,
    (search, limit): (&mut Search, u64),
    progress: &Arc<Progress>,
    take: &mut impl FnMut(&mut dyn Read, u64) -> Result<Flow, ImportError>,
) -> Result<Flow, ImportError> {
    let mut reader = registry.layer(layer, progress)?;
    let walked = archive(&mut reader, limit).and_then(|archive| walk(archive, search, take));
    // It says more than what was made of it above.
    if let Some(failure) = reader.failure() {
        return Err(failure);
    }
    if walked? == Flow::Stop {
        return Ok(Flow::Stop);
    }
    reader.finish()?;
    Ok(Flow::GoOn)
}

/// The plain archive. What compression there is, the content says.
fn archive<'a>(mut reader: &'a mut dyn Read, limit: u64) -> Result<Box<dyn Read + 'a>, ImportError> {
    let head = head_of(&mut reader)?;
    let kind = content(&head);
    let whole = Cursor::new(head).chain(reader);
    Ok(match kind {
        Content::Compressed(compression) => Box::new(Limited { inner: decompressor(compression, whole)?, left: limit }),
        _ => Box::new(BufReader::with_capacity(INPUT_BUFFER, whole)),
    })
}

fn walk(
    plain: Box<dyn Read + '_>,
    search: &mut Search,
    take: &mut impl FnMut(&mut dyn Read, u64) -> Result<Flow, ImportError>,
) -> Result<Flow, ImportError> {
    let mut archive = tar::Archive::new(plain);
    for entry in archive.entries().map_err(ImportError::of_read)? {
        let mut entry = entry.map_err(ImportError::of_read)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let kind = match kind {
            _ if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() => Kind::File,
            _ if kind.is_hard_link() || kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        if search.see(&name, kind)? {
            let size = entry.size();
            if take(&mut entry, size)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }
    Ok(Flow::GoOn)
}

struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::from(ImportError::Damaged(format!(
                "a layer decompresses to more than {SKIPPED_MAX_BYTES} bytes beside its disk"
            )))
        })?;
        Ok(read)
    }
}

/// Copies the disk of an image into the volume.
pub(super) fn copy(
    registry: &Registry,
    (image, path): (&Image, Option<&str>),
    (target, directory): (&Target, &Path),
    progress: &Arc<Progress>,
) -> Result<Copied, ImportError> {
    let capacity_bytes = target.capacity();
    let (mut copied, mut kept) = (None, None);
    find(registry, (image, path), progress, capacity_bytes, |mut disk, len| {
        let head = read_up_to(&mut disk, HEAD_BYTES)?;
        let kind = content(&head);
        match kind {
            Content::Qcow2 => {
                // Before a byte is kept.
                qcow2::check_head(&head, len, capacity_bytes)?;
                let whole = Cursor::new(head).chain(disk);
                kept = Some(Spool::keep(directory, whole, Some(len), capacity_bytes)?);
            }
            Content::Raw if len > capacity_bytes => {
                return Err(ImportError::TooLarge { virtual_size: len, capacity_bytes });
            }
            Content::Raw => copied = Some(copy_raw(Cursor::new(head).chain(disk), target)?),
            other => return Err(no_disk(other)),
        }
        Ok(Flow::GoOn)
    })?;
    match (kept, copied) {
        (Some(spool), _) => {
            let len = spool.len;
            qcow2::copy(&Parts::Spooled(spool), len, target, &Arc::default())
        }
        (None, Some(copied)) => Ok(copied),
        (None, None) => Err(ImportError::Empty),
    }
}

/// Size in bytes of the disk in an image, as a guest sees it. Reads no further than its head.
pub(super) fn measure(registry: &Registry, image: &Image, path: Option<&str>) -> Result<u64, ImportError> {
    let mut size = 0;
    find(registry, (image, path), &Arc::default(), 0, |mut disk, len| {
        let head = read_up_to(&mut disk, HEAD_BYTES)?;
        size = match content(&head) {
            Content::Qcow2 => qcow2::check_head(&head, len, u64::MAX)?.virtual_size,
            Content::Raw => len,
            other => return Err(no_disk(other)),
        };
        Ok(Flow::Stop)
    })?;
    if size == 0 { Err(ImportError::Empty) } else { Ok(size) }
}

fn no_disk(content: Content) -> ImportError {
    match content {
        Content::Refused(what) => ImportError::Format { what },
        _ => ImportError::Format { what: "a compressed file within an image, where it must be plain" },
    }
}
