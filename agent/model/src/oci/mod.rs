//! Images of an OCI registry that hold a disk (KubeVirt's container disks): how a reference reads, which manifest and which
//! file of its layers is meant, how one logs in, and how the cluster keeps one copy of each. The bytes are not trusted:
//! whatever a registry sends is checked against the digest that named it. Refuses to fetch anything.
//!
//! ```text
//!   reference ──> manifest (index ──> linux/amd64) ──> layers, the topmost first ──search──> one file below disk/
//!       └──────────────── golden: is there a copy already, how is it called, when is it tried again
//! ```

mod challenge;
mod golden;
mod login;
mod manifest;
mod reference;
mod search;

pub use challenge::Challenge;
pub use golden::{
    Choice, DISK_MAX_BYTES, Golden, MAX_KEPT, PULL_TRIES_AGAIN_FIRST, PULL_TRIES_AGAIN_LAST, PullPolicy, State,
    USE_NOTED_S, choose, golden_name, pull_delay, surplus, use_is_news,
};
pub use login::{LoginError, login};
pub use manifest::{Document, Entry, Layer, ManifestError, choose_platform, parse};
pub use reference::{Digest, Reference, ReferenceError, Version};
pub use search::{Kind, Search, SearchError, path_problem};
