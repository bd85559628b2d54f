//! Devices and tuning that few guests ask for. What QEMU or libvirt would refuse, or leave aside without a word, is
//! refused here, with the field.

use std::collections::HashMap;

use furrow_api::vmi::{Disk, DiskBus, DomainSpec, DriverCache, DriverIo, FeatureState, IoThreadsPolicy};
use furrow_model::domain::{BlockSizeSpec, PANIC_MODELS, PciAddress, SOUND_MODELS, VIDEO_MODELS};

use crate::admission::causes::Causes;

/// `base`: where `spec` stands in its object.
pub(super) fn check(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let base = format!("{base}.domain");
    models(&format!("{base}.devices"), domain, causes);
    io_threads(&base, domain, causes);
    features(&format!("{base}.features"), domain, causes);
    places(&format!("{base}.devices"), domain, causes);
    for (index, disk) in domain.devices.disks.iter().enumerate() {
        self::disk(&format!("{base}.devices.disks[{index}]"), disk, causes);
    }
}

fn models(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let devices = &domain.devices;
    let mut known = |field: String, model: Option<&str>, models: &[&str]| {
        if let Some(model) = model.filter(|model| !model.is_empty() && !models.contains(model)) {
            causes.unsupported(field, format!("{model} is none of {}", models.join(", ")));
        }
    };
    let video = devices.video.as_ref();
    known(format!("{base}.video.type"), video.and_then(|video| video.type_.as_deref()), &VIDEO_MODELS);
    let sound = devices.sound.as_ref();
    known(format!("{base}.sound.model"), sound.and_then(|sound| sound.model.as_deref()), &SOUND_MODELS);
    for (index, device) in devices.panic_devices.iter().enumerate() {
        known(format!("{base}.panicDevices[{index}].model"), device.model.as_deref(), &PANIC_MODELS);
    }
    if video.is_some() && devices.autoattach_graphics_device == Some(false) {
        causes.invalid(format!("{base}.video"), "a guest without autoattachGraphicsDevice has no graphics adapter");
    }
    if sound.is_some_and(|sound| sound.name.is_empty()) {
        causes.required(format!("{base}.sound.name"), "must not be empty");
    }
    if devices.log_serial_console == Some(true) && devices.autoattach_serial_console == Some(false) {
        causes
            .invalid(format!("{base}.logSerialConsole"), "a guest without autoattachSerialConsole says nothing there");
    }
}

fn io_threads(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let pool = domain.io_threads_policy == Some(IoThreadsPolicy::SupplementalPool);
    let count = domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
    let field = format!("{base}.ioThreads.supplementalPoolThreadCount");
    match (pool, count) {
        (true, Some(count)) if count > 0 => {}
        (true, _) => causes.required(field, "the policy supplementalPool needs a number of threads above 0"),
        (false, Some(_)) => causes.invalid(field, "only the policy supplementalPool has a pool"),
        (false, None) => {}
    }
}

fn features(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let Some(features) = &domain.features else { return };
    let on = |state: &FeatureState| state.enabled != Some(false);
    if features.hyperv.is_some() && features.hyperv_passthrough.as_ref().is_some_and(on) {
        causes.invalid(format!("{base}.hypervPassthrough"), "hyperv and hypervPassthrough exclude each other");
    }
    let id = features.hyperv.as_ref().and_then(|hyperv| hyperv.vendorid.as_ref()?.vendorid.as_deref());
    // libvirt hands it to QEMU in a list that commas divide.
    if id.is_some_and(|id| id.len() > 12 || id.contains(',')) {
        causes.invalid(format!("{base}.hyperv.vendorid.vendorid"), "must have at most 12 characters and no comma");
    }
    if features.apic.as_ref().is_some_and(|apic| apic.enabled == Some(false) && apic.end_of_interrupt) {
        causes.invalid(format!("{base}.apic.endOfInterrupt"), "a guest without an APIC has no end of interrupt");
    }
}

/// Places on the guest's buses: one device each.
fn places(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let devices = &domain.devices;
    let disks = devices.disks.iter().enumerate().filter_map(|(index, disk)| {
        Some((format!("{base}.disks[{index}].disk.pciAddress"), disk.disk.as_ref()?.pci_address.as_deref()?))
    });
    let interfaces = devices.interfaces.iter().enumerate();
    let nics = interfaces.clone().filter_map(|(index, nic)| {
        Some((format!("{base}.interfaces[{index}].pciAddress"), nic.pci_address.as_deref()?))
    });
    let mut seen = HashMap::new();
    for (field, text) in disks.chain(nics).filter(|(_, text)| !text.is_empty()) {
        match text.parse::<PciAddress>() {
            Err(error) => causes.invalid(field, error),
            Ok(address) => {
                if let Some(first) = seen.insert(address, field.clone()) {
                    causes.duplicate(field, format!("{address} is already that of {first}"));
                }
            }
        }
    }
    let mut seen = HashMap::new();
    for (index, number) in interfaces.filter_map(|(index, nic)| Some((index, nic.acpi_index?))) {
        let field = format!("{base}.interfaces[{index}].acpiIndex");
        if !(1..=16_383).contains(&number) {
            causes.invalid(field, format!("must be between 1 and 16383, is {number}"));
        } else if let Some(first) = seen.insert(number, index) {
            causes.duplicate(field, format!("{number} is already that of {base}.interfaces[{first}]"));
        }
    }
}

fn disk(field: &str, disk: &Disk, causes: &mut Causes) {
    let virtio = disk.disk.as_ref().is_some_and(|target| target.bus == Some(DiskBus::Virtio));
    if disk.dedicated_i_o_thread == Some(true) && !virtio {
        let bus = disk.disk.as_ref().and_then(|target| target.bus.as_ref()).map_or("sata", DiskBus::as_str);
        causes.unsupported(
            format!("{field}.dedicatedIOThread"),
            format!("IOThreads are not supported for disks on a {bus} bus"),
        );
    }
    if disk.disk.as_ref().is_some_and(|target| target.pci_address.is_some()) && !virtio {
        causes.invalid(format!("{field}.disk.pciAddress"), "only a disk on the virtio bus has a PCI address");
    }
    if let Some(sizes) = &disk.block_size {
        let matching = sizes.match_volume.as_ref().is_some_and(|state| state.enabled != Some(false));
        if sizes.custom.is_some() && matching {
            causes.invalid(format!("{field}.blockSize"), "custom and matchVolume exclude each other");
        }
        if let Some(custom) = &sizes.custom {
            let (logical, physical) = (custom.logical.unwrap_or_default(), custom.physical.unwrap_or_default());
            if let Err(error) = BlockSizeSpec::new(logical.into(), physical.into()) {
                causes.invalid(format!("{field}.blockSize.custom"), error);
            }
        }
    }
    let cached = disk.cache.as_ref().is_some_and(|c| !matches!(c, DriverCache::None | DriverCache::Directsync));
    if cached && disk.io == Some(DriverIo::Native) {
        causes.invalid(format!("{field}.io"), "native needs the cache mode none or directsync");
    }
    if disk.shareable == Some(true) && disk.cache.as_ref().is_some_and(|cache| *cache != DriverCache::None) {
        causes.invalid(format!("{field}.cache"), "a disk that several guests write has the cache mode none");
    }
}
