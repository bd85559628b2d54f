//! Disks that are files of this node. Owns making them: the whole size is taken from the file system at once, so that a
//! guest's write cannot fail for want of room later. Refuses to remove them: they outlive the guest, which is what they
//! are for.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use furrow_api::quantity;
use furrow_api::vmi::{HostDisk, Volume};
use furrow_model::host_disk::{HOST_DISKS_DIR, HostDiskError, OR_CREATE, check_room, file_name};
use nix::fcntl::{FallocateFlags, fallocate};

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostDiskFileError {
    /// By rule.
    #[error("could not use the host disk of volume {volume}")]
    Rule { volume: String, source: HostDiskError },
    /// It is not there and is not to be made.
    #[error("the host disk {} of volume {volume} does not exist", path.display())]
    Missing { volume: String, path: PathBuf },
    /// No usable size.
    #[error("the host disk of volume {volume} has no usable capacity")]
    Capacity { volume: String },
    /// The file system.
    #[error("could not make the host disk {} of volume {volume}", path.display())]
    Make {
        volume: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl HostDiskFileError {
    /// CamelCase, for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Rule { source: HostDiskError::NoRoom { .. }, .. } | Self::Make { .. } => "HostDiskNotMade",
            Self::Rule { .. } | Self::Capacity { .. } => "HostDiskInvalid",
            Self::Missing { .. } => "HostDiskNotFound",
        }
    }

    /// Trying again cannot help.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Rule { source: HostDiskError::Outside { .. }, .. } | Self::Capacity { .. })
    }
}

/// Where the disk of a volume is.
pub(crate) fn path(namespace: &str, volume: &str, disk: &HostDisk) -> Result<PathBuf, HostDiskFileError> {
    let name = file_name(namespace, &disk.path);
    let name = name.map_err(|source| HostDiskFileError::Rule { volume: volume.to_owned(), source })?;
    Ok(Path::new(HOST_DISKS_DIR).join(namespace).join(name))
}

/// Makes the disks that are missing and may be made. Blocks.
pub(crate) fn ensure(namespace: &str, volumes: &[Volume]) -> Result<(), HostDiskFileError> {
    let disks = volumes.iter().filter_map(|volume| Some((volume.name.as_str(), volume.host_disk.as_ref()?)));
    for (volume, disk) in disks {
        let path = path(namespace, volume, disk)?;
        // A link could lead anywhere; nobody but an administrator can have put one there, and it is not followed.
        if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        if disk.type_ != OR_CREATE {
            return Err(HostDiskFileError::Missing { volume: volume.to_owned(), path });
        }
        let bytes = disk.capacity.as_ref().and_then(|capacity| quantity::units(capacity).ok());
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| HostDiskFileError::Capacity { volume: volume.to_owned() })?;
        make(volume, &path, bytes)?;
    }
    Ok(())
}

/// Under another name until it is whole: a crash leaves no disk of half the size.
fn make(volume: &str, path: &Path, bytes: u64) -> Result<(), HostDiskFileError> {
    let failed = |source| HostDiskFileError::Make { volume: volume.to_owned(), path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new(HOST_DISKS_DIR));
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(failed)?;
    let found = nix::sys::statvfs::statvfs(dir).map_err(|errno| failed(errno.into()))?;
    let unit = found.fragment_size();
    check_room(bytes, found.blocks_available() * unit, found.blocks() * unit)
        .map_err(|source| HostDiskFileError::Rule { volume: volume.to_owned(), source })?;
    // No disk's name begins with a dot.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let half = dir.join(format!(".{name}.making"));
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&half).map_err(failed)?;
    let length = i64::try_from(bytes).map_err(|_| HostDiskFileError::Capacity { volume: volume.to_owned() })?;
    let taken = fallocate(&file, FallocateFlags::empty(), 0, length).map_err(std::io::Error::from);
    let made = taken.and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&half, path));
    made.map_err(|source| {
        // What was taken is given back; the error that counts is the first.
        let _ = std::fs::remove_file(&half);
        failed(source)
    })
}
