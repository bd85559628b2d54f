//! Golden documents and refusals. `BLESS=1` rewrites the goldens.

use std::path::PathBuf;

use uuid::Uuid;

use super::*;

fn facts(virtualization: Virtualization) -> HostFacts {
    HostFacts {
        virtualization,
        emulator: "/usr/bin/qemu-system-x86_64".to_owned(),
        firmware_dir: "/usr/share/OVMF".to_owned(),
        guest_dir: PathBuf::from("/var/lib/furrow/guests/uid-1"),
        shares_dir: PathBuf::from("/run/furrow/shares/uid-1"),
        tpm_dir: PathBuf::from("/run/furrow/tpm/uid-1"),
    }
}

fn rbd(name: &str, image: &str) -> DiskSpec {
    DiskSpec {
        name: name.to_owned(),
        device: DiskDevice::Disk,
        bus: DiskBus::Virtio,
        source: DiskSource::Rbd(RbdSource {
            pool: "volumes".to_owned(),
            image: image.to_owned(),
            monitors: vec![("10.0.0.1".to_owned(), 3300)],
            user: "furrow-qemu".to_owned(),
            secret: Uuid::from_u128(0x6f2c_1d1e_6675_4272_8f77_6675_7272_f001),
        }),
        read_only: false,
        shareable: false,
        serial: None,
        boot_order: None,
        cache: None,
        io: None,
        error_policy: None,
        queues: None,
        tuning: DiskTuning::default(),
    }
}

fn seed() -> DiskSpec {
    DiskSpec {
        source: DiskSource::File(PathBuf::from("/var/lib/furrow/guests/uid-1/seed.iso")),
        read_only: true,
        ..rbd("cloudinit", "")
    }
}

fn nic() -> NicSpec {
    NicSpec {
        name: "default".to_owned(),
        tap: "fw0123456789a".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        model: None,
        mtu: 1500,
        queues: None,
        link_down: false,
        boot_order: None,
        place: NicPlace::default(),
    }
}

fn tiny() -> DomainSpec {
    let owner = Owner { namespace: "default".into(), name: "tiny".into(), uid: "uid-1".into(), generation: 1 };
    DomainSpec {
        uuid: owner.default_uuid(),
        owner,
        serial_number: None,
        memory_kib: 128 * 1024,
        max_memory_kib: None,
        hugepage_kib: None,
        cpu: CpuSpec {
            sockets: 1,
            max_sockets: 1,
            cores: 1,
            threads: 1,
            model: CpuModelSpec::HostModel,
            features: Vec::new(),
        },
        pinning: None,
        firmware: Firmware::Bios { use_serial: false },
        kernel: None,
        machine: None,
        features: FeatureSpec {
            acpi: true,
            apic: true,
            apic_eoi: None,
            pvspinlock: None,
            smm: false,
            kvm_hidden: false,
            hyperv: None,
            hyperv_passthrough: false,
        },
        ends_on_reboot: false,
        clock: ClockSpec::default(),
        disks: vec![rbd("root", "csi-vol-1"), seed()],
        nics: vec![nic()],
        inputs: Vec::new(),
        watchdog: None,
        io_threads: IoThreadPolicy::None,
        devices: DeviceSpec::default(),
        extras: Extras {
            console_log: true,
            serial_console: true,
            graphics: true,
            balloon: true,
            rng: false,
            plug_disks: true,
        },
    }
}

fn windows() -> DomainSpec {
    let mut spec = tiny();
    spec.owner.name = "windows".to_owned();
    spec.uuid = Uuid::from_u128(0x11);
    spec.serial_number = Some("SN & <1>".to_owned());
    spec.memory_kib = 8 * 1024 * 1024;
    spec.hugepage_kib = Some(2048);
    spec.cpu = CpuSpec {
        sockets: 2,
        max_sockets: 2,
        cores: 4,
        threads: 1,
        model: CpuModelSpec::Named("Skylake-Server".to_owned()),
        features: vec![("vmx".to_owned(), "disable".to_owned())],
    };
    spec.firmware = Firmware::Efi { secure_boot: true, nvram: None };
    spec.features.hyperv = Some(HypervSpec {
        relaxed: Some(true),
        spinlocks: Some((true, 8191)),
        synictimer: Some((true, Some(true))),
        ..HypervSpec::default()
    });
    let timer = |name, present| TimerSpec { name, tick_policy: None, track: None, present: Some(present) };
    spec.clock = ClockSpec {
        offset: ClockOffset::Timezone("Europe/Berlin".to_owned()),
        timers: vec![timer(TimerName::Hpet, false), timer(TimerName::Hyperv, true)],
    };
    spec.disks = vec![
        DiskSpec { bus: DiskBus::Sata, boot_order: Some(2), serial: Some("disk-1".to_owned()), ..rbd("root", "a") },
        DiskSpec { device: DiskDevice::Cdrom, bus: DiskBus::Sata, boot_order: Some(1), ..rbd("setup", "b") },
        DiskSpec { bus: DiskBus::Scsi, cache: Some("writeback".to_owned()), shareable: true, ..rbd("data", "c") },
        DiskSpec {
            error_policy: Some("report".to_owned()),
            io: Some("threads".to_owned()),
            queues: Some(8),
            ..rbd("more", "d")
        },
    ];
    spec.nics[0].model = Some("e1000e".to_owned());
    spec.nics[0].boot_order = Some(3);
    spec.nics[0].link_down = true;
    spec.inputs = vec![InputSpec { name: "tablet".to_owned(), keyboard: false, virtio: false }];
    spec.watchdog = Some(WatchdogSpec { name: "wd".to_owned(), action: WatchdogAction::Reset });
    spec.extras.rng = true;
    spec
}

fn check(name: &str, spec: &DomainSpec, virtualization: Virtualization) {
    let xml = render(spec, &facts(virtualization)).expect("a valid spec");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/domain/golden/{name}.xml"));
    #[expect(clippy::disallowed_methods, reason = "blessing is asked for by the environment")]
    if std::env::var("BLESS").is_ok() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("the golden directory");
        std::fs::write(&path, &xml).expect("the golden file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(xml == golden, "{name} differs from its golden file; BLESS=1 rewrites it:\n{xml}");
}

#[test]
fn a_small_guest_on_kvm() {
    check("tiny-kvm", &tiny(), Virtualization::Kvm);
}

#[test]
fn a_small_guest_on_the_translator() {
    check("tiny-tcg", &tiny(), Virtualization::Tcg);
}

#[test]
fn a_large_guest_with_everything() {
    check("windows-kvm", &windows(), Virtualization::Kvm);
}

#[test]
fn a_headless_guest_without_extras() {
    let mut spec = tiny();
    spec.extras = Extras {
        console_log: false,
        serial_console: false,
        graphics: false,
        balloon: false,
        rng: false,
        plug_disks: false,
    };
    check("headless-kvm", &spec, Virtualization::Kvm);
}

#[test]
fn refuses_what_contradicts_itself() {
    let refused = |change: fn(&mut DomainSpec)| {
        let mut spec = tiny();
        change(&mut spec);
        render(&spec, &facts(Virtualization::Tcg)).expect_err("it is refused")
    };
    assert_eq!(refused(|s| s.cpu.cores = 0), DomainError::NoCpu);
    assert_eq!(refused(|s| s.cpu.sockets = 400), DomainError::TooManyCpus { count: 400, max: 255 });
    assert_eq!(refused(|s| s.memory_kib = 10), DomainError::NoMemory { kib: 10 });
    assert_eq!(refused(|s| s.disks[1].name = "root".into()), DomainError::NameTwice { name: "root".into() });
    assert_eq!(refused(|s| s.nics.push(nic())), DomainError::NameTwice { name: "default".into() });
    assert_eq!(
        refused(|s| {
            s.disks[0].boot_order = Some(1);
            s.nics[0].boot_order = Some(1);
        }),
        DomainError::BootOrderTwice { order: 1 }
    );
    assert_eq!(
        refused(|s| s.disks.push(rbd("again", "csi-vol-1"))),
        DomainError::ImageTwice { image: "volumes/csi-vol-1".into() }
    );
    assert_eq!(
        refused(|s| s.features.hyperv = Some(HypervSpec::default())),
        DomainError::NeedsKvm { feature: "spec.domain.features.hyperv" }
    );
}

#[test]
fn disks_are_named_as_kubevirt_names_them() {
    let mut disks: Vec<_> = (0..28).map(|n| rbd(&n.to_string(), &n.to_string())).collect();
    disks[1].bus = DiskBus::Sata;
    disks[2].bus = DiskBus::Scsi;
    let names = target_names(&disks);
    assert_eq!(names[..4], ["vda", "sda", "sdb", "vdb"]);
    assert_eq!(names[27], "vdz");
    disks.push(rbd("last", "last"));
    assert_eq!(target_names(&disks)[28], "vdaa");
}

#[test]
fn two_namespaces_get_different_uuids_for_one_name() {
    let owner =
        |namespace: &str| Owner { namespace: namespace.into(), name: "a".into(), uid: String::new(), generation: 0 };
    assert_ne!(owner("x").default_uuid(), owner("y").default_uuid());
}

#[test]
fn room_for_more_processors_is_part_of_the_topology() {
    let mut spec = tiny();
    spec.cpu = CpuSpec { sockets: 2, max_sockets: 8, cores: 3, ..spec.cpu };
    let xml = render(&spec, &facts(Virtualization::Kvm)).expect("a domain");
    assert!(xml.contains("<vcpu placement=\"static\" current=\"6\">24</vcpu>"), "{xml}");
    assert!(xml.contains("<topology sockets=\"8\" dies=\"1\" cores=\"3\" threads=\"1\"/>"), "{xml}");
    spec.cpu.max_sockets = 100;
    assert_eq!(render(&spec, &facts(Virtualization::Kvm)), Err(DomainError::TooManyCpus { count: 300, max: 255 }));
}

#[test]
fn a_reboot_ends_the_domain_where_the_policy_says_so() {
    let mut spec = tiny();
    assert!(render(&spec, &facts(Virtualization::Kvm)).expect("a domain").contains("<on_reboot>restart</on_reboot>"));
    spec.ends_on_reboot = true;
    assert!(render(&spec, &facts(Virtualization::Kvm)).expect("a domain").contains("<on_reboot>destroy</on_reboot>"));
}

#[test]
fn disks_are_plugged_into_a_scsi_controller() {
    let has = |change: fn(&mut DomainSpec)| {
        let mut spec = tiny();
        change(&mut spec);
        let xml = render(&spec, &facts(Virtualization::Kvm)).expect("a domain");
        xml.matches("<controller type=\"scsi\"").count()
    };
    assert_eq!(has(|_| ()), 1, "whether there is a disk on it or not");
    assert_eq!(has(|spec| spec.disks[0].bus = DiskBus::Scsi), 1);
    assert_eq!(has(|spec| spec.extras.plug_disks = false), 0);
    assert_eq!(
        has(|spec| {
            spec.extras.plug_disks = false;
            spec.disks[0].bus = DiskBus::Scsi;
        }),
        1
    );
}

#[test]
fn a_plugged_disk_has_a_name_of_its_own_and_the_same_document() {
    let used = ["sda", "sdc", "vda"].map(str::to_owned);
    assert_eq!(free_target(DiskBus::Scsi, &used), "sdb");
    assert_eq!(free_target(DiskBus::Virtio, &used), "vdb");
    let disk = DiskSpec { bus: DiskBus::Scsi, serial: Some("data".into()), ..rbd("data", "data") };
    let xml = render_disk(&disk, "sdb".into()).expect("a document");
    for part in [
        r#"<disk type="network" device="disk">"#,
        r#"<source protocol="rbd" name="volumes/data">"#,
        r#"<target dev="sdb" bus="scsi"/>"#,
        "<serial>data</serial>",
        r#"<alias name="ua-data"/>"#,
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
}

#[path = "field_tests.rs"]
mod fields;
#[path = "pinning_tests.rs"]
mod pinned;
