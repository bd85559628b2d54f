//! Start, stop and restart, strategy by strategy.

use super::*;

/// A virtual machine with a strategy; `running` stands for the older field.
fn vm(strategy: &str, status: Value) -> VirtualMachine {
    let mut spec = json!({"template": {"spec": {"domain": {"devices": {}}}}});
    match strategy {
        "running" => spec["running"] = json!(true),
        "not running" => spec["running"] = json!(false),
        strategy => spec["runStrategy"] = json!(strategy),
    }
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status}))
    .unwrap()
}

fn vmi(phase: &str) -> VirtualMachineInstance {
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {"domain": {"devices": {}}, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}}))
    .unwrap()
}

/// What is written, in short: `strategy X`, `running X`, `[Stop, Start paused]`, with `grace N` before it; or the refusal.
fn shown(planned: Result<Change, Failure>) -> String {
    let change = match planned {
        Ok(change) => change,
        Err(failure) => {
            let (code, message) = failure.told();
            return format!("{code}: {}", message.rsplit("\"web\": ").next().unwrap_or_default());
        }
    };
    let mut parts = Vec::new();
    parts.extend(change.grace_s.map(|seconds| format!("grace {seconds}")));
    if let Some(spec) = change.machine.map(|patch| patch["spec"].clone()) {
        let word = |key: &str| spec[key].as_str().map_or_else(|| spec[key].to_string(), str::to_owned);
        let strategy = spec.get("runStrategy").is_some();
        parts.push(if strategy {
            format!("strategy {}", word("runStrategy"))
        } else {
            format!("running {}", word("running"))
        });
    }
    if let Some(status) = change.status.map(|patch| patch["status"].clone()) {
        assert!(status["startFailure"].is_null() && status.get("startFailure").is_some());
        let requests = status["stateChangeRequests"].as_array().unwrap().iter().map(|request| {
            assert_eq!(request["action"] == "Stop", request["uid"] == "u-1", "a stop names the guest");
            let paused = if request["data"]["paused"] == "true" { " paused" } else { "" };
            format!("{}{paused}", request["action"].as_str().unwrap())
        });
        parts.push(format!("[{}]", requests.collect::<Vec<_>>().join(", ")));
    }
    parts.join(", ")
}

#[test]
fn starts() {
    let check = |strategy: &str, phase: Option<&str>, paused: bool, expected: &str| {
        let guest = phase.map(vmi);
        let options = StartOptions { paused, dry_run: Vec::new() };
        let told = shown(start(&vm(strategy, json!({})), guest.as_ref(), &options));
        assert_eq!(told, expected, "{strategy} {phase:?} paused={paused}");
    };
    check("Halted", None, false, "strategy Always");
    check("Halted", None, true, "[Start paused]");
    check("not running", None, false, "running true");
    check("not running", None, true, "[Start paused]");
    check("Manual", None, false, "[Start]");
    check("Manual", None, true, "[Start paused]");
    check("Manual", Some("Succeeded"), false, "[Stop, Start]");
    check("Manual", Some("Failed"), true, "[Stop, Start paused]");
    check("RerunOnFailure", None, false, "[Start]");
    check("RerunOnFailure", Some("Succeeded"), false, "[Stop, Start]");
    check(
        "RerunOnFailure",
        Some("Failed"),
        false,
        "409: RerunOnFailure does not support starting VM from failed state",
    );
    check("Always", None, false, "409: Always does not support manual start requests");
    check("running", None, false, "409: Always does not support manual start requests");
    check("Once", None, false, "409: Once does not support manual start requests");
    check("WaitAsReceiver", None, false, "409: WaitAsReceiver does not support manual start requests");
    for phase in ["", "Pending", "Scheduling", "Scheduled", "Running"] {
        check("Manual", Some(phase), false, "409: VM is already running");
        check("Halted", Some(phase), false, "409: VM is already running");
    }
    check("Halted", Some("Unknown"), false, "strategy Always");
}

#[test]
fn stops() {
    let check = |strategy: &str, phase: Option<&str>, grace_period: Option<i64>, expected: &str| {
        let guest = phase.map(vmi);
        let options = StopOptions { grace_period, dry_run: Vec::new() };
        let told = shown(stop(&vm(strategy, json!({})), guest.as_ref(), &options));
        assert_eq!(told, expected, "{strategy} {phase:?} {grace_period:?}");
    };
    check("Always", Some("Running"), None, "strategy Halted");
    check("Always", None, None, "strategy Halted");
    check("Always", Some("Running"), Some(0), "grace 0, strategy Halted");
    check("Always", Some("Succeeded"), Some(0), "strategy Halted");
    check("running", Some("Running"), None, "running false");
    check("Once", Some("Running"), None, "strategy Halted");
    check("Manual", Some("Running"), None, "[Stop]");
    check("Manual", Some("Scheduling"), Some(5), "grace 5, [Stop]");
    check("Manual", None, None, "409: VM is not running");
    check("Manual", Some("Failed"), None, "409: VM is not running");
    check("RerunOnFailure", Some("Running"), None, "[Stop]");
    check("RerunOnFailure", None, None, "409: VM is not running");
    check("Halted", None, None, "409: VM is not running");
    let longer = "409: Halted only supports manual stop requests with a shorter graceperiod";
    check("Halted", Some("Running"), None, longer);
    check("Halted", Some("Running"), Some(30), longer);
    check("Halted", Some("Running"), Some(3), "grace 3, [Stop]");
    check("Manual", Some("Running"), Some(-1), "400: gracePeriod has to be greater or equal to 0");
}

#[test]
fn restarts() {
    let check = |strategy: &str, phase: Option<&str>, grace_period_seconds: Option<i64>, expected: &str| {
        let guest = phase.map(vmi);
        let options = RestartOptions { grace_period_seconds, dry_run: Vec::new() };
        let told = shown(restart(&vm(strategy, json!({})), guest.as_ref(), &options));
        assert_eq!(told, expected, "{strategy} {phase:?} {grace_period_seconds:?}");
    };
    for strategy in ["Always", "running", "Manual", "RerunOnFailure"] {
        check(strategy, Some("Running"), None, "[Stop, Start]");
        check(strategy, Some("Running"), Some(0), "grace 1, [Stop, Start]");
        check(strategy, Some("Failed"), Some(0), "[Stop, Start]");
        check(strategy, None, None, "409: VM is not running: Halted");
        check(strategy, Some("Running"), Some(5), "400: For force restart, only gracePeriod=0 is supported for now");
        check(strategy, Some("Running"), Some(-5), "400: gracePeriod has to be greater or equal to 0");
    }
    check("Halted", None, None, "409: RunStategy Halted does not support manual restart requests");
    check("Once", Some("Running"), None, "409: RunStategy Once does not support manual restart requests");
}

#[test]
fn what_is_under_way_is_only_replaced_by_a_stop() {
    let pending = json!({"stateChangeRequests": [{"action": "Start"}]});
    let machine = vm("Manual", pending);
    let underway = "500: Internal error occurred: unable to complete request: stop/start already underway";
    assert_eq!(shown(start(&machine, None, &StartOptions::default())), underway);
    let guest = vmi("Running");
    assert_eq!(shown(restart(&machine, Some(&guest), &RestartOptions::default())), underway);
    assert_eq!(shown(stop(&machine, Some(&guest), &StopOptions::default())), "[Stop]");
}

#[test]
fn volumes_that_are_not_where_they_should_be_need_a_person_first() {
    let condition = |name: &str| json!({"conditions": [{"type": name, "status": "True"}]});
    let told = shown(start(&vm("Halted", condition("ManualRecoveryRequired")), None, &StartOptions::default()));
    assert!(told.starts_with("409: VM recovery required: "), "{told}");
    let guest = vmi("Running");
    let told = shown(restart(&vm("Always", condition("VolumesChange")), Some(&guest), &RestartOptions::default()));
    assert!(told.starts_with("409: VM recovery required: "), "{told}");
}

#[test]
fn two_strategies_at_once_are_none() {
    let mut machine = vm("Always", json!({}));
    machine.spec.running = Some(true);
    let told = shown(stop(&machine, None, &StopOptions::default()));
    assert_eq!(told, "500: Internal error occurred: running and runstrategy are mutually exclusive");
}
