//! When a reconciler looks again without being told: soon and ever later after failures, rarely after success.
//! Refuses to sleep in the middle of a pass: it is one arm of the loop's `select!`.

use std::time::Duration;

use tokio::time::Instant;

/// First wait after a failure; doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// Longest wait after failures: what an operator repairs by hand is picked up within it.
const CEILING: Duration = Duration::from_secs(60);

/// The deadline of a loop.
#[derive(Debug)]
pub(super) struct Retry {
    resync: Duration,
    failures: u32,
    at: Instant,
}

impl Retry {
    /// Due after `resync` unless a pass says otherwise.
    pub(super) fn new(resync: Duration) -> Self {
        Self { resync, failures: 0, at: Instant::now() + resync }
    }

    /// The last pass did everything.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.at = Instant::now() + self.resync;
    }

    /// The last pass left something undone.
    pub(super) fn failed(&mut self) {
        let doublings = self.failures.min(6);
        self.failures += 1;
        self.at = Instant::now() + FIRST.saturating_mul(1 << doublings).min(CEILING);
    }

    /// Waits for the deadline and moves it on. Safe to drop before: the deadline stays.
    pub(super) async fn due(&mut self) {
        tokio::time::sleep_until(self.at).await;
        self.at = Instant::now() + self.resync.min(CEILING);
    }
}
