//! `spec.domain.devices`: everything that is plugged into the virtual machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{features::FeatureState, networks::Interface};
use crate::{
    meta::{Empty, is_false},
    open_enum::open_enum,
};

/// Devices of the virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Legacy virtio 0.9 beside 1.0, for guests of about 2011.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_virtio_transitional: Option<bool>,
    /// No disks may be plugged in while running.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disable_hotplug: bool,
    /// Disks, CD-ROMs and LUNs, in the order the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub disks: Vec<Disk>,
    /// Watchdog device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Watchdog>,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub interfaces: Vec<Interface>,
    /// Tablets and keyboards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Whether a VM without interfaces gets one on the default network; absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_pod_interface: Option<bool>,
    /// Whether there is a screen; absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_graphics_device: Option<bool>,
    /// Whether there is a serial console; absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_serial_console: Option<bool>,
    /// Whether the serial console is kept in a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_serial_console: Option<bool>,
    /// Whether there is a memory balloon; absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_mem_balloon: Option<bool>,
    /// Whether there is a tablet; absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoattach_input_device: Option<bool>,
    /// Whether there is a VSOCK device; absent: false.
    #[serde(rename = "autoattachVSOCK", default, skip_serializing_if = "Option::is_none")]
    pub autoattach_vsock: Option<bool>,
    /// Random numbers from the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rng: Option<Empty>,
    /// One queue a vCPU for each virtio disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_multi_queue: Option<bool>,
    /// One queue a vCPU for each virtio interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_interface_multiqueue: Option<bool>,
    /// GPUs passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Host metrics over a virtio serial port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downward_metrics: Option<Empty>,
    /// Devices by which a guest reports its own crash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub panic_devices: Vec<PanicDevice>,
    /// Shared file systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<Filesystem>,
    /// Host devices passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_devices: Vec<HostDevice>,
    /// USB redirection from a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_passthrough: Option<Empty>,
    /// Sound card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<SoundDevice>,
    /// Trusted Platform Module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// Graphics adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoDevice>,
}

open_enum! {
    /// The bus a disk is plugged into.
    listed enum DiskBus {
        /// Paravirtual; the usual choice.
        Virtio = "virtio",
        /// AHCI.
        Sata = "sata",
        /// virtio-scsi.
        Scsi = "scsi",
        /// USB mass storage.
        Usb = "usb",
    }
}

open_enum! {
    /// QEMU's cache mode of a disk.
    listed enum DriverCache {
        /// No host cache; the guest's flushes are honoured.
        None = "none",
        /// Host cache, written through.
        Writethrough = "writethrough",
        /// Host cache, written back at the guest's flushes.
        Writeback = "writeback",
        /// No host cache, every write is flushed.
        Directsync = "directsync",
    }
}

open_enum! {
    /// QEMU's I/O mode of a disk.
    listed enum DriverIo {
        /// Kernel asynchronous I/O.
        Native = "native",
        /// A pool of threads.
        Threads = "threads",
        /// Whatever QEMU takes by itself.
        Default = "default",
    }
}

open_enum! {
    /// What the guest sees of an I/O error.
    listed enum DiskErrorPolicy {
        /// The guest is paused; the default.
        Stop = "stop",
        /// The error is dropped.
        Ignore = "ignore",
        /// The guest gets the error.
        Report = "report",
        /// Paused when the storage is full, reported otherwise.
        Enospace = "enospace",
    }
}

open_enum! {
    /// Tray of a CD-ROM drive.
    listed enum TrayState {
        /// Closed; the default.
        Closed = "closed",
        /// Open.
        Open = "open",
    }
}

/// A disk, CD-ROM or LUN. At most one of `disk`, `lun` and `cdrom`; none means `disk`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Name of the volume it shows.
    pub name: String,
    /// As a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTarget>,
    /// As a SCSI LUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<LunTarget>,
    /// As a CD-ROM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<CdromTarget>,
    /// Lower boots first; unique over disks and interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub boot_order: Option<i32>,
    /// Serial number that the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub serial: Option<String>,
    /// An I/O thread of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedicated_i_o_thread: Option<bool>,
    /// Cache mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DriverCache>,
    /// I/O mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<DriverIo>,
    /// Tag handed to the guest in config drive metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Block sizes that the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<BlockSize>,
    /// Several virtual machines may write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shareable: Option<bool>,
    /// What the guest sees of an I/O error; absent: `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_policy: Option<DiskErrorPolicy>,
    /// Tracks changed blocks for backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_block_tracking: Option<bool>,
}

/// As a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// Absent: the machine's usual bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<DiskBus>,
    /// The guest may not write.
    #[serde(default, skip_serializing_if = "is_false")]
    pub readonly: bool,
    /// PCI address in the guest, for instance `0000:81:01.10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
}

/// As a SCSI LUN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LunTarget {
    /// Absent: the machine's usual bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<DiskBus>,
    /// The guest may not write.
    #[serde(default, skip_serializing_if = "is_false")]
    pub readonly: bool,
    /// SCSI persistent reservations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reservation: bool,
}

/// As a CD-ROM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdromTarget {
    /// Absent: the machine's usual bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<DiskBus>,
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// Absent: closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tray: Option<TrayState>,
}

/// Block sizes that the guest sees; at most one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockSize {
    /// Given sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomBlockSize>,
    /// The sizes of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_volume: Option<FeatureState>,
}

/// Given block sizes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomBlockSize {
    /// Logical block size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 2097152))]
    pub logical: Option<i32>,
    /// Physical block size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 2097152))]
    pub physical: Option<i32>,
    /// Discard granularity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub discard_granularity: Option<i32>,
}

open_enum! {
    /// What a triggered watchdog does.
    listed enum WatchdogAction {
        /// Resets the guest; the default.
        Reset = "reset",
        /// Cuts the power.
        Poweroff = "poweroff",
        /// Asks the guest to shut down.
        Shutdown = "shutdown",
    }
}

/// A named watchdog; none of the two means i6300esb.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Watchdog {
    /// Name of the device.
    pub name: String,
    /// Intel 6300ESB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub i6300esb: Option<WatchdogDevice>,
    /// s390x.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diag288: Option<WatchdogDevice>,
}

/// A watchdog's action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WatchdogDevice {
    /// Absent: `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<WatchdogAction>,
}

open_enum! {
    /// Bus of an input device.
    listed enum InputBus {
        /// USB; the default.
        Usb = "usb",
        /// virtio.
        Virtio = "virtio",
    }
}

open_enum! {
    /// Kind of an input device.
    listed enum InputType {
        /// Absolute pointer.
        Tablet = "tablet",
        /// Keyboard.
        Keyboard = "keyboard",
    }
}

/// An input device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Name of the device.
    pub name: String,
    /// Tablet or keyboard.
    #[serde(rename = "type")]
    pub type_: InputType,
    /// Absent: `usb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<InputBus>,
}

/// A GPU passed through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Name of the device.
    pub name: String,
    /// Resource name of the device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Entry of `spec.resourceClaims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
    /// Request in that claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_name: Option<String>,
    /// Options of a virtual GPU.
    #[serde(rename = "virtualGPUOptions", default, skip_serializing_if = "Option::is_none")]
    pub virtual_gpu_options: Option<VgpuOptions>,
    /// Tag handed to the guest in config drive metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Options of a virtual GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VgpuOptions {
    /// Display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<VgpuDisplayOptions>,
}

/// Display of a virtual GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VgpuDisplayOptions {
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Boot framebuffer.
    #[serde(rename = "ramFB", default, skip_serializing_if = "Option::is_none")]
    pub ram_fb: Option<FeatureState>,
}

/// A host device passed through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDevice {
    /// Name of the device.
    pub name: String,
    /// Resource name of the device plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Entry of `spec.resourceClaims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
    /// Request in that claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_name: Option<String>,
    /// Tag handed to the guest in config drive metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// A device by which a guest reports its own crash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PanicDevice {
    /// `isa`, `hyperv` or `pvpanic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A shared file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filesystem {
    /// Name of the volume it shows.
    pub name: String,
    /// By virtiofs.
    pub virtiofs: Empty,
}

/// A sound card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SoundDevice {
    /// Name of the device.
    pub name: String,
    /// `ich9` (default) or `ac97`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A Trusted Platform Module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tpm {
    /// Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Keeps its state over stop and start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
}

/// A graphics adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VideoDevice {
    /// `virtio`, `vga`, `bochs`, `ramfb`, ...; absent: by firmware and architecture.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
}
