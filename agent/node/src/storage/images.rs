//! Volumes as RBD images: making, cloning, growing and removing them so that every step can be
//! repeated after a crash. Blocking; called on `Ceph`'s threads.
//!
//! Owns the notes and snapshots that Furrow leaves on images. Refuses to break locks, to shrink,
//! and to remove an image that somebody has open.
//!
//! A clone needs a snapshot of its source, and taking one costs a round through the monitors of
//! up to a second. So an import leaves the snapshot `BASE` behind, and as long as nothing was
//! written since (golden images), every clone hangs on it and takes milliseconds. Any other
//! source gets a snapshot for this one clone, removed again at once: clones of format 2 keep it
//! alive in the trash for as long as they need it.

use furrow_host::rbd::{Image, Pool, RbdError, RbdErrorKind};

/// Snapshot that an import leaves, of the image as it was imported.
pub(super) const BASE: &str = "furrow.base";
/// Prefix of a snapshot that lives while a clone is made.
const FOR_CLONE: &str = "furrow.clone.";
/// Note on an image whose import has begun and not ended: nobody may use its content.
pub(super) const NOTE_IMPORT: &str = "furrow.import";
/// Note on a clone that is complete: what it was cloned from. A clone without it is half made.
const NOTE_SOURCE: &str = "furrow.source";

/// Why an operation on a volume failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// Ceph said no.
    #[error(transparent)]
    Rbd(#[from] RbdError),
    /// The volume to clone is not there.
    #[error("the source image {image} does not exist")]
    NoSource {
        /// Image to clone.
        image: String,
    },
    /// The volume to clone is still being filled.
    #[error("the source image {image} is still being imported")]
    Importing {
        /// Image to clone.
        image: String,
    },
    /// A clone cannot be smaller than its source.
    #[error("the source image {image} has {source_bytes} bytes, the claim asks for only {bytes}")]
    TooSmall {
        /// Image to clone.
        image: String,
        /// Its size.
        source_bytes: u64,
        /// Size that was asked for.
        bytes: u64,
    },
    /// The name is taken by an image of another size or origin.
    #[error("image {image} exists already with {found}, not with {wanted}")]
    Different {
        /// Image.
        image: String,
        /// What it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Somebody has the image open.
    #[error("image {image} is in use by {}", .users.join(", "))]
    InUse {
        /// Image.
        image: String,
        /// Addresses of the clients.
        users: Vec<String>,
    },
    /// Somebody took snapshots of the image.
    #[error("image {image} has snapshots that are not Furrow's: {}", .snapshots.join(", "))]
    HasSnapshots {
        /// Image.
        image: String,
        /// Their names.
        snapshots: Vec<String>,
    },
}

/// What a volume may be as large as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// At least so many bytes.
    pub(super) required: u64,
    /// At most so many bytes; `None`: any.
    pub(super) limit: Option<u64>,
}

impl Size {
    fn fits(self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }

    fn wanted(self) -> String {
        match self.limit {
            Some(limit) => format!("{} to {limit} bytes", self.required),
            None => format!("at least {} bytes", self.required),
        }
    }
}

/// Makes an empty image; one that is there and fits is the same one. Answers its size.
pub(super) fn create(pool: &Pool, image: &str, size: Size) -> Result<u64, ImageError> {
    match pool.create(image, size.required) {
        Ok(()) => return Ok(size.required),
        Err(error) if error.kind() != RbdErrorKind::Exists => return Err(error.into()),
        Err(_) => {}
    }
    match pool.open_read_only(image) {
        Ok(found) => {
            let bytes = found.size()?;
            let different =
                |found: String| ImageError::Different { image: image.to_owned(), found, wanted: size.wanted() };
            if found.parent()?.is_some() || found.metadata(NOTE_SOURCE)?.is_some() {
                return Err(different("the content of another image".to_owned()));
            }
            if size.fits(bytes) { Ok(bytes) } else { Err(different(format!("{bytes} bytes"))) }
        }
        // A creation that was cut short leaves a name without an image behind it.
        Err(error) if error.kind() == RbdErrorKind::NotFound => {
            pool.remove(image)?;
            pool.create(image, size.required)?;
            Ok(size.required)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes `image` a copy-on-write clone of `source`, grown to `size`. One that is there and
/// complete is the same one. Answers its size.
pub(super) fn clone(pool: &Pool, source: &str, image: &str, size: Size) -> Result<u64, ImageError> {
    if let Some(bytes) = cloned_before(pool, source, image, size)? {
        return Ok(bytes);
    }
    let parent = match pool.open_read_only(source) {
        Err(error) if error.kind() == RbdErrorKind::NotFound => {
            return Err(ImageError::NoSource { image: source.to_owned() });
        }
        other => other?,
    };
    if parent.metadata(NOTE_IMPORT)?.is_some() {
        return Err(ImageError::Importing { image: source.to_owned() });
    }
    let source_bytes = parent.size()?;
    let most = size.limit.unwrap_or(u64::MAX);
    let asked = if size.required > 0 { size.required } else { most };
    if asked.min(most) < source_bytes {
        return Err(ImageError::TooSmall { image: source.to_owned(), source_bytes, bytes: asked.min(most) });
    }
    if has_fresh_base(&parent, source_bytes)? {
        pool.clone_image(source, BASE, image)?;
    } else {
        clone_of_now(pool, source, image)?;
    }
    let bytes = source_bytes.max(size.required);
    let clone = pool.open_image(image)?;
    if bytes > clone.size()? {
        clone.grow(bytes)?;
    }
    clone.set_metadata(NOTE_SOURCE, source)?;
    Ok(bytes)
}

/// The size of the clone if it is there and complete; what is half made is removed.
fn cloned_before(pool: &Pool, source: &str, image: &str, size: Size) -> Result<Option<u64>, ImageError> {
    let found = match pool.open_read_only(image) {
        Err(error) if error.kind() == RbdErrorKind::NotFound => {
            return match pool.remove(image) {
                Err(error) if error.kind() != RbdErrorKind::NotFound => Err(error.into()),
                _ => Ok(None),
            };
        }
        other => other?,
    };
    let bytes = found.size()?;
    let different = |found: String, wanted: String| ImageError::Different { image: image.to_owned(), found, wanted };
    match found.metadata(NOTE_SOURCE)? {
        Some(other) if other != source => {
            Err(different(format!("the content of image {other}"), format!("that of image {source}")))
        }
        Some(_) if size.fits(bytes) => Ok(Some(bytes)),
        Some(_) => Err(different(format!("{bytes} bytes"), size.wanted())),
        None => {
            drop(found);
            remove(pool, image)?;
            Ok(None)
        }
    }
}

fn has_fresh_base(parent: &Image, bytes: u64) -> Result<bool, ImageError> {
    let base = parent.snapshots()?.into_iter().find(|s| s.name == BASE);
    Ok(base.is_some_and(|base| base.size == bytes) && !parent.changed_since(BASE)?)
}

/// Clones the source as it is now, by a snapshot that is gone afterwards.
fn clone_of_now(pool: &Pool, source: &str, image: &str) -> Result<(), ImageError> {
    let parent = pool.open_image(source)?;
    // A base that is out of date only costs space.
    remove_snapshot(&parent, BASE)?;
    let snapshot = format!("{FOR_CLONE}{image}");
    match parent.snapshot(&snapshot) {
        // Left by an attempt that was cut short: older than now, but younger than the request.
        Err(error) if error.kind() == RbdErrorKind::Exists => {}
        other => other?,
    }
    let cloned = pool.clone_image(source, &snapshot, image);
    remove_snapshot(&parent, &snapshot)?;
    Ok(cloned?)
}

fn remove_snapshot(image: &Image, name: &str) -> Result<(), RbdError> {
    match image.remove_snapshot(name) {
        Err(error) if error.kind() != RbdErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an image; one that is not there is no error. If clones hang on it, its name is gone
/// at once and its data with the last of them.
pub(super) fn remove(pool: &Pool, image: &str) -> Result<(), ImageError> {
    match pool.open_read_only(image) {
        Ok(found) => {
            in_use(&found, image)?;
            let (ours, theirs): (Vec<_>, Vec<_>) =
                found.snapshots()?.into_iter().map(|s| s.name).partition(|s| s == BASE || s.starts_with(FOR_CLONE));
            if !theirs.is_empty() {
                return Err(ImageError::HasSnapshots { image: image.to_owned(), snapshots: theirs });
            }
            drop(found);
            if !ours.is_empty() {
                let found = pool.open_image(image)?;
                for snapshot in ours {
                    remove_snapshot(&found, &snapshot)?;
                }
            }
        }
        // What a cut-short creation or removal left is removed by name below.
        Err(error) if error.kind() == RbdErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    match pool.remove(image) {
        Err(error) if error.kind() == RbdErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == RbdErrorKind::Busy => Err(ImageError::InUse {
            image: image.to_owned(),
            users: vec!["a client that opened it just now".to_owned()],
        }),
        other => Ok(other?),
    }
}

/// Grows an image to at least `bytes`; answers its size. Never shrinks.
pub(super) fn grow(pool: &Pool, image: &str, bytes: u64) -> Result<u64, ImageError> {
    let found = pool.open_image(image)?;
    let now = found.size()?;
    if bytes > now {
        found.grow(bytes)?;
    }
    Ok(now.max(bytes))
}

fn in_use(found: &Image, image: &str) -> Result<(), ImageError> {
    let users: Vec<String> = found.watchers()?.into_iter().map(|w| w.address).collect();
    if users.is_empty() { Ok(()) } else { Err(ImageError::InUse { image: image.to_owned(), users }) }
}
