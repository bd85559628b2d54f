//! What a node does for one VirtualMachineInstance: given what is wanted and what is there, the next steps. Owns the
//! life of a guest on its node:
//!
//! ```text
//!             claim, prepare, start                shutdown, crash, stop
//!  (bound) ---------------------------> Running -------------------------> Succeeded | Failed -> cleared
//!     ^ retry with the error reported      |  adopt after a restart of the agent: nothing is touched
//!     +------------------------------------+
//! ```
//!
//! Removal comes before addition, in a pass of its own, so that nothing is started when a removal failed. A stopped
//! domain's definition, which says why it stopped, is taken away only after that has been published. What a TPM keeps is
//! written before its volumes are let go of: as long as that fails, the guest has not ended.
//! Refuses I/O, clocks and wire types.

mod credentials;
mod http_probe;
mod inside;
mod memory;
mod migratable;
mod plan;
mod probe;
#[cfg(test)]
mod tests;

pub use credentials::{CredentialStep, Credentials, Password, credential_steps};
pub use http_probe::{AskedPort, HttpAsked, HttpProbe, HttpVerdict, ProbeActionError, probe_port};
pub use inside::{AgentNeeds, agent_lacks, next_pause};
pub use memory::{MemoryChange, ObservedMemory, PodSize, WantedMemory, memory_change};
pub use migratable::{
    Confidential, MigrationBlocker, MigrationTraits, SharedVolume, migration_blocker, migration_method,
    storage_migration_blocker,
};
pub use plan::plan;
pub use probe::{ProbeNumbers, ProbeSchedule, ProbeState, Verdict};

/// What Kubernetes wants of this node for one `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// UID of the VirtualMachineInstance; `None` when there is none any more.
    pub uid: Option<String>,
    /// The phase that was last published.
    pub phase: Phase,
    /// Run, end or clear away.
    pub intent: Intent,
    /// Taps of its NICs, in their order.
    pub taps: Vec<String>,
    /// How many volumes must be checked before a start.
    pub volumes: usize,
    /// Images it writes to and does not share, as `pool/image`.
    pub images: Vec<String>,
    /// vCPUs that it should have; `None` where that is not known.
    pub vcpus: Option<u32>,
    /// Memory that it should have; `None` where that is not known or could not be given, and then none is plugged in.
    pub memory: Option<WantedMemory>,
    /// Its disks; `None` while it is not known, and then none is plugged in or out.
    pub disks: Option<Vec<WantedDisk>>,
}

/// A disk that the guest should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedDisk {
    /// Its name in the spec.
    pub name: String,
    /// It may be plugged into the running guest; the others wait for the next start.
    pub pluggable: bool,
    /// The image that is to be behind it, as `pool/image`, where it is one.
    pub image: Option<String>,
}

/// A disk that the running domain has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDisk {
    /// Its name in the spec.
    pub name: String,
    /// The image that it writes to, as `pool/image`, where it is one.
    pub image: Option<String>,
}

/// What should become of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It should run here.
    Run,
    /// It should end: asked first, forced when its time is up.
    Stop {
        /// When it is forced, in milliseconds since 1970.
        deadline_ms: i64,
    },
    /// It should end as one that failed, because it fails its liveness probe: asked first, forced when its time is up.
    Restart {
        /// When it is forced, in milliseconds since 1970.
        deadline_ms: i64,
    },
    /// Its end has been published, or its object is gone: nothing of it may stay.
    Clear,
}

/// KubeVirt's phases, as far as a node sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not claimed by this node: "", Pending, Scheduling.
    Unclaimed,
    /// Claimed, no guest yet.
    Scheduled,
    /// A guest runs or has run.
    Running,
    /// Succeeded or Failed.
    Final,
}

/// What is on the node for that `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The domain of that name.
    pub domain: Option<ObservedDomain>,
    /// Taps that belong to it, with the UID they were made for.
    pub ports: Vec<(String, String)>,
    /// UIDs with a guest directory on this node that belong to it.
    pub files: Vec<String>,
    /// UIDs of its guests whose TPM has its state on this node.
    pub states: Vec<String>,
    /// Images that other active domains write to: `pool/image` and the domain's name.
    pub foreign_images: Vec<(String, String)>,
    /// Whether the ports of the running domain have been ensured since the agent started: the agent answers DHCP for
    /// them, so an adopted guest needs it once.
    pub ports_ensured: bool,
    /// When the guest was last asked to shut down, in milliseconds since 1970.
    pub asked_ms: Option<i64>,
    /// vCPUs that the domain has, and has room for.
    pub vcpus: Option<(u32, u32)>,
    /// Memory of a running domain that has room for more.
    pub memory: Option<ObservedMemory>,
    /// The disks that the running domain has.
    pub disks: Vec<ObservedDisk>,
}

/// The domain as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDomain {
    /// UID in Furrow's metadata; `None` for somebody else's domain.
    pub uid: Option<String>,
    /// Its state.
    pub state: DomainState,
}

/// The states that make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// QEMU runs, paused or not.
    Active,
    /// QEMU does not run.
    Off(OffReason),
    /// The guest's kernel panicked and QEMU still holds its disks.
    Panicked,
}

/// Why QEMU does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "libvirt's own reasons")]
pub enum OffReason {
    Shutdown,
    Destroyed,
    Crashed,
    /// Never started, or the node restarted.
    Unknown,
    /// It did not start.
    StartFailed,
    Migrated,
    Saved,
}

/// One step. The executor does them in order and stops at the first that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Kill QEMU.
    Destroy,
    /// Ask the guest to shut down.
    AskShutdown,
    /// Remove a port and its tap.
    RemovePort {
        /// The tap.
        tap: String,
    },
    /// Write what a guest's TPM keeps to its image a last time, and take it away from this node. QEMU must have ended.
    KeepState {
        /// The UID of that guest.
        uid: String,
    },
    /// Let go of the volumes' locks.
    ReleaseVolumes,
    /// Take the domain's definition away.
    Undefine,
    /// Remove the guest's directory.
    RemoveFiles {
        /// The UID it is named by.
        uid: String,
    },
    /// Claim the object, check volumes, ensure ports and write the seed, all at the same time.
    Prepare,
    /// Ensure the ports of a running guest.
    EnsurePorts,
    /// Plug vCPUs into a running guest.
    PlugVcpus {
        /// How many it has then.
        count: u32,
    },
    /// Plug memory into a running guest.
    PlugMemory {
        /// How much is asked of the device then, KiB.
        requested_kib: u64,
    },
    /// Define and start the domain.
    Start,
    /// Publish that it runs, with everything known of it.
    PublishRunning,
    /// Plug a disk into the running guest.
    PlugIn {
        /// Its name.
        disk: String,
    },
    /// Ask the running guest to let go of a disk.
    PlugOut {
        /// Its name.
        disk: String,
    },
    /// Publish its end.
    PublishEnd(End),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Succeeded or Failed.
    pub succeeded: bool,
    /// A CamelCase reason.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: &'static str,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: this pass removed what stood in the way of the next.
    Now,
    /// At this time, in milliseconds since 1970.
    At(i64),
    /// When something changes.
    OnChange,
}

/// What to do, and when to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// When to look again.
    pub next: Next,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Somebody else made a domain of that name.
    #[error("could not start the guest: a domain of its name exists that furrow did not make")]
    ForeignDomain,
    /// A running domain writes to one of its images.
    #[error("could not start the guest: its image {image} is in use by the domain {domain}")]
    ImageInUse {
        /// `pool/image`.
        image: String,
        /// Name of the domain that has it.
        domain: String,
    },
}
