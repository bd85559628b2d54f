//! What becomes of each realised field of a guest, and what shows it: words of a golden domain document, or a test. The
//! rows of `docs/fields.md`; see `fields_tests.rs`, which looks every word and every test up.

/// What shows that a field is realised.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// A document of `agent/model/src/domain/golden`, and what stands in it.
    Golden(&'static str, &'static [&'static str]),
    /// A source file below `agent`, and a test in it.
    Test(&'static str, &'static str),
}

use Proof::{Golden, Test};

/// A realised field, with all below it that is not refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Realised {
    /// Path below `spec`.
    pub(super) path: &'static str,
    /// What it becomes.
    pub(super) how: &'static str,
    /// What shows it.
    pub(super) proof: Proof,
}

const fn row(path: &'static str, how: &'static str, proof: Proof) -> Realised {
    Realised { path, how, proof }
}

const PLACED: Proof = Test("control/src/pod.rs", "a_pod_is_placed_as_its_guest_asks");
const SIZED: Proof = Test("control/src/pod.rs", "a_request_of_its_own_counts");
const JOINED: Proof = Test("control/src/admission/guest/tests.rs", "networks_and_interfaces_belong_together");
const SEEDED: Proof = Test("node/src/guest/seed.rs", "a_nocloud_seed_has_its_label_and_files");
const DRIVE: Proof = Test("node/src/guest/seed.rs", "a_config_drive_has_its_label_and_metadata");
const OBJECTS: Proof = Test("node/src/guest/tests/mod.rs", "objects_are_shown_as_files");

const PLUGGED_AS: &str =
    "a disk on the SCSI bus comes and goes while the guest runs; one of another bus is there from the start";
const PLUGGED: Proof = Test("node/src/guest/tests/plug.rs", "a_disk_is_plugged_in_and_out_while_the_guest_runs");
const PROBED: Proof = Test("node/src/guest/probes.rs", "a_probe_is_a_ping_a_command_or_a_port");
const ASKED: Proof = Test("node/src/guest/reach_tests.rs", "a_status_is_what_counts_for_http");
const CONNECTED: Proof = Test("node/src/guest/reach_tests.rs", "a_connection_is_enough_for_tcp");
const COUNTED: Proof = Test("model/src/guest/probe.rs", "thresholds_count_in_a_row");
const TIMED: Proof = Test("model/src/guest/probe.rs", "attempts_keep_their_period_and_never_overlap");
const USUAL: Proof = Test("model/src/guest/probe.rs", "numbers_that_are_absent_or_zero_are_kubernetes_defaults");

const POD: &str = "the reservation pod, by which the scheduler places the guest";

/// Below `spec` of a VirtualMachineInstance, and `spec.template.spec` of a VirtualMachine.
pub(super) const GUEST: &[Realised] = &[
    row("accessCredentials[].sshPublicKey.propagationMethod.configDrive", "`public_keys` of the config drive", DRIVE),
    row("accessCredentials[].sshPublicKey.propagationMethod.noCloud", "`public-keys` of the NoCloud seed", SEEDED),
    row(
        "accessCredentials[].sshPublicKey.propagationMethod.qemuGuestAgent",
        "`guest-ssh-add-authorized-keys` for each of the users, whenever the Secret changes",
        Test("model/src/guest/credentials.rs", "only_what_changed_is_done_and_removals_come_first"),
    ),
    row(
        "accessCredentials[].sshPublicKey.source",
        "the lines of every key of the Secret",
        Test("model/src/ssh_keys.rs", "each_line_is_a_key_unless_it_says_nothing"),
    ),
    row(
        "accessCredentials[].userPassword",
        "`guest-set-user-password` for each user of the Secret, whenever it changes",
        Test("model/src/guest/credentials.rs", "a_password_is_set_when_it_changed_and_never_shown"),
    ),
    row("affinity", POD, PLACED),
    row(
        "dnsConfig",
        "options 6 and 119 of DHCP, after the Subnet's name servers; with policy `None` in their place",
        Test("model/src/dns.rs", "own_servers_follow_those_of_the_subnet_or_stand_alone"),
    ),
    row(
        "domain.chassis",
        "`<chassis>` of `<sysinfo>`",
        Golden("firmware-bios", &["<chassis>", "<entry name=\"sku\">the sku</entry>"]),
    ),
    row(
        "domain.clock.timer",
        "`<timer>` of `<clock>`",
        Golden(
            "clock",
            &[
                "<timer name=\"rtc\" tickpolicy=\"catchup\" track=\"guest\" present=\"yes\"/>",
                "<timer name=\"pit\" tickpolicy=\"delay\"",
                "<timer name=\"hpet\" present=\"no\"/>",
                "name=\"kvmclock\"",
                "name=\"hypervclock\"",
            ],
        ),
    ),
    row(
        "domain.clock.timezone",
        "`<clock offset=\"timezone\">`",
        Golden("windows-kvm", &["<clock offset=\"timezone\" timezone=\"Europe/Berlin\">"]),
    ),
    row(
        "domain.clock.utc",
        "`<clock offset=\"utc\">`, with `offsetSeconds` `<clock offset=\"variable\">`",
        Golden("clock", &["<clock offset=\"variable\" adjustment=\"-3600\">"]),
    ),
    row("domain.cpu.cores", "`<topology>`", Golden("cpu", &["cores=\"4\""])),
    row(
        "domain.cpu.dedicatedCpuPlacement",
        "a pod of whole CPUs on a node with `cpumanager=true`; `<vcpupin>` to one of those that its kubelet sets aside, and \
         no other guest on them",
        Golden("cpu-dedicated", &["<vcpupin vcpu=\"1\" cpuset=\"10\"/>", "<partition>/dedicated</partition>"]),
    ),
    row(
        "domain.cpu.features",
        "`<feature>` of `<cpu>`, each policy",
        Golden(
            "cpu",
            &[
                "<feature policy=\"force\" name=\"feature-force\"/>",
                "policy=\"require\"",
                "policy=\"optional\"",
                "policy=\"disable\"",
                "policy=\"forbid\"",
            ],
        ),
    ),
    row(
        "domain.cpu.isolateEmulatorThread",
        "one CPU more; `<emulatorpin>` and `<iothreadpin>` to it",
        Golden("cpu-isolated-emulator", &["<emulatorpin cpuset=\"4\"/>", "<iothreadpin iothread=\"1\" cpuset=\"4\"/>"]),
    ),
    row(
        "domain.cpu.maxSockets",
        "`<topology>`, with those of `sockets` as `current` of `<vcpu>`: room for more while running",
        Test("model/src/domain/tests.rs", "room_for_more_processors_is_part_of_the_topology"),
    ),
    row(
        "domain.cpu.model",
        "`<cpu mode>`; `maximum` where the node has no KVM",
        Golden("cpu", &["<model fallback=\"forbid\">Skylake-Server</model>"]),
    ),
    row(
        "domain.cpu.numa",
        "`<numa>`, `<numatune>` and huge pages by the NUMA nodes of the guest's CPUs",
        Golden(
            "cpu-numa",
            &[
                "<memnode cellid=\"1\" mode=\"strict\" nodeset=\"1\"/>",
                "<cell id=\"1\" cpus=\"2-3\" memory=\"65536\" unit=\"KiB\"/>",
                "<page size=\"2048\" unit=\"KiB\" nodeset=\"1\"/>",
            ],
        ),
    ),
    row(
        "domain.cpu.realtime",
        "a node with `kubevirt.io/realtime=true`; `<vcpusched>` of the mask, locked memory, no PMU",
        Golden(
            "cpu-realtime",
            &["<vcpusched vcpus=\"1-3\" scheduler=\"fifo\" priority=\"1\"/>", "<locked/>", "<pmu state=\"off\"/>"],
        ),
    ),
    row("domain.cpu.sockets", "`<topology>`", Golden("cpu", &["sockets=\"2\""])),
    row(
        "domain.cpu.threads",
        "`<topology>`",
        Golden("cpu", &["threads=\"2\"", "<vcpu placement=\"static\">16</vcpu>"]),
    ),
    row(
        "domain.devices.autoattachGraphicsDevice",
        "false: neither `<graphics>` nor `<video>`",
        Golden("tiny-kvm", &["<graphics type=\"vnc\">"]),
    ),
    row(
        "domain.devices.autoattachInputDevice",
        "a USB tablet when no input is listed",
        Golden("devices", &["<input type=\"tablet\" bus=\"usb\">"]),
    ),
    row(
        "domain.devices.autoattachMemBalloon",
        "false: `<memballoon model=\"none\">`",
        Golden("headless-kvm", &["<memballoon model=\"none\"/>"]),
    ),
    row(
        "domain.devices.autoattachPodInterface",
        "a guest without networks is on the default one",
        Test("control/src/admission/defaults_tests.rs", "what_a_guest_says_stays"),
    ),
    row(
        "domain.devices.autoattachSerialConsole",
        "false: no `<serial>`",
        Golden("tiny-kvm", &["<serial type=\"unix\">"]),
    ),
    row(
        "domain.devices.blockMultiQueue",
        "`queues` of virtio disks: one a vCPU, at most 16",
        Golden("disks", &["queues=\"4\""]),
    ),
    row(
        "domain.devices.clientPassthrough",
        "four `<redirdev>`: USB devices that clients lend the guest over `usbredir`, on a `qemu-xhci` controller",
        Golden(
            "usb-redirection",
            &[
                "<redirdev bus=\"usb\" type=\"unix\">",
                "<source mode=\"bind\" path=\"/var/lib/furrow/guests/uid-1/usbredir-3.sock\"/>",
                "<controller type=\"usb\" index=\"0\" model=\"qemu-xhci\"/>",
            ],
        ),
    ),
    row(
        "domain.devices.disableHotplug",
        "no controller that disks could be plugged into while running",
        Test("model/src/domain/tests.rs", "disks_are_plugged_into_a_scsi_controller"),
    ),
    row(
        "domain.devices.downwardMetrics",
        "a virtio serial port on which the agent speaks vhostmd's protocol",
        Golden("devices", &["<target type=\"virtio\" name=\"org.github.vhostmd.1\"/>"]),
    ),
    row(
        "domain.devices.disks[].blockSize.custom",
        "`<blockio>`",
        Golden("disks", &["<blockio logical_block_size=\"512\" physical_block_size=\"4096\"/>"]),
    ),
    row(
        "domain.devices.disks[].blockSize.matchVolume",
        "`<blockio>` with the 512 bytes of an RBD image",
        Golden("disks", &["<blockio logical_block_size=\"512\" physical_block_size=\"512\"/>"]),
    ),
    row("domain.devices.disks[].bootOrder", "`<boot order>`", Golden("disks", &["<boot order=\"1\"/>"])),
    row(
        "domain.devices.disks[].cache",
        "`cache` of `<driver>`; `none` unless given",
        Golden("disks", &["cache=\"writethrough\"", "cache=\"directsync\""]),
    ),
    row(
        "domain.devices.disks[].cdrom.bus",
        "`bus` of `<target>`; sata unless given",
        Golden("disks", &["device=\"cdrom\""]),
    ),
    row(
        "domain.devices.disks[].cdrom.readonly",
        "`<readonly>`; false is refused",
        Golden("windows-kvm", &["<readonly/>"]),
    ),
    row("domain.devices.disks[].cdrom.tray", "`tray` of `<target>`", Golden("disks", &["tray=\"open\""])),
    row(
        "domain.devices.disks[].dedicatedIOThread",
        "a thread of `<iothreads>` for this disk alone; virtio only",
        Golden("io-threads-dedicated", &["<iothreads>2</iothreads>", "iothread=\"2\""]),
    ),
    row(
        "domain.devices.disks[].disk.bus",
        "`bus` of `<target>`; sata unless given",
        Golden("disks", &["bus=\"virtio\"", "bus=\"sata\"", "bus=\"scsi\"", "bus=\"usb\""]),
    ),
    row(
        "domain.devices.disks[].disk.pciAddress",
        "`<address type=\"pci\">`; virtio only",
        Golden("disks", &["<address type=\"pci\" domain=\"0x0000\" bus=\"0x00\" slot=\"0x10\" function=\"0x1\"/>"]),
    ),
    row(
        "domain.devices.disks[].disk.readonly",
        "`<readonly>`; refused on sata, which has none",
        Golden("disks", &["<readonly/>"]),
    ),
    row(
        "domain.devices.disks[].errorPolicy",
        "`error_policy` of `<driver>`; `stop` unless given",
        Golden("disks", &["error_policy=\"enospace\""]),
    ),
    row("domain.devices.disks[].io", "`io` of `<driver>`", Golden("disks", &["io=\"threads\"", "io=\"native\""])),
    row(
        "domain.devices.disks[].name",
        "the volume it shows, and the alias",
        Golden("disks", &["<alias name=\"ua-virtio\"/>"]),
    ),
    row("domain.devices.disks[].serial", "`<serial>`", Golden("disks", &["<serial>root-1</serial>"])),
    row(
        "domain.devices.disks[].shareable",
        "`<shareable>`; the image is not held for this guest alone",
        Golden("disks", &["<shareable/>"]),
    ),
    row(
        "domain.devices.inputs",
        "`<input>`",
        Golden(
            "devices",
            &["<input type=\"tablet\" bus=\"usb\">", "<input type=\"keyboard\" bus=\"virtio\" model=\"virtio\">"],
        ),
    ),
    row("domain.devices.interfaces[].acpiIndex", "`<acpi index>`", Golden("interfaces", &["<acpi index=\"7\"/>"])),
    row(
        "domain.devices.interfaces[].bootOrder",
        "`<boot order>`, and a boot ROM",
        Golden("interfaces", &["<boot order=\"1\"/>"]),
    ),
    row("domain.devices.interfaces[].bridge", "a port of the network's switch", JOINED),
    row(
        "domain.devices.interfaces[].dhcpOptions",
        "options 42, 66, 67 and 224 to 254 of the port's DHCP answers",
        Test("node/src/network/dhcp_wire/tests.rs", "an_answer_says_what_the_guest_asked_for"),
    ),
    row(
        "domain.devices.interfaces[].macAddress",
        "`<mac>`, the IP object and the port's flows",
        Golden("interfaces", &["<mac address=\"02:00:00:00:00:01\"/>"]),
    ),
    row("domain.devices.interfaces[].masquerade", "a port of the default network: routed, not translated", JOINED),
    row(
        "domain.devices.interfaces[].model",
        "`<model>`; virtio unless given",
        Golden(
            "interfaces",
            &[
                "<model type=\"virtio-non-transitional\"/>",
                "<model type=\"e1000\"/>",
                "<model type=\"e1000e\"/>",
                "<model type=\"igb\"/>",
                "<model type=\"ne2k_pci\"/>",
                "<model type=\"pcnet\"/>",
                "<model type=\"rtl8139\"/>",
            ],
        ),
    ),
    row(
        "domain.devices.interfaces[].name",
        "the network it attaches to, and the alias",
        Golden("interfaces", &["<alias name=\"ua-virtio\"/>"]),
    ),
    row(
        "domain.devices.interfaces[].pciAddress",
        "`<address type=\"pci\">`",
        Golden("interfaces", &["slot=\"0x11\" function=\"0x0\"/>"]),
    ),
    row(
        "domain.devices.interfaces[].ports",
        "masquerade: TCP connections to other ports are dropped, UDP is let through; bridge: names, as in KubeVirt",
        Test("model/src/flows.rs", "connections_reach_listed_ports_only"),
    ),
    row(
        "domain.devices.interfaces[].state",
        "`<link state>`; an absent one is left out",
        Golden("interfaces", &["<link state=\"down\"/>"]),
    ),
    row(
        "domain.devices.logSerialConsole",
        "`<log>` of `<serial>`; true unless given",
        Golden("tiny-kvm", &["<log file="]),
    ),
    row(
        "domain.devices.networkInterfaceMultiqueue",
        "`queues` of virtio interfaces: one a vCPU, at most 16",
        Golden("interfaces", &["<driver queues=\"4\"/>"]),
    ),
    row(
        "domain.devices.panicDevices",
        "`<panic>`",
        Golden("devices", &["<panic model=\"hyperv\"/>", "<panic model=\"isa\"/>", "<panic model=\"pvpanic\"/>"]),
    ),
    row(
        "domain.devices.rng",
        "`<rng>` from the node's `/dev/urandom`",
        Golden("devices", &["<rng model=\"virtio-non-transitional\">"]),
    ),
    row("domain.devices.sound", "`<sound>`", Golden("devices", &["<sound model=\"ich9\">"])),
    row(
        "domain.devices.tpm.enabled",
        "`<tpm>` of swtpm, new at each start unless it is `persistent`",
        Golden("devices", &["<tpm model=\"tpm-tis\">", "<backend type=\"emulator\" version=\"2.0\"/>"]),
    ),
    row(
        "domain.devices.tpm.persistent",
        "its state is kept, encrypted, in an RBD image of the VM's own, which is deleted with the VM; the key is a Secret",
        Golden("tpm-persistent", &["<tpm model=\"tpm-crb\">", "persistent_state=\"yes\"", "<encryption secret="]),
    ),
    row(
        "domain.devices.video",
        "`<model>` of `<video>`; vga unless given",
        Golden("devices", &["<model type=\"virtio\" heads=\"1\"/>"]),
    ),
    row(
        "domain.devices.watchdog.i6300esb",
        "`<watchdog>`",
        Golden("devices", &["<watchdog model=\"i6300esb\" action=\"poweroff\">"]),
    ),
    row(
        "domain.devices.filesystems[].name",
        "`<target>`: the tag by which the guest mounts the files of a configMap, secret, downwardAPI or serviceAccount \
         volume; they follow its object within a minute",
        Golden("shares", &["<target dir=\"settings\"/>", "<source dir=\"/run/furrow/shares/uid-1/settings\"/>"]),
    ),
    row(
        "domain.devices.filesystems[].virtiofs",
        "`<filesystem>` of virtiofsd, read-only, over memory that both map",
        Golden("shares", &["<driver type=\"virtiofs\" queue=\"1024\"/>", "<readonly/>", "<access mode=\"shared\"/>"]),
    ),
    row("domain.devices.watchdog.name", "the alias", Golden("devices", &["<alias name=\"ua-dog\"/>"])),
    row("domain.features.acpi", "`<acpi/>`; on unless turned off", Golden("tiny-kvm", &["<acpi/>"])),
    row("domain.features.apic.enabled", "`<apic/>`; on unless turned off", Golden("tiny-kvm", &["<apic/>"])),
    row("domain.features.apic.endOfInterrupt", "`eoi` of `<apic>`", Golden("features", &["<apic eoi=\"on\"/>"])),
    row("domain.features.hyperv.evmcs", "`<evmcs>`", Golden("hyperv", &["<evmcs state=\"on\"/>"])),
    row("domain.features.hyperv.frequencies", "`<frequencies>`", Golden("hyperv", &["<frequencies state=\"on\"/>"])),
    row("domain.features.hyperv.ipi", "`<ipi>`", Golden("hyperv", &["<ipi state=\"on\"/>"])),
    row(
        "domain.features.hyperv.reenlightenment",
        "`<reenlightenment>`",
        Golden("hyperv", &["<reenlightenment state=\"off\"/>"]),
    ),
    row("domain.features.hyperv.relaxed", "`<relaxed>`", Golden("hyperv", &["<relaxed state=\"on\"/>"])),
    row("domain.features.hyperv.reset", "`<reset>`", Golden("hyperv", &["<reset state=\"on\"/>"])),
    row("domain.features.hyperv.runtime", "`<runtime>`", Golden("hyperv", &["<runtime state=\"on\"/>"])),
    row(
        "domain.features.hyperv.spinlocks",
        "`<spinlocks>`; 4096 retries unless given",
        Golden("hyperv", &["<spinlocks state=\"on\" retries=\"8191\"/>"]),
    ),
    row("domain.features.hyperv.synic", "`<synic>`", Golden("hyperv", &["<synic state=\"on\"/>"])),
    row(
        "domain.features.hyperv.synictimer",
        "`<stimer>`",
        Golden("hyperv", &["<stimer state=\"on\">", "<direct state=\"on\"/>"]),
    ),
    row(
        "domain.features.hyperv.tlbflush",
        "`<tlbflush>`",
        Golden("hyperv-tlbflush", &["<tlbflush state=\"on\">", "<extended state=\"on\"/>"]),
    ),
    row("domain.features.hyperv.vapic", "`<vapic>`", Golden("hyperv", &["<vapic state=\"on\"/>"])),
    row(
        "domain.features.hyperv.vendorid",
        "`<vendor_id>`",
        Golden("hyperv", &["<vendor_id state=\"on\" value=\"KVM Hv\"/>"]),
    ),
    row("domain.features.hyperv.vpindex", "`<vpindex>`", Golden("hyperv", &["<vpindex state=\"on\"/>"])),
    row(
        "domain.features.hypervPassthrough",
        "`<hyperv mode=\"passthrough\">`",
        Golden("hyperv-passthrough", &["<hyperv mode=\"passthrough\"/>"]),
    ),
    row("domain.features.kvm", "`<hidden>` of `<kvm>`", Golden("features", &["<hidden state=\"on\"/>"])),
    row("domain.features.pvspinlock", "`<pvspinlock>`", Golden("features", &["<pvspinlock state=\"off\"/>"])),
    row("domain.features.smm", "`<smm>`", Golden("features", &["<smm state=\"on\"/>"])),
    row(
        "domain.firmware.bootloader.bios",
        "SeaBIOS; `useSerial` is `<bios useserial>`",
        Golden("firmware-bios", &["<bios useserial=\"yes\"/>"]),
    ),
    row(
        "domain.firmware.bootloader.efi.persistent",
        "`<nvram>` in an RBD image of the VM's own, which begins as OVMF's template and is deleted with the VM",
        Golden(
            "firmware-persistent",
            &["<nvram type=\"network\" format=\"raw\">", "<source protocol=\"rbd\" name=\"volumes/csi-vol-nvram\">"],
        ),
    ),
    row(
        "domain.firmware.bootloader.efi.secureBoot",
        "OVMF, with Secure Boot unless turned off",
        Golden("firmware-secure-boot", &["OVMF_CODE_4M.secboot.fd", "secure=\"yes\"", "OVMF_VARS_4M.ms.fd"]),
    ),
    row(
        "domain.firmware.kernelBoot.container.image",
        "the image at the digest that it has when the guest is made; its files are verified and kept with the guest",
        Test("node/src/storage/import/registry_tests.rs", "files_come_from_the_topmost_layer_that_has_them"),
    ),
    row(
        "domain.firmware.kernelBoot.container.imagePullSecret",
        "user and password for the registry, or for its tokens; without it those of the pull secrets of the service account `default`",
        Test("node/src/storage/import/registry_tests.rs", "a_password_or_a_token_is_given_to_who_asks_for_it"),
    ),
    row(
        "domain.firmware.kernelBoot.container.initrdPath",
        "`<initrd>`",
        Golden("firmware-kernel-boot", &["<initrd>/var/lib/furrow/guests/uid-1/initrd</initrd>"]),
    ),
    row(
        "domain.firmware.kernelBoot.container.kernelPath",
        "`<kernel>`",
        Golden("firmware-kernel-boot", &["<kernel>/var/lib/furrow/guests/uid-1/kernel</kernel>"]),
    ),
    row(
        "domain.firmware.kernelBoot.kernelArgs",
        "`<cmdline>`",
        Golden("firmware-kernel-boot", &["<cmdline>console=ttyS0 quiet</cmdline>"]),
    ),
    row(
        "domain.firmware.serial",
        "`serial` of `<system>`",
        Golden("firmware-bios", &["<entry name=\"serial\">e4686d2c-6e8d</entry>"]),
    ),
    row(
        "domain.firmware.uuid",
        "`<uuid>`; else made of namespace and name",
        Golden("windows-kvm", &["<uuid>00000000-0000-0000-0000-000000000011</uuid>"]),
    ),
    row(
        "domain.ioThreads",
        "threads of the pool, each virtio disk using all",
        Golden("io-threads-pool", &["<iothread id=\"2\"/>"]),
    ),
    row(
        "domain.ioThreadsPolicy",
        "`<iothreads>`, and `iothread` of virtio disks",
        Golden("io-threads-auto", &["<iothreads>4</iothreads>", "iothread=\"3\""]),
    ),
    row("domain.machine", "`machine` of `<os>`: q35 and its versions", Golden("tiny-kvm", &["machine=\"q35\""])),
    row("domain.memory.guest", "`<memory>`", Golden("tiny-kvm", &["<memory unit=\"KiB\">131072</memory>"])),
    row(
        "domain.memory.hugepages",
        "`<hugepages>`; the pod asks for them, so that the node has them",
        Golden("devices", &["<page size=\"2048\" unit=\"KiB\"/>"]),
    ),
    row(
        "domain.memory.maxGuest",
        "`<maxMemory>`, a `<cell>` of `<numa>` with what the guest starts with, and a virtio-mem device for the rest: a \
         larger `memory.guest` arrives while the guest runs",
        Golden(
            "memory",
            &[
                "<maxMemory slots=\"1\" unit=\"KiB\">4194304</maxMemory>",
                "<cell id=\"0\" cpus=\"0-7\" memory=\"1048576\" unit=\"KiB\"/>",
                "<memory model=\"virtio-mem\">",
            ],
        ),
    ),
    row(
        "domain.memory.reservedOverhead",
        "memory of the reservation pod",
        Test("control/src/pod.rs", "the_overhead_can_be_left_out"),
    ),
    row(
        "domain.rebootPolicy",
        "`<on_reboot>`: Terminate is `destroy`",
        Test("model/src/domain/tests.rs", "a_reboot_ends_the_domain_where_the_policy_says_so"),
    ),
    row("domain.resources.limits", "limits of the reservation pod; keys cpu and memory", SIZED),
    row(
        "domain.resources.overcommitGuestOverhead",
        "the reservation pod without QEMU's own memory",
        Test("control/src/pod.rs", "the_overhead_can_be_left_out"),
    ),
    row(
        "domain.resources.requests",
        "requests of the reservation pod; memory and vCPUs of a guest that names none",
        SIZED,
    ),
    row(
        "evictionStrategy",
        "what becomes of the guest when its pod is to be evicted",
        Test("model/src/eviction.rs", "each_strategy_with_and_without_a_way_to_migrate"),
    ),
    row("hostname", "DHCP's and cloud-init's host name", SEEDED),
    row("livenessProbe.exec", "a command that the guest agent runs", PROBED),
    row("livenessProbe.failureThreshold", "failures in a row that count", COUNTED),
    row("livenessProbe.guestAgentPing", "a ping of the guest agent", PROBED),
    row(
        "livenessProbe.httpGet",
        "a request into the guest's first NIC; status 200 to 399 passes, certificates are not verified",
        ASKED,
    ),
    row("livenessProbe.initialDelaySeconds", "from the start of the guest to the first attempt", TIMED),
    row("livenessProbe.periodSeconds", "from attempt to attempt; 10 unless given", TIMED),
    row("livenessProbe.successThreshold", "successes in a row that count", COUNTED),
    row("livenessProbe.tcpSocket", "a connection into the guest's first NIC", CONNECTED),
    row("livenessProbe.timeoutSeconds", "the longest that an attempt may take; 1 unless given", USUAL),
    row("networks[].multus.networkName", "the NetworkAttachmentDefinition's switch, VLAN and Subnet", JOINED),
    row("networks[].name", "joins an interface", JOINED),
    row("networks[].pod", "the default network for virtual machines", JOINED),
    row("nodeSelector", POD, PLACED),
    row("priorityClassName", POD, PLACED),
    row("readinessProbe.exec", "a command that the guest agent runs", PROBED),
    row("readinessProbe.failureThreshold", "failures in a row that count", COUNTED),
    row("readinessProbe.guestAgentPing", "a ping of the guest agent", PROBED),
    row(
        "readinessProbe.httpGet",
        "a request into the guest's first NIC; status 200 to 399 passes, certificates are not verified",
        ASKED,
    ),
    row("readinessProbe.initialDelaySeconds", "from the start of the guest to the first attempt", TIMED),
    row("readinessProbe.periodSeconds", "from attempt to attempt; 10 unless given", TIMED),
    row("readinessProbe.successThreshold", "successes in a row that count", COUNTED),
    row("readinessProbe.tcpSocket", "a connection into the guest's first NIC", CONNECTED),
    row("readinessProbe.timeoutSeconds", "the longest that an attempt may take; 1 unless given", USUAL),
    row("schedulerName", POD, PLACED),
    row(
        "subdomain",
        "`<hostname>.<subdomain>.<namespace>.svc.cluster.local` as cloud-init's name; option 15 of DHCP",
        Test("node/src/guest/names.rs", "a_subdomain_is_part_of_the_name_and_told_by_dhcp"),
    ),
    row(
        "terminationGracePeriodSeconds",
        "from the request to shut down to the kill",
        Test("model/src/guest/tests.rs", "a_stop_asks_again_and_kills_at_the_deadline"),
    ),
    row("tolerations", POD, PLACED),
    row("topologySpreadConstraints", POD, PLACED),
    row("volumes[].cloudInitConfigDrive", "an ISO labelled `config-2`, from text, base64 or Secrets", DRIVE),
    row("volumes[].cloudInitNoCloud", "an ISO labelled `cidata`, from text, base64 or Secrets", SEEDED),
    row("volumes[].configMap", "an ISO labelled `cfgdata`, a file a key", OBJECTS),
    row("volumes[].dataVolume.hotpluggable", PLUGGED_AS, PLUGGED),
    row(
        "volumes[].dataVolume.name",
        "the RBD image of its claim",
        Golden("disks", &["<source protocol=\"rbd\" name=\"volumes/a\">"]),
    ),
    row(
        "volumes[].downwardAPI.fields[].fieldRef",
        "name, namespace, uid, labels, annotations of the guest",
        Test("model/src/downward.rs", "fields_are_shown_as_kubernetes_shows_them"),
    ),
    row(
        "volumes[].downwardAPI.fields[].path",
        "the file's name",
        Test("model/src/downward.rs", "files_have_names_and_no_paths"),
    ),
    row("volumes[].downwardAPI.volumeLabel", "label of the ISO", OBJECTS),
    row(
        "volumes[].downwardMetrics",
        "a read-only virtio disk of 256 KiB with vhostmd's header and document, written anew every 5 seconds",
        Golden("metrics-disk", &["<source file=\"/var/lib/furrow/guests/uid-1/host-metrics.img\"/>", "cache=\"none\""]),
    ),
    row(
        "volumes[].containerDisk.image",
        "a copy-on-write clone of the cluster's copy of the image; which image a tag means is asked when the guest starts",
        Test("node/src/storage/import/registry_tests.rs", "a_tag_that_moved_is_another_image"),
    ),
    row(
        "volumes[].containerDisk.imagePullPolicy",
        "when the registry is asked; without it always for `latest`, and otherwise as needed",
        Test("model/src/oci/golden.rs", "a_copy_spares_the_registry_as_far_as_the_policy_says"),
    ),
    row(
        "volumes[].containerDisk.imagePullSecret",
        "user and password for the registry, or for its tokens; without it those of the pull secrets of the service account `default`",
        Test("node/src/storage/import/registry_tests.rs", "a_password_or_a_token_is_given_to_who_asks_for_it"),
    ),
    row(
        "volumes[].containerDisk.path",
        "the disk in the image; without it the one file below `disk/`",
        Test("model/src/oci/search.rs", "the_one_file_below_disk_is_found"),
    ),
    row(
        "volumes[].emptyDisk",
        "an RBD image that Kubernetes deletes with the guest",
        Test("control/src/vmi/scratch.rs", "an_empty_disk_is_a_claim_of_its_size_that_the_guest_owns"),
    ),
    row(
        "volumes[].ephemeral",
        "a copy-on-write clone that Kubernetes deletes with the guest",
        Test("control/src/vmi/scratch.rs", "an_ephemeral_volume_is_a_clone_of_the_claim_below"),
    ),
    row(
        "volumes[].hostDisk",
        "a file of `/var/lib/furrow/host-disks/<namespace>/` on the node, its whole size taken at once",
        Test("model/src/host_disk.rs", "a_disk_is_a_file_of_its_namespaces_directory"),
    ),
    row(
        "volumes[].name",
        "joins a disk",
        Test("control/src/admission/guest/tests.rs", "disks_and_volumes_belong_together"),
    ),
    row(
        "volumes[].persistentVolumeClaim.claimName",
        "its RBD image",
        Golden("disks", &["<source protocol=\"rbd\" name=\"volumes/b\">"]),
    ),
    row("volumes[].persistentVolumeClaim.hotpluggable", PLUGGED_AS, PLUGGED),
    row("volumes[].persistentVolumeClaim.readOnly", "`<readonly>`", Golden("disks", &["<readonly/>"])),
    row("volumes[].secret", "an ISO labelled `cfgdata`, a file a key", OBJECTS),
    row(
        "volumes[].serviceAccount",
        "an ISO with the token that the kubelet has put into the reservation pod",
        Test("control/src/pod/account.rs", "only_a_guest_that_asks_has_a_token"),
    ),
    row("volumes[].sysprep", "an ISO labelled `unattendCD`, a file a key", OBJECTS),
];
