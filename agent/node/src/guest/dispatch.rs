//! Watches and routing. Owns the snapshots that owners work from and the owners' lives. Refuses to act before it has
//! seen everything once: on half a list, guests would look unwanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use furrow_api::{VirtualMachineInstance, names};
use furrow_host::libvirt::{DomainRecord, DomainState, EventStream, LibvirtEvent};
use furrow_model::reasons::chain;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::bound::BoundPod;
use super::cpus;
use super::owner::{self, Artefacts};
use super::ports::HostError;
use super::{Context, Key};

/// Between attempts to list what is on the node at the start, when libvirtd or OVS are not there yet.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// Why the guests of this node are not looked after any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DispatchError {
    /// A source of events has ended; without it the agent would be blind.
    #[error("the source of {0} has ended")]
    Ended(&'static str),
}

/// What an owner works from. `dirty` counts causes, so that every one of them wakes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// Reservation pods of this guest on this node.
    pub(super) pods: Vec<Arc<BoundPod>>,
    /// The VMI, when it carries this node's label.
    pub(super) vmi: Option<Arc<VirtualMachineInstance>>,
    /// Causes so far.
    pub(super) dirty: u64,
    /// Causes so far that end a pause after a failure: what failed may work now.
    pub(super) urgent: u64,
}

impl Snapshot {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.vmi.is_none()
    }

    /// Whether this differs from an earlier one in what is wanted, or in what the node can do. A guest's own events
    /// and the status that its owner writes do not count: a start that fails causes both, and would be retried without
    /// a pause because of them.
    pub(super) fn differs_in_wish(&self, earlier: &Self) -> bool {
        let pods = |snapshot: &Self| {
            let mut pods: Vec<_> =
                snapshot.pods.iter().map(|pod| (pod.uid.clone(), pod.ending, pod.reservation.clone())).collect();
            pods.sort_by(|one, other| one.0.cmp(&other.0));
            pods
        };
        let wish = |snapshot: &Self| {
            let vmi = snapshot.vmi.as_ref()?;
            Some((vmi.uid(), vmi.metadata.deletion_timestamp.is_some()))
        };
        let spec = |snapshot: &Self| snapshot.vmi.as_ref().map(|vmi| vmi.spec.clone());
        // The VMI appears in the watch by the owner's own claim.
        let appeared =
            earlier.vmi.is_none() && self.vmi.as_ref().is_some_and(|v| v.metadata.deletion_timestamp.is_none());
        self.urgent != earlier.urgent
            || pods(self) != pods(earlier)
            || !appeared && (wish(self) != wish(earlier) || spec(self) != spec(earlier))
    }
}

type Watched<K> = BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>;

struct Dispatch {
    context: Arc<Context>,
    owners: HashMap<Key, watch::Sender<Snapshot>>,
    /// Guests whose owner's end has not been seen: they must not get a second one.
    running: BTreeSet<Key>,
    tasks: JoinSet<Key>,
    /// Every pod seen, by UID, with its guest.
    pods: HashMap<String, Key>,
    /// UIDs of the pods and keys of the VMIs of a list that is being received.
    listed_pods: BTreeSet<String>,
    listed_vmis: BTreeSet<Key>,
    pods_listed: bool,
    vmis_listed: bool,
    /// What was found at the start and has no owner yet.
    found: BTreeMap<Key, Artefacts>,
    /// UIDs of all that was found at the start.
    found_uids: BTreeSet<String>,
}

/// Runs until the context's `stop`.
pub(super) async fn run(
    context: Arc<Context>,
    mut libvirt: EventStream,
    ready: impl FnOnce() + Send,
) -> Result<(), DispatchError> {
    let (mut pods, mut vmis) = (watch_pods(&context), watch_vmis(&context));
    let mut settings = context.settings.clone();
    let mut dispatch = Dispatch::new(context);
    if !dispatch.take_inventory(&mut libvirt).await {
        return Ok(());
    }
    let mut ready = Some(ready);
    loop {
        // Every arm only receives; what was received is handled after the select, so nothing is lost by cancelling.
        tokio::select! {
            biased;
            () = dispatch.context.stop.cancelled() => break,
            event = pods.next() => dispatch.on_pod(event.ok_or(DispatchError::Ended("pods"))?),
            event = vmis.next() => dispatch.on_vmi(event.ok_or(DispatchError::Ended("vmis"))?),
            event = libvirt.next() => dispatch.on_libvirt(event.ok_or(DispatchError::Ended("libvirt events"))?),
            Some(ended) = dispatch.tasks.join_next() => dispatch.on_owner_ended(ended),
            changed = settings.changed() => {
                changed.map_err(|_| DispatchError::Ended("settings"))?;
                settings.borrow_and_update();
                dispatch.mark_all();
            }
        }
        if dispatch.complete() {
            dispatch.adopt_found();
            if let Some(ready) = ready.take() {
                dispatch.remove_orphaned_files();
                ready();
            }
        }
    }
    // Owners end by the same token; a step that is under way is finished first.
    while dispatch.tasks.join_next().await.is_some() {}
    Ok(())
}

fn watch_pods(context: &Context) -> Watched<Pod> {
    let config = watcher::Config::default()
        .labels(&format!("{}={}", names::LABEL_APP, names::APP_VIRT_LAUNCHER))
        .fields(&format!("spec.nodeName={}", context.facts.node));
    watcher(Api::all(context.client.clone()), config).default_backoff().boxed()
}

fn watch_vmis(context: &Context) -> Watched<VirtualMachineInstance> {
    let config = watcher::Config::default().labels(&format!("{}={}", names::LABEL_NODE_NAME, context.facts.node));
    let stream = watcher(Api::all(context.client.clone()), config).default_backoff();
    slim(stream).boxed()
}

/// Drops what nobody reads and what is as large as the rest. Annotations stay: a downward API volume may show them.
pub(super) fn forget(vmi: &mut VirtualMachineInstance) {
    vmi.metadata.managed_fields = None;
}

fn slim(
    stream: impl Stream<Item = Result<watcher::Event<VirtualMachineInstance>, watcher::Error>> + Send + 'static,
) -> impl Stream<Item = Result<watcher::Event<VirtualMachineInstance>, watcher::Error>> + Send + 'static {
    stream.modify(forget)
}

impl Dispatch {
    fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            owners: HashMap::new(),
            running: BTreeSet::new(),
            tasks: JoinSet::new(),
            pods: HashMap::new(),
            listed_pods: BTreeSet::new(),
            listed_vmis: BTreeSet::new(),
            pods_listed: false,
            vmis_listed: false,
            found: BTreeMap::new(),
            found_uids: BTreeSet::new(),
        }
    }

    /// Lists domains and ports, again and again until both answer. False when the agent was told to stop meanwhile.
    async fn take_inventory(&mut self, libvirt: &mut EventStream) -> bool {
        loop {
            // The first event says that libvirt is connected. Safe to cancel: waiting changes nothing, and an event
            // that is dropped here is followed by a list.
            tokio::select! {
                () = self.context.stop.cancelled() => return false,
                _ = libvirt.next() => {}
                () = tokio::time::sleep(LIST_AGAIN) => {}
            }
            match self.list().await {
                Ok(found) => {
                    self.found_uids = found.values().flat_map(|artefacts| artefacts.files.clone()).collect();
                    self.found = found;
                    // Not before it is known who has which.
                    let (dedicated, stop) = (Arc::clone(&self.context.cpus), self.context.stop.clone());
                    tokio::spawn(cpus::follow(dedicated, stop));
                    return true;
                }
                Err(error) => tracing::warn!(error = %error, "the guests of this node cannot be listed yet"),
            }
        }
    }

    async fn list(&self) -> Result<BTreeMap<Key, Artefacts>, HostError> {
        let mut found: BTreeMap<Key, Artefacts> = BTreeMap::new();
        let domains = self.context.domains.list().await;
        for domain in domains.map_err(|error| HostError::passing("LibvirtUnavailable", &error))? {
            let Some(key) = domain_key(&domain) else { continue };
            let artefacts = found.entry(key).or_default();
            artefacts.files.extend(domain.owner.iter().map(|owner| owner.uid.clone()));
            if !matches!(domain.state, DomainState::Off(_)) {
                // Nobody else can have it: these domains run already.
                let _ = self.context.images.take(&domain.name, &domain.images);
                if let Some(cpus) = domain.cpus.as_deref().and_then(|list| list.parse().ok()) {
                    self.context.cpus.hold(&domain.name, cpus);
                }
            }
        }
        for port in self.context.ports.list().await? {
            let Some(key) = Key::parse(&port.vmi) else { continue };
            found.entry(key).or_default().ports.insert(port.tap.as_str().to_owned(), port.vmi_uid);
        }
        for (uid, vmi) in self.context.tpm.list()? {
            let Some(key) = Key::parse(&vmi) else { continue };
            found.entry(key).or_default().states.insert(uid);
        }
        Ok(found)
    }

    fn complete(&self) -> bool {
        self.pods_listed && self.vmis_listed && self.context.settings.borrow().is_some()
    }

    fn on_pod(&mut self, event: Result<watcher::Event<Pod>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.listed_pods.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                self.listed_pods.extend(pod.uid());
                self.pod_applied(&pod);
            }
            Ok(watcher::Event::InitDone) => {
                let gone: Vec<_> = self.pods.keys().filter(|uid| !self.listed_pods.contains(*uid)).cloned().collect();
                gone.iter().for_each(|uid| self.pod_deleted(uid));
                self.pods_listed = true;
            }
            Ok(watcher::Event::Apply(pod)) => self.pod_applied(&pod),
            Ok(watcher::Event::Delete(pod)) => self.pod_deleted(&pod.uid().unwrap_or_default()),
            Err(error) => tracing::warn!(error = %chain(&error), "pods of this node cannot be watched at the moment"),
        }
    }

    fn pod_applied(&mut self, pod: &Pod) {
        let Some(mut bound) = BoundPod::read(pod) else { return };
        self.pods.insert(bound.uid.clone(), bound.key.clone());
        self.mark(&bound.key.clone(), |snapshot| {
            if let Some(known) = snapshot.pods.iter().find(|known| known.uid == bound.uid) {
                bound.seen = known.seen;
            }
            snapshot.pods.retain(|known| known.uid != bound.uid);
            snapshot.pods.push(Arc::new(bound));
        });
    }

    fn pod_deleted(&mut self, uid: &str) {
        let Some(key) = self.pods.remove(uid) else { return };
        self.mark(&key, |snapshot| snapshot.pods.retain(|known| known.uid != uid));
    }

    fn on_vmi(&mut self, event: Result<watcher::Event<VirtualMachineInstance>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.listed_vmis.clear(),
            Ok(watcher::Event::InitApply(vmi)) => {
                self.listed_vmis.insert(vmi_key(&vmi));
                self.vmi_applied(vmi);
            }
            Ok(watcher::Event::InitDone) => {
                let known = self.owners.iter().filter(|(_, owner)| owner.borrow().vmi.is_some());
                let gone: Vec<_> =
                    known.map(|(key, _)| key).filter(|key| !self.listed_vmis.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.vmi_gone(key));
                self.vmis_listed = true;
            }
            Ok(watcher::Event::Apply(vmi)) => self.vmi_applied(vmi),
            Ok(watcher::Event::Delete(vmi)) => self.vmi_gone(&vmi_key(&vmi)),
            Err(error) => tracing::warn!(error = %chain(&error), "vmis of this node cannot be watched at the moment"),
        }
    }

    fn vmi_applied(&mut self, vmi: VirtualMachineInstance) {
        let (key, vmi) = (vmi_key(&vmi), Arc::new(vmi));
        self.context.shown.put(&key, &vmi);
        self.mark(&key, |snapshot| snapshot.vmi = Some(vmi));
    }

    fn vmi_gone(&mut self, key: &Key) {
        self.context.shown.remove(key);
        self.mark(key, |snapshot| snapshot.vmi = None);
    }

    fn on_libvirt(&mut self, event: LibvirtEvent) {
        match event {
            LibvirtEvent::Connected | LibvirtEvent::Lost => self.mark_all(),
            LibvirtEvent::Lifecycle { domain, .. }
            | LibvirtEvent::Rebooted { domain }
            | LibvirtEvent::MemorySize { domain }
            | LibvirtEvent::GuestAgent { domain } => {
                let owner = self.owners.iter().find(|(key, _)| key.domain_name() == domain);
                if let Some((_, owner)) = owner {
                    owner.send_modify(|snapshot| snapshot.dirty += 1);
                }
            }
        }
    }

    fn mark_all(&self) {
        for owner in self.owners.values() {
            owner.send_modify(|snapshot| {
                snapshot.dirty += 1;
                snapshot.urgent += 1;
            });
        }
    }

    /// Changes a guest's snapshot and wakes its owner, making one when everything has been seen once.
    fn mark(&mut self, key: &Key, change: impl FnOnce(&mut Snapshot)) {
        let complete = self.complete();
        let owner = self.owners.entry(key.clone()).or_insert_with(|| watch::Sender::new(Snapshot::default()));
        owner.send_modify(|snapshot| {
            change(snapshot);
            snapshot.dirty += 1;
        });
        if complete && !self.running.contains(key) {
            self.start_owner(key.clone());
        }
    }

    /// Gives an owner to every guest that was found or seen before everything had been listed.
    fn adopt_found(&mut self) {
        for key in self.found.keys().cloned().collect::<Vec<_>>() {
            self.owners.entry(key).or_insert_with(|| watch::Sender::new(Snapshot::default()));
        }
        for key in self.owners.keys().filter(|key| !self.running.contains(*key)).cloned().collect::<Vec<_>>() {
            self.start_owner(key);
        }
    }

    fn start_owner(&mut self, key: Key) {
        let Some(owner) = self.owners.get(&key) else { return };
        let snapshots = owner.subscribe();
        let artefacts = self.found.remove(&key).unwrap_or_default();
        self.running.insert(key.clone());
        self.tasks.spawn(owner::run(Arc::clone(&self.context), key, snapshots, artefacts));
    }

    /// An owner ends when nothing is left of its guest. If something came in between, it gets a new one.
    fn on_owner_ended(&mut self, ended: Result<Key, tokio::task::JoinError>) {
        match ended {
            Ok(key) => {
                self.running.remove(&key);
                let empty = self.owners.get(&key).is_none_or(|owner| owner.borrow().is_empty());
                if empty {
                    self.owners.remove(&key);
                } else {
                    self.start_owner(key);
                }
            }
            // Half a step may have been done for a guest that nobody looks after now: start over as a whole.
            Err(error) => {
                tracing::error!(error = %error, "a guest's owner panicked, ending the agent so that it starts over");
                std::process::abort();
            }
        }
    }

    /// Directories of guests that are nowhere else: their objects went while the agent was down.
    fn remove_orphaned_files(&self) {
        // Owners of what was found remove those directories themselves.
        let mut known = self.found_uids.clone();
        for owner in self.owners.values() {
            let snapshot = owner.borrow();
            known.extend(snapshot.pods.iter().map(|pod| pod.vmi_uid.clone()));
            known.extend(snapshot.vmi.iter().filter_map(|vmi| vmi.uid()));
        }
        let facts = &self.context.facts;
        let entries = [&facts.guests_dir, &facts.shares_dir].into_iter().filter_map(|dir| std::fs::read_dir(dir).ok());
        for entry in entries.flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&name) {
                continue;
            }
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!(uid = %name, "the directory of a guest that is gone was removed"),
                Err(error) => tracing::warn!(uid = %name, error = %error, "a guest's directory cannot be removed"),
            }
        }
    }
}

fn domain_key(domain: &DomainRecord) -> Option<Key> {
    let owner = domain.owner.as_ref()?;
    Some(Key { namespace: owner.namespace.clone(), name: owner.name.clone() })
}

fn vmi_key(vmi: &VirtualMachineInstance) -> Key {
    Key { namespace: vmi.namespace().unwrap_or_default(), name: vmi.name_any() }
}
