//! Files out of an image of a registry, for the agent itself: the child fetches and verifies them into its own directory, and
//! the agent copies them to where they are wanted when the child is gone. Refuses to follow what a child may have put in the
//! place of a file. Bounds: `FILE_MAX_BYTES` a file; the time is its caller's.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use furrow_api::import::PullSecret;
use furrow_api::reservation::ReservedImage;
use nix::fcntl::OFlag;

use super::error::ImportError;
use super::layers::{self, Flow};
use super::look::{self, Images, LookError};
use super::protocol::{Report, Take, Task};
use super::registry::{Image, Registry};
use super::stream::Progress;

/// Largest file that is taken, bytes: initial file systems with everything in them are a few hundred MiB.
pub(super) const FILE_MAX_BYTES: u64 = 1 << 30;
const PIECE: usize = 256 << 10;

/// A file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedFile {
    /// Path in the image.
    pub(crate) path: String,
    /// Name that it is to have.
    pub(crate) name: &'static str,
}

impl Images {
    /// Puts files of an image into a directory; each is there whole, or as it was before.
    ///
    /// # Errors
    /// What is wrong with the image, its registry, or the directory.
    pub(crate) async fn take(
        &self,
        image: &ReservedImage,
        secret: Option<&PullSecret>,
        files: &[WantedFile],
        into: &Path,
    ) -> Result<(), LookError> {
        let _turn = look::turn(&self.fetches).await?;
        let origin = self.origin((image.image.clone(), None, image.plain_http), secret).await?;
        let named = files.iter().map(|file| (file.path.clone(), file.name.to_owned())).collect();
        let task = Task::Take(Box::new(Take { origin, files: named, directory: std::path::PathBuf::new() }));
        let mut run = self.start(task).await?;
        let Report::Taken {} = look::ended(&mut run).await? else {
            return Err(LookError::Failed("the child ended without the files".to_owned()));
        };
        let (files, into) = (files.to_vec(), into.to_owned());
        // The directory goes with the run, which is kept until the copy is over.
        let copied = tokio::task::spawn_blocking(move || {
            files
                .iter()
                .try_for_each(|file| copy_out(run.directory(), file.name, &into))
                .map_err(|error| error.to_string())
        });
        copied
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|error| LookError::Failed(format!("could not keep the files of {}: {error}", image.image)))
    }
}

fn copy_out(child: &Path, name: &str, into: &Path) -> io::Result<()> {
    // The child owns its directory: what it names so may be a link to anything, or a pipe that nobody writes to.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut from = File::options().read(true).custom_flags(flags.bits()).open(child.join(name))?;
    let metadata = from.metadata()?;
    if !metadata.is_file() || metadata.len() > FILE_MAX_BYTES {
        return Err(io::Error::other(format!("{name} is no file of a possible size")));
    }
    let unfinished = into.join(format!("{name}.part"));
    let mut to = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    io::copy(&mut from, &mut to)?;
    std::fs::rename(&unfinished, into.join(name))
}

/// In the child: writes one file of an image.
pub(super) fn write(
    registry: &Registry,
    (image, path): (&Image, &str),
    to: &Path,
    progress: &Arc<Progress>,
) -> Result<(), ImportError> {
    let found = layers::find(registry, (image, Some(path)), progress, FILE_MAX_BYTES, |disk, len| {
        if len > FILE_MAX_BYTES {
            return Err(ImportError::FileTooLarge { path: path.to_owned(), limit: FILE_MAX_BYTES });
        }
        let kept = |error: io::Error| ImportError::Spool(error.to_string());
        let mut file = File::create(to).map_err(kept)?;
        let mut buffer = vec![0; PIECE];
        loop {
            match disk.read(&mut buffer).map_err(ImportError::of_read)? {
                0 => return Ok(Flow::GoOn),
                read => io::Write::write_all(&mut file, &buffer[..read]).map_err(kept)?,
            }
        }
    });
    match found {
        Err(ImportError::Disk(furrow_model::oci::SearchError::None(_))) => {
            Err(ImportError::NoFile { path: path.to_owned() })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_copied_and_links_are_not_followed() {
        let (child, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(child.path().join("kernel"), "k").unwrap();
        copy_out(child.path(), "kernel", guest.path()).unwrap();
        assert_eq!(std::fs::read(guest.path().join("kernel")).unwrap(), b"k");
        assert!(!guest.path().join("kernel.part").exists());
        std::os::unix::fs::symlink("/etc/passwd", child.path().join("initrd")).unwrap();
        assert!(copy_out(child.path(), "initrd", guest.path()).is_err());
        let pipe = child.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(copy_out(child.path(), "pipe", guest.path()).is_err());
        assert!(copy_out(child.path(), "nothing", guest.path()).is_err());
    }
}
