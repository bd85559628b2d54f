//! The owner of one guest: a task that wakes on change, makes a pass and sleeps again. Owns the guest's memory between
//! passes (artefacts, when it was asked to stop, back-off) and the order of a pass. Refuses to do two things of one
//! guest at the same time, except preparing a start.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_host::libvirt::{DomainRecord, DomainState};
use furrow_model::guest::{Intent, Next, PlanError, Step, Wanted, plan};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::convert::{ConvertError, GuestRequest};
use super::credentials::Handed;
use super::dispatch::Snapshot;
use super::execute::{Failure, Pass, Prepared};
use super::inside::Heard;
use super::observe::{Place, Subject, observed};
use super::plug;
use super::probes::Probes;
use super::shares;
use super::{Context, Key, now_ms};

/// A pass without a cause, in case one was lost.
const RESYNC: Duration = Duration::from_secs(300);
/// Passes in a row that ask for the next at once. More means that the plan does not converge.
const MAX_PASSES: u32 = 16;
const RETRY_FLOOR: Duration = Duration::from_secs(1);
const RETRY_CEILING: Duration = Duration::from_secs(60);

/// What is on the node for a guest besides its domain.
#[derive(Debug, Clone, Default)]
pub(super) struct Artefacts {
    /// Tap -> UID it was made for.
    pub(super) ports: BTreeMap<String, String>,
    /// UIDs with a directory.
    pub(super) files: BTreeSet<String>,
    /// UIDs with the state of a TPM.
    pub(super) states: BTreeSet<String>,
}

/// What an owner remembers between passes.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What is on the node.
    pub(super) artefacts: Artefacts,
    /// The ports of the running domain have been ensured by this agent.
    pub(super) ports_ensured: bool,
    /// When the guest was last asked to shut down.
    pub(super) asked_ms: Option<i64>,
    /// The VMI as last written.
    pub(super) latest: Option<Arc<VirtualMachineInstance>>,
    /// What the guest's own agent said last.
    pub(super) heard: Option<Heard>,
    /// The credentials that the guest's own agent was handed.
    pub(super) handed: Handed,
    /// The probes of the running guest.
    pub(super) probes: Option<Probes>,
    /// Changes of the running guest's TPM are written.
    pub(super) tpm: Option<DropGuard>,
    /// The running guest is told of the node's metrics.
    pub(super) host_metrics: Option<DropGuard>,
    /// The running guest's disk of metrics is written.
    pub(super) metrics_disk: Option<DropGuard>,
    /// How far what it mounts by virtiofs follows its objects.
    pub(super) shares: shares::Kept,
    /// What the start that is under way works from.
    pub(super) prepared: Option<Prepared>,
    /// The last failure that was reported, so that it is reported once.
    pub(super) reported: Option<String>,
    /// When the wish to stop was first seen, with the UID it was about.
    stop_since: Option<(String, i64)>,
    /// When the guest's liveness probe failed it, with the UID it was about.
    unhealthy_since: Option<(String, i64)>,
    /// The pause after the last failure; doubled by the next.
    retry: Option<Duration>,
    /// The last pass failed.
    pausing: bool,
}

/// Runs until nothing is left of the guest, or the agent stops. Returns its key.
pub(super) async fn run(
    context: Arc<Context>,
    key: Key,
    mut snapshots: watch::Receiver<Snapshot>,
    artefacts: Artefacts,
) -> Key {
    let mut owner = Owner::new(context, key, artefacts);
    while let Some(wake) = {
        let snapshot = snapshots.borrow_and_update().clone();
        owner.passes(&snapshot).await.map(|wake| (snapshot, wake))
    } {
        if !owner.sleep(&mut snapshots, wake).await {
            break;
        }
    }
    owner.key
}

/// The owner itself, apart from its task.
pub(super) struct Owner {
    context: Arc<Context>,
    key: Key,
    known: Known,
}

impl Owner {
    /// An owner of a guest of which these artefacts are on the node.
    pub(super) fn new(context: Arc<Context>, key: Key, artefacts: Artefacts) -> Self {
        Self { context, key, known: Known { artefacts, ..Known::default() } }
    }

    /// Has a domain write to an image.
    #[cfg(test)]
    pub(super) fn take_image(&self, domain: &str, image: &str) {
        self.context.images.take(domain, &[image.to_owned()]).expect("nobody has it");
    }

    /// Has a domain run on processors of its own.
    #[cfg(test)]
    pub(super) fn hold_cpus(&self, domain: &str, list: &str) {
        self.context.cpus.hold(domain, list.parse().expect("a list of processors"));
    }

    /// Has it let go of them.
    #[cfg(test)]
    pub(super) fn release_cpus(&self, domain: &str) {
        self.context.cpus.release(domain);
    }

    /// Replaces what is known to be on the node.
    #[cfg(test)]
    pub(super) fn found(&mut self, artefacts: Artefacts) {
        self.known.artefacts = artefacts;
    }

    /// Waits for a reason to make a pass: any change, or after a failure its pause or a change of what is wanted. False:
    /// the agent stops.
    async fn sleep(&self, snapshots: &mut watch::Receiver<Snapshot>, (seen, wake): (Snapshot, Duration)) -> bool {
        let until = Instant::now() + wake;
        let mut health = self.known.probes.as_ref().map(|probes| probes.health.clone());
        loop {
            let healthier = async {
                match &mut health {
                    Some(health) => health.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            // Safe to cancel: a change stays marked in the channel until it is borrowed, a missed timer is recomputed.
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return false,
                () = tokio::time::sleep_until(until) => return true,
                changed = snapshots.changed() => if changed.is_err() { return false },
                // As of a snapshot: what was not read is still there.
                told = healthier => if !told { health = None },
            }
            if !self.known.pausing || snapshots.borrow_and_update().differs_in_wish(&seen) {
                return true;
            }
        }
    }

    /// Makes passes until one has nothing left to do at once. `None`: nothing is left of the guest.
    pub(super) async fn passes(&mut self, snapshot: &Snapshot) -> Option<Duration> {
        for _ in 0..MAX_PASSES {
            if self.context.stop.is_cancelled() {
                return None;
            }
            // Boxed, as below: the states of a pass are large, and this future is part of a task.
            let result = Box::pin(self.pass(snapshot)).await;
            self.known.pausing = result.is_err();
            match result {
                Ok(Next::Now) => {}
                Ok(Next::At(at_ms)) => {
                    self.known.retry = None;
                    return Some(Duration::from_millis(u64::try_from(at_ms - now_ms()).unwrap_or(0)));
                }
                Ok(Next::OnChange) => {
                    self.known.retry = None;
                    return (!self.is_over(snapshot)).then_some(RESYNC);
                }
                Err(failure) => return Some(self.back_off(&failure)),
            }
        }
        tracing::error!(guest = %self.key, "a guest's plan does not converge, waiting before the next pass");
        Some(RETRY_CEILING)
    }

    /// observe -> validate -> plan -> execute -> report.
    async fn pass(&mut self, snapshot: &Snapshot) -> Result<Next, Failure> {
        let context = Arc::clone(&self.context);
        let observed_at = Instant::now();
        let place = Place { client: &context.client, node: &context.facts.node };
        let subject = Subject::observe(&place, &self.key, snapshot, self.known.latest.as_ref()).await?;
        self.remember(&subject);
        let domain = context.domains.observe(&self.key.domain_name()).await?;
        let mut wanted = subject.wanted(&context.facts.node, self.stop_since(&subject));
        self.end_unhealthy(&subject, &mut wanted);
        let request = self.validate(&subject, &mut wanted).await?;
        if request.is_some() {
            self.give_back_images(domain.as_ref(), &wanted);
        }
        let mut observed = observed(domain.as_ref(), &self.known);
        observed.foreign_images = context.images.others(&self.key.domain_name(), &wanted.images);
        self.known.forget_ended(domain.as_ref());

        let plan = match plan(&wanted, &observed, now_ms()) {
            Ok(plan) => plan,
            Err(error) => return Err(self.report_refusal(&subject, &error).await),
        };
        let pass =
            Pass { context: &context, key: &self.key, subject: &subject, request: request.as_ref(), observed_at };
        let mut steps = plan.steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            let plugs = matches!(steps.peek(), Some(Step::PlugIn { .. } | Step::PlugOut { .. }));
            match Box::pin(pass.execute(&mut self.known, step, domain.as_ref())).await {
                Ok(ControlFlow::Continue(())) => {}
                // A time to look again is not waited for while disks are to be plugged; the pass after it says it anew.
                Ok(ControlFlow::Break(_)) if plugs => {}
                Ok(ControlFlow::Break(when)) => return Ok(when),
                Err(failure) => {
                    pass.report_failure(&mut self.known, &failure).await;
                    return Err(failure);
                }
            }
        }
        Ok(plan.next)
    }

    /// Joins VMI and reservation. Only a guest that should run needs them to fit; one that ends, ends anyway.
    async fn validate(&mut self, subject: &Subject, wanted: &mut Wanted) -> Result<Option<GuestRequest>, Failure> {
        let reservation = subject.pod.as_ref().map(|pod| pod.reservation.as_ref().err());
        let refused = match (subject.request(), reservation.flatten()) {
            (Some(Ok(request)), _) => {
                wanted.images = request.exclusive_images();
                wanted.volumes = request.volumes().count();
                wanted.vcpus = plug::vcpus(&request.vmi);
                wanted.memory = subject.pod.as_ref().and_then(|pod| plug::memory(&request.vmi, pod));
                wanted.disks = Some(request.wanted_disks());
                wanted.taps = request.ports.iter().map(|port| port.tap().as_str().to_owned()).collect();
                return Ok(Some(request));
            }
            (Some(Err(error)), _) => Failure::from(&error),
            (None, Some(message)) => Failure::permanent("ReservationInvalid", message.clone()),
            (None, None) => return Ok(None),
        };
        if wanted.intent != Intent::Run {
            return Ok(None);
        }
        let context = Arc::clone(&self.context);
        let pass = Pass { context: &context, key: &self.key, subject, request: None, observed_at: Instant::now() };
        pass.report_failure(&mut self.known, &refused).await;
        Err(refused)
    }

    async fn report_refusal(&mut self, subject: &Subject, error: &PlanError) -> Failure {
        let reason = match error {
            PlanError::ForeignDomain => "ForeignDomain",
            PlanError::ImageInUse { .. } => "ImageInUse",
        };
        let failure = Failure { reason, message: error.to_string(), permanent: false };
        let context = Arc::clone(&self.context);
        let pass = Pass { context: &context, key: &self.key, subject, request: None, observed_at: Instant::now() };
        pass.report_failure(&mut self.known, &failure).await;
        failure
    }

    /// An image whose disk was plugged out is free for others once the domain has it no more. `wanted`: with the images of
    /// the whole spec.
    fn give_back_images(&self, domain: Option<&DomainRecord>, wanted: &Wanted) {
        if let Some(domain) = domain.filter(|domain| !matches!(domain.state, DomainState::Off(_))) {
            let held = |image: &String| domain.images.contains(image) || wanted.images.contains(image);
            self.context.images.keep(&self.key.domain_name(), held);
        }
    }

    fn remember(&mut self, subject: &Subject) {
        self.known.latest.clone_from(&subject.vmi);
        // A directory made by an agent before this one belongs to the guest all the same.
        if let Some(uid) = subject.uid().filter(|uid| self.context.facts.has_files(uid)) {
            self.known.artefacts.files.insert(uid);
        }
        if let Some(uid) = subject.uid().filter(|uid| self.context.tpm.has(uid)) {
            self.known.artefacts.states.insert(uid);
        }
    }

    fn stop_since(&mut self, subject: &Subject) -> i64 {
        let uid = subject.uid().unwrap_or_default();
        if let Some(deleted_ms) = subject.deletion_ms() {
            return deleted_ms;
        }
        if !subject.pod.as_ref().is_none_or(|pod| pod.ending) {
            self.known.stop_since = None;
            return now_ms();
        }
        let (_, since_ms) =
            self.known.stop_since.take().filter(|(of, _)| *of == uid).unwrap_or((String::new(), now_ms()));
        self.known.stop_since = Some((uid, since_ms));
        since_ms
    }

    /// A guest that failed its liveness probe is not wanted any more, whatever it says afterwards.
    fn end_unhealthy(&mut self, subject: &Subject, wanted: &mut Wanted) {
        let uid = subject.uid().unwrap_or_default();
        let failed = self.known.probes.as_mut().is_some_and(|probes| !probes.health.borrow_and_update().alive);
        let known = self.known.unhealthy_since.take().filter(|(of, _)| *of == uid);
        self.known.unhealthy_since = known.or_else(|| failed.then(|| (uid, now_ms())));
        if let Some((_, since_ms)) = &self.known.unhealthy_since
            && wanted.intent == Intent::Run
        {
            wanted.intent = Intent::Restart { deadline_ms: since_ms + subject.grace_ms() };
        }
    }

    fn is_over(&self, snapshot: &Snapshot) -> bool {
        let artefacts = &self.known.artefacts;
        let nothing = artefacts.ports.is_empty() && artefacts.files.is_empty() && artefacts.states.is_empty();
        snapshot.pods.is_empty() && snapshot.vmi.is_none() && nothing
    }

    fn back_off(&mut self, failure: &Failure) -> Duration {
        if failure.permanent {
            self.known.retry = None;
            return RESYNC;
        }
        let delay = self.known.retry.map_or(RETRY_FLOOR, |last| (last * 2).min(RETRY_CEILING));
        self.known.retry = Some(delay);
        delay
    }
}

impl Known {
    /// What belongs to a run of the guest that is over.
    fn forget_ended(&mut self, domain: Option<&DomainRecord>) {
        let active = domain.is_some_and(|domain| !matches!(domain.state, DomainState::Off(_)));
        if !active {
            self.ports_ensured = false;
            self.asked_ms = None;
            self.heard = None;
            self.handed = Handed::default();
            self.probes = None;
            self.host_metrics = None;
            self.metrics_disk = None;
            self.shares = shares::Kept::default();
            self.tpm = None;
        }
    }
}

impl From<&ConvertError> for Failure {
    fn from(error: &ConvertError) -> Self {
        let message = furrow_model::reasons::chain(error);
        // A Secret or a reservation may still change; a spec does not.
        let permanent = match error {
            ConvertError::Seed(seed) => seed.is_permanent(),
            _ => true,
        };
        Self { reason: error.reason(), message, permanent }
    }
}
