//! Ceph block devices: connections, pools, images, snapshots, clones and streaming writes.
//!
//! This module is the only code that reads and writes data through librados and librbd; commands
//! to the monitors are [`crate::ceph`]'s. It decides nothing: which image
//! is cloned from which, or whether a watcher forbids a start, is for its callers. It never
//! keeps an image open for a guest (QEMU opens its own) and maps no kernel device.
//!
//! ```text
//! Ceph (async, bounded, lazy connection) -> Cluster -> Pool -> Image -> Writer
//! ```
//!
//! All calls below `Ceph` block; `Ceph::run` is how async code reaches them.

mod ceph;
mod cluster;
mod error;
mod image;
mod pool;
mod sys;
mod writer;

#[cfg(test)]
mod contract;

pub use ceph::Ceph;
pub use cluster::{Capacity, Cluster, ClusterConfig, Secret};
pub use error::{RbdError, RbdErrorKind};
pub use image::{Image, Parent, Snapshot, Watcher};
pub use pool::{Pool, Trashed};
pub use writer::Writer;
