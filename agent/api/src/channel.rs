//! What control asks an agent for, on [`crate::names::AGENT_PORT`] of the agent's node: HTTPS, both sides with their
//! certificates of the cluster's clients, one operation on one guest a request, or one look at an image. Owns the paths
//! and the bodies; refuses everything that is said through the API server already (what should run, what does).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::import::PullSecret;

/// Largest body of a request, in bytes; options are small.
pub const REQUEST_MAX_BYTES: usize = 16 << 10;

/// Largest body of an answer, in bytes; what a guest says of itself is capped below it.
pub const ANSWER_MAX_BYTES: usize = 4 << 20;

/// Largest picture of a display, in bytes, as PNG.
pub const PICTURE_MAX_BYTES: usize = 16 << 20;

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
    /// A picture of its display; body [`Screenshot`], answer a PNG of at most [`PICTURE_MAX_BYTES`].
    Screenshot,
}

impl GuestOperation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Pause,
        Self::Unpause,
        Self::SoftReboot,
        Self::Reset,
        Self::Freeze,
        Self::Unfreeze,
        Self::GuestOsInfo,
        Self::UserList,
        Self::FilesystemList,
        Self::Screenshot,
    ];

    /// Its name, which is that of KubeVirt's subresource, or the end of it.
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
            Self::Screenshot => "screenshot",
        }
    }

    /// Whether it only asks (GET); the others change something (PUT).
    pub const fn only_asks(self) -> bool {
        matches!(self, Self::GuestOsInfo | Self::UserList | Self::FilesystemList | Self::Screenshot)
    }

    /// Largest body of its answer, in bytes.
    pub const fn answer_max_bytes(self) -> usize {
        if matches!(self, Self::Screenshot) { PICTURE_MAX_BYTES } else { ANSWER_MAX_BYTES }
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
    /// A USB device that the client lends it: usbredir, as QEMU speaks it. Several at once, each in a slot of its own.
    UsbRedirection,
}

/// The protocol of streams, in the header `Upgrade`.
pub const STREAM_PROTOCOL: &str = "furrow-stream";

/// Query of a stream that must not end the one there is; without it the newer takes over, but for those of USB devices,
/// which are refused while no slot is free.
pub const PRESERVE: &str = "preserve=true";

impl GuestStream {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Console, Self::Vnc, Self::UsbRedirection];

    /// Its name, which is that of KubeVirt's subresource.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vnc => "vnc",
            Self::UsbRedirection => "usbredir",
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

/// Name of the forwarding of a port in paths, which is that of KubeVirt's subresource.
const FORWARD: &str = "portforward";

/// What is spoken with a port of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardProtocol {
    /// The stream carries its bytes.
    Tcp,
    /// The stream carries its datagrams, see [`crate::datagrams`].
    Udp,
}

impl ForwardProtocol {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Its name in paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// A stream to a port of a guest: asked for as [`GuestStream`] is; any number of them at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What is spoken.
    pub protocol: ForwardProtocol,
    /// The port.
    pub port: u16,
    /// Name of the interface in the guest's spec.
    pub nic: String,
    /// The guest's address there, as its status has it.
    pub address: IpAddr,
}

/// The path and query of a stream to a port.
pub fn forward_path(guest: &GuestAddress, forward: &Forward) -> String {
    let GuestAddress { namespace, name, uid } = guest;
    let Forward { protocol, port, nic, address } = forward;
    let protocol = protocol.name();
    format!("{PREFIX}/{namespace}/{name}/{uid}/{FORWARD}/{port}/{protocol}/{nic}/{address}")
}

/// Reads such a path; `None` for any other.
pub fn parse_forward(path: &str) -> Option<(GuestAddress, Forward)> {
    let (guest, rest) = path.split_once(&format!("/{FORWARD}/"))?;
    let (guest, last) = split(&format!("{guest}/{FORWARD}")).map(|(guest, last)| (guest, last.to_owned()))?;
    let [port, protocol, nic, address]: [&str; 4] = rest.split('/').collect::<Vec<_>>().try_into().ok()?;
    let forward = Forward {
        protocol: ForwardProtocol::parse(protocol)?,
        port: port.parse().ok().filter(|port| *port > 0)?,
        nic: Some(nic).filter(|nic| !nic.is_empty())?.to_owned(),
        address: address.parse().ok()?,
    };
    (last == FORWARD).then_some((guest, forward))
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

/// Options of [`GuestOperation::Screenshot`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Screenshot {
    /// Move the pointer first, so that a display that sleeps wakes up.
    #[serde(default)]
    pub move_cursor: bool,
}

/// Path of a look at an image (PUT): body [`ImageQuestion`], answer [`ImageAnswer`].
pub const IMAGES_PATH: &str = "/v1/images";

/// What an image of a registry is now, asked from a node because nodes have the network, the proxy and a place where bytes of
/// strangers can do no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageQuestion {
    /// Reference.
    pub image: String,
    /// Path of the disk in the image; absent: the one file below `disk/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The registry may be asked without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// The login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<PullSecret>,
    /// Also find the disk in its layers and say how large it is.
    #[serde(default)]
    pub measure: bool,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageAnswer {
    /// Digest that the reference points to.
    pub digest: String,
    /// Size of the disk in it, bytes, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// Why an agent did not do it; the answer's HTTP status is 404 (no such guest here), 409 (not in a state for it), 502 (the
/// registry) or 500.
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
        for (protocol, address) in [(ForwardProtocol::Tcp, "192.168.10.7"), (ForwardProtocol::Udp, "fd00::7")] {
            let address = address.parse().unwrap();
            let forward = Forward { protocol, port: 22, nic: "default".into(), address };
            let path = forward_path(&guest, &forward);
            assert_eq!((parse_forward(&path), parse(&path)), (Some((guest.clone(), forward)), None), "{path}");
            assert_eq!(parse_stream(&path), None);
            assert_eq!(parse_forward(&format!("{path}/x")), None);
            assert_eq!(parse_forward(&path.replace("/22/", "/0/")), None);
        }
        for other in ["/", "/v1/guests/shop/web/pause", "/v1/guests/shop/web/u/fly", "/v1/guests/shop/web/u/pause/x"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse("/v1/guests//web/u/pause"), None);
        assert_eq!(parse("/v1/guestsx/shop/web/u/pause"), None);
    }
}
