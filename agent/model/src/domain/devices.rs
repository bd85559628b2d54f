//! Devices and tuning that a guest gets only when it asks: their types, the rules that need no host, and their
//! configurator. Owns KubeVirt's conventions for them (one 16 MiB head a screen, a TIS for a TPM that forgets). Refuses passthrough:
//! nothing here names a device of the node.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::document::{
    Address, Alias, Domain, Entries, NamedEntry, Panic, Sound, Tpm, TpmBackend, TpmEncryption, TpmSource, Video,
    VideoModel,
};
use super::shares;
use super::spec::{DomainError, DomainSpec, HostFacts};
use crate::tpm::STATE_DIR;

/// Memory of a screen of the adapters that have a choice, KiB (KubeVirt's).
const VIDEO_KIB: u32 = 16_384;

/// Graphics adapters that QEMU has on x86-64; KubeVirt's list.
pub const VIDEO_MODELS: [&str; 5] = ["bochs", "cirrus", "ramfb", "vga", "virtio"];
/// Sound cards; KubeVirt's list.
pub const SOUND_MODELS: [&str; 2] = ["ac97", "ich9"];
/// Devices by which a guest reports its crash; KubeVirt's list.
pub const PANIC_MODELS: [&str; 3] = ["hyperv", "isa", "pvpanic"];

/// What a guest asks for beyond disks, NICs and inputs. The default is nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Model of the graphics adapter; `vga` unless given. Of no effect without a display.
    pub video: Option<String>,
    /// A sound card.
    pub sound: Option<SoundSpec>,
    /// Models of panic devices.
    pub panic: Vec<String>,
    /// A TPM 2.0.
    pub tpm: Option<TpmSpec>,
    /// A port by which the guest asks for metrics of the host.
    pub host_metrics: bool,
    /// Ports by which clients lend it their USB devices, [`super::USB_REDIRECTIONS`] of them.
    pub usb_redirection: bool,
    /// Names of the volumes that are shown as file systems: the tags by which the guest mounts them.
    pub shares: Vec<String>,
    /// Entries of the SMBIOS chassis, by libvirt's names.
    pub chassis: Vec<(&'static str, String)>,
}

/// What becomes of a TPM's state when the guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmSpec {
    /// It is gone.
    Forgets,
    /// It is kept.
    Keeps {
        /// libvirt's secret that has the key which it is encrypted with.
        secret: Uuid,
    },
}

/// A sound card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoundSpec {
    /// Name in the spec; the device's alias is `ua-<name>`.
    pub name: String,
    /// Model, one of [`SOUND_MODELS`].
    pub model: String,
}

/// A place on a PCI bus of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    slot: u8,
    function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a PCI address such as 0000:81:01.0")]
pub struct PciAddressError(String);

impl FromStr for PciAddress {
    type Err = PciAddressError;

    /// `dddd:bb:ss.f`, all hexadecimal; a bus has 32 slots of 8 functions.
    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let refuse = || PciAddressError(text.to_owned());
        let [domain, bus, rest]: [&str; 3] = text.split(':').collect::<Vec<_>>().try_into().map_err(|_| refuse())?;
        let (slot, function) = rest.split_once('.').ok_or_else(refuse)?;
        let number = |digits: &str, length: usize| {
            let hexadecimal = digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            hexadecimal.then(|| u16::from_str_radix(digits, 16).ok()).flatten().ok_or_else(refuse)
        };
        let byte = |digits: &str, length: usize, most: u16| {
            let found = number(digits, length)?;
            u8::try_from(found).ok().filter(|_| found <= most).ok_or_else(refuse)
        };
        Ok(Self {
            domain: number(domain, 4)?,
            bus: byte(bus, 2, 0xff)?,
            slot: byte(slot, 2, 0x1f)?,
            function: byte(function, 1, 7)?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, slot, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}

impl PciAddress {
    pub(super) fn element(self) -> Address {
        Address {
            kind: "pci",
            domain: format!("{:#06x}", self.domain),
            bus: format!("{:#04x}", self.bus),
            slot: format!("{:#04x}", self.slot),
            function: format!("{:#03x}", self.function),
        }
    }
}

/// What can be said of a disk beyond what every disk says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskTuning {
    /// Place on the guest's PCI bus; virtio only.
    pub pci_address: Option<PciAddress>,
    /// Block sizes that the guest sees; QEMU's own unless given.
    pub block_size: Option<BlockSizeSpec>,
    /// The tray of a CD-ROM drive is open.
    pub tray_open: bool,
    /// An I/O thread of its own; virtio only.
    pub dedicated_io_thread: bool,
}

/// Block sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizeSpec {
    /// The smallest that can be addressed.
    pub logical: u32,
    /// The smallest that can be written without reading.
    pub physical: u32,
}

/// Why two block sizes are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockSizeError {
    /// QEMU takes powers of two.
    #[error("block sizes must be powers of 2 between 512 and 2097152, and {0} is not")]
    NotAPower(i64),
    /// The smaller unit is the logical one.
    #[error("the logical block size {logical} must not be larger than the physical one, {physical}")]
    Order {
        /// Bytes.
        logical: u32,
        /// Bytes.
        physical: u32,
    },
}

impl BlockSizeSpec {
    /// What a volume has: RBD reads and writes in units of 512 bytes, and QEMU's driver reports none larger.
    pub const VOLUME: Self = Self { logical: 512, physical: 512 };

    /// Takes sizes as they were asked for, in bytes.
    ///
    /// # Errors
    /// When QEMU would refuse them.
    pub fn new(logical: i64, physical: i64) -> Result<Self, BlockSizeError> {
        let size = |bytes: i64| {
            let found = u32::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two());
            found.filter(|bytes| (512..=2_097_152).contains(bytes)).ok_or(BlockSizeError::NotAPower(bytes))
        };
        let (logical, physical) = (size(logical)?, size(physical)?);
        if logical > physical {
            return Err(BlockSizeError::Order { logical, physical });
        }
        Ok(Self { logical, physical })
    }
}

/// Where a NIC is found by the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicPlace {
    /// Place on the guest's PCI bus.
    pub pci_address: Option<PciAddress>,
    /// ACPI index: systemd names the NIC `eno<index>`.
    pub acpi_index: Option<u32>,
}

pub(super) fn validate(spec: &DomainSpec) -> Result<(), DomainError> {
    shares::validate(spec)?;
    let mut places = HashSet::new();
    let disks = spec.disks.iter().filter_map(|disk| disk.tuning.pci_address);
    for place in disks.chain(spec.nics.iter().filter_map(|nic| nic.place.pci_address)) {
        if !places.insert(place) {
            return Err(DomainError::PciAddressTwice { address: place.to_string() });
        }
    }
    let mut indices = HashSet::new();
    for index in spec.nics.iter().filter_map(|nic| nic.place.acpi_index) {
        if !indices.insert(index) {
            return Err(DomainError::AcpiIndexTwice { index });
        }
    }
    Ok(())
}

pub(super) fn configure(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let asked = &spec.devices;
    domain.devices.sounds = asked
        .sound
        .iter()
        .map(|sound| Sound { model: sound.model.clone(), alias: Alias { name: format!("ua-{}", sound.name) } })
        .collect();
    domain.devices.panics = asked.panic.iter().map(|model| Panic { model: model.clone() }).collect();
    domain.devices.tpm = asked.tpm.map(|asked| tpm(asked, facts));
    if let Some(sysinfo) = domain.sysinfo.as_mut().filter(|_| !asked.chassis.is_empty()) {
        let entries = asked.chassis.iter().map(|(name, value)| NamedEntry { name, value: value.clone() });
        sysinfo.chassis = Some(Entries { entries: entries.collect() });
    }
}

/// One that keeps its state has it in a directory of the guest's own, and not where libvirt would by the domain's UUID: the
/// next guest of a machine has the same, and two machines may ask for the same. libvirt never deletes it
/// (`persistent_state`): that is for whoever has written it to its image. The models are KubeVirt's.
fn tpm(asked: TpmSpec, facts: &HostFacts) -> Tpm {
    let (kind, version) = ("emulator", "2.0");
    match asked {
        TpmSpec::Forgets => {
            let backend = TpmBackend { kind, version, persistent_state: None, encryption: None, source: None };
            Tpm { model: "tpm-tis", backend }
        }
        TpmSpec::Keeps { secret } => {
            let path = facts.tpm_dir.join(STATE_DIR).display().to_string();
            let backend = TpmBackend {
                kind,
                version,
                persistent_state: Some("yes"),
                encryption: Some(TpmEncryption { secret: secret.to_string() }),
                source: Some(TpmSource { kind: "dir", path }),
            };
            Tpm { model: "tpm-crb", backend }
        }
    }
}

/// The graphics adapter. Only some models have memory of their own to size.
pub(super) fn video(model: Option<&str>) -> Video {
    let kind = model.unwrap_or("vga").to_owned();
    let vram = matches!(kind.as_str(), "vga" | "cirrus").then_some(VIDEO_KIB);
    let heads = (kind != "ramfb").then_some(1);
    Video { model: VideoModel { kind, vram, heads } }
}
