//! A VirtualMachine: whether its guest is to be started or stopped, when it may be started again, and the one word that
//! people read. The rules are KubeVirt's (`pkg/virt-controller/watch/vm`), strategy by strategy:
//!
//! | strategy       | no guest                          | guest ended                        | stop request |
//! |----------------|-----------------------------------|------------------------------------|--------------|
//! | Always         | start, after the back-off         | clear away, then start             | stop, start  |
//! | RerunOnFailure | start once, or on request         | clear away; start again if failed  | stop         |
//! | Once           | start once                        | keep it                            | stop         |
//! | Manual         | start on request                  | keep it, clear away to start       | stop         |
//! | Halted         | a start request turns into Always | clear away                         | stop         |
//!
//! A virtual machine that waits as a receiver neither starts nor stops anything. What leaves with a virtual machine that
//! is deleted is `departure`'s, what a change does to a guest that runs is [`plug`], [`memory`] and [`change`]'s.
//!
//! Refuses to know how a guest is made or ended: that is the VirtualMachineInstance's affair.

pub mod change;
mod departure;
pub mod memory;
pub mod plug;
mod printable;
pub mod rename;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transition_tests;

pub use departure::{Departing, Departure, departure};
pub use printable::{GuestFacts, Printable, PrintableFacts, printable};

use crate::vmi::Phase;

/// The first wait after a failed start, in seconds: the ceiling spread over thirty tries, at least ten.
const BACKOFF_UNIT_S: i64 = 10;

/// No wait after a failed start is longer, in seconds.
const BACKOFF_MAX_S: i64 = 300;

/// KubeVirt's run strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above says what they mean")]
pub enum Strategy {
    Always,
    RerunOnFailure,
    Once,
    Manual,
    Halted,
    /// Waits for a migration from another cluster: nothing is started or stopped here.
    WaitAsReceiver,
}

/// An entry of `status.stateChangeRequests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a guest.
    Start {
        /// It does not execute until it is resumed.
        paused: bool,
    },
    /// Stop the guest of this UID, and no later one.
    Stop {
        /// UID of the VirtualMachineInstance.
        uid: String,
    },
}

/// The guest of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// UID of the VirtualMachineInstance.
    pub uid: String,
    /// Its phase.
    pub phase: Phase,
    /// It is being deleted.
    pub deleting: bool,
    /// It was in phase Running once.
    pub ran: bool,
}

/// Starts that failed in a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartFailure {
    /// How many.
    pub count: i32,
    /// UID of the last guest that failed.
    pub last_uid: Option<String>,
    /// No start before, in milliseconds since 1970.
    pub retry_at_ms: i64,
}

/// What is known of a virtual machine that is not being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What the spec says.
    pub strategy: Strategy,
    /// The strategy under which the last decision was carried out; `None` for a new virtual machine.
    pub last_strategy: Option<Strategy>,
    /// Its guest.
    pub guest: Option<Guest>,
    /// Requests not yet carried out.
    pub requests: Vec<Request>,
    /// All its DataVolumes are filled.
    pub volumes_ready: bool,
    /// Starts that failed.
    pub failure: Option<StartFailure>,
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
    /// A random number, 0 to 1000, that spreads retries.
    pub jitter_permille: i64,
}

/// What to do with the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Make a guest. Only then write the rest of the decision: a start request that was taken off before would be lost.
    Start {
        /// It does not execute until it is resumed.
        paused: bool,
    },
    /// Delete the guest of this UID, after the rest of the decision was written: it may hold the request to start again.
    Stop {
        /// UID of the VirtualMachineInstance.
        uid: String,
    },
    /// Set the strategy to Always.
    SwitchToAlways,
}

/// What is to be done and remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do with the guest.
    pub action: Action,
    /// Requests that remain.
    pub requests: Vec<Request>,
    /// Starts that failed.
    pub failure: Option<StartFailure>,
    /// The strategy to remember as carried out.
    pub strategy: Option<Strategy>,
    /// When to decide again though nothing changed, in milliseconds since 1970.
    pub retry_at_ms: Option<i64>,
}

/// Decides what to do.
#[must_use]
pub fn decide(observed: &Observed) -> Decision {
    let failure = failures(observed);
    let requests = pending(observed);
    let mut decision =
        Decision { action: Action::Nothing, requests, failure, strategy: Some(observed.strategy), retry_at_ms: None };
    match &observed.guest {
        Some(guest) => with_guest(observed, guest, &mut decision),
        None => without_guest(observed, &mut decision),
    }
    decision
}

fn with_guest(observed: &Observed, guest: &Guest, decision: &mut Decision) {
    if guest.deleting {
        return;
    }
    let starts = decision.requests.iter().any(|request| matches!(request, Request::Start { .. }));
    let stop_asked = decision.requests.iter().any(|request| matches!(request, Request::Stop { .. }));
    let ended = guest.phase.is_final();
    let stop = match observed.strategy {
        Strategy::Always | Strategy::RerunOnFailure => stop_asked || ended,
        Strategy::Manual => stop_asked || (ended && starts),
        Strategy::Once => stop_asked,
        Strategy::Halted => true,
        Strategy::WaitAsReceiver => false,
    };
    if observed.strategy == Strategy::RerunOnFailure && guest.phase == Phase::Failed && !starts {
        decision.requests.push(Request::Start { paused: false });
    }
    if stop {
        decision.action = Action::Stop { uid: guest.uid.clone() };
    }
}

fn without_guest(observed: &Observed, decision: &mut Decision) {
    let asked = decision.requests.iter().find_map(|request| match request {
        Request::Start { paused } => Some(*paused),
        Request::Stop { .. } => None,
    });
    let new = observed.last_strategy != Some(observed.strategy);
    let start = match observed.strategy {
        Strategy::Always => true,
        Strategy::RerunOnFailure => asked.is_some() || new,
        Strategy::Once => new,
        Strategy::Manual => asked.is_some(),
        Strategy::Halted if asked.is_some() => {
            decision.action = Action::SwitchToAlways;
            false
        }
        Strategy::Halted | Strategy::WaitAsReceiver => false,
    };
    if !start {
        return;
    }
    // Until it is started, the strategy counts as new: a process that dies now must not forget to start it.
    let backoff = decision.failure.as_ref().map_or(0, |failure| failure.retry_at_ms);
    let held_back = counts_failures(observed.strategy) && observed.now_ms < backoff;
    if held_back || !observed.volumes_ready {
        decision.strategy = observed.last_strategy;
        decision.retry_at_ms = held_back.then_some(backoff);
        return;
    }
    decision.requests.retain(|request| !matches!(request, Request::Start { .. }));
    decision.action = Action::Start { paused: asked.unwrap_or(false) };
}

/// Requests to stop a guest that is gone are done, and so is one to start that nothing stands before while a guest
/// lives: kept, it would start another when that one is stopped. A start behind a stop is a restart, and waits.
fn pending(observed: &Observed) -> Vec<Request> {
    let current = observed.guest.as_ref().map(|guest| guest.uid.as_str());
    let open = |request: &&Request| match request {
        Request::Start { .. } => true,
        Request::Stop { uid } => current == Some(uid.as_str()),
    };
    let open: Vec<_> = observed.requests.iter().filter(open).cloned().collect();
    let lives = observed.guest.as_ref().is_some_and(|guest| !guest.deleting && !guest.phase.is_final());
    let started = |request: &Request| lives && matches!(request, Request::Start { .. });
    open.into_iter().skip_while(started).collect()
}

/// Whether starts that fail are counted: only a strategy that starts by itself could do so in a loop.
fn counts_failures(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Always | Strategy::RerunOnFailure | Strategy::Once)
}

/// Counts a guest that ended without having run, however it ended, unless it was told to: one that is stopped on its way up
/// did not fail, though KubeVirt counts it. Forgets failures once a guest runs.
fn failures(observed: &Observed) -> Option<StartFailure> {
    if !counts_failures(observed.strategy) {
        return None;
    }
    let Some(guest) = &observed.guest else { return observed.failure.clone() };
    if guest.ran || guest.phase == Phase::Running {
        return None;
    }
    let known = observed.failure.as_ref().and_then(|failure| failure.last_uid.as_ref()) == Some(&guest.uid);
    if !guest.phase.is_final() || guest.deleting || known {
        return observed.failure.clone();
    }
    let count = observed.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
    let wait_ms = backoff_ms(count, observed.jitter_permille);
    Some(StartFailure { count, last_uid: Some(guest.uid.clone()), retry_at_ms: observed.now_ms + wait_ms })
}

/// The wait after the n-th failure in a row: `10 s * n²` and up to half of that again, at most 300 s.
fn backoff_ms(count: i32, jitter_permille: i64) -> i64 {
    let count = i64::from(count.clamp(1, 100));
    let base_ms = BACKOFF_UNIT_S * count * count * 1000;
    (base_ms + base_ms / 2 * jitter_permille.clamp(0, 1000) / 1000).min(BACKOFF_MAX_S * 1000)
}

/// `status.startFailure` says that the next start waits: the guest is in a crash loop.
#[must_use]
pub fn crash_looping(strategy: Strategy, guest: Option<&Guest>, failure: Option<&StartFailure>) -> bool {
    counts_failures(strategy)
        && guest.is_none_or(|guest| guest.phase.is_final())
        && failure.is_some_and(|failure| failure.count > 0)
}

/// Whether the strategy and the requests want it to run, whether or not it does (`isSetToStart`).
#[must_use]
pub fn set_to_start(strategy: Strategy, guest: Option<&Guest>, requests: &[Request]) -> bool {
    let starts = requests.iter().any(|request| matches!(request, Request::Start { .. }));
    let stops = requests.iter().any(|request| matches!(request, Request::Stop { .. }));
    match strategy {
        Strategy::Always => true,
        Strategy::RerunOnFailure => guest.is_none_or(|guest| guest.phase != Phase::Succeeded),
        Strategy::Once => guest.is_none(),
        Strategy::Manual => guest.map_or(starts, |_| !stops),
        Strategy::Halted | Strategy::WaitAsReceiver => false,
    }
}
