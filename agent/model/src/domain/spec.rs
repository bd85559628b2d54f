//! What a domain is made from: the guest's wishes (already resolved to images, taps and paths) and the node's facts.
//! Owns these input types and their validation. Refuses wire types: the agent converts them.

use std::collections::HashSet;
use std::path::PathBuf;

use uuid::Uuid;

use crate::cpus::PinError;

use super::devices::{self, DeviceSpec, DiskTuning, NicPlace};
use super::io_threads::IoThreadPolicy;
use super::memory;
use super::pinning::{self, PinningSpec};

/// Everything a guest's domain needs to know, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    /// Whose domain it is.
    pub owner: Owner,
    /// SMBIOS and libvirt UUID.
    pub uuid: Uuid,
    /// SMBIOS serial number of the system.
    pub serial_number: Option<String>,
    /// Guest memory in KiB.
    pub memory_kib: u64,
    /// Memory in KiB that there is room for, at least as much: the rest can be plugged in while it runs.
    pub max_memory_kib: Option<u64>,
    /// Back the memory with huge pages of this many KiB.
    pub hugepage_kib: Option<u64>,
    /// vCPUs.
    pub cpu: CpuSpec,
    /// Processors of the node that the guest has to itself.
    pub pinning: Option<PinningSpec>,
    /// Firmware.
    pub firmware: Firmware,
    /// A kernel that the firmware hands over to at once.
    pub kernel: Option<KernelSpec>,
    /// QEMU machine type; `q35` unless given.
    pub machine: Option<String>,
    /// ACPI, APIC, Hyper-V and the like.
    pub features: FeatureSpec,
    /// A reboot from inside the guest ends the domain, instead of resetting it.
    pub ends_on_reboot: bool,
    /// Clock and timers.
    pub clock: ClockSpec,
    /// Disks in the order of the spec.
    pub disks: Vec<DiskSpec>,
    /// NICs in the order of the spec.
    pub nics: Vec<NicSpec>,
    /// Input devices.
    pub inputs: Vec<InputSpec>,
    /// A watchdog.
    pub watchdog: Option<WatchdogSpec>,
    /// Who does the input and output of disks.
    pub io_threads: IoThreadPolicy,
    /// Devices that a guest gets only when it asks.
    pub devices: DeviceSpec,
    /// The devices that are simply there or not.
    pub extras: Extras,
}

/// Identity of the VirtualMachineInstance, written into the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// `metadata.generation` of the spec.
    pub generation: i64,
}

impl Owner {
    /// The name of the domain: `<namespace>_<name>`. Neither may contain `_` in Kubernetes, so it is unambiguous.
    pub fn domain_name(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }

    /// The UUID of a guest whose spec names none: version 5 of namespace and name in KubeVirt's own UUID namespace
    /// (`pkg/util/hardware`). KubeVirt hashes the name alone, which on a libvirt shared by namespaces would collide.
    pub fn default_uuid(&self) -> Uuid {
        const KUBEVIRT_FIRMWARE: Uuid = Uuid::from_u128(0x6a1a_24a1_4061_4607_8bf4_a396_3d0c_5895);
        Uuid::new_v5(&KUBEVIRT_FIRMWARE, format!("{}/{}", self.namespace, self.name).as_bytes())
    }
}

/// vCPU count and model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSpec {
    /// Sockets that the guest starts with.
    pub sockets: u32,
    /// Sockets that there is room for, at least as many: the rest can be plugged in while it runs.
    pub max_sockets: u32,
    /// Cores a socket.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
    /// The model.
    pub model: CpuModelSpec,
    /// Feature names with libvirt's policies (`require`, `disable`, `force`, `optional`, `forbid`).
    pub features: Vec<(String, String)>,
}

impl CpuSpec {
    /// vCPUs that the guest starts with.
    pub fn count(&self) -> u32 {
        self.sockets * self.cores * self.threads
    }

    /// vCPUs that there is room for.
    pub fn max_count(&self) -> u32 {
        self.max_sockets.max(self.sockets) * self.cores * self.threads
    }
}

/// What the guest's CPU looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuModelSpec {
    /// The host's, as a named model and features: migratable. KubeVirt's default.
    HostModel,
    /// The host's itself.
    HostPassthrough,
    /// One of libvirt's names.
    Named(String),
}

/// Firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, with its output on the serial console if asked.
    Bios {
        /// `<bios useserial='yes'/>`.
        use_serial: bool,
    },
    /// OVMF.
    Efi {
        /// Enforce signed loaders; needs SMM.
        secure_boot: bool,
        /// The image that keeps its variables; without one they begin anew at each start.
        nvram: Option<RbdSource>,
    },
}

/// A kernel in files of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSpec {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: Option<PathBuf>,
    /// Command line.
    pub arguments: Option<String>,
}

/// CPU and platform features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSpec {
    /// ACPI; without it a guest cannot be asked to shut down.
    pub acpi: bool,
    /// APIC.
    pub apic: bool,
    /// Paravirtual end of interrupt; QEMU's own unless given.
    pub apic_eoi: Option<bool>,
    /// Paravirtual spinlocks; QEMU's own unless given.
    pub pvspinlock: Option<bool>,
    /// System management mode.
    pub smm: bool,
    /// Hide KVM from the guest.
    pub kvm_hidden: bool,
    /// Hyper-V enlightenments, KVM only.
    pub hyperv: Option<HypervSpec>,
    /// All Hyper-V enlightenments that the host has, KVM only.
    pub hyperv_passthrough: bool,
}

/// Hyper-V enlightenments; `None` leaves one out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Hyper-V's own, see libvirt's formatdomain")]
pub struct HypervSpec {
    pub relaxed: Option<bool>,
    pub vapic: Option<bool>,
    /// Whether, and retries.
    pub spinlocks: Option<(bool, u32)>,
    pub vpindex: Option<bool>,
    pub runtime: Option<bool>,
    pub synic: Option<bool>,
    /// Whether, and direct mode.
    pub synictimer: Option<(bool, Option<bool>)>,
    pub reset: Option<bool>,
    pub frequencies: Option<bool>,
    pub reenlightenment: Option<bool>,
    /// Whether, direct mode, and partial flushes.
    pub tlbflush: Option<(bool, Option<bool>, Option<bool>)>,
    pub ipi: Option<bool>,
    pub evmcs: Option<bool>,
    /// Whether, and the vendor's id, at most 12 characters.
    pub vendor_id: Option<(bool, Option<String>)>,
}

/// Clock and timers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockSpec {
    /// What the guest's clock starts from.
    pub offset: ClockOffset,
    /// Timers.
    pub timers: Vec<TimerSpec>,
}

/// What the guest's clock starts from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClockOffset {
    /// UTC.
    #[default]
    Utc,
    /// UTC plus seconds.
    Variable(i64),
    /// A time zone of the tz database.
    Timezone(String),
}

/// One timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerSpec {
    /// libvirt's name.
    pub name: TimerName,
    /// `delay`, `catchup`, `merge`, `discard`.
    pub tick_policy: Option<String>,
    /// `guest` or `wall`, for the RTC.
    pub track: Option<String>,
    /// Present or not.
    pub present: Option<bool>,
}

/// The timers of a PC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "names of hardware")]
pub enum TimerName {
    Rtc,
    Pit,
    Hpet,
    Kvm,
    Hyperv,
}

impl TimerName {
    pub(super) fn libvirt(self) -> &'static str {
        match self {
            Self::Rtc => "rtc",
            Self::Pit => "pit",
            Self::Hpet => "hpet",
            Self::Kvm => "kvmclock",
            Self::Hyperv => "hypervclock",
        }
    }
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name in the spec; the device's alias is `ua-<name>`.
    pub name: String,
    /// Disk or CD-ROM.
    pub device: DiskDevice,
    /// Bus.
    pub bus: DiskBus,
    /// Where its bytes are.
    pub source: DiskSource,
    /// The guest may not write.
    pub read_only: bool,
    /// Several guests may write at the same time.
    pub shareable: bool,
    /// Serial number.
    pub serial: Option<String>,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// `none`, `writethrough` or `writeback`; `none` unless given.
    pub cache: Option<String>,
    /// `native`, `threads` or `io_uring`.
    pub io: Option<String>,
    /// `stop`, `report`, `ignore` or `enospace`; `stop` unless given, so that a storage outage pauses the guest instead
    /// of breaking its file systems.
    pub error_policy: Option<String>,
    /// Virtqueues; one unless given.
    pub queues: Option<u32>,
    /// What few disks say.
    pub tuning: DiskTuning,
}

/// Disk or CD-ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "names of hardware")]
pub enum DiskDevice {
    Disk,
    Cdrom,
}

/// The bus a disk is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "names of hardware")]
pub enum DiskBus {
    Virtio,
    Sata,
    Scsi,
    Usb,
}

/// Where the bytes of a disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A Ceph RBD image, opened by QEMU through librbd.
    Rbd(RbdSource),
    /// A raw file on the node, such as a seed.
    File(PathBuf),
}

/// An RBD image and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdSource {
    /// Pool.
    pub pool: String,
    /// Image.
    pub image: String,
    /// Monitors as host and port.
    pub monitors: Vec<(String, u16)>,
    /// Ceph user without `client.`.
    pub user: String,
    /// The libvirt secret with its key.
    pub secret: Uuid,
}

/// One NIC on a prepared tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicSpec {
    /// Name in the spec; the device's alias is `ua-<name>`.
    pub name: String,
    /// Device name of the tap.
    pub tap: String,
    /// MAC address.
    pub mac: String,
    /// Model: `virtio`, `e1000`, `e1000e`, `rtl8139`.
    pub model: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Pairs of virtqueues; one unless given. The tap must have been made for several then.
    pub queues: Option<u32>,
    /// Link down from the start.
    pub link_down: bool,
    /// Place in the boot order, from 1; without one there is no boot ROM.
    pub boot_order: Option<u32>,
    /// Where the guest finds it.
    pub place: NicPlace,
}

/// An input device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Name in the spec.
    pub name: String,
    /// A keyboard instead of a tablet.
    pub keyboard: bool,
    /// On the virtio bus instead of USB.
    pub virtio: bool,
}

/// An i6300ESB watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogSpec {
    /// Name in the spec.
    pub name: String,
    /// What happens when it is not fed.
    pub action: WatchdogAction,
}

/// What an unfed watchdog does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "libvirt's own names")]
pub enum WatchdogAction {
    Reset,
    Shutdown,
    Poweroff,
}

/// Devices that are there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extras {
    /// A serial console.
    pub serial_console: bool,
    /// What the serial console says is kept in a file.
    pub console_log: bool,
    /// A display.
    pub graphics: bool,
    /// A memory balloon with statistics.
    pub balloon: bool,
    /// A random number generator.
    pub rng: bool,
    /// A place for disks that are plugged in while the guest runs.
    pub plug_disks: bool,
}

/// What the node offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// How guests are executed.
    pub virtualization: Virtualization,
    /// Path of QEMU.
    pub emulator: String,
    /// Directory with OVMF's images, Debian's `/usr/share/OVMF`.
    pub firmware_dir: String,
    /// The guest's own directory: sockets, console log, NVRAM.
    pub guest_dir: PathBuf,
    /// The directory with those that are shown to the guest as file systems, each named by its volume.
    pub shares_dir: PathBuf,
    /// The directory of the state of the guest's TPM, where that is kept.
    pub tpm_dir: PathBuf,
}

/// How guests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Virtualization {
    /// Hardware.
    Kvm,
    /// QEMU's translator: slow, for machines without KVM.
    Tcg,
}

/// Why no domain can be made from a spec. All need a change of the spec or the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// No vCPUs.
    #[error("could not make a domain: sockets, cores and threads must all be at least 1")]
    NoCpu,
    /// Too many vCPUs for the q35 machine.
    #[error("could not make a domain: {count} vCPUs are more than the {max} that its machine type has room for")]
    TooManyCpus {
        /// Asked for.
        count: u64,
        /// The limit.
        max: u32,
    },
    /// Memory below what firmware needs.
    #[error("could not make a domain: {kib} KiB of memory are less than 1 MiB")]
    NoMemory {
        /// Asked for.
        kib: u64,
    },
    /// Room for memory that is none.
    #[error(
        "could not make a domain: room for {most_kib} KiB of memory must be at least the guest's {kib} KiB, and both \
         whole blocks of 2048 KiB"
    )]
    MemoryRoom {
        /// What the guest starts with.
        kib: u64,
        /// The room.
        most_kib: u64,
    },
    /// Memory in huge pages that is to grow.
    #[error("could not make a domain: memory in huge pages cannot grow while the guest runs")]
    HugePagesGrow,
    /// Processors that the guest cannot be placed on.
    #[error("could not make a domain")]
    Pins(#[from] PinError),
    /// Memory that cannot be spread over the node's NUMA nodes.
    #[error(
        "could not make a domain: {kib} KiB of memory cannot be spread over {nodes} NUMA nodes in huge pages, of which the \
         guest must have some"
    )]
    NodeMemory {
        /// What the guest has.
        kib: u64,
        /// How many nodes its processors are on.
        nodes: u64,
    },
    /// Two disks, NICs or other devices with one name.
    #[error("could not make a domain: the device name {name} is used twice")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// The name of a shared file system that does not fit into its device.
    #[error(
        "could not make a domain: {name} is longer than the {max} bytes that the name of a shared file system may have"
    )]
    ShareName {
        /// The name.
        name: String,
        /// The limit.
        max: usize,
    },
    /// Two devices with one place in the boot order.
    #[error("could not make a domain: boot order {order} is given twice")]
    BootOrderTwice {
        /// The place.
        order: u32,
    },
    /// Two devices with one place on the guest's PCI bus.
    #[error("could not make a domain: the PCI address {address} is given twice")]
    PciAddressTwice {
        /// The address.
        address: String,
    },
    /// Two NICs with one ACPI index.
    #[error("could not make a domain: the ACPI index {index} is given twice")]
    AcpiIndexTwice {
        /// The index.
        index: u32,
    },
    /// One writable image twice in a guest.
    #[error("could not make a domain: the image {image} is used by two of its disks")]
    ImageTwice {
        /// `pool/image`.
        image: String,
    },
    /// An RBD disk without a monitor.
    #[error("could not make a domain: no ceph monitor is known for disk {disk}")]
    NoMonitors {
        /// Name of the disk.
        disk: String,
    },
    /// A feature that QEMU's translator does not have.
    #[error("could not make a domain: {feature} needs KVM, and this node has none")]
    NeedsKvm {
        /// The feature's path in the spec.
        feature: &'static str,
    },
    /// The serialiser failed.
    #[error("could not write the domain's XML: {message}")]
    Serialise {
        /// Its words.
        message: String,
    },
}

/// q35 in QEMU 10 has APIC ids for this many without an IOMMU.
const MAX_VCPUS: u32 = 255;
const MIN_MEMORY_KIB: u64 = 1024;

impl DomainSpec {
    /// Checks everything that can be told without the host.
    ///
    /// # Errors
    /// The first thing wrong, in the order of the spec.
    pub fn validate(&self, facts: &HostFacts) -> Result<(), DomainError> {
        self.validate_cpu_and_memory()?;
        self.validate_devices()?;
        devices::validate(self)?;
        if facts.virtualization == Virtualization::Tcg && self.features.hyperv_passthrough {
            return Err(DomainError::NeedsKvm { feature: "spec.domain.features.hypervPassthrough" });
        }
        if facts.virtualization == Virtualization::Tcg && self.features.hyperv.is_some() {
            return Err(DomainError::NeedsKvm { feature: "spec.domain.features.hyperv" });
        }
        Ok(())
    }

    fn validate_cpu_and_memory(&self) -> Result<(), DomainError> {
        let cpu = &self.cpu;
        if cpu.sockets == 0 || cpu.cores == 0 || cpu.threads == 0 {
            return Err(DomainError::NoCpu);
        }
        let count = [cpu.max_sockets.max(cpu.sockets), cpu.cores, cpu.threads]
            .into_iter()
            .map(u64::from)
            .fold(1, u64::saturating_mul);
        if count > u64::from(MAX_VCPUS) {
            return Err(DomainError::TooManyCpus { count, max: MAX_VCPUS });
        }
        if self.memory_kib < MIN_MEMORY_KIB {
            return Err(DomainError::NoMemory { kib: self.memory_kib });
        }
        memory::validate(self)?;
        pinning::validate(self)
    }

    fn validate_devices(&self) -> Result<(), DomainError> {
        // A disk and a NIC may share a name; two of a kind may not.
        unique(self.disks.iter().map(|disk| &disk.name))?;
        unique(self.nics.iter().map(|nic| &nic.name))?;
        let mut orders = HashSet::new();
        let disks = self.disks.iter().filter_map(|disk| disk.boot_order);
        for order in disks.chain(self.nics.iter().filter_map(|nic| nic.boot_order)) {
            if !orders.insert(order) {
                return Err(DomainError::BootOrderTwice { order });
            }
        }
        self.validate_images()
    }

    fn validate_images(&self) -> Result<(), DomainError> {
        let mut images = HashSet::new();
        if let Firmware::Efi { nvram: Some(rbd), .. } = &self.firmware {
            if rbd.monitors.is_empty() {
                return Err(DomainError::NoMonitors { disk: "nvram".to_owned() });
            }
            images.insert(format!("{}/{}", rbd.pool, rbd.image));
        }
        for disk in &self.disks {
            let DiskSource::Rbd(rbd) = &disk.source else { continue };
            if rbd.monitors.is_empty() {
                return Err(DomainError::NoMonitors { disk: disk.name.clone() });
            }
            let image = format!("{}/{}", rbd.pool, rbd.image);
            if !images.insert(image.clone()) {
                return Err(DomainError::ImageTwice { image });
            }
        }
        Ok(())
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), DomainError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DomainError::NameTwice { name: name.clone() });
        }
    }
    Ok(())
}
