//! One row a transition: what each run strategy does with each state of the guest and each request. The rows are those of
//! the table in `super`, and of KubeVirt's `syncRunStrategy` and `isTrimFirstChangeRequestNeeded`.

use super::Strategy::{Always, Halted, Manual, Once, RerunOnFailure, WaitAsReceiver};
use super::*;

const START: Request = Request::Start { paused: false };
const PAUSED: Request = Request::Start { paused: true };

/// What a row starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Had {
    /// No guest, and the strategy is new.
    New,
    /// No guest.
    Gone,
    /// A guest in this phase.
    Guest(Phase),
    /// A guest in this phase that is being deleted.
    Leaving(Phase),
}

/// What a row expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Nothing,
    Starts,
    StartsPaused,
    Stops,
    TurnsIntoAlways,
}

fn stop() -> Request {
    Request::Stop { uid: "g1".into() }
}

fn earlier() -> Request {
    Request::Stop { uid: "g0".into() }
}

/// Checks one row; `left` are the requests that remain.
fn row((strategy, had): (Strategy, Had), requests: &[Request], does: Does, left: &[Request]) {
    let guest = match had {
        Had::New | Had::Gone => None,
        Had::Guest(phase) | Had::Leaving(phase) => {
            let deleting = matches!(had, Had::Leaving(_));
            Some(Guest { uid: "g1".into(), phase, deleting, ran: phase >= Phase::Running })
        }
    };
    let observed = Observed {
        strategy,
        last_strategy: (had != Had::New).then_some(strategy),
        guest,
        requests: requests.to_vec(),
        volumes_ready: true,
        failure: None,
        now_ms: 0,
        jitter_permille: 0,
    };
    let decision = decide(&observed);
    let expected = match does {
        Does::Nothing => Action::Nothing,
        Does::Starts => Action::Start { paused: false },
        Does::StartsPaused => Action::Start { paused: true },
        Does::Stops => Action::Stop { uid: "g1".into() },
        Does::TurnsIntoAlways => Action::SwitchToAlways,
    };
    assert_eq!(decision.action, expected, "{strategy:?} {had:?} {requests:?}");
    assert_eq!(decision.requests, left, "requests left by {strategy:?} {had:?} {requests:?}");
}

use Does::{Nothing, Starts, StartsPaused, Stops, TurnsIntoAlways};
use Had::{Gone, Leaving, New};
use Phase::{Failed, Running, Scheduled, Scheduling, Succeeded, Unset};

fn had(phase: Phase) -> Had {
    Had::Guest(phase)
}

#[test]
fn always() {
    row((Always, New), &[], Starts, &[]);
    row((Always, Gone), &[], Starts, &[]);
    row((Always, Gone), &[START], Starts, &[]);
    row((Always, Gone), &[PAUSED], StartsPaused, &[]);
    row((Always, Gone), &[stop(), START], Starts, &[]);
    for phase in [Unset, Scheduling, Scheduled, Running] {
        row((Always, had(phase)), &[], Nothing, &[]);
        row((Always, had(phase)), &[START], Nothing, &[]);
        row((Always, had(phase)), &[earlier()], Nothing, &[]);
        row((Always, had(phase)), &[stop(), START], Stops, &[stop(), START]);
        row((Always, Leaving(phase)), &[stop()], Nothing, &[stop()]);
    }
    row((Always, had(Succeeded)), &[], Stops, &[]);
    row((Always, had(Failed)), &[], Stops, &[]);
    row((Always, Leaving(Failed)), &[], Nothing, &[]);
}

#[test]
fn rerun_on_failure() {
    row((RerunOnFailure, New), &[], Starts, &[]);
    row((RerunOnFailure, Gone), &[], Nothing, &[]);
    row((RerunOnFailure, Gone), &[START], Starts, &[]);
    row((RerunOnFailure, Gone), &[PAUSED], StartsPaused, &[]);
    row((RerunOnFailure, Gone), &[stop()], Nothing, &[]);
    row((RerunOnFailure, Gone), &[stop(), START], Starts, &[]);
    row((RerunOnFailure, had(Running)), &[], Nothing, &[]);
    row((RerunOnFailure, had(Running)), &[START], Nothing, &[]);
    row((RerunOnFailure, had(Running)), &[stop()], Stops, &[stop()]);
    row((RerunOnFailure, had(Running)), &[stop(), START], Stops, &[stop(), START]);
    row((RerunOnFailure, had(Succeeded)), &[], Stops, &[]);
    row((RerunOnFailure, had(Failed)), &[], Stops, &[START]);
    row((RerunOnFailure, had(Failed)), &[START], Stops, &[START]);
    row((RerunOnFailure, Leaving(Failed)), &[START], Nothing, &[START]);
}

#[test]
fn once() {
    row((Once, New), &[], Starts, &[]);
    row((Once, New), &[PAUSED], StartsPaused, &[]);
    row((Once, Gone), &[], Nothing, &[]);
    row((Once, had(Running)), &[], Nothing, &[]);
    row((Once, had(Running)), &[stop()], Stops, &[stop()]);
    row((Once, had(Succeeded)), &[], Nothing, &[]);
    row((Once, had(Failed)), &[], Nothing, &[]);
}

#[test]
fn manual() {
    row((Manual, New), &[], Nothing, &[]);
    row((Manual, Gone), &[], Nothing, &[]);
    row((Manual, Gone), &[START], Starts, &[]);
    row((Manual, Gone), &[PAUSED], StartsPaused, &[]);
    row((Manual, Gone), &[stop()], Nothing, &[]);
    row((Manual, Gone), &[stop(), START], Starts, &[]);
    row((Manual, had(Running)), &[], Nothing, &[]);
    row((Manual, had(Running)), &[START], Nothing, &[]);
    row((Manual, had(Running)), &[stop()], Stops, &[stop()]);
    row((Manual, had(Running)), &[stop(), START], Stops, &[stop(), START]);
    row((Manual, had(Running)), &[earlier(), START], Nothing, &[]);
    row((Manual, had(Succeeded)), &[], Nothing, &[]);
    row((Manual, had(Failed)), &[], Nothing, &[]);
    row((Manual, had(Failed)), &[START], Stops, &[START]);
    row((Manual, Leaving(Running)), &[stop(), START], Nothing, &[stop(), START]);
}

#[test]
fn halted() {
    row((Halted, New), &[], Nothing, &[]);
    row((Halted, Gone), &[], Nothing, &[]);
    row((Halted, Gone), &[stop()], Nothing, &[]);
    row((Halted, Gone), &[START], TurnsIntoAlways, &[START]);
    row((Halted, Gone), &[PAUSED], TurnsIntoAlways, &[PAUSED]);
    for phase in [Unset, Scheduling, Scheduled, Running, Succeeded, Failed] {
        row((Halted, had(phase)), &[], Stops, &[]);
        row((Halted, Leaving(phase)), &[], Nothing, &[]);
    }
    row((Halted, had(Running)), &[stop()], Stops, &[stop()]);
}

#[test]
fn a_receiver_is_left_alone() {
    row((WaitAsReceiver, New), &[], Nothing, &[]);
    row((WaitAsReceiver, Gone), &[START], Nothing, &[START]);
    row((WaitAsReceiver, had(Running)), &[stop()], Nothing, &[stop()]);
}

#[test]
fn a_strategy_that_changes_is_carried_out_as_if_it_were_new() {
    let change = |from, to, guest: Option<Phase>| {
        let guest = guest.map(|phase| Guest { uid: "g1".into(), phase, deleting: false, ran: true });
        let observed = Observed {
            strategy: to,
            last_strategy: Some(from),
            guest,
            requests: Vec::new(),
            volumes_ready: true,
            failure: None,
            now_ms: 0,
            jitter_permille: 0,
        };
        decide(&observed).action
    };
    let (starts, stops) = (Action::Start { paused: false }, Action::Stop { uid: "g1".into() });
    for to in [Always, RerunOnFailure, Once] {
        assert_eq!(change(Halted, to, None), starts, "{to:?}");
        assert_eq!(change(Manual, to, None), starts, "{to:?}");
        assert_eq!(change(Always, to, Some(Running)), Action::Nothing, "{to:?}");
    }
    assert_eq!(change(Always, Manual, None), Action::Nothing);
    for from in [Always, RerunOnFailure, Once, Manual] {
        assert_eq!(change(from, Halted, Some(Running)), stops, "{from:?}");
    }
}

#[test]
fn only_a_guest_that_never_ran_counts_and_only_where_it_would_be_started_again() {
    let check_guest = |strategy, guest: Guest, expected: Option<i32>| {
        let seen = format!("{strategy:?} {guest:?}");
        let observed = Observed {
            strategy,
            last_strategy: Some(strategy),
            guest: Some(guest),
            requests: Vec::new(),
            volumes_ready: true,
            failure: Some(StartFailure { count: 2, last_uid: Some("g0".into()), retry_at_ms: 5 }),
            now_ms: 1_000,
            jitter_permille: 0,
        };
        let failure = decide(&observed).failure;
        assert_eq!(failure.map(|failure| failure.count), expected, "{seen}");
    };
    let check = |strategy, phase, ran, expected| {
        check_guest(strategy, Guest { uid: "g1".into(), phase, deleting: false, ran }, expected);
    };
    let told_to_end = Guest { uid: "g1".into(), phase: Succeeded, deleting: true, ran: false };
    check_guest(Always, told_to_end, Some(2));
    for strategy in [Always, RerunOnFailure, Once] {
        check(strategy, Failed, false, Some(3));
        check(strategy, Succeeded, false, Some(3));
        check(strategy, Scheduling, false, Some(2));
        check(strategy, Failed, true, None);
        check(strategy, Running, false, None);
    }
    for strategy in [Manual, Halted, WaitAsReceiver] {
        check(strategy, Failed, false, None);
    }
}

#[test]
fn a_back_off_holds_only_those_back_that_start_by_themselves() {
    let held = |strategy, requests: &[Request]| {
        let observed = Observed {
            strategy,
            last_strategy: None,
            guest: None,
            requests: requests.to_vec(),
            volumes_ready: true,
            failure: Some(StartFailure { count: 1, last_uid: Some("g0".into()), retry_at_ms: 9_000 }),
            now_ms: 1_000,
            jitter_permille: 0,
        };
        decide(&observed)
    };
    for strategy in [Always, RerunOnFailure, Once] {
        let decision = held(strategy, &[]);
        assert_eq!((decision.action, decision.retry_at_ms), (Action::Nothing, Some(9_000)), "{strategy:?}");
    }
    assert_eq!(held(Manual, &[START]).action, Action::Start { paused: false });
}

#[test]
fn what_is_set_to_start() {
    let guest = |phase| Guest { uid: "g1".into(), phase, deleting: false, ran: false };
    let check = |strategy, phase: Option<Phase>, requests: &[Request], expected| {
        let guest = phase.map(guest);
        assert_eq!(set_to_start(strategy, guest.as_ref(), requests), expected, "{strategy:?} {phase:?} {requests:?}");
    };
    check(Always, None, &[], true);
    check(Always, Some(Failed), &[], true);
    check(RerunOnFailure, None, &[], true);
    check(RerunOnFailure, Some(Failed), &[], true);
    check(RerunOnFailure, Some(Succeeded), &[], false);
    check(Once, None, &[], true);
    check(Once, Some(Scheduling), &[], false);
    check(Manual, None, &[], false);
    check(Manual, None, &[START], true);
    check(Manual, Some(Scheduling), &[], true);
    check(Manual, Some(Running), &[stop()], false);
    check(Halted, None, &[START], false);
    check(WaitAsReceiver, None, &[], false);
}
