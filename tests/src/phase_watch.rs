//! Watches the phases of all objects of a kind and notes when each was first seen, on the build host's clock: Kubernetes'
//! own times have a resolution of a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::host;
use crate::watch::Watch;

/// Object and phase to the time at which the phase was first seen.
type Seen = Arc<Mutex<BTreeMap<(String, String), Instant>>>;

/// What is seen while it is kept.
pub(crate) struct PhaseWatch {
    _watch: Watch,
    seen: Seen,
}

impl PhaseWatch {
    /// Starts watching objects of `kind` in all namespaces.
    pub(crate) fn start(cluster: &Cluster, kind: &str) -> Result<PhaseWatch> {
        let seen = Seen::default();
        let into = seen.clone();
        let watch = Watch::start(cluster, kind, ".status.phase", move |name, phase| {
            if let Ok(mut seen) = into.lock() {
                seen.entry((name.to_owned(), phase.to_owned())).or_insert_with(Instant::now);
                // The very first sight of an object is the phase "".
                seen.entry((name.to_owned(), String::new())).or_insert_with(Instant::now);
            }
        })?;
        Ok(PhaseWatch { _watch: watch, seen })
    }

    /// Milliseconds between the first sights of two objects' phases, each given as name and phase; the phase "" is the
    /// first sight of the object, and stands in for a first phase that was passed unseen.
    pub(crate) fn between(&self, from: (&str, &str), to: (&str, &str)) -> Result<f64> {
        host::until(&format!("{} to be seen {}", to.0, to.1), Duration::from_secs(10), || {
            let seen = self.seen.lock().map_err(|_| anyhow::anyhow!("the watch's thread panicked"))?;
            let at = |(name, phase): (&str, &str)| {
                seen.get(&(name.to_owned(), phase.to_owned())).copied().context("not seen")
            };
            let first = at(from).or_else(|_| at((from.0, "")))?;
            Ok(at(to)?.duration_since(first).as_secs_f64() * 1000.0)
        })
    }
}
