//! The image behind a guest's flash chip, see `furrow_model::flash`: looked at before each start, written before the first.
//!
//! An image that is as it should be is only read. One that is to be written is locked for as long as that takes, and
//! nobody may have it open: its guest has not started yet. Refuses to write over what it does not know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_api::reservation::ReservedVolume;
use furrow_host::rbd::{Ceph, Image, Pool, RbdError, RbdErrorKind, Writer};
use furrow_model::flash::{Flash, ForeignError, HEAD_BYTES, Template, TemplateError, decide};

use crate::guest::ports::HostError;

/// How long it may take to look at an image and to write half a megabyte.
const LIMIT: Duration = Duration::from_secs(30);
/// A file that is larger is no template, and not read.
const MAX_TEMPLATE_BYTES: u64 = 8 << 20;

/// Why an image is not a flash chip.
#[derive(Debug, thiserror::Error)]
enum FlashError {
    #[error("could not read the template {} of UEFI variables", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be the template of UEFI variables", .path.display())]
    Template { path: PathBuf, source: TemplateError },
    #[error("could not prepare the image {image} for UEFI variables")]
    Ceph { image: String, source: RbdError },
    #[error("the image {image} cannot keep UEFI variables")]
    Foreign { image: String, source: ForeignError },
    #[error("the image {image} of UEFI variables is open elsewhere, by {}", .users.join(", "))]
    InUse { image: String, users: Vec<String> },
}

impl From<FlashError> for HostError {
    fn from(error: FlashError) -> Self {
        match &error {
            FlashError::Read { .. } | FlashError::Template { .. } => Self::permanent("FirmwareNotInstalled", &error),
            FlashError::Ceph { source, .. } if source.kind() == RbdErrorKind::NotFound => {
                Self::passing("VolumeNotFound", &error)
            }
            FlashError::Ceph { .. } => Self::passing("VolumeUnreachable", &error),
            FlashError::Foreign { .. } => Self::permanent("StateNotRecognised", &error),
            FlashError::InUse { .. } => Self::passing("VolumeInUse", &error),
        }
    }
}

/// What was found, and done.
enum Done {
    Nothing,
    Cut,
    Written,
    InUse(Vec<String>),
    Foreign(ForeignError),
}

/// Makes an image the flash chip of a guest. Doing it twice is no error.
pub(super) async fn fill(ceph: &Ceph, volume: &ReservedVolume, template: &Path) -> Result<(), HostError> {
    Ok(fill_image(ceph, volume, template).await?)
}

async fn fill_image(ceph: &Ceph, volume: &ReservedVolume, path: &Path) -> Result<(), FlashError> {
    let template = read_template(path).await?;
    let name = || format!("{}/{}", volume.pool, volume.image);
    let image = volume.image.clone();
    let done = ceph.run(&volume.pool, "prepare UEFI variables", LIMIT, move |pool| prepare(pool, &image, &template));
    match done.await.map_err(|source| FlashError::Ceph { image: name(), source })? {
        Done::Nothing => {}
        Done::Cut => tracing::info!(image = name(), "image of UEFI variables cut to its size"),
        Done::Written => tracing::info!(image = name(), template = %path.display(), "UEFI variables made"),
        Done::InUse(users) => return Err(FlashError::InUse { image: name(), users }),
        Done::Foreign(source) => return Err(FlashError::Foreign { image: name(), source }),
    }
    Ok(())
}

async fn read_template(path: &Path) -> Result<Template, FlashError> {
    let failed = |source| FlashError::Read { path: path.to_owned(), source };
    let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
    if metadata.len() > MAX_TEMPLATE_BYTES {
        return Err(FlashError::Template { path: path.to_owned(), source: TemplateError });
    }
    let content = tokio::fs::read(path).await.map_err(failed)?;
    Template::new(content).map_err(|source| FlashError::Template { path: path.to_owned(), source })
}

fn prepare(pool: &Pool, image: &str, template: &Template) -> Result<Done, RbdError> {
    let seen = pool.open_read_only(image)?;
    match look(&seen, template)? {
        Ok(Flash::Ready) => return Ok(Done::Nothing),
        Ok(Flash::Cut | Flash::Write) => {}
        Err(foreign) => return Ok(Done::Foreign(foreign)),
    }
    let users: Vec<_> = seen.watchers()?.into_iter().map(|watcher| watcher.address).collect();
    drop(seen);
    if !users.is_empty() {
        return Ok(Done::InUse(users));
    }
    let image = pool.open_image(image)?;
    image.lock()?;
    // What another agent did in between counts.
    let done = match look(&image, template)? {
        Ok(Flash::Ready) => Done::Nothing,
        Ok(Flash::Cut) => {
            image.set_size(template.bytes())?;
            Done::Cut
        }
        Ok(Flash::Write) => {
            write(&image, template)?;
            Done::Written
        }
        Err(foreign) => Done::Foreign(foreign),
    };
    image.unlock()?;
    Ok(done)
}

fn look(image: &Image, template: &Template) -> Result<Result<Flash, ForeignError>, RbdError> {
    let mut head = [0; HEAD_BYTES];
    // What a short image does not have is zero.
    image.read(0, &mut head)?;
    Ok(decide(image.size()?, &head, template))
}

fn write(image: &Image, template: &Template) -> Result<(), RbdError> {
    image.set_size(template.bytes())?;
    for (offset, piece) in template.pieces() {
        let writer = Writer::new(image, piece.len());
        writer.write(offset, piece.to_vec())?;
        // Safe in the cluster before the next begins.
        writer.finish()?;
    }
    Ok(())
}
