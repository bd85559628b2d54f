//! Operations on domains in Furrow's words. Domains are persistent, not transient: libvirt then keeps why a guest
//! stopped, and an agent that was down at that moment can still tell a shutdown from a crash. A definition therefore
//! stays until its end has been reported, and `remove` takes it away.
//!
//! Refuses to decide anything: what to start and what a stop means is the model's.

use std::time::Duration;

use virt::connect::Connect;
use virt::domain::{Domain, DomainPausedReason, DomainShutoffReason, DomainState as VirtState, DomainStateReason};
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::live::{self, DomainOwner, LiveDisk};
use super::memory::LiveMemory;
use super::secret::{self, TpmSecret};
use super::{Libvirt, LibvirtError};

/// A query of libvirtd: its own work is milliseconds.
pub(super) const QUERY: Duration = Duration::from_secs(15);
/// A start: QEMU under TCG inside a busy machine has been seen to take several seconds; 20 start at once.
const START: Duration = Duration::from_secs(180);
/// A destroy: libvirt waits 10 s for SIGTERM, then sends SIGKILL.
const DESTROY: Duration = Duration::from_secs(60);
/// A question to the guest agent; libvirt itself gives up on a silent one after 5 s a question.
pub(super) const AGENT: Duration = Duration::from_secs(30);

/// The state of a domain, with why it is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// Its vCPUs run, or could.
    Running,
    /// Its vCPUs are stopped.
    Paused(PauseReason),
    /// It is being shut down.
    ShuttingDown,
    /// QEMU does not run.
    Off(OffReason),
    /// The guest's kernel panicked and QEMU was kept.
    Crashed,
}

/// Why a domain is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// Somebody asked for it.
    User,
    /// A disk returned an error.
    IoError,
    /// It is being migrated.
    Migration,
    /// It is being started.
    StartingUp,
    /// Anything else.
    Other,
}

/// Why a domain is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffReason {
    /// libvirt does not know: never started, or the node restarted.
    Unknown,
    /// The guest shut down.
    Shutdown,
    /// It was destroyed by request.
    Destroyed,
    /// QEMU ended without a shutdown.
    Crashed,
    /// It could not be started.
    Failed,
    /// libvirtd ended it while reconnecting to it.
    Daemon,
    /// It lives on another node now.
    Migrated,
    /// It was saved or restored from a snapshot.
    Saved,
}

/// A domain as seen by one observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRecord {
    /// Its name.
    pub name: String,
    /// Furrow's metadata; `None` for somebody else's domain.
    pub owner: Option<DomainOwner>,
    /// Its state.
    pub state: DomainState,
    /// It is executed by QEMU's translator, not by KVM.
    pub software: bool,
    /// Whether the guest agent has opened its channel.
    pub agent_connected: bool,
    /// The taps it holds.
    pub taps: Vec<String>,
    /// The RBD images it may write to, as `pool/image`.
    pub images: Vec<String>,
    /// vCPUs that it has, and has room for.
    pub vcpus: Option<(u32, u32)>,
    /// Processors of the node that it is kept to, as libvirt writes them; only one that has them to itself is.
    pub cpus: Option<String>,
    /// Memory that the guest has now, in KiB.
    pub current_memory_kib: Option<u64>,
    /// Its memory, if it has room for more.
    pub memory: Option<LiveMemory>,
    /// User that QEMU runs as; unknown while it does not run.
    pub user: Option<u32>,
    /// Its disks.
    pub disks: Vec<LiveDisk>,
}

impl Libvirt {
    /// Every domain of the node.
    ///
    /// # Errors
    /// When libvirtd does not answer.
    pub async fn domains(&self) -> Result<Vec<DomainRecord>, LibvirtError> {
        self.call("list the domains", QUERY, |connection| {
            let domains =
                connection.list_all_domains(0).map_err(|e| LibvirtError::from_virt("list the domains", &e))?;
            // A domain that vanished between the list and the look is no error: it is not there.
            domains.iter().map(record).filter_map(present).collect()
        })
        .await
    }

    /// One domain; `None` when it is not defined.
    ///
    /// # Errors
    /// When libvirtd does not answer.
    pub async fn domain(&self, name: &str) -> Result<Option<DomainRecord>, LibvirtError> {
        let name = name.to_owned();
        self.call("observe the domain", QUERY, move |connection| {
            let Some(domain) = lookup(connection, &name)? else { return Ok(None) };
            present(record(&domain)).transpose()
        })
        .await
    }

    /// Defines and starts a domain, `paused` without letting its vCPUs run; libvirt knows the passphrase of its TPM for as
    /// long as that takes. When it does not start, its definition is taken away again.
    ///
    /// # Errors
    /// When libvirt refuses the XML or QEMU does not start.
    pub async fn start_domain(&self, xml: String, paused: bool, tpm: Option<TpmSecret>) -> Result<(), LibvirtError> {
        self.call("start the domain", START, move |connection| {
            let domain =
                connection.define_domain_xml(&xml).map_err(|e| LibvirtError::from_virt("define the domain", &e))?;
            let started = secret::lend(connection, tpm.as_ref(), || {
                let created =
                    if paused { domain.create_with_flags(sys::VIR_DOMAIN_START_PAUSED) } else { domain.create() };
                created.map(drop).map_err(|error| LibvirtError::from_virt("start the domain", &error))
            });
            started.inspect_err(|_| {
                if let Err(left) = undefine(&domain) {
                    tracing::warn!(error = %left, "the definition of a domain that did not start is left behind");
                }
            })
        })
        .await
    }

    /// Asks the guest to shut down: through its agent if that is connected, by the ACPI power button otherwise. Returns
    /// as soon as it has been asked.
    ///
    /// # Errors
    /// When the domain does not exist, does not run, or cannot be asked.
    pub async fn shutdown_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "shut down the domain", AGENT, |domain| domain.shutdown_flags(0)).await
    }

    /// Ends QEMU at once.
    ///
    /// # Errors
    /// When the domain does not exist, does not run, or QEMU cannot be killed.
    pub async fn destroy_domain(&self, name: &str) -> Result<(), LibvirtError> {
        self.on_domain(name, "destroy the domain", DESTROY, Domain::destroy).await
    }

    /// Takes the definition of a stopped domain away, with its NVRAM.
    ///
    /// # Errors
    /// When it still runs or libvirtd does not answer. A domain that is not there is no error.
    pub async fn remove_domain(&self, name: &str) -> Result<(), LibvirtError> {
        let name = name.to_owned();
        self.call("undefine the domain", QUERY, move |connection| {
            let Some(domain) = lookup(connection, &name)? else { return Ok(()) };
            if domain.is_active().map_err(|e| LibvirtError::from_virt("undefine the domain", &e))? {
                // libvirt would make it transient and let it run on without a definition.
                return Err(LibvirtError::WrongState {
                    operation: "undefine the domain",
                    message: "it is still running".to_owned(),
                });
            }
            undefine(&domain)
        })
        .await
    }

    pub(super) async fn on_domain<T: Send + 'static>(
        &self,
        name: &str,
        operation: &'static str,
        limit: Duration,
        work: impl FnOnce(&Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, LibvirtError> {
        let name = name.to_owned();
        self.call(operation, limit, move |connection| {
            let domain = lookup(connection, &name)?.ok_or(LibvirtError::NoDomain { operation })?;
            work(&domain).map_err(|error| LibvirtError::from_virt(operation, &error))
        })
        .await
    }
}

pub(super) fn lookup(connection: &Connect, name: &str) -> Result<Option<Domain>, LibvirtError> {
    match connection.lookup_domain_by_name(name) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.code().is(ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(LibvirtError::from_virt("find the domain", &error)),
    }
}

fn undefine(domain: &Domain) -> Result<(), LibvirtError> {
    let flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
    let full = domain.undefine_flags(flags);
    // The test driver knows no flags but these of its own.
    let undefined = match full {
        Err(error) if error.code().is(ErrorNumber::InvalidArg) => domain.undefine(),
        other => other,
    };
    undefined.map_err(|error| LibvirtError::from_virt("undefine the domain", &error))
}

fn record(domain: &Domain) -> Result<DomainRecord, LibvirtError> {
    let fail = |error: Error| LibvirtError::from_virt("observe the domain", &error);
    let name = domain.name().map_err(fail)?;
    let state = state(domain).map_err(fail)?;
    let live = live::read(&domain.xml_desc(0).map_err(fail)?)?;
    Ok(DomainRecord {
        name,
        owner: live.owner,
        state,
        software: live.software,
        agent_connected: live.agent_connected,
        taps: live.taps,
        images: live.images,
        vcpus: live.vcpus,
        cpus: live.cpus,
        current_memory_kib: live.current_memory_kib,
        memory: live.memory,
        user: live.user,
        disks: live.disks,
    })
}

fn present(record: Result<DomainRecord, LibvirtError>) -> Option<Result<DomainRecord, LibvirtError>> {
    (!matches!(record, Err(LibvirtError::NoDomain { .. }))).then_some(record)
}

fn state(domain: &Domain) -> Result<DomainState, Error> {
    let (state, reason) = domain.state()?;
    let state: Result<VirtState, _> = state.into();
    let reason: Result<DomainStateReason, _> = reason.into();
    Ok(match (state, reason) {
        (Ok(VirtState::Paused), Ok(DomainStateReason::Paused(reason))) => {
            DomainState::Paused(pause_reason(reason.into()))
        }
        (Ok(VirtState::Paused), _) => DomainState::Paused(PauseReason::Other),
        (Ok(VirtState::Shutdown), _) => DomainState::ShuttingDown,
        (Ok(VirtState::Shutoff), Ok(DomainStateReason::Shutoff(reason))) => DomainState::Off(off_reason(reason.into())),
        (Ok(VirtState::Shutoff), _) => DomainState::Off(OffReason::Unknown),
        (Ok(VirtState::Crashed), _) => DomainState::Crashed,
        _ => DomainState::Running,
    })
}

fn pause_reason<E>(reason: Result<DomainPausedReason, E>) -> PauseReason {
    match reason {
        Ok(DomainPausedReason::User) => PauseReason::User,
        Ok(DomainPausedReason::IOError) => PauseReason::IoError,
        Ok(DomainPausedReason::Migration | DomainPausedReason::PostCopy | DomainPausedReason::PostCopyFailed) => {
            PauseReason::Migration
        }
        Ok(DomainPausedReason::StartingUp) => PauseReason::StartingUp,
        _ => PauseReason::Other,
    }
}

fn off_reason<E>(reason: Result<DomainShutoffReason, E>) -> OffReason {
    match reason {
        Ok(DomainShutoffReason::Shutdown) => OffReason::Shutdown,
        Ok(DomainShutoffReason::Destroyed) => OffReason::Destroyed,
        Ok(DomainShutoffReason::Crashed) => OffReason::Crashed,
        Ok(DomainShutoffReason::Failed) => OffReason::Failed,
        Ok(DomainShutoffReason::Daemon) => OffReason::Daemon,
        Ok(DomainShutoffReason::Migrated) => OffReason::Migrated,
        Ok(DomainShutoffReason::Saved | DomainShutoffReason::FromSnapshot) => OffReason::Saved,
        Ok(DomainShutoffReason::Unknown) | Err(_) => OffReason::Unknown,
    }
}
