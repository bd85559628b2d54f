//! Rules of a guest's spec, as tables: a valid guest with one thing changed, and the fields that are refused for it.

use serde_json::{Value, json};

use super::*;
use crate::admission::causes::Causes;

fn valid() -> Value {
    json!({
        "domain": {
            "memory": {"guest": "128Mi"},
            "devices": {
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "seed", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "lan", "bridge": {}}],
            },
        },
        "networks": [{"name": "lan", "multus": {"networkName": "default/vlan100"}}],
        "volumes": [
            {"name": "root", "dataVolume": {"name": "root"}},
            {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config\n"}},
        ],
    })
}

fn causes_of(spec: &Value) -> Causes {
    let mut causes = Causes::default();
    let typed = serde_json::from_value(spec.clone()).unwrap();
    let holders = [
        MacHolder { mac: "02:00:00:00:00:aa".parse().unwrap(), namespace: "shop".into(), name: "other".into() },
        MacHolder { mac: "02:00:00:00:00:bb".parse().unwrap(), namespace: "bank".into(), name: "vault".into() },
        MacHolder { mac: "02:00:00:00:00:cc".parse().unwrap(), namespace: "shop".into(), name: "self".into() },
    ];
    check("spec", spec, &typed, (Identity { namespace: "shop", name: "self" }, &holders), &mut causes);
    causes
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = valid();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => panic!("{other}"),
    }
    spec
}

fn check_change(pointer: &str, value: Value, expected: &[&str]) {
    let spec = with(pointer, value);
    assert_eq!(causes_of(&spec).fields(), expected, "{spec}");
}

fn check_text(pointer: &str, value: Value, expected: &str) {
    let text = causes_of(&with(pointer, value)).text();
    assert_eq!(text, expected);
}

#[test]
fn a_usual_guest_is_let_in() {
    assert_eq!(causes_of(&valid()).fields(), [""; 0]);
}

#[test]
fn disks_and_volumes_belong_together() {
    check_text(
        "/domain/devices/disks/1",
        json!({"name": "sed", "disk": {}}),
        "spec.domain.devices.disks[1].name 'sed' not found.",
    );
    check_change("/domain/devices/disks/1", json!({"name": "root"}), &["spec.domain.devices.disks[1].name"]);
    check_change("/volumes/1", json!({"name": "seed"}), &["spec.volumes[1]"]);
    let two = json!({"name": "seed", "dataVolume": {"name": "a"}, "persistentVolumeClaim": {"claimName": "b"}});
    check_text("/volumes/1", two, "spec.volumes[1] must have exactly one source type set");
    check_change("/volumes/-", json!({"name": "root", "dataVolume": {"name": "x"}}), &["spec.volumes[2].name"]);
    check_change("/volumes/-", json!({"name": "Upper", "dataVolume": {"name": "x"}}), &["spec.volumes[2].name"]);
    check_change(
        "/volumes/-",
        json!({"name": "again", "persistentVolumeClaim": {"claimName": "root"}}),
        &["spec.volumes[2]"],
    );
}

#[test]
fn disks_have_one_target_and_sane_values() {
    check_change(
        "/domain/devices/disks/0",
        json!({"name": "root", "disk": {}, "cdrom": {}}),
        &["spec.domain.devices.disks[0]"],
    );
    check_change(
        "/domain/devices/disks/0",
        json!({"name": "root", "cdrom": {"bus": "virtio"}}),
        &["spec.domain.devices.disks[0].cdrom.bus"],
    );
    check_change(
        "/domain/devices/disks/0",
        json!({"name": "root", "disk": {"bus": "virtio"}, "serial": "a b"}),
        &["spec.domain.devices.disks[0].serial"],
    );
    check_change(
        "/domain/devices/disks/0",
        json!({"name": "root", "disk": {"readonly": true}}),
        &["spec.domain.devices.disks[0].disk.readonly"],
    );
    check_change("/domain/devices/disks/1", json!({"name": "seed", "disk": {"readonly": true}}), &[]);
}

#[test]
fn boot_order_is_one_sequence() {
    let mut spec = with("/domain/devices/disks/0", json!({"name": "root", "disk": {}, "bootOrder": 1}));
    spec["domain"]["devices"]["interfaces"][0]["bootOrder"] = json!(2);
    assert_eq!(causes_of(&spec).fields(), [""; 0]);
    spec["domain"]["devices"]["interfaces"][0]["bootOrder"] = json!(1);
    assert_eq!(causes_of(&spec).fields(), ["spec.domain.devices.interfaces[0].bootOrder"]);
}

#[test]
fn seeds_are_single_and_short() {
    let field = "spec.volumes[1].cloudInitNoCloud";
    let seed = |source: Value| json!({"name": "seed", "cloudInitNoCloud": source});
    check_text(
        "/volumes/1",
        seed(json!({"userData": "x".repeat(2049)})),
        &format!("{field}.userData userdata exceeds 2048 byte limit. Should use UserDataSecretRef for larger data."),
    );
    check_change("/volumes/1", seed(json!({"userData": "x".repeat(2048)})), &[]);
    check_change("/volumes/1", seed(json!({})), &[field]);
    check_change("/volumes/1", seed(json!({"userData": "a", "secretRef": {"name": "s"}})), &[field]);
    check_change("/volumes/1", seed(json!({"secretRef": {"name": "s"}, "networkData": "a"})), &[]);
    check_change("/volumes/1", seed(json!({"userDataBase64": "not base64!"})), &[&format!("{field}.userDataBase64")]);
    let second = json!({"name": "other", "cloudInitConfigDrive": {"userData": "a"}});
    check_change("/volumes/-", second, &["spec.volumes[2].cloudInitConfigDrive"]);
}

#[test]
fn networks_and_interfaces_belong_together() {
    check_text(
        "/domain/devices/interfaces/0",
        json!({"name": "wan", "bridge": {}}),
        "spec.networks[0].name 'lan' not found.\nspec.domain.devices.interfaces[0].name 'wan' not found.",
    );
    check_change("/networks/0", json!({"name": "lan"}), &["spec.networks[0]"]);
    check_change(
        "/networks/0",
        json!({"name": "lan", "pod": {}, "multus": {"networkName": "a"}}),
        &["spec.networks[0]"],
    );
    check_change(
        "/networks/0",
        json!({"name": "lan", "multus": {"networkName": "a/b/c"}}),
        &["spec.networks[0].multus.networkName"],
    );
    let interface = "spec.domain.devices.interfaces[0]";
    check_change(
        "/domain/devices/interfaces/0",
        json!({"name": "lan", "bridge": {}, "masquerade": {}}),
        &[interface, &format!("{interface}.masquerade")],
    );
    check_change("/domain/devices/interfaces/0/model", json!("ne1000"), &[&format!("{interface}.model")]);
    let mut pod = with("/networks/0", json!({"name": "lan", "pod": {}}));
    pod["domain"]["devices"]["interfaces"][0] = json!({"name": "lan", "masquerade": {}});
    assert_eq!(causes_of(&pod).fields(), [""; 0]);
}

#[test]
fn a_hardware_address_is_nobody_elses() {
    let field = "spec.domain.devices.interfaces[0].macAddress";
    let pointer = "/domain/devices/interfaces/0/macAddress";
    check_change(pointer, json!("02:00:00:00:00:01"), &[]);
    check_change(pointer, json!("02-00-00-00-00-CC"), &[]);
    check_change(pointer, json!("01:00:5e:00:00:01"), &[field]);
    check_text(
        pointer,
        json!("02-00-00-00-00-AA"),
        &format!("{field} 02:00:00:00:00:aa is already that of virtual machine other"),
    );
    let text = causes_of(&with(pointer, json!("02:00:00:00:00:bb"))).text();
    assert!(text.contains("another namespace") && !text.contains("vault"), "{text}");
    let mut twice = with(pointer, json!("02:00:00:00:00:01"));
    let second = json!({"name": "two", "bridge": {}, "macAddress": "02:00:00:00:00:01"});
    twice["domain"]["devices"]["interfaces"].as_array_mut().unwrap().push(second);
    twice["networks"].as_array_mut().unwrap().push(json!({"name": "two", "pod": {}}));
    assert_eq!(causes_of(&twice).fields(), ["spec.domain.devices.interfaces[1].macAddress"]);
}

#[test]
fn memory_must_be_named_and_fit() {
    check_text(
        "/domain/memory",
        json!({}),
        "spec.domain.memory.guest: no memory requested, at least one of memory.guest or resources.requests.memory must \
         be set",
    );
    check_change("/domain/memory/guest", json!("12Qi"), &["spec.domain.memory.guest"]);
    check_change("/domain/memory/guest", json!("64"), &["spec.domain.memory.guest"]);
    check_change("/domain/resources", json!({"limits": {"memory": "64Mi"}}), &["spec.domain.memory.guest"]);
    check_change(
        "/domain/resources",
        json!({"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}),
        &["spec.domain.resources.requests.cpu"],
    );
    check_change(
        "/domain/resources",
        json!({"requests": {"ephemeral-storage": "1Gi"}}),
        &["spec.domain.resources.requests.ephemeral-storage"],
    );
    check_change("/domain/memory/hugepages", json!({"pageSize": "4Mi"}), &["spec.domain.memory.hugepages.pageSize"]);
}

#[test]
fn firmware_and_machine_are_possible() {
    check_change("/domain/firmware", json!({"uuid": "nope"}), &["spec.domain.firmware.uuid"]);
    let field = "spec.domain.firmware.bootloader.efi.secureBoot";
    check_change("/domain/firmware", json!({"bootloader": {"efi": {}}}), &[field]);
    check_change("/domain/firmware", json!({"bootloader": {"efi": {"secureBoot": false}}}), &[]);
    check_change(
        "/domain/firmware",
        json!({"bootloader": {"bios": {}, "efi": {"secureBoot": false}}}),
        &["spec.domain.firmware.bootloader"],
    );
    check_change("/domain/machine", json!({"type": "pc"}), &["spec.domain.machine.type"]);
    let field = "spec.domain.firmware.kernelBoot";
    let kernel =
        |container: serde_json::Value| json!({"kernelBoot": {"kernelArgs": "console=ttyS0", "container": container}});
    let image = "r.example/kernel:1";
    let check = |value, tails: &[&str]| {
        let fields: Vec<_> = tails.iter().map(|tail| format!("{field}.{tail}")).collect();
        check_change("/domain/firmware", value, &fields.iter().map(String::as_str).collect::<Vec<_>>());
    };
    check(kernel(json!({"image": image, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"})), &[]);
    check(kernel(json!({"image": image, "kernelPath": "/k", "imagePullPolicy": "Always"})), &[]);
    check(kernel(json!({"image": image, "initrdPath": "/boot/initrd"})), &["container.kernelPath"]);
    check(kernel(json!({"image": "", "kernelPath": "boot/vmlinuz"})), &["container.image", "container.kernelPath"]);
    check(json!({"kernelBoot": {"kernelArgs": "quiet"}}), &["kernelArgs"]);
    check(json!({"kernelBoot": {}}), &[]);
    check_change("/domain/machine", json!({"type": "pc-q35-9.2"}), &[]);
    check_change("/domain/cpu", json!({"sockets": 16, "cores": 16}), &["spec.domain.cpu"]);
    check_change("/domain/clock", json!({"utc": {}, "timezone": "Europe/Berlin"}), &["spec.domain.clock"]);
}

#[test]
fn names_are_host_names() {
    let check = |name: &str, expected: usize| {
        let mut causes = Causes::default();
        check_name(name, &mut causes);
        assert_eq!(causes.fields().len(), expected, "{name}");
    };
    check("web-1", 0);
    check("", 0);
    check("web.example", 1);
    check(&"x".repeat(63), 0);
    check(&"x".repeat(64), 1);
}

#[test]
fn sockets_stay_within_the_room_for_them() {
    let refused = |cpu: Value| {
        let causes = causes_of(&with("/domain/cpu", cpu));
        causes.fields().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(refused(json!({"sockets": 2, "maxSockets": 2})).is_empty());
    assert_eq!(refused(json!({"sockets": 3, "maxSockets": 2})), ["spec.domain.cpu.sockets"]);
    assert_eq!(refused(json!({"sockets": 1, "cores": 4, "maxSockets": 64})), ["spec.domain.cpu.maxSockets"]);
    let causes = causes_of(&with("/domain/cpu", json!({"sockets": 3, "maxSockets": 2})));
    assert!(causes.text().contains("Number of sockets in CPU topology is greater than the maximum sockets allowed"));
}

#[test]
fn eviction_strategies_are_known_and_waiting_ones_are_pointed_out() {
    let warned = |strategy: &str| {
        let spec = with("/evictionStrategy", json!(strategy));
        let typed = serde_json::from_value(spec.clone()).unwrap();
        assert!(causes_of(&spec).fields().is_empty(), "{strategy}");
        warnings("spec", &typed).len()
    };
    assert_eq!(["None", "External", "LiveMigrate", "LiveMigrateIfPossible"].map(warned), [0, 0, 1, 1]);
    let causes = causes_of(&with("/evictionStrategy", json!("Fly")));
    assert_eq!(causes.text(), "spec.evictionStrategy is set with an unrecognized option: Fly");
}

#[test]
fn devices_are_of_models_that_exist_and_have_places_of_their_own() {
    let devices = "spec.domain.devices";
    for (part, device, field) in [
        ("video", json!({"type": "qxl"}), "video.type"),
        ("sound", json!({"name": "card", "model": "sb16"}), "sound.model"),
        ("sound", json!({"name": ""}), "sound.name"),
        ("panicDevices", json!([{"model": "isa"}, {"model": "s390"}]), "panicDevices[1].model"),
    ] {
        check_change(&format!("/domain/devices/{part}"), device, &[&format!("{devices}.{field}")]);
    }
    check_change("/domain/devices/video", json!({"type": "bochs"}), &[]);
    check_change("/domain/devices/tpm", json!({}), &[]);
    let mut headless = with("/domain/devices/video", json!({"type": "vga"}));
    headless["domain"]["devices"]["autoattachGraphicsDevice"] = json!(false);
    assert_eq!(causes_of(&headless).fields(), ["spec.domain.devices.video"]);
    let address = json!({"name": "root", "disk": {"bus": "virtio", "pciAddress": "0000:00:10.0"}});
    let mut twice = with("/domain/devices/disks/0", address);
    assert_eq!(causes_of(&twice).fields(), [""; 0]);
    twice["domain"]["devices"]["interfaces"][0]["pciAddress"] = json!("0000:00:10.0");
    assert_eq!(causes_of(&twice).fields(), [format!("{devices}.interfaces[0].pciAddress")]);
    check_change(
        "/domain/devices/disks/0",
        json!({"name": "root", "disk": {"bus": "sata", "pciAddress": "0000:00:10.0"}}),
        &[&format!("{devices}.disks[0].disk.pciAddress")],
    );
}

#[test]
fn tuning_that_would_be_left_aside_is_refused() {
    let disk = |rest: Value| {
        let mut disk = json!({"name": "root", "disk": {"bus": "virtio"}});
        disk.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        disk
    };
    let field = "spec.domain.devices.disks[0]";
    let check = |rest: Value, part: &str| {
        let expected = Some(format!("{field}.{part}")).filter(|_| !part.is_empty());
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check_change("/domain/devices/disks/0", disk(rest), &expected);
    };
    check(json!({"dedicatedIOThread": true}), "");
    check(json!({"dedicatedIOThread": true, "disk": {"bus": "scsi"}}), "dedicatedIOThread");
    check(json!({"blockSize": {"custom": {"logical": 512, "physical": 4096}}}), "");
    check(json!({"blockSize": {"custom": {"logical": 512}}}), "blockSize.custom");
    check(json!({"blockSize": {"custom": {"logical": 512, "physical": 512}, "matchVolume": {}}}), "blockSize");
    check(json!({"io": "native"}), "");
    check(json!({"io": "native", "cache": "writeback"}), "io");
    check(json!({"shareable": true, "cache": "writethrough"}), "cache");
    check_change("/domain/ioThreadsPolicy", json!("auto"), &[]);
    let count = "spec.domain.ioThreads.supplementalPoolThreadCount";
    check_change("/domain/ioThreadsPolicy", json!("supplementalPool"), &[count]);
    check_change("/domain/ioThreads", json!({"supplementalPoolThreadCount": 2}), &[count]);
    let both = json!({"hyperv": {"relaxed": {}}, "hypervPassthrough": {}});
    check_change("/domain/features", both, &["spec.domain.features.hypervPassthrough"]);
}

#[test]
fn volumes_of_objects_name_them() {
    let check = |source: Value, part: &str| {
        let mut volume = json!({"name": "more"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        let expected = Some(format!("spec.volumes[2].{part}")).filter(|_| !part.is_empty());
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check_change("/volumes/-", volume, &expected);
    };
    check(json!({"configMap": {"name": "a"}}), "");
    check(json!({"configMap": {}}), "configMap.name");
    check(json!({"secret": {"secretName": "a", "volumeLabel": "x".repeat(33)}}), "secret.volumeLabel");
    check(json!({"secret": {"secretName": ""}}), "secret.secretName");
    check(json!({"sysprep": {"secret": {"name": "a"}}}), "");
    check(json!({"sysprep": {"secret": {"name": "a"}, "configMap": {"name": "b"}}}), "sysprep");
    check(json!({"serviceAccount": {"serviceAccountName": "robot"}}), "");
    let fields = |field: Value| json!({"downwardAPI": {"fields": [field]}});
    check(fields(json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}})), "");
    let path = "downwardAPI.fields[0].path";
    check(fields(json!({"path": "a/b", "fieldRef": {"fieldPath": "metadata.labels"}})), path);
    let node = fields(json!({"path": "node", "fieldRef": {"fieldPath": "spec.nodeName"}}));
    check(node, "downwardAPI.fields[0].fieldRef.fieldPath");
    let resource = fields(json!({"path": "cpu", "resourceFieldRef": {"resource": "limits.cpu"}}));
    check(resource, "downwardAPI.fields[0].resourceFieldRef");
    check(json!({"emptyDisk": {"capacity": "1Gi"}}), "");
    check(json!({"emptyDisk": {"capacity": "0"}}), "emptyDisk.capacity");
    check(json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "golden"}}}), "");
    check(json!({"ephemeral": {}}), "ephemeral.persistentVolumeClaim.claimName");
    let image = "quay.io/containerdisks/fedora:41";
    check(json!({"containerDisk": {"image": image, "path": "/disk/a.img", "imagePullPolicy": "Never"}}), "");
    check(json!({"containerDisk": {"image": ""}}), "containerDisk.image");
    check(json!({"containerDisk": {"image": "x@sha256:1"}}), "containerDisk.image");
    check(json!({"containerDisk": {"image": image, "path": "/disk/../a"}}), "containerDisk.path");
    check(json!({"containerDisk": {"image": image, "imagePullPolicy": "Often"}}), "containerDisk.imagePullPolicy");
}

#[test]
fn a_file_system_shows_the_files_of_an_object() {
    let field = "spec.domain.devices.filesystems[0].name";
    let check = |name: &str, source: Value, expected: &str| {
        let mut spec = with("/domain/devices/filesystems", json!([{"name": name, "virtiofs": {}}]));
        let mut volume = json!({"name": "shared"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        spec["volumes"].as_array_mut().unwrap().push(volume);
        let text = causes_of(&spec).text();
        let expected = if expected.is_empty() { String::new() } else { format!("{field}{expected}") };
        assert_eq!(text, expected, "{spec}");
    };
    let fields = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    for source in [
        json!({"configMap": {"name": "a"}}),
        json!({"secret": {"secretName": "a"}}),
        json!({"serviceAccount": {"serviceAccountName": "robot"}}),
        json!({"downwardAPI": {"fields": fields}}),
    ] {
        check("shared", source, "");
    }
    check("other", json!({"configMap": {"name": "a"}}), " 'other' not found.");
    let claims = ": claims are block devices, which a node does not mount: give the guest a disk";
    check("shared", json!({"persistentVolumeClaim": {"claimName": "a"}}), claims);
    check("root", json!({"configMap": {"name": "a"}}), claims);
    let other =
        ": only a configMap, secret, downwardAPI or serviceAccount volume can be a file system: give the guest a disk";
    check("shared", json!({"emptyDisk": {"capacity": "1Gi"}}), other);
    check("shared", json!({"sysprep": {"configMap": {"name": "a"}}}), other);
    let mut twice =
        with("/domain/devices/filesystems", json!([{"name": "map", "virtiofs": {}}, {"name": "map", "virtiofs": {}}]));
    twice["volumes"].as_array_mut().unwrap().push(json!({"name": "map", "configMap": {"name": "a"}}));
    assert_eq!(causes_of(&twice).fields(), ["spec.domain.devices.filesystems[1].name"]);
    let long = "a".repeat(37);
    let mut spec = with("/domain/devices/filesystems", json!([{"name": long, "virtiofs": {}}]));
    spec["volumes"].as_array_mut().unwrap().push(json!({"name": long, "configMap": {"name": "a"}}));
    assert_eq!(causes_of(&spec).fields(), [field]);
}

#[test]
fn metrics_are_on_one_virtio_disk() {
    let spec = |disk: Value| {
        let mut spec = with("/volumes/-", json!({"name": "told", "downwardMetrics": {}}));
        spec["domain"]["devices"]["disks"].as_array_mut().unwrap().push(disk);
        spec
    };
    let field = "spec.domain.devices.disks[2].disk";
    for disk in [json!({"name": "told"}), json!({"name": "told", "disk": {"bus": "virtio", "readonly": true}})] {
        assert_eq!(causes_of(&spec(disk)).text(), "");
    }
    let sata = causes_of(&spec(json!({"name": "told", "disk": {"bus": "sata"}}))).text();
    let words = "DownwardMetrics volume must be mapped to virtio bus, but";
    assert_eq!(sata, format!("{words} {field}.bus is set to sata"));
    let drive = causes_of(&spec(json!({"name": "told", "cdrom": {}}))).text();
    let words = "DownwardMetrics volume must be mapped to a disk, but disk is not set on";
    assert_eq!(drive, format!("{words} {field}."));
    let mut twice = spec(json!({"name": "told"}));
    twice["volumes"].as_array_mut().unwrap().push(json!({"name": "again", "downwardMetrics": {}}));
    assert_eq!(causes_of(&twice).text(), "spec.volumes must have max one downwardMetric volume set");
    let mut both = spec(json!({"name": "told"}));
    both["domain"]["devices"]["downwardMetrics"] = json!({});
    assert_eq!(causes_of(&both).text(), "", "KubeVirt lets a guest have both");
}

#[test]
fn credentials_need_what_carries_them() {
    let credential = |method: Value| json!([{"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": method}}]);
    let field = "spec.accessCredentials[0].sshPublicKey.propagationMethod";
    check_change("/accessCredentials", credential(json!({"noCloud": {}})), &[]);
    check_change("/accessCredentials", credential(json!({"configDrive": {}})), &[&format!("{field}.configDrive")]);
    check_change("/accessCredentials", credential(json!({})), &[field]);
    check_change("/accessCredentials", credential(json!({"qemuGuestAgent": {"users": ["root"]}})), &[]);
    check_change("/accessCredentials", json!([{}]), &["spec.accessCredentials[0]"]);
}

#[test]
fn ports_are_numbers_with_a_protocol() {
    let field = "spec.domain.devices.interfaces[0].ports";
    let pointer = "/domain/devices/interfaces/0/ports";
    check_change(pointer, json!([{"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]), &[]);
    check_change(pointer, json!([{"port": 0}]), &[&format!("{field}[0].port")]);
    check_change(pointer, json!([{"port": 80, "protocol": "SCTP"}]), &[&format!("{field}[0].protocol")]);
    let twice = json!([{"name": "web", "port": 80}, {"name": "web", "port": 81}, {"name": "a_b", "port": 82}]);
    check_change(pointer, twice, &[&format!("{field}[1].name"), &format!("{field}[2].name")]);
    let many: Vec<_> = (1..=65).map(|port| json!({"port": port})).collect();
    check_change(pointer, json!(many), &[field]);
}

#[test]
fn dhcp_options_can_be_said() {
    let pointer = "/domain/devices/interfaces/0/dhcpOptions";
    check_change(pointer, json!({"bootFileName": "boot.efi", "ntpServers": ["10.0.0.2"]}), &[]);
    let field = "spec.domain.devices.interfaces[0].dhcpOptions";
    check_change(pointer, json!({"privateOptions": [{"option": 3, "value": "x"}]}), &[field]);
}

#[test]
fn a_read_only_volume_is_on_a_bus_that_has_read_only_disks() {
    let mut spec =
        with("/volumes/0", json!({"name": "root", "persistentVolumeClaim": {"claimName": "a", "readOnly": true}}));
    assert_eq!(causes_of(&spec).fields(), [""; 0]);
    spec["domain"]["devices"]["disks"][0] = json!({"name": "root"});
    assert_eq!(causes_of(&spec).fields(), ["spec.domain.devices.disks[0].disk.bus"]);
    spec["domain"]["devices"]["disks"][0] = json!({"name": "root", "cdrom": {}});
    assert_eq!(causes_of(&spec).fields(), [""; 0]);
}

#[test]
fn a_host_disk_is_in_its_namespaces_directory() {
    let check = |disk: Value, part: &str| {
        let expected = Some(format!("spec.volumes[2].hostDisk.{part}")).filter(|_| !part.is_empty());
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check_change("/volumes/-", json!({"name": "more", "hostDisk": disk}), &expected);
    };
    let path = "/var/lib/furrow/host-disks/shop/a.img";
    check(json!({"path": path, "type": "Disk"}), "");
    check(json!({"path": path, "type": "DiskOrCreate", "capacity": "1Gi"}), "");
    check(json!({"path": path, "type": "DiskOrCreate"}), "capacity");
    check(json!({"path": path, "type": "Disk", "capacity": "1Gi"}), "capacity");
    check(json!({"path": path, "type": "File"}), "type");
    check(json!({"path": path, "type": "Disk", "shared": true}), "shared");
    for path in ["/etc/shadow", "/var/lib/furrow/host-disks/bank/a.img", "/var/lib/furrow/host-disks/shop/../a"] {
        check(json!({"path": path, "type": "Disk"}), "path");
    }
}

#[test]
fn room_for_memory_is_checked_in_kubevirts_words() {
    let refused = |memory: Value| causes_of(&with("/domain/memory", memory)).text();
    assert_eq!(refused(json!({"guest": "1Gi", "maxGuest": "2Gi"})), "");
    let above = refused(json!({"guest": "2Gi", "maxGuest": "1Gi"}));
    assert_eq!(above, "spec.domain.memory.maxGuest: Guest memory is greater than the configured maxGuest memory");
    assert!(refused(json!({"guest": "512Mi", "maxGuest": "1Gi"})).ends_with("at least 1Gi of guest memory"));
    assert!(refused(json!({"guest": "1Gi", "maxGuest": "1025Mi"})).ends_with("MaxGuest must be 2Mi aligned"));
    assert!(refused(json!({"guest": "1Gi", "maxGuest": "much"})).starts_with("spec.domain.memory.maxGuest: "));
    let huge = json!({"guest": "1Gi", "maxGuest": "2Gi", "hugepages": {"pageSize": "2Mi"}});
    assert!(refused(huge).contains("not compatible with huge pages"));
}
