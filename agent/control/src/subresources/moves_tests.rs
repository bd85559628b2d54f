//! Rename, migrate and evacuations, state by state.

use super::*;

fn vm(spec: Value, metadata: Value, status: Value) -> VirtualMachine {
    let mut whole = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop", "uid": "v-1"},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}}, "status": status});
    for (field, more) in [("spec", spec), ("metadata", metadata)] {
        whole[field].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    serde_json::from_value(whole).unwrap()
}

fn halted() -> VirtualMachine {
    vm(json!({"runStrategy": "Halted"}), json!({}), json!({}))
}

fn vmi(status: Value) -> VirtualMachineInstance {
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"domain": {"devices": {}}}, "status": status}))
    .unwrap()
}

fn told<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(failure) => {
            format!("{} {}", failure.told().0, failure.told().1.rsplit("\"web\": ").next().unwrap_or_default())
        }
    }
}

#[test]
fn only_a_guest_that_runs_and_is_not_bound_to_its_node_may_move() {
    let check = |status: Value, of_vm: Value, expected: &str| {
        let vm = vm(json!({"runStrategy": "Always"}), json!({}), json!({"conditions": of_vm}));
        assert_eq!(told(movable(&vm, &vmi(status))), expected);
    };
    check(json!({"phase": "Scheduled"}), json!([]), "409 VM is not running");
    check(json!({"phase": "Running"}), json!([{"type": "Paused", "status": "True"}]), "409 VM is paused");
    let fixed =
        json!([{"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable", "message": "no"}]);
    let expected = "500 Internal error occurred: Cannot migrate VMI, Reason: DisksNotLiveMigratable, Message: no";
    check(json!({"phase": "Running", "conditions": fixed}), json!([]), expected);
    let moving = json!({"phase": "Running", "migrationState": {"migrationUid": "m-1"}});
    let expected = "500 Internal error occurred: in-flight migration detected. Active migration job (m-1) is currently \
                    already in progress for VMI web.";
    check(moving, json!([]), expected);
    check(json!({"phase": "Running"}), json!([]), "()");
}

#[test]
fn a_new_name_is_another_name_that_a_machine_can_have() {
    let check = |new: &str, old: Option<&str>, expected: &str| {
        let asked = RenameOptions { new_name: new.into(), old_name: old.map(Into::into), dry_run: vec![] };
        let result = told(check_name("web", &asked));
        assert!(result.starts_with(expected), "{new}: {result}");
    };
    check("site", None, "()");
    check("site-2", Some("web"), "()");
    check("", None, "400 Please provide a new name");
    check("web", None, "400 Renaming a VM to itself");
    check("site", Some("other"), "400 oldName is not web");
    for odd in ["Site", "a.b", "-a", "a-", "a/b", &"x".repeat(64)] {
        check(odd, None, "400 newName must consist of");
    }
}

#[test]
fn only_a_stopped_machine_is_renamed() {
    let asked = RenameOptions { new_name: "site".into(), ..RenameOptions::default() };
    let check = |vm: &VirtualMachine, guest: Option<&VirtualMachineInstance>, expected: &str| {
        let result = rename(vm, guest, &asked).map(|change| change.machine.unwrap_or_default().to_string());
        assert_eq!(told(result.map(|text| text.replace('"', "'"))).trim_matches('"'), expected);
    };
    let mark = "{'metadata':{'annotations':{'furrow.io/rename-to':'site'}}}";
    let running = "409 Renaming a running VM is not allowed: stop it first";
    check(&halted(), None, mark);
    check(&vm(json!({"runStrategy": "Manual"}), json!({}), json!({})), None, mark);
    check(&vm(json!({"running": false}), json!({}), json!({})), None, mark);
    // A guest that is over still has its machine's disks.
    check(&halted(), Some(&vmi(json!({"phase": "Succeeded"}))), running);
    check(&vm(json!({"running": true}), json!({}), json!({})), None, running);
    check(&vm(json!({"runStrategy": "Once"}), json!({}), json!({})), None, running);
    let starting = json!({"stateChangeRequests": [{"action": "Start"}]});
    check(&vm(json!({"runStrategy": "Manual"}), json!({}), starting), None, running);
    let marked =
        |key: &str, value: &str| vm(json!({"runStrategy": "Halted"}), json!({"annotations": {key: value}}), json!({}));
    check(&marked("furrow.io/rename-to", "site"), None, mark);
    check(&marked("furrow.io/rename-to", "other"), None, "409 VM is being renamed to other");
    check(&marked("furrow.io/succeeds", "{}"), None, "409 VM is being renamed");
}

#[test]
fn an_evacuation_is_called_off_by_its_node() {
    let check = |status: Value, named: &str, expected: &str| {
        let asked = EvacuateCancelOptions { evacuation_node_name: named.into(), ..EvacuateCancelOptions::default() };
        assert_eq!(told(evacuates(&vmi(status), &asked)), expected);
    };
    check(json!({}), "n1", "false");
    check(json!({"evacuationNodeName": "n1"}), "n1", "true");
    check(json!({"evacuationNodeName": "n1"}), "", "true");
    check(json!({"evacuationNodeName": "n1"}), "n2", "409 VMI is evacuated from node n1, not n2");
}

#[test]
fn guests_of_a_node_that_is_drained_go_on_leaving() {
    let node = |key: &str, effect: &str| -> Node {
        let taint = json!({"key": key, "effect": effect});
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": [taint]}})).unwrap()
    };
    let told = |node: &Node| super::tests::told(check_taints(node, DRAIN_TAINT));
    let expected = "400 Node \"n1\" has NodeDrainTaintKey \"kubevirt.io/drain:NoSchedule\"";
    assert_eq!(told(&node("kubevirt.io/drain", "NoSchedule")), expected);
    assert_eq!(told(&node("kubevirt.io/drain", "NoExecute")), "()");
    assert_eq!(told(&node("other", "NoSchedule")), "()");
    assert_eq!(told(&Node::default()), "()");
}
