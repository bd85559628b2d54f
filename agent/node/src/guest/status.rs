//! What a VirtualMachineInstance's status says of its guest, built from what was observed. Owns phases from Scheduled
//! on, interfaces, volumes and guest information; conditions are `super::conditions`. Refuses what others write (who may
//! be scheduled, DataVolumes): it passes through untouched. Pure: publishing is `super::publish`.

use std::collections::{BTreeMap, HashMap};

use furrow_api::meta::Condition;
use furrow_api::reservation::ReservedVolume;
use furrow_api::vmi::{
    ALL_DATA_VOLUMES_READY, CpuTopology, GUEST_NOT_RUNNING, GuestOsInfo, HotplugVolumeStatus, Machine, MemoryStatus,
    NetworkInterfaceStatus, PersistentVolumeClaimInfo, PhaseTransitionTimestamp, VirtualMachineInstanceStatus,
    VmiPhase, VolumePhase, VolumeStatus,
};
use furrow_api::{VirtualMachineInstance, names};
use furrow_host::libvirt::{DomainState, LiveDisk};
use furrow_model::domain::{ALIAS_PREFIX, DomainSpec, Virtualization, target_names};
use furrow_model::guest::{End, migration_method};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::bound::BoundPod;
use super::conditions::{self, apply, wanted};
use super::convert::GuestRequest;
use super::credentials::Handed;
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
    /// It said just now that its file systems are not frozen any more.
    pub(crate) thawed: bool,
    /// Its readiness probe, if it has one, is content.
    pub(crate) answers: bool,
    /// The disks that it has.
    pub(crate) disks: &'a [LiveDisk],
    /// How the guest is executed.
    pub(crate) virtualization: Virtualization,
    /// Memory that it has now, in KiB.
    pub(crate) memory_kib: Option<u64>,
    /// User that QEMU runs as.
    pub(crate) user: Option<u32>,
    /// SELinux confines it.
    pub(crate) selinux: bool,
    /// Size of its seed in bytes.
    pub(crate) seed_bytes: Option<i64>,
    /// Credentials that its own agent was handed.
    pub(super) handed: &'a Handed,
}

impl RunningGuest<'_> {
    /// Whether a disk is to be plugged in that the guest has not got yet.
    pub(super) fn awaits_disk(&self) -> bool {
        let wanted = self.request.wanted_disks();
        wanted.iter().any(|disk| disk.pluggable && plugged(self, &disk.name).is_none())
    }
}

/// Where a guest is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    /// Kubernetes name of this node.
    pub(crate) node: &'a str,
    /// The pod by which the guest came here.
    pub(crate) pod: Option<&'a BoundPod>,
}

/// Marks the VMI as this node's.
pub(crate) fn claim(vmi: &mut VirtualMachineInstance, here: Here<'_>, now: &Time) {
    vmi.labels_mut().insert(names::LABEL_NODE_NAME.to_owned(), here.node.to_owned());
    let by_data_volume = vmi.spec.has_data_volumes();
    let status = vmi.status.get_or_insert_default();
    status.node_name = Some(here.node.to_owned());
    if let Some(pod) = here.pod {
        if matches!(status.phase, VmiPhase::Unset | VmiPhase::Pending) {
            was_scheduled(status, pod, by_data_volume, now);
        }
        status.active_pods.insert(pod.uid.clone(), here.node.to_owned());
    }
    // What the scheduler said before it found this node.
    status.conditions.retain(|condition| condition.type_ != "PodScheduled" || condition.is_true());
    if status.phase != VmiPhase::Running {
        enter(status, VmiPhase::Scheduled, now);
    }
}

/// Says of a pod what control leaves unsaid where a node is found at once: a write less for each guest.
fn was_scheduled(status: &mut VirtualMachineInstanceStatus, pod: &BoundPod, by_data_volume: bool, now: &Time) {
    enter(status, VmiPhase::Scheduling, pod.created.as_ref().unwrap_or(now));
    status.qos_class.clone_from(&pod.qos_class);
    let ready = wanted("False", GUEST_NOT_RUNNING.0, GUEST_NOT_RUNNING.1);
    let volumes = wanted("True", ALL_DATA_VOLUMES_READY.0, ALL_DATA_VOLUMES_READY.1);
    for (type_, wanted) in
        [("Ready", Some(ready)), ("DataVolumesReady", by_data_volume.then_some(volumes)), ("Synchronized", None)]
    {
        apply(&mut status.conditions, type_, wanted, now);
    }
}

/// Says that the guest runs, and everything known of it.
pub(crate) fn running(vmi: &mut VirtualMachineInstance, guest: &RunningGuest<'_>, here: Here<'_>, now: &Time) {
    claim(vmi, here, now);
    let status = vmi.status.get_or_insert_default();
    enter(status, VmiPhase::Running, now);
    status.reason = None;
    status.interfaces = interfaces(guest);
    status.volume_status = volumes(guest, &status.volume_status);
    status.guest_os_info = guest.report.map(|report| report.os.clone()).or_else(|| status.guest_os_info.take());
    if !guest.agent_connected {
        status.guest_os_info = None;
    }
    if guest.thawed {
        status.fs_freeze_status = None;
    }
    status.machine = Some(Machine { type_: guest.spec.machine.clone().unwrap_or_else(|| "q35".to_owned()) });
    status.current_cpu_topology = Some(topology(guest.spec));
    status.memory = Some(memory(guest, status.memory.as_ref()));
    status.migration_method = Some(migration_method(&conditions::migration_traits(guest.request)).to_owned());
    status.runtime_user = guest.user.map(i64::from);
    status.selinux_context = (!guest.selinux).then(|| "none".to_owned());
    let evacuate = status.evacuation_node_name.as_ref().is_some_and(|node| !node.is_empty());
    // While a disk is still to be plugged in, what went wrong with it last stays to be read.
    let waits = |type_: &str| type_ == "Synchronized" && guest.awaits_disk();
    for (type_, wanted) in conditions::running(guest, evacuate).into_iter().filter(|(type_, _)| !waits(type_)) {
        apply(&mut status.conditions, type_, wanted, now);
    }
    if let Some(credentials) = guest.handed.condition() {
        apply(&mut status.conditions, "AccessCredentialsSynchronized", Some(credentials), now);
    }
}

/// Says that the guest is on its way to its end: it is not to be sent anything any more.
pub(crate) fn ending(vmi: &mut VirtualMachineInstance, now: &Time) {
    let status = vmi.status.get_or_insert_default();
    let ready = wanted("False", "PodTerminating", "virt-launcher pod is terminating");
    apply(&mut status.conditions, "Ready", Some(ready), now);
}

/// Says how the guest ended.
pub(crate) fn ended(vmi: &mut VirtualMachineInstance, end: End, now: &Time) {
    let status = vmi.status.get_or_insert_default();
    enter(status, if end.succeeded { VmiPhase::Succeeded } else { VmiPhase::Failed }, now);
    status.reason = Some(end.reason.to_owned());
    status.fs_freeze_status = None;
    let ready = wanted("False", "GuestNotRunning", end.message);
    apply(&mut status.conditions, "Ready", Some(ready), now);
    for gone in ["AgentConnected", "AgentVersionNotSupported", "Paused", "Synchronized", "EvictionRequested"] {
        apply(&mut status.conditions, gone, None, now);
    }
}

/// Says why the guest does not run yet, or cannot be kept as it should be.
pub(crate) fn sync_failed(vmi: &mut VirtualMachineInstance, reason: &str, message: &str, now: &Time) {
    let status = vmi.status.get_or_insert_default();
    apply(&mut status.conditions, "Synchronized", Some(wanted("False", reason, message)), now);
}

/// Whether a VMI has a condition that is true.
pub(crate) fn says(vmi: &VirtualMachineInstance, type_: &str) -> bool {
    let conditions = vmi.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    Condition::find(conditions, type_).is_some_and(Condition::is_true)
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

/// Every volume of the spec, by name. What control wrote of a claim stays; this node knows where the guest sees it.
fn volumes(guest: &RunningGuest<'_>, old: &[VolumeStatus]) -> Vec<VolumeStatus> {
    let reserved: HashMap<&str, &ReservedVolume> =
        guest.request.reservation.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let disks = &guest.spec.disks;
    let targets: HashMap<&str, String> = disks.iter().map(|disk| disk.name.as_str()).zip(target_names(disks)).collect();
    let known = |name: &str| old.iter().find(|status| status.name == name).cloned().unwrap_or_default();
    let volumes = guest.request.vmi.spec.volumes.iter().map(|volume| {
        let name = volume.name.as_str();
        let (known, reserved) = (known(name), reserved.get(name));
        let status = VolumeStatus {
            name: name.to_owned(),
            size: reserved.map(|volume| volume.capacity_bytes).or(known.size),
            persistent_volume_claim_info: known
                .persistent_volume_claim_info
                .clone()
                .or_else(|| reserved.map(|volume| claim_info(volume))),
            ..known
        };
        if volume.is_hotpluggable() {
            return pluggable(guest, status);
        }
        let target = plugged(guest, name).or_else(|| targets.get(name).cloned()).unwrap_or_default();
        shown(status, target, guest)
    });
    let leaving = leaving(guest).map(|(name, live)| detaching(known(name), name, live));
    let mut volumes: Vec<_> = volumes.chain(leaving).chain(machine_state(guest)).collect();
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    volumes
}

/// The claims that keep the machine's state, which KubeVirt shows by their names.
fn machine_state(guest: &RunningGuest<'_>) -> impl Iterator<Item = VolumeStatus> {
    let state = guest.request.reservation.volumes.iter().filter(|volume| volume.is_state());
    state.map(|volume| VolumeStatus {
        name: volume.claim.clone(),
        persistent_volume_claim_info: Some(claim_info(volume)),
        ..VolumeStatus::default()
    })
}

/// The device name of a disk that the guest has.
fn plugged(guest: &RunningGuest<'_>, name: &str) -> Option<String> {
    let found = guest.disks.iter().find(|live| live.alias.strip_prefix(ALIAS_PREFIX) == Some(name));
    found.map(|live| live.target.clone())
}

/// Disks that the guest has and its spec has no more.
fn leaving<'a>(guest: &RunningGuest<'a>) -> impl Iterator<Item = (&'a str, &'a LiveDisk)> {
    let volumes = &guest.request.vmi.spec.volumes;
    let disks = guest.disks.iter().filter_map(|live| Some((live.alias.strip_prefix(ALIAS_PREFIX)?, live)));
    disks.filter(|(name, _)| !volumes.iter().any(|volume| volume.name == *name))
}

fn detaching(known: VolumeStatus, name: &str, live: &LiveDisk) -> VolumeStatus {
    VolumeStatus {
        name: name.to_owned(),
        target: live.target.clone(),
        phase: Some(VolumePhase::Detaching),
        reason: Some("Detaching".to_owned()),
        message: Some("the guest was asked to let go of it".to_owned()),
        hotplug_volume: Some(HotplugVolumeStatus::default()),
        ..known
    }
}

/// How far a volume is that may be plugged in and out; KubeVirt's phases and words.
fn pluggable(guest: &RunningGuest<'_>, status: VolumeStatus) -> VolumeStatus {
    let target = plugged(guest, &status.name);
    let waits =
        if guest.request.pending.contains(&status.name) { VolumePhase::Pending } else { VolumePhase::AttachedToNode };
    let (phase, reason, message) = if target.is_some() {
        let message = format!("Successfully attach hotplugged volume {} to VM", status.name);
        (VolumePhase::Ready, "VolumeReady", message)
    } else {
        let message = format!("volume {} is {}", status.name, waits.as_str());
        (waits, "VolumeNotReady", message)
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

/// A volume that the guest has from its start on.
fn shown(status: VolumeStatus, target: String, guest: &RunningGuest<'_>) -> VolumeStatus {
    let seed = guest.request.vmi.spec.volumes.iter().any(|volume| {
        volume.name == status.name && (volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some())
    });
    let size = status.size.or(guest.seed_bytes.filter(|_| seed));
    if status.memory_dump_volume.is_some() || target.is_empty() {
        return VolumeStatus { target, size, ..status };
    }
    let message = format!("the guest has volume {} as {target}", status.name);
    VolumeStatus {
        target,
        size,
        phase: Some(VolumePhase::Ready),
        reason: Some("VolumeReady".to_owned()),
        message: Some(message),
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

fn memory(guest: &RunningGuest<'_>, old: Option<&MemoryStatus>) -> MemoryStatus {
    // Whole mebibytes are what people wrote and want to read back.
    let quantity =
        |kib: u64| Quantity(if kib.is_multiple_of(1024) { format!("{}Mi", kib / 1024) } else { format!("{kib}Ki") });
    let requested = quantity(guest.spec.memory_kib);
    let old = old.cloned().unwrap_or_default();
    MemoryStatus {
        // What it booted with stays so while memory is plugged in.
        guest_at_boot: old.guest_at_boot.clone().or_else(|| Some(requested.clone())),
        guest_current: Some(guest.memory_kib.map_or_else(|| requested.clone(), quantity)),
        guest_requested: Some(requested),
        ..old
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
    vmi.spec.volumes.iter().filter_map(|volume| volume.claim_name()).collect()
}
