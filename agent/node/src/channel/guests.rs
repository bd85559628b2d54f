//! What the channel needs of guests, in its own words. Owned here, by the consumer; implemented by libvirt, and by a fake in
//! tests. Refuses to start and end guests.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use furrow_host::libvirt::{DomainState, GuestQuestion, Libvirt, LibvirtError};
use futures::future::BoxFuture;

/// Something to be done to a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Stop its vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Have its agent set its clock to the node's.
    SetTime,
    /// Ask it to reboot.
    Reboot,
    /// Press the reset button.
    Reset,
    /// Freeze its file systems.
    Freeze,
    /// Thaw them.
    Thaw,
}

/// Guests that run on this node.
pub(crate) trait RunningGuests: Send + Sync {
    /// UID of the VirtualMachineInstance that a domain is of; `None` when there is no such domain, or it does not run.
    fn running<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Option<String>, LibvirtError>>;
    /// Does it.
    fn act<'a>(&'a self, domain: &'a str, act: Act) -> BoxFuture<'a, Result<(), LibvirtError>>;
    /// What the guest's agent says: libvirt's names and values.
    fn ask<'a>(
        &'a self,
        domain: &'a str,
        question: GuestQuestion,
    ) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>>;
    /// A picture of its display, a PNG of at most so many bytes.
    fn picture<'a>(&'a self, domain: &'a str, limit_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, LibvirtError>>;
    /// The agent's own answer to a command without arguments, as JSON.
    fn command<'a>(&'a self, domain: &'a str, command: &'static str) -> BoxFuture<'a, Result<String, LibvirtError>>;
}

/// The node's time. A clock before 1970 is none.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl RunningGuests for Libvirt {
    fn running<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Option<String>, LibvirtError>> {
        Box::pin(async move {
            let record = self.domain(domain).await?;
            let record = record.filter(|record| !matches!(record.state, DomainState::Off(_)));
            Ok(record.and_then(|record| record.owner).map(|owner| owner.uid))
        })
    }

    fn act<'a>(&'a self, domain: &'a str, act: Act) -> BoxFuture<'a, Result<(), LibvirtError>> {
        match act {
            Act::Pause => Box::pin(self.pause_domain(domain)),
            Act::Resume => Box::pin(self.resume_domain(domain)),
            Act::SetTime => Box::pin(self.set_guest_time(domain, since_1970())),
            Act::Reboot => Box::pin(self.reboot_domain(domain)),
            Act::Reset => Box::pin(self.reset_domain(domain)),
            Act::Freeze => Box::pin(self.freeze_domain(domain)),
            Act::Thaw => Box::pin(self.thaw_domain(domain)),
        }
    }

    fn ask<'a>(
        &'a self,
        domain: &'a str,
        question: GuestQuestion,
    ) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        Box::pin(self.guest_info(domain, question))
    }

    fn picture<'a>(&'a self, domain: &'a str, limit_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, LibvirtError>> {
        Box::pin(self.screenshot(domain, limit_bytes))
    }

    fn command<'a>(&'a self, domain: &'a str, command: &'static str) -> BoxFuture<'a, Result<String, LibvirtError>> {
        Box::pin(self.guest_command(domain, command))
    }
}
