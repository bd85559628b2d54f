//! Run strategies, the back-off and the printed word, as tables.

use super::*;

fn guest(phase: Phase) -> Guest {
    Guest { uid: "g1".into(), phase, deleting: false, ran: phase != Phase::Scheduling }
}

fn machine(strategy: Strategy, guest: Option<Guest>) -> Observed {
    Observed {
        strategy,
        last_strategy: Some(strategy),
        guest,
        requests: Vec::new(),
        volumes_ready: true,
        failure: None,
        now_ms: 1_000_000,
        jitter_permille: 0,
    }
}

fn start() -> Request {
    Request::Start { paused: false }
}

fn stop(uid: &str) -> Request {
    Request::Stop { uid: uid.into() }
}

fn check(strategy: Strategy, guest: Option<Guest>, requests: &[Request], expected: Action) -> Decision {
    let observed = Observed { requests: requests.to_vec(), ..machine(strategy, guest) };
    let decision = decide(&observed);
    assert_eq!(decision.action, expected, "{observed:?}");
    decision
}

const STARTED: Action = Action::Start { paused: false };

fn stopped() -> Action {
    Action::Stop { uid: "g1".into() }
}

#[test]
fn always_starts_what_is_not_there_and_clears_away_what_ended() {
    check(Strategy::Always, None, &[], STARTED);
    check(Strategy::Always, Some(guest(Phase::Running)), &[], Action::Nothing);
    check(Strategy::Always, Some(guest(Phase::Succeeded)), &[], stopped());
    check(Strategy::Always, Some(guest(Phase::Failed)), &[], stopped());
    let restart = check(Strategy::Always, Some(guest(Phase::Running)), &[stop("g1"), start()], stopped());
    assert_eq!(restart.requests, [stop("g1"), start()]);
    let after = check(Strategy::Always, None, &[stop("g1"), start()], STARTED);
    assert_eq!(after.requests, []);
}

#[test]
fn a_stop_request_for_an_earlier_guest_is_dropped() {
    let decision = check(Strategy::Manual, Some(guest(Phase::Running)), &[stop("g0")], Action::Nothing);
    assert_eq!(decision.requests, []);
}

#[test]
fn rerun_on_failure_starts_again_only_what_failed() {
    let failed = check(Strategy::RerunOnFailure, Some(guest(Phase::Failed)), &[], stopped());
    assert_eq!(failed.requests, [start()]);
    check(Strategy::RerunOnFailure, None, &[start()], STARTED);
    let ended = check(Strategy::RerunOnFailure, Some(guest(Phase::Succeeded)), &[], stopped());
    assert_eq!(ended.requests, []);
    check(Strategy::RerunOnFailure, None, &[], Action::Nothing);
}

#[test]
fn a_new_strategy_starts_once_even_if_the_process_dies_before() {
    for strategy in [Strategy::RerunOnFailure, Strategy::Once] {
        let new = Observed { last_strategy: None, ..machine(strategy, None) };
        let decision = decide(&new);
        assert_eq!((decision.action, decision.strategy), (STARTED, Some(strategy)));
        let waiting = decide(&Observed { volumes_ready: false, ..new });
        assert_eq!((waiting.action, waiting.strategy), (Action::Nothing, None));
        check(strategy, None, &[], Action::Nothing);
    }
}

#[test]
fn once_and_manual_keep_what_ended() {
    for strategy in [Strategy::Once, Strategy::Manual] {
        check(strategy, Some(guest(Phase::Failed)), &[], Action::Nothing);
        check(strategy, Some(guest(Phase::Running)), &[stop("g1")], stopped());
    }
    check(Strategy::Once, None, &[start()], Action::Nothing);
    check(Strategy::Manual, None, &[], Action::Nothing);
    check(Strategy::Manual, Some(guest(Phase::Failed)), &[start()], stopped());
    let paused = Request::Start { paused: true };
    check(Strategy::Manual, None, &[paused], Action::Start { paused: true });
}

#[test]
fn halted_stops_and_a_start_request_turns_it_into_always() {
    check(Strategy::Halted, Some(guest(Phase::Running)), &[], stopped());
    check(Strategy::Halted, None, &[], Action::Nothing);
    let decision = check(Strategy::Halted, None, &[start()], Action::SwitchToAlways);
    assert_eq!(decision.requests, [start()]);
}

#[test]
fn nothing_is_done_twice_to_a_guest_on_its_way_out() {
    for strategy in [Strategy::Always, Strategy::Halted, Strategy::RerunOnFailure] {
        let leaving = Guest { deleting: true, ..guest(Phase::Running) };
        check(strategy, Some(leaving), &[stop("g1")], Action::Nothing);
    }
}

#[test]
fn failed_starts_wait_longer_each_time_and_are_forgotten_by_a_run() {
    let unstarted = Guest { ran: false, ..guest(Phase::Failed) };
    let failed = machine(Strategy::Always, Some(unstarted));
    let first = decide(&failed);
    let failure = StartFailure { count: 1, last_uid: Some("g1".into()), retry_at_ms: 1_010_000 };
    assert_eq!(first.failure, Some(failure.clone()));
    let again = decide(&Observed { failure: Some(failure.clone()), ..failed });
    assert_eq!(again.failure, Some(failure.clone()), "one guest is counted once");
    let waiting = decide(&Observed { failure: Some(failure.clone()), ..machine(Strategy::Always, None) });
    assert_eq!((waiting.action, waiting.retry_at_ms), (Action::Nothing, Some(1_010_000)));
    let due = Observed { now_ms: 1_010_000, failure: Some(failure.clone()), ..machine(Strategy::Always, None) };
    assert_eq!(decide(&due).action, STARTED);
    let running = Observed { failure: Some(failure), ..machine(Strategy::Always, Some(guest(Phase::Running))) };
    assert_eq!(decide(&running).failure, None);
}

#[test]
fn the_wait_is_bounded() {
    let seconds: Vec<_> = (1..=7).map(|n| backoff_ms(n, 0) / 1000).collect();
    assert_eq!(seconds, [10, 40, 90, 160, 250, 300, 300]);
    assert_eq!(backoff_ms(2, 1000), 60_000);
    assert_eq!(backoff_ms(i32::MAX, 1000), 300_000);
}

const IDLE: PrintableFacts<'static> = PrintableFacts {
    deleting: false,
    strategy: Strategy::Always,
    guest: None,
    to_be_started: false,
    set_to_start: false,
    crash_looping: false,
    volume_failed: false,
    volume_filling: false,
    claim_unbound: false,
};

fn facts(phase: Phase) -> GuestFacts<'static> {
    GuestFacts { phase, deleting: false, paused: false, migrating: false, sync_failure: None, unschedulable: false }
}

fn check_word(facts: PrintableFacts<'_>, expected: &str) {
    assert_eq!(printable(&facts).as_str(), expected, "{facts:?}");
}

/// Every fact from which a word follows holds at once; taken away one after the other, the next word shows.
#[test]
fn the_first_word_that_fits_is_shown() {
    let everything = GuestFacts {
        deleting: true,
        paused: true,
        migrating: true,
        sync_failure: Some("FailedPvcNotFound"),
        unschedulable: true,
        phase: Phase::Running,
    };
    let all = PrintableFacts {
        deleting: true,
        guest: Some(everything),
        to_be_started: true,
        set_to_start: true,
        crash_looping: true,
        volume_failed: true,
        volume_filling: true,
        claim_unbound: true,
        ..IDLE
    };
    let with = |guest| PrintableFacts { deleting: false, guest: Some(guest), ..all };
    let stays = GuestFacts { deleting: false, ..everything };
    let here = GuestFacts { migrating: false, ..stays };
    let waits = GuestFacts { phase: Phase::Scheduling, paused: false, ..here };
    let found = GuestFacts { sync_failure: None, ..waits };
    let placed = GuestFacts { unschedulable: false, ..found };
    let filled = PrintableFacts { volume_failed: false, ..with(placed) };
    let made = PrintableFacts { volume_filling: false, ..filled };
    let bound = PrintableFacts { claim_unbound: false, ..made };
    let pulling = |reason| PrintableFacts { guest: Some(GuestFacts { sync_failure: Some(reason), ..placed }), ..bound };
    let over = PrintableFacts { guest: Some(facts(Phase::Failed)), ..bound };
    let gone = PrintableFacts { guest: None, to_be_started: false, ..bound };
    let idle = PrintableFacts { crash_looping: false, ..gone };
    check_word(all, "Terminating");
    check_word(with(everything), "Stopping");
    check_word(with(stays), "Migrating");
    check_word(with(here), "Paused");
    check_word(with(GuestFacts { paused: false, ..here }), "Running");
    check_word(with(waits), "ErrorPvcNotFound");
    check_word(with(found), "DataVolumeError");
    check_word(PrintableFacts { volume_failed: false, ..with(found) }, "ErrorUnschedulable");
    check_word(filled, "Provisioning");
    check_word(made, "WaitingForVolumeBinding");
    check_word(pulling("ErrImagePull"), "ErrImagePull");
    check_word(pulling("ImagePullBackOff"), "ImagePullBackOff");
    check_word(bound, "Starting");
    check_word(over, "CrashLoopBackOff");
    check_word(gone, "CrashLoopBackOff");
    check_word(idle, "Stopped");
    check_word(PrintableFacts { strategy: Strategy::WaitAsReceiver, ..idle }, "WaitingForReceiver");
    check_word(PrintableFacts { guest: Some(facts(Phase::Unknown)), ..idle }, "Unknown");
}

#[test]
fn the_word_for_each_phase() {
    let with = |guest| PrintableFacts { guest: Some(guest), ..IDLE };
    for phase in [Phase::Unset, Phase::Pending, Phase::Scheduling, Phase::Scheduled] {
        check_word(with(facts(phase)), "Starting");
    }
    check_word(with(facts(Phase::Running)), "Running");
    check_word(with(facts(Phase::Succeeded)), "Stopped");
    check_word(with(facts(Phase::Failed)), "Stopped");
    check_word(with(GuestFacts { deleting: true, ..facts(Phase::Succeeded) }), "Stopped");
    check_word(with(facts(Phase::Unknown)), "Unknown");
}

#[test]
fn the_word_without_a_guest() {
    let wanted = PrintableFacts { to_be_started: true, set_to_start: true, ..IDLE };
    check_word(IDLE, "Stopped");
    check_word(wanted, "Starting");
    check_word(PrintableFacts { volume_filling: true, ..IDLE }, "Provisioning");
    check_word(PrintableFacts { volume_filling: true, volume_failed: true, ..wanted }, "DataVolumeError");
    check_word(PrintableFacts { claim_unbound: true, ..wanted }, "WaitingForVolumeBinding");
    check_word(PrintableFacts { claim_unbound: true, ..IDLE }, "Stopped");
}
