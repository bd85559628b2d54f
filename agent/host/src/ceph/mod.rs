//! Ceph's administration: commands to its monitors and its manager, and OSDs' devices. Refuses to know which cluster there
//! should be: names, addresses and devices are its callers'. Data goes through [`crate::rbd`].
//!
//! ```text
//! commands (what is asked, as documents) -> Monitor (async, kept, limited) -> connection (blocks) -> library (librados)
//! ```
//! `ceph` itself is not run: it is Python and fetches the descriptions of all commands before each one, which costs half
//! a second of a processor. Other programs of Ceph's stay where they do more than to send a command: `ceph-osd --mkfs`,
//! `ceph-bluestore-tool`, `rbd pool init`.

pub mod commands;
mod connection;
mod devices;
mod library;
mod monitor;

use std::time::Duration;

use nix::errno::Errno;

pub use commands::Command;
pub use devices::{Label, NewOsd, label, make_osd, prime};
pub use monitor::Monitor;

use crate::cmd::CmdError;

/// Why Ceph was not asked or did not do it. None carries what was sent beside the document: keys are in there.
#[derive(Debug, thiserror::Error)]
pub enum CephError {
    /// A program failed; the end of what it said is in the source.
    #[error(transparent)]
    Program(#[from] CmdError),
    /// It answered with something else than it documents.
    #[error("could not read the answer of `ceph {command}`")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is wrong with the answer.
        #[source]
        source: serde_json::Error,
    },
    /// The machine has no librados, or another one.
    #[error("could not load librados: {0}")]
    Library(String),
    /// There is no connection: configuration or key are missing or wrong, or no monitor answers.
    #[error("could not {what} as {user}: {}", .errno.desc())]
    Connect {
        /// What was tried.
        what: String,
        /// Whom the keyring is of.
        user: String,
        /// The library's answer.
        errno: Errno,
    },
    /// The cluster was asked and did not do it.
    #[error("ceph refused `{command}`: {status} ({errno:?})")]
    Refused {
        /// The command.
        command: &'static str,
        /// What the monitors or the manager said about it.
        status: String,
        /// Their answer.
        errno: Errno,
    },
    /// The command is the manager's, and none is active.
    #[error("ceph has no active manager for `{command}`")]
    NoManager {
        /// The command.
        command: &'static str,
    },
    /// No answer in time; it may still be done.
    #[error("no answer to `ceph {command}` within {} s", .limit.as_secs())]
    Timeout {
        /// The command.
        command: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The thread that sent it could not be made, or died.
    #[error("the thread of `ceph {command}` is gone")]
    Thread {
        /// The command.
        command: &'static str,
    },
}

impl CephError {
    /// What the cluster said when it did not do a command; None where it was not asked or did not answer.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { status, .. } => Some(status),
            Self::Program(_)
            | Self::Answer { .. }
            | Self::Library(_)
            | Self::Connect { .. }
            | Self::NoManager { .. }
            | Self::Timeout { .. }
            | Self::Thread { .. } => None,
        }
    }
}
