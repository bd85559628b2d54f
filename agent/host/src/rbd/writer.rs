//! Streaming writes to an image with a bounded number of bytes in flight.
//!
//! Several threads may write through one `Writer`. The first error ends it: later writes are
//! refused with that error. It keeps no order between writes, so callers must not overlap them.

use super::error::{RbdError, check};
use super::image::Image;
use super::sys;
use std::ffi::{c_char, c_void};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Writes to one image.
pub struct Writer<'image> {
    image: &'image Image,
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    path: String,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    written: u64,
    error: Option<RbdError>,
    /// Buffers to be used again: fresh ones would cost a page fault for every 4 KiB.
    spare: Vec<Vec<u8>>,
}

/// How many used buffers are kept.
const MAX_SPARE: usize = 4;

struct Pending {
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A callback cannot leave the state half changed, so a poisoned lock is still sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'image> Writer<'image> {
    /// A writer that lets at most `limit` bytes be on their way (but always one write).
    pub fn new(image: &'image Image, limit: usize) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), path: image.path() };
        Self { image, shared: Arc::new(shared), limit }
    }

    /// An empty buffer, one used before if there is any.
    pub fn buffer(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.shared.lock().spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(capacity);
        buffer
    }

    /// Sends `buffer` to `offset`; waits while too much is on its way. The answer is an earlier
    /// write's error: that this one is safe is known only after `finish`.
    pub fn write(&self, offset: u64, buffer: Vec<u8>) -> Result<(), RbdError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let len = buffer.len();
        {
            let mut state = self.shared.lock();
            while state.error.is_none() && state.in_flight > 0 && state.in_flight + len > self.limit {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            state.in_flight += len;
        }
        let pending = Box::new(Pending { buffer, shared: Arc::clone(&self.shared) });
        let data = pending.buffer.as_ptr().cast::<c_char>();
        let arg = Box::into_raw(pending).cast::<c_void>();
        let mut completion: sys::rbd_completion_t = std::ptr::null_mut();
        // SAFETY: `arg` is released exactly once: by `written`, or below when nothing was sent.
        let code = unsafe { sys::rbd_aio_create_completion(arg, Some(written), &mut completion) };
        let code = if code < 0 {
            code
        } else {
            // SAFETY: `data` points into the boxed buffer, which lives until `written` ran.
            let code =
                unsafe { sys::rbd_aio_write2(self.image.raw(), offset, len, data, completion, sys::FADVISE_STREAMED) };
            if code < 0 {
                // SAFETY: a request that was refused calls nobody back.
                unsafe { sys::rbd_aio_release(completion) };
            }
            code
        };
        if let Err(error) = check(code, "write to", || self.shared.path.clone()) {
            // SAFETY: made by into_raw above and not handed to anybody.
            drop(unsafe { Box::from_raw(arg.cast::<Pending>()) });
            let mut state = self.shared.lock();
            state.in_flight -= len;
            state.error.get_or_insert(error.clone());
            self.shared.changed.notify_all();
            return Err(error);
        }
        Ok(())
    }

    /// Bytes that Ceph has acknowledged.
    pub fn written(&self) -> u64 {
        self.shared.lock().written
    }

    /// Waits for everything on its way and for the cluster to have it safe.
    pub fn finish(self) -> Result<u64, RbdError> {
        let state = self.drain();
        let (error, written) = (state.error.clone(), state.written);
        drop(state);
        match error {
            Some(error) => Err(error),
            None => self.image.flush().map(|()| written),
        }
    }

    fn drain(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.lock();
        while state.in_flight > 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // The image must not be closed while librbd still reads our buffers.
        drop(self.drain());
    }
}

/// librbd's thread calls this once for each request.
extern "C" fn written(completion: sys::rbd_completion_t, arg: *mut c_void) {
    // SAFETY: `arg` came from Box::into_raw in `write` and arrives here once.
    let pending = unsafe { Box::from_raw(arg.cast::<Pending>()) };
    // SAFETY: the completion is done; it is released once, here.
    let code = unsafe {
        let code = sys::rbd_aio_get_return_value(completion);
        sys::rbd_aio_release(completion);
        code
    };
    let Pending { buffer, shared } = *pending;
    let mut state = shared.lock();
    state.in_flight -= buffer.len();
    match check(code as i64, "write to", || shared.path.clone()) {
        Ok(_) => state.written += buffer.len() as u64,
        Err(error) => {
            state.error.get_or_insert(error);
        }
    }
    if state.spare.len() < MAX_SPARE {
        state.spare.push(buffer);
    }
    shared.changed.notify_all();
}
