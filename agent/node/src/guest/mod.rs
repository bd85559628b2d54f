//! Guests of this node. One dispatcher watches (pods bound here, VMIs of this node, libvirt) and marks guests dirty;
//! one owner task a guest (`namespace/name`) observes, plans (`furrow_model::guest`), executes and reports.
//!
//! ```text
//!  pods, VMIs, libvirt events --> dispatch --(watch channel: snapshot)--> owner --> volumes, ports, libvirt
//!                                                                          +------> status, events
//! ```
//!
//! Refuses to decide (the model does) and to poll: every pass has a cause, and a slow resync in case one was lost.

mod bound;
mod conditions;
mod convert;
mod cpus;
mod credentials;
mod devices;
mod dispatch;
mod execute;
mod files;
mod guest_info;
mod host_disk;
mod host_metrics;
mod images;
mod inside;
pub(crate) mod kernel;
mod media;
mod metrics_disk;
mod names;
mod observe;
mod owner;
mod pinning;
mod platform;
mod plug;
mod plug_disks;
pub(crate) mod ports;
mod probes;
pub(crate) mod publish;
mod reach;
mod record;
mod seed;
mod settings;
mod shares;
mod show;
mod shown;
mod status;
#[cfg(test)]
mod tests;
pub(crate) mod tpm;
mod unsupported;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use furrow_host::libvirt::{CONCURRENT_CALLS, EventStream};
use furrow_model::domain::{HostFacts, Virtualization};
use kube::Client;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use cpus::Processors;
use cpus::{Dedicated, Waits};
pub(crate) use dispatch::DispatchError;
use host_metrics::RecentStats;
use images::Images;
use ports::{Dial, Domains, Ports, Volumes};
use record::Events;
use settings::Settings;
pub(crate) use show::show;
pub(crate) use shown::Shown;
pub(crate) use status::os_info;
use tpm::TpmStates;

/// QEMUs started at the same time. Four of libvirt's calls stay free for observing and stopping while others start. Fewer make a burst slower: guests that run already take the cores from those to come.
const CONCURRENT_STARTS: usize = CONCURRENT_CALLS - 4;

/// A guest's name in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name of the VMI, which is that of its VM.
    pub(crate) name: String,
}

impl Key {
    /// From `namespace/name`.
    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The name of its domain, as `furrow_model::domain::Owner::domain_name` makes it.
    pub(crate) fn domain_name(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What does not change about the node while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    /// Kubernetes node name.
    pub(crate) node: String,
    /// Path of QEMU.
    pub(crate) emulator: String,
    /// Directory of OVMF's images.
    pub(crate) firmware_dir: String,
    /// Directory that holds one directory a guest, named by UID.
    pub(crate) guests_dir: PathBuf,
    /// Directory that holds what guests mount by virtiofs, one directory a guest, named by UID.
    pub(crate) shares_dir: PathBuf,
    /// Directory that holds one directory a TPM whose state is kept, named by its guest's UID.
    pub(crate) tpm_dir: PathBuf,
    /// Whether `/dev/kvm` can be used.
    pub(crate) kvm: bool,
}

impl NodeFacts {
    fn host_facts(&self, uid: &str, settings: &Settings) -> HostFacts {
        HostFacts {
            virtualization: self.virtualization(settings),
            emulator: self.emulator.clone(),
            firmware_dir: self.firmware_dir.clone(),
            guest_dir: self.guests_dir.join(uid),
            shares_dir: self.shares_dir.join(uid),
            tpm_dir: self.tpm_dir.join(uid),
        }
    }

    /// Whether a guest has files on this node, by its UID.
    fn has_files(&self, uid: &str) -> bool {
        self.guests_dir.join(uid).exists() || self.shares_dir.join(uid).exists()
    }

    fn virtualization(&self, settings: &Settings) -> Virtualization {
        if self.kvm && !settings.use_emulation { Virtualization::Kvm } else { Virtualization::Tcg }
    }
}

/// The parts of the node that guests use.
pub(crate) struct Parts {
    /// Kubernetes.
    pub(crate) client: Client,
    /// Volumes.
    pub(crate) volumes: Arc<dyn Volumes>,
    /// States of TPMs.
    pub(crate) tpm: Arc<dyn TpmStates>,
    /// Network ports.
    pub(crate) ports: Arc<dyn Ports>,
    /// Domains.
    pub(crate) domains: Arc<dyn Domains>,
    /// The ways to the guests' ports.
    pub(crate) dial: Arc<dyn Dial>,
    /// Statistics of the domains.
    pub(crate) statistics: Arc<dyn crate::metrics::Statistics>,
    /// Registries that have kernels.
    pub(crate) kernels: Arc<dyn kernel::FetchesFiles>,
    /// The node's processors.
    pub(crate) processors: Arc<dyn Processors>,
    /// The node.
    pub(crate) facts: NodeFacts,
    /// Where the guests are shown.
    pub(crate) shown: Arc<Shown>,
}

/// What all owners share.
struct Context {
    client: Client,
    volumes: Arc<dyn Volumes>,
    tpm: Arc<dyn TpmStates>,
    ports: Arc<dyn Ports>,
    domains: Arc<dyn Domains>,
    dial: Arc<dyn Dial>,
    stats: RecentStats,
    kernels: Arc<dyn kernel::FetchesFiles>,
    facts: NodeFacts,
    shown: Arc<Shown>,
    settings: watch::Receiver<Option<Settings>>,
    images: Images,
    cpus: Arc<Dedicated>,
    events: Events,
    starts: Semaphore,
    /// Attempts of probes that may be under way: through guests' agents, and through their networks.
    probes: Semaphore,
    reaching: Semaphore,
    stop: CancellationToken,
}

/// Runs the guests of this node until `stop`. `ready` is called once everything found at the start is being looked
/// after.
///
/// # Errors
/// When what is on the node cannot be listed at the start.
pub(crate) async fn run(
    parts: Parts,
    libvirt_events: EventStream,
    stop: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), DispatchError> {
    let Parts { client, volumes, tpm, ports, domains, dial, statistics, kernels, processors, facts, shown } = parts;
    let settings = settings::follow(client.clone(), stop.clone());
    let events = Events::start(client.clone(), &facts.node, stop.clone());
    let context = Arc::new(Context {
        client,
        volumes,
        tpm,
        ports,
        domains,
        dial,
        stats: RecentStats::new(statistics),
        kernels,
        facts,
        shown,
        settings,
        images: Images::default(),
        cpus: Arc::new(Dedicated::new(processors, Waits::default())),
        events,
        starts: Semaphore::new(CONCURRENT_STARTS),
        probes: Semaphore::new(probes::CONCURRENT_ATTEMPTS),
        reaching: Semaphore::new(probes::CONCURRENT_CONNECTIONS),
        stop,
    });
    dispatch::run(context, libvirt_events, ready).await
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
