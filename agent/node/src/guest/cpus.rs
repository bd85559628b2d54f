//! Processors that guests have to themselves. Owns waiting for the kubelet's word on a guest's pod, the record of which
//! domain has which, the limit of all other guests, and what the node's labels say of it. What follows from what is
//! `furrow_model::cpus`'s; how the node is read and told is [`Processors`]'.
//!
//! ```text
//!  kubelet ──cpu_manager_state──┐                       ┌──> the new domain's document (dedicated.slice)
//!                               ├─> take: wait, record ─┤
//!  domains that run ──held──────┘                       └──> share: AllowedCPUs of machine.slice, before it starts
//! ```
//!
//! Other guests are kept off by one limit on the slice that they are all in, not by pinning each of their threads: the
//! kernel holds it over restarts of agent, libvirtd and kubelet, it applies to guests that run and to threads that are
//! yet to come, and there is one value to compare. The kubelet's file is read rather than its PodResources API: it has the
//! policy, the shared pool and the pods' UIDs, which that API has not, it is there while the kubelet is not, and the
//! kubelet replaces it in one rename. Refuses to give a processor to a guest while another domain still runs on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use furrow_model::cpus::{CpuNeed, CpuSet, HostTopology, KubeletState, NotAssigned, Share, conflict, share};
use furrow_model::reasons::chain;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ports::HostError;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// For the kubelet to set processors aside: it does when it admits the pod, milliseconds after the binding; on a loaded
    /// node seconds.
    pub(super) assign: Duration,
    /// Between looks at its record meanwhile: it is a page of text.
    pub(super) pause: Duration,
    /// Between looks without a cause: the kubelet's own period, in which it moves pods to the shared pool.
    pub(super) period: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { assign: Duration::from_secs(10), pause: Duration::from_millis(50), period: Duration::from_secs(10) }
    }
}

/// Looks after which the node's labels are written again, in case somebody took them away: five minutes.
const LABEL_EVERY: u32 = 30;

/// The node's processors, in guests' words.
pub(crate) trait Processors: Send + Sync {
    /// The kubelet's record; `None` before it has made one.
    fn record(&self) -> Result<Option<KubeletState>, HostError>;
    /// What there is.
    fn topology(&self) -> Result<HostTopology, HostError>;
    /// Whether processes in real time may have a processor whole.
    fn realtime(&self) -> bool;
    /// Keeps ordinary guests to these. Doing it twice is no error.
    fn confine<'a>(&'a self, share: &'a Share) -> BoxFuture<'a, Result<(), HostError>>;
    /// Tells Kubernetes what the node offers.
    fn label(&self, dedicated: bool, realtime: bool) -> BoxFuture<'_, Result<(), HostError>>;
}

/// Who has which.
pub(super) struct Dedicated {
    processors: Arc<dyn Processors>,
    waits: Waits,
    /// Name of the domain -> its processors. Held for a few map operations, never across a wait.
    held: Mutex<BTreeMap<String, CpuSet>>,
    /// Limits are set one after the other, each by what holds then.
    confining: tokio::sync::Mutex<()>,
    released: Notify,
}

/// What a guest is placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) cpus: CpuSet,
    pub(super) topology: HostTopology,
}

impl Dedicated {
    pub(super) fn new(processors: Arc<dyn Processors>, waits: Waits) -> Self {
        let confining = tokio::sync::Mutex::default();
        Self { processors, waits, held: Mutex::default(), confining, released: Notify::new() }
    }

    /// Records what a domain has that runs already.
    pub(super) fn hold(&self, domain: &str, cpus: CpuSet) {
        self.lock().insert(domain.to_owned(), cpus);
    }

    /// Takes for a domain what the kubelet has set aside for its pod, and keeps all other guests off it.
    ///
    /// # Errors
    /// When the kubelet sets none aside or has not yet, too few, or some that another domain has.
    pub(super) async fn take(&self, domain: &str, pod_uid: &str, need: CpuNeed) -> Result<Taken, HostError> {
        let cpus = self.assigned(pod_uid).await?;
        let topology = self.processors.topology()?;
        if cpus.len() < need.total() as usize {
            let message = format!("the guest needs {} dedicated CPUs and its pod has {cpus}", need.total());
            return Err(HostError { reason: "CpusNotAssigned", message, permanent: true });
        }
        {
            let mut held = self.lock();
            if let Some(other) = conflict(domain, &cpus, &held) {
                return Err(HostError::passing("CpusInUse", &other));
            }
            held.insert(domain.to_owned(), cpus.clone());
        }
        match self.confine().await {
            Ok(()) => Ok(Taken { cpus, topology }),
            Err(error) => {
                self.release(domain);
                Err(error)
            }
        }
    }

    /// Gives back what a domain has, if it has any.
    pub(super) fn release(&self, domain: &str) {
        if self.lock().remove(domain).is_some() {
            self.released.notify_one();
        }
    }

    /// Waits for the kubelet's word.
    async fn assigned(&self, pod_uid: &str) -> Result<CpuSet, HostError> {
        let until = Instant::now() + self.waits.assign;
        loop {
            let record = self.processors.record()?;
            match record.as_ref().map_or(Err(NotAssigned::NotYet), |record| record.assigned(pod_uid)) {
                Ok(cpus) => return Ok(cpus.clone()),
                Err(NotAssigned::NotYet) if Instant::now() < until => tokio::time::sleep(self.waits.pause).await,
                Err(error @ NotAssigned::NotYet) => return Err(HostError::passing("CpusNotAssigned", &error)),
                Err(error) => return Err(HostError::permanent("CpusNotAssigned", &error)),
            }
        }
    }

    /// Keeps ordinary guests to what is left.
    async fn confine(&self) -> Result<(), HostError> {
        let _one_at_a_time = self.confining.lock().await;
        let record = self.processors.record()?;
        let online = self.processors.topology()?.all();
        let share = share(record.as_ref(), &online, &self.lock());
        self.processors.confine(&share).await
    }

    /// What the node offers: processors set aside, and real time.
    fn offers(&self) -> Result<(bool, bool), HostError> {
        let record = self.processors.record()?;
        Ok((record.is_some_and(|record| record.is_static()), self.processors.realtime()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, CpuSet>> {
        // The map is changed whole by each call, so a panic elsewhere has not left it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the kubelet and the guests' ends until told to stop.
pub(super) async fn follow(dedicated: Arc<Dedicated>, stop: CancellationToken) {
    let mut told = None;
    for look in 0_u32.. {
        if let Err(error) = dedicated.confine().await {
            tracing::warn!(error = chain(&error), "guests cannot be kept off CPUs that others have to themselves");
        }
        if look.is_multiple_of(LABEL_EVERY) {
            told = None;
        }
        told = tell(&dedicated, told).await;
        // Safe to cancel: waiting has no effect of its own, and what is released meanwhile is seen by the next look.
        tokio::select! {
            () = stop.cancelled() => return,
            () = dedicated.released.notified() => {}
            () = tokio::time::sleep(dedicated.waits.period) => {}
        }
    }
}

/// Writes the node's labels where they do not say what is so. `told`: what they say.
async fn tell(dedicated: &Dedicated, told: Option<(bool, bool)>) -> Option<(bool, bool)> {
    let offers = match dedicated.offers() {
        Ok(offers) if told != Some(offers) => offers,
        Ok(_) => return told,
        Err(error) => {
            tracing::warn!(error = chain(&error), "what CPUs the node offers cannot be told");
            return told;
        }
    };
    match dedicated.processors.label(offers.0, offers.1).await {
        Ok(()) => Some(offers),
        Err(error) => {
            tracing::warn!(error = chain(&error), "what CPUs the node offers cannot be told");
            None
        }
    }
}
