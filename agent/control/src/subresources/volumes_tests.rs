//! Volumes in and out of a machine's spec.

use furrow_api::vmi::DiskBus;

use super::*;

fn vm() -> VirtualMachine {
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "more", "disk": {"bus": "scsi"}}]}},
            "volumes": [{"name": "root", "dataVolume": {"name": "web-root"}},
                {"name": "more", "persistentVolumeClaim": {"claimName": "web-more", "hotpluggable": true}}]}}}}))
    .unwrap()
}

fn vmi(phase: &str) -> VirtualMachineInstance {
    serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"domain": {"devices": {}}}, "status": {"phase": phase}}))
    .unwrap()
}

/// As virtctl sends it.
fn add(name: &str, claim: &str) -> Asked {
    let body = json!({"name": name, "disk": {"disk": {"bus": "scsi"}, "serial": name},
        "volumeSource": {"dataVolume": {"name": claim}}});
    read_add(body.to_string().as_bytes()).unwrap()
}

fn remove(name: &str) -> Asked {
    read_remove(json!({"name": name}).to_string().as_bytes()).unwrap()
}

/// `volumes | disks` by name, `*` for what may be plugged, or the refusal.
fn told(asked: &Asked, guest: Option<&str>) -> String {
    let guest = guest.map(vmi);
    match change(&vm(), guest.as_ref(), asked) {
        Err(failure) => {
            format!("{} {}", failure.told().0, failure.told().1.rsplit("\"web\": ").next().unwrap_or_default())
        }
        Ok(change) => {
            let spec = change.machine.unwrap()["spec"]["template"]["spec"].clone();
            let names = |list: &Value| -> String {
                let word = |entry: &Value| {
                    let plugged =
                        ["dataVolume", "persistentVolumeClaim"].iter().any(|kind| entry[kind]["hotpluggable"] == true);
                    format!("{}{}", entry["name"].as_str().unwrap(), if plugged { "*" } else { "" })
                };
                list.as_array().unwrap().iter().map(word).collect::<Vec<_>>().join(",")
            };
            format!("{} | {}", names(&spec["volumes"]), names(&spec["domain"]["devices"]["disks"]))
        }
    }
}

#[test]
fn a_stopped_machine_gets_a_volume_and_loses_it() {
    assert_eq!(told(&add("data", "web-data"), None), "root,more*,data* | root,more,data");
    assert_eq!(told(&add("data", "web-data"), Some("Succeeded")), "root,more*,data* | root,more,data");
    assert_eq!(told(&remove("more"), None), "root | root");
    assert_eq!(told(&remove("web-more"), None), "root | root", "virtctl names the claim too");
}

#[test]
fn what_is_there_is_not_added_and_what_belongs_is_not_removed() {
    let check = |asked: &Asked, expected: &str| assert_eq!(told(asked, None), expected);
    check(&add("more", "x"), "409 Unable to add volume [more] because volume with that name already exists");
    check(&add("x", "web-root"), "409 Unable to add volume source [web-root] because it already exists");
    check(&add("x", "web-more"), "409 Unable to add volume source [web-more] because it already exists");
    check(&remove("root"), "409 Unable to remove volume [root] because it is not hotpluggable");
    check(&remove("x"), "409 Unable to remove volume [x] because it does not exist");
}

#[test]
fn a_running_guest_gets_disks_of_its_scsi_controller_alone() {
    for phase in ["", "Scheduled", "Running"] {
        assert_eq!(told(&add("data", "web-data"), Some(phase)), "root,more*,data* | root,more,data");
        assert_eq!(told(&remove("more"), Some(phase)), "root | root");
    }
    let Asked::Add(mut options) = add("data", "web-data") else { panic!("it was added") };
    options.disk.disk.as_mut().unwrap().bus = Some(DiskBus::Virtio);
    let asked = Asked::Add(options);
    let expected =
        "409 Unable to add volume [data] because disk.disk.bus must be scsi to be plugged into a running guest";
    assert_eq!(told(&asked, Some("Running")), expected);
    assert_eq!(told(&asked, None), "root,more*,data* | root,more,data", "at the next start there is a place");
}

#[test]
fn a_guest_that_was_made_without_a_place_gets_nothing() {
    let mut guest = vmi("Running");
    guest.spec.domain.devices.disable_hotplug = true;
    let failure = change_guest(&guest, &add("data", "web-data")).unwrap_err();
    assert_eq!(failure.told().0, 409);
    assert!(failure.told().1.contains("domain.devices.disableHotplug is set"), "{}", failure.told().1);
}

#[test]
fn a_field_that_is_not_realised_is_refused_by_its_path() {
    let body = json!({"name": "data", "disk": {"disk": {"bus": "scsi"}, "tag": "x"},
        "volumeSource": {"dataVolume": {"name": "web-data"}}});
    let asked = read_add(body.to_string().as_bytes()).unwrap();
    let failure = change_guest(&vmi("Running"), &asked).unwrap_err();
    assert_eq!(failure.told().0, 400);
    assert!(failure.told().1.contains("spec.domain.devices.disks[0].tag: "), "{}", failure.told().1);
}

#[test]
fn a_volume_of_a_guest_alone_is_remembered_as_such() {
    let guest = |phase: &str, owned: bool, own: &str| -> VirtualMachineInstance {
        let owners = if owned {
            json!([{"apiVersion": "v1", "kind": "VirtualMachine", "name": "web", "uid": "v"}])
        } else {
            json!([])
        };
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "ownerReferences": owners, "annotations": {names::ANNOTATION_EPHEMERAL_VOLUMES: own}},
            "spec": {"domain": {"devices": {"disks": [{"name": "more", "disk": {"bus": "scsi"}}]}},
                "volumes": [{"name": "more", "persistentVolumeClaim": {"claimName": "c", "hotpluggable": true}}]},
            "status": {"phase": phase}}))
        .unwrap()
    };
    let own = |patch: &Value| patch["metadata"]["annotations"][names::ANNOTATION_EPHEMERAL_VOLUMES].clone();
    let refusal = |result: Result<Value, Failure>| {
        let failure = result.unwrap_err();
        (failure.told().0, failure.told().1.rsplit("\"web\": ").next().unwrap_or_default().to_owned())
    };
    let added = change_guest(&guest("Running", true, "[]"), &add("data", "d")).unwrap();
    assert_eq!(own(&added), json!(r#"["data"]"#));
    assert_eq!(added["spec"]["volumes"][1]["name"], "data");
    let removed = change_guest(&guest("Running", true, r#"["more"]"#), &remove("more")).unwrap();
    assert_eq!((own(&removed), &removed["spec"]["volumes"]), (Value::Null, &json!([])));
    let alone = change_guest(&guest("Running", false, "[]"), &remove("more")).unwrap();
    assert_eq!(alone["spec"]["domain"]["devices"]["disks"], json!([]));
    let mut sata = guest("Running", false, "[]");
    sata.spec.domain.devices.disks[0].disk.as_mut().unwrap().bus = Some(DiskBus::Sata);
    let expected = "Unable to remove volume [more] because no guest lets go of its bus";
    assert_eq!(refusal(change_guest(&sata, &remove("more"))), (409, expected.to_owned()));
    let expected = "Unable to remove volume [more] because it is the VirtualMachine's: remove it there";
    assert_eq!(refusal(change_guest(&guest("Running", true, "[]"), &remove("more"))), (409, expected.to_owned()));
    assert_eq!(
        refusal(change_guest(&guest("Scheduled", true, "[]"), &add("x", "y"))),
        (409, "VMI is not running".to_owned())
    );
}

#[test]
fn options_that_are_missing_are_named() {
    let check = |result: Result<Asked, Failure>, expected: &str| {
        let failure = result.unwrap_err();
        assert_eq!(failure.told().0, 400);
        assert!(failure.told().1.starts_with(expected), "{}", failure.told().1);
    };
    check(read_add(b""), "AddVolumeOptions requires name to be set");
    check(read_add(br#"{"name": "x"}"#), "AddVolumeOptions requires disk to not be nil");
    check(read_add(br#"{"name": "x", "disk": {}}"#), "AddVolumeOptions requires VolumeSource to not be nil");
    let both = br#"{"name": "x", "disk": {}, "volumeSource": {"dataVolume": {"name": "a"}, "persistentVolumeClaim": {"claimName": "b"}}}"#;
    check(read_add(both), "AddVolumeOptions requires volumeSource to be one of");
    check(
        read_add(br#"{"name": "x", "disk": {}, "volumeSource": {}}"#),
        "AddVolumeOptions requires volumeSource to be one of",
    );
    check(read_add(br#"{"name": "x", "disk": "y", "volumeSource": {}}"#), "Can not unmarshal Request body to struct");
    check(read_remove(b"{}"), "RemoveVolumeOptions requires name to be set");
    assert!(matches!(add("x", "y"), Asked::Add(options) if options.disk.name == "x"));
    let dry = read_remove(br#"{"name": "x", "dryRun": ["All"]}"#).unwrap();
    assert!(dry.is_dry_run());
}
