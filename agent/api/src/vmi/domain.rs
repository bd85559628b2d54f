//! `spec.domain` of a VirtualMachineInstance: what the virtual machine is made of, besides its devices.
//! Field names are those of kubevirt.io/v1 `schema.go`; which of them are realised is admission's affair, not this file's.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{devices::Devices, features::Features};
use crate::{
    meta::{Empty, is_false},
    open_enum::open_enum,
};

open_enum! {
    /// Who owns the threads that do a disk's input and output.
    listed enum IoThreadsPolicy {
        /// One thread for all disks without a dedicated one.
        Shared = "shared",
        /// A pool, spread over the disks.
        Auto = "auto",
        /// A pool of a given size, for all disks.
        SupplementalPool = "supplementalPool",
    }
}

open_enum! {
    /// What a reboot from inside the guest does.
    listed enum RebootPolicy {
        /// The guest reboots in place; the default.
        Reboot = "Reboot",
        /// The VMI ends and the run strategy decides what follows.
        Terminate = "Terminate",
    }
}

/// The virtual hardware of a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// Compute resources that the scheduler accounts.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Processor topology and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Guest memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Chipset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// BIOS or UEFI and what SMBIOS reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Clock offset and timers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// ACPI, APIC, Hyper-V enlightenments and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// Disks, interfaces and everything else that is plugged in.
    pub devices: Devices,
    /// Absent: no separate I/O threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_threads_policy: Option<IoThreadsPolicy>,
    /// Options of the `supplementalPool` policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_threads: Option<DiskIoThreads>,
    /// SMBIOS chassis information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chassis: Option<Chassis>,
    /// Confidential computing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_security: Option<LaunchSecurity>,
    /// What a reboot from inside the guest does; absent: it reboots in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_policy: Option<RebootPolicy>,
}

/// Requests and limits, keys `cpu` and `memory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRequirements {
    /// What the scheduler reserves. `memory` also sizes the guest when `domain.memory.guest` is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// The most that may be used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
    /// Leaves the hypervisor's own memory out of the request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub overcommit_guest_overhead: bool,
}

/// Processors of the guest. vCPUs = sockets x cores x threads, each at least 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Cores a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub cores: Option<i32>,
    /// Sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub sockets: Option<i32>,
    /// Ceiling for sockets plugged in while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_sockets: Option<i32>,
    /// Threads a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub threads: Option<i32>,
    /// `host-model`, `host-passthrough` or a model that libvirt knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Processor features to force, require, disable or forbid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<CpuFeature>,
    /// Pins each vCPU to a physical one of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dedicated_cpu_placement: bool,
    /// NUMA topology of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<Numa>,
    /// One more dedicated CPU for the emulator's threads.
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolate_emulator_thread: bool,
    /// Real-time scheduling of vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<Realtime>,
}

open_enum! {
    /// What a CPU feature's entry asks for.
    listed enum CpuFeaturePolicy {
        /// The guest must see it; a host without it is an error. The default.
        Require = "require",
        /// The guest sees it whatever the host has.
        Force = "force",
        /// The guest sees it where the host has it.
        Optional = "optional",
        /// The guest does not see it.
        Disable = "disable",
        /// A host that has it is an error.
        Forbid = "forbid",
    }
}

/// One processor feature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuFeature {
    /// Name as libvirt spells it, for instance `apic`.
    pub name: String,
    /// Absent: `require`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<CpuFeaturePolicy>,
}

/// NUMA topology.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Numa {
    /// Mirrors the NUMA nodes that the pinned CPUs lie on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mapping_passthrough: Option<Empty>,
}

/// Real-time scheduling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Realtime {
    /// vCPUs concerned, in libvirt's notation such as `0-3,^1`; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// Memory of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Backs guest memory by huge pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Hugepages>,
    /// What the guest sees; absent: `resources.requests.memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Quantity>,
    /// Ceiling for memory plugged in while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_guest: Option<Quantity>,
    /// Memory to account beside the guest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_overhead: Option<ReservedOverhead>,
}

/// Memory to account beside the guest's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservedOverhead {
    /// Added to the computed overhead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_overhead: Option<Quantity>,
}

/// Huge pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hugepages {
    /// `2Mi` or `1Gi` on x86-64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<String>,
}

/// Chipset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// QEMU machine type, for instance `q35` or `pc-q35-9.2`.
    #[serde(rename = "type", default)]
    pub type_: String,
}

/// Firmware of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// SMBIOS system UUID; absent: derived from the VM's name, so that it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// BIOS (default) or UEFI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootloader: Option<Bootloader>,
    /// SMBIOS system serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Boots a kernel directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_boot: Option<KernelBoot>,
    /// Extra ACPI tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acpi: Option<AcpiTables>,
}

/// At most one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bootloader {
    /// SeaBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<Bios>,
    /// OVMF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efi: Option<Efi>,
}

/// SeaBIOS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bios {
    /// Sends the BIOS's screen to the serial port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_serial: Option<bool>,
}

/// OVMF.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Efi {
    /// Absent: true. Needs SMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Keeps the UEFI variables over stop and start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
}

/// Direct kernel boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// Kernel command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// Image that carries kernel and initrd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<KernelBootContainer>,
}

/// Image that carries kernel and initrd.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBootContainer {
    /// Image reference.
    pub image: String,
    /// Secret for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<String>,
    /// `Always`, `Never` or `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Path of the kernel in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_path: Option<String>,
    /// Path of the initrd in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
}

/// Extra ACPI tables, each the name of a secret volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcpiTables {
    /// Volume with the SLIC table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slic_name_ref: Option<String>,
    /// Volume with the MSDM table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msdm_name_ref: Option<String>,
}

/// Clock of the guest; `utc` and `timezone` exclude each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clock {
    /// Clock in UTC, set at each boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utc: Option<ClockUtc>,
    /// Clock in this zone, for instance `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Timers to add or remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<Timer>,
}

/// Clock in UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockUtc {
    /// Offset to UTC; if given, what the guest sets is kept over reboots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_seconds: Option<i64>,
}

/// Timers of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timer {
    /// High Precision Event Timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hpet: Option<TickTimer>,
    /// KVM paravirtual clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<PresentTimer>,
    /// Programmable Interval Timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pit: Option<TickTimer>,
    /// Real Time Clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc: Option<RtcTimer>,
    /// Hyper-V reference time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyperv: Option<PresentTimer>,
}

open_enum! {
    /// What happens to ticks that QEMU could not deliver in time.
    listed enum TickPolicy {
        /// Deliver at the normal rate, late.
        Delay = "delay",
        /// Deliver faster until the guest has caught up.
        Catchup = "catchup",
        /// Merge the missed ticks into one; HPET only.
        Merge = "merge",
        /// Drop the missed ticks; HPET and PIT.
        Discard = "discard",
    }
}

open_enum! {
    /// What the real time clock follows.
    listed enum RtcTrack {
        /// The guest's time.
        Guest = "guest",
        /// The host's time.
        Wall = "wall",
    }
}

/// A timer with a tick policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TickTimer {
    /// Missed ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick_policy: Option<TickPolicy>,
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// The real time clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RtcTimer {
    /// Missed ticks: `delay` or `catchup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick_policy: Option<TickPolicy>,
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// What the clock follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<RtcTrack>,
}

/// A timer that is there or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresentTimer {
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// Options of the `supplementalPool` policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskIoThreads {
    /// Threads in the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub supplemental_pool_thread_count: Option<i32>,
}

/// SMBIOS chassis information.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chassis {
    /// Manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Asset tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// Stock keeping unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
}

/// Confidential computing; at most one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSecurity {
    /// AMD SEV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev: Option<Sev>,
    /// AMD SEV-SNP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SevSnp>,
    /// Intel TDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<Empty>,
}

/// AMD SEV.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sev {
    /// Guest policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<SevPolicy>,
    /// Waits for attestation before the guest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Empty>,
    /// Session blob, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The guest owner's Diffie-Hellman key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dh_cert: Option<String>,
}

/// SEV guest policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SevPolicy {
    /// Asks for SEV-ES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_state: Option<bool>,
}

/// AMD SEV-SNP flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SevSnp {
    /// Guest policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Versioned chip endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcek: Option<String>,
    /// Author key enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key: Option<String>,
    /// Kernel hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_hashes: Option<String>,
    /// Position of the C-bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cbitpos: Option<String>,
    /// ID block, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_block: Option<String>,
    /// ID authentication, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_auth: Option<String>,
    /// Physical address bits lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduced_phys_bits: Option<String>,
}
