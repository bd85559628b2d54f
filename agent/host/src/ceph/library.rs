//! The C surface of librados that commands need, loaded when the first one is sent. Written by hand from
//! `rados/librados.h` of Debian 13 (Ceph 18.2.7); a handle is what [`crate::rbd`] calls so.
//!
//! Loaded rather than linked: with it come 30 libraries, 15 MB and 12 ms of a processor, which each start of furrow-install
//! would pay, also those early in the boot and on the medium, where nobody asks Ceph; and a reset must go on where the disk
//! with the library is erased. Refuses to interpret results.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::CephError;

/// A handle of a cluster.
pub(super) type Rados = *mut c_void;

/// The version of the ABI that the signatures below are of.
const NAME: &CStr = c"librados.so.2";

/// `rados_mon_command` and `rados_mgr_command`: the handle, texts and their number, bytes and their number, then where the
/// answer's bytes and the status are put with their lengths. Both are the library's to free.
pub(super) type SendCommand = unsafe extern "C" fn(
    Rados,
    *const *const c_char,
    usize,
    *const c_char,
    usize,
    *mut *mut c_char,
    *mut usize,
    *mut *mut c_char,
    *mut usize,
) -> c_int;

/// The functions.
pub(super) struct Library {
    pub(super) create: unsafe extern "C" fn(*mut Rados, *const c_char) -> c_int,
    pub(super) read_file: unsafe extern "C" fn(Rados, *const c_char) -> c_int,
    pub(super) set: unsafe extern "C" fn(Rados, *const c_char, *const c_char) -> c_int,
    pub(super) connect: unsafe extern "C" fn(Rados) -> c_int,
    pub(super) shutdown: unsafe extern "C" fn(Rados),
    pub(super) mon_command: SendCommand,
    pub(super) mgr_command: SendCommand,
    pub(super) buffer_free: unsafe extern "C" fn(*mut c_char),
}

impl Library {
    /// The library; loaded once, and never unloaded.
    pub(super) fn get() -> Result<&'static Library, CephError> {
        static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
        LOADED.get_or_init(|| Library::load(NAME)).as_ref().map_err(|reason| CephError::Library(reason.clone()))
    }

    fn load(name: &CStr) -> Result<Library, String> {
        // SAFETY: a C string; initialisers of Ceph's libraries ask nothing of the process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(reason());
        }
        let find = |symbol: &CStr| {
            // SAFETY: a live handle and a C string.
            let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            if address.is_null() { Err(reason()) } else { Ok(address) }
        };
        // SAFETY: each symbol is a function of librados' ABI 2 with the signature that its field has, above.
        unsafe {
            use std::mem::transmute;
            Ok(Library {
                create: transmute::<*mut c_void, unsafe extern "C" fn(*mut Rados, *const c_char) -> c_int>(find(
                    c"rados_create",
                )?),
                read_file: transmute::<*mut c_void, unsafe extern "C" fn(Rados, *const c_char) -> c_int>(find(
                    c"rados_conf_read_file",
                )?),
                set: transmute::<*mut c_void, unsafe extern "C" fn(Rados, *const c_char, *const c_char) -> c_int>(
                    find(c"rados_conf_set")?,
                ),
                connect: transmute::<*mut c_void, unsafe extern "C" fn(Rados) -> c_int>(find(c"rados_connect")?),
                shutdown: transmute::<*mut c_void, unsafe extern "C" fn(Rados)>(find(c"rados_shutdown")?),
                mon_command: transmute::<*mut c_void, SendCommand>(find(c"rados_mon_command")?),
                mgr_command: transmute::<*mut c_void, SendCommand>(find(c"rados_mgr_command")?),
                buffer_free: transmute::<*mut c_void, unsafe extern "C" fn(*mut c_char)>(find(c"rados_buffer_free")?),
            })
        }
    }
}

/// Why the loader did not do the last thing.
fn reason() -> String {
    // SAFETY: the loader's text, if there is one, lives until its next call in this thread.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { None } else { Some(CStr::from_ptr(text)) }
    };
    text.map_or_else(|| "the loader does not say why".to_owned(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_another_one_is_told() {
        let missing = Library::load(c"librados-of-nobody.so.2").err().expect("it is missing");
        assert!(missing.contains("librados-of-nobody"), "{missing}");
        let other = Library::load(c"libc.so.6").err().expect("another one");
        assert!(other.contains("rados_create"), "{other}");
    }
}
