//! A narrow reader of live domain XML: whose domain it is, whether the guest agent is connected, which taps and images
//! it holds. Never reads a domain back into a specification: what libvirt added or dropped on the way would be lost.

use serde::Deserialize;

use super::LibvirtError;
use super::memory::{self, LiveMemory};

/// The XML namespace of Furrow's metadata element in a domain.
pub const METADATA_NAMESPACE: &str = "https://furrow.io/libvirt/1";

const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// Whose domain it is: Furrow's metadata element, `<furrow:guest namespace= name= uid= generation=/>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DomainOwner {
    /// Namespace of the VirtualMachineInstance.
    #[serde(rename = "@namespace")]
    pub namespace: String,
    /// Its name.
    #[serde(rename = "@name")]
    pub name: String,
    /// Its UID.
    #[serde(rename = "@uid")]
    pub uid: String,
    /// The generation of its spec that the domain was made from.
    #[serde(rename = "@generation")]
    pub generation: i64,
}

/// What the reader takes from a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) software: bool,
    pub(super) owner: Option<DomainOwner>,
    pub(super) agent_connected: bool,
    pub(super) taps: Vec<String>,
    pub(super) images: Vec<String>,
    pub(super) vcpus: Option<(u32, u32)>,
    pub(super) cpus: Option<String>,
    pub(super) current_memory_kib: Option<u64>,
    pub(super) memory: Option<LiveMemory>,
    pub(super) user: Option<u32>,
    pub(super) disks: Vec<LiveDisk>,
}

/// A disk of a running domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDisk {
    /// Its alias, as the document that made it had it.
    pub alias: String,
    /// Its device name, such as `sda`.
    pub target: String,
    /// The RBD image it writes to, as `pool/image`.
    pub image: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "@type")]
    kind: String,
    vcpu: Option<Vcpu>,
    memory: Option<Memory>,
    #[serde(rename = "currentMemory")]
    current_memory: Option<Memory>,
    #[serde(default, rename = "seclabel")]
    labels: Vec<SecurityLabel>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    os: Os,
    #[serde(default)]
    devices: Devices,
}

#[derive(Deserialize, Default)]
struct Os {
    nvram: Option<Nvram>,
}

/// A file by its text, an image by its source.
#[derive(Deserialize)]
struct Nvram {
    source: Option<DiskSource>,
}

/// How many there is room for; `current` is absent when the domain has them all.
#[derive(Deserialize)]
struct Vcpu {
    #[serde(rename = "@cpuset")]
    cpuset: Option<String>,
    #[serde(rename = "@current")]
    current: Option<u32>,
    #[serde(rename = "$text")]
    most: u32,
}

/// libvirt writes KiB, whatever it was given.
#[derive(Deserialize)]
pub(super) struct Memory {
    #[serde(rename = "@unit")]
    unit: Option<String>,
    #[serde(rename = "$text")]
    value: u64,
}

#[derive(Deserialize)]
struct SecurityLabel {
    #[serde(rename = "@model")]
    model: Option<String>,
    label: Option<String>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    // quick-xml's deserialiser matches local names; the prefix is checked by libvirt's own namespace handling.
    guest: Option<DomainOwner>,
}

#[derive(Deserialize, Default)]
struct Devices {
    #[serde(default, rename = "$value")]
    devices: Vec<Device>,
}

/// libvirt interleaves device kinds, so they are read as one list.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Device {
    Disk(Disk),
    Interface(Interface),
    Channel(Channel),
    Memory(memory::Device),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Disk {
    source: Option<DiskSource>,
    target: Option<InterfaceTarget>,
    alias: Option<DeviceAlias>,
    readonly: Option<Empty>,
}

#[derive(Deserialize)]
struct DeviceAlias {
    #[serde(rename = "@name")]
    name: String,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
struct DiskSource {
    #[serde(rename = "@protocol")]
    protocol: Option<String>,
    #[serde(rename = "@name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Interface {
    target: Option<InterfaceTarget>,
}

#[derive(Deserialize)]
struct InterfaceTarget {
    #[serde(rename = "@dev")]
    dev: Option<String>,
}

#[derive(Deserialize)]
struct Channel {
    target: Option<ChannelTarget>,
}

#[derive(Deserialize)]
struct ChannelTarget {
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@state")]
    state: Option<String>,
}

pub(super) fn read(xml: &str) -> Result<Live, LibvirtError> {
    let document: Document = quick_xml::de::from_str(xml)
        .map_err(|error| LibvirtError::Xml { what: "a domain", message: error.to_string() })?;
    let mut live = Live {
        software: document.kind == "qemu",
        owner: document.metadata.guest,
        agent_connected: false,
        taps: Vec::new(),
        images: document.os.nvram.and_then(|nvram| nvram.source?.image()).into_iter().collect(),
        vcpus: document.vcpu.as_ref().map(|vcpu| (vcpu.current.unwrap_or(vcpu.most), vcpu.most)),
        cpus: document.vcpu.and_then(|vcpu| vcpu.cpuset),
        current_memory_kib: document.current_memory.and_then(Memory::kib),
        memory: None,
        user: document.labels.iter().find_map(SecurityLabel::user),
        disks: Vec::new(),
    };
    let whole_kib = document.memory.and_then(Memory::kib);
    for device in document.devices.devices {
        match device {
            Device::Disk(disk) => {
                let image = disk.writable_image();
                live.images.extend(image.clone());
                live.disks.extend(disk.plugged(image));
            }
            Device::Interface(interface) => live.taps.extend(interface.target.and_then(|target| target.dev)),
            Device::Channel(channel) => live.agent_connected |= channel.is_connected_agent(),
            Device::Memory(device) => live.memory = live.memory.or(device.read(whole_kib)),
            Device::Other => {}
        }
    }
    if let Some(memory) = live.memory {
        live.current_memory_kib = Some(memory.current_kib(live.current_memory_kib));
    }
    Ok(live)
}

impl Disk {
    fn writable_image(&self) -> Option<String> {
        if self.readonly.is_some() { None } else { self.source.as_ref()?.image() }
    }

    fn plugged(self, image: Option<String>) -> Option<LiveDisk> {
        Some(LiveDisk { alias: self.alias?.name, target: self.target?.dev?, image })
    }
}

impl DiskSource {
    fn image(&self) -> Option<String> {
        self.name.clone().filter(|_| self.protocol.as_deref() == Some("rbd"))
    }
}

impl Memory {
    pub(super) fn kib(self) -> Option<u64> {
        matches!(self.unit.as_deref(), None | Some("KiB")).then_some(self.value)
    }
}

impl SecurityLabel {
    /// The user that QEMU runs as: libvirt writes `+uid:+gid` for its own choice.
    fn user(&self) -> Option<u32> {
        let label = self.label.as_deref().filter(|_| self.model.as_deref() == Some("dac"))?;
        label.split_once(':')?.0.strip_prefix('+')?.parse().ok()
    }
}

impl Channel {
    fn is_connected_agent(&self) -> bool {
        self.target.as_ref().is_some_and(|target| {
            target.name.as_deref() == Some(AGENT_CHANNEL) && target.state.as_deref() == Some("connected")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_owner_agent_taps_and_writable_images() {
        let live = read(
            "<domain type='qemu' id='3'><name>a_b</name><vcpu placement='static' cpuset='2-3' current='2'>8</vcpu>
               <currentMemory unit='KiB'>131072</currentMemory>
               <metadata><furrow:guest xmlns:furrow='https://furrow.io/libvirt/1' namespace='a' name='b' uid='u-1' generation='4'/></metadata>
               <devices>
                 <disk type='network' device='disk'><source protocol='rbd' name='volumes/x'><host name='m'/></source>
                   <target dev='sda' bus='scsi'/><alias name='ua-data'/></disk>
                 <disk type='network' device='disk'><source protocol='rbd' name='volumes/ro'/><readonly/></disk>
                 <controller type='pci'/>
                 <disk type='file' device='disk'><source file='/seed.iso'/><readonly/></disk>
                 <interface type='ethernet'><target dev='fw0123456789a' managed='no'/></interface>
                 <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
               </devices>
               <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel></domain>",
        )
        .expect("valid XML");
        let owner = DomainOwner { namespace: "a".into(), name: "b".into(), uid: "u-1".into(), generation: 4 };
        assert_eq!(
            live,
            Live {
                software: true,
                owner: Some(owner),
                agent_connected: true,
                taps: vec!["fw0123456789a".into()],
                images: vec!["volumes/x".into()],
                vcpus: Some((2, 8)),
                cpus: Some("2-3".into()),
                current_memory_kib: Some(131_072),
                memory: None,
                user: Some(64_055),
                disks: vec![LiveDisk {
                    alias: "ua-data".into(),
                    target: "sda".into(),
                    image: Some("volumes/x".into()),
                }],
            }
        );
    }

    #[test]
    fn the_image_of_a_flash_chip_is_written_to() {
        let images = |nvram: &str| {
            read(&format!("<domain type='kvm'><os><type>hvm</type><loader>/c</loader>{nvram}</os></domain>"))
                .expect("XML")
                .images
        };
        let image = "<nvram type='network' format='raw'><source protocol='rbd' name='volumes/n'><host name='m'/></source></nvram>";
        assert_eq!(images(image), ["volumes/n"]);
        assert_eq!(images("<nvram template='/t' format='raw'>/guests/u/nvram.fd</nvram>"), [""; 0]);
        assert_eq!(images("<nvram type='file'><source file='/n'/></nvram>"), [""; 0]);
    }

    #[test]
    fn a_foreign_domain_has_no_owner() {
        let live = read("<domain type='kvm'><name>x</name></domain>").expect("valid XML");
        assert_eq!(live.owner, None);
        assert!(!live.agent_connected);
    }
}
