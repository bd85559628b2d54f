//! What guests need of the rest of the node, in guests' words: volumes, network ports, domains. Owned here, by the
//! consumer; implemented by `storage`, `network` and libvirt, and by fakes in tests. Refuses details: how a lock is
//! taken or a flow written is the implementer's.

use furrow_api::channel::Forward;
use furrow_api::reservation::ReservedVolume;
use furrow_host::libvirt::{DomainRecord, GuestQuestion, Libvirt, LibvirtError, TpmSecret};
use furrow_model::domain::RbdSource;
use furrow_model::port::{PortSpec, TapName};
use furrow_model::reasons::chain;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio::io::DuplexStream;

/// Why a part of the node could not do what a guest needs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HostError {
    /// CamelCase, becomes the condition's reason.
    pub(crate) reason: &'static str,
    /// What could not be done to which object, and why: becomes the condition's message.
    pub(crate) message: String,
    /// Trying again cannot help: the spec or the node must change.
    pub(crate) permanent: bool,
}

impl HostError {
    /// An error that may pass, from an implementer's own, its causes joined.
    pub(crate) fn passing(reason: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { reason, message: chain(error), permanent: false }
    }

    /// An error that stays until somebody changes something.
    pub(crate) fn permanent(reason: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { reason, message: chain(error), permanent: true }
    }
}

/// The volumes of guests.
pub(crate) trait Volumes: Send + Sync {
    /// Makes sure that this node may open the image, that nobody else writes to it when `exclusive`, and says how QEMU
    /// reaches it. Doing it twice is no error.
    fn open_check<'a>(
        &'a self,
        volume: &'a ReservedVolume,
        exclusive: bool,
    ) -> BoxFuture<'a, Result<RbdSource, HostError>>;

    /// Makes an image the flash chip of a guest's UEFI firmware: one that is new gets the variables of the template. Doing
    /// it twice is no error.
    fn fill_flash<'a>(&'a self, volume: &'a ReservedVolume, template: &'a Path)
    -> BoxFuture<'a, Result<(), HostError>>;

    /// Lets go of what `open_check` took, after QEMU has ended. Doing it twice is no error.
    fn release<'a>(&'a self, volume: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>>;
}

/// A network port as found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortRecord {
    /// Its tap.
    pub(crate) tap: TapName,
    /// UID of the VirtualMachineInstance it was made for.
    pub(crate) vmi_uid: String,
    /// `namespace/name` of it.
    pub(crate) vmi: String,
}

/// The network ports of guests.
pub(crate) trait Ports: Send + Sync {
    /// Makes the tap, its port, flows and DHCP answer, or brings what is there to that state. Idempotent.
    fn ensure<'a>(&'a self, spec: &'a PortSpec) -> BoxFuture<'a, Result<TapName, HostError>>;

    /// Removes all of it. One that is not there is no error.
    fn remove<'a>(&'a self, tap: &'a TapName) -> BoxFuture<'a, Result<(), HostError>>;

    /// Every port of a guest on this node.
    fn list(&self) -> BoxFuture<'_, Result<Vec<PortRecord>, HostError>>;
}

/// The ways to ports of guests that run here.
pub(crate) trait Dial: Send + Sync {
    /// A stream to a TCP port of a guest, which answers within this time; dropping it ends the conversation. The error says
    /// why there is none.
    fn dial<'a>(
        &'a self,
        vmi_uid: &'a str,
        to: &'a Forward,
        limit: Duration,
    ) -> BoxFuture<'a, Result<DuplexStream, String>>;
}

/// The domains of the node.
pub(crate) trait Domains: Send + Sync {
    /// Every domain.
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainRecord>, LibvirtError>>;
    /// One domain; `None` when it is not defined.
    fn observe<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainRecord>, LibvirtError>>;
    /// Defines and starts, `paused` without letting the guest execute; `tpm`: the key of its TPM's state.
    fn start(&self, xml: String, paused: bool, tpm: Option<TpmSecret>) -> BoxFuture<'_, Result<(), LibvirtError>>;
    /// Plugs vCPUs in until the running domain has so many.
    fn plug_vcpus<'a>(&'a self, name: &'a str, count: u32) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// Asks the running domain to take in so much memory through its device, KiB.
    fn plug_memory<'a>(&'a self, name: &'a str, requested_kib: u64) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// Asks the guest to shut down.
    fn ask_shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// Kills QEMU.
    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// Takes the definition of a stopped domain away.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// What the guest agent says.
    fn guest_info<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>>;
    /// What the guest agent says of file systems.
    fn filesystems<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>>;
    /// The guest agent's own answer to a request, both as JSON.
    fn agent<'a>(&'a self, name: &'a str, request: String) -> BoxFuture<'a, Result<String, LibvirtError>>;
    /// Plugs a device into a running domain.
    fn plug_in<'a>(&'a self, name: &'a str, xml: String) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// Asks a running domain to let go of a device, by its alias.
    fn plug_out<'a>(&'a self, name: &'a str, alias: String) -> BoxFuture<'a, Result<(), LibvirtError>>;
}

impl Domains for Libvirt {
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainRecord>, LibvirtError>> {
        Box::pin(self.domains())
    }

    fn observe<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainRecord>, LibvirtError>> {
        Box::pin(self.domain(name))
    }

    fn start(&self, xml: String, paused: bool, tpm: Option<TpmSecret>) -> BoxFuture<'_, Result<(), LibvirtError>> {
        Box::pin(self.start_domain(xml, paused, tpm))
    }

    fn plug_vcpus<'a>(&'a self, name: &'a str, count: u32) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(Libvirt::plug_vcpus(self, name, count))
    }

    fn plug_memory<'a>(&'a self, name: &'a str, requested_kib: u64) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(Libvirt::plug_memory(self, name, requested_kib))
    }

    fn ask_shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(self.shutdown_domain(name))
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(self.destroy_domain(name))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(self.remove_domain(name))
    }

    fn guest_info<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        Box::pin(Libvirt::guest_info(self, name, GuestQuestion::Status))
    }

    fn agent<'a>(&'a self, name: &'a str, request: String) -> BoxFuture<'a, Result<String, LibvirtError>> {
        Box::pin(self.guest_request(name, request))
    }

    fn filesystems<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        Box::pin(Libvirt::guest_info(self, name, GuestQuestion::Filesystems))
    }

    fn plug_in<'a>(&'a self, name: &'a str, xml: String) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(self.attach_device(name, xml))
    }

    fn plug_out<'a>(&'a self, name: &'a str, alias: String) -> BoxFuture<'a, Result<(), LibvirtError>> {
        Box::pin(self.detach_device(name, alias))
    }
}
