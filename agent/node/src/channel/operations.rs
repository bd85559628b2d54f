//! One operation on one guest: is it the guest that was meant, then libvirt, then what the VMI's status says of it beyond
//! what libvirt's events tell (whether file systems are frozen). Refuses to judge whether it should be done: control has.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use furrow_api::VirtualMachineInstance;
use furrow_api::channel::{Freeze, GuestAddress, GuestOperation, PICTURE_MAX_BYTES, Screenshot};
use furrow_host::libvirt::{GuestQuestion, LibvirtError};
use furrow_model::domain::DISPLAY_SOCKET;
use furrow_model::reach::ReachError;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guests::{Act, RunningGuests};
use super::pointer;
use super::report;
use super::thaw::Thaws;
use crate::guest::Key;
use crate::guest::ports::HostError;
use crate::guest::publish::{answered, publish};
use furrow_model::reasons::chain;

/// How a PNG begins (<https://www.w3.org/TR/png-3/#5PNG-file-signature>).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// What `status.fsFreezeStatus` says while file systems are frozen.
pub(super) const FROZEN: &str = "frozen";

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperationError {
    /// It does not run here.
    #[error("the guest does not run on this node")]
    NotHere,
    /// The options cannot be read.
    #[error("could not read the options")]
    Options(#[source] serde_json::Error),
    /// libvirt, or the guest, did not do it.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// It could not be kept that the guest is to be thawed, so that it was not frozen.
    #[error("could not keep when the guest is to be thawed")]
    Keep(#[source] std::io::Error),
    /// Somebody has the stream, and it is not to be taken from them.
    #[error("the guest's stream is in use")]
    Busy,
    /// Every USB port of the guest for clients' devices has one.
    #[error("all {0} USB devices that the guest can be lent are in use")]
    NoUsbPort(u8),
    /// There are too many streams.
    #[error("there are too many streams on this node")]
    TooMany,
    /// The guest has no such socket, or does not answer there.
    #[error("could not connect to the guest's socket")]
    Socket(#[source] std::io::Error),
    /// It has no such NIC here.
    #[error("the guest has no interface {0} on this node")]
    NoNic(String),
    /// Its link cannot be opened.
    #[error(transparent)]
    Link(HostError),
    /// Nobody manages the address of the interface, and what is known of it is of IPv6.
    #[error("the guest's address {0} is not of IPv4")]
    NotIpv4(std::net::Ipv6Addr),
    /// There can be no such conversation.
    #[error(transparent)]
    Reach(ReachError),
    /// Nobody listens there, or the guest is silent.
    #[error("could not reach {address}:{port} in the guest")]
    Unanswered {
        /// The guest's address.
        address: std::net::Ipv4Addr,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The request does not ask for the protocol of streams.
    #[error("a stream is asked for with an upgrade")]
    NoUpgrade,
    /// QEMU writes PNG since 7.1, and libvirt asks for it.
    #[error("the picture of the display is not a PNG")]
    NotAPng,
    /// The answer cannot be written.
    #[error("could not write the answer")]
    Answer(#[source] serde_json::Error),
}

impl OperationError {
    /// HTTP status of the answer.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::NotHere | Self::Libvirt(LibvirtError::NoDomain { .. }) => 404,
            Self::Options(_) | Self::NoUpgrade | Self::NoNic(_) | Self::NotIpv4(_) | Self::Reach(_) => 400,
            Self::Libvirt(LibvirtError::WrongState { .. }) | Self::Busy => 409,
            Self::TooMany | Self::NoUsbPort(_) => 503,
            Self::Unanswered { .. } => 502,
            Self::Libvirt(_) | Self::Keep(_) | Self::Socket(_) | Self::Link(_) | Self::Answer(_) => 500,
            Self::NotAPng => 500,
        }
    }
}

/// The guest's name here.
pub(super) fn key_of(guest: &GuestAddress) -> Key {
    Key { namespace: guest.namespace.clone(), name: guest.name.clone() }
}

/// The same, when it is this guest that runs here, and not another of its name.
pub(super) async fn here(guests: &dyn RunningGuests, guest: &GuestAddress) -> Result<Key, OperationError> {
    let key = key_of(guest);
    match guests.running(&key.domain_name()).await? {
        Some(uid) if uid == guest.uid => Ok(key),
        _ => Err(OperationError::NotHere),
    }
}

/// What operations work with.
pub(super) struct Operations {
    pub(super) client: Client,
    pub(super) guests: Arc<dyn RunningGuests>,
    pub(super) thaws: Arc<Thaws>,
    /// Directory that holds one directory a guest, named by UID.
    pub(super) guests_dir: PathBuf,
}

impl Operations {
    /// Does it; gives the body of the answer, which is empty when there is nothing to say.
    pub(super) async fn run(
        &self,
        guest: &GuestAddress,
        operation: GuestOperation,
        body: &[u8],
    ) -> Result<Bytes, OperationError> {
        let key = here(self.guests.as_ref(), guest).await?;
        let domain = key.domain_name();
        let answer = match operation {
            GuestOperation::Pause => self.act(&domain, Act::Pause).await,
            GuestOperation::Unpause => self.resume(&domain).await,
            GuestOperation::SoftReboot => self.act(&domain, Act::Reboot).await,
            GuestOperation::Reset => self.act(&domain, Act::Reset).await,
            GuestOperation::Freeze => self.freeze(guest, &domain, body).await,
            GuestOperation::Unfreeze => self.thaw(guest, &domain).await,
            GuestOperation::GuestOsInfo => self.everything(&domain).await,
            GuestOperation::Screenshot => self.picture(guest, &domain, body).await,
            GuestOperation::UserList => json(&report::users(&self.guests.ask(&domain, GuestQuestion::Users).await?)),
            GuestOperation::FilesystemList => {
                json(&report::filesystems(&self.guests.ask(&domain, GuestQuestion::Filesystems).await?))
            }
        };
        if answer.is_ok() && !operation.only_asks() {
            tracing::info!(vm = %key, operation = operation.name(), "operation done");
        }
        answer
    }

    async fn act(&self, domain: &str, act: Act) -> Result<Bytes, OperationError> {
        self.guests.act(domain, act).await?;
        Ok(Bytes::new())
    }

    async fn picture(&self, guest: &GuestAddress, domain: &str, body: &[u8]) -> Result<Bytes, OperationError> {
        let options: Screenshot = options(body)?;
        if options.move_cursor {
            let socket = self.guests_dir.join(&guest.uid).join(DISPLAY_SOCKET);
            // Somebody who has the display for themselves has woken it up; a picture is worth having in any case.
            if let Err(error) = pointer::nudge(&socket).await {
                tracing::debug!(guest = guest.name, error = chain(&error), "the pointer was not moved");
            }
        }
        let picture = self.guests.picture(domain, PICTURE_MAX_BYTES).await?;
        if picture.starts_with(PNG) { Ok(picture.into()) } else { Err(OperationError::NotAPng) }
    }

    /// The guest's clock stood still with it, so that its agent sets it, if there is one. Nobody waits for that: libvirt takes
    /// seconds to give an agent up that hangs, and a guest with a wrong clock runs.
    async fn resume(&self, domain: &str) -> Result<Bytes, OperationError> {
        let done = self.act(domain, Act::Resume).await?;
        let (guests, domain) = (Arc::clone(&self.guests), domain.to_owned());
        tokio::spawn(async move {
            if let Err(error) = guests.act(&domain, Act::SetTime).await {
                tracing::debug!(domain, error = chain(&error), "the guest's clock is not set");
            }
        });
        Ok(done)
    }

    /// The time to thaw is kept first: an agent that dies in between must not leave a guest frozen.
    async fn freeze(&self, guest: &GuestAddress, domain: &str, body: &[u8]) -> Result<Bytes, OperationError> {
        let options: Freeze = options(body)?;
        let after = options.thaw_after_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        if let Some(after) = after {
            self.thaws.keep(guest, after).await.map_err(OperationError::Keep)?;
        }
        if let Err(error) = self.guests.act(domain, Act::Freeze).await {
            self.thaws.forget(guest).await;
            return Err(error.into());
        }
        self.thaws.arm(guest.clone(), after);
        mark(self.client.clone(), guest.clone(), Some(FROZEN)).await;
        Ok(Bytes::new())
    }

    async fn thaw(&self, guest: &GuestAddress, domain: &str) -> Result<Bytes, OperationError> {
        self.guests.act(domain, Act::Thaw).await?;
        self.thaws.forget(guest).await;
        mark(self.client.clone(), guest.clone(), None).await;
        Ok(Bytes::new())
    }

    async fn everything(&self, domain: &str) -> Result<Bytes, OperationError> {
        let values = self.guests.ask(domain, GuestQuestion::Everything).await?;
        // What the agent itself is can be missing without harm: a guest may forbid the question.
        let about = self.guests.command(domain, "guest-info").await.ok();
        let frozen = self.guests.command(domain, "guest-fsfreeze-status").await.ok();
        json(&report::everything(&values, about.as_deref(), frozen.as_deref()))
    }
}

fn options<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, OperationError> {
    if body.is_empty() { Ok(T::default()) } else { serde_json::from_slice(body).map_err(OperationError::Options) }
}

fn json(value: &impl Serialize) -> Result<Bytes, OperationError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(OperationError::Answer)
}

/// Says in the VMI's status whether its file systems are frozen. That is for people and for snapshots to come; the guest is
/// what it is when the API server cannot be told.
pub(super) async fn mark(client: Client, guest: GuestAddress, frozen: Option<&'static str>) {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &guest.namespace);
    let marked = async {
        let vmi = answered(api.get(&guest.name)).await?;
        if vmi.uid().as_deref() != Some(guest.uid.as_str()) {
            return Ok(());
        }
        let change = |vmi: &mut VirtualMachineInstance| {
            vmi.status.get_or_insert_default().fs_freeze_status = frozen.map(str::to_owned);
        };
        publish(&client, &vmi, change).await.map(drop)
    };
    if let Err(error) = Box::pin(marked).await {
        tracing::warn!(guest = guest.name, namespace = guest.namespace, error = chain(&error), "freezing is not shown");
    }
}
