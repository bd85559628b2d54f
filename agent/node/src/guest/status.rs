//! What a VirtualMachineInstance's status says of its guest, built from what was observed. Owns phases from Scheduled
//! on, interfaces, volumes, guest information and the conditions that a node knows (Ready, LiveMigratable,
//! AgentConnected, SoftwareEmulation, Paused, Synchronized). Refuses the conditions of others (PodScheduled,
//! DataVolumesReady): they pass through untouched. Pure: publishing is `super::publish`.

use std::collections::{BTreeMap, HashMap};

use furrow_api::meta::Condition;
use furrow_api::reservation::ReservedVolume;
use furrow_api::vmi::{
    CpuTopology, GuestOsInfo, HotplugVolumeStatus, Machine, MemoryStatus, NetworkInterfaceStatus,
    PersistentVolumeClaimInfo, PhaseTransitionTimestamp, VirtualMachineInstanceStatus, VmiPhase, VolumePhase,
    VolumeStatus,
};
use furrow_api::{VirtualMachineInstance, names};
use furrow_host::libvirt::{DomainState, LiveDisk, PauseReason};
use furrow_model::domain::{ALIAS_PREFIX, DomainSpec, Virtualization, target_names};
use furrow_model::guest::{End, SharedVolume, migration_blocker};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::convert::{self, GuestRequest};
use super::guest_info::GuestReport;

/// What is known of a running guest.
#[derive(Debug)]
pub(crate) struct RunningGuest<'a> {
    /// The VMI with its reservation.
    pub(crate) request: &'a GuestRequest,
    /// Its domain's spec.
    pub(crate) spec: &'a DomainSpec,
    /// State of the domain.
    pub(crate) state: DomainState,
    /// Whether the guest agent is connected.
    pub(crate) agent_connected: bool,
    /// What it said, if it was asked.
    pub(crate) report: Option<&'a GuestReport>,
    /// The disks that it has.
    pub(crate) disks: &'a [LiveDisk],
    /// How the guest is executed.
    pub(crate) virtualization: Virtualization,
}

/// Marks the VMI as this node's.
pub(crate) fn claim(vmi: &mut VirtualMachineInstance, node: &str, now: &Time) {
    vmi.labels_mut().insert(names::LABEL_NODE_NAME.to_owned(), node.to_owned());
    let status = vmi.status.get_or_insert_default();
    status.node_name = Some(node.to_owned());
    if status.phase != VmiPhase::Running {
        enter(status, VmiPhase::Scheduled, now);
    }
}

/// Says that the guest runs, and everything known of it.
pub(crate) fn running(vmi: &mut VirtualMachineInstance, guest: &RunningGuest<'_>, node: &str, now: &Time) {
    claim(vmi, node, now);
    let status = vmi.status.get_or_insert_default();
    enter(status, VmiPhase::Running, now);
    status.reason = None;
    status.interfaces = interfaces(guest);
    status.volume_status = volumes(guest, &status.volume_status);
    status.guest_os_info = guest.report.map(|report| report.os.clone()).or_else(|| status.guest_os_info.take());
    if !guest.agent_connected {
        status.guest_os_info = None;
    }
    status.machine = Some(Machine { type_: guest.spec.machine.clone().unwrap_or_else(|| "q35".to_owned()) });
    status.current_cpu_topology = Some(topology(guest.spec));
    status.memory = Some(memory(guest.spec, status.memory.as_ref()));
    status.migration_method = Some("LiveMigration".to_owned());
    for (type_, wanted) in running_conditions(guest) {
        apply(&mut status.conditions, type_, wanted, now);
    }
}

/// Says how the guest ended.
pub(crate) fn ended(vmi: &mut VirtualMachineInstance, end: End, now: &Time) {
    let status = vmi.status.get_or_insert_default();
    enter(status, if end.succeeded { VmiPhase::Succeeded } else { VmiPhase::Failed }, now);
    status.reason = Some(end.reason.to_owned());
    let ready = wanted("False", "GuestNotRunning", end.message);
    apply(&mut status.conditions, "Ready", Some(ready), now);
    for gone in ["AgentConnected", "Paused", "Synchronized"] {
        apply(&mut status.conditions, gone, None, now);
    }
}

/// Says why the guest does not run yet, or cannot be kept as it should be.
pub(crate) fn sync_failed(vmi: &mut VirtualMachineInstance, reason: &str, message: &str, now: &Time) {
    let status = vmi.status.get_or_insert_default();
    apply(&mut status.conditions, "Synchronized", Some(wanted("False", reason, message)), now);
}

fn enter(status: &mut VirtualMachineInstanceStatus, phase: VmiPhase, now: &Time) {
    if status.phase == phase {
        return;
    }
    status.phase = phase.clone();
    let known = status.phase_transition_timestamps.iter().any(|entry| entry.phase == phase);
    if !known {
        let phase_transition_timestamp = Some(now.clone());
        status.phase_transition_timestamps.push(PhaseTransitionTimestamp { phase, phase_transition_timestamp });
    }
}

struct WantedCondition {
    status: &'static str,
    reason: Option<String>,
    message: Option<String>,
}

fn wanted(status: &'static str, reason: &str, message: &str) -> WantedCondition {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    WantedCondition { status, reason: text(reason), message: text(message) }
}

fn running_conditions(guest: &RunningGuest<'_>) -> Vec<(&'static str, Option<WantedCondition>)> {
    let paused = match guest.state {
        DomainState::Paused(PauseReason::User) => Some(("PausedByUser", "VMI was paused by user")),
        DomainState::Paused(PauseReason::IoError) => {
            Some(("PausedIOError", "VMI was paused, low-level IO error detected"))
        }
        _ => None,
    };
    let emulated = guest.virtualization == Virtualization::Tcg;
    vec![
        ("Ready", Some(wanted("True", "", ""))),
        ("LiveMigratable", Some(live_migratable(guest.request))),
        ("AgentConnected", guest.agent_connected.then(|| wanted("True", "", ""))),
        ("Paused", paused.map(|(reason, message)| wanted("True", reason, message))),
        (
            "SoftwareEmulation",
            emulated.then(|| wanted("True", "KVMUnavailable", "the guest runs in software emulation, without KVM")),
        ),
        ("Synchronized", None),
    ]
}

fn live_migratable(request: &GuestRequest) -> WantedCondition {
    let volumes: Vec<_> = request
        .volumes()
        .map(|volume| SharedVolume {
            claim: &volume.claim,
            shared: volume.access_modes.iter().any(|mode| mode == "ReadWriteMany"),
        })
        .collect();
    match migration_blocker(&volumes) {
        None => wanted("True", "", ""),
        Some(blocker) => wanted("False", blocker.reason, &blocker.message),
    }
}

fn apply(conditions: &mut Vec<Condition>, type_: &str, wanted: Option<WantedCondition>, now: &Time) {
    match wanted {
        None => conditions.retain(|condition| condition.type_ != type_),
        Some(WantedCondition { status, reason, message }) => {
            let condition = Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason,
                message,
                ..Condition::default()
            };
            condition.set(conditions, now.clone());
        }
    }
}

fn interfaces(guest: &RunningGuest<'_>) -> Vec<NetworkInterfaceStatus> {
    let empty = Vec::new();
    let seen = guest.report.filter(|_| guest.agent_connected).map_or(&empty, |report| &report.interfaces);
    let mut interfaces = Vec::new();
    for (nic, port) in guest.spec.nics.iter().zip(&guest.request.ports) {
        let mac = port.mac.to_string();
        let inside = seen.iter().find(|interface| interface.mac.as_deref() == Some(mac.as_str()));
        let mut addresses: Vec<_> = port.address.iter().map(|address| address.address.to_string()).collect();
        for address in inside.iter().flat_map(|interface| &interface.addresses) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        interfaces.push(NetworkInterfaceStatus {
            ip_address: addresses.first().cloned(),
            ip_addresses: addresses,
            mac: Some(mac),
            name: Some(nic.name.clone()),
            pod_interface_name: Some(nic.tap.clone()),
            interface_name: inside.map(|interface| interface.name.clone()),
            info_source: Some(if inside.is_some() { "domain, guest-agent" } else { "domain" }.to_owned()),
            queue_count: Some(i32::from(port.queues)),
            link_state: Some(if nic.link_down { "down" } else { "up" }.to_owned()),
        });
    }
    let macs: Vec<_> = guest.request.ports.iter().map(|port| port.mac.to_string()).collect();
    let own = |interface: &&super::guest_info::GuestInterface| {
        interface.name != "lo" && interface.mac.as_ref().is_none_or(|mac| !macs.contains(mac))
    };
    interfaces.extend(seen.iter().filter(own).map(|interface| NetworkInterfaceStatus {
        ip_address: interface.addresses.first().cloned(),
        ip_addresses: interface.addresses.clone(),
        mac: interface.mac.clone(),
        interface_name: Some(interface.name.clone()),
        info_source: Some("guest-agent".to_owned()),
        ..NetworkInterfaceStatus::default()
    }));
    interfaces
}

fn volumes(guest: &RunningGuest<'_>, old: &[VolumeStatus]) -> Vec<VolumeStatus> {
    let reserved: HashMap<&str, &ReservedVolume> =
        guest.request.reservation.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let names = target_names(&guest.spec.disks);
    let known = |name: &str| old.iter().find(|status| status.name == name).cloned().unwrap_or_default();
    let disks = guest.spec.disks.iter().zip(names).map(|(disk, target)| {
        let volume = reserved.get(disk.name.as_str());
        let known = known(&disk.name);
        let status = VolumeStatus {
            name: disk.name.clone(),
            target: plugged(guest, &disk.name).unwrap_or(target),
            size: volume.map(|volume| volume.capacity_bytes).or(known.size),
            persistent_volume_claim_info: volume.map(|volume| claim_info(volume)),
            ..known
        };
        pluggable(guest, status, VolumePhase::AttachedToNode)
    });
    let pending = guest.request.pending.iter().map(|name| {
        let status = VolumeStatus { name: name.clone(), ..known(name) };
        pluggable(guest, status, VolumePhase::Pending)
    });
    let named = |name: &str| {
        guest.spec.disks.iter().any(|disk| disk.name == name) || guest.request.pending.iter().any(|other| other == name)
    };
    let leaving = guest.disks.iter().filter_map(|live| Some((live.alias.strip_prefix(ALIAS_PREFIX)?, live)));
    let leaving = leaving.filter(|(name, _)| !named(name)).map(|(name, live)| VolumeStatus {
        name: name.to_owned(),
        target: live.target.clone(),
        phase: Some(VolumePhase::Detaching),
        reason: Some("Detaching".to_owned()),
        message: Some("the guest was asked to let go of it".to_owned()),
        hotplug_volume: Some(HotplugVolumeStatus::default()),
        ..known(name)
    });
    disks.chain(pending).chain(leaving).collect()
}

/// The device name of a disk that the guest has.
fn plugged(guest: &RunningGuest<'_>, name: &str) -> Option<String> {
    let alias = format!("{ALIAS_PREFIX}{name}");
    guest.disks.iter().find(|live| live.alias == alias).map(|live| live.target.clone())
}

/// How far a volume is that may be plugged in and out; KubeVirt's phases and words. `waiting`: while the guest has it not.
fn pluggable(guest: &RunningGuest<'_>, status: VolumeStatus, waiting: VolumePhase) -> VolumeStatus {
    let volumes = &guest.request.vmi.spec.volumes;
    if !volumes.iter().any(|volume| volume.name == status.name && convert::is_hotpluggable(volume)) {
        return status;
    }
    let target = plugged(guest, &status.name);
    let ready = target.is_some();
    let (phase, reason, message) = if ready {
        let message = format!("Successfully attach hotplugged volume {} to VM", status.name);
        (VolumePhase::Ready, "VolumeReady", message)
    } else {
        let word = waiting.as_str().to_owned();
        (waiting, "VolumeNotReady", format!("volume {} is {word}", status.name))
    };
    VolumeStatus {
        target: target.unwrap_or_default(),
        phase: Some(phase),
        reason: Some(reason.to_owned()),
        message: Some(message),
        hotplug_volume: Some(HotplugVolumeStatus::default()),
        ..status
    }
}

fn claim_info(volume: &ReservedVolume) -> PersistentVolumeClaimInfo {
    let capacity = Quantity(volume.capacity_bytes.to_string());
    PersistentVolumeClaimInfo {
        claim_name: Some(volume.claim.clone()),
        access_modes: volume.access_modes.clone(),
        volume_mode: Some(volume.volume_mode.clone()),
        capacity: BTreeMap::from([("storage".to_owned(), capacity)]),
        ..PersistentVolumeClaimInfo::default()
    }
}

fn topology(spec: &DomainSpec) -> CpuTopology {
    let count = |count: u32| i32::try_from(count).ok();
    CpuTopology { cores: count(spec.cpu.cores), sockets: count(spec.cpu.sockets), threads: count(spec.cpu.threads) }
}

fn memory(spec: &DomainSpec, old: Option<&MemoryStatus>) -> MemoryStatus {
    let kib = spec.memory_kib;
    // Whole mebibytes are what people wrote and want to read back.
    let guest = Quantity(if kib.is_multiple_of(1024) { format!("{}Mi", kib / 1024) } else { format!("{kib}Ki") });
    MemoryStatus {
        guest_at_boot: Some(guest.clone()),
        guest_current: Some(guest.clone()),
        guest_requested: Some(guest),
        ..old.cloned().unwrap_or_default()
    }
}

/// The GuestOSInfo of a report, empty texts left out.
pub(crate) fn os_info(values: &HashMap<String, String>) -> GuestOsInfo {
    let value = |name: &str| values.get(name).filter(|value| !value.is_empty()).cloned();
    GuestOsInfo {
        name: value("os.name"),
        kernel_release: value("os.kernel-release"),
        version: value("os.version"),
        pretty_name: value("os.pretty-name"),
        version_id: value("os.version-id"),
        kernel_version: value("os.kernel-version"),
        machine: value("os.machine"),
        id: value("os.id"),
    }
}

/// The claims that a VMI's volumes name, for people who ask why it does not start.
pub(crate) fn claims(vmi: &VirtualMachineInstance) -> Vec<&str> {
    vmi.spec.volumes.iter().filter_map(convert::claim).collect()
}
