//! Imports: DataVolumes that control gave to this node, each filled by a sandboxed child.
//!
//! ```text
//!   watch -> jobs (one task a DataVolume) --spec on stdin--> child: http or registry -> stream -> target (RBD)
//!                 ^                                            |
//!                 +------------- reports on stdout ------------+
//!                 v
//!               status, events
//! ```
//!
//! An import that ended early for whatever reason starts again from nothing: what is in the image
//! is thrown away first, under the image's lock, and a note on the image keeps everybody from its
//! content until the last byte is safe. Refuses to write status of DataVolumes that control has
//! not given to this node.

mod attempt;
mod child;
mod error;
mod fetch;
mod inputs;
mod jobs;
mod layers;
mod look;
mod protocol;
mod qcow2;
mod registry;
mod spool;
mod status;
mod stream;
mod take;
mod target;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use child::import_child;
pub(super) use jobs::run;
pub(crate) use look::{Images, LookError};
pub(crate) use take::WantedFile;

/// The API server answers within this time, or is asked again.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Where imports have their working directories, one each.
pub(super) const DIRECTORY: &str = "/var/lib/furrow/import";

/// What an import needs to know of this node.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Kubernetes name of the node.
    pub(super) node: String,
    /// ceph.conf.
    pub(super) conf: PathBuf,
    /// Keyring of the agent's Ceph user.
    pub(super) keyring: PathBuf,
    /// Where working directories are made.
    pub(super) directory: PathBuf,
}
