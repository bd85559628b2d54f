//! From wire types to the model's: a VirtualMachineInstance and its reservation become the ports to make, the volumes
//! to check and, once those are there, the domain's spec. Owns KubeVirt's defaults (sata for disks without a bus, one
//! vCPU, BIOS). Refuses every field that is not realised, with its path: admission should have, and a field ignored in
//! silence is the worst answer.

use std::collections::HashMap;
use std::path::Path;

use furrow_api::VirtualMachineInstance;
use furrow_api::quantity;
use furrow_api::reservation::{Reservation, ReservedNic, ReservedVolume, STATE_NVRAM, STATE_TPM};
use furrow_api::vmi::{self, Disk, Interface};
use furrow_model::cpus::CpuNeed;
use furrow_model::domain::{
    CpuModelSpec, CpuSpec, DiskBus, DiskDevice, DiskSource, DiskSpec, DomainSpec, Extras, Firmware, InputSpec, NicSpec,
    Owner, RbdSource, WatchdogAction, WatchdogSpec, nvram_template,
};
use furrow_model::guest::WantedDisk;
use furrow_model::port::{PortRequest, PortSpec, PortSpecError};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use uuid::Uuid;

use super::devices;
use super::host_disk::{self, HostDiskFileError};
use super::kernel;
use super::media;
use super::metrics_disk;
use super::names;
use super::pinning;
use super::platform;
use super::seed::{self, SeedError};
use super::unsupported;

/// KubeVirt's own cap on queues of an interface is the tap driver's, 256; beyond 16 they only cost memory.
const MAX_QUEUES: u32 = 16;

/// Why a VMI cannot be turned into a domain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    /// A field that this version does not realise.
    #[error("could not start the guest: {path} is not supported")]
    Unsupported { path: String },
    /// The reservation was made for other interfaces or volumes than the spec has.
    #[error("could not start the guest: its reservation has no {kind} {name}")]
    NotReserved { kind: &'static str, name: String },
    /// A disk without a volume.
    #[error("could not start the guest: disk {disk} names no volume of the spec")]
    NoVolume { disk: String },
    /// Neither of the two places names the memory.
    #[error("could not start the guest: neither domain.memory.guest nor domain.resources names its memory")]
    NoMemory,
    /// A number that is none.
    #[error("could not start the guest: {path} is not a usable quantity")]
    Quantity {
        path: &'static str,
        #[source]
        source: quantity::QuantityError,
    },
    /// A count below 1.
    #[error("could not start the guest: {path} must be at least 1")]
    Count { path: &'static str },
    /// A value that is none.
    #[error("could not start the guest: {path}: {message}")]
    Value { path: String, message: String },
    /// Not a UUID.
    #[error("could not start the guest: domain.firmware.uuid is not a UUID")]
    Uuid(#[source] uuid::Error),
    /// A port that cannot be.
    #[error("could not make the port of interface {nic}")]
    Port {
        nic: String,
        #[source]
        source: PortSpecError,
    },
    /// A disk of this node that cannot be.
    #[error(transparent)]
    HostDisk(#[from] HostDiskFileError),
    /// A seed that cannot be.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

impl ConvertError {
    /// CamelCase, for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "FieldNotSupported",
            Self::NotReserved { .. } => "ReservationMismatch",
            Self::NoVolume { .. }
            | Self::NoMemory
            | Self::Quantity { .. }
            | Self::Count { .. }
            | Self::Value { .. }
            | Self::Uuid(_) => "SpecInvalid",
            Self::Port { .. } => "PortInvalid",
            Self::Seed(error) => error.reason(),
            Self::HostDisk(error) => error.reason(),
        }
    }
}

/// Settings of the cluster that shape a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClusterDefaults {
    /// CPU model of guests that name none.
    pub(crate) cpu_model: Option<String>,
    /// Machine type of guests that name none.
    pub(crate) machine_type: Option<String>,
}

/// A VMI with its reservation, found to be of one piece: what a start works from.
#[derive(Debug, Clone)]
pub(crate) struct GuestRequest {
    /// The object.
    pub(crate) vmi: VirtualMachineInstance,
    /// Its reservation.
    pub(crate) reservation: Reservation,
    /// The ports of its interfaces, in their order.
    pub(crate) ports: Vec<PortSpec>,
    /// Files of an image that it is booted with.
    pub(crate) kernel: Option<kernel::KernelFiles>,
    /// Disks of the spec that may be plugged in while it runs, and for which control has reserved nothing yet.
    pub(crate) pending: Vec<String>,
}

impl GuestRequest {
    /// Joins a VMI with its reservation.
    pub(crate) fn new(mut vmi: VirtualMachineInstance, reservation: Reservation) -> Result<Self, ConvertError> {
        unsupported::refuse(&vmi)?;
        let ports = ports(&vmi, &reservation)?;
        let domain = &vmi.spec.domain;
        for (kept, name) in [(domain.keeps_nvram(), STATE_NVRAM), (domain.keeps_tpm(), STATE_TPM)] {
            if kept && !reservation.volumes.iter().any(|volume| volume.name == name) {
                return Err(ConvertError::NotReserved { kind: "volume", name: name.to_owned() });
            }
        }
        let kernel = kernel::wanted(&vmi, &reservation)?;
        let volumes = vmi.spec.volumes.iter().filter(|volume| volume.is_hotpluggable());
        let reserved = |name: &String| reservation.volumes.iter().any(|volume| volume.name == *name);
        let pending: Vec<_> = volumes.map(|volume| volume.name.clone()).filter(|name| !reserved(name)).collect();
        vmi.spec.domain.devices.disks.retain(|disk| !pending.contains(&disk.name));
        Ok(Self { vmi, reservation, ports, kernel, pending })
    }

    /// The disks that the guest should have. Those that are pending stay where they are: in no guest, or in this one.
    pub(crate) fn wanted_disks(&self) -> Vec<WantedDisk> {
        let volumes = &self.vmi.spec.volumes;
        let pluggable = |name: &str| volumes.iter().any(|volume| volume.name == name && volume.is_hotpluggable());
        let image = |name: &str| {
            let reserved = self.reservation.volumes.iter().find(|volume| volume.name == name);
            reserved.map(|volume| format!("{}/{}", volume.pool, volume.image))
        };
        let disks = self.vmi.spec.domain.devices.disks.iter().map(|disk| WantedDisk {
            name: disk.name.clone(),
            pluggable: pluggable(&disk.name),
            image: image(&disk.name),
        });
        let pending = self.pending.iter().map(|name| WantedDisk { name: name.clone(), pluggable: false, image: None });
        disks.chain(pending).collect()
    }

    /// One disk, once its volume is there.
    pub(crate) fn disk(&self, name: &str, source: RbdSource) -> Result<DiskSpec, ConvertError> {
        let disk = self.vmi.spec.domain.devices.disks.iter().find(|disk| disk.name == name);
        let disk = disk.ok_or_else(|| ConvertError::NotReserved { kind: "volume", name: name.to_owned() })?;
        let volume = self.reserved_volume(name)?;
        // The order of boot is the firmware's, which has done its part.
        let spec = disk_spec(disk, DiskSource::Rbd(source), is_read_only(disk, volume), None)?;
        Ok(DiskSpec { boot_order: None, ..spec })
    }

    /// `namespace/name`.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.vmi.namespace().unwrap_or_default(), self.vmi.name_any())
    }

    /// The volumes that disks show, or that keep the machine's state, and that must be checked, each once.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &ReservedVolume> {
        let disks = &self.vmi.spec.domain.devices.disks;
        let volumes = self.reservation.volumes.iter();
        volumes.filter(|volume| volume.is_state() || disks.iter().any(|disk| disk.name == volume.name))
    }

    /// The template that the firmware's variables begin with, where this volume keeps them.
    pub(crate) fn flash_template(&self, volume: &ReservedVolume) -> Option<&'static str> {
        let firmware = self.vmi.spec.domain.firmware.as_ref()?;
        let efi = firmware.bootloader.as_ref()?.efi.as_ref()?;
        (volume.name == STATE_NVRAM).then(|| nvram_template(efi.secure_boot != Some(false)))
    }

    /// Whether a volume may be written by this guest alone.
    pub(crate) fn is_exclusive(&self, volume: &ReservedVolume) -> bool {
        if volume.is_state() {
            return true;
        }
        let disk = self.vmi.spec.domain.devices.disks.iter().find(|disk| disk.name == volume.name);
        disk.is_some_and(|disk| disk.shareable != Some(true) && !is_read_only(disk, volume))
    }

    /// Images that this guest writes alone, as `pool/image`, and files of this node, by their path.
    pub(crate) fn exclusive_images(&self) -> Vec<String> {
        let exclusive = self.volumes().filter(|volume| self.is_exclusive(volume));
        let images = exclusive.map(|volume| format!("{}/{}", volume.pool, volume.image));
        let disks = self.vmi.spec.domain.devices.disks.iter().filter(|disk| disk.shareable != Some(true));
        let files = disks.filter_map(|disk| self.host_disk(&disk.name)).map(|disk| disk.path.clone());
        images.chain(files).collect()
    }

    fn host_disk(&self, volume: &str) -> Option<&vmi::HostDisk> {
        let found = self.vmi.spec.volumes.iter().find(|found| found.name == volume);
        found.and_then(|volume| volume.host_disk.as_ref())
    }

    /// How many processors the guest has to itself; `None` when none.
    pub(crate) fn cpu_need(&self) -> Result<Option<CpuNeed>, ConvertError> {
        Ok(pinning::need(&self.vmi, &cpu(&self.vmi.spec.domain, &ClusterDefaults::default())?))
    }

    /// The domain's spec, once volumes and ports are there. `guest_dir`: where the files of volumes are.
    pub(crate) fn domain(
        &self,
        sources: &HashMap<String, RbdSource>,
        guest_dir: &Path,
        defaults: &ClusterDefaults,
    ) -> Result<DomainSpec, ConvertError> {
        let spec = &self.vmi.spec.domain;
        let owner = owner(&self.vmi);
        let firmware = spec.firmware.clone().unwrap_or_default();
        let uuid = match firmware.uuid.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => Uuid::parse_str(text).map_err(ConvertError::Uuid)?,
            None => owner.default_uuid(),
        };
        let cpu = cpu(spec, defaults)?;
        let queues = Some(queues(&cpu)).filter(|count| *count > 1);
        let io_threads = devices::io_threads(spec)?;
        let asked = devices::devices(spec, &owner.uid);
        let devices = &spec.devices;
        let machine = spec.machine.as_ref().map(|machine| machine.type_.clone()).filter(|kind| !kind.is_empty());
        Ok(DomainSpec {
            uuid,
            owner,
            serial_number: firmware.serial.clone().filter(|serial| !serial.is_empty()),
            memory_kib: memory_kib(spec)?,
            // What is set aside for it is known only when it starts.
            pinning: None,
            max_memory_kib: max_memory_kib(spec)?,
            hugepage_kib: platform::hugepage_kib(spec)?,
            firmware: bootloader(&firmware, sources.get(STATE_NVRAM))?,
            kernel: kernel::spec(&firmware, guest_dir),
            machine: machine.or_else(|| defaults.machine_type.clone()),
            features: platform::features(spec.features.as_ref())?,
            ends_on_reboot: spec.reboot_policy == Some(vmi::RebootPolicy::Terminate),
            clock: platform::clock(spec.clock.as_ref()),
            disks: self.disks(sources, guest_dir, queues.filter(|_| devices.block_multi_queue == Some(true)))?,
            nics: self.nics(queues.filter(|_| devices.network_interface_multiqueue == Some(true)))?,
            inputs: inputs(devices),
            watchdog: devices.watchdog.as_ref().map(watchdog),
            io_threads,
            devices: asked,
            extras: Extras {
                console_log: devices.log_serial_console != Some(false),
                serial_console: devices.autoattach_serial_console != Some(false),
                graphics: devices.autoattach_graphics_device != Some(false),
                balloon: devices.autoattach_mem_balloon != Some(false),
                rng: devices.rng.is_some(),
                plug_disks: !devices.disable_hotplug,
            },
            cpu,
        })
    }

    fn disks(
        &self,
        sources: &HashMap<String, RbdSource>,
        guest_dir: &Path,
        queues: Option<u32>,
    ) -> Result<Vec<DiskSpec>, ConvertError> {
        let volumes = &self.vmi.spec.volumes;
        let seed_name = seed::find(volumes)?.map(|seed| seed.name.to_owned());
        let is_media = |name: &str| volumes.iter().any(|volume| volume.name == name && volume.object_kind().is_some());
        let disks = self.vmi.spec.domain.devices.disks.iter();
        disks
            .map(|disk| {
                if seed_name.as_ref() == Some(&disk.name) {
                    return disk_spec(disk, DiskSource::File(guest_dir.join(seed::SEED_FILE)), true, None);
                }
                if is_media(&disk.name) {
                    let path = guest_dir.join(media::file_name(&disk.name));
                    return disk_spec(disk, DiskSource::File(path), true, None);
                }
                if volumes.iter().any(|volume| volume.name == disk.name && volume.downward_metrics.is_some()) {
                    let spec = disk_spec(disk, DiskSource::File(guest_dir.join(metrics_disk::FILE)), true, None)?;
                    return Ok(DiskSpec { bus: DiskBus::Virtio, ..spec });
                }
                if let Some(found) = self.host_disk(&disk.name) {
                    let namespace = self.vmi.namespace().unwrap_or_default();
                    let path = host_disk::path(&namespace, &disk.name, found)?;
                    let read_only = disk.cdrom.is_some() || disk.disk.as_ref().is_some_and(|target| target.readonly);
                    return disk_spec(disk, DiskSource::File(path), read_only, queues);
                }
                let volume = self.reserved_volume(&disk.name)?;
                let source = sources.get(&disk.name).cloned();
                let source =
                    source.ok_or_else(|| ConvertError::NotReserved { kind: "volume", name: disk.name.clone() })?;
                disk_spec(disk, DiskSource::Rbd(source), is_read_only(disk, volume), queues)
            })
            .collect()
    }

    fn reserved_volume(&self, name: &str) -> Result<&ReservedVolume, ConvertError> {
        let found = self.reservation.volumes.iter().find(|volume| volume.name == name);
        let volume = found.ok_or_else(|| ConvertError::NotReserved { kind: "volume", name: name.to_owned() })?;
        if volume.volume_mode != "Block" {
            let path = format!("volume {name} with volumeMode {}", volume.volume_mode);
            return Err(ConvertError::Unsupported { path });
        }
        Ok(volume)
    }

    fn nics(&self, queues: Option<u32>) -> Result<Vec<NicSpec>, ConvertError> {
        let interfaces = present_interfaces(&self.vmi);
        interfaces
            .zip(&self.ports)
            .map(|(interface, port)| {
                Ok(NicSpec {
                    name: interface.name.clone(),
                    tap: port.tap().as_str().to_owned(),
                    mac: port.mac.to_string(),
                    model: interface.model.clone().filter(|model| !model.is_empty()),
                    mtu: u32::from(port.mtu),
                    queues,
                    link_down: interface.state == Some(vmi::InterfaceState::Down),
                    boot_order: count_option(interface.boot_order, "interfaces[].bootOrder")?,
                    place: devices::place(interface)?,
                })
            })
            .collect()
    }
}

/// Identity of a VMI.
pub(crate) fn owner(vmi: &VirtualMachineInstance) -> Owner {
    Owner {
        namespace: vmi.namespace().unwrap_or_default(),
        name: vmi.name_any(),
        uid: vmi.uid().unwrap_or_default(),
        generation: vmi.metadata.generation.unwrap_or_default(),
    }
}

/// Queues of a device that has one for each vCPU. Several where vCPUs can be plugged in: a tap made for one queue could not
/// stay when there are more.
fn queues(cpu: &CpuSpec) -> u32 {
    let least = cpu.max_count().min(2);
    cpu.count().max(least).min(MAX_QUEUES)
}

fn present_interfaces(vmi: &VirtualMachineInstance) -> impl Iterator<Item = &Interface> {
    let interfaces = vmi.spec.domain.devices.interfaces.iter();
    interfaces.filter(|interface| interface.state != Some(vmi::InterfaceState::Absent))
}

fn ports(vmi: &VirtualMachineInstance, reservation: &Reservation) -> Result<Vec<PortSpec>, ConvertError> {
    let devices = &vmi.spec.domain.devices;
    let multi_queue = devices.network_interface_multiqueue == Some(true);
    let cpu = cpu(&vmi.spec.domain, &ClusterDefaults::default())?;
    let queues = if multi_queue { queues(&cpu) } else { 1 };
    let dns = names::dns(vmi)?;
    present_interfaces(vmi)
        .map(|interface| {
            let name = &interface.name;
            let nic = reservation.nics.iter().find(|nic| &nic.name == name);
            let nic = nic.ok_or_else(|| ConvertError::NotReserved { kind: "interface", name: name.clone() })?;
            let request = PortRequest {
                tcp_ports: open_ports(interface),
                dns: dns.servers(&nic.dns),
                dhcp_options: names::told(&dns, devices::dhcp_options(interface)?),
                ..port_request(vmi, nic, i32::try_from(queues).unwrap_or(1))
            };
            PortSpec::parse(request).map_err(|source| ConvertError::Port { nic: name.clone(), source })
        })
        .collect()
}

/// What others may connect to. KubeVirt forwards the listed ports of a masqueraded interface alone; elsewhere they are
/// names for people.
fn open_ports(interface: &Interface) -> Option<Vec<i32>> {
    if interface.masquerade.is_none() || interface.ports.is_empty() {
        return None;
    }
    let tcp = interface.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|p| p.is_empty() || p == "TCP"));
    Some(tcp.map(|port| port.port).collect())
}

fn port_request(vmi: &VirtualMachineInstance, nic: &ReservedNic, queues: i32) -> PortRequest {
    PortRequest {
        vmi_uid: vmi.uid().unwrap_or_default(),
        vmi: format!("{}/{}", vmi.namespace().unwrap_or_default(), vmi.name_any()),
        nic: nic.name.clone(),
        bridge: nic.bridge.clone(),
        vlan: nic.vlan,
        mac: nic.mac.clone(),
        ip: nic.ip.clone(),
        prefix_len: nic.prefix_len,
        gateway: nic.gateway.clone(),
        dns: nic.dns.clone(),
        mtu: nic.mtu,
        queues,
        hostname: Some(names::hostname(vmi)),
        tcp_ports: None,
        dhcp_options: None,
        ip_object: nic.ip_object.clone(),
    }
}

fn is_read_only(disk: &Disk, volume: &ReservedVolume) -> bool {
    volume.read_only || disk.disk.as_ref().is_some_and(|target| target.readonly) || disk.cdrom.is_some()
}

fn disk_spec(disk: &Disk, source: DiskSource, read_only: bool, queues: Option<u32>) -> Result<DiskSpec, ConvertError> {
    let (device, bus) = match (&disk.disk, &disk.cdrom) {
        (_, Some(cdrom)) => (DiskDevice::Cdrom, cdrom.bus.as_ref()),
        (disk, None) => (DiskDevice::Disk, disk.as_ref().and_then(|target| target.bus.as_ref())),
    };
    let bus = match bus {
        Some(vmi::DiskBus::Virtio) => DiskBus::Virtio,
        Some(vmi::DiskBus::Scsi) => DiskBus::Scsi,
        Some(vmi::DiskBus::Usb) => DiskBus::Usb,
        // KubeVirt's default for amd64 (`setDefaultAmd64DisksBus`).
        Some(vmi::DiskBus::Sata | vmi::DiskBus::Other(_)) | None => DiskBus::Sata,
    };
    Ok(DiskSpec {
        name: disk.name.clone(),
        device,
        bus,
        source,
        read_only,
        shareable: disk.shareable == Some(true),
        serial: disk.serial.clone().filter(|serial| !serial.is_empty()),
        boot_order: disk.boot_order.and_then(|order| u32::try_from(order).ok()),
        cache: disk.cache.as_ref().map(|cache| cache.as_str().to_owned()),
        io: disk.io.as_ref().map(|io| io.as_str().to_owned()).filter(|io| io != "default"),
        error_policy: disk.error_policy.as_ref().map(|policy| policy.as_str().to_owned()),
        queues,
        tuning: devices::tuning(disk)?,
    })
}

fn cpu(spec: &vmi::DomainSpec, defaults: &ClusterDefaults) -> Result<CpuSpec, ConvertError> {
    let cpu = spec.cpu.clone().unwrap_or_default();
    let named = cpu.sockets.or(cpu.cores).or(cpu.threads).is_some();
    let sockets = count_option(cpu.sockets, "domain.cpu.sockets")?;
    // KubeVirt derives the number of sockets from the resources when the topology is silent.
    let implied = if named { None } else { implied_vcpus(spec)? };
    let model = cpu.model.filter(|model| !model.is_empty()).or_else(|| defaults.cpu_model.clone());
    let sockets = sockets.or(implied).unwrap_or(1);
    // The kubelet sets no more aside for a pod that runs.
    let room = count_option(cpu.max_sockets, "domain.cpu.maxSockets")?.filter(|_| !cpu.dedicated_cpu_placement);
    Ok(CpuSpec {
        sockets,
        max_sockets: room.unwrap_or(sockets).max(sockets),
        cores: count_option(cpu.cores, "domain.cpu.cores")?.unwrap_or(1),
        threads: count_option(cpu.threads, "domain.cpu.threads")?.unwrap_or(1),
        model: match model.as_deref() {
            None | Some("host-model") => CpuModelSpec::HostModel,
            Some("host-passthrough") => CpuModelSpec::HostPassthrough,
            Some(name) => CpuModelSpec::Named(name.to_owned()),
        },
        features: cpu
            .features
            .iter()
            .map(|feature| {
                let policy = feature.policy.as_ref().map_or("require", |policy| policy.as_str());
                (feature.name.clone(), policy.to_owned())
            })
            .collect(),
    })
}

fn implied_vcpus(spec: &vmi::DomainSpec) -> Result<Option<u32>, ConvertError> {
    let resources = &spec.resources;
    let Some(quantity) = resources.limits.get("cpu").or_else(|| resources.requests.get("cpu")) else { return Ok(None) };
    let whole = units(quantity, "domain.resources.requests.cpu")?;
    Ok(u32::try_from(whole).ok().filter(|count| *count > 0))
}

fn memory_kib(spec: &vmi::DomainSpec) -> Result<u64, ConvertError> {
    let guest = spec.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let (quantity, path) = guest
        .map(|quantity| (quantity, "domain.memory.guest"))
        .or_else(|| spec.resources.requests.get("memory").map(|q| (q, "domain.resources.requests.memory")))
        .or_else(|| spec.resources.limits.get("memory").map(|q| (q, "domain.resources.limits.memory")))
        .ok_or(ConvertError::NoMemory)?;
    let bytes = units(quantity, path)?;
    u64::try_from(bytes).map(|bytes| bytes / 1024).map_err(|_| ConvertError::Count { path })
}

/// Room for memory that is plugged in later.
fn max_memory_kib(spec: &vmi::DomainSpec) -> Result<Option<u64>, ConvertError> {
    let path = "domain.memory.maxGuest";
    let Some(most) = spec.memory.as_ref().and_then(|memory| memory.max_guest.as_ref()) else { return Ok(None) };
    let bytes = units(most, path)?;
    u64::try_from(bytes).map(|bytes| Some(bytes / 1024)).map_err(|_| ConvertError::Count { path })
}

pub(super) fn units(quantity: &Quantity, path: &'static str) -> Result<i64, ConvertError> {
    quantity::units(quantity).map_err(|source| ConvertError::Quantity { path, source })
}

fn count_option(count: Option<i32>, path: &'static str) -> Result<Option<u32>, ConvertError> {
    count.map(|count| u32::try_from(count).ok().filter(|c| *c > 0).ok_or(ConvertError::Count { path })).transpose()
}

fn bootloader(firmware: &vmi::Firmware, nvram: Option<&RbdSource>) -> Result<Firmware, ConvertError> {
    let bootloader = firmware.bootloader.clone().unwrap_or_default();
    let Some(efi) = bootloader.efi else {
        return Ok(Firmware::Bios { use_serial: bootloader.bios.and_then(|bios| bios.use_serial) == Some(true) });
    };
    let missing = || ConvertError::NotReserved { kind: "volume", name: STATE_NVRAM.to_owned() };
    let nvram = match efi.persistent {
        Some(true) => Some(nvram.cloned().ok_or_else(missing)?),
        _ => None,
    };
    // KubeVirt: secure boot unless it is turned off.
    Ok(Firmware::Efi { secure_boot: efi.secure_boot != Some(false), nvram })
}

fn inputs(devices: &vmi::Devices) -> Vec<InputSpec> {
    let mut inputs: Vec<_> = devices
        .inputs
        .iter()
        .map(|input| InputSpec {
            name: input.name.clone(),
            keyboard: input.type_ == vmi::InputType::Keyboard,
            virtio: input.bus == Some(vmi::InputBus::Virtio),
        })
        .collect();
    if devices.autoattach_input_device == Some(true) && inputs.is_empty() {
        inputs.push(InputSpec { name: "default-0".to_owned(), keyboard: false, virtio: false });
    }
    inputs
}

fn watchdog(watchdog: &vmi::Watchdog) -> WatchdogSpec {
    let action = watchdog.i6300esb.as_ref().and_then(|device| device.action.as_ref());
    WatchdogSpec {
        name: watchdog.name.clone(),
        action: match action {
            Some(vmi::WatchdogAction::Poweroff) => WatchdogAction::Poweroff,
            Some(vmi::WatchdogAction::Shutdown) => WatchdogAction::Shutdown,
            Some(vmi::WatchdogAction::Reset | vmi::WatchdogAction::Other(_)) | None => WatchdogAction::Reset,
        },
    }
}
