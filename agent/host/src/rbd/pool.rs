//! A pool: making, cloning, listing and removing images.
//!
//! Removing never forces anything: an image that is open or has snapshots is an error here, and
//! what to do about it is the caller's decision.

use super::cluster::Cluster;
use super::error::{RbdError, c_name, check};
use super::image::Image;
use super::sys;
use std::ffi::{CStr, c_char};
use std::fmt;
use std::sync::Arc;

/// layering, exclusive-lock, object-map, fast-diff, deep-flatten: what every volume has. The
/// exclusive lock is what makes two writers impossible, the object map what makes removing and
/// discarding a sparse image cheap.
pub(super) const VOLUME_FEATURES: u64 = 1 | 4 | 8 | 16 | 32;
/// log2 of the object size: 4 MiB, Ceph's default.
const OBJECT_ORDER: u64 = 22;
/// Clones of format 2 need no protected snapshot, and their parent can be moved to the trash.
const CLONE_FORMAT: u64 = 2;
/// No pool is listed beyond this many images; a guard against a runaway allocation.
const MAX_LISTED: usize = 1 << 20;

/// A pool that is open for I/O. Clones share one handle.
#[derive(Clone)]
pub struct Pool(pub(super) Arc<PoolHandle>);

pub(super) struct PoolHandle {
    pub(super) io: sys::rados_ioctx_t,
    pub(super) name: String,
    /// Keeps the connection alive for as long as the pool is.
    _cluster: Arc<Cluster>,
}

// SAFETY: a rados_ioctx_t may be used from any thread, several at once, as long as nothing sets
// its namespace or locator; nothing here does.
unsafe impl Send for PoolHandle {}
// SAFETY: as above.
unsafe impl Sync for PoolHandle {}

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The image's id.
    pub id: String,
    /// The name it had.
    pub name: String,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.name).finish()
    }
}

impl Pool {
    pub(super) fn open(cluster: &Arc<Cluster>, name: &str) -> Result<Self, RbdError> {
        let c = c_name("open pool", name)?;
        let mut io: sys::rados_ioctx_t = std::ptr::null_mut();
        // SAFETY: a connected cluster, a C string and a valid out pointer.
        check(unsafe { sys::rados_ioctx_create(cluster.raw(), c.as_ptr(), &mut io) }, "open pool", || name.to_owned())?;
        Ok(Self(Arc::new(PoolHandle { io, name: name.to_owned(), _cluster: Arc::clone(cluster) })))
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn path(&self, image: &str) -> String {
        format!("image {}/{image}", self.0.name)
    }

    /// Makes an empty image of `size` bytes with the features every volume has.
    pub fn create(&self, name: &str, size: u64) -> Result<(), RbdError> {
        let c = c_name("create", name)?;
        let options = Options::volume(&[])?;
        // SAFETY: all arguments live over the call.
        check(unsafe { sys::rbd_create4(self.0.io, c.as_ptr(), size, options.0) }, "create", || self.path(name))?;
        Ok(())
    }

    /// Makes `child` a copy-on-write clone of `parent@snapshot`, in this pool.
    pub fn clone_image(&self, parent: &str, snapshot: &str, child: &str) -> Result<(), RbdError> {
        let (p, s, c) = (c_name("clone", parent)?, c_name("clone", snapshot)?, c_name("clone", child)?);
        let options = Options::volume(&[(sys::RBD_IMAGE_OPTION_CLONE_FORMAT, CLONE_FORMAT)])?;
        // SAFETY: all arguments live over the call.
        let code = unsafe { sys::rbd_clone3(self.0.io, p.as_ptr(), s.as_ptr(), self.0.io, c.as_ptr(), options.0) };
        check(code, "clone", || format!("{}@{snapshot} to {child}", self.path(parent)))?;
        Ok(())
    }

    /// Removes an image and its data. One that clones hang on loses its name now and its data
    /// with the last of them (see `PARENT_TO_TRASH` in `cluster`). Fails with `Busy` when
    /// somebody has it open and with `NotEmpty` when it has snapshots of the user's.
    pub fn remove(&self, name: &str) -> Result<(), RbdError> {
        let c = c_name("remove", name)?;
        // SAFETY: the progress callback ignores its argument.
        let code =
            unsafe { sys::rbd_remove_with_progress(self.0.io, c.as_ptr(), Some(no_progress), std::ptr::null_mut()) };
        check(code, "remove", || self.path(name))?;
        Ok(())
    }

    /// What is in the trash.
    pub fn trashed(&self) -> Result<Vec<Trashed>, RbdError> {
        let empty = sys::rbd_trash_image_info_t {
            id: std::ptr::null_mut(),
            name: std::ptr::null_mut(),
            source: 0,
            deletion_time: 0,
            deferment_end_time: 0,
        };
        let mut count = 64usize;
        loop {
            let mut entries = vec![empty; count];
            // SAFETY: `entries` has room for `count` entries.
            let code = unsafe { sys::rbd_trash_list(self.0.io, entries.as_mut_ptr(), &mut count) };
            if code == -libc::ERANGE && count <= MAX_LISTED {
                continue;
            }
            check(code, "list the trash of", || format!("pool {}", self.0.name))?;
            let filled = count.min(entries.len());
            // SAFETY: librbd filled `filled` entries with C strings.
            let trashed =
                entries[..filled].iter().map(|e| unsafe { Trashed { id: text(e.id), name: text(e.name) } }).collect();
            // SAFETY: the strings are released once, and not used after.
            unsafe { sys::rbd_trash_list_cleanup(entries.as_mut_ptr(), filled) };
            return Ok(trashed);
        }
    }

    /// The names of all images.
    pub fn images(&self) -> Result<Vec<String>, RbdError> {
        let empty = sys::rbd_image_spec_t { id: std::ptr::null_mut(), name: std::ptr::null_mut() };
        let mut count = 256usize;
        loop {
            let mut entries = vec![empty; count];
            // SAFETY: `entries` has room for `count` entries.
            let code = unsafe { sys::rbd_list2(self.0.io, entries.as_mut_ptr(), &mut count) };
            if code == -libc::ERANGE && count <= MAX_LISTED {
                continue;
            }
            check(code, "list", || format!("pool {}", self.0.name))?;
            let filled = count.min(entries.len());
            // SAFETY: librbd filled `filled` entries with C strings.
            let names = entries[..filled].iter().map(|e| unsafe { text(e.name) }).collect();
            // SAFETY: released once.
            unsafe { sys::rbd_image_spec_list_cleanup(entries.as_mut_ptr(), filled) };
            return Ok(names);
        }
    }

    /// Opens an image for reading; leaves no watch, so nobody sees this client.
    pub fn open_read_only(&self, name: &str) -> Result<Image, RbdError> {
        Image::open(self, name, true)
    }

    /// Opens an image for writing; this client is then one of its watchers.
    pub fn open_image(&self, name: &str) -> Result<Image, RbdError> {
        Image::open(self, name, false)
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        // SAFETY: images hold an Arc of this handle, so none is open any more.
        unsafe { sys::rados_ioctx_destroy(self.io) };
    }
}

/// Image options that are destroyed on every path.
struct Options(sys::rbd_image_options_t);

impl Options {
    fn volume(more: &[(std::ffi::c_int, u64)]) -> Result<Self, RbdError> {
        let mut raw: sys::rbd_image_options_t = std::ptr::null_mut();
        // SAFETY: a valid out pointer.
        unsafe { sys::rbd_image_options_create(&mut raw) };
        let options = Self(raw);
        let common = [(sys::RBD_IMAGE_OPTION_FEATURES, VOLUME_FEATURES), (sys::RBD_IMAGE_OPTION_ORDER, OBJECT_ORDER)];
        for (option, value) in common.iter().chain(more) {
            // SAFETY: created above.
            let code = unsafe { sys::rbd_image_options_set_uint64(raw, *option, *value) };
            check(code, "set an image option", || format!("number {option}"))?;
        }
        Ok(options)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: created by `volume`, destroyed once.
        unsafe { sys::rbd_image_options_destroy(self.0) };
    }
}

pub(super) extern "C" fn no_progress(_: u64, _: u64, _: *mut std::ffi::c_void) -> std::ffi::c_int {
    0
}

/// Copies a C string; null is empty.
///
/// # Safety
/// `raw` is null or a C string that lives over the call.
pub(super) unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}
