//! What can go wrong between this node and libvirtd, and what each case asks of the caller.

use std::path::PathBuf;

use virt::error::{Error, ErrorNumber};

/// Why a libvirt operation did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// libvirtd is not reachable at the moment; the owner thread is reconnecting.
    #[error("could not {operation}: libvirt is not connected")]
    NotConnected {
        /// The operation, as a verb phrase.
        operation: &'static str,
    },
    /// The call threads are gone: the process is ending.
    #[error("could not {operation}: the libvirt threads have ended")]
    Exited {
        /// The operation, as a verb phrase.
        operation: &'static str,
    },
    /// No answer in time. The call may still take effect.
    #[error("could not {operation}: libvirt did not answer within {limit_ms} ms")]
    Timeout {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The limit in milliseconds.
        limit_ms: u128,
    },
    /// There is no such domain.
    #[error("could not {operation}: there is no such domain")]
    NoDomain {
        /// The operation, as a verb phrase.
        operation: &'static str,
    },
    /// The domain is not in a state that allows it, such as a shutdown of a stopped one.
    #[error("could not {operation}: {message}")]
    WrongState {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// libvirt's words.
        message: String,
    },
    /// libvirt refuses the request itself; the same request will be refused again.
    #[error("could not {operation}: {message}")]
    Refused {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// libvirt's words.
        message: String,
    },
    /// It failed, perhaps only this time.
    #[error("could not {operation}: {message}")]
    Failed {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// libvirt's words.
        message: String,
    },
    /// A document for or from libvirt is not what it should be.
    #[error("could not process the XML of {what}: {message}")]
    Xml {
        /// Which document.
        what: &'static str,
        /// The parser's or serialiser's words.
        message: String,
    },
    /// The keyring cannot be read.
    #[error("could not read the keyring {}", path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The keyring has no key, or several.
    #[error("could not use the keyring {}: it must hold exactly one key", path.display())]
    KeyringFormat {
        /// The file.
        path: PathBuf,
    },
    /// A thread could not be made.
    #[error("could not start the thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl LibvirtError {
    pub(super) fn from_virt(operation: &'static str, error: &Error) -> Self {
        let message = without_times(error.message());
        let code: Result<ErrorNumber, _> = error.code().into();
        match code {
            Ok(ErrorNumber::NoDomain) => Self::NoDomain { operation },
            Ok(ErrorNumber::OperationInvalid) => Self::WrongState { operation, message },
            Ok(
                ErrorNumber::XmlError
                | ErrorNumber::XmlInvalidSchema
                | ErrorNumber::ConfigUnsupported
                | ErrorNumber::ArgumentUnsupported
                | ErrorNumber::InvalidArg
                | ErrorNumber::NoName,
            ) => Self::Refused { operation, message },
            _ => Self::Failed { operation, message },
        }
    }

    /// True when repeating the same request cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Xml { .. } => true,
            Self::NotConnected { .. }
            | Self::Exited { .. }
            | Self::Timeout { .. }
            | Self::NoDomain { .. }
            | Self::WrongState { .. }
            | Self::Failed { .. }
            | Self::Keyring { .. }
            | Self::KeyringFormat { .. }
            | Self::Thread { .. } => false,
        }
    }
}

/// QEMU begins what it says with the time. Without it the same failure reads the same, and is reported once.
fn without_times(message: &str) -> String {
    let is_time = |word: &str| {
        let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
    };
    message.split_whitespace().filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::without_times;

    #[test]
    fn a_message_of_qemu_loses_its_times_and_line_ends() {
        let message =
            "closed the monitor (vm='a'): 2026-11-24T12:22:46.122255Z qemu: error: no\nqemu: file.c:3877: bad";
        assert_eq!(without_times(message), "closed the monitor (vm='a'): qemu: error: no qemu: file.c:3877: bad");
    }
}
