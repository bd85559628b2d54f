//! What control asks an agent for, on [`crate::names::AGENT_PORT`] of the agent's node: HTTPS, both sides with their
//! certificates of the cluster's clients, one operation on one guest a request. Owns the paths and the bodies; refuses
//! everything that is said through the API server already (what should run, what does).

use serde::{Deserialize, Serialize};

/// Largest body of a request, in bytes; options are small.
pub const REQUEST_MAX_BYTES: usize = 16 << 10;

/// Largest body of an answer, in bytes; what a guest says of itself is capped below it.
pub const ANSWER_MAX_BYTES: usize = 4 << 20;

const PREFIX: &str = "/v1/guests";

/// An operation on a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestOperation {
    /// Stop its vCPUs.
    Pause,
    /// Let them go on.
    Unpause,
    /// Ask it to reboot.
    SoftReboot,
    /// Press the reset button.
    Reset,
    /// Freeze its file systems; body [`Freeze`].
    Freeze,
    /// Thaw them.
    Unfreeze,
    /// What its agent says; answer [`crate::subresources::GuestAgentInfo`].
    GuestOsInfo,
    /// Who is logged in; answer [`crate::subresources::UserList`].
    UserList,
    /// Its file systems; answer [`crate::subresources::FilesystemList`].
    FilesystemList,
}

impl GuestOperation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pause,
        Self::Unpause,
        Self::SoftReboot,
        Self::Reset,
        Self::Freeze,
        Self::Unfreeze,
        Self::GuestOsInfo,
        Self::UserList,
        Self::FilesystemList,
    ];

    /// Its name, which is that of KubeVirt's subresource.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::SoftReboot => "softreboot",
            Self::Reset => "reset",
            Self::Freeze => "freeze",
            Self::Unfreeze => "unfreeze",
            Self::GuestOsInfo => "guestosinfo",
            Self::UserList => "userlist",
            Self::FilesystemList => "filesystemlist",
        }
    }

    /// Whether it only asks (GET); the others change something (PUT).
    pub const fn only_asks(self) -> bool {
        matches!(self, Self::GuestOsInfo | Self::UserList | Self::FilesystemList)
    }
}

/// Which guest. A later one of the same name has another UID, and is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAddress {
    /// Namespace of the VirtualMachineInstance.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A stream of bytes to a running guest. It is asked for with GET and an upgrade to [`STREAM_PROTOCOL`]; what follows the
/// answer 101 are the bytes themselves, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestStream {
    /// Its serial console.
    Console,
    /// Its display: RFB, as QEMU speaks it.
    Vnc,
}

/// The protocol of streams, in the header `Upgrade`.
pub const STREAM_PROTOCOL: &str = "furrow-stream";

/// Query of a stream that must not end the one there is; without it the newer takes over.
pub const PRESERVE: &str = "preserve=true";

impl GuestStream {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Console, Self::Vnc];

    /// Its name, which is that of KubeVirt's subresource.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vnc => "vnc",
        }
    }
}

/// The path of a stream.
pub fn stream_path(guest: &GuestAddress, stream: GuestStream) -> String {
    format!("{PREFIX}/{}/{}/{}/{}", guest.namespace, guest.name, guest.uid, stream.name())
}

/// Reads such a path; `None` for any other.
pub fn parse_stream(path: &str) -> Option<(GuestAddress, GuestStream)> {
    let (guest, name) = split(path)?;
    Some((guest, GuestStream::ALL.into_iter().find(|known| known.name() == name)?))
}

/// The path of an operation.
pub fn path(guest: &GuestAddress, operation: GuestOperation) -> String {
    format!("{PREFIX}/{}/{}/{}/{}", guest.namespace, guest.name, guest.uid, operation.name())
}

/// Reads such a path; `None` for any other.
pub fn parse(path: &str) -> Option<(GuestAddress, GuestOperation)> {
    let (guest, name) = split(path)?;
    Some((guest, GuestOperation::ALL.into_iter().find(|known| known.name() == name)?))
}

/// Guest and last part of a path.
fn split(path: &str) -> Option<(GuestAddress, &str)> {
    let parts: Vec<&str> = path.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/').collect();
    let [namespace, name, uid, last] = parts.as_slice() else { return None };
    let owned = |part: &str| (!part.is_empty()).then(|| part.to_owned());
    Some((GuestAddress { namespace: owned(namespace)?, name: owned(name)?, uid: owned(uid)? }, last))
}

/// Options of [`GuestOperation::Freeze`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freeze {
    /// Thaw by itself after so many milliseconds; absent or 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thaw_after_ms: Option<u64>,
}

/// Why an agent did not do it; the answer's HTTP status is 404 (no such guest here), 409 (not in a state for it) or 500.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_read_as_it_was_written_and_nothing_else_is() {
        let guest = GuestAddress { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() };
        for operation in GuestOperation::ALL {
            assert_eq!(parse(&path(&guest, operation)), Some((guest.clone(), operation)));
        }
        for stream in GuestStream::ALL {
            let path = stream_path(&guest, stream);
            assert_eq!((parse_stream(&path), parse(&path)), (Some((guest.clone(), stream)), None));
        }
        for other in ["/", "/v1/guests/shop/web/pause", "/v1/guests/shop/web/u/fly", "/v1/guests/shop/web/u/pause/x"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse("/v1/guests//web/u/pause"), None);
        assert_eq!(parse("/v1/guestsx/shop/web/u/pause"), None);
    }
}
