//! Where a testbed keeps its things and what it calls them: directories, namespaces, addresses.
//!
//! Every name that is global on the build host (namespaces, control groups) carries the testbed's own id, so
//! several checkouts and several scenarios run side by side.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The management network's first three octets. The LAN's end is `.1`, the servers' common address `.10`, node N is
/// `.(10 + N)`.
const MANAGEMENT: [u8; 3] = [10, 77, 0];

/// Nodes of a testbed at most: what two cores and 24 GiB carry.
pub(crate) const MAX_NODES: u8 = 4;

/// Port of the file server on the management network.
pub(crate) const HTTP_PORT: u16 = 8081;

/// One testbed: a test LAN and the boxes on it.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Directory of all state, `build/run` or `build/test/<scenario>`.
    pub(crate) dir: PathBuf,
    /// The checkout.
    pub(crate) source: PathBuf,
    id: String,
}

impl Layout {
    /// The testbed of this name in the checkout at `source`.
    pub(crate) fn new(source: &Path, name: &str) -> Result<Layout> {
        let source = source.canonicalize().context("no such checkout")?;
        let dir = source.join("build").join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("could not create {}", dir.display()))?;
        let mut hasher = DefaultHasher::new();
        dir.hash(&mut hasher);
        let id = format!("f{:05x}", hasher.finish() & 0xf_ffff);
        Ok(Layout { dir, source, id })
    }

    /// A name that is unique on the build host, for namespaces and control groups.
    pub(crate) fn global(&self, what: &str) -> String {
        format!("{}-{what}", self.id)
    }

    /// Directory of one part, made when missing.
    pub(crate) fn part(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("could not create {}", dir.display()))?;
        Ok(dir)
    }

    /// The kubeconfig for the build host, through the forwarder.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Address of the LAN's end of the management network.
    pub(crate) fn lan_address() -> Ipv4Addr {
        Ipv4Addr::new(MANAGEMENT[0], MANAGEMENT[1], MANAGEMENT[2], 1)
    }

    /// Where the file server listens.
    pub(crate) fn http_address() -> SocketAddr {
        SocketAddr::from((Layout::lan_address(), HTTP_PORT))
    }

    /// The address that follows the servers that live, in a testbed of several nodes.
    pub(crate) fn virtual_address() -> Ipv4Addr {
        Layout::node_address(0)
    }

    /// Management address of node `n`, counted from 1.
    pub(crate) fn node_address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(MANAGEMENT[0], MANAGEMENT[1], MANAGEMENT[2], 10 + n)
    }
}

/// The pid in a pid file, if that process lives.
pub(crate) fn living_pid(file: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    crate::host::alive(pid).then_some(pid)
}
