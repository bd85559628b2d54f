//! The executor: one `match` over the model's steps, and the start with its concurrent preparation. Owns what happens
//! on the node and what is told of it (status, events, the `guest started` log line). Refuses to choose steps.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_api::meta::Condition;
use furrow_api::reservation::{ReservedVolume, STATE_TPM};
use furrow_api::vmi::{EvictionStrategy, StartStrategy, VmiPhase};
use furrow_host::libvirt::{DomainRecord, DomainState, LibvirtError, TpmSecret};
use furrow_model::domain::{DomainError, RbdSource, Virtualization, render};
use furrow_model::guest::{End, Next, Step};
use furrow_model::port::TapName;
use furrow_model::reasons::chain;
use futures::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::convert::GuestRequest;
use super::cpus::Taken;
use super::credentials;
use super::host_metrics;
use super::inside;
use super::kernel;
use super::metrics_disk;
use super::observe::Subject;
use super::owner::Known;
use super::pinning;
use super::plug;
use super::ports::HostError;
use super::probes;
use super::publish::{PublishError, publish};
use super::reach;
use super::settings::Settings;
use super::shares;
use super::status::{self, Here, RunningGuest};
use super::tpm::{self, TpmGuest};
use super::{Context, Key, host_disk, media, now_ms, seed};

/// Longest that ports or volumes may take to be prepared; their own waits are shorter.
const PREPARE_LIMIT: Duration = Duration::from_secs(90);
/// There where SELinux is in force.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Why a pass could not do what it planned.
#[derive(Debug)]
pub(super) struct Failure {
    /// CamelCase, the condition's reason.
    pub(super) reason: &'static str,
    /// For people, the condition's message.
    pub(super) message: String,
    /// Wait for a change instead of trying again.
    pub(super) permanent: bool,
}

impl Failure {
    pub(super) fn permanent(reason: &'static str, message: String) -> Self {
        Self { reason, message, permanent: true }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self { reason: error.reason, message: error.message, permanent: error.permanent }
    }
}

impl From<LibvirtError> for Failure {
    fn from(error: LibvirtError) -> Self {
        let reason = match error {
            LibvirtError::NotConnected { .. } | LibvirtError::Timeout { .. } => "LibvirtUnavailable",
            LibvirtError::Refused { .. } => "DomainRefused",
            _ => "DomainFailed",
        };
        Self { reason, message: chain(&error), permanent: error.is_permanent() }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self { reason: "KubernetesUnavailable", message: chain(&error), permanent: false }
    }
}

impl From<DomainError> for Failure {
    fn from(error: DomainError) -> Self {
        Self { reason: "SpecInvalid", message: chain(&error), permanent: true }
    }
}

/// One pass over one guest.
pub(super) struct Pass<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) key: &'a Key,
    pub(super) subject: &'a Subject,
    pub(super) request: Option<&'a GuestRequest>,
    /// When the pass began.
    pub(super) observed_at: Instant,
}

/// What a start works from.
#[derive(Debug)]
pub(super) struct Prepared {
    claimed: VirtualMachineInstance,
    sources: HashMap<String, RbdSource>,
    cpus: Option<Taken>,
    tpm: Option<TpmSecret>,
    stages: Stages,
}

/// How long the stages of a start took.
#[derive(Debug, Default, Clone, Copy)]
struct Stages {
    claim: Duration,
    volumes: Duration,
    ports: Duration,
    seed: Duration,
}

impl Pass<'_> {
    /// Does one step. `Break` ends the pass and says when to look again.
    pub(super) async fn execute(
        &self,
        known: &mut Known,
        step: Step,
        domain: Option<&DomainRecord>,
    ) -> Result<ControlFlow<Next>, Failure> {
        let name = self.key.domain_name();
        let domains = &self.context.domains;
        match step {
            Step::Destroy => {
                tolerate_ended(domains.destroy(&name).await)?;
                if let Some(vmi) = &self.subject.vmi {
                    self.context.events.normal(vmi, "Deleted", "Signaled Deletion");
                }
                tracing::info!(vm = %self.key, "guest killed");
            }
            Step::AskShutdown => self.ask_shutdown(known).await?,
            Step::RemovePort { tap } => self.remove_port(known, tap).await?,
            Step::KeepState { uid } => self.keep_state(known, uid).await?,
            Step::ReleaseVolumes => self.release_volumes().await?,
            Step::Undefine => {
                domains.remove(&name).await?;
                self.give_back(&name);
            }
            Step::RemoveFiles { uid } => self.remove_files(known, uid).await?,
            Step::Prepare => return self.prepare(known).await,
            Step::Start => return self.start(known).await,
            Step::EnsurePorts => self.ensure_ports(known).await?,
            Step::PlugVcpus { count } => {
                domains.plug_vcpus(&name, count).await?;
                tracing::info!(vm = %self.key, count, "processors plugged in");
            }
            Step::PlugMemory { requested_kib } => self.plug_memory(known, requested_kib).await?,
            Step::PublishRunning => return self.publish_running(known, domain).await,
            Step::PlugIn { disk } => self.plug_in(&disk, domain).await?,
            Step::PlugOut { disk } => self.plug_out(&disk).await?,
            Step::PublishEnd(end) => self.publish_end(known, end).await?,
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn ask_shutdown(&self, known: &mut Known) -> Result<(), Failure> {
        let first = known.asked_ms.is_none();
        known.asked_ms = Some(now_ms());
        if first {
            if let Some(vmi) = &self.subject.vmi {
                self.context.events.normal(vmi, "ShuttingDown", "Signaled Graceful Shutdown");
                self.publish_ending(known, vmi).await;
            }
            tracing::info!(vm = %self.key, "guest asked to shut down");
        }
        match self.context.domains.ask_shutdown(&self.key.domain_name()).await {
            // A guest that cannot be asked is killed when its time is up; failing here would only delay that.
            Err(error) if !matches!(error, LibvirtError::NotConnected { .. }) => {
                tracing::debug!(vm = %self.key, error = %error, "the guest could not be asked to shut down");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn remove_port(&self, known: &mut Known, tap: String) -> Result<(), Failure> {
        if let Some(name) = TapName::recognise(&tap) {
            within("PortRemovalTimeout", self.context.ports.remove(&name)).await?;
        }
        known.artefacts.ports.remove(&tap);
        Ok(())
    }

    async fn release_volumes(&self) -> Result<(), Failure> {
        for volume in self.request.iter().flat_map(|request| request.volumes()) {
            within("VolumeReleaseTimeout", self.context.volumes.release(volume)).await?;
        }
        Ok(())
    }

    async fn remove_files(&self, known: &mut Known, uid: String) -> Result<(), Failure> {
        // The guest's own directory last: it is what the next agent finds the guest by.
        for dir in [&self.context.facts.shares_dir, &self.context.facts.guests_dir] {
            let path = dir.join(&uid);
            match tokio::fs::remove_dir_all(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let message = format!("could not remove {}: {error}", path.display());
                    return Err(Failure { reason: "FilesNotRemoved", message, permanent: false });
                }
                _ => {}
            }
        }
        known.artefacts.files.remove(&uid);
        Ok(())
    }

    async fn ensure_ports(&self, known: &mut Known) -> Result<(), Failure> {
        let Some(request) = self.request else { return Ok(()) };
        self.note_ports(known, request);
        try_join_all(request.ports.iter().map(|port| self.context.ports.ensure(port))).await?;
        known.ports_ensured = true;
        Ok(())
    }

    /// Notes ports before they are made: a half made one must be removed as well.
    fn note_ports(&self, known: &mut Known, request: &GuestRequest) {
        let uid = self.subject.uid().unwrap_or_default();
        known.artefacts.ports.extend(request.ports.iter().map(|p| (p.tap().as_str().to_owned(), uid.clone())));
    }

    /// Everything that a start needs, at the same time: the claim, the volumes, the ports, the seed.
    async fn prepare(&self, known: &mut Known) -> Result<ControlFlow<Next>, Failure> {
        let (Some(request), Some(vmi)) = (self.request, self.subject.vmi.as_ref()) else {
            return Ok(ControlFlow::Break(Next::OnChange));
        };
        let uid = self.subject.uid().unwrap_or_default();
        let name = self.key.domain_name();
        if let Err((image, domain)) = self.context.images.take(&name, &request.exclusive_images()) {
            let message = format!("could not start the guest: its image {image} is in use by the domain {domain}");
            return Err(Failure { reason: "ImageInUse", message, permanent: false });
        }
        self.note_ports(known, request);
        known.artefacts.files.insert(uid.clone());
        if vmi.spec.domain.keeps_tpm() {
            known.artefacts.states.insert(uid.clone());
        }
        known.prepared = None;
        let prepared = Box::pin(self.prepare_parts(vmi, request, &uid)).await;
        let prepared = prepared.inspect_err(|_| self.give_back(&name))?;
        known.latest = Some(Arc::new(prepared.claimed.clone()));
        known.ports_ensured = true;
        known.shares = shares::Kept::fresh();
        if prepared.claimed.metadata.deletion_timestamp.is_some() || is_over(&prepared.claimed) {
            self.give_back(&name);
            return Ok(ControlFlow::Break(Next::Now));
        }
        known.prepared = Some(prepared);
        Ok(ControlFlow::Continue(()))
    }

    /// Frees what the guest's domain had to itself.
    fn give_back(&self, domain: &str) {
        self.context.images.release(domain);
        self.context.cpus.release(domain);
    }

    /// Takes the processors that the guest has to itself, if it has any.
    async fn take_cpus(&self, request: &GuestRequest) -> Result<Option<Taken>, Failure> {
        let need = request.cpu_need().map_err(|error| Failure::from(&error))?;
        let (Some(need), Some(pod)) = (need, self.subject.pod.as_ref()) else { return Ok(None) };
        Ok(Some(self.context.cpus.take(&self.key.domain_name(), &pod.uid, need).await?))
    }

    async fn prepare_parts(
        &self,
        vmi: &VirtualMachineInstance,
        request: &GuestRequest,
        uid: &str,
    ) -> Result<Prepared, Failure> {
        let here = self.here();
        let claim = timed(async {
            Ok::<_, Failure>(publish(&self.context.client, vmi, |vmi| status::claim(vmi, here, &now())).await?)
        });
        let volumes = timed(async {
            // Without its key a state is not even claimed.
            let secret = tpm::secret(self.context, request).await?;
            Ok::<_, Failure>((self.check_volumes(request).await?, secret))
        });
        let ports = timed(async {
            let ensure = request.ports.iter().map(|port| self.context.ports.ensure(port));
            within("PortTimeout", try_join_all(ensure)).await
        });
        let seed = timed(async {
            self.write_media(vmi, uid).await?;
            let dir = self.context.facts.guests_dir.join(uid);
            let fetched = kernel::ensure(&*self.context.kernels, request.kernel.as_ref(), &dir).await;
            fetched.map_err(Failure::from)
        });
        let cpus = self.take_cpus(request);
        // Nothing is cancelled when one fails: the others finish, so that what they made is known.
        let (claim, volumes, ports, seed, cpus) = tokio::join!(claim, volumes, ports, seed, cpus);
        let stages = Stages { claim: claim.1, volumes: volumes.1, ports: ports.1, seed: seed.1 };
        ports.0?;
        seed.0?;
        let (claimed, (sources, tpm)) = (claim.0?, volumes.0?);
        Ok(Prepared { claimed, sources, tpm, cpus: cpus?, stages })
    }

    /// Starts the guest from what was prepared.
    async fn start(&self, known: &mut Known) -> Result<ControlFlow<Next>, Failure> {
        let (Some(request), Some(prepared)) = (self.request, known.prepared.take()) else {
            return Ok(ControlFlow::Break(Next::Now));
        };
        let name = self.key.domain_name();
        let settings = self.settings();
        let paused = prepared.claimed.spec.start_strategy == Some(StartStrategy::Paused);
        let started = async {
            let facts = self.context.facts.host_facts(&self.subject.uid().unwrap_or_default(), &settings);
            let spec = request.domain(&prepared.sources, &facts.guest_dir, &settings.defaults);
            let mut spec = spec.map_err(|error| Failure::from(&error))?;
            let pinning = prepared.cpus.map(|taken| pinning::spec(&request.vmi, taken)).transpose();
            spec.pinning = pinning.map_err(|error| Failure::from(&error))?;
            let xml = render(&spec, &facts)?;
            let (_permit, queue) = timed(self.context.starts.acquire()).await;
            let (started, libvirt) = timed(self.context.domains.start(xml, paused, prepared.tpm)).await;
            started?;
            Ok::<_, Failure>((queue, libvirt))
        };
        let (queue, libvirt) = started.await.inspect_err(|_| self.give_back(&name))?;
        self.log_start(prepared.stages, queue, libvirt);
        self.context.events.normal(&prepared.claimed, "Created", "VirtualMachineInstance defined.");
        self.context.events.normal(&prepared.claimed, "Started", "VirtualMachineInstance started.");
        Ok(ControlFlow::Continue(()))
    }

    /// The state of a TPM comes last: it is claimed when nobody writes to the disks any more, which it belongs to. A guest
    /// that still ran somewhere would go on with its disks, and what its TPM keeps would be lost.
    async fn check_volumes(&self, request: &GuestRequest) -> Result<HashMap<String, RbdSource>, Failure> {
        let (tpm, others): (Vec<_>, Vec<_>) = request.volumes().partition(|volume| volume.name == STATE_TPM);
        let mut sources = HashMap::new();
        for volumes in [others, tpm] {
            let checks = volumes.into_iter().map(|volume| self.check_volume(request, volume));
            sources.extend(try_join_all(checks).await?);
        }
        Ok(sources)
    }

    pub(super) async fn check_volume(
        &self,
        request: &GuestRequest,
        volume: &ReservedVolume,
    ) -> Result<(String, RbdSource), Failure> {
        if let Some(template) = request.flash_template(volume) {
            let template = Path::new(&self.context.facts.firmware_dir).join(template);
            within("VolumeTimeout", self.context.volumes.fill_flash(volume, &template)).await?;
        }
        if volume.name == STATE_TPM {
            let (uid, vmi) = (request.vmi.uid().unwrap_or_default(), request.label());
            within("VolumeTimeout", self.context.tpm.restore(TpmGuest { uid: &uid, vmi: &vmi }, volume)).await?;
        }
        let check = self.context.volumes.open_check(volume, request.is_exclusive(volume));
        Ok((volume.name.clone(), within("VolumeTimeout", check).await?))
    }

    /// Makes the guest's directory and in it the volumes that are files: the seed, and what is made of objects.
    async fn write_media(&self, vmi: &VirtualMachineInstance, uid: &str) -> Result<(), Failure> {
        let seed_failure = |error: seed::SeedError| Failure {
            reason: error.reason(),
            permanent: error.is_permanent(),
            message: chain(&error),
        };
        let found = seed::find(&vmi.spec.volumes).map_err(seed_failure)?;
        let mut files = Vec::new();
        if let Some(volume) = found {
            let iso = seed::gather(&self.context.client, vmi, volume).await.map_err(seed_failure)?;
            files.push((seed::SEED_FILE.to_owned(), iso));
        }
        let place = media::Place { client: &self.context.client, vmi, pod_uid: self.pod_uid() };
        shares::fill(&place, &self.context.facts.shares_dir.join(uid)).await.map_err(seed_failure)?;
        for volume in vmi.spec.volumes.iter().filter(|volume| !shares::is_share_only(vmi, &volume.name)) {
            let iso = media::gather(&place, volume).await.map_err(seed_failure)?;
            files.extend(iso.map(|iso| (media::file_name(&volume.name), iso)));
        }
        let dir = self.context.facts.guests_dir.join(uid);
        let (namespace, volumes) = (self.key.namespace.clone(), vmi.spec.volumes.clone());
        let written = tokio::task::spawn_blocking(move || {
            super::files::ensure_guest_dir(&dir)?;
            host_disk::ensure(&namespace, &volumes)?;
            metrics_disk::make(&dir, &volumes)?;
            files.iter().try_for_each(|(name, iso)| seed::write(&dir, name, iso))
        });
        let written = written.await.map_err(|error| Failure {
            reason: "CloudInitSeedFailed",
            message: format!("could not write the seed: {error}"),
            permanent: false,
        })?;
        written.map_err(seed_failure)
    }

    /// UID of the reservation pod.
    fn pod_uid(&self) -> &str {
        self.subject.pod.as_ref().map_or("", |pod| &pod.uid)
    }

    fn log_start(&self, stages: Stages, queue: Duration, libvirt: Duration) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let pod = self.subject.pod.as_ref();
        // Kubernetes gives these times to the second only: they are up to 999 ms too long.
        let bound_ms = pod.and_then(|pod| pod.bound_ms).map(|bound| now_ms() - bound);
        let vmi = self.subject.vmi.as_ref();
        let created = vmi.and_then(|vmi| vmi.metadata.creation_timestamp.as_ref());
        let created_ms = created.map(|time| now_ms() - time.0.as_millisecond());
        let seen = pod.map_or(self.observed_at, |pod| pod.seen);
        tracing::info!(
            vm = %self.key,
            uid = %self.subject.uid().unwrap_or_default(),
            created_ms,
            bound_ms,
            observe_ms = millis(self.observed_at.saturating_duration_since(seen)),
            claim_ms = millis(stages.claim),
            volumes_ms = millis(stages.volumes),
            ports_ms = millis(stages.ports),
            seed_ms = millis(stages.seed),
            queue_ms = millis(queue),
            libvirt_ms = millis(libvirt),
            total_ms = millis(seen.elapsed()),
            "guest started"
        );
    }

    async fn publish_running(
        &self,
        known: &mut Known,
        domain: Option<&DomainRecord>,
    ) -> Result<ControlFlow<Next>, Failure> {
        let (Some(request), Some(vmi), Some(domain)) = (self.request, self.subject.vmi.as_ref(), domain) else {
            return Ok(ControlFlow::Continue(()));
        };
        let frozen = vmi.status.as_ref().is_some_and(|status| status.fs_freeze_status.is_some());
        let asked = inside::ask((&**self.context, self.key), known, domain, frozen).await;
        if asked.now {
            Box::pin(credentials::hand_over(self.context, vmi, &domain.name, &mut known.handed)).await;
        }
        if known.tpm.is_none() {
            known.tpm = tpm::start(self.context, vmi);
        }
        if known.host_metrics.is_none() {
            known.host_metrics = host_metrics::start(self.context, self.key, vmi);
        }
        if known.metrics_disk.is_none() {
            known.metrics_disk = metrics_disk::start(self.context, self.key, vmi);
        }
        let place = media::Place { client: &self.context.client, vmi, pod_uid: self.pod_uid() };
        let (facts, uid) = (&self.context.facts, self.subject.uid().unwrap_or_default());
        let shared_again = known.shares.follow(&place, &facts.shares_dir.join(&uid)).await;
        let answers = self.probe(known, vmi, domain.state == DomainState::Running && (asked.thawed || !frozen));
        let guest_dir = facts.guests_dir.join(&uid);
        let spec = request.domain(&named_sources(request), &guest_dir, &self.settings().defaults);
        let mut spec = spec.map_err(|error| Failure::from(&error))?;
        plug::in_force(&mut spec, domain);
        let guest = RunningGuest {
            request,
            spec: &spec,
            state: domain.state,
            agent_connected: domain.agent_connected,
            report: known.heard.as_ref().map(|heard| &heard.report),
            thawed: asked.thawed,
            answers,
            disks: &domain.disks,
            virtualization: if domain.software { Virtualization::Tcg } else { Virtualization::Kvm },
            memory_kib: domain.current_memory_kib,
            user: domain.user,
            selinux: Path::new(SELINUX).exists(),
            seed_bytes: self.seed_bytes().await,
            handed: &known.handed,
        };
        let here = self.here();
        let change = |vmi: &mut VirtualMachineInstance| {
            status::running(vmi, &guest, here, &now());
            plug::settle(vmi, guest.spec);
            if let Some(pod) = &self.subject.pod {
                plug::settle_memory(vmi, plug::observed_memory(domain), pod, &now());
            }
        };
        let written = publish(&self.context.client, vmi, change).await?;
        self.tell_change(vmi, &written);
        known.latest = Some(Arc::new(written));
        if !guest.awaits_disk() {
            known.reported = None;
        }
        let again = [asked.again, shared_again].into_iter().flatten().min();
        Ok(again.map_or(ControlFlow::Continue(()), |pause| ControlFlow::Break(inside::later(pause))))
    }

    /// Whether the guest's readiness probe, if it has one, is content. Starts the probes. `answering`: it can be asked.
    fn probe(&self, known: &mut Known, vmi: &Arc<VirtualMachineInstance>, answering: bool) -> bool {
        if known.probes.is_none() {
            known.probes = probes::start(self.context, self.key, vmi);
        }
        known.probes.as_ref().is_none_or(|probes| {
            probes.answering.send_replace(answering);
            probes.place.send_replace(reach::Place::of(vmi));
            probes.health.borrow().ready
        })
    }

    /// Where the guest is, as its status says it.
    fn here(&self) -> Here<'_> {
        Here { node: &self.context.facts.node, pod: self.subject.pod.as_deref() }
    }

    async fn seed_bytes(&self) -> Option<i64> {
        let path = self.context.facts.guests_dir.join(self.subject.uid()?).join(seed::SEED_FILE);
        tokio::fs::metadata(path).await.ok().and_then(|file| i64::try_from(file.len()).ok())
    }

    /// Events that follow from what changed in a running guest's status.
    fn tell_change(&self, old: &VirtualMachineInstance, new: &VirtualMachineInstance) {
        if status::says(old, "Paused") && !status::says(new, "Paused") {
            self.context.events.normal(new, "Resumed", "VirtualMachineInstance resumed.");
        }
        let evictable = new.spec.eviction_strategy == Some(EvictionStrategy::LiveMigrate);
        let conditions = new.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let migratable = Condition::find(conditions, "LiveMigratable");
        if let Some(condition) = migratable.filter(|condition| evictable && !condition.is_true() && !is_running(old)) {
            let why = condition.message.as_deref().unwrap_or_default();
            let note = format!("EvictionStrategy is set but vmi is not migratable; {why}");
            self.context.events.warning(new, "Migrated", &note);
        }
    }

    /// That it ends is said once, and that it could not be said keeps nobody from ending it.
    async fn publish_ending(&self, known: &mut Known, vmi: &VirtualMachineInstance) {
        if !is_running(vmi) {
            return;
        }
        match publish(&self.context.client, vmi, |vmi| status::ending(vmi, &now())).await {
            Ok(written) => known.latest = Some(Arc::new(written)),
            Err(error) => tracing::debug!(vm = %self.key, error = %chain(&error), "its end cannot be announced"),
        }
    }

    async fn publish_end(&self, known: &mut Known, end: End) -> Result<(), Failure> {
        let Some(vmi) = &self.subject.vmi else { return Ok(()) };
        match publish(&self.context.client, vmi, |vmi| status::ended(vmi, end, &now())).await {
            Ok(written) => {
                let note = if end.succeeded {
                    "The VirtualMachineInstance was shut down."
                } else {
                    "The VirtualMachineInstance crashed."
                };
                let events = &self.context.events;
                if end.succeeded {
                    events.normal(&written, "Stopped", note);
                } else {
                    events.warning(&written, "Stopped", note);
                }
                tracing::info!(vm = %self.key, succeeded = end.succeeded, reason = end.reason, "guest ended");
                known.latest = Some(Arc::new(written));
            }
            Err(PublishError::Gone) => known.latest = None,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Says on the object why it is not as it should be, once for each reason and message.
    pub(super) async fn report_failure(&self, known: &mut Known, failure: &Failure) {
        let text = format!("{}: {}", failure.reason, failure.message);
        if known.reported.as_ref() == Some(&text) {
            return;
        }
        tracing::warn!(vm = %self.key, reason = failure.reason, error = %failure.message, "guest is not as it should be");
        let current = known.latest.clone().or_else(|| self.subject.vmi.clone());
        let Some(vmi) = current else { return };
        let here = self.here();
        let bound = self.subject.pod.is_some();
        let change = |vmi: &mut VirtualMachineInstance| {
            // Only the node that a VMI names may write it, so a node that refuses one has to claim it for that.
            if bound {
                status::claim(vmi, here, &now());
            }
            status::sync_failed(vmi, failure.reason, &failure.message, &now());
        };
        match publish(&self.context.client, &vmi, change).await {
            Ok(written) => {
                known.latest = Some(Arc::new(written));
                self.context.events.warning(&vmi, "SyncFailed", &failure.message);
                known.reported = Some(text);
            }
            // It is logged above and tried again with the next failure.
            Err(error) => tracing::debug!(vm = %self.key, error = %chain(&error), "the failure cannot be published"),
        }
    }

    fn settings(&self) -> Settings {
        self.context.settings.borrow().clone().unwrap_or_default()
    }
}

fn is_running(vmi: &VirtualMachineInstance) -> bool {
    vmi.status.as_ref().is_some_and(|status| status.phase == VmiPhase::Running)
}

fn is_over(vmi: &VirtualMachineInstance) -> bool {
    vmi.status.as_ref().is_some_and(|status| status.phase.is_final())
}

/// Sources with their names only: enough to describe a running guest's disks.
fn named_sources(request: &GuestRequest) -> HashMap<String, RbdSource> {
    let source = |volume: &ReservedVolume| RbdSource {
        pool: volume.pool.clone(),
        image: volume.image.clone(),
        monitors: Vec::new(),
        user: String::new(),
        secret: uuid::Uuid::nil(),
    };
    request.volumes().map(|volume| (volume.name.clone(), source(volume))).collect()
}

fn tolerate_ended(result: Result<(), LibvirtError>) -> Result<(), Failure> {
    match result {
        // It ended by itself in the meantime, which is what was wanted.
        Err(LibvirtError::WrongState { .. } | LibvirtError::NoDomain { .. }) => Ok(()),
        other => Ok(other?),
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let result = work.await;
    (result, began.elapsed())
}

pub(super) async fn within<T>(
    reason: &'static str,
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, Failure> {
    // Dropping at the limit is safe: both ports and volumes are prepared by idempotent calls.
    match tokio::time::timeout(PREPARE_LIMIT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            let message = format!("no answer within {} s", PREPARE_LIMIT.as_secs());
            Err(Failure { reason, message, permanent: false })
        }
    }
}

pub(super) fn now() -> Time {
    // Whole seconds, as Kubernetes writes them.
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}
