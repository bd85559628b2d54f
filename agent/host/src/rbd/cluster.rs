//! One authenticated connection to a Ceph cluster.
//!
//! It owns the librados handle and the time limits that are set on it. It sends no administrative
//! commands: those are [`crate::ceph`]'s.

use super::error::{RbdError, c_name, check};
use super::pool::Pool;
use super::sys;
use std::ffi::c_char;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// How long librados waits for a monitor or an OSD before an operation fails, in seconds.
/// Long enough for an OSD to be marked down and its placement groups to peer again (about 20 s
/// with the defaults), short enough that a caller's own deadline is not far away.
const OPERATION_TIMEOUT_S: &str = "45";
/// How long a first connection may take, in seconds.
const CONNECT_TIMEOUT_S: &str = "15";

/// With this option librbd keeps a removed image that clones hang on in the trash and removes
/// it there when its last clone is removed or flattened, by itself and in any client: a golden
/// image can be deleted at any time, and no sweeper has to find what is left of it.
const PARENT_TO_TRASH: &str = "rbd_move_parent_to_trash_on_remove";

/// A Ceph key in memory: overwritten when dropped, never shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes the base64 text of a key, as it stands in a keyring.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that must hand it on.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: zero bytes are valid UTF-8, and the writes stay inside the string.
        for byte in unsafe { self.0.as_bytes_mut() } {
            // SAFETY: a valid, exclusive reference; volatile so that it is not optimised away.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
    }
}

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The `ceph.conf` that names the monitors.
    pub conf: PathBuf,
    /// The client without its type: `furrow-agent` for `client.furrow-agent`.
    pub id: String,
    /// Where the key is: a keyring file (default `/etc/ceph/ceph.client.<id>.keyring`), unless
    /// `key` is given.
    pub keyring: Option<PathBuf>,
    /// The key itself, for a process that may not read the keyring.
    pub key: Option<Secret>,
    /// Further options by name, set after the file was read.
    pub options: Vec<(String, String)>,
}

impl ClusterConfig {
    /// The configuration and keyring that bootstrap writes for `client.<id>`.
    pub fn standard(id: &str) -> Self {
        Self {
            conf: PathBuf::from("/etc/ceph/ceph.conf"),
            id: id.to_owned(),
            keyring: Some(PathBuf::from(format!("/etc/ceph/ceph.client.{id}.keyring"))),
            key: None,
            options: Vec::new(),
        }
    }
}

/// How much room the cluster has, in bytes of raw storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All devices together.
    pub total: u64,
    /// What is not used yet; replicas not considered.
    pub available: u64,
}

/// A connected cluster; shared by the pools and images opened through it.
pub struct Cluster {
    raw: sys::rados_t,
}

// SAFETY: a rados_t may be used from any thread and from several at once (librados.h).
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// Connects; blocks for at most the connection limit (15 s).
    pub fn connect(config: &ClusterConfig) -> Result<Arc<Self>, RbdError> {
        let connected = |code: std::ffi::c_int| {
            let (conf, id) = (config.conf.display().to_string(), config.id.clone());
            let errno = nix::errno::Errno::from_raw(-code);
            if code < 0 { Err(RbdError::Connect { conf, id, errno }) } else { Ok(()) }
        };
        let id = c_name("connect as", &config.id)?;
        let mut raw: sys::rados_t = std::ptr::null_mut();
        // SAFETY: `raw` is a valid out pointer and `id` a C string.
        connected(unsafe { sys::rados_create(&mut raw, id.as_ptr()) })?;
        // From here on the handle is released by Drop.
        let cluster = Self { raw };
        let conf = c_name("read", &config.conf.to_string_lossy())?;
        // SAFETY: the handle was created above and is not connected yet.
        connected(unsafe { sys::rados_conf_read_file(raw, conf.as_ptr()) })?;
        cluster.set("rados_osd_op_timeout", OPERATION_TIMEOUT_S)?;
        cluster.set("rados_mon_op_timeout", OPERATION_TIMEOUT_S)?;
        cluster.set("client_mount_timeout", CONNECT_TIMEOUT_S)?;
        cluster.set(PARENT_TO_TRASH, "true")?;
        // A library must not write a log file or open an admin socket of its own.
        cluster.set("log_to_stderr", "false")?;
        cluster.set("log_file", "")?;
        cluster.set("admin_socket", "")?;
        if let Some(keyring) = &config.keyring {
            cluster.set("keyring", &keyring.to_string_lossy())?;
        }
        if let Some(key) = &config.key {
            cluster.set("keyring", "/dev/null")?;
            cluster.set("key", key.reveal())?;
        }
        for (name, value) in &config.options {
            cluster.set(name, value)?;
        }
        // SAFETY: configured, not yet connected.
        connected(unsafe { sys::rados_connect(raw) })?;
        Ok(Arc::new(cluster))
    }

    fn set(&self, option: &str, value: &str) -> Result<(), RbdError> {
        let action = "set the ceph option";
        let name = c_name(action, option)?;
        let value = c_name(action, value)?;
        // SAFETY: a live handle and two C strings; librados copies both.
        check(unsafe { sys::rados_conf_set(self.raw, name.as_ptr(), value.as_ptr()) }, action, || option.to_owned())?;
        Ok(())
    }

    /// Opens a pool by name.
    pub fn pool(self: &Arc<Self>, name: &str) -> Result<Pool, RbdError> {
        Pool::open(self, name)
    }

    /// The cluster's identity.
    pub fn fsid(&self) -> Result<String, RbdError> {
        let mut buffer = [0u8; 64];
        // SAFETY: the buffer is writable for its whole length.
        let len = check(
            unsafe { sys::rados_cluster_fsid(self.raw, buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) },
            "ask for the identity of",
            || "the cluster".to_owned(),
        )?;
        let len = usize::try_from(len).unwrap_or(0).min(buffer.len());
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    /// Raw capacity of all devices.
    pub fn capacity(&self) -> Result<Capacity, RbdError> {
        let mut stat = sys::rados_cluster_stat_t::default();
        // SAFETY: `stat` is a valid out pointer.
        check(unsafe { sys::rados_cluster_stat(self.raw, &mut stat) }, "ask for the capacity of", || {
            "the cluster".to_owned()
        })?;
        Ok(Capacity { total: stat.kb.saturating_mul(1024), available: stat.kb_avail.saturating_mul(1024) })
    }

    pub(super) fn raw(&self) -> sys::rados_t {
        self.raw
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: pools and images hold an Arc of this, so none is left; works unconnected too.
        unsafe { sys::rados_shutdown(self.raw) };
    }
}
