//! One authenticated connection that sends commands: the blocking half. It owns the handle and the limits set on it, and
//! takes over the answer's bytes. Knows no command; whoever calls it is on a thread that may block.

use std::ffi::{CString, c_char, c_int};
use std::time::Duration;

use nix::errno::Errno;

use super::CephError;
use super::commands::{Command, Target};
use super::library::{Library, Rados};

const CONF: &str = "/etc/ceph/ceph.conf";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct User {
    /// Without the type: `admin` for `client.admin`.
    pub(super) id: &'static str,
    /// The file with the key.
    pub(super) keyring: String,
}

/// A live connection.
pub(super) struct Connection {
    library: &'static Library,
    raw: Rados,
}

// SAFETY: a handle of librados may be used from any thread and from several at once (librados.h).
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Connects within a limit. `answer` is how long the monitors may take for a command; None where the manager is asked:
    /// there the library gives up by leaving the memory that a late answer is still written to
    /// (`RadosClient::mgr_command`), so that waiting has to be ended by not waiting.
    pub(super) fn open(user: &User, connect: Duration, answer: Option<Duration>) -> Result<Connection, CephError> {
        let library = Library::get()?;
        let failed = |what: String| {
            let user = format!("client.{} with {}", user.id, user.keyring);
            move |errno| CephError::Connect { what, user, errno }
        };
        let mut raw: Rados = std::ptr::null_mut();
        let id = text(user.id).map_err(failed("be known".into()))?;
        // SAFETY: a place for the handle and a C string.
        check(unsafe { (library.create)(&mut raw, id.as_ptr()) }).map_err(failed("make a handle of ceph".into()))?;
        // From here on the handle is released by Drop.
        let connection = Connection { library, raw };
        let conf = text(CONF).map_err(failed(format!("read {CONF}")))?;
        // SAFETY: a handle that is not connected yet and a C string.
        check(unsafe { (library.read_file)(raw, conf.as_ptr()) }).map_err(failed(format!("read {CONF}")))?;
        let (connect, answer) = (connect.as_secs().to_string(), answer.map_or(0, |limit| limit.as_secs()).to_string());
        for (option, value) in [
            ("keyring", user.keyring.as_str()),
            ("client_mount_timeout", &connect),
            ("rados_mon_op_timeout", &answer),
            // A library must not write a log file or open an admin socket of its own.
            ("log_to_stderr", "false"),
            ("log_file", ""),
            ("admin_socket", ""),
        ] {
            connection.set(option, value).map_err(failed(format!("set {option}")))?;
        }
        // SAFETY: configured, not yet connected.
        check(unsafe { (library.connect)(raw) }).map_err(failed("connect to ceph's monitors".into()))?;
        Ok(connection)
    }

    fn set(&self, option: &str, value: &str) -> Result<(), Errno> {
        let (option, value) = (text(option)?, text(value)?);
        // SAFETY: a live handle and two C strings, which the library copies.
        check(unsafe { (self.library.set)(self.raw, option.as_ptr(), value.as_ptr()) })
    }

    /// Sends a command and waits for the answer.
    pub(super) fn send(&self, command: &Command) -> Result<Vec<u8>, CephError> {
        let refused = |status: String, errno| CephError::Refused { command: command.prefix(), status, errno };
        let document = text(&command.document()).map_err(|errno| refused("a NUL byte in it".to_owned(), errno))?;
        let send = match command.target() {
            Target::Monitors => self.library.mon_command,
            Target::Manager => self.library.mgr_command,
        };
        let documents = [document.as_ptr()];
        let input = command.input();
        let (mut answer, mut status) = (Bytes::new(self.library), Bytes::new(self.library));
        // SAFETY: a live handle, one C string, bytes of this length, and places that are valid for the call.
        let code = unsafe {
            send(
                self.raw,
                documents.as_ptr(),
                documents.len(),
                input.as_ptr().cast(),
                input.len(),
                &mut answer.start,
                &mut answer.length,
                &mut status.start,
                &mut status.length,
            )
        };
        let said = || String::from_utf8_lossy(status.get()).trim().to_owned();
        check(code).map_err(|errno| refused(said(), errno))?;
        Ok(answer.get().to_vec())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle's last use; works unconnected too.
        unsafe { (self.library.shutdown)(self.raw) };
    }
}

/// Bytes that the library gave.
struct Bytes {
    library: &'static Library,
    start: *mut c_char,
    length: usize,
}

impl Bytes {
    fn new(library: &'static Library) -> Bytes {
        Bytes { library, start: std::ptr::null_mut(), length: 0 }
    }

    fn get(&self) -> &[u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the library gave this many bytes, and they live until Drop.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if !self.start.is_null() {
            // SAFETY: given by the library and freed once.
            unsafe { (self.library.buffer_free)(self.start) };
        }
    }
}

fn text(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn check(code: c_int) -> Result<(), Errno> {
    if code < 0 { Err(Errno::from_raw(-code)) } else { Ok(()) }
}
