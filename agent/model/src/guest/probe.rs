//! Probes of a guest, as a kubelet keeps them of a container: when the next attempt is made and what the attempts so far
//! mean. Pure; refuses to know what an attempt is.
//!
//! ```text
//!             failureThreshold failures in a row
//!   Passing ------------------------------------> Failing
//!           <------------------------------------
//!             successThreshold successes in a row
//! ```

/// Attempts in a row, and seconds, where a probe names none (Kubernetes' defaults).
const PERIOD_S: i64 = 10;
const TIMEOUT_S: i64 = 1;
const SUCCESSES: u32 = 1;
const FAILURES: u32 = 3;

/// When attempts are made and how many count. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSchedule {
    /// From the start of the guest to the first attempt.
    pub initial_delay_ms: i64,
    /// From one attempt to the next.
    pub period_ms: i64,
    /// An attempt that takes longer has failed.
    pub timeout_ms: i64,
    /// Successes in a row that count.
    pub successes: u32,
    /// Failures in a row that count.
    pub failures: u32,
}

/// A probe's numbers as they were written; absent or 0: the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub struct ProbeNumbers {
    pub initial_delay_seconds: Option<i32>,
    pub period_seconds: Option<i32>,
    pub timeout_seconds: Option<i32>,
    pub success_threshold: Option<i32>,
    pub failure_threshold: Option<i32>,
}

impl ProbeSchedule {
    /// Reads a probe's numbers.
    #[must_use]
    pub fn of(numbers: ProbeNumbers) -> Self {
        let seconds = |value: Option<i32>, default: i64| {
            1000 * value.map(i64::from).filter(|seconds| *seconds > 0).unwrap_or(default)
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(default)
        };
        Self {
            initial_delay_ms: seconds(numbers.initial_delay_seconds, 0),
            period_ms: seconds(numbers.period_seconds, PERIOD_S),
            timeout_ms: seconds(numbers.timeout_seconds, TIMEOUT_S),
            successes: count(numbers.success_threshold, SUCCESSES),
            failures: count(numbers.failure_threshold, FAILURES),
        }
    }
}

/// What the attempts so far mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "see the picture of the module")]
pub enum Verdict {
    Passing,
    Failing,
}

/// The attempts so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeState {
    /// What they mean.
    pub verdict: Verdict,
    /// When the next one is due, in milliseconds since 1970.
    pub next_ms: i64,
    /// Attempts in a row with the same outcome, and that outcome.
    row: u32,
    row_passed: bool,
}

impl ProbeState {
    /// Before the first attempt. A guest is not ready before its probe said so, and lives until its probe denies it, so that
    /// `verdict` is Failing for readiness and Passing for liveness.
    #[must_use]
    pub fn new(schedule: &ProbeSchedule, verdict: Verdict, started_ms: i64) -> Self {
        Self { verdict, next_ms: started_ms.saturating_add(schedule.initial_delay_ms), row: 0, row_passed: false }
    }

    /// After an attempt that was begun at `began_ms` and was over at `ended_ms`.
    #[must_use]
    pub fn after(self, schedule: &ProbeSchedule, passed: bool, began_ms: i64, ended_ms: i64) -> Self {
        let row = if self.row_passed == passed { self.row.saturating_add(1) } else { 1 };
        let needed = if passed { schedule.successes } else { schedule.failures };
        let says = if passed { Verdict::Passing } else { Verdict::Failing };
        Self {
            verdict: if row >= needed { says } else { self.verdict },
            next_ms: began_ms.saturating_add(schedule.period_ms).max(ended_ms),
            row,
            row_passed: passed,
        }
    }

    /// After an attempt that could not be made, such as of a guest that is paused: nothing is known, and it is tried in a
    /// period.
    #[must_use]
    pub fn skipped(self, schedule: &ProbeSchedule, now_ms: i64) -> Self {
        Self { next_ms: now_ms.saturating_add(schedule.period_ms), row: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(successes: i32, failures: i32) -> ProbeSchedule {
        ProbeSchedule::of(ProbeNumbers {
            initial_delay_seconds: Some(5),
            success_threshold: Some(successes),
            failure_threshold: Some(failures),
            ..ProbeNumbers::default()
        })
    }

    /// The verdicts after each attempt (`+` passed, `-` failed, `.` skipped), as `P` and `F`.
    fn verdicts(schedule: &ProbeSchedule, begin: Verdict, attempts: &str) -> String {
        let mut state = ProbeState::new(schedule, begin, 0);
        let mut seen = String::new();
        for attempt in attempts.chars() {
            let now = state.next_ms;
            state = match attempt {
                '.' => state.skipped(schedule, now),
                outcome => state.after(schedule, outcome == '+', now, now),
            };
            seen.push(if state.verdict == Verdict::Passing { 'P' } else { 'F' });
        }
        seen
    }

    #[test]
    fn thresholds_count_in_a_row() {
        assert_eq!(verdicts(&schedule(1, 3), Verdict::Failing, "+--+---+"), "PPPPPPFP");
        assert_eq!(verdicts(&schedule(2, 1), Verdict::Failing, "+-++-"), "FFFPF");
        assert_eq!(verdicts(&schedule(1, 3), Verdict::Passing, "---"), "PPF");
    }

    #[test]
    fn what_could_not_be_asked_counts_for_nothing_and_breaks_the_row() {
        assert_eq!(verdicts(&schedule(1, 2), Verdict::Passing, "-.-."), "PPPP");
        assert_eq!(verdicts(&schedule(1, 2), Verdict::Passing, "-.--"), "PPPF");
    }

    #[test]
    fn attempts_keep_their_period_and_never_overlap() {
        let schedule = schedule(1, 3);
        let first = ProbeState::new(&schedule, Verdict::Failing, 1_000);
        assert_eq!(first.next_ms, 6_000);
        assert_eq!(first.after(&schedule, true, 6_000, 6_400).next_ms, 16_000);
        assert_eq!(first.after(&schedule, false, 6_000, 20_000).next_ms, 20_000);
    }

    #[test]
    fn numbers_that_are_absent_or_zero_are_kubernetes_defaults() {
        let default = ProbeSchedule::of(ProbeNumbers::default());
        let zero = ProbeNumbers {
            initial_delay_seconds: Some(0),
            period_seconds: Some(0),
            timeout_seconds: Some(0),
            success_threshold: Some(0),
            failure_threshold: Some(0),
        };
        assert_eq!(ProbeSchedule::of(zero), default);
        let expected =
            ProbeSchedule { initial_delay_ms: 0, period_ms: 10_000, timeout_ms: 1_000, successes: 1, failures: 3 };
        assert_eq!(default, expected);
    }
}
