//! libvirt, the only way Furrow runs guests: one connection, its threads, its events, and the operations the agent
//! needs. Owns the threading rules (blocking calls on own threads, events through a bounded queue) so that nobody else
//! has to know them. Refuses to know what a VirtualMachineInstance is beyond the owner written into a domain.

mod connection;
mod domain;
mod error;
mod kvm;
mod live;
mod memory;
mod operate;
mod raw;
mod secret;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

pub use connection::{CONCURRENT_CALLS, Libvirt, LibvirtOptions};
pub use domain::{DomainRecord, DomainState, OffReason, PauseReason};
pub use error::LibvirtError;
pub use kvm::kvm_usable;
pub use live::{DomainOwner, LiveDisk, METADATA_NAMESPACE};
pub use memory::LiveMemory;
pub use operate::GuestQuestion;
pub use secret::{CephSecret, TpmSecret};

/// Something happened; it says where to look, not what to conclude.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LibvirtEvent {
    /// libvirtd has been (re)connected: anything may have happened in between.
    Connected,
    /// Events were dropped because nobody read them: look at every domain.
    Lost,
    /// A domain changed its state (`virDomainEventType` and its detail).
    Lifecycle {
        /// Name of the domain.
        domain: String,
        /// `virDomainEventType`.
        event: i32,
        /// The detail enumeration that belongs to `event`.
        detail: i32,
    },
    /// A guest rebooted itself.
    Rebooted {
        /// Name of the domain.
        domain: String,
    },
    /// A guest took memory in that was plugged into it, or gave it back.
    MemorySize {
        /// Name of the domain.
        domain: String,
    },
    /// A guest agent connected or went away.
    GuestAgent {
        /// Name of the domain.
        domain: String,
    },
}

/// The reader's end of the event queue.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<LibvirtEvent>,
    lost: Arc<AtomicBool>,
}

impl EventStream {
    fn new(events: mpsc::Receiver<LibvirtEvent>, lost: Arc<AtomicBool>) -> Self {
        Self { events, lost }
    }

    /// The next event; `None` when the libvirt threads have ended. Safe to cancel: an event not returned stays queued.
    pub async fn next(&mut self) -> Option<LibvirtEvent> {
        // A drop implies a full queue, so there is an event to wake up for whenever this flag is set.
        if self.lost.swap(false, Ordering::AcqRel) {
            return Some(LibvirtEvent::Lost);
        }
        self.events.recv().await
    }
}
