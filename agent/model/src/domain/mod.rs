//! From a guest's resolved spec and a node's facts to libvirt's domain XML: typed, one configurator a concern, never
//! parsed back. Owns the mapping and its golden files (`golden/*.xml`, rewritten with `BLESS=1`). Refuses I/O: images,
//! taps and paths come chosen.

mod configure;
mod devices;
mod disks;
mod document;
mod io_threads;
mod memory;
mod pinning;
mod shares;
mod spec;
#[cfg(test)]
mod tests;
mod usb;

pub use configure::{
    CONSOLE_LOG, CONSOLE_SOCKET, DISPLAY_SOCKET, HOST_METRICS_SOCKET, METADATA_NAMESPACE, nvram_template,
};
pub use devices::{
    BlockSizeError, BlockSizeSpec, DeviceSpec, DiskTuning, NicPlace, PANIC_MODELS, PciAddress, PciAddressError,
    SOUND_MODELS, SoundSpec, TpmSpec, VIDEO_MODELS,
};
pub use disks::{ALIAS_PREFIX, free_target, render_disk, target_names};
pub use io_threads::IoThreadPolicy;
pub use memory::{MEMORY_ALIAS, MEMORY_BLOCK_KIB};
pub use pinning::{DEDICATED_PARTITION, PinningSpec};
pub use shares::TAG_MAX_BYTES;
pub use spec::{
    ClockOffset, ClockSpec, CpuModelSpec, CpuSpec, DiskBus, DiskDevice, DiskSource, DiskSpec, DomainError, DomainSpec,
    Extras, FeatureSpec, Firmware, HostFacts, HypervSpec, InputSpec, KernelSpec, NicSpec, Owner, RbdSource, TimerName,
    TimerSpec, Virtualization, WatchdogAction, WatchdogSpec,
};
pub use usb::{USB_REDIRECTIONS, usb_redirection_socket};

/// Writes the domain XML of a guest.
///
/// # Errors
/// When the spec contradicts itself or asks for what the node does not have.
pub fn render(spec: &DomainSpec, facts: &HostFacts) -> Result<String, DomainError> {
    spec.validate(facts)?;
    let domain = configure::configure(spec, facts);
    let mut xml = String::new();
    let mut serializer = quick_xml::se::Serializer::new(&mut xml);
    serializer.indent(' ', 2);
    serde::Serialize::serialize(&domain, serializer)
        .map_err(|error| DomainError::Serialise { message: error.to_string() })?;
    xml.push('\n');
    Ok(xml)
}
