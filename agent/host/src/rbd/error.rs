//! What can go wrong with Ceph, by the caller's next action, not by library call.
//!
//! It does not decide whether to retry; `kind` gives callers what they need for that.

use nix::errno::Errno;
use std::time::Duration;

/// An operation on the cluster, a pool or an image that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RbdError {
    /// librados or librbd answered with an errno.
    #[error("cannot {action} {object}: {}", .errno.desc())]
    Call {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Pool, image or snapshot that it was tried on.
        object: String,
        /// The library's answer.
        errno: Errno,
    },
    /// There is no connection: the configuration or key is missing or wrong, or no monitor answers.
    #[error("cannot connect to ceph by {conf} as client.{id}: {}", .errno.desc())]
    Connect {
        /// Path of the configuration.
        conf: String,
        /// Client without its type.
        id: String,
        /// The library's answer.
        errno: Errno,
    },
    /// A name that C cannot carry.
    #[error("cannot {action} {object:?}: the name contains a NUL byte")]
    Name {
        /// What was tried.
        action: &'static str,
        /// The name.
        object: String,
    },
    /// Ceph gave no answer in time; the operation may still happen.
    #[error("cannot {action}: no answer from ceph within {} s", .limit.as_secs())]
    Timeout {
        /// What was tried.
        action: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// More operations are waiting than the bound allows.
    #[error("cannot {action}: {waiting} ceph operations are already waiting")]
    Busy {
        /// What was tried.
        action: &'static str,
        /// The bound that was met.
        waiting: usize,
    },
    /// The thread that made the call died.
    #[error("cannot {action}: the call's thread panicked")]
    Panicked {
        /// What was tried.
        action: &'static str,
    },
}

/// The cases that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbdErrorKind {
    /// No such pool, image, snapshot or key.
    NotFound,
    /// The name is taken.
    Exists,
    /// Somebody has it open, or holds the lock.
    Busy,
    /// It still has snapshots or children.
    NotEmpty,
    /// The key's capabilities do not allow it.
    Denied,
    /// This client was fenced off by the cluster: its connection is of no use any more.
    Fenced,
    /// Ceph did not answer, or not in time.
    Unreachable,
    /// The pool or the quota is full.
    Full,
    /// Anything else.
    Other,
}

impl RbdError {
    pub(crate) fn call(action: &'static str, object: impl Into<String>, code: i64) -> Self {
        let errno = Errno::from_raw(i32::try_from(-code).unwrap_or(libc::EIO));
        Self::Call { action, object: object.into(), errno }
    }

    /// Which of the cases that callers tell apart this is.
    pub fn kind(&self) -> RbdErrorKind {
        match self {
            Self::Call { errno, .. } => match *errno {
                Errno::ENOENT => RbdErrorKind::NotFound,
                Errno::EEXIST => RbdErrorKind::Exists,
                Errno::EBUSY | Errno::EAGAIN | Errno::EROFS => RbdErrorKind::Busy,
                Errno::ENOTEMPTY => RbdErrorKind::NotEmpty,
                Errno::EPERM | Errno::EACCES => RbdErrorKind::Denied,
                // librados answers ESHUTDOWN (108) to a client on the blocklist.
                Errno::ESHUTDOWN => RbdErrorKind::Fenced,
                Errno::ETIMEDOUT | Errno::ENOTCONN | Errno::ECONNREFUSED => RbdErrorKind::Unreachable,
                Errno::ENOSPC | Errno::EDQUOT => RbdErrorKind::Full,
                _ => RbdErrorKind::Other,
            },
            Self::Connect { .. } | Self::Timeout { .. } | Self::Busy { .. } => RbdErrorKind::Unreachable,
            Self::Name { .. } | Self::Panicked { .. } => RbdErrorKind::Other,
        }
    }
}

/// Turns a C answer below zero into an error.
pub(crate) fn check(
    code: impl Into<i64>,
    action: &'static str,
    object: impl FnOnce() -> String,
) -> Result<i64, RbdError> {
    let code = code.into();
    if code < 0 { Err(RbdError::call(action, object(), code)) } else { Ok(code) }
}

pub(crate) fn c_name(action: &'static str, name: &str) -> Result<std::ffi::CString, RbdError> {
    std::ffi::CString::new(name).map_err(|_| RbdError::Name { action, object: name.to_owned() })
}
