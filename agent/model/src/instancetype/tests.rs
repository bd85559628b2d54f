//! Tables: a template, an instancetype, a preference, and what comes out, by KubeVirt's rules.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

/// Quantities of the tests: `4Gi`, `512Mi`, or bytes.
fn bytes(text: &str) -> Option<i64> {
    let (number, unit) = match (text.strip_suffix("Gi"), text.strip_suffix("Mi")) {
        (Some(number), _) => (number, 1 << 30),
        (None, Some(number)) => (number, 1 << 20),
        (None, None) => (text, 1),
    };
    number.parse::<i64>().ok().map(|number| number * unit)
}

fn types<'a>(instancetype: Option<&'a Value>, preference: Option<&'a Value>) -> Types<'a> {
    Types { instancetype, preference, bytes }
}

fn size() -> Value {
    json!({"cpu": {"guest": 4}, "memory": {"guest": "8Gi"}})
}

/// Applies to a template of this spec.
fn applied(spec: Value, instancetype: Option<Value>, preference: Option<Value>) -> Result<Value, Vec<Fault>> {
    let mut template = json!({"spec": spec});
    let types = types(instancetype.as_ref(), preference.as_ref());
    apply("spec.template", &mut template, &types).map(|()| template)
}

fn fields(faults: &[Fault]) -> Vec<&str> {
    faults.iter().map(|fault| fault.field.as_str()).collect()
}

#[test]
fn an_instancetype_gives_sockets_and_memory() {
    let got = applied(json!({"domain": {"devices": {}}}), Some(size()), None).unwrap();
    let expected = json!({"cpu": {"sockets": 4, "cores": 1, "threads": 1}, "memory": {"guest": "8Gi"}, "devices": {}});
    assert_eq!(got["spec"]["domain"], expected);
    assert_eq!(got.get("metadata"), None);
}

#[test]
fn everything_an_instancetype_says_arrives() {
    let mut size = size();
    size["cpu"]["dedicatedCPUPlacement"] = json!(true);
    size["cpu"]["model"] = json!("host-passthrough");
    size["cpu"]["maxSockets"] = json!(8);
    size["memory"]["hugepages"] = json!({"pageSize": "2Mi"});
    size["memory"]["maxGuest"] = json!("16Gi");
    size["ioThreadsPolicy"] = json!("auto");
    size["nodeSelector"] = json!({"a": "b"});
    size["annotations"] = json!({"x": "y"});
    let got = applied(json!({}), Some(size), None).unwrap();
    let domain = &got["spec"]["domain"];
    assert_eq!(domain["cpu"]["dedicatedCpuPlacement"], true);
    assert_eq!(domain["cpu"]["model"], "host-passthrough");
    assert_eq!(domain["cpu"]["maxSockets"], 8);
    assert_eq!(domain["memory"], json!({"guest": "8Gi", "hugepages": {"pageSize": "2Mi"}, "maxGuest": "16Gi"}));
    assert_eq!(domain["ioThreadsPolicy"], "auto");
    assert_eq!(got["spec"]["nodeSelector"], json!({"a": "b"}));
    assert_eq!(got["metadata"]["annotations"], json!({"x": "y"}));
}

#[test]
fn overcommitted_memory_is_requested_in_part() {
    let mut size = size();
    size["memory"]["overcommitPercent"] = json!(25);
    let got = applied(json!({}), Some(size), None).unwrap();
    assert_eq!(got["spec"]["domain"]["resources"]["requests"]["memory"], (6_i64 << 30).to_string());
    assert_eq!(got["spec"]["domain"]["memory"]["guest"], "8Gi");
}

fn check_conflicts(spec: Value, instancetype: Value, expected: &[&str]) {
    let conflicts = applied(spec.clone(), Some(instancetype), None).err().unwrap_or_default();
    let found: Vec<_> =
        fields(&conflicts).into_iter().map(|field| field.trim_start_matches("spec.template.spec.")).collect();
    assert_eq!(found, expected, "{spec}");
}

#[test]
fn what_both_say_is_a_conflict() {
    check_conflicts(json!({"domain": {"cpu": {"cores": 2}}}), size(), &["domain.cpu.cores"]);
    check_conflicts(json!({"domain": {"memory": {"guest": "1Gi"}}}), size(), &["domain.memory.guest"]);
    check_conflicts(
        json!({"domain": {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}}}}),
        size(),
        &["domain.resources.requests.cpu", "domain.resources.requests.memory"],
    );
    // What Go's clients write for nothing.
    check_conflicts(json!({"domain": {"cpu": {"cores": 0, "model": ""}, "resources": {}}}), size(), &[]);
    // Only one of them says it.
    check_conflicts(json!({"domain": {"cpu": {"model": "host-model"}}, "nodeSelector": {"a": "b"}}), size(), &[]);
    let mut more = size();
    more["cpu"]["model"] = json!("Haswell");
    more["nodeSelector"] = json!({"c": "d"});
    more["gpus"] = json!([{"name": "g"}]);
    check_conflicts(
        json!({"domain": {"cpu": {"model": "host-model"}, "devices": {"gpus": [{"name": "h"}]}}, "nodeSelector": {}}),
        more,
        &["domain.cpu.model", "domain.devices.gpus"],
    );
}

#[test]
fn annotations_conflict_only_when_they_differ() {
    let mut size = size();
    size["annotations"] = json!({"same": "1", "other": "2"});
    let mut template = json!({"metadata": {"annotations": {"same": "1", "other": "3"}}, "spec": {}});
    let conflicts = apply("spec.template", &mut template, &types(Some(&size), None)).unwrap_err();
    assert_eq!(fields(&conflicts), ["spec.template.metadata.annotations[other]"]);
    let expected = "VM field(s) spec.template.metadata.annotations[other] conflicts with selected instance type";
    assert_eq!(conflicts[0].message, expected);
    assert_eq!(template["spec"], json!({}), "a refused template is as it was");
}

fn check_topology(vcpus: i64, cpu: Value, expected: Result<[i64; 3], &str>) {
    let (mut size, preference) = (size(), json!({"cpu": cpu}));
    size["cpu"]["guest"] = json!(vcpus);
    match (applied(json!({}), Some(size), Some(preference)), expected) {
        (Ok(got), Ok([sockets, cores, threads])) => {
            let expected = json!({"sockets": sockets, "cores": cores, "threads": threads});
            assert_eq!(got["spec"]["domain"]["cpu"], expected, "{vcpus} {cpu}");
        }
        (Err(faults), Err(words)) => assert!(faults[0].message.contains(words), "{}", faults[0].message),
        (got, expected) => panic!("{vcpus} {cpu}: {got:?}, not {expected:?}"),
    }
}

#[test]
fn vcpus_are_placed_as_the_preference_wants() {
    check_topology(6, json!({}), Ok([6, 1, 1]));
    check_topology(6, json!({"preferredCPUTopology": "any"}), Ok([6, 1, 1]));
    check_topology(6, json!({"preferredCPUTopology": "preferCores"}), Ok([1, 6, 1]));
    check_topology(6, json!({"preferredCPUTopology": "threads"}), Ok([1, 1, 6]));
    check_topology(1, json!({"preferredCPUTopology": "cores"}), Ok([1, 1, 1]));
    let spread = |options: Value| json!({"preferredCPUTopology": "spread", "spreadOptions": options});
    check_topology(6, spread(json!({})), Ok([3, 2, 1]));
    check_topology(6, spread(json!({"ratio": 3})), Ok([2, 3, 1]));
    check_topology(7, spread(json!({})), Err("7 vCPUs provided by the instance type are not divisible"));
    check_topology(1, spread(json!({})), Err("1 vCPUs"));
    check_topology(6, spread(json!({"across": "CoresThreads"})), Ok([1, 3, 2]));
    check_topology(8, spread(json!({"across": "SocketsCoresThreads"})), Ok([2, 2, 2]));
    check_topology(6, spread(json!({"across": "SocketsCoresThreads"})), Err("threads per core 2"));
}

#[test]
fn a_preference_gives_way_to_the_template() {
    let preference = json!({
        "devices": {"preferredDiskBus": "virtio", "preferredCdromBus": "sata", "preferredInterfaceModel": "virtio",
            "preferredRng": {}, "preferredAutoattachMemBalloon": false, "preferredInputBus": "virtio",
            "preferredDiskDedicatedIoThread": true, "preferredInterfaceMasquerade": {}},
        "machine": {"preferredMachineType": "q35"},
        "preferredTerminationGracePeriodSeconds": 60,
    });
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "networks": [{"name": "n", "pod": {}}, {"name": "m", "multus": {}}],
        "domain": {"machine": {"type": ""}, "devices": {
            "autoattachMemBalloon": true,
            "disks": [{"name": "a"}, {"name": "b", "disk": {"bus": "scsi"}}, {"name": "c", "cdrom": {}}],
            "interfaces": [{"name": "n"}, {"name": "m", "model": "e1000"}],
            "inputs": [{"name": "i", "type": "tablet"}],
        }},
    });
    let got = applied(spec, None, Some(preference)).unwrap();
    let devices = &got["spec"]["domain"]["devices"];
    assert_eq!(got["spec"]["terminationGracePeriodSeconds"], 0);
    assert_eq!(got["spec"]["domain"]["machine"]["type"], "q35");
    assert_eq!(devices["autoattachMemBalloon"], true);
    assert_eq!(devices["rng"], json!({}));
    assert_eq!(devices["inputs"][0]["bus"], "virtio");
    let disks = json!([
        {"name": "a", "disk": {"bus": "virtio"}, "dedicatedIOThread": true},
        {"name": "b", "disk": {"bus": "scsi"}},
        {"name": "c", "cdrom": {"bus": "sata"}},
    ]);
    assert_eq!(devices["disks"], disks);
    let interfaces = json!([{"name": "n", "model": "virtio", "masquerade": {}}, {"name": "m", "model": "e1000"}]);
    assert_eq!(devices["interfaces"], interfaces);
}

#[test]
fn features_firmware_and_clock_are_filled_in_piece_by_piece() {
    let preference = json!({
        "features": {"preferredAcpi": {"enabled": false}, "preferredSmm": {},
            "preferredHyperv": {"relaxed": {}, "vapic": {}}},
        "firmware": {"preferredEfi": {"secureBoot": false}, "preferredUseSecureBoot": true},
        "clock": {"preferredClockOffset": {"utc": {}}, "preferredTimer": {"hpet": {"present": false}}},
        "cpu": {"preferredCPUFeatures": [{"name": "x", "policy": "require"}, {"name": "y"}]},
    });
    let spec = json!({"domain": {"cpu": {"features": [{"name": "x", "policy": "disable"}]},
        "clock": {"timezone": "Europe/Berlin"},
        "features": {"acpi": {}, "hyperv": {"relaxed": {"enabled": false}}}}});
    let got = applied(spec, None, Some(preference.clone())).unwrap();
    let domain = &got["spec"]["domain"];
    assert_eq!(domain["features"]["acpi"], json!({"enabled": false}));
    assert_eq!(domain["features"]["hyperv"], json!({"relaxed": {"enabled": false}, "vapic": {}}));
    assert_eq!(domain["firmware"]["bootloader"], json!({"efi": {"secureBoot": false}}));
    assert_eq!(domain["clock"], json!({"timezone": "Europe/Berlin", "timer": {"hpet": {"present": false}}}));
    assert_eq!(domain["cpu"]["features"], json!([{"name": "x", "policy": "disable"}, {"name": "y"}]));
    let bios = json!({"domain": {"firmware": {"bootloader": {"bios": {}}}}});
    let got = applied(bios.clone(), None, Some(preference)).unwrap();
    assert_eq!(got["spec"]["domain"]["firmware"], bios["domain"]["firmware"]);
}

#[test]
fn old_words_for_uefi_still_work() {
    let preference = json!({"firmware": {"preferredUseEfi": true, "preferredUseSecureBoot": false}});
    let got = applied(json!({}), None, Some(preference)).unwrap();
    assert_eq!(got["spec"]["domain"]["firmware"]["bootloader"], json!({"efi": {"secureBoot": false}}));
}

fn check_unmet(spec: Value, instancetype: Option<Value>, preference: Value, expected: &[&str]) {
    let faults = unmet(&spec, &types(instancetype.as_ref(), Some(&preference)));
    assert_eq!(fields(&faults), expected, "{spec} {preference}");
}

#[test]
fn requirements_are_of_the_instancetype_or_of_the_template() {
    let needs = |cpu: i64, memory: &str| json!({"requirements": {"cpu": {"guest": cpu}, "memory": {"guest": memory}}});
    check_unmet(json!({}), Some(size()), needs(4, "8Gi"), &[]);
    check_unmet(json!({}), Some(size()), needs(5, "9Gi"), &["spec.instancetype", "spec.instancetype"]);
    let cpu = "spec.template.spec.domain.cpu";
    check_unmet(json!({"domain": {"memory": {"guest": "1Gi"}}}), None, needs(1, "1Gi"), &[cpu]);
    let own = json!({"domain": {"cpu": {"cores": 4}, "memory": {"guest": "512Mi"}}});
    let memory = "spec.template.spec.domain.memory";
    check_unmet(own.clone(), None, needs(2, "1Gi"), &["spec.template.spec.domain.cpu.sockets", memory]);
    let mut any = needs(4, "1Mi");
    any["cpu"] = json!({"preferredCPUTopology": "any"});
    check_unmet(own, None, any, &[]);
    let architecture = json!({"requirements": {"architecture": "arm64"}});
    check_unmet(json!({}), None, architecture, &["spec.template.spec.architecture"]);
}

fn check_matcher(matcher: Value, old: Option<Value>, expected: &[&str]) {
    let faults = faults(Which::Instancetype, &matcher, old.as_ref());
    assert_eq!(fields(&faults), expected, "{matcher}");
}

#[test]
fn a_reference_names_an_object_or_a_volume() {
    check_matcher(json!({"name": "u1.small"}), None, &[]);
    check_matcher(json!({"name": "u1.small", "kind": "virtualmachineinstancetypes"}), None, &[]);
    check_matcher(json!({"name": "u1.small", "kind": "Pod"}), None, &["spec.instancetype.kind"]);
    check_matcher(json!({}), None, &["spec.instancetype"]);
    let both = json!({"name": "x", "inferFromVolume": "v"});
    check_matcher(both, None, &["spec.instancetype.name"]);
    let policy = json!({"inferFromVolume": "v", "inferFromVolumeFailurePolicy": "Maybe"});
    check_matcher(policy, None, &["spec.instancetype.inferFromVolumeFailurePolicy"]);
    let old = json!({"name": "a", "revisionName": "r"});
    check_matcher(json!({"name": "b", "revisionName": "r"}), Some(old.clone()), &["spec.instancetype.revisionName"]);
    check_matcher(json!({"name": "b"}), Some(old), &[]);
}

#[test]
fn a_revision_is_named_as_upstream_names_it() {
    let object = json!({"kind": "VirtualMachineClusterInstancetype",
        "metadata": {"name": "u1.small", "uid": "uid", "generation": 2}});
    assert_eq!(revision_name("web", &object, "v1beta1"), "web-u1.small-v1beta1-uid-2");
    let labels = revision_labels(&object, "v1beta1");
    assert_eq!(labels["instancetype.kubevirt.io/object-kind"], "VirtualMachineClusterInstancetype");
    assert_eq!(labels["instancetype.kubevirt.io/object-generation"], "2");
    assert_eq!(labels.len(), 5);
}

#[test]
fn a_preference_with_words_that_nobody_knows_is_refused() {
    let check = |cpu: Value, expected: &[&str], warned: usize| {
        let (faults, warnings) = preference_faults(&json!({"cpu": cpu}));
        assert_eq!((fields(&faults), warnings.len()), (expected.to_vec(), warned), "{cpu}");
    };
    check(json!({"preferredCPUTopology": "cores"}), &[], 0);
    check(json!({"preferredCPUTopology": "preferCores"}), &[], 1);
    check(json!({"preferredCPUTopology": "rings"}), &["spec.cpu.preferredCPUTopology"], 0);
    let odd = json!({"preferredCPUTopology": "spread", "spreadOptions": {"across": "CoresThreads", "ratio": 3}});
    check(odd, &["spec.cpu.spreadOptions.ratio"], 0);
}

#[test]
fn inference_follows_a_volume_to_its_labels() {
    let vm = json!({"spec": {
    "dataVolumeTemplates": [
        {"metadata": {"name": "t"}, "spec": {"source": {"pvc": {"name": "golden", "namespace": "images"}}}},
        {"metadata": {"name": "r"}, "spec": {"sourceRef": {"kind": "DataSource", "name": "fedora"}}},
        {"metadata": {"name": "h"}, "spec": {"source": {"http": {"url": "u"}}}},
    ],
    "template": {"spec": {"volumes": [
        {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "made", "dataVolume": {"name": "t"}},
        {"name": "reference", "dataVolume": {"name": "r"}},
        {"name": "there", "dataVolume": {"name": "d"}},
        {"name": "fetched", "dataVolume": {"name": "h"}},
        {"name": "seed", "cloudInitNoCloud": {}},
    ]}}}});
    let place = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    let claim = |(namespace, name)| Source::Claim { namespace, name };
    assert_eq!(of_volume(&vm, "shop", "claim"), claim(place("shop", "c")));
    assert_eq!(of_volume(&vm, "shop", "made"), claim(place("images", "golden")));
    let (namespace, name) = place("shop", "fedora");
    assert_eq!(of_volume(&vm, "shop", "reference"), Source::DataSource { namespace, name });
    let (namespace, name) = place("shop", "d");
    assert_eq!(of_volume(&vm, "shop", "there"), Source::DataVolume { namespace, name });
    assert!(matches!(of_volume(&vm, "shop", "fetched"), Source::Nowhere(_)));
    assert!(matches!(of_volume(&vm, "shop", "seed"), Source::Nowhere(_)));
    assert!(matches!(of_volume(&vm, "shop", "none"), Source::NoVolume(_)));
    let labels = BTreeMap::from([("instancetype.kubevirt.io/default-preference".to_owned(), "fedora".to_owned())]);
    assert_eq!(labelled(Which::Instancetype, &labels), None);
    let found = Named { name: "fedora".into(), kind: String::new() };
    assert_eq!(labelled(Which::Preference, &labels), Some(found));
}

#[test]
fn an_expanded_machine_refers_to_nothing() {
    let vm = json!({"spec": {"instancetype": {"name": "a"}, "preference": {"name": "b"}, "template": {"spec": {}}}});
    let (size, preference) = (size(), json!({"machine": {"preferredMachineType": "q35"}}));
    let types = types(Some(&size), Some(&preference));
    let got = expand(&vm, |template| apply("spec.template", template, &types)).unwrap();
    assert_eq!(got["spec"].as_object().unwrap().keys().collect::<Vec<_>>(), ["template"]);
    assert_eq!(got["spec"]["template"]["spec"]["domain"]["machine"]["type"], "q35");
}

#[test]
fn a_storage_class_is_preferred_where_none_is_named() {
    let mut vm = json!({"spec": {"dataVolumeTemplates": [
        {"spec": {"pvc": {}}}, {"spec": {"storage": {"storageClassName": "own"}}}]}});
    storage_class(&mut vm, &json!({"volumes": {"preferredStorageClassName": "fast"}}));
    let templates = &vm["spec"]["dataVolumeTemplates"];
    assert_eq!(templates[0]["spec"]["pvc"]["storageClassName"], "fast");
    assert_eq!(templates[1]["spec"]["storage"]["storageClassName"], "own");
}
