//! A golden document for each group of fields that a guest's spec may have. `docs/fields.md` names them; the test that
//! writes that table looks its words up in these documents.

use super::*;

#[test]
fn processors_have_model_topology_and_features() {
    let mut spec = tiny();
    spec.cpu.model = CpuModelSpec::Named("Skylake-Server".to_owned());
    (spec.cpu.sockets, spec.cpu.cores, spec.cpu.threads) = (2, 4, 2);
    let policies = ["force", "require", "optional", "disable", "forbid"];
    spec.cpu.features = policies.map(|policy| (format!("feature-{policy}"), policy.to_owned())).to_vec();
    check("cpu", &spec, Virtualization::Kvm);
    spec.cpu.model = CpuModelSpec::HostPassthrough;
    spec.cpu.features.clear();
    check("cpu-passthrough", &spec, Virtualization::Kvm);
}

#[test]
fn memory_has_room_to_grow() {
    const MIB: u64 = 1024;
    let mut spec = tiny();
    spec.memory_kib = 1024 * MIB;
    spec.max_memory_kib = Some(4096 * MIB);
    spec.cpu.max_sockets = 8;
    check("memory", &spec, Virtualization::Kvm);
    let plain = render(&DomainSpec { max_memory_kib: None, ..spec.clone() }, &facts(Virtualization::Kvm));
    let full = DomainSpec { max_memory_kib: Some(spec.memory_kib), ..spec.clone() };
    assert_eq!(render(&full, &facts(Virtualization::Kvm)), plain, "room for nothing more is none");
    let refused = |change: fn(&mut DomainSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        render(&spec, &facts(Virtualization::Kvm)).expect_err("it is refused")
    };
    let (kib, most_kib) = (1024 * MIB, 512 * MIB);
    assert_eq!(refused(|s| s.max_memory_kib = Some(512 * MIB)), DomainError::MemoryRoom { kib, most_kib });
    assert!(matches!(refused(|s| s.max_memory_kib = Some(4095 * MIB)), DomainError::MemoryRoom { .. }));
    assert!(matches!(refused(|s| s.memory_kib += MIB), DomainError::MemoryRoom { .. }));
    assert_eq!(refused(|s| s.hugepage_kib = Some(2048)), DomainError::HugePagesGrow);
}

#[test]
fn firmware_is_bios_or_efi() {
    let mut spec = tiny();
    spec.firmware = Firmware::Bios { use_serial: true };
    spec.serial_number = Some("e4686d2c-6e8d".to_owned());
    spec.devices.chassis =
        ["manufacturer", "version", "serial", "asset", "sku"].map(|name| (name, format!("the {name}"))).to_vec();
    check("firmware-bios", &spec, Virtualization::Kvm);
    spec = tiny();
    spec.firmware = Firmware::Efi { secure_boot: false, nvram: None };
    check("firmware-efi", &spec, Virtualization::Kvm);
    spec.firmware = Firmware::Efi { secure_boot: true, nvram: None };
    spec.features.smm = true;
    check("firmware-secure-boot", &spec, Virtualization::Kvm);
    let DiskSource::Rbd(nvram) = rbd("nvram", "csi-vol-nvram").source else { unreachable!("it is an image") };
    spec.firmware = Firmware::Efi { secure_boot: true, nvram: Some(nvram) };
    check("firmware-persistent", &spec, Virtualization::Kvm);
    spec.disks.push(rbd("again", "csi-vol-nvram"));
    let refused = render(&spec, &facts(Virtualization::Kvm));
    assert_eq!(refused, Err(DomainError::ImageTwice { image: "volumes/csi-vol-nvram".to_owned() }));
}

#[test]
fn a_kernel_is_booted_with_its_initrd_and_arguments() {
    let mut spec = tiny();
    let dir = PathBuf::from("/var/lib/furrow/guests/uid-1");
    spec.kernel = Some(KernelSpec {
        kernel: dir.join("kernel"),
        initrd: Some(dir.join("initrd")),
        arguments: Some("console=ttyS0 quiet".to_owned()),
    });
    check("firmware-kernel-boot", &spec, Virtualization::Kvm);
}

#[test]
fn clocks_have_an_offset_and_timers() {
    let mut spec = tiny();
    let timer = |name, policy: Option<&str>, track: Option<&str>, present| TimerSpec {
        name,
        tick_policy: policy.map(str::to_owned),
        track: track.map(str::to_owned),
        present: Some(present),
    };
    spec.clock = ClockSpec {
        offset: ClockOffset::Variable(-3600),
        timers: vec![
            timer(TimerName::Rtc, Some("catchup"), Some("guest"), true),
            timer(TimerName::Pit, Some("delay"), None, true),
            timer(TimerName::Hpet, None, None, false),
            timer(TimerName::Kvm, None, None, true),
            timer(TimerName::Hyperv, None, None, true),
        ],
    };
    check("clock", &spec, Virtualization::Kvm);
}

#[test]
fn hyperv_is_named_feature_by_feature_or_passed_through() {
    let mut spec = tiny();
    let on = Some(true);
    spec.features.hyperv = Some(HypervSpec {
        relaxed: on,
        vapic: on,
        spinlocks: Some((true, 8191)),
        vpindex: on,
        runtime: on,
        synic: on,
        synictimer: Some((true, on)),
        reset: on,
        frequencies: on,
        reenlightenment: Some(false),
        tlbflush: Some((true, None, None)),
        ipi: on,
        evmcs: on,
        vendor_id: Some((true, Some("KVM Hv".to_owned()))),
    });
    check("hyperv", &spec, Virtualization::Kvm);
    if let Some(hyperv) = spec.features.hyperv.as_mut() {
        *hyperv = HypervSpec { tlbflush: Some((true, on, on)), ..HypervSpec::default() };
    }
    check("hyperv-tlbflush", &spec, Virtualization::Kvm);
    spec.features.hyperv = None;
    spec.features.hyperv_passthrough = true;
    check("hyperv-passthrough", &spec, Virtualization::Kvm);
    let refused = render(&spec, &facts(Virtualization::Tcg));
    assert_eq!(refused, Err(DomainError::NeedsKvm { feature: "spec.domain.features.hypervPassthrough" }));
}

#[test]
fn platform_features_can_be_turned() {
    let mut spec = tiny();
    spec.features = FeatureSpec {
        acpi: true,
        apic: true,
        apic_eoi: Some(true),
        pvspinlock: Some(false),
        smm: true,
        kvm_hidden: true,
        hyperv: None,
        hyperv_passthrough: false,
    };
    check("features", &spec, Virtualization::Kvm);
    spec.features = FeatureSpec { acpi: false, apic: false, ..tiny().features };
    check("features-off", &spec, Virtualization::Kvm);
}

#[test]
fn disks_have_buses_targets_and_tuning() {
    let mut spec = tiny();
    let block_size = BlockSizeSpec::new(512, 4096).ok();
    let pci_address = "0000:00:10.1".parse().ok();
    spec.disks = vec![
        DiskSpec {
            serial: Some("root-1".to_owned()),
            boot_order: Some(1),
            queues: Some(4),
            tuning: DiskTuning { pci_address, block_size, ..DiskTuning::default() },
            ..rbd("virtio", "a")
        },
        DiskSpec { bus: DiskBus::Sata, ..rbd("sata", "b") },
        DiskSpec { bus: DiskBus::Scsi, read_only: true, ..rbd("scsi", "c") },
        DiskSpec { bus: DiskBus::Usb, ..rbd("usb", "d") },
        DiskSpec { device: DiskDevice::Cdrom, bus: DiskBus::Sata, boot_order: Some(2), ..rbd("closed", "e") },
        DiskSpec {
            device: DiskDevice::Cdrom,
            bus: DiskBus::Scsi,
            tuning: DiskTuning { tray_open: true, ..DiskTuning::default() },
            ..rbd("open", "f")
        },
        DiskSpec { shareable: true, ..rbd("shared", "g") },
        DiskSpec { cache: Some("writethrough".to_owned()), io: Some("threads".to_owned()), ..rbd("cached", "h") },
        DiskSpec { cache: Some("directsync".to_owned()), io: Some("native".to_owned()), ..rbd("direct", "i") },
        DiskSpec { error_policy: Some("enospace".to_owned()), ..rbd("error", "j") },
        DiskSpec {
            tuning: DiskTuning { block_size: Some(BlockSizeSpec::VOLUME), ..DiskTuning::default() },
            ..rbd("matching", "k")
        },
    ];
    check("disks", &spec, Virtualization::Kvm);
}

#[test]
fn input_and_output_has_threads() {
    let own = DiskTuning { dedicated_io_thread: true, ..DiskTuning::default() };
    let mut spec = tiny();
    spec.cpu.sockets = 1;
    spec.disks = vec![
        rbd("a", "a"),
        rbd("b", "b"),
        rbd("c", "c"),
        DiskSpec { tuning: own, ..rbd("own", "own") },
        DiskSpec { bus: DiskBus::Sata, ..rbd("sata", "sata") },
    ];
    spec.io_threads = IoThreadPolicy::Shared;
    check("io-threads-shared", &spec, Virtualization::Kvm);
    spec.cpu.sockets = 2;
    spec.io_threads = IoThreadPolicy::Auto;
    check("io-threads-auto", &spec, Virtualization::Kvm);
    spec.io_threads = IoThreadPolicy::Pool(2);
    check("io-threads-pool", &spec, Virtualization::Kvm);
    spec.io_threads = IoThreadPolicy::None;
    check("io-threads-dedicated", &spec, Virtualization::Kvm);
}

#[test]
fn interfaces_have_models_places_and_states() {
    let mut spec = tiny();
    let models = ["virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139"];
    spec.nics = models
        .into_iter()
        .zip(1..)
        .map(|(model, number)| NicSpec {
            name: model.to_owned(),
            tap: format!("fw0123456789{number}"),
            model: Some(model.to_owned()),
            ..nic()
        })
        .collect();
    spec.nics[0].queues = Some(4);
    spec.nics[0].boot_order = Some(1);
    spec.nics[0].place = NicPlace { pci_address: "0000:00:11.0".parse().ok(), acpi_index: Some(7) };
    spec.nics[1].link_down = true;
    check("interfaces", &spec, Virtualization::Kvm);
}

#[test]
fn devices_are_there_when_asked_for() {
    let mut spec = tiny();
    spec.devices = DeviceSpec {
        video: Some("virtio".to_owned()),
        sound: Some(SoundSpec { name: "card".to_owned(), model: "ich9".to_owned() }),
        panic: PANIC_MODELS.map(str::to_owned).to_vec(),
        tpm: Some(TpmSpec::Forgets),
        chassis: Vec::new(),
        host_metrics: true,
        usb_redirection: false,
        shares: Vec::new(),
    };
    spec.extras.rng = true;
    spec.extras.console_log = false;
    spec.inputs = [("tablet", false, false), ("keyboard", true, true)]
        .map(|(name, keyboard, virtio)| InputSpec { name: name.to_owned(), keyboard, virtio })
        .to_vec();
    spec.watchdog = Some(WatchdogSpec { name: "dog".to_owned(), action: WatchdogAction::Poweroff });
    spec.hugepage_kib = Some(2048);
    check("devices", &spec, Virtualization::Kvm);
    for model in VIDEO_MODELS.into_iter().filter(|model| *model != "virtio") {
        spec = tiny();
        spec.devices.video = Some(model.to_owned());
        check(&format!("video-{model}"), &spec, Virtualization::Kvm);
    }
}

#[test]
fn clients_lend_usb_devices_over_sockets_and_the_bus_has_a_controller() {
    let mut spec = tiny();
    let without = render(&spec, &facts(Virtualization::Kvm)).expect("a document");
    assert!(without.contains("<controller type=\"usb\" index=\"0\" model=\"none\"/>"), "{without}");
    assert!(!without.contains("redirdev"), "{without}");
    spec.devices.usb_redirection = true;
    check("usb-redirection", &spec, Virtualization::Kvm);
}

#[test]
fn file_systems_are_shared_read_only_with_memory_that_two_processes_map() {
    let mut spec = tiny();
    spec.devices.shares = vec!["settings".to_owned(), "keys".to_owned()];
    check("shares", &spec, Virtualization::Kvm);
    spec.hugepage_kib = Some(2048);
    check("shares-hugepages", &spec, Virtualization::Kvm);
    let refused = |names: &[&str]| {
        let mut spec = tiny();
        spec.devices.shares = names.iter().map(|name| (*name).to_owned()).collect();
        render(&spec, &facts(Virtualization::Kvm)).err()
    };
    assert_eq!(refused(&["a", "a"]), Some(DomainError::NameTwice { name: "a".to_owned() }));
    assert_eq!(refused(&["a", &"b".repeat(36)]), None);
    let name = "b".repeat(37);
    assert_eq!(refused(&["a", &name]), Some(DomainError::ShareName { name: name.clone(), max: 36 }));
}

#[test]
fn metrics_are_on_a_disk_that_is_read_past_the_page_cache() {
    let mut spec = tiny();
    spec.disks.push(DiskSpec {
        source: DiskSource::File(PathBuf::from("/var/lib/furrow/guests/uid-1/host-metrics.img")),
        read_only: true,
        ..rbd("told", "unused")
    });
    check("metrics-disk", &spec, Virtualization::Kvm);
}

#[test]
fn a_tpm_that_keeps_its_state_has_it_encrypted_in_a_directory_of_the_guests_own() {
    let mut spec = tiny();
    spec.devices.tpm = Some(TpmSpec::Keeps { secret: crate::tpm::secret_uuid("uid-1") });
    check("tpm-persistent", &spec, Virtualization::Kvm);
}

#[test]
fn two_devices_have_two_places() {
    let mut spec = tiny();
    let place = "0000:00:10.0".parse().ok();
    spec.disks[0].tuning.pci_address = place;
    spec.nics[0].place.pci_address = place;
    let refused = render(&spec, &facts(Virtualization::Kvm));
    assert_eq!(refused, Err(DomainError::PciAddressTwice { address: "0000:00:10.0".to_owned() }));
    spec.nics[0].place = NicPlace { pci_address: None, acpi_index: Some(1) };
    spec.nics.push(NicSpec { name: "second".to_owned(), ..spec.nics[0].clone() });
    let refused = render(&spec, &facts(Virtualization::Kvm));
    assert_eq!(refused, Err(DomainError::AcpiIndexTwice { index: 1 }));
}

#[test]
fn a_pci_address_is_four_numbers() {
    let parse = |text: &str| text.parse::<PciAddress>().map(|address| address.to_string()).ok();
    assert_eq!(parse("0000:81:1F.7").as_deref(), Some("0000:81:1f.7"));
    for wrong in ["", "0000:81:20.0", "0000:81:01.8", "0:81:01.0", "0000:81:01", "0000:81:01.0.0", "0000:+1:01.0"] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

#[test]
fn block_sizes_are_powers_of_two_in_order() {
    assert!(BlockSizeSpec::new(512, 4096).is_ok());
    assert_eq!(BlockSizeSpec::new(500, 4096), Err(BlockSizeError::NotAPower(500)));
    assert_eq!(BlockSizeSpec::new(512, 4 << 20), Err(BlockSizeError::NotAPower(4 << 20)));
    assert_eq!(BlockSizeSpec::new(4096, 512), Err(BlockSizeError::Order { logical: 4096, physical: 512 }));
}
