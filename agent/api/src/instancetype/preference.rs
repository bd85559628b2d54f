//! Preferences: what a virtual machine gets where it says nothing itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    meta::Empty,
    open_enum::open_enum,
    vmi::{
        BlockSize, ClockUtc, CpuFeature, DiskBus, DriverCache, DriverIo, Efi, FeatureApic, FeatureHyperv, FeatureKvm,
        FeatureState, InputBus, InputType, Timer, Tpm, VgpuOptions,
    },
};

open_enum! {
    /// What vCPUs look like to the guest. The words that begin with `prefer` are deprecated upstream and mean the same.
    listed enum PreferredCpuTopology {
        /// A socket each; the default.
        Sockets = "sockets",
        /// Cores of one socket.
        Cores = "cores",
        /// Threads of one core.
        Threads = "threads",
        /// Spread as `spreadOptions` say.
        Spread = "spread",
        /// As the virtual machine says; sockets with an instancetype.
        Any = "any",
        /// [`Self::Sockets`].
        PreferSockets = "preferSockets",
        /// [`Self::Cores`].
        PreferCores = "preferCores",
        /// [`Self::Threads`].
        PreferThreads = "preferThreads",
        /// [`Self::Spread`].
        PreferSpread = "preferSpread",
        /// [`Self::Any`].
        PreferAny = "preferAny",
    }
}

open_enum! {
    /// What vCPUs are spread over.
    listed enum SpreadAcross {
        /// Sockets and cores; the default.
        SocketsCores = "SocketsCores",
        /// Sockets, cores, and two threads a core.
        SocketsCoresThreads = "SocketsCoresThreads",
        /// Cores, and two threads a core.
        CoresThreads = "CoresThreads",
    }
}

/// What virtual machines that refer to it get where they say nothing.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "instancetype.kubevirt.io",
    version = "v1beta1",
    kind = "VirtualMachinePreference",
    plural = "virtualmachinepreferences",
    namespaced
)]
#[kube(derive = "PartialEq", derive = "Default", category = "all", doc = "Devices that suit a guest's system.")]
#[kube(shortname = "vmpref", shortname = "vmprefs", shortname = "vmp", shortname = "vmps")]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePreferenceSpec {
    /// Clock and timers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockPreferences>,
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuPreferences>,
    /// Devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DevicePreferences>,
    /// ACPI, APIC, Hyper-V enlightenments and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturePreferences>,
    /// BIOS or UEFI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwarePreferences>,
    /// Chipset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePreferences>,
    /// Volumes that are made for the virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<VolumePreferences>,
    /// Subdomain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_subdomain: Option<String>,
    /// Seconds from the request to shut down to the power cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_termination_grace_period_seconds: Option<i64>,
    /// The least that the guest needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<PreferenceRequirements>,
    /// Annotations of the guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Cores a socket when vCPUs are spread; absent: 2. `cpu.spreadOptions.ratio` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4096))]
    pub prefer_spread_socket_to_core_ratio: Option<i32>,
    /// Architecture of the virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_architecture: Option<String>,
}

/// The same for all namespaces.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "instancetype.kubevirt.io",
    version = "v1beta1",
    kind = "VirtualMachineClusterPreference",
    plural = "virtualmachineclusterpreferences"
)]
#[kube(derive = "PartialEq", derive = "Default", doc = "Devices that suit a guest's system, for all namespaces.")]
#[kube(shortname = "vmcp", shortname = "vmcps")]
#[serde(transparent)]
pub struct VirtualMachineClusterPreferenceSpec(pub VirtualMachinePreferenceSpec);

/// Volumes that are made for the virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumePreferences {
    /// Storage class of DataVolume templates that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_storage_class_name: Option<String>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuPreferences {
    /// What vCPUs of an instancetype look like to the guest; absent: sockets.
    #[serde(rename = "preferredCPUTopology", default, skip_serializing_if = "Option::is_none")]
    pub preferred_cpu_topology: Option<PreferredCpuTopology>,
    /// How vCPUs are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_options: Option<SpreadOptions>,
    /// Processor features.
    #[serde(rename = "preferredCPUFeatures", default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_cpu_features: Vec<CpuFeature>,
}

/// How vCPUs are spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpreadOptions {
    /// Over what; absent: sockets and cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub across: Option<SpreadAcross>,
    /// Cores a socket, or threads a core with `CoresThreads`; absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub ratio: Option<i32>,
}

/// Devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePreferences {
    /// Whether there is a screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_autoattach_graphics_device: Option<bool>,
    /// Whether there is a memory balloon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_autoattach_mem_balloon: Option<bool>,
    /// Whether a guest without interfaces gets one on the default network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_autoattach_pod_interface: Option<bool>,
    /// Whether there is a serial console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_autoattach_serial_console: Option<bool>,
    /// Whether there is a tablet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_autoattach_input_device: Option<bool>,
    /// No disks may be plugged in while running. Goes before what the virtual machine says, which cannot say "may".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_disable_hotplug: Option<bool>,
    /// Options of a virtual GPU.
    #[serde(rename = "preferredVirtualGPUOptions", default, skip_serializing_if = "Option::is_none")]
    pub preferred_virtual_gpu_options: Option<VgpuOptions>,
    /// Model of a sound card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_sound_model: Option<String>,
    /// Legacy virtio 0.9 beside 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_use_virtio_transitional: Option<bool>,
    /// Bus of input devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_input_bus: Option<InputBus>,
    /// Kind of input devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_input_type: Option<InputType>,
    /// Bus of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_disk_bus: Option<DiskBus>,
    /// Bus of SCSI LUNs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_lun_bus: Option<DiskBus>,
    /// Bus of CD-ROMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_cdrom_bus: Option<DiskBus>,
    /// An I/O thread for each virtio disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_disk_dedicated_io_thread: Option<bool>,
    /// Cache mode of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_disk_cache: Option<DriverCache>,
    /// I/O mode of disks.
    #[serde(rename = "preferredDiskIO", default, skip_serializing_if = "Option::is_none")]
    pub preferred_disk_io: Option<DriverIo>,
    /// Block sizes of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_disk_block_size: Option<BlockSize>,
    /// Model of interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_interface_model: Option<String>,
    /// Random numbers from the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_rng: Option<Empty>,
    /// One queue a vCPU for each virtio disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_block_multi_queue: Option<bool>,
    /// One queue a vCPU for each virtio interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_network_interface_multi_queue: Option<bool>,
    /// Trusted Platform Module.
    #[serde(rename = "preferredTPM", default, skip_serializing_if = "Option::is_none")]
    pub preferred_tpm: Option<Tpm>,
    /// Masquerade for interfaces of the pod network that say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_interface_masquerade: Option<Empty>,
    /// Model of panic devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_panic_device_model: Option<String>,
    /// Graphics adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_video_type: Option<String>,
}

/// ACPI, APIC, Hyper-V enlightenments and the like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeaturePreferences {
    /// ACPI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_acpi: Option<FeatureState>,
    /// APIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_apic: Option<FeatureApic>,
    /// Hyper-V enlightenments, each where the virtual machine says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_hyperv: Option<FeatureHyperv>,
    /// How the guest sees KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_kvm: Option<FeatureKvm>,
    /// Paravirtual spinlocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_pvspinlock: Option<FeatureState>,
    /// System Management Mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_smm: Option<FeatureState>,
}

/// BIOS or UEFI, where the virtual machine names neither.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FirmwarePreferences {
    /// SeaBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_use_bios: Option<bool>,
    /// Sends the BIOS's screen to the serial port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_use_bios_serial: Option<bool>,
    /// Deprecated upstream: `preferredEfi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_use_efi: Option<bool>,
    /// Deprecated upstream: `preferredEfi.secureBoot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_use_secure_boot: Option<bool>,
    /// OVMF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_efi: Option<Efi>,
}

/// Chipset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachinePreferences {
    /// QEMU machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_machine_type: Option<String>,
}

/// Clock and timers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockPreferences {
    /// Offset, where the virtual machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_clock_offset: Option<ClockOffset>,
    /// Timers, where the virtual machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_timer: Option<Timer>,
}

/// What the guest's clock follows; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockOffset {
    /// Clock in UTC, set at each boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utc: Option<ClockUtc>,
    /// Clock in this zone, for instance `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// The least that a guest needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferenceRequirements {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirement>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryRequirement>,
    /// Architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// Processors that a guest needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuRequirement {
    /// vCPUs.
    #[schemars(range(min = 0, max = 4096))]
    pub guest: i32,
}

/// Memory that a guest needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryRequirement {
    /// What the guest sees.
    pub guest: Quantity,
}
