//! Memory that is plugged into a running domain: its virtio-mem device as libvirt shows it, and the change of what is asked
//! of it. Refuses to decide how much that is.

use serde::Deserialize;
use virt::sys;

use super::domain::{AGENT, lookup};
use super::live::Memory;
use super::{Libvirt, LibvirtError};

/// The operation, in errors.
const PLUG: &str = "plug memory into the domain";

/// libvirt's name of the device's model.
const MODEL: &str = "virtio-mem";

/// Memory of a domain that has room for more, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveMemory {
    /// What it started with.
    pub boot_kib: u64,
    /// What can be plugged in at most.
    pub size_kib: u64,
    /// It comes in blocks of this size.
    pub block_kib: u64,
    /// What is asked of the device.
    pub requested_kib: u64,
    /// What the guest has taken in.
    pub taken_kib: u64,
}

impl LiveMemory {
    /// What the guest has now. `told`: libvirt's word for it, which counts what is plugged in only in newer releases, and
    /// all that could be where there is no balloon.
    pub(super) fn current_kib(&self, told: Option<u64>) -> u64 {
        told.map_or(self.boot_kib, |told| told.min(self.boot_kib)).saturating_add(self.taken_kib)
    }
}

/// A `<memory>` among the devices.
#[derive(Deserialize)]
pub(super) struct Device {
    #[serde(rename = "@model")]
    model: String,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    size: Memory,
    block: Option<Memory>,
    requested: Option<Memory>,
    current: Option<Memory>,
}

impl Device {
    /// What it says, beside the memory of the whole domain.
    pub(super) fn read(self, whole_kib: Option<u64>) -> Option<LiveMemory> {
        let Self { model, target } = self;
        let kib = |amount: Option<Memory>| amount.and_then(Memory::kib);
        let size_kib = target.size.kib().filter(|_| model == MODEL)?;
        Some(LiveMemory {
            boot_kib: whole_kib?.checked_sub(size_kib)?,
            size_kib,
            block_kib: kib(target.block)?,
            requested_kib: kib(target.requested)?,
            taken_kib: kib(target.current).unwrap_or_default(),
        })
    }
}

/// The device's own element in a domain's document, with something else asked of it. libvirt takes such a change only with
/// all else as it wrote it, the address included.
fn with_request(document: &str, requested_kib: u64) -> Option<String> {
    let begin = document.find("<memory model='virtio-mem'")?;
    let device = &document[begin..];
    let device = &device[..device.find("</memory>")? + "</memory>".len()];
    let (before, rest) = device.split_once("<requested unit='KiB'>")?;
    let (_, after) = rest.split_once("</requested>")?;
    Some(format!("{before}<requested unit='KiB'>{requested_kib}</requested>{after}"))
}

impl Libvirt {
    /// Asks a running guest to take in so much memory through its device. It does that when it pleases; libvirt tells of each
    /// change.
    ///
    /// # Errors
    /// When the domain does not run, has no such device, or libvirt or QEMU refuse the amount.
    pub async fn plug_memory(&self, name: &str, requested_kib: u64) -> Result<(), LibvirtError> {
        let name = name.to_owned();
        self.call(PLUG, AGENT, move |connection| {
            let domain = lookup(connection, &name)?.ok_or(LibvirtError::NoDomain { operation: PLUG })?;
            let document = domain.xml_desc(0).map_err(|error| LibvirtError::from_virt(PLUG, &error))?;
            let device = with_request(&document, requested_kib).ok_or_else(|| LibvirtError::Refused {
                operation: PLUG,
                message: format!("it has no {MODEL} device"),
            })?;
            let asked = domain.update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE);
            asked.map_err(|error| LibvirtError::from_virt(PLUG, &error))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::live::read;
    use super::*;

    const DOCUMENT: &str = "<domain type='kvm'>
  <maxMemory slots='1' unit='KiB'>4194304</maxMemory>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>1572864</currentMemory>
  <devices>
    <memballoon model='virtio-non-transitional'/>
    <memory model='virtio-mem'>
      <target dynamicMemslots='no'>
        <size unit='KiB'>3145728</size>
        <node>0</node>
        <block unit='KiB'>2048</block>
        <requested unit='KiB'>1048576</requested>
        <current unit='KiB'>524288</current>
      </target>
      <alias name='ua-memory'/>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
    </memory>
  </devices>
</domain>";

    #[test]
    fn a_device_is_read_with_what_the_domain_started_with() {
        let live = read(DOCUMENT).expect("valid XML");
        let memory = LiveMemory {
            boot_kib: 1_048_576,
            size_kib: 3_145_728,
            block_kib: 2048,
            requested_kib: 1_048_576,
            taken_kib: 524_288,
        };
        assert_eq!((live.memory, live.current_memory_kib), (Some(memory), Some(1_572_864)));
        let others = DOCUMENT.replace("virtio-mem", "dimm");
        assert_eq!(read(&others).expect("valid XML").memory, None);
    }

    #[test]
    fn what_the_guest_has_does_not_depend_on_what_libvirt_counts() {
        let current = |told: u64| {
            let document = DOCUMENT.replace("unit='KiB'>1572864<", &format!("unit='KiB'>{told}<"));
            read(&document).expect("valid XML").current_memory_kib
        };
        for told in [1_048_576, 1_572_864, 4_194_304] {
            assert_eq!(current(told), Some(1_572_864), "{told}");
        }
        assert_eq!(current(524_288), Some(1_048_576), "a balloon holds half of what it started with");
    }

    #[test]
    fn only_the_request_is_changed() {
        let device = with_request(DOCUMENT, 2_097_152).expect("a device");
        assert!(device.starts_with("<memory model='virtio-mem'>") && device.ends_with("</memory>"), "{device}");
        assert!(device.contains("<requested unit='KiB'>2097152</requested>"), "{device}");
        for same in ["<size unit='KiB'>3145728</size>", "bus='0x05'", "<alias name='ua-memory'/>"] {
            assert!(device.contains(same), "{device}");
        }
        assert_eq!(with_request("<domain><memory unit='KiB'>1</memory></domain>", 1), None);
    }
}
