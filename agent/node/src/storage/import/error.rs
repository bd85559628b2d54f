//! Why an import failed, and whether trying again can help. Texts end up in the DataVolume's
//! condition, so they name sizes, addresses and what to do.

use furrow_host::rbd::{RbdError, RbdErrorKind};
use furrow_host::sandbox::RightsError;
use furrow_model::import::Severity;
use furrow_model::oci::{ManifestError, ReferenceError, SearchError};
use furrow_model::qcow2::Qcow2Error;

/// A failed import.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// The URL is none, or a certificate is none.
    #[error("could not prepare the transfer: {0}")]
    Setup(String),
    /// The server answered, and not with the image.
    #[error("the server answered {status} for {url}")]
    Status { url: String, status: String, permanent: bool },
    /// The server could not be reached, or the transfer broke off.
    #[error("could not read from {url}: {why}")]
    Transfer { url: String, why: String },
    /// The image changed on the server during the transfer.
    #[error("the image at {url} changed while it was read")]
    Changed { url: String },
    /// The server does not send parts of the image.
    #[error("the server does not answer range requests for {url}")]
    NoRanges { url: String },
    /// The reference to an image is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry's answer is no manifest that is read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The disk in an image's layers.
    #[error(transparent)]
    Disk(#[from] SearchError),
    /// A file that is not in an image.
    #[error("the image has no file {path}")]
    NoFile { path: String },
    /// A file of an image that is larger than any that is taken.
    #[error("{path} of the image has more than {limit} bytes")]
    FileTooLarge { path: String, limit: u64 },
    /// The registry sent something else than was asked for.
    #[error("{what} has {found}, {expected} was expected")]
    Mismatch { what: String, expected: String, found: String },
    /// The registry asks for a login in a way that is not known, or that would show the password.
    #[error("could not log in at {registry}: {why}")]
    Login { registry: String, why: String },
    /// What is there is not an image, or one that is not read.
    #[error("the source is {what}: qcow2 and raw images are read, alone or compressed by gzip, xz or zstd")]
    Format { what: &'static str },
    /// There is nothing in it.
    #[error("the source is empty: an image was expected, 0 bytes came")]
    Empty,
    /// The image does not fit.
    #[error(
        "the image has a disk of {virtual_size} bytes, the claim only {capacity_bytes} bytes: ask for a larger claim"
    )]
    TooLarge { virtual_size: u64, capacity_bytes: u64 },
    /// The bytes go on beyond what the claim holds.
    #[error("the image has more than the claim's {capacity_bytes} bytes: ask for a larger claim")]
    TooLong { capacity_bytes: u64 },
    /// The image's tables.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// The compressed stream is damaged.
    #[error("could not decompress the source: {0}")]
    Damaged(String),
    /// No room to keep the source.
    #[error("could not keep the source on this node: {0}")]
    Spool(String),
    /// The volume.
    #[error("could not write to the volume")]
    Target(#[source] RbdError),
    /// Another client has the volume open.
    #[error("the volume is open elsewhere, by {}", .users.join(", "))]
    InUse { users: Vec<String> },
    /// The sandbox.
    #[error("could not shut the import in")]
    Rights(#[from] RightsError),
    /// The agent asked for the end.
    #[error("the import was cancelled")]
    Cancelled,
    /// A thread of the import died.
    #[error("a part of the import panicked")]
    Panicked,
}

impl ImportError {
    /// The condition's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Setup(_) | Self::Rights(_) | Self::Panicked | Self::Cancelled => "ImportFailed",
            Self::Status { .. } | Self::Transfer { .. } | Self::Changed { .. } | Self::NoRanges { .. } => {
                "TransferFailed"
            }
            Self::Login { .. } => "LoginFailed",
            Self::Mismatch { .. } => "DigestMismatch",
            Self::Reference(_) | Self::Manifest(_) | Self::Disk(_) => "ImageInvalid",
            Self::NoFile { .. } | Self::FileTooLarge { .. } => "ImageInvalid",
            Self::Format { .. } | Self::Empty | Self::Qcow2(_) | Self::Damaged(_) => "ImageInvalid",
            Self::TooLarge { .. } | Self::TooLong { .. } => "ImageTooLarge",
            Self::Spool(_) => "SpoolFailed",
            Self::Target(_) => "VolumeUnreachable",
            Self::InUse { .. } => "VolumeInUse",
        }
    }

    /// Whether trying again can help.
    pub(super) fn severity(&self) -> Severity {
        let permanent = match self {
            Self::InUse { .. } => return Severity::InUse,
            // Another client took the lock since the look at the watchers.
            Self::Target(error) if error.kind() == RbdErrorKind::Busy => return Severity::InUse,
            Self::Status { permanent, .. } => *permanent,
            Self::Setup(_) | Self::Format { .. } | Self::Empty | Self::Qcow2(_) | Self::Damaged(_) => true,
            Self::TooLarge { .. } | Self::TooLong { .. } => true,
            Self::Reference(_) | Self::Manifest(_) | Self::Disk(_) => true,
            Self::NoFile { .. } | Self::FileTooLarge { .. } => true,
            Self::Mismatch { .. } | Self::Login { .. } => true,
            Self::Target(error) => error.kind() == RbdErrorKind::Denied,
            Self::Transfer { .. } | Self::Changed { .. } | Self::NoRanges { .. } | Self::Spool(_) => false,
            Self::Rights(_) | Self::Panicked | Self::Cancelled => false,
        };
        if permanent { Severity::Permanent } else { Severity::Passing }
    }

    /// What a `Read` failed with: our own error inside it, or one of the decompressor.
    pub(super) fn of_read(error: std::io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(other) => Self::Damaged(other.to_string()),
        }
    }
}

impl From<RbdError> for ImportError {
    fn from(error: RbdError) -> Self {
        Self::Target(error)
    }
}

impl From<ImportError> for std::io::Error {
    fn from(error: ImportError) -> Self {
        Self::other(error)
    }
}
