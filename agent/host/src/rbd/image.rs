//! One open image: size, lock, watchers, snapshots, metadata, reads and discards.
//!
//! An image is closed when its value is dropped. Streaming writes are in `writer`. Nothing here
//! breaks another client's lock.

use super::error::{RbdError, RbdErrorKind, c_name, check};
use super::pool::{Pool, no_progress, text};
use super::sys;
use std::ffi::{c_char, c_int};
use std::fmt;

/// Discards are sent in pieces of this many bytes, so that each answer fits an `int` and comes
/// within the operation's time limit.
const DISCARD_PIECE: u64 = 1 << 30;
/// More watchers, owners or snapshots than this are not believed.
const MAX_LISTED: usize = 4096;

/// An image that is open; for writing unless it was opened read only.
pub struct Image {
    raw: sys::rbd_image_t,
    name: String,
    pool: Pool,
}

// SAFETY: librbd images are used from several threads by design; every call locks inside.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// A client that has the image open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// Its address as Ceph prints it: `10.0.0.1:0/123456789`.
    pub address: String,
    /// The client's number in the cluster (`client.<id>`).
    pub client: i64,
    /// The watch's cookie, which tells several opens of one client apart.
    pub cookie: u64,
}

/// A snapshot of the image in the user's namespace (not those in the trash).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number in the pool.
    pub id: u64,
    /// The image's size when it was taken, in bytes.
    pub size: u64,
    /// Its name.
    pub name: String,
}

/// What a clone is a clone of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The parent's pool.
    pub pool: String,
    /// The parent's name; the name it had, when it is in the trash.
    pub image: String,
    /// Whether the parent was removed and only waits for its last clone.
    pub trashed: bool,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({})", self.path())
    }
}

impl Image {
    pub(super) fn open(pool: &Pool, name: &str, read_only: bool) -> Result<Self, RbdError> {
        let c = c_name("open", name)?;
        let mut raw: sys::rbd_image_t = std::ptr::null_mut();
        // SAFETY: a live pool, a C string and a valid out pointer; a null snapshot is the head.
        let code = unsafe {
            if read_only {
                sys::rbd_open_read_only(pool.0.io, c.as_ptr(), &mut raw, std::ptr::null())
            } else {
                sys::rbd_open(pool.0.io, c.as_ptr(), &mut raw, std::ptr::null())
            }
        };
        check(code, "open", || format!("image {}/{name}", pool.name()))?;
        Ok(Self { raw, name: name.to_owned(), pool: pool.clone() })
    }

    pub(super) fn raw(&self) -> sys::rbd_image_t {
        self.raw
    }

    pub(super) fn path(&self) -> String {
        format!("image {}/{}", self.pool.name(), self.name)
    }

    fn check(&self, code: c_int, action: &'static str) -> Result<i64, RbdError> {
        check(code, action, || self.path())
    }

    /// The size in bytes.
    pub fn size(&self) -> Result<u64, RbdError> {
        let mut size = 0u64;
        // SAFETY: an open image and a valid out pointer.
        self.check(unsafe { sys::rbd_get_size(self.raw, &mut size) }, "ask for the size of")?;
        Ok(size)
    }

    /// Whether the exclusive lock is one of the image's features.
    pub fn has_exclusive_lock(&self) -> Result<bool, RbdError> {
        let mut features = 0u64;
        // SAFETY: an open image and a valid out pointer.
        self.check(unsafe { sys::rbd_get_features(self.raw, &mut features) }, "ask for the features of")?;
        Ok(features & 4 != 0)
    }

    /// Grows the image to `size` bytes; a smaller size is refused by librbd.
    pub fn grow(&self, size: u64) -> Result<(), RbdError> {
        // SAFETY: the progress callback ignores its argument.
        let code = unsafe { sys::rbd_resize2(self.raw, size, false, Some(no_progress), std::ptr::null_mut()) };
        self.check(code, "resize")?;
        Ok(())
    }

    /// Gives the image this size, also a smaller one: what is beyond it is lost.
    pub fn set_size(&self, size: u64) -> Result<(), RbdError> {
        // SAFETY: the progress callback ignores its argument.
        let code = unsafe { sys::rbd_resize2(self.raw, size, true, Some(no_progress), std::ptr::null_mut()) };
        self.check(code, "set the size of")?;
        Ok(())
    }

    /// Copies what the clone still shares with its parent into it, and lets the parent go.
    pub fn flatten(&self) -> Result<(), RbdError> {
        // SAFETY: the progress callback ignores its argument.
        let code = unsafe { sys::rbd_flatten_with_progress(self.raw, Some(no_progress), std::ptr::null_mut()) };
        self.check(code, "flatten")?;
        Ok(())
    }

    /// The image this one is a clone of.
    pub fn parent(&self) -> Result<Option<Parent>, RbdError> {
        let mut parent = sys::rbd_linked_image_spec_t {
            pool_id: 0,
            pool_name: std::ptr::null_mut(),
            pool_namespace: std::ptr::null_mut(),
            image_id: std::ptr::null_mut(),
            image_name: std::ptr::null_mut(),
            trash: false,
        };
        let mut snapshot = sys::rbd_snap_spec_t { id: 0, namespace_type: 0, name: std::ptr::null_mut() };
        // SAFETY: an open image and two valid out pointers.
        let code = unsafe { sys::rbd_get_parent(self.raw, &mut parent, &mut snapshot) };
        if code == -libc::ENOENT {
            return Ok(None);
        }
        self.check(code, "ask for the parent of")?;
        // SAFETY: librbd filled both with C strings, which are released once, after the copy.
        let found = unsafe {
            let found = Parent { pool: text(parent.pool_name), image: text(parent.image_name), trashed: parent.trash };
            sys::rbd_linked_image_spec_cleanup(&mut parent);
            sys::rbd_snap_spec_cleanup(&mut snapshot);
            found
        };
        Ok(Some(found))
    }

    /// Takes a snapshot.
    pub fn snapshot(&self, name: &str) -> Result<(), RbdError> {
        let c = c_name("take a snapshot of", name)?;
        // SAFETY: an open image and a C string.
        let code = unsafe { sys::rbd_snap_create(self.raw, c.as_ptr()) };
        check(code, "take a snapshot of", || format!("{} named {name}", self.path()))?;
        Ok(())
    }

    /// Removes a snapshot. One with clones of format 2 disappears from the list and is kept for
    /// them until the last is gone.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), RbdError> {
        let c = c_name("remove the snapshot", name)?;
        // SAFETY: an open image and a C string.
        let code = unsafe { sys::rbd_snap_remove(self.raw, c.as_ptr()) };
        check(code, "remove the snapshot", || format!("{name} of {}", self.path()))?;
        Ok(())
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, RbdError> {
        let empty = sys::rbd_snap_info_t { id: 0, size: 0, name: std::ptr::null() };
        let mut count: c_int = 32;
        loop {
            let mut entries = vec![empty; usize::try_from(count).unwrap_or(0).min(MAX_LISTED)];
            let mut room = c_int::try_from(entries.len()).unwrap_or(c_int::MAX);
            // SAFETY: `entries` has room for `room` entries.
            let code = unsafe { sys::rbd_snap_list(self.raw, entries.as_mut_ptr(), &mut room) };
            if code == -libc::ERANGE && count < room {
                count = room;
                continue;
            }
            let filled = usize::try_from(self.check(code, "list the snapshots of")?).unwrap_or(0);
            // SAFETY: librbd filled `filled` entries with C strings and ended them with a null
            // name, which the release call stops at; it is only called when there are any.
            let found: Vec<Snapshot> = unsafe {
                let found = entries
                    .iter()
                    .take(filled)
                    .map(|e| Snapshot { id: e.id, size: e.size, name: text(e.name) })
                    .collect();
                if filled > 0 {
                    sys::rbd_snap_list_end(entries.as_mut_ptr());
                }
                found
            };
            return Ok(found.into_iter().filter(|s| self.is_user_snapshot(s.id)).collect());
        }
    }

    /// Whether anything was written or discarded since the snapshot was taken. Cheap: with the
    /// features every volume has, two object maps are compared.
    pub fn changed_since(&self, snapshot: &str) -> Result<bool, RbdError> {
        const STOP: c_int = -libc::ECANCELED;
        extern "C" fn stop_at_first(_: u64, _: usize, _: c_int, _: *mut std::ffi::c_void) -> c_int {
            STOP
        }
        let c = c_name("compare with a snapshot of", snapshot)?;
        let size = self.size()?;
        // SAFETY: an open image and a C string; the callback uses no argument.
        let code = unsafe {
            sys::rbd_diff_iterate2(self.raw, c.as_ptr(), 0, size, 0, 1, Some(stop_at_first), std::ptr::null_mut())
        };
        if code == STOP {
            return Ok(true);
        }
        self.check(code, "compare with a snapshot of")?;
        Ok(false)
    }

    /// Snapshots that only wait for their last clone stay in librbd's list, in the trash's
    /// namespace; one that vanished since the listing is none of the user's either.
    fn is_user_snapshot(&self, id: u64) -> bool {
        let mut kind: c_int = -1;
        // SAFETY: an open image and a valid out pointer.
        let code = unsafe { sys::rbd_snap_get_namespace_type(self.raw, id, &mut kind) };
        code == 0 && kind == sys::RBD_SNAP_NAMESPACE_TYPE_USER
    }

    /// Who has the image open for writing. An open for reading (`open_read_only`) is not among
    /// them. A dead client stays in the list for about 30 s.
    pub fn watchers(&self) -> Result<Vec<Watcher>, RbdError> {
        let empty = sys::rbd_image_watcher_t { addr: std::ptr::null_mut(), id: 0, cookie: 0 };
        let mut count = 16usize;
        loop {
            let mut entries = vec![empty; count];
            // SAFETY: `entries` has room for `count` entries.
            let code = unsafe { sys::rbd_watchers_list(self.raw, entries.as_mut_ptr(), &mut count) };
            if code == -libc::ERANGE && count <= MAX_LISTED {
                continue;
            }
            self.check(code, "list the watchers of")?;
            let filled = count.min(entries.len());
            // SAFETY: librbd filled `filled` entries with C strings; released once.
            let found = unsafe {
                let found = entries[..filled]
                    .iter()
                    .map(|e| Watcher { address: text(e.addr), client: e.id, cookie: e.cookie })
                    .collect();
                sys::rbd_watchers_list_cleanup(entries.as_mut_ptr(), filled);
                found
            };
            return Ok(found);
        }
    }

    /// Who holds the exclusive lock, as Ceph names lock owners; empty when nobody does.
    pub fn lock_owners(&self) -> Result<Vec<String>, RbdError> {
        let mut mode: c_int = 0;
        let mut owners: [*mut c_char; 8] = [std::ptr::null_mut(); 8];
        let mut count = owners.len();
        // SAFETY: `owners` has room for `count` pointers.
        let code = unsafe { sys::rbd_lock_get_owners(self.raw, &mut mode, owners.as_mut_ptr(), &mut count) };
        if code == -libc::ENOENT {
            return Ok(Vec::new());
        }
        self.check(code, "ask for the lock owners of")?;
        let filled = count.min(owners.len());
        // SAFETY: librbd filled `filled` pointers; released once.
        let found = unsafe {
            let found = owners[..filled].iter().map(|o| text(*o)).collect();
            sys::rbd_lock_get_owners_cleanup(owners.as_mut_ptr(), filled);
            found
        };
        Ok(found)
    }

    /// Takes the exclusive lock and keeps it: while this value lives, another client's request
    /// for the lock is refused. `Busy` when another client holds it.
    pub fn lock(&self) -> Result<(), RbdError> {
        // SAFETY: an image that is open for writing.
        let code = unsafe { sys::rbd_lock_acquire(self.raw, sys::RBD_LOCK_MODE_EXCLUSIVE) };
        self.check(code, "lock")?;
        Ok(())
    }

    /// Gives the exclusive lock back.
    pub fn unlock(&self) -> Result<(), RbdError> {
        // SAFETY: an image that is open for writing.
        self.check(unsafe { sys::rbd_lock_release(self.raw) }, "unlock")?;
        Ok(())
    }

    /// Reads one of the image's notes.
    pub fn metadata(&self, key: &str) -> Result<Option<String>, RbdError> {
        let c = c_name("read the metadata of", key)?;
        let mut buffer = vec![0u8; 4096];
        let mut len = buffer.len();
        // SAFETY: `buffer` is writable for `len` bytes.
        let code =
            unsafe { sys::rbd_metadata_get(self.raw, c.as_ptr(), buffer.as_mut_ptr().cast::<c_char>(), &mut len) };
        match self.check(code, "read the metadata of") {
            Ok(_) => {}
            Err(error) if error.kind() == RbdErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        buffer.truncate(buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len()));
        Ok(Some(String::from_utf8_lossy(&buffer).into_owned()))
    }

    /// Writes one of the image's notes.
    pub fn set_metadata(&self, key: &str, value: &str) -> Result<(), RbdError> {
        let (k, v) = (c_name("write the metadata of", key)?, c_name("write the metadata of", value)?);
        // SAFETY: an open image and two C strings.
        self.check(unsafe { sys::rbd_metadata_set(self.raw, k.as_ptr(), v.as_ptr()) }, "write the metadata of")?;
        Ok(())
    }

    /// Removes one of the image's notes; one that is not there is no error.
    pub fn remove_metadata(&self, key: &str) -> Result<(), RbdError> {
        let c = c_name("remove the metadata of", key)?;
        // SAFETY: an open image and a C string.
        let code = unsafe { sys::rbd_metadata_remove(self.raw, c.as_ptr()) };
        match self.check(code, "remove the metadata of") {
            Err(error) if error.kind() != RbdErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Fills `buffer` from `offset`; answers how many bytes were there.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, RbdError> {
        // SAFETY: `buffer` is writable for its whole length.
        let code = unsafe { sys::rbd_read(self.raw, offset, buffer.len(), buffer.as_mut_ptr().cast::<c_char>()) };
        let read = check(code as i64, "read", || self.path())?;
        Ok(usize::try_from(read).unwrap_or(0))
    }

    /// Throws the content away: it reads as zeros afterwards (`progress` gets bytes done).
    pub fn discard_all(&self, mut progress: impl FnMut(u64)) -> Result<(), RbdError> {
        let size = self.size()?;
        let mut offset = 0;
        while offset < size {
            let len = DISCARD_PIECE.min(size - offset);
            // SAFETY: an image that is open for writing.
            self.check(unsafe { sys::rbd_discard(self.raw, offset, len) }, "discard")?;
            offset += len;
            progress(offset);
        }
        Ok(())
    }

    /// Waits until everything written is safe in the cluster.
    pub fn flush(&self) -> Result<(), RbdError> {
        // SAFETY: an open image.
        self.check(unsafe { sys::rbd_flush(self.raw) }, "flush")?;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: closed once; writers borrow the image, so none is left.
        unsafe { sys::rbd_close(self.raw) };
    }
}
