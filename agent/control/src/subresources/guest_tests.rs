//! Operations on guests, state by state.

use super::*;
use serde_json::{Value, json};

use GuestOperation::{FilesystemList, Freeze, GuestOsInfo, Pause, Reset, SoftReboot, Unfreeze, Unpause, UserList};

fn vmi(spec: Value, status: Value) -> VirtualMachineInstance {
    let mut full = json!({"domain": {"devices": {}}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": full, "status": status}))
    .unwrap()
}

fn running(conditions: &[&str]) -> Value {
    let conditions: Vec<_> = conditions.iter().map(|name| json!({"type": name, "status": "True"})).collect();
    json!({"phase": "Running", "conditions": conditions})
}

fn check(operation: GuestOperation, vmi: &VirtualMachineInstance, expected: Option<&str>) {
    let told = super::check(operation, vmi, None).err().map(|failure| {
        let (code, message) = failure.told();
        let message = message.split("\"web\"").last().unwrap_or_default();
        format!("{code}{message}")
    });
    assert_eq!(told.as_deref(), expected, "{operation:?}");
}

#[test]
fn nothing_is_done_to_a_guest_that_does_not_run() {
    for phase in ["", "Scheduled", "Succeeded"] {
        let guest = vmi(json!({}), json!({"phase": phase}));
        for operation in [Pause, SoftReboot, Freeze] {
            check(operation, &guest, Some("409: VM is not running"));
        }
        for operation in [Unpause, Unfreeze, GuestOsInfo, UserList, FilesystemList] {
            check(operation, &guest, Some("409: VMI is not running"));
        }
    }
    let expected = "400Failed to reset non-running VMI with phase Scheduled: Unable to connect to VirtualMachineInstance \
                    because phase is Scheduled instead of Running or Scheduled";
    check(Reset, &vmi(json!({}), json!({"phase": "Scheduled"})), Some(expected));
}

#[test]
fn a_running_guest_can_be_paused_once_and_rebooted() {
    let guest = vmi(json!({}), running(&["Ready"]));
    for operation in [Pause, SoftReboot, Reset, Freeze, Unfreeze] {
        check(operation, &guest, None);
    }
    check(Unpause, &guest, Some("409: VMI is not paused"));
    let paused = vmi(json!({}), running(&["Ready", "Paused"]));
    check(Pause, &paused, Some("409: VMI is already paused"));
    check(SoftReboot, &paused, Some("409: VMI is paused"));
    check(Unpause, &paused, None);
    check(Reset, &paused, None);
}

#[test]
fn only_the_agents_own_probe_survives_a_pause() {
    let probe = |probe: Value| vmi(json!({"livenessProbe": probe}), running(&[]));
    let refused = "403 is forbidden: Pausing VMIs with LivenessProbe is currently not supported";
    check(Pause, &probe(json!({"tcpSocket": {"port": 22}})), Some(refused));
    check(Pause, &probe(json!({"guestAgentPing": {}})), None);
}

#[test]
fn a_guest_on_its_way_is_not_paused() {
    let migrating = |state: Value| {
        let mut status = running(&[]);
        status["migrationState"] = state;
        vmi(json!({}), status)
    };
    let refused = "409: Cannot pause VM 'web' because it is currently being migrated";
    check(Pause, &migrating(json!({"startTimestamp": "2026-01-01T00:00:00Z"})), Some(refused));
    check(Pause, &migrating(json!({"completed": true})), None);
}

#[test]
fn a_reboot_needs_somebody_to_hear_it() {
    let deaf = json!({"domain": {"devices": {}, "features": {"acpi": {"enabled": false}}}});
    let refused = "409: VMI neither have the agent connected nor the ACPI feature enabled";
    check(SoftReboot, &vmi(deaf.clone(), running(&[])), Some(refused));
    check(SoftReboot, &vmi(deaf, running(&["AgentConnected"])), None);
}

#[test]
fn questions_need_an_agent() {
    for operation in [GuestOsInfo, UserList, FilesystemList] {
        check(operation, &vmi(json!({}), running(&[])), Some("409: VMI does not have guest agent connected"));
        check(operation, &vmi(json!({}), running(&["AgentConnected"])), None);
    }
}

#[test]
fn a_snapshot_under_way_keeps_its_guest_paused() {
    let vm: VirtualMachine = serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web"}, "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
        "status": {"snapshotInProgress": "s"}}))
    .unwrap();
    let failure = super::check(Unpause, &vmi(json!({}), running(&["Paused"])), Some(&vm)).unwrap_err();
    let expected = "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"web\": VM snapshot is in progress";
    assert_eq!(failure.told(), (409, expected));
}

#[test]
fn streams_need_their_device_and_a_guest_that_runs() {
    use GuestStream::{Console, UsbRedirection, Vnc};
    let told = |stream, spec: Value, phase: &str| {
        let failure = check_stream(stream, &vmi(spec, json!({"phase": phase}))).err();
        failure.map(|failure| failure.told().0)
    };
    for stream in [Console, Vnc] {
        assert_eq!(told(stream, json!({}), "Running"), None);
        assert_eq!(told(stream, json!({}), "Scheduled"), Some(400));
    }
    let without = |field: &str| json!({"domain": {"devices": {field: false}}});
    assert_eq!(told(Console, without("autoattachSerialConsole"), "Running"), Some(400));
    assert_eq!(told(Vnc, without("autoattachSerialConsole"), "Running"), None);
    assert_eq!(told(Vnc, without("autoattachGraphicsDevice"), "Running"), Some(400));
    assert_eq!(told(Console, json!({}), "Failed"), Some(409));
    assert_eq!(told(Vnc, json!({}), "Failed"), Some(400));
    let lent = json!({"domain": {"devices": {"clientPassthrough": {}}}});
    assert_eq!(told(UsbRedirection, lent.clone(), "Running"), None);
    for phase in ["", "Scheduled", "Succeeded", "Failed"] {
        assert_eq!(told(UsbRedirection, lent.clone(), phase), Some(400), "{phase}");
    }
    let failure = check_stream(UsbRedirection, &vmi(json!({}), running(&[]))).unwrap_err();
    let expected = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"web\": \
                    Not configured with USB Redirection";
    assert_eq!(failure.told(), (409, expected));
}

#[test]
fn a_port_is_reached_at_the_first_interface_of_a_guest_that_is_not_paused() {
    let told = |status: Value| match check_forward(&vmi(json!({}), status)) {
        Ok((nic, address)) => format!("{nic} {address}"),
        Err(failure) => {
            format!("{} {}", failure.told().0, failure.told().1.split("\"web\": ").last().unwrap_or_default())
        }
    };
    let two = json!([{"name": "lan", "ipAddress": "192.168.10.7"}, {"name": "wan", "ipAddress": "10.0.0.1"}]);
    assert_eq!(told(json!({"phase": "Running", "interfaces": two})), "lan 192.168.10.7");
    assert_eq!(told(json!({"interfaces": [{"name": "lan", "ipAddress": "fd00::7"}]})), "lan fd00::7");
    let paused = json!({"interfaces": two, "conditions": [{"type": "Paused", "status": "True"}]});
    assert_eq!(told(paused), "409 VMI is paused");
    assert_eq!(told(json!({"phase": "Running"})), "400 no network interfaces are present");
    for interface in [
        json!({"name": "lan"}),
        json!({"name": "../x", "ipAddress": "10.0.0.1"}),
        json!({"name": "lan", "ipAddress": "x"}),
    ] {
        assert_eq!(told(json!({"interfaces": [interface]})), "400 the first network interface has no address yet");
    }
}
