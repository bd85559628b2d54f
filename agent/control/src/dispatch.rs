//! The work queue of a controller: keys that are marked dirty, each worked on by one task at a time, a few at once,
//! again after a while if that was asked for or the last pass failed. Refuses to know what a key stands for.
//!
//! One task owns the queue. A key is in it at most once, so that it is bounded by the number of objects.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::calls::CallError;

/// Keys on their way to a queue. Whoever marks waits when it is full; the queue takes them within microseconds.
pub(crate) const MARKS: usize = 1024;

/// First wait after a failure; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// No wait after a failure is longer.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Every object is looked at this often though nothing changed: what no event told is found in the end.
const RESYNC: Duration = Duration::from_secs(300);

/// Name of an object; the namespace is empty for cluster-wide kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    /// Of an object in a namespace.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What follows a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another pass when something changes.
    OnChange,
    /// Another pass after this time at the latest.
    After(Duration),
}

/// What follows a pass that failed; every error of a controller says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The object changed under the pass: another at once, with what is there now.
    Stale,
    /// It may pass: another after a wait that doubles.
    Retry,
    /// Nothing helps but a change: another on it, or at the resync.
    OnChange,
}

impl Disposition {
    /// What follows a pass whose call to the API server did not succeed.
    pub(crate) fn of_call(error: &CallError) -> Self {
        if error.is_conflict() || error.is_gone() { Self::Stale } else { Self::Retry }
    }
}

/// A controller.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// Why a pass failed.
    type Error: std::error::Error + Send + 'static;

    /// For logs.
    const NAME: &'static str;

    /// All keys there are.
    fn keys(&self) -> Vec<Key>;

    /// One pass over one object: observe, validate, plan, execute, report.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Next, Self::Error>> + Send;

    /// What follows an error.
    fn disposition(error: &Self::Error) -> Disposition;
}

/// Dirty keys and those at work.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    /// Marked while at work: to be done again.
    again: HashSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    fn mark(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        // The pass that begins now sees whatever the later one was to look at.
        if let Some(at) = self.due.remove(&key) {
            self.later.remove(&(at, key.clone()));
        }
        self.running.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: Key, after: Option<Duration>, now: Instant) {
        self.running.remove(&key);
        if self.again.remove(&key) {
            self.mark(key);
        } else if let Some(after) = after {
            let at = now + after;
            self.due.insert(key.clone(), at);
            self.later.insert((at, key));
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, key)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            self.later.pop_first();
            self.due.remove(&key);
            self.mark(key);
        }
    }

    fn failed(&mut self, key: &Key) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        RETRY_FIRST.saturating_mul(1 << (*failures - 1).min(16)).min(RETRY_MAX)
    }
}

/// Works on keys until told to stop, then ends the passes under way. `concurrency`: how many at once.
pub(crate) async fn run<R: Reconcile>(
    reconciler: Arc<R>,
    mut marks: mpsc::Receiver<Key>,
    concurrency: usize,
    stop: CancellationToken,
) {
    let mut queue = Queue::default();
    let mut tasks: JoinSet<(Key, Result<Next, R::Error>)> = JoinSet::new();
    let mut resync = tokio::time::interval(RESYNC);
    loop {
        queue.wake(Instant::now());
        while tasks.len() < concurrency {
            let Some(key) = queue.take() else { break };
            let reconciler = Arc::clone(&reconciler);
            tasks.spawn(async move {
                let result = reconciler.reconcile(&key).await;
                (key, result)
            });
        }
        let next = queue.later.first().map_or_else(|| Instant::now() + RESYNC, |(at, _)| *at);
        tokio::select! {
            // Being told twice is the same as once.
            () = stop.cancelled() => break,
            // A receive that is cancelled takes nothing from the channel.
            mark = marks.recv() => match mark {
                Some(key) => queue.mark(key),
                None => break,
            },
            // A finished task stays in the set until it is taken.
            Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                Ok((key, result)) => settle::<R>(&mut queue, key, result),
                // The process ends, as when it has lost its lease.
                Err(error) if error.is_cancelled() => return,
                // A pass that panicked is a defect in an unknown state: the process ends and starts afresh.
                Err(error) => {
                    tracing::error!(controller = R::NAME, %error, "a pass panicked");
                    std::process::exit(101);
                }
            },
            // Waiting has no effect of its own.
            () = tokio::time::sleep_until(next) => {}
            // A tick that is cancelled comes again.
            _ = resync.tick() => reconciler.keys().into_iter().for_each(|key| queue.mark(key)),
        }
    }
    // Each call in a pass has its own deadline.
    while tasks.join_next().await.is_some() {}
}

fn settle<R: Reconcile>(queue: &mut Queue, key: Key, result: Result<Next, R::Error>) {
    let after = match &result {
        Ok(next) => {
            queue.failures.remove(&key);
            match next {
                Next::OnChange => None,
                Next::After(after) => Some(*after),
            }
        }
        Err(error) => {
            let wait = queue.failed(&key);
            let message = furrow_model::reasons::chain(error);
            match R::disposition(error) {
                Disposition::Stale => {
                    tracing::debug!(controller = R::NAME, object = %key, error = message, "object changed during a pass");
                    // The cache may be a moment behind the answer that said so.
                    Some(wait.min(RETRY_FIRST))
                }
                Disposition::Retry => {
                    tracing::warn!(controller = R::NAME, object = %key, error = message, "pass failed, trying again");
                    Some(wait)
                }
                Disposition::OnChange => {
                    tracing::info!(controller = R::NAME, object = %key, error = message, "pass waits for a change");
                    None
                }
            }
        }
    };
    queue.finish(key, after, Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[test]
    fn a_key_is_queued_once_and_never_worked_on_twice_at_a_time() {
        let mut queue = Queue::default();
        queue.mark(key("a"));
        queue.mark(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        queue.mark(key("a"));
        assert_eq!(queue.take(), None);
        queue.finish(key("a"), None, Instant::now());
        assert_eq!(queue.take(), Some(key("a")));
        queue.finish(key("a"), None, Instant::now());
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn a_later_pass_is_dropped_by_an_earlier_one() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(key("a"));
        let taken = queue.take().unwrap();
        queue.finish(taken, Some(Duration::from_secs(5)), now);
        queue.wake(now);
        assert_eq!(queue.take(), None);
        queue.mark(key("a"));
        let taken = queue.take().unwrap();
        queue.finish(taken, None, now);
        queue.wake(now + Duration::from_secs(6));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let mut queue = Queue::default();
        let waits: Vec<_> = (0..12).map(|_| queue.failed(&key("a")).as_millis()).collect();
        assert_eq!(waits[..3], [100, 200, 400]);
        assert_eq!(waits[11], 60_000);
    }
}
