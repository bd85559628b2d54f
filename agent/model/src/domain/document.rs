//! The libvirt domain document as types, in the order in which libvirt's schema lists the elements
//! (<https://libvirt.org/formatdomain.html>). Owns the spelling of elements and attributes and nothing else: which of
//! them a guest gets is decided in `super::configure`. Refuses to be read back.

use serde::Serialize;

/// An element without content.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Empty {}

/// `<x state='on'/>`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Switch {
    #[serde(rename = "@state")]
    pub(super) state: &'static str,
}

impl Switch {
    pub(super) fn new(on: bool) -> Self {
        Self { state: if on { "on" } else { "off" } }
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename = "domain")]
pub(super) struct Domain {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Metadata>,
    #[serde(rename = "maxMemory", skip_serializing_if = "Option::is_none")]
    pub(super) max_memory: Option<super::memory::MaxMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Size>,
    #[serde(rename = "currentMemory", skip_serializing_if = "Option::is_none")]
    pub(super) current_memory: Option<Size>,
    #[serde(rename = "memoryBacking", skip_serializing_if = "Option::is_none")]
    pub(super) memory_backing: Option<MemoryBacking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vcpu: Option<Vcpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iothreads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cputune: Option<super::pinning::CpuTune>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) numatune: Option<super::pinning::NumaTune>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<super::pinning::ResourceGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sysinfo: Option<Sysinfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) os: Option<Os>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock: Option<Clock>,
    pub(super) on_poweroff: &'static str,
    pub(super) on_reboot: &'static str,
    pub(super) on_crash: &'static str,
    pub(super) devices: Devices,
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    #[serde(rename = "furrow:guest")]
    pub(super) guest: GuestMetadata,
}

#[derive(Debug, Serialize)]
pub(super) struct GuestMetadata {
    #[serde(rename = "@xmlns:furrow")]
    pub(super) xmlns: &'static str,
    #[serde(rename = "@namespace")]
    pub(super) namespace: String,
    #[serde(rename = "@name")]
    pub(super) name: String,
    #[serde(rename = "@uid")]
    pub(super) uid: String,
    #[serde(rename = "@generation")]
    pub(super) generation: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Size {
    #[serde(rename = "@unit")]
    pub(super) unit: &'static str,
    #[serde(rename = "$text")]
    pub(super) amount: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct MemoryBacking {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hugepages: Option<Hugepages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nosharepages: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) locked: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allocation: Option<super::pinning::Allocation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<super::memory::MemorySource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access: Option<super::shares::MemoryAccess>,
}

#[derive(Debug, Serialize)]
pub(super) struct Hugepages {
    #[serde(rename = "page")]
    pub(super) pages: Vec<Page>,
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    #[serde(rename = "@size")]
    pub(super) size: u64,
    #[serde(rename = "@unit")]
    pub(super) unit: &'static str,
    #[serde(rename = "@nodeset", skip_serializing_if = "Option::is_none")]
    pub(super) nodeset: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Vcpu {
    #[serde(rename = "@placement")]
    pub(super) placement: &'static str,
    #[serde(rename = "@cpuset", skip_serializing_if = "Option::is_none")]
    pub(super) cpuset: Option<String>,
    #[serde(rename = "@current", skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<u32>,
    #[serde(rename = "$text")]
    pub(super) count: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Sysinfo {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    pub(super) system: SysinfoSystem,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chassis: Option<Entries>,
}

#[derive(Debug, Serialize)]
pub(super) struct Entries {
    #[serde(rename = "entry")]
    pub(super) entries: Vec<NamedEntry>,
}

#[derive(Debug, Serialize)]
pub(super) struct NamedEntry {
    #[serde(rename = "@name")]
    pub(super) name: &'static str,
    #[serde(rename = "$text")]
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
pub(super) struct SysinfoSystem {
    #[serde(rename = "entry")]
    pub(super) entries: Vec<SysinfoEntry>,
}

#[derive(Debug, Serialize)]
pub(super) struct SysinfoEntry {
    #[serde(rename = "@name")]
    pub(super) name: &'static str,
    #[serde(rename = "$text")]
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Os {
    #[serde(rename = "type")]
    pub(super) kind: OsType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loader: Option<Loader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nvram: Option<Nvram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initrd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cmdline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bios: Option<Bios>,
    pub(super) smbios: Smbios,
}

#[derive(Debug, Serialize)]
pub(super) struct OsType {
    #[serde(rename = "@arch")]
    pub(super) arch: &'static str,
    #[serde(rename = "@machine")]
    pub(super) machine: String,
    #[serde(rename = "$text")]
    pub(super) kind: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Loader {
    #[serde(rename = "@readonly")]
    pub(super) readonly: &'static str,
    #[serde(rename = "@secure")]
    pub(super) secure: &'static str,
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "$text")]
    pub(super) path: String,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Nvram {
    /// A file that libvirt makes from the template.
    File(NvramFile),
    /// An image that has its content already.
    Image(NvramImage),
}

#[derive(Debug, Serialize)]
pub(super) struct NvramFile {
    #[serde(rename = "@template")]
    pub(super) template: String,
    #[serde(rename = "$text")]
    pub(super) path: String,
}

#[derive(Debug, Serialize)]
pub(super) struct NvramImage {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@format")]
    pub(super) format: &'static str,
    pub(super) source: super::disks::Source,
}

#[derive(Debug, Serialize)]
pub(super) struct Bios {
    #[serde(rename = "@useserial")]
    pub(super) useserial: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Smbios {
    #[serde(rename = "@mode")]
    pub(super) mode: &'static str,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Features {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acpi: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) apic: Option<Apic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pmu: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hyperv: Option<Hyperv>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kvm: Option<KvmFeatures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pvspinlock: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) smm: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tcg: Option<TcgFeatures>,
}

#[derive(Debug, Serialize)]
pub(super) struct TcgFeatures {
    #[serde(rename = "tb-cache")]
    pub(super) tb_cache: TbCache,
}

#[derive(Debug, Serialize)]
pub(super) struct TbCache {
    #[serde(rename = "@unit")]
    pub(super) unit: &'static str,
    #[serde(rename = "$text")]
    pub(super) size: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Apic {
    #[serde(rename = "@eoi", skip_serializing_if = "Option::is_none")]
    pub(super) eoi: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct KvmFeatures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hidden: Option<Switch>,
    #[serde(rename = "hint-dedicated", skip_serializing_if = "Option::is_none")]
    pub(super) hint_dedicated: Option<Switch>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Hyperv {
    #[serde(rename = "@mode")]
    pub(super) mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relaxed: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vapic: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spinlocks: Option<Spinlocks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vpindex: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) runtime: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) synic: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stimer: Option<Stimer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reset: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vendor_id: Option<VendorId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) frequencies: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reenlightenment: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tlbflush: Option<TlbFlush>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipi: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evmcs: Option<Switch>,
}

#[derive(Debug, Serialize)]
pub(super) struct VendorId {
    #[serde(rename = "@state")]
    pub(super) state: &'static str,
    #[serde(rename = "@value", skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct TlbFlush {
    #[serde(rename = "@state")]
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direct: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extended: Option<Switch>,
}

#[derive(Debug, Serialize)]
pub(super) struct Spinlocks {
    #[serde(rename = "@state")]
    pub(super) state: &'static str,
    #[serde(rename = "@retries")]
    pub(super) retries: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Stimer {
    #[serde(rename = "@state")]
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direct: Option<Switch>,
}

#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    #[serde(rename = "@mode")]
    pub(super) mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<CpuModel>,
    pub(super) topology: Topology,
    #[serde(rename = "feature")]
    pub(super) features: Vec<CpuFeature>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) numa: Option<super::memory::Numa>,
}

#[derive(Debug, Serialize)]
pub(super) struct CpuModel {
    #[serde(rename = "@fallback")]
    pub(super) fallback: &'static str,
    #[serde(rename = "$text")]
    pub(super) name: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Topology {
    #[serde(rename = "@sockets")]
    pub(super) sockets: u32,
    #[serde(rename = "@dies")]
    pub(super) dies: u32,
    #[serde(rename = "@cores")]
    pub(super) cores: u32,
    #[serde(rename = "@threads")]
    pub(super) threads: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct CpuFeature {
    #[serde(rename = "@policy")]
    pub(super) policy: String,
    #[serde(rename = "@name")]
    pub(super) name: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Clock {
    #[serde(rename = "@offset")]
    pub(super) offset: &'static str,
    #[serde(rename = "@timezone", skip_serializing_if = "Option::is_none")]
    pub(super) timezone: Option<String>,
    #[serde(rename = "@adjustment", skip_serializing_if = "Option::is_none")]
    pub(super) adjustment: Option<String>,
    #[serde(rename = "timer")]
    pub(super) timers: Vec<Timer>,
}

#[derive(Debug, Serialize)]
pub(super) struct Timer {
    #[serde(rename = "@name")]
    pub(super) name: &'static str,
    #[serde(rename = "@tickpolicy", skip_serializing_if = "Option::is_none")]
    pub(super) tickpolicy: Option<String>,
    #[serde(rename = "@track", skip_serializing_if = "Option::is_none")]
    pub(super) track: Option<String>,
    #[serde(rename = "@present", skip_serializing_if = "Option::is_none")]
    pub(super) present: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Devices {
    pub(super) emulator: String,
    #[serde(rename = "disk")]
    pub(super) disks: Vec<super::disks::Disk>,
    #[serde(rename = "controller")]
    pub(super) controllers: Vec<Controller>,
    #[serde(rename = "filesystem")]
    pub(super) filesystems: Vec<super::shares::Filesystem>,
    #[serde(rename = "interface")]
    pub(super) interfaces: Vec<Interface>,
    #[serde(rename = "serial")]
    pub(super) serials: Vec<Serial>,
    #[serde(rename = "channel")]
    pub(super) channels: Vec<Channel>,
    #[serde(rename = "input")]
    pub(super) inputs: Vec<Input>,
    #[serde(rename = "redirdev")]
    pub(super) redirections: Vec<super::usb::Redirection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) graphics: Option<Graphics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) video: Option<Video>,
    #[serde(rename = "sound")]
    pub(super) sounds: Vec<Sound>,
    #[serde(rename = "panic")]
    pub(super) panics: Vec<Panic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tpm: Option<Tpm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) watchdog: Option<Watchdog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memballoon: Option<Memballoon>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rng: Option<Rng>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<super::memory::MemoryDevice>,
}

#[derive(Debug, Serialize)]
pub(super) struct Controller {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@index")]
    pub(super) index: u32,
    #[serde(rename = "@model", skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Alias {
    #[serde(rename = "@name")]
    pub(super) name: String,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Boot {
    #[serde(rename = "@order")]
    pub(super) order: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Interface {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    pub(super) mac: MacAddress,
    pub(super) target: InterfaceTarget,
    pub(super) model: Model,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) driver: Option<InterfaceDriver>,
    pub(super) mtu: Mtu,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Boot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rom: Option<Rom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acpi: Option<AcpiIndex>,
    pub(super) alias: Alias,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<Address>,
}

#[derive(Debug, Serialize)]
pub(super) struct AcpiIndex {
    #[serde(rename = "@index")]
    pub(super) index: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Address {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@domain")]
    pub(super) domain: String,
    #[serde(rename = "@bus")]
    pub(super) bus: String,
    #[serde(rename = "@slot")]
    pub(super) slot: String,
    #[serde(rename = "@function")]
    pub(super) function: String,
}

#[derive(Debug, Serialize)]
pub(super) struct MacAddress {
    #[serde(rename = "@address")]
    pub(super) address: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InterfaceTarget {
    #[serde(rename = "@dev")]
    pub(super) dev: String,
    #[serde(rename = "@managed")]
    pub(super) managed: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Model {
    #[serde(rename = "@type")]
    pub(super) kind: String,
}

#[derive(Debug, Serialize)]
pub(super) struct InterfaceDriver {
    #[serde(rename = "@queues")]
    pub(super) queues: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Mtu {
    #[serde(rename = "@size")]
    pub(super) size: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Rom {
    #[serde(rename = "@enabled")]
    pub(super) enabled: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Serial {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    pub(super) source: SocketSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<Log>,
    pub(super) target: PortTarget,
    pub(super) alias: Alias,
}

#[derive(Debug, Serialize)]
pub(super) struct SocketSource {
    #[serde(rename = "@mode")]
    pub(super) mode: &'static str,
    #[serde(rename = "@path")]
    pub(super) path: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Log {
    #[serde(rename = "@file")]
    pub(super) file: String,
    #[serde(rename = "@append")]
    pub(super) append: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct PortTarget {
    #[serde(rename = "@port")]
    pub(super) port: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Channel {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<SocketSource>,
    pub(super) target: ChannelTarget,
}

#[derive(Debug, Serialize)]
pub(super) struct ChannelTarget {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@name")]
    pub(super) name: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Input {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@bus")]
    pub(super) bus: &'static str,
    #[serde(rename = "@model", skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<&'static str>,
    pub(super) alias: Alias,
}

#[derive(Debug, Serialize)]
pub(super) struct Graphics {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    pub(super) listen: Listen,
}

#[derive(Debug, Serialize)]
pub(super) struct Listen {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@socket")]
    pub(super) socket: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Video {
    pub(super) model: VideoModel,
}

#[derive(Debug, Serialize)]
pub(super) struct VideoModel {
    #[serde(rename = "@type")]
    pub(super) kind: String,
    #[serde(rename = "@vram", skip_serializing_if = "Option::is_none")]
    pub(super) vram: Option<u32>,
    #[serde(rename = "@heads", skip_serializing_if = "Option::is_none")]
    pub(super) heads: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sound {
    #[serde(rename = "@model")]
    pub(super) model: String,
    pub(super) alias: Alias,
}

#[derive(Debug, Serialize)]
pub(super) struct Panic {
    #[serde(rename = "@model")]
    pub(super) model: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Tpm {
    #[serde(rename = "@model")]
    pub(super) model: &'static str,
    pub(super) backend: TpmBackend,
}

#[derive(Debug, Serialize)]
pub(super) struct TpmBackend {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@version")]
    pub(super) version: &'static str,
    #[serde(rename = "@persistent_state", skip_serializing_if = "Option::is_none")]
    pub(super) persistent_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) encryption: Option<TpmEncryption>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<TpmSource>,
}

#[derive(Debug, Serialize)]
pub(super) struct TpmEncryption {
    #[serde(rename = "@secret")]
    pub(super) secret: String,
}

#[derive(Debug, Serialize)]
pub(super) struct TpmSource {
    #[serde(rename = "@type")]
    pub(super) kind: &'static str,
    #[serde(rename = "@path")]
    pub(super) path: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Watchdog {
    #[serde(rename = "@model")]
    pub(super) model: &'static str,
    #[serde(rename = "@action")]
    pub(super) action: &'static str,
    pub(super) alias: Alias,
}

#[derive(Debug, Serialize)]
pub(super) struct Memballoon {
    #[serde(rename = "@model")]
    pub(super) model: &'static str,
    #[serde(rename = "@freePageReporting", skip_serializing_if = "Option::is_none")]
    pub(super) free_page_reporting: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<Stats>,
}

#[derive(Debug, Serialize)]
pub(super) struct Stats {
    #[serde(rename = "@period")]
    pub(super) period: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Rng {
    #[serde(rename = "@model")]
    pub(super) model: &'static str,
    pub(super) backend: RngBackend,
}

#[derive(Debug, Serialize)]
pub(super) struct RngBackend {
    #[serde(rename = "@model")]
    pub(super) model: &'static str,
    #[serde(rename = "$text")]
    pub(super) device: &'static str,
}
