//! Start, stop and restart of a virtual machine: from its state and the client's options to what is written, or to why
//! nothing is. Pure; `super::carry` writes. What follows from the writing is the controller's (`crate::vm`).
//!
//! | strategy       | start                          | stop                      | restart       |
//! |----------------|--------------------------------|---------------------------|---------------|
//! | Always         | 409                            | strategy Halted           | stop, start   |
//! | RerunOnFailure | start request; 409 if failed   | stop request              | stop, start   |
//! | Manual         | start request                  | stop request              | stop, start   |
//! | Once           | 409                            | strategy Halted           | 409           |
//! | Halted         | strategy Always; paused: start request | a shorter grace period only | 409   |

use furrow_api::meta::Condition;
use furrow_api::subresources::{RestartOptions, StartOptions, StopOptions};
use furrow_api::vm::RunStrategy;
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::failure::Failure;
use super::route::Resource;

const NOT_RUNNING: &str = "VM is not running";
const RECOVERY: &str = "VM recovery required: Volume migration failed, leaving some volumes pointing to non-consistent \
                        targets; manual intervention is needed to reassign them to their original volumes.";

/// A forced restart leaves the guest this long, in seconds.
const FORCED_GRACE_S: i64 = 1;

/// What is written. A part that is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Change {
    /// `spec.terminationGracePeriodSeconds` of the guest; first, so that the stop that follows already counts by it.
    pub(super) grace_s: Option<i64>,
    /// Merge patch of the virtual machine.
    pub(super) machine: Option<Value>,
    /// Merge patch of its status.
    pub(super) status: Option<Value>,
}

fn conflict(vm: &VirtualMachine, why: &str) -> Failure {
    Failure::conflict(Resource::VirtualMachines, &vm.name_any(), why)
}

/// The strategy in effect.
fn strategy(vm: &VirtualMachine) -> Result<RunStrategy, Failure> {
    match (&vm.spec.run_strategy, vm.spec.running) {
        (Some(_), Some(_)) => Err(Failure::internal("running and runstrategy are mutually exclusive")),
        (Some(strategy), None) => Ok(strategy.clone()),
        (None, Some(true)) => Ok(RunStrategy::Always),
        (None, _) => Ok(RunStrategy::Halted),
    }
}

fn holds(vm: &VirtualMachine, condition: &str) -> bool {
    let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    Condition::find(conditions, condition).is_some_and(Condition::is_true)
}

fn phase(vmi: &VirtualMachineInstance) -> VmiPhase {
    vmi.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default()
}

/// A guest that is not over.
fn running(vmi: Option<&VirtualMachineInstance>) -> Option<&VirtualMachineInstance> {
    vmi.filter(|vmi| !phase(vmi).is_final())
}

/// Plans a start.
///
/// # Errors
/// Why it is not started.
pub(super) fn start(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &StartOptions,
) -> Result<Change, Failure> {
    // Upstream lets a guest pass whose phase is not set yet; a request written then would start it again after its stop.
    if running(vmi).is_some_and(|vmi| phase(vmi) != VmiPhase::Unknown) {
        return Err(conflict(vm, "VM is already running"));
    }
    if vm.annotations().contains_key(names::ANNOTATION_RENAME_TO) {
        return Err(conflict(vm, "VM is being renamed"));
    }
    if holds(vm, "ManualRecoveryRequired") {
        return Err(conflict(vm, RECOVERY));
    }
    let request = if options.paused {
        json!({"action": "Start", "data": {"paused": "true"}})
    } else {
        json!({"action": "Start"})
    };
    let strategy = strategy(vm)?;
    match strategy {
        RunStrategy::Halted if options.paused => requests(vm, vec![request]),
        RunStrategy::Halted => Ok(Change { machine: Some(run(vm, true)), ..Change::default() }),
        RunStrategy::RerunOnFailure if vmi.is_some_and(|vmi| phase(vmi) == VmiPhase::Failed) => {
            Err(conflict(vm, "RerunOnFailure does not support starting VM from failed state"))
        }
        RunStrategy::RerunOnFailure | RunStrategy::Manual => {
            let over = vmi.filter(|vmi| phase(vmi).is_final());
            requests(vm, over.map(stop_request).into_iter().chain([request]).collect())
        }
        other => Err(conflict(vm, &format!("{} does not support manual start requests", other.as_str()))),
    }
}

/// Plans a stop.
///
/// # Errors
/// Why it is not stopped.
pub(super) fn stop(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &StopOptions,
) -> Result<Change, Failure> {
    let running = running(vmi);
    let grace_s = options.grace_period.filter(|_| running.is_some());
    if grace_s.is_some_and(|seconds| seconds < 0) {
        return Err(Failure::bad_request("gracePeriod has to be greater or equal to 0"));
    }
    let strategy = strategy(vm)?;
    let change = match (&strategy, running) {
        (RunStrategy::Always | RunStrategy::Once, _) => Change { machine: Some(run(vm, false)), ..Change::default() },
        (RunStrategy::Halted | RunStrategy::RerunOnFailure | RunStrategy::Manual, None) => {
            return Err(conflict(vm, NOT_RUNNING));
        }
        (RunStrategy::Halted, Some(vmi)) => {
            let current = vmi.spec.termination_grace_period_seconds;
            let shorter = options.grace_period.is_some_and(|asked| current.is_none_or(|current| asked < current));
            if !shorter {
                return Err(conflict(vm, "Halted only supports manual stop requests with a shorter graceperiod"));
            }
            requests(vm, vec![stop_request(vmi)])?
        }
        (RunStrategy::RerunOnFailure | RunStrategy::Manual, Some(vmi)) => requests(vm, vec![stop_request(vmi)])?,
        (other, _) => {
            return Err(conflict(vm, &format!("{} does not support manual stop requests", other.as_str())));
        }
    };
    Ok(Change { grace_s, ..change })
}

/// Plans a restart.
///
/// # Errors
/// Why it is not restarted.
pub(super) fn restart(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &RestartOptions,
) -> Result<Change, Failure> {
    match options.grace_period_seconds {
        Some(1..) => return Err(Failure::bad_request("For force restart, only gracePeriod=0 is supported for now")),
        Some(..0) => return Err(Failure::bad_request("gracePeriod has to be greater or equal to 0")),
        Some(0) | None => {}
    }
    if holds(vm, "VolumesChange") {
        return Err(conflict(vm, RECOVERY));
    }
    let strategy = strategy(vm)?;
    if !matches!(strategy, RunStrategy::Always | RunStrategy::RerunOnFailure | RunStrategy::Manual) {
        // The misspelt word is KubeVirt's own, and what tools look for.
        let why = format!("RunStategy {} does not support manual restart requests", strategy.as_str());
        return Err(conflict(vm, &why));
    }
    let vmi = vmi.ok_or_else(|| conflict(vm, "VM is not running: Halted"))?;
    let change = requests(vm, vec![stop_request(vmi), json!({"action": "Start"})])?;
    let grace_s = options.grace_period_seconds.filter(|_| running(Some(vmi)).is_some()).map(|_| FORCED_GRACE_S);
    Ok(Change { grace_s, ..change })
}

fn stop_request(vmi: &VirtualMachineInstance) -> Value {
    json!({"action": "Stop", "uid": vmi.uid()})
}

/// The patch that makes it run, or not, in the field that the virtual machine already uses.
fn run(vm: &VirtualMachine, run: bool) -> Value {
    if vm.spec.run_strategy.is_some() {
        json!({"spec": {"runStrategy": if run { "Always" } else { "Halted" }}})
    } else {
        json!({"spec": {"running": run}})
    }
}

/// The patch that asks the controller. A stop takes the place of whatever was asked; nothing else does.
fn requests(vm: &VirtualMachine, requests: Vec<Value>) -> Result<Change, Failure> {
    let pending = vm.status.as_ref().is_some_and(|status| !status.state_change_requests.is_empty());
    let only_stops = requests.iter().all(|request| request["action"] == "Stop");
    if pending && !only_stops {
        return Err(Failure::internal("unable to complete request: stop/start already underway"));
    }
    // A person who starts it does not wait for the end of a back-off.
    let status = json!({"status": {"stateChangeRequests": requests, "startFailure": null}});
    Ok(Change { status: Some(status), ..Change::default() })
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
