//! What the agent and its import child say to each other: one JSON document on the child's
//! standard input, JSON lines on its standard output. Both are the same binary, so the format has
//! no versions. Carries the key and passwords, which is why it is not an argument.

use furrow_model::import::Severity;
use furrow_model::proxy::Proxies;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a child is for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Fill an image.
    Import(Box<Spec>),
    /// See what a reference points to.
    Look(Box<Look>),
    /// Take files out of an image.
    Take(Box<Take>),
}

/// Where bytes come from, and how they are reached.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    pub(super) location: Location,
    /// User and password.
    pub(super) login: Option<(String, String)>,
    /// Further certificates to trust, PEM.
    pub(super) certificates: Vec<String>,
    /// Through what it is reached.
    pub(super) proxies: Proxies,
}

/// Where an image is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Location {
    /// A file of a web server.
    Http { url: String },
    /// The file `path` in the layers of an image; without a path the one below `disk/`.
    Registry { image: String, path: Option<String>, plain_http: bool },
}

impl Default for Location {
    fn default() -> Self {
        Self::Http { url: String::new() }
    }
}

/// A look at an image of a registry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Look {
    pub(super) origin: Origin,
    /// Also say how large the disk in it is.
    pub(super) measure: bool,
    /// The child's directory.
    pub(super) directory: PathBuf,
}

/// Files of an image of a registry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Take {
    pub(super) origin: Origin,
    /// Path in the image, and name in the child's directory.
    pub(super) files: Vec<(String, String)>,
    /// The child's directory.
    pub(super) directory: PathBuf,
}

/// The whole of an import.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    /// ceph.conf, a copy in the child's directory.
    pub(super) conf: PathBuf,
    /// Ceph user without `client.`.
    pub(super) ceph_user: String,
    /// Its key.
    pub(super) ceph_key: String,
    pub(super) pool: String,
    pub(super) image: String,
    /// A larger image is refused, bytes.
    pub(super) capacity_bytes: u64,
    /// Leave a snapshot to clone from: the volume is one that others are copied from.
    pub(super) golden: bool,
    pub(super) origin: Origin,
    /// Where bytes may be spooled: the child's directory.
    pub(super) directory: PathBuf,
}

/// What a child reports.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Report {
    /// Bytes of the source that were worked off.
    Progress { done: u64, total: Option<u64> },
    /// Everything is safe in the image.
    Done { read: u64, written: u64, virtual_size: u64, peak_kib: u64 },
    /// What a look has seen: the digest, and the disk's size in bytes if that was asked.
    Seen { digest: String, disk_bytes: Option<u64> },
    /// The files are in the directory, and are what the image's digest says.
    Taken {},
    /// It ended without success.
    Failed { reason: String, message: String, severity: Severity },
}

/// A report longer than this is none of ours.
pub(super) const MAX_REPORT_BYTES: usize = 16 << 10;
