//! The storage of a node: the CSI service that makes volumes, the importer that fills them, and
//! guests' access to them. Owns everything the agent does with Ceph; QEMU opens images by itself.
//! Refuses decisions (`furrow_model`) and calls of librbd (`furrow_host::rbd`).
//!
//! ```text
//!   csi-provisioner --> csi ---+
//!   DataVolumes --> import ----+--> images --> host::rbd
//!   guests --> volumes --------+       (the import's bytes: a sandboxed child's own librbd)
//!         \--> tpm ------------+
//! ```

#[cfg(test)]
mod contract;
mod csi;
mod flash;
mod images;
mod import;
mod tpm;
mod volumes;

use std::path::{Path, PathBuf};

use furrow_api::names::CEPH_USER_AGENT;
use furrow_host::rbd::{Ceph, ClusterConfig};
use kube::Client;
use tokio_util::sync::CancellationToken;

pub(crate) use import::{Images, LookError, WantedFile, import_child};
pub(crate) use tpm::NodeTpm;
pub(crate) use volumes::NodeVolumes;

/// Why the storage does not start. A Ceph that does not answer is no reason: it is waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The CSI service.
    #[error(transparent)]
    Csi(#[from] csi::CsiError),
}

/// Directories that the storage works with.
pub(crate) struct Directories {
    /// ceph.conf and the keyrings.
    pub(crate) ceph: PathBuf,
    /// States of TPMs.
    pub(crate) tpm: PathBuf,
}

/// Starts the storage of node `node`; it ends with `stop`. Returns the volumes for guests and the states of their TPMs, and
/// what looks at images of registries.
pub(crate) async fn start(
    client: Client,
    node: String,
    directories: Directories,
    stop: CancellationToken,
) -> Result<(NodeVolumes, NodeTpm, Images), StorageError> {
    let conf = directories.ceph.join("ceph.conf");
    let keyring = directories.ceph.join(format!("ceph.client.{CEPH_USER_AGENT}.keyring"));
    let mut config = ClusterConfig::standard(CEPH_USER_AGENT);
    config.conf = conf.clone();
    config.keyring = Some(keyring.clone());
    let ceph = Ceph::new(config);
    csi::start(Path::new(csi::SOCKET), client.clone(), ceph.clone(), stop.clone())?;
    let place = import::Place { node, conf: conf.clone(), keyring, directory: PathBuf::from(import::DIRECTORY) };
    let images = Images::new(client.clone(), place.clone());
    tokio::spawn(import::run(client, place, stop));
    let tpm = NodeTpm::new(ceph.clone(), directories.tpm);
    Ok((NodeVolumes::new(ceph, conf), tpm, images))
}
