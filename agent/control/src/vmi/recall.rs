//! What the controller of guests remembers of each between passes: the version that it wrote last, since when the guest
//! waits for claims of its own, and when its pod was made. Owns the answer to "is the cache behind us?". Refuses to be
//! relied on: all of it may be lost, which costs a write that is refused, or a wait that is said later.
//!
//! Bounded by the number of guests: a guest that is gone is forgotten in the pass that finds it gone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use furrow_api::VirtualMachineInstance;
use kube::ResourceExt;

use crate::cluster::key_of;
use crate::dispatch::Key;

/// Claims of a guest's own are bound within a second or two, and within this when a hundred are made in one go; a wait that
/// is longer is worth a write. What goes wrong with a claim is in its own events from the beginning.
const QUIET: Duration = Duration::from_secs(30);

/// A node is found for a pod within this, and the guest's status is that node's from then on: phase Scheduling is worth a write
/// only where it takes longer.
const BINDS: Duration = Duration::from_secs(2);

/// A watch is never so far behind that still works. After a backup of etcd was restored, versions count from an earlier
/// number again, and what was written before would otherwise keep a guest waiting for ever.
const TRUSTED: Duration = Duration::from_secs(60);

/// What is remembered of all guests.
#[derive(Debug, Default)]
pub(super) struct Recall {
    guests: Mutex<HashMap<Key, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// resourceVersion that was written last, and when.
    written: Option<(u64, Instant)>,
    waits_since: Option<Instant>,
    /// When its pod was made.
    reserved: Option<Instant>,
}

impl Recall {
    fn guests(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // An entry is changed in one assignment: one who panicked meanwhile left nothing half done.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest is as the API server answered to a write.
    pub(super) fn wrote(&self, vmi: &VirtualMachineInstance, now: Instant) {
        if let Some(version) = version(vmi) {
            self.guests().entry(key_of(vmi)).or_default().written = Some((version, now));
        }
    }

    /// Whether this state of a guest is older than what was written. A write computed from it would be refused. Versions
    /// are comparable as numbers, across objects too (Kubernetes enhancement 5504); one that is no number says nothing.
    pub(super) fn is_behind(&self, vmi: &VirtualMachineInstance, now: Instant) -> bool {
        let guests = self.guests();
        let written = guests.get(&key_of(vmi)).and_then(|entry| entry.written);
        let fresh = written.filter(|(_, at)| now.saturating_duration_since(*at) < TRUSTED);
        fresh.zip(version(vmi)).is_some_and(|((written, _), seen)| seen < written)
    }

    /// The guest waits for claims of its own: how much longer nothing need be said of it; `None` when it is time to.
    pub(super) fn waits(&self, key: &Key, now: Instant) -> Option<Duration> {
        let since = *self.guests().entry(key.clone()).or_default().waits_since.get_or_insert(now);
        QUIET.checked_sub(now.saturating_duration_since(since)).filter(|rest| !rest.is_zero())
    }

    /// The guest does not wait any more.
    pub(super) fn goes_on(&self, key: &Key) {
        if let Some(entry) = self.guests().get_mut(key) {
            entry.waits_since = None;
        }
    }

    /// The guest's pod was made just now.
    pub(super) fn reserved(&self, key: &Key, now: Instant) {
        self.guests().entry(key.clone()).or_default().reserved = Some(now);
    }

    /// A node is being found for the guest's pod: how much longer nothing need be said, or made again where the cache does
    /// not know the pod yet; `None` when it is time to.
    pub(super) fn binds(&self, key: &Key, now: Instant) -> Option<Duration> {
        let reserved = self.guests().get(key)?.reserved?;
        BINDS.checked_sub(now.saturating_duration_since(reserved)).filter(|rest| !rest.is_zero())
    }

    /// The guest is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.guests().remove(key);
    }
}

fn version(vmi: &VirtualMachineInstance) -> Option<u64> {
    vmi.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: &str) -> VirtualMachineInstance {
        let object = serde_json::json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": version},
            "spec": {"domain": {"devices": {}}}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_cache_that_has_not_seen_our_write_is_behind() {
        let (recall, now) = (Recall::default(), Instant::now());
        assert!(!recall.is_behind(&at("99"), now), "nothing was written");
        recall.wrote(&at("100"), now);
        // Compared as text, 99 would be the newer.
        assert!(recall.is_behind(&at("99"), now));
        assert!(!recall.is_behind(&at("100"), now));
        assert!(!recall.is_behind(&at("101"), now));
        assert!(!recall.is_behind(&at("x"), now), "no number says nothing");
    }

    #[test]
    fn a_write_is_not_waited_for_for_ever_nor_beyond_its_guest() {
        let (recall, now) = (Recall::default(), Instant::now());
        recall.wrote(&at("100"), now);
        assert!(recall.is_behind(&at("99"), now + TRUSTED / 2));
        assert!(!recall.is_behind(&at("99"), now + TRUSTED));
        recall.wrote(&at("100"), now);
        recall.forget(&Key::new("shop", "web"));
        assert!(!recall.is_behind(&at("99"), now));
        assert!(recall.guests().is_empty());
    }

    #[test]
    fn a_pod_is_given_a_moment_to_be_bound() {
        let (recall, now, key) = (Recall::default(), Instant::now(), Key::new("shop", "web"));
        assert_eq!(recall.binds(&key, now), None, "of a pod that another process made nothing is known");
        recall.reserved(&key, now);
        assert_eq!(recall.binds(&key, now), Some(BINDS));
        assert_eq!(recall.binds(&key, now + BINDS), None);
        recall.reserved(&key, now + BINDS);
        assert_eq!(recall.binds(&key, now + BINDS), Some(BINDS), "it was made again");
    }

    #[test]
    fn a_wait_is_said_when_it_has_taken_its_time() {
        let (recall, now, key) = (Recall::default(), Instant::now(), Key::new("shop", "web"));
        assert_eq!(recall.waits(&key, now), Some(QUIET));
        let second = Duration::from_secs(1);
        assert_eq!(recall.waits(&key, now + second), Some(QUIET - second));
        assert_eq!(recall.waits(&key, now + QUIET), None);
        assert_eq!(recall.waits(&key, now + QUIET + second), None);
        recall.goes_on(&key);
        assert_eq!(recall.waits(&key, now + QUIET * 2), Some(QUIET));
    }
}
