//! The volumes of guests: whether this node may open an image, and how QEMU reaches it.
//!
//! Opens images only for reading, so it never is a watcher itself. Refuses an image without the
//! exclusive lock, one that is still being filled, and one that another client has open for
//! writing when the start must be exclusive. It fences nobody: a dead client's watch ends by
//! itself within half a minute, and the start is tried again until then.
//!
//! Two writers are impossible even between this check and QEMU's open: RBD's exclusive lock
//! admits one writer, and QEMU's librbd asks for it. The check is there to say who is in the way
//! before a guest starts, instead of letting two guests fight over the lock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_api::names::{CEPH_SECRET_UUID, CEPH_USER_QEMU};
use furrow_api::reservation::ReservedVolume;
use furrow_host::rbd::{Ceph, Pool, RbdError, RbdErrorKind, Watcher};
use furrow_model::cephconf::{self, MonitorsError};
use furrow_model::domain::RbdSource;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::flash;
use super::images::NOTE_IMPORT;
use crate::guest::ports::{HostError, Volumes};

/// How long Ceph may take to show an image.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// A ceph.conf larger than this is not read.
const MAX_CONF_BYTES: u64 = 1 << 20;

/// Why a guest may not have a volume.
#[derive(Debug, thiserror::Error)]
enum VolumeError {
    #[error("could not look at volume {volume}")]
    Ceph { volume: String, source: RbdError },
    #[error("the image {image} of volume {volume} does not exist")]
    Missing { volume: String, image: String },
    #[error("volume {volume} is still being imported")]
    Importing { volume: String },
    #[error("the image {image} of volume {volume} has no exclusive lock: two writers could destroy it")]
    NoLock { volume: String, image: String },
    #[error("volume {volume} is open elsewhere, by {}", .users.join(", "))]
    InUse { volume: String, users: Vec<String> },
    #[error("volume {volume} has volumeMode {mode}: only Block is realised")]
    Mode { volume: String, mode: String },
    #[error("could not read {}", .path.display())]
    Conf { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Monitors(#[from] MonitorsError),
}

impl From<VolumeError> for HostError {
    fn from(error: VolumeError) -> Self {
        use VolumeError as E;
        match &error {
            E::Ceph { .. } => HostError::passing("VolumeUnreachable", &error),
            E::Missing { .. } => HostError::passing("VolumeNotFound", &error),
            E::Importing { .. } => HostError::passing("VolumeNotReady", &error),
            E::InUse { .. } => HostError::passing("VolumeInUse", &error),
            E::NoLock { .. } => HostError::permanent("VolumeWithoutLock", &error),
            E::Mode { .. } => HostError::permanent("VolumeModeNotSupported", &error),
            E::Conf { .. } | E::Monitors(_) => HostError::passing("CephNotConfigured", &error),
        }
    }
}

/// Volumes by Ceph.
pub(crate) struct NodeVolumes {
    ceph: Ceph,
    conf: PathBuf,
}

impl NodeVolumes {
    pub(super) fn new(ceph: Ceph, conf: PathBuf) -> Self {
        Self { ceph, conf }
    }

    async fn check(&self, volume: &ReservedVolume, exclusive: bool) -> Result<RbdSource, VolumeError> {
        if volume.volume_mode != "Block" {
            return Err(VolumeError::Mode { volume: volume.name.clone(), mode: volume.volume_mode.clone() });
        }
        let image = volume.image.clone();
        let looked = self.ceph.run(&volume.pool, "look at an image", LOOK_LIMIT, move |pool| look(pool, &image));
        let (looked, monitors) = futures::join!(looked, self.monitors());
        let name = || volume.name.clone();
        let path = || format!("{}/{}", volume.pool, volume.image);
        let seen = looked.map_err(|source| match source.kind() {
            RbdErrorKind::NotFound => VolumeError::Missing { volume: name(), image: path() },
            _ => VolumeError::Ceph { volume: name(), source },
        })?;
        if seen.importing {
            return Err(VolumeError::Importing { volume: name() });
        }
        if !seen.has_lock {
            return Err(VolumeError::NoLock { volume: name(), image: path() });
        }
        if exclusive && !volume.read_only && !seen.watchers.is_empty() {
            let users = seen.watchers.into_iter().map(|w| w.address).collect();
            return Err(VolumeError::InUse { volume: name(), users });
        }
        let secret = Uuid::parse_str(CEPH_SECRET_UUID).expect("the constant is a uuid");
        Ok(RbdSource {
            pool: volume.pool.clone(),
            image: volume.image.clone(),
            monitors: monitors?,
            user: CEPH_USER_QEMU.to_owned(),
            secret,
        })
    }

    /// Read at every start: monitors move, and the file is small.
    async fn monitors(&self) -> Result<Vec<(String, u16)>, VolumeError> {
        let conf = |source| VolumeError::Conf { path: self.conf.clone(), source };
        let metadata = tokio::fs::metadata(&self.conf).await.map_err(conf)?;
        if metadata.len() > MAX_CONF_BYTES {
            return Err(conf(std::io::Error::other("it is larger than 1 MiB")));
        }
        let text = tokio::fs::read_to_string(&self.conf).await.map_err(conf)?;
        Ok(cephconf::monitors(&text)?)
    }
}

struct Seen {
    importing: bool,
    has_lock: bool,
    watchers: Vec<Watcher>,
}

fn look(pool: &Pool, image: &str) -> Result<Seen, RbdError> {
    let image = pool.open_read_only(image)?;
    Ok(Seen {
        importing: image.metadata(NOTE_IMPORT)?.is_some(),
        has_lock: image.has_exclusive_lock()?,
        watchers: image.watchers()?,
    })
}

impl Volumes for NodeVolumes {
    fn open_check<'a>(
        &'a self,
        volume: &'a ReservedVolume,
        exclusive: bool,
    ) -> BoxFuture<'a, Result<RbdSource, HostError>> {
        self.check(volume, exclusive).map(|result| result.map_err(HostError::from)).boxed()
    }

    fn fill_flash<'a>(
        &'a self,
        volume: &'a ReservedVolume,
        template: &'a Path,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        flash::fill(&self.ceph, volume, template).boxed()
    }

    /// Nothing is held between `open_check` and QEMU's own open, so there is nothing to let go.
    fn release<'a>(&'a self, _: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>> {
        futures::future::ready(Ok(())).boxed()
    }
}
