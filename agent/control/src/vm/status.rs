//! The status of a virtual machine, and its spec in the model's words. Pure: from one state of the object to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use furrow_api::meta::Condition;
use furrow_api::vm::{PrintableStatus, RunStrategy, StartFailure, StateChangeAction, StateChangeRequest};
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance};
use furrow_model::vm::{self as model, Action, Decision, Guest, GuestFacts, PrintableFacts, Request, Strategy};

use super::render::ANNOTATION_GENERATION;
use super::snapshots;
use crate::vmi::{condition, phase};

/// What the API server refused is tried again after this long: a quota may have room again.
pub(crate) const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Key of a start request's data.
const PAUSED: &str = "paused";

/// Conditions that are the virtual machine's own; all others are its guest's.
const OWN: [&str; 4] = ["Failure", "RestartRequired", "ManualRecoveryRequired", "Ready"];

/// The volumes of a virtual machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volumes {
    /// DataVolumes that failed.
    pub(crate) failed: Vec<String>,
    /// A DataVolume is being filled.
    pub(crate) filling: bool,
    /// A claim is not bound.
    pub(crate) unbound: bool,
    /// The storage class of each claim that is known.
    pub(crate) classes: BTreeMap<String, String>,
}

/// Something that could not be done, for the condition Failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// KubeVirt's word.
    pub(crate) reason: &'static str,
    /// In words.
    pub(crate) message: String,
}

/// What the status is made from, besides the decision.
pub(crate) struct Facts<'a> {
    /// The guest.
    pub(crate) guest: Option<&'a VirtualMachineInstance>,
    /// The volumes.
    pub(crate) volumes: &'a Volumes,
    /// Something that could not be done.
    pub(crate) failure: Option<&'a Failed>,
    /// Why the guest has to be restarted.
    pub(crate) restart: Option<&'a str>,
}

/// The run strategy in effect. `running` counts where there is no strategy; with neither, nothing runs.
pub(crate) fn strategy(vm: &VirtualMachine) -> Strategy {
    match (&vm.spec.run_strategy, vm.spec.running) {
        // One that this version does not know must neither start nor stop anything.
        (Some(strategy), _) => known_strategy(strategy).unwrap_or(Strategy::WaitAsReceiver),
        (None, Some(true)) => Strategy::Always,
        (None, _) => Strategy::Halted,
    }
}

/// The model's word for a strategy; `None` for an unknown one.
pub(crate) fn known_strategy(strategy: &RunStrategy) -> Option<Strategy> {
    Some(match strategy {
        RunStrategy::Always => Strategy::Always,
        RunStrategy::RerunOnFailure => Strategy::RerunOnFailure,
        RunStrategy::Once => Strategy::Once,
        RunStrategy::Manual => Strategy::Manual,
        RunStrategy::Halted => Strategy::Halted,
        RunStrategy::WaitAsReceiver => Strategy::WaitAsReceiver,
        RunStrategy::Other(_) => return None,
    })
}

fn wire_strategy(strategy: Strategy) -> RunStrategy {
    match strategy {
        Strategy::Always => RunStrategy::Always,
        Strategy::RerunOnFailure => RunStrategy::RerunOnFailure,
        Strategy::Once => RunStrategy::Once,
        Strategy::Manual => RunStrategy::Manual,
        Strategy::Halted => RunStrategy::Halted,
        Strategy::WaitAsReceiver => RunStrategy::WaitAsReceiver,
    }
}

/// The requests that are understood; others are dropped, as they could never be carried out.
pub(crate) fn requests(requests: &[StateChangeRequest]) -> Vec<Request> {
    let known = |request: &StateChangeRequest| match request.action {
        StateChangeAction::Start => {
            Some(Request::Start { paused: request.data.get(PAUSED).is_some_and(|value| value == "true") })
        }
        StateChangeAction::Stop => request.uid.clone().map(|uid| Request::Stop { uid }),
        StateChangeAction::Other(_) => None,
    };
    requests.iter().filter_map(known).collect()
}

fn wire_request(request: &Request) -> StateChangeRequest {
    match request {
        Request::Start { paused } => StateChangeRequest {
            action: StateChangeAction::Start,
            data: paused.then(|| (PAUSED.to_owned(), "true".to_owned())).into_iter().collect(),
            uid: None,
        },
        Request::Stop { uid } => StateChangeRequest {
            action: StateChangeAction::Stop,
            uid: Some(uid.clone()),
            ..StateChangeRequest::default()
        },
    }
}

/// The guest in the model's words.
pub(crate) fn guest(vmi: &VirtualMachineInstance) -> Guest {
    let status = vmi.status.clone().unwrap_or_default();
    Guest {
        uid: vmi.uid().unwrap_or_default(),
        phase: phase(&status.phase),
        deleting: vmi.metadata.deletion_timestamp.is_some(),
        ran: status.phase_transition_timestamps.iter().any(|entry| entry.phase == VmiPhase::Running),
    }
}

/// Failed starts in the model's words.
pub(crate) fn start_failure(failure: &StartFailure) -> model::StartFailure {
    model::StartFailure {
        count: failure.consecutive_fail_count.unwrap_or_default(),
        last_uid: failure.last_failed_vmi_uid.clone(),
        retry_at_ms: failure.retry_after_timestamp.as_ref().map_or(0, |at| at.0.as_millisecond()),
    }
}

fn wire_failure(failure: &model::StartFailure) -> StartFailure {
    StartFailure {
        consecutive_fail_count: Some(failure.count),
        last_failed_vmi_uid: failure.last_uid.clone(),
        retry_after_timestamp: Timestamp::from_millisecond(failure.retry_at_ms).ok().map(Time),
    }
}

fn now() -> Time {
    Time(Timestamp::now())
}

/// The conditions of a guest.
pub(crate) fn conditions_of(vmi: Option<&VirtualMachineInstance>) -> &[Condition] {
    vmi.and_then(|vmi| vmi.status.as_ref()).map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// The status after a decision was carried out.
pub(crate) fn report(vm: &VirtualMachine, decision: &Decision, facts: &Facts<'_>) -> VirtualMachine {
    let mut new = vm.clone();
    let status = new.status.get_or_insert_default();
    status.state_change_requests = decision.requests.iter().map(wire_request).collect();
    status.start_failure = decision.failure.as_ref().map(wire_failure);
    status.run_strategy = decision.strategy.map(wire_strategy);
    status.created = facts.guest.is_some();
    // Both are said of a guest: while there is none, they stay those of the last one.
    if let Some(generation) = facts.guest.and_then(|vmi| vmi.annotations().get(ANNOTATION_GENERATION)?.parse().ok()) {
        status.observed_generation = Some(generation);
        status.desired_generation = vm.metadata.generation;
    }
    status.volume_snapshot_statuses = snapshots::statuses(vm, &facts.volumes.classes);
    copy_conditions(&mut status.conditions, facts.guest);
    ready(&mut status.conditions, facts.guest);
    status.ready = Condition::find(&status.conditions, "Ready").is_some_and(Condition::is_true);
    failure(&mut status.conditions, facts.failure);
    restart_required(&mut status.conditions, facts.restart);
    status.printable_status = Some(PrintableStatus::from(model::printable(&printable(vm, decision, facts)).as_str()));
    new
}

/// The status while the virtual machine is being deleted.
pub(crate) fn terminating(vm: &VirtualMachine, guest: Option<&VirtualMachineInstance>) -> VirtualMachine {
    let mut new = vm.clone();
    let status = new.status.get_or_insert_default();
    status.printable_status = Some(PrintableStatus::Terminating);
    status.created = guest.is_some();
    copy_conditions(&mut status.conditions, guest);
    ready(&mut status.conditions, guest);
    status.ready = Condition::find(&status.conditions, "Ready").is_some_and(Condition::is_true);
    new
}

/// What the guest says of itself is said of its virtual machine too.
fn copy_conditions(conditions: &mut Vec<Condition>, guest: Option<&VirtualMachineInstance>) {
    let theirs = conditions_of(guest);
    conditions.retain(|condition| {
        OWN.contains(&condition.type_.as_str()) || Condition::find(theirs, &condition.type_).is_some()
    });
    for condition in theirs {
        let name = condition.type_.as_str();
        if OWN.contains(&name) {
            continue;
        }
        match conditions.iter_mut().find(|own| own.type_ == condition.type_) {
            Some(own) => *own = condition.clone(),
            None => conditions.push(condition.clone()),
        }
    }
}

fn ready(conditions: &mut Vec<Condition>, guest: Option<&VirtualMachineInstance>) {
    let ready = match (guest, Condition::find(conditions_of(guest), "Ready")) {
        (None, _) => condition("Ready", false, "VMINotExists", "VMI does not exist"),
        (Some(_), None) => condition("Ready", false, "VMIConditionMissing", "VMI is missing the Ready condition"),
        (Some(_), Some(theirs)) => theirs.clone(),
    };
    ready.set(conditions, now());
}

fn failure(conditions: &mut Vec<Condition>, failure: Option<&Failed>) {
    match failure {
        Some(Failed { reason, message }) => {
            condition("Failure", true, reason, message).set(conditions, now());
        }
        None => conditions.retain(|condition| condition.type_ != "Failure"),
    }
}

/// Said anew in every pass: it goes when the change is taken back, and with the guest.
fn restart_required(conditions: &mut Vec<Condition>, message: Option<&str>) {
    match message {
        Some(message) => {
            condition("RestartRequired", true, "", message).set(conditions, now());
        }
        None => conditions.retain(|condition| condition.type_ != "RestartRequired"),
    }
}

/// Whether a guest is over.
pub(crate) fn guest_over(vmi: &VirtualMachineInstance) -> bool {
    vmi.status.as_ref().is_some_and(|status| status.phase.is_final())
}

fn printable<'a>(vm: &VirtualMachine, decision: &Decision, facts: &Facts<'a>) -> PrintableFacts<'a> {
    let strategy = strategy(vm);
    let guest = facts.guest.map(guest);
    let crash_looping = model::crash_looping(strategy, guest.as_ref(), decision.failure.as_ref());
    // A start that was wanted and could not be made is still wanted: the strategy is not yet remembered as carried out.
    let wanted = match strategy {
        Strategy::Always => true,
        Strategy::RerunOnFailure | Strategy::Once => decision.strategy != Some(strategy) || asked(decision),
        Strategy::Manual => asked(decision),
        Strategy::Halted | Strategy::WaitAsReceiver => false,
    };
    // One that is told to stop in this pass is on its way, though its object does not say so yet.
    let stopping = matches!(decision.action, Action::Stop { .. });
    let shown = |vmi| {
        let guest = guest_facts(vmi);
        GuestFacts { deleting: guest.deleting || stopping, ..guest }
    };
    PrintableFacts {
        deleting: false,
        strategy,
        guest: facts.guest.map(shown),
        set_to_start: model::set_to_start(strategy, guest.as_ref(), &decision.requests),
        to_be_started: wanted && guest.is_none() && !crash_looping && facts.failure.is_none(),
        crash_looping,
        volume_failed: !facts.volumes.failed.is_empty(),
        volume_filling: facts.volumes.filling,
        claim_unbound: facts.volumes.unbound,
    }
}

fn asked(decision: &Decision) -> bool {
    decision.requests.iter().any(|request| matches!(request, Request::Start { .. }))
}

fn guest_facts(vmi: &VirtualMachineInstance) -> GuestFacts<'_> {
    let status = vmi.status.as_ref();
    let conditions = conditions_of(Some(vmi));
    let of = |type_| Condition::find(conditions, type_);
    let migration = status.and_then(|status| status.migration_state.as_ref());
    GuestFacts {
        phase: status.map_or(furrow_model::vmi::Phase::Unset, |status| phase(&status.phase)),
        deleting: vmi.metadata.deletion_timestamp.is_some(),
        paused: of("Paused").is_some_and(Condition::is_true),
        migrating: migration.is_some_and(|state| state.start_timestamp.is_some() && state.end_timestamp.is_none()),
        sync_failure: of("Synchronized").filter(|c| !c.is_true()).and_then(|c| c.reason.as_deref()),
        unschedulable: of("PodScheduled").is_some_and(|c| !c.is_true() && c.reason.as_deref() == Some("Unschedulable")),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
