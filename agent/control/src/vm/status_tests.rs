//! A status after a pass, from a virtual machine, its guest and what was decided.

use super::*;
use furrow_model::vm::{Observed, decide};
use serde_json::json;

fn vm(spec: serde_json::Value) -> VirtualMachine {
    let mut full = json!({"template": {"spec": {"domain": {"devices": {}}}}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 3}, "spec": full});
    serde_json::from_value(object).unwrap()
}

fn check(
    vm: &VirtualMachine,
    guest: Option<&VirtualMachineInstance>,
    word: &str,
    reason: Option<&str>,
) -> VirtualMachine {
    let observed = Observed {
        strategy: strategy(vm),
        last_strategy: None,
        guest: guest.map(super::guest),
        requests: Vec::new(),
        volumes_ready: true,
        failure: None,
        now_ms: 0,
        jitter_permille: 0,
    };
    let facts = Facts { guest, volumes: &Volumes::default(), failure: None, restart: None };
    let new = report(vm, &decide(&observed), &facts);
    let status = new.status.clone().unwrap();
    assert_eq!(status.printable_status.unwrap().as_str(), word);
    let ready = Condition::find(&status.conditions, "Ready").unwrap();
    assert_eq!(ready.reason.as_deref(), reason);
    new
}

#[test]
fn a_halted_machine_is_not_ready_for_the_reason_that_ansible_waits_for() {
    let halted = vm(json!({"running": false}));
    assert_eq!(strategy(&halted), Strategy::Halted);
    check(&halted, None, "Stopped", Some("VMINotExists"));
    assert_eq!(strategy(&vm(json!({"running": true}))), Strategy::Always);
    assert_eq!(strategy(&vm(json!({"runStrategy": "Manual"}))), Strategy::Manual);
}

#[test]
fn a_running_machine_shows_what_its_guest_says() {
    let machine = vm(json!({"runStrategy": "Always"}));
    let guest: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "annotations": {ANNOTATION_GENERATION: "2"}},
        "spec": {"domain": {"devices": {}}},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "LiveMigratable", "status": "True"},
            {"type": "PodScheduled", "status": "True"}]},
    }))
    .unwrap();
    let shown = check(&machine, Some(&guest), "Running", None).status.unwrap();
    assert!(shown.created && shown.ready);
    assert_eq!((shown.observed_generation, shown.desired_generation), (Some(2), Some(3)));
    let types: Vec<_> = shown.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(types, ["LiveMigratable", "PodScheduled", "Ready"]);
}

#[test]
fn conditions_of_its_own_come_and_go() {
    let machine = vm(json!({"runStrategy": "Always"}));
    let decision = Decision {
        action: Action::Nothing,
        requests: Vec::new(),
        failure: None,
        strategy: Some(Strategy::Always),
        retry_at_ms: None,
    };
    let refused = Failed { reason: "FailedCreate", message: "exceeded quota".into() };
    let (volumes, restart) = (Volumes::default(), Some("a field was changed"));
    let facts = Facts { guest: None, volumes: &volumes, failure: Some(&refused), restart };
    let failed = report(&machine, &decision, &facts);
    let status = failed.status.clone().unwrap();
    let failure = Condition::find(&status.conditions, "Failure").unwrap();
    assert_eq!((failure.reason.as_deref(), failure.message.as_deref()), (Some("FailedCreate"), Some("exceeded quota")));
    let waits = Condition::find(&status.conditions, "RestartRequired").unwrap();
    assert_eq!((waits.is_true(), waits.message.as_deref()), (true, restart));
    assert_eq!(status.printable_status.unwrap(), PrintableStatus::Stopped);
    assert_eq!((status.observed_generation, status.desired_generation), (None, None));
    let facts = Facts { guest: None, volumes: &volumes, failure: None, restart: None };
    let cured = report(&failed, &decision, &facts).status.unwrap();
    let types: Vec<_> = cured.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(types, ["Ready"]);
}

#[test]
fn a_machine_stops_from_the_pass_that_stops_it() {
    let halted = vm(json!({"runStrategy": "Halted"}));
    let guest: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "web"},
        "spec": {"domain": {"devices": {}}}, "status": {"phase": "Running"},
    }))
    .unwrap();
    check(&halted, Some(&guest), "Stopping", Some("VMIConditionMissing"));
    let always = vm(json!({"runStrategy": "Always"}));
    check(&always, Some(&guest), "Running", Some("VMIConditionMissing"));
    check(&always, None, "Starting", Some("VMINotExists"));
}

#[test]
fn requests_survive_the_way_to_the_wire_and_back() {
    let both = [Request::Start { paused: true }, Request::Stop { uid: "u".into() }];
    let wire: Vec<_> = both.iter().map(wire_request).collect();
    assert_eq!(requests(&wire), both);
    assert_eq!(
        Action::Nothing,
        decide(&Observed {
            strategy: Strategy::Manual,
            last_strategy: None,
            guest: None,
            requests: Vec::new(),
            volumes_ready: true,
            failure: None,
            now_ms: 0,
            jitter_permille: 0,
        })
        .action
    );
}
