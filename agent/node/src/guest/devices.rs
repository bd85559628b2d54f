//! Conversion of devices and tuning that few guests ask for: I/O threads, video, sound, TPM, panic devices, chassis,
//! block sizes, places on the guest's buses. Split from `super::convert`, which owns the rules; decides nothing that
//! `furrow_model::domain` can decide.

use furrow_api::vmi::{self, Chassis, Disk, Interface, IoThreadsPolicy};
use furrow_model::domain::{
    BlockSizeSpec, DeviceSpec, DiskTuning, IoThreadPolicy, NicPlace, PciAddress, SoundSpec, TpmSpec,
};

use furrow_model::dhcp_options::{Asked, DhcpOptions};
use furrow_model::tpm::secret_uuid;

use super::convert::ConvertError;

/// Model of a sound card when the guest names none (KubeVirt's default).
const SOUND_MODEL: &str = "ich9";
/// Model of a panic device when the guest names none (KubeVirt's default).
const PANIC_MODEL: &str = "isa";

/// `guest`: its UID.
pub(super) fn devices(spec: &vmi::DomainSpec, guest: &str) -> DeviceSpec {
    let devices = &spec.devices;
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    DeviceSpec {
        video: devices.video.as_ref().and_then(|video| text(&video.type_)),
        sound: devices.sound.as_ref().map(|sound| SoundSpec {
            name: sound.name.clone(),
            model: text(&sound.model).unwrap_or_else(|| SOUND_MODEL.to_owned()),
        }),
        panic: devices
            .panic_devices
            .iter()
            .map(|device| text(&device.model).unwrap_or_else(|| PANIC_MODEL.to_owned()))
            .collect(),
        tpm: spec
            .has_tpm()
            .then(|| if spec.keeps_tpm() { TpmSpec::Keeps { secret: secret_uuid(guest) } } else { TpmSpec::Forgets }),
        host_metrics: devices.downward_metrics.is_some(),
        usb_redirection: devices.client_passthrough.is_some(),
        shares: devices.filesystems.iter().map(|filesystem| filesystem.name.clone()).collect(),
        chassis: spec.chassis.as_ref().map(chassis).unwrap_or_default(),
    }
}

fn chassis(chassis: &Chassis) -> Vec<(&'static str, String)> {
    let entries = [
        ("manufacturer", &chassis.manufacturer),
        ("version", &chassis.version),
        ("serial", &chassis.serial),
        ("asset", &chassis.asset),
        ("sku", &chassis.sku),
    ];
    let given = entries.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
    given.filter(|(_, value)| !value.is_empty()).collect()
}

pub(super) fn io_threads(spec: &vmi::DomainSpec) -> Result<IoThreadPolicy, ConvertError> {
    let count = spec.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
    Ok(match &spec.io_threads_policy {
        None => IoThreadPolicy::None,
        Some(IoThreadsPolicy::Shared) => IoThreadPolicy::Shared,
        Some(IoThreadsPolicy::Auto) => IoThreadPolicy::Auto,
        Some(IoThreadsPolicy::SupplementalPool) => {
            let path = "domain.ioThreads.supplementalPoolThreadCount";
            let count = count.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
            IoThreadPolicy::Pool(count.ok_or(ConvertError::Count { path })?)
        }
        Some(IoThreadsPolicy::Other(word)) => {
            return Err(ConvertError::Unsupported { path: format!("spec.domain.ioThreadsPolicy {word}") });
        }
    })
}

pub(super) fn tuning(disk: &Disk) -> Result<DiskTuning, ConvertError> {
    let field = |part: &str| format!("spec.domain.devices.disks[{}].{part}", disk.name);
    Ok(DiskTuning {
        pci_address: pci_address(disk.disk.as_ref().and_then(|target| target.pci_address.as_deref()), || {
            field("disk.pciAddress")
        })?,
        block_size: block_size(disk, || field("blockSize"))?,
        tray_open: disk.cdrom.as_ref().is_some_and(|cdrom| cdrom.tray == Some(vmi::TrayState::Open)),
        dedicated_io_thread: disk.dedicated_i_o_thread == Some(true),
    })
}

fn block_size(disk: &Disk, field: impl Fn() -> String) -> Result<Option<BlockSizeSpec>, ConvertError> {
    let Some(sizes) = &disk.block_size else { return Ok(None) };
    if let Some(custom) = &sizes.custom {
        let (logical, physical) = (custom.logical.unwrap_or_default(), custom.physical.unwrap_or_default());
        let found = BlockSizeSpec::new(logical.into(), physical.into());
        return found.map(Some).map_err(|error| ConvertError::Value { path: field(), message: error.to_string() });
    }
    let matches = sizes.match_volume.as_ref().is_some_and(|state| state.enabled != Some(false));
    Ok(matches.then_some(BlockSizeSpec::VOLUME))
}

pub(super) fn place(interface: &Interface) -> Result<NicPlace, ConvertError> {
    let field = || format!("spec.domain.devices.interfaces[{}].pciAddress", interface.name);
    Ok(NicPlace {
        pci_address: pci_address(interface.pci_address.as_deref(), field)?,
        acpi_index: interface.acpi_index.and_then(|index| u32::try_from(index).ok()),
    })
}

pub(super) fn dhcp_options(interface: &Interface) -> Result<Option<DhcpOptions>, ConvertError> {
    let Some(options) = &interface.dhcp_options else { return Ok(None) };
    let asked = Asked {
        boot_file: options.boot_file_name.as_deref().filter(|text| !text.is_empty()),
        tftp_server: options.tftp_server_name.as_deref().filter(|text| !text.is_empty()),
        ntp_servers: options.ntp_servers.iter().map(String::as_str).collect(),
        private: options.private_options.iter().map(|option| (option.option, option.value.as_str())).collect(),
    };
    let path = || format!("spec.domain.devices.interfaces[{}].dhcpOptions", interface.name);
    let found = DhcpOptions::parse(&asked);
    found.map(Some).map_err(|error| ConvertError::Value { path: path(), message: error.to_string() })
}

fn pci_address(text: Option<&str>, field: impl Fn() -> String) -> Result<Option<PciAddress>, ConvertError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let found = text.parse::<PciAddress>();
    found.map(Some).map_err(|error| ConvertError::Value { path: field(), message: error.to_string() })
}
