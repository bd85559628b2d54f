//! Which of several control processes acts: the one that holds the Lease `furrow-system/furrow-control`.
//!
//! The holder renews it; whoever has seen it unrenewed for its duration takes it, on condition of the version it saw.
//! Clocks of different machines are never compared: an observer measures by its own how long a version has not changed.
//! A holder that could not renew for [`GIVE_UP`] ends the process, which is before anybody may take over, so that two
//! never act at once. A process that was killed is found again by its own node at once: a lock on a local file proves
//! that no other process of this node holds the Lease under the same name.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use furrow_api::names;

use crate::calls::{self, CallError};

/// Name of the Lease.
const LEASE: &str = "furrow-control";

/// Unrenewed for this long, it may be taken. On a busy host the API server may need seconds for an answer, and a holder that
/// gives up starts anew and makes it busier.
const DURATION: Duration = Duration::from_secs(20);

/// It is renewed this often.
const RENEW: Duration = Duration::from_secs(3);

/// A holder that could not renew it for this long stops. Shorter than [`DURATION`] by more than a call that was under
/// way can still take.
const GIVE_UP: Duration = Duration::from_secs(12);

/// A renewal that takes longer has failed.
const CALL: Duration = Duration::from_secs(5);

/// The Lease, held.
#[derive(Debug)]
pub(crate) struct Leadership {
    api: Api<Lease>,
    lease: Lease,
    identity: String,
    renewed: Instant,
    /// Held as long as this process lives.
    _lock: File,
}

/// Waits until this process holds the Lease.
///
/// # Errors
/// When the local lock is held by another process, or the Lease cannot be reached for reasons that waiting does not
/// cure.
pub(crate) async fn acquire(client: Client, identity: &str, lock: &Path) -> anyhow::Result<Leadership> {
    let file = File::create(lock).with_context(|| format!("could not create {}", lock.display()))?;
    if file.try_lock().is_err() {
        bail!("could not lock {}: another furrow-control runs on this node", lock.display());
    }
    let api: Api<Lease> = Api::namespaced(client, names::SYSTEM_NAMESPACE);
    let mut seen: Option<(String, Instant)> = None;
    loop {
        match attempt(&api, identity, &mut seen).await {
            Ok(Some(lease)) => {
                let epoch = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
                tracing::info!(identity, epoch, "leading");
                let renewed = Instant::now();
                return Ok(Leadership { api, lease, identity: identity.to_owned(), renewed, _lock: file });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = error.message(), "lease could not be read or taken"),
        }
        tokio::time::sleep(RENEW / 2).await;
    }
}

/// One attempt to take the Lease. `seen`: the version seen last, and since when.
async fn attempt(
    api: &Api<Lease>,
    identity: &str,
    seen: &mut Option<(String, Instant)>,
) -> Result<Option<Lease>, CallError> {
    let Some(lease) = calls::get(api, LEASE).await? else {
        return calls::create(api, &taken(Lease::default(), identity)).await;
    };
    let version = lease.resource_version().unwrap_or_default();
    let since = match seen {
        Some((known, since)) if *known == version => *since,
        _ => seen.insert((version, Instant::now())).1,
    };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let expired = since.elapsed() >= duration(&lease);
    if !(holder.is_empty() || holder == identity || expired) {
        return Ok(None);
    }
    match calls::replace(api, &taken(lease, identity)).await {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs)
}

/// The Lease as this process's own, beginning now.
fn taken(lease: Lease, identity: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let before = lease.spec.unwrap_or_default();
    let same = before.holder_identity.as_deref() == Some(identity);
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if same { before.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!same)),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(LEASE.to_owned()),
        namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
        resource_version: lease.metadata.resource_version,
        ..ObjectMeta::default()
    };
    Lease { metadata, spec: Some(spec) }
}

impl Leadership {
    /// Renews until that fails for too long.
    ///
    /// # Errors
    /// Always: when it returns, this process must not act any more.
    pub(crate) async fn keep(&mut self) -> anyhow::Result<std::convert::Infallible> {
        loop {
            tokio::time::sleep(RENEW).await;
            let begun = Instant::now();
            let renewed = taken(self.lease.clone(), &self.identity);
            let error = match tokio::time::timeout(CALL, calls::replace(&self.api, &renewed)).await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.renewed = begun;
                    continue;
                }
                Ok(Err(error)) if error.is_conflict() => {
                    self.check_holder().await?;
                    error.message()
                }
                Ok(Err(error)) => error.message(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(error, "lease could not be renewed");
            if self.renewed.elapsed() >= GIVE_UP {
                bail!("could not renew the lease for {} s", self.renewed.elapsed().as_secs());
            }
        }
    }

    /// After a conflict: a renewal whose answer was lost changed the version, or somebody took the Lease.
    async fn check_holder(&mut self) -> anyhow::Result<()> {
        let read = tokio::time::timeout(CALL, calls::get(&self.api, LEASE)).await;
        let Ok(Ok(Some(lease))) = read else { return Ok(()) };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder != self.identity {
            bail!("lost the lease to {holder}");
        }
        self.lease = lease;
        Ok(())
    }

    /// Gives the Lease back, so that the next holder need not wait. To be called when nothing acts any more.
    pub(crate) async fn release(mut self) {
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let release = tokio::time::timeout(CALL, calls::replace(&self.api, &self.lease));
        if !matches!(release.await, Ok(Ok(_))) {
            tracing::warn!("lease could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_counts_and_a_renewal_does_not() {
        let first = taken(Lease::default(), "a");
        let spec = |lease: &Lease| lease.spec.clone().unwrap();
        assert_eq!(spec(&first).lease_transitions, Some(1));
        let renewed = taken(first.clone(), "a");
        assert_eq!(spec(&renewed).lease_transitions, Some(1));
        assert_eq!(spec(&renewed).acquire_time, spec(&first).acquire_time);
        assert_eq!(spec(&taken(renewed, "b")).lease_transitions, Some(2));
    }

    #[test]
    fn a_holder_stops_before_anybody_may_take_over() {
        assert!(GIVE_UP + RENEW + CALL <= DURATION);
    }
}
