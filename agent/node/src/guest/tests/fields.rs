//! Fields of a guest on their way from the wire to the domain: a usual guest with one thing changed, and what stands in
//! its document then. What the whole document looks like is the model's affair, which has golden files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use furrow_api::VirtualMachineInstance;
use furrow_api::reservation::{Reservation, ReservedVolume, STATE_NVRAM, STATE_TPM};
use furrow_model::domain::{HostFacts, RbdSource, Virtualization, render};
use serde_json::{Value, json};

use super::super::convert::{ClusterDefaults, ConvertError, GuestRequest};
use super::{pod, vmi};

fn reservation() -> Reservation {
    let annotation = pod("uid-1")["metadata"]["annotations"]["furrow.io/reservation"].clone();
    serde_json::from_str(annotation.as_str().expect("a text")).expect("a reservation")
}

fn request(vmi: Value) -> Result<GuestRequest, ConvertError> {
    let vmi: VirtualMachineInstance = serde_json::from_value(vmi).expect("a guest");
    GuestRequest::new(vmi, reservation())
}

pub(super) fn state_volume(name: &str, image: &str) -> ReservedVolume {
    ReservedVolume {
        name: name.to_owned(),
        claim: "persistent-state-for-vm-abcde".to_owned(),
        pool: "volumes".to_owned(),
        image: image.to_owned(),
        access_modes: vec!["ReadWriteMany".to_owned()],
        volume_mode: "Block".to_owned(),
        read_only: false,
        capacity_bytes: 1 << 20,
    }
}

fn xml(vmi: Value) -> Result<String, ConvertError> {
    document(&request(vmi)?)
}

fn document(request: &GuestRequest) -> Result<String, ConvertError> {
    let source = |pool: &str, image: &str| RbdSource {
        pool: pool.to_owned(),
        image: image.to_owned(),
        monitors: vec![("10.0.0.1".to_owned(), 3300)],
        user: "qemu".to_owned(),
        secret: uuid::Uuid::nil(),
    };
    let sources: HashMap<_, _> =
        request.volumes().map(|volume| (volume.name.clone(), source(&volume.pool, &volume.image))).collect();
    let spec = request.domain(&sources, Path::new("/guests/uid-1"), &ClusterDefaults::default())?;
    let facts = HostFacts {
        shares_dir: "/shares/uid-1".into(),
        virtualization: Virtualization::Kvm,
        emulator: "qemu".to_owned(),
        firmware_dir: "/ovmf".to_owned(),
        guest_dir: PathBuf::from("/guests/uid-1"),
        tpm_dir: PathBuf::from("/tpm/uid-1"),
    };
    Ok(render(&spec, &facts).expect("a domain"))
}

/// The guest with `value` at `pointer` below its spec; what is on the way is made.
fn with(pointer: &str, value: Value) -> Value {
    let mut vmi = vmi("uid-1");
    let mut node = &mut vmi["spec"];
    for segment in pointer.split('.') {
        node = match segment.parse::<usize>() {
            Ok(index) => &mut node[index],
            Err(_) => &mut node[segment],
        };
    }
    *node = value;
    vmi
}

fn check(pointer: &str, value: Value, expected: &[&str]) {
    let xml = xml(with(pointer, value.clone())).expect("a domain");
    for text in expected {
        assert!(xml.contains(text), "{pointer} = {value}: no {text} in\n{xml}");
    }
}

#[test]
fn processors_memory_and_firmware() {
    let cpu = json!({"sockets": 2, "cores": 3, "threads": 2, "model": "Skylake-Server",
        "features": [{"name": "vmx", "policy": "disable"}, {"name": "pcid"}]});
    let topology = "<topology sockets=\"2\" dies=\"1\" cores=\"3\" threads=\"2\"/>";
    let features = ["<feature policy=\"disable\" name=\"vmx\"/>", "<feature policy=\"require\" name=\"pcid\"/>"];
    check("domain.cpu", cpu, &[topology, features[0], features[1], ">12</vcpu>", ">Skylake-Server</model>"]);
    check("domain.memory", json!({"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}}), &["<page size=\"2048\""]);
    let room = ["<maxMemory slots=\"1\" unit=\"KiB\">2097152</maxMemory>", "<memory model=\"virtio-mem\">"];
    check("domain.memory", json!({"guest": "1Gi", "maxGuest": "2Gi"}), &room);
    check("domain.machine", json!({"type": "pc-q35-9.2"}), &["machine=\"pc-q35-9.2\""]);
    let serial = json!({"serial": "one", "bootloader": {"bios": {"useSerial": true}}});
    check("domain.firmware", serial, &["<entry name=\"serial\">one</entry>", "<bios useserial=\"yes\"/>"]);
    let uuid = "5d307ca9-b3ef-428c-8861-06e72d69f223";
    check("domain.firmware", json!({"uuid": uuid}), &["<uuid>5d307ca9-b3ef-428c-8861-06e72d69f223</uuid>"]);
    let efi = json!({"bootloader": {"efi": {"secureBoot": false}}});
    check("domain.firmware", efi, &["/ovmf/OVMF_CODE_4M.fd</loader>", ">/guests/uid-1/nvram.fd</nvram>"]);
    check("domain.firmware", json!({"bootloader": {"efi": {}}}), &["OVMF_CODE_4M.secboot.fd", "<smm state=\"on\"/>"]);
    check("domain.chassis", json!({"sku": "s"}), &["<entry name=\"sku\">s</entry>"]);
}

#[test]
fn variables_of_the_firmware_are_kept_in_an_image_of_their_own() {
    let guest = with("domain.firmware", json!({"bootloader": {"efi": {"persistent": true}}}));
    let refused = xml(guest.clone());
    assert!(matches!(&refused, Err(ConvertError::NotReserved { name, .. }) if name == STATE_NVRAM), "{refused:?}");
    let vmi: VirtualMachineInstance = serde_json::from_value(guest).expect("a guest");
    let mut reservation = reservation();
    reservation.volumes.push(state_volume(STATE_NVRAM, "csi-vol-nvram"));
    let request = GuestRequest::new(vmi, reservation).expect("a request");
    assert_eq!(request.exclusive_images(), ["volumes/csi-vol-1", "volumes/csi-vol-nvram"]);
    let disks: Vec<_> = request.wanted_disks().into_iter().map(|disk| disk.name).collect();
    assert_eq!(disks, ["root", "seed"], "no disk shows it");
    let templates: Vec<_> = request.volumes().map(|volume| request.flash_template(volume)).collect();
    assert_eq!(templates, [None, Some("OVMF_VARS_4M.ms.fd")]);
    let xml = document(&request).expect("a domain");
    for text in ["<nvram type=\"network\" format=\"raw\">", "name=\"volumes/csi-vol-nvram\"", "secure=\"yes\""] {
        assert!(xml.contains(text), "no {text} in\n{xml}");
    }
    assert!(!xml.contains("nvram.fd"), "{xml}");
}

#[test]
fn the_state_of_a_tpm_is_kept_in_an_image_that_no_disk_shows() {
    let guest = with("domain.devices.tpm", json!({"persistent": true}));
    let refused = xml(guest.clone());
    assert!(matches!(&refused, Err(ConvertError::NotReserved { name, .. }) if name == STATE_TPM), "{refused:?}");
    let vmi: VirtualMachineInstance = serde_json::from_value(guest).expect("a guest");
    let mut reservation = reservation();
    reservation.volumes.push(state_volume(STATE_TPM, "csi-vol-tpm"));
    let request = GuestRequest::new(vmi, reservation).expect("a request");
    assert_eq!(request.exclusive_images(), ["volumes/csi-vol-1", "volumes/csi-vol-tpm"]);
    let xml = document(&request).expect("a domain");
    let secret = furrow_model::tpm::secret_uuid("uid-1");
    let encryption = format!("<encryption secret=\"{secret}\"/>");
    for text in ["persistent_state=\"yes\"", &encryption, "<source type=\"dir\" path=\"/tpm/uid-1/tpm2\"/>"] {
        assert!(xml.contains(text), "no {text} in\n{xml}");
    }
    assert!(!xml.contains("csi-vol-tpm"), "QEMU does not open it:\n{xml}");
}

#[test]
fn clock_and_features() {
    check("domain.clock", json!({"utc": {"offsetSeconds": 60}}), &["offset=\"variable\" adjustment=\"60\""]);
    check("domain.clock", json!({"timezone": "Europe/Berlin"}), &["timezone=\"Europe/Berlin\""]);
    let timers = json!({"timer": {"hpet": {"present": false}, "pit": {"tickPolicy": "delay"},
        "rtc": {"tickPolicy": "catchup", "track": "guest"}, "kvm": {}, "hyperv": {}}});
    let rtc = "<timer name=\"rtc\" tickpolicy=\"catchup\" track=\"guest\" present=\"yes\"/>";
    let pit = "<timer name=\"pit\" tickpolicy=\"delay\" present=\"yes\"/>";
    check("domain.clock", timers, &[rtc, pit, "<timer name=\"hpet\" present=\"no\"/>", "kvmclock", "hypervclock"]);
    check("domain.features", json!({"apic": {"endOfInterrupt": true}}), &["<apic eoi=\"on\"/>"]);
    check("domain.features", json!({"smm": {}, "kvm": {"hidden": true}}), &["<smm state=\"on\"/>", "<hidden state="]);
    check("domain.features", json!({"pvspinlock": {"enabled": false}}), &["<pvspinlock state=\"off\"/>"]);
    check("domain.features", json!({"hypervPassthrough": {}}), &["<hyperv mode=\"passthrough\"/>"]);
    let hyperv = json!({"hyperv": {"relaxed": {}, "vapic": {"enabled": false}, "spinlocks": {"spinlocks": 8191},
        "synictimer": {"direct": {}}, "tlbflush": {"direct": {}, "extended": {"enabled": false}},
        "vendorid": {"vendorid": "abc"}, "evmcs": {}}});
    let expected = [
        "<relaxed state=\"on\"/>",
        "<vapic state=\"off\"/>",
        "<spinlocks state=\"on\" retries=\"8191\"/>",
        "<extended state=\"off\"/>",
        "<vendor_id state=\"on\" value=\"abc\"/>",
        "<evmcs state=\"on\"/>",
    ];
    check("domain.features", hyperv, &expected);
}

#[test]
fn disks() {
    let disk = |rest: Value| {
        let mut disk = json!({"name": "root", "disk": {"bus": "virtio"}});
        disk.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        disk
    };
    let root = "domain.devices.disks.0";
    check(root, disk(json!({"bootOrder": 3, "serial": "s-1"})), &["<boot order=\"3\"/>", "<serial>s-1</serial>"]);
    check(root, disk(json!({"cache": "writeback", "io": "threads"})), &["cache=\"writeback\"", "io=\"threads\""]);
    check(
        root,
        disk(json!({"errorPolicy": "report", "shareable": true})),
        &["error_policy=\"report\"", "<shareable/>"],
    );
    check(root, disk(json!({"disk": {"bus": "scsi", "readonly": true}})), &["bus=\"scsi\"", "<readonly/>"]);
    check(root, disk(json!({"disk": {"bus": "usb"}})), &["bus=\"usb\"", "model=\"qemu-xhci\""]);
    check(root, json!({"name": "root"}), &["dev=\"sda\" bus=\"sata\""]);
    check(root, json!({"name": "root", "cdrom": {"tray": "open"}}), &["device=\"cdrom\"", "tray=\"open\""]);
    let place = disk(json!({"disk": {"bus": "virtio", "pciAddress": "0000:00:10.0"}}));
    check(root, place, &["bus=\"0x00\" slot=\"0x10\" function=\"0x0\"/>"]);
    let sizes = disk(json!({"blockSize": {"custom": {"logical": 512, "physical": 4096}}}));
    check(root, sizes, &["<blockio logical_block_size=\"512\" physical_block_size=\"4096\"/>"]);
    let volume = disk(json!({"blockSize": {"matchVolume": {}}}));
    check(root, volume, &["<blockio logical_block_size=\"512\" physical_block_size=\"512\"/>"]);
    check(root, disk(json!({"dedicatedIOThread": true})), &["<iothreads>2</iothreads>", "iothread=\"2\""]);
    check("domain.ioThreadsPolicy", json!("shared"), &["<iothreads>1</iothreads>", "iothread=\"1\""]);
    let mut pool = with("domain.ioThreadsPolicy", json!("supplementalPool"));
    pool["spec"]["domain"]["ioThreads"] = json!({"supplementalPoolThreadCount": 3});
    assert!(xml(pool).expect("a domain").contains("<iothread id=\"3\"/>"));
}

#[test]
fn volumes_that_are_files() {
    let path = "/guests/uid-1/volume-seed.iso";
    for source in [
        json!({"configMap": {"name": "o"}}),
        json!({"secret": {"secretName": "o"}}),
        json!({"sysprep": {"configMap": {"name": "o"}}}),
        json!({"downwardAPI": {"fields": []}}),
        json!({"serviceAccount": {"serviceAccountName": "o"}}),
    ] {
        let mut volume = json!({"name": "seed"});
        volume.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        check("volumes.1", volume, &[path]);
    }
    let mut told = with("volumes.1", json!({"name": "seed", "downwardMetrics": {}}));
    told["spec"]["domain"]["devices"]["disks"][1] = json!({"name": "seed"});
    let told = xml(told).expect("a domain");
    let (_, disk) = told.split_once("<source file=\"/guests/uid-1/host-metrics.img\"/>").expect("the disk");
    let disk = disk.split_once("</disk>").expect("its end").0;
    assert!(disk.contains("<target dev=\"vdb\" bus=\"virtio\"/>") && disk.contains("<readonly/>"), "{disk}");
    let disk = json!({"path": "/var/lib/furrow/host-disks/default/a.img", "type": "Disk"});
    let vmi = with("volumes.1", json!({"name": "seed", "hostDisk": disk}));
    assert!(xml(vmi.clone()).expect("a domain").contains("/var/lib/furrow/host-disks/default/a.img"));
    let images = request(vmi).expect("a request").exclusive_images();
    assert_eq!(images, ["volumes/csi-vol-1", "/var/lib/furrow/host-disks/default/a.img"]);
    let foreign = json!({"path": "/etc/shadow", "type": "Disk"});
    let refused = xml(with("volumes.1", json!({"name": "seed", "hostDisk": foreign})));
    assert!(matches!(refused, Err(ConvertError::HostDisk(_))), "{refused:?}");
}

#[test]
fn interfaces() {
    let nic = |rest: Value| {
        let mut nic = json!({"name": "default", "bridge": {}});
        nic.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        nic
    };
    let first = "domain.devices.interfaces.0";
    check(
        first,
        nic(json!({"model": "e1000e", "state": "down"})),
        &["<model type=\"e1000e\"/>", "<link state=\"down\"/>"],
    );
    check(first, nic(json!({"acpiIndex": 5, "bootOrder": 2})), &["<acpi index=\"5\"/>", "<boot order=\"2\"/>"]);
    check(first, nic(json!({"pciAddress": "0000:00:11.0"})), &["slot=\"0x11\" function=\"0x0\"/>"]);
    let port = |interface: Value| request(with(first, interface)).expect("a request").ports.remove(0);
    assert_eq!(port(nic(json!({"ports": [{"port": 80}]}))).tcp_ports, None, "on a bridge they are names");
    let masquerade = json!({"name": "default", "masquerade": {},
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}, {"port": 443, "protocol": "TCP"}]});
    assert_eq!(port(masquerade).tcp_ports, Some(vec![80, 443]));
    let options = port(nic(json!({"dhcpOptions": {"bootFileName": "boot.efi"}}))).dhcp_options;
    assert_eq!(options.and_then(|options| options.boot_file).as_deref(), Some("boot.efi"));
}

#[test]
fn devices() {
    let base = "domain.devices";
    let part = |name: &str, value: Value, expected: &[&str]| check(&format!("{base}.{name}"), value, expected);
    part("video", json!({"type": "virtio"}), &["<model type=\"virtio\" heads=\"1\"/>"]);
    part("sound", json!({"name": "card"}), &["<sound model=\"ich9\">", "ua-card"]);
    part("panicDevices", json!([{}, {"model": "pvpanic"}]), &["<panic model=\"isa\"/>", "<panic model=\"pvpanic\"/>"]);
    part("tpm", json!({}), &["<tpm model=\"tpm-tis\">"]);
    part("clientPassthrough", json!({}), &["path=\"/guests/uid-1/usbredir-3.sock\"", "model=\"qemu-xhci\""]);
    let mut shared = with("domain.devices.filesystems", json!([{"name": "map", "virtiofs": {}}]));
    shared["spec"]["volumes"].as_array_mut().expect("volumes").push(json!({"name": "map", "configMap": {"name": "o"}}));
    let shared = xml(shared).expect("a domain");
    assert!(shared.contains("<source dir=\"/shares/uid-1/map\"/>") && !shared.contains("volume-map.iso"), "{shared}");
    part("rng", json!({}), &["<rng model="]);
    part("watchdog", json!({"name": "dog", "i6300esb": {"action": "poweroff"}}), &["action=\"poweroff\"", "ua-dog"]);
    let keyboard = json!([{"name": "keys", "type": "keyboard", "bus": "virtio"}]);
    part("inputs", keyboard, &["<input type=\"keyboard\" bus=\"virtio\" model=\"virtio\">"]);
    part("autoattachInputDevice", json!(true), &["<input type=\"tablet\" bus=\"usb\">"]);
    part("autoattachMemBalloon", json!(false), &["<memballoon model=\"none\"/>"]);
    let without = |name: &str, value: Value, text: &str| {
        let xml = xml(with(&format!("{base}.{name}"), value)).expect("a domain");
        assert!(!xml.contains(text), "{name}: {text} in\n{xml}");
    };
    without("autoattachGraphicsDevice", json!(false), "<graphics");
    without("autoattachSerialConsole", json!(false), "<serial");
    without("logSerialConsole", json!(false), "<log ");
    without("tpm", json!({"enabled": false}), "<tpm");
    without("tpm", json!({"enabled": false, "persistent": true}), "<tpm");
    without("tpm", json!({"persistent": false}), "persistent_state");
    let mut queues = with("domain.cpu", json!({"cores": 4}));
    queues["spec"]["domain"]["devices"]["blockMultiQueue"] = json!(true);
    queues["spec"]["domain"]["devices"]["networkInterfaceMultiqueue"] = json!(true);
    let xml = xml(queues).expect("a domain");
    assert!(xml.contains("discard=\"unmap\" queues=\"4\"") && xml.contains("<driver queues=\"4\"/>"), "{xml}");
}

#[test]
fn what_is_not_realised_is_named() {
    for (pointer, value, path) in [
        ("domain.devices.autoattachVSOCK", json!(true), "spec.domain.devices.autoattachVSOCK"),
        (
            "domain.devices.filesystems",
            json!([{"name": "root", "virtiofs": {}}]),
            "spec.domain.devices.filesystems[root]",
        ),
        ("resourceClaims", json!([{"name": "gpu"}]), "spec.resourceClaims"),
        ("volumes.1", json!({"name": "seed", "containerPath": {"path": "/a"}}), "containerPath"),
    ] {
        let refused = xml(with(pointer, value));
        assert!(
            matches!(&refused, Err(ConvertError::Unsupported { path: found }) if found.contains(path)),
            "{refused:?}"
        );
    }
}
