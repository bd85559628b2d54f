//! The configurators, one a concern, called in one fixed order. Owns which elements a guest gets and with what values;
//! where a value is KubeVirt's convention its converter (`pkg/virt-launcher/virtwrap/converter`) is the source.
//! Refuses to probe: everything it needs to know about the node is in `HostFacts`.

use super::devices;
use super::disks;
use super::document::{
    AcpiIndex, Alias, Apic, Bios, Boot, Channel, ChannelTarget, Clock, Controller, Cpu, CpuFeature, CpuModel, Domain,
    Empty, Features, Graphics, GuestMetadata, Hyperv, Input, Interface, InterfaceDriver, InterfaceTarget, KvmFeatures,
    Listen, Loader, Log, MacAddress, Memballoon, Metadata, Model, Mtu, Nvram, NvramFile, NvramImage, Os, OsType,
    PortTarget, Rng, RngBackend, Rom, Serial, Smbios, SocketSource, Spinlocks, Stats, Stimer, Switch, Sysinfo,
    SysinfoEntry, SysinfoSystem, TbCache, TcgFeatures, Timer, TlbFlush, Topology, Vcpu, VendorId, Watchdog,
};
use super::memory;
use super::pinning;
use super::shares;
use super::spec::{
    ClockOffset, CpuModelSpec, CpuSpec, DomainSpec, Firmware, HostFacts, HypervSpec, NicSpec, Virtualization,
    WatchdogAction,
};
use super::usb;

/// The namespace of Furrow's metadata element. The host's reader of live XML has the same constant; a test of the agent
/// holds them together.
pub const METADATA_NAMESPACE: &str = "https://furrow.io/libvirt/1";
/// The serial console's socket in the guest's directory.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The socket of the port by which the guest asks for metrics, in its directory.
pub const HOST_METRICS_SOCKET: &str = "host-metrics.sock";
/// Everything the serial console said, in the guest's directory.
pub const CONSOLE_LOG: &str = "console.log";
/// The display's socket in the guest's directory.
pub const DISPLAY_SOCKET: &str = "vnc.sock";

const VIRTIO: &str = "virtio-non-transitional";

pub(super) fn configure(spec: &DomainSpec, facts: &HostFacts) -> Domain {
    let mut domain = Domain::default();
    identity(spec, facts, &mut domain);
    firmware(spec, facts, &mut domain);
    features(spec, facts, &mut domain);
    cpu(spec, facts, &mut domain);
    memory::configure(spec, &mut domain);
    clock(spec, &mut domain);
    life_cycle(spec, &mut domain);
    domain.devices.emulator.clone_from(&facts.emulator);
    disks::configure(spec, &mut domain);
    interfaces(spec, &mut domain);
    console(spec, facts, &mut domain);
    guest_ports(spec, facts, &mut domain);
    display(spec, facts, &mut domain);
    inputs(spec, &mut domain);
    usb::configure(spec, facts, &mut domain);
    platform_devices(spec, &mut domain);
    devices::configure(spec, facts, &mut domain);
    pinning::configure(spec, facts, &mut domain);
    shares::configure(spec, facts, &mut domain);
    domain
}

fn identity(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    domain.kind = match facts.virtualization {
        Virtualization::Kvm => "kvm",
        Virtualization::Tcg => "qemu",
    };
    domain.name = spec.owner.domain_name();
    domain.uuid = spec.uuid.to_string();
    let guest = GuestMetadata {
        xmlns: METADATA_NAMESPACE,
        namespace: spec.owner.namespace.clone(),
        name: spec.owner.name.clone(),
        uid: spec.owner.uid.clone(),
        generation: spec.owner.generation,
    };
    domain.metadata = Some(Metadata { guest });
}

fn firmware(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let machine = spec.machine.clone().unwrap_or_else(|| "q35".to_owned());
    let mut os = Os {
        kind: OsType { arch: "x86_64", machine, kind: "hvm" },
        loader: None,
        nvram: None,
        kernel: spec.kernel.as_ref().map(|boot| boot.kernel.display().to_string()),
        initrd: spec.kernel.as_ref().and_then(|boot| Some(boot.initrd.as_ref()?.display().to_string())),
        cmdline: spec.kernel.as_ref().and_then(|boot| boot.arguments.clone()),
        bios: None,
        smbios: Smbios { mode: "sysinfo" },
    };
    match &spec.firmware {
        Firmware::Bios { use_serial } => os.bios = use_serial.then_some(Bios { useserial: "yes" }),
        Firmware::Efi { secure_boot, nvram } => {
            let code = if *secure_boot { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" };
            let secure = if *secure_boot { "yes" } else { "no" };
            let path = format!("{}/{code}", facts.firmware_dir);
            os.loader = Some(Loader { readonly: "yes", secure, kind: "pflash", path });
            os.nvram = Some(match nvram {
                Some(image) => {
                    Nvram::Image(NvramImage { kind: "network", format: "raw", source: disks::rbd_source(image) })
                }
                None => Nvram::File(NvramFile {
                    template: format!("{}/{}", facts.firmware_dir, nvram_template(*secure_boot)),
                    path: facts.guest_dir.join("nvram.fd").display().to_string(),
                }),
            });
        }
    }
    domain.os = Some(os);
    let mut entries = vec![
        SysinfoEntry { name: "manufacturer", value: "KubeVirt".to_owned() },
        SysinfoEntry { name: "product", value: "None".to_owned() },
    ];
    entries.extend(spec.serial_number.clone().map(|value| SysinfoEntry { name: "serial", value }));
    entries.push(SysinfoEntry { name: "uuid", value: spec.uuid.to_string() });
    entries.push(SysinfoEntry { name: "family", value: "KubeVirt".to_owned() });
    domain.sysinfo = Some(Sysinfo { kind: "smbios", system: SysinfoSystem { entries }, chassis: None });
}

/// The file of OVMF that a machine's variables begin with: with Microsoft's keys where signed loaders are enforced.
#[must_use]
pub fn nvram_template(secure_boot: bool) -> &'static str {
    if secure_boot { "OVMF_VARS_4M.ms.fd" } else { "OVMF_VARS_4M.fd" }
}

/// What the code takes that QEMU makes of an emulated guest's, in MiB: a quarter of the guest's memory, within bounds. QEMU's
/// own bound is 1 GiB whatever the guest's size, of which nobody would have taken account.
fn translations_mib(memory_kib: u64) -> u64 {
    (memory_kib / 1024 / 4).clamp(32, 512)
}

fn features(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let secure_boot = matches!(spec.firmware, Firmware::Efi { secure_boot: true, .. });
    domain.features = Some(Features {
        acpi: spec.features.acpi.then_some(Empty {}),
        apic: spec.features.apic.then(|| Apic { eoi: spec.features.apic_eoi.map(|on| Switch::new(on).state) }),
        pmu: None,
        hyperv: if spec.features.hyperv_passthrough {
            Some(Hyperv { mode: "passthrough", ..Hyperv::default() })
        } else {
            spec.features.hyperv.as_ref().map(hyperv)
        },
        kvm: spec.features.kvm_hidden.then(|| KvmFeatures { hidden: Some(Switch::new(true)), hint_dedicated: None }),
        pvspinlock: spec.features.pvspinlock.map(Switch::new),
        tcg: (facts.virtualization == Virtualization::Tcg)
            .then(|| TcgFeatures { tb_cache: TbCache { unit: "MiB", size: translations_mib(spec.memory_kib) } }),
        smm: (spec.features.smm || secure_boot).then(|| Switch::new(true)),
    });
}

fn hyperv(spec: &HypervSpec) -> Hyperv {
    Hyperv {
        mode: "custom",
        relaxed: spec.relaxed.map(Switch::new),
        vapic: spec.vapic.map(Switch::new),
        spinlocks: spec.spinlocks.map(|(on, retries)| Spinlocks { state: Switch::new(on).state, retries }),
        vpindex: spec.vpindex.map(Switch::new),
        runtime: spec.runtime.map(Switch::new),
        synic: spec.synic.map(Switch::new),
        stimer: spec
            .synictimer
            .map(|(on, direct)| Stimer { state: Switch::new(on).state, direct: direct.map(Switch::new) }),
        reset: spec.reset.map(Switch::new),
        frequencies: spec.frequencies.map(Switch::new),
        reenlightenment: spec.reenlightenment.map(Switch::new),
        vendor_id: spec
            .vendor_id
            .clone()
            .map(|(on, value)| VendorId { state: Switch::new(on).state, value: value.filter(|_| on) }),
        tlbflush: spec.tlbflush.map(|(on, direct, extended)| TlbFlush {
            state: Switch::new(on).state,
            direct: direct.map(Switch::new),
            extended: extended.map(Switch::new),
        }),
        ipi: spec.ipi.map(Switch::new),
        evmcs: spec.evmcs.map(Switch::new),
    }
}

fn cpu(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let (count, most) = (spec.cpu.count(), spec.cpu.max_count());
    let current = Some(count).filter(|count| *count < most);
    domain.vcpu = Some(Vcpu { placement: "static", cpuset: None, current, count: most });
    let (mode, model) = match (&spec.cpu.model, facts.virtualization) {
        (CpuModelSpec::Named(name), _) => ("custom", Some(CpuModel { fallback: "forbid", name: name.clone() })),
        // The translator has no host CPU to copy. Its largest model boots as fast as its smallest (proofs/boot.md).
        (_, Virtualization::Tcg) => ("maximum", None),
        (CpuModelSpec::HostModel, Virtualization::Kvm) => ("host-model", None),
        (CpuModelSpec::HostPassthrough, Virtualization::Kvm) => ("host-passthrough", None),
    };
    let CpuSpec { cores, threads, .. } = spec.cpu;
    // What the guest is told of: libvirt wants room and topology to agree.
    let sockets = spec.cpu.max_sockets.max(spec.cpu.sockets);
    domain.cpu = Some(Cpu {
        mode,
        model,
        topology: Topology { sockets, dies: 1, cores, threads },
        features: spec
            .cpu
            .features
            .iter()
            .map(|(name, policy)| CpuFeature { policy: policy.clone(), name: name.clone() })
            .collect(),
        numa: None,
    });
}

fn clock(spec: &DomainSpec, domain: &mut Domain) {
    let mut clock = Clock { offset: "utc", timezone: None, adjustment: None, timers: Vec::new() };
    match &spec.clock.offset {
        ClockOffset::Utc => {}
        ClockOffset::Variable(seconds) => {
            clock.offset = "variable";
            clock.adjustment = Some(seconds.to_string());
        }
        ClockOffset::Timezone(zone) => {
            clock.offset = "timezone";
            clock.timezone = Some(zone.clone());
        }
    }
    clock.timers = spec
        .clock
        .timers
        .iter()
        .map(|timer| Timer {
            name: timer.name.libvirt(),
            tickpolicy: timer.tick_policy.clone(),
            track: timer.track.clone(),
            present: timer.present.map(|present| if present { "yes" } else { "no" }),
        })
        .collect();
    domain.clock = Some(clock);
}

/// A guest that powers off or crashes ends; whether it comes back is its run strategy's decision, not libvirt's.
fn life_cycle(spec: &DomainSpec, domain: &mut Domain) {
    domain.on_poweroff = "destroy";
    domain.on_reboot = if spec.ends_on_reboot { "destroy" } else { "restart" };
    domain.on_crash = "destroy";
}

fn interfaces(spec: &DomainSpec, domain: &mut Domain) {
    domain.devices.interfaces = spec.nics.iter().map(interface).collect();
}

fn interface(nic: &NicSpec) -> Interface {
    let kind = match nic.model.as_deref() {
        None | Some("virtio") => VIRTIO.to_owned(),
        Some(other) => other.to_owned(),
    };
    Interface {
        kind: "ethernet",
        mac: MacAddress { address: nic.mac.clone() },
        // The tap, its bridge port and its flows are the agent's: they outlive a restart of libvirtd.
        target: InterfaceTarget { dev: nic.tap.clone(), managed: "no" },
        // Only virtio has queues.
        driver: nic.queues.filter(|_| kind == VIRTIO).map(|queues| InterfaceDriver { queues }),
        model: Model { kind },
        mtu: Mtu { size: nic.mtu },
        link: nic.link_down.then_some(Switch { state: "down" }),
        boot: nic.boot_order.map(|order| Boot { order }),
        // Without a place in the boot order its ROM would only cost boot time.
        rom: nic.boot_order.is_none().then_some(Rom { enabled: "no" }),
        acpi: nic.place.acpi_index.map(|index| AcpiIndex { index }),
        alias: Alias { name: format!("ua-{}", nic.name) },
        address: nic.place.pci_address.map(devices::PciAddress::element),
    }
}

fn console(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    if !spec.extras.serial_console {
        return;
    }
    domain.devices.serials = vec![Serial {
        kind: "unix",
        source: SocketSource { mode: "bind", path: facts.guest_dir.join(CONSOLE_SOCKET).display().to_string() },
        log: spec
            .extras
            .console_log
            .then(|| Log { file: facts.guest_dir.join(CONSOLE_LOG).display().to_string(), append: "on" }),
        target: PortTarget { port: 0 },
        alias: Alias { name: "ua-console".to_owned() },
    }];
}

fn guest_ports(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    domain.devices.controllers.push(Controller { kind: "virtio-serial", index: 0, model: Some(VIRTIO) });
    let port = |name| ChannelTarget { kind: "virtio", name };
    domain.devices.channels = vec![Channel { kind: "unix", source: None, target: port("org.qemu.guest_agent.0") }];
    if spec.devices.host_metrics {
        let path = facts.guest_dir.join(HOST_METRICS_SOCKET).display().to_string();
        // The name is the protocol's: programs in the guest look for it.
        domain.devices.channels.push(Channel {
            kind: "unix",
            source: Some(SocketSource { mode: "bind", path }),
            target: port("org.github.vhostmd.1"),
        });
    }
}

fn display(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    if !spec.extras.graphics {
        return;
    }
    let socket = facts.guest_dir.join(DISPLAY_SOCKET).display().to_string();
    domain.devices.graphics = Some(Graphics { kind: "vnc", listen: Listen { kind: "socket", socket } });
    domain.devices.video = Some(devices::video(spec.devices.video.as_deref()));
}

fn inputs(spec: &DomainSpec, domain: &mut Domain) {
    domain.devices.inputs = spec
        .inputs
        .iter()
        .map(|input| Input {
            kind: if input.keyboard { "keyboard" } else { "tablet" },
            bus: if input.virtio { "virtio" } else { "usb" },
            model: input.virtio.then_some("virtio"),
            alias: Alias { name: format!("ua-{}", input.name) },
        })
        .collect();
}

fn platform_devices(spec: &DomainSpec, domain: &mut Domain) {
    domain.devices.watchdog = spec.watchdog.as_ref().map(|watchdog| Watchdog {
        model: "i6300esb",
        action: match watchdog.action {
            WatchdogAction::Reset => "reset",
            WatchdogAction::Shutdown => "shutdown",
            WatchdogAction::Poweroff => "poweroff",
        },
        alias: Alias { name: format!("ua-{}", watchdog.name) },
    });
    domain.devices.memballoon = Some(if spec.extras.balloon {
        Memballoon { model: VIRTIO, free_page_reporting: Some("on"), stats: Some(Stats { period: 10 }) }
    } else {
        Memballoon { model: "none", free_page_reporting: None, stats: None }
    });
    domain.devices.rng = spec
        .extras
        .rng
        .then_some(Rng { model: VIRTIO, backend: RngBackend { model: "random", device: "/dev/urandom" } });
}
