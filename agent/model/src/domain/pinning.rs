//! A domain with processors of its own: `<cputune>`, `<numatune>`, the node's NUMA nodes as the guest's, real time, and
//! the resource group that keeps it apart. Owns these elements; where a value is KubeVirt's convention its converter
//! (`pkg/virt-launcher/virtwrap/converter/vcpu`) is the source. Which processor runs what is `crate::cpus`'s.
//!
//! Ordinary domains are in `machine.slice`, whose processors the agent narrows to those that are left; a child of it could
//! never have others. So these domains are in a group of their own. Refuses to give a vCPU of QEMU's translator one
//! processor: libvirt knows no thread of it, and would refuse the domain; the guest as a whole stays on its processors.

use serde::Serialize;

use super::document::{Domain, Empty, Hugepages, KvmFeatures, Page, Switch};
use super::io_threads::{self, IoThreadPolicy};
use super::memory::{Cell, Numa};
use super::spec::{CpuModelSpec, DomainError, DomainSpec, HostFacts, Virtualization};
use crate::cpus::{CpuNeed, CpuSet, HostTopology, PinWish, Pins, VcpuMask, choose};

/// The resource group of domains with processors of their own; systemd's name of it is `dedicated.slice`.
pub const DEDICATED_PARTITION: &str = "/dedicated";

/// Priority of vCPUs in real time, of 1 to 99: KubeVirt's.
const REALTIME_PRIORITY: u32 = 1;

/// Processors that a guest has to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinningSpec {
    /// Which.
    pub assigned: CpuSet,
    /// The node that they are on.
    pub topology: HostTopology,
    /// The emulator has one of them to itself.
    pub isolate_emulator: bool,
    /// It has two where that makes the number even (`crate::cpus::PARITY_ANNOTATION`).
    pub even: bool,
    /// The guest sees the NUMA nodes that they are on, and has its memory there.
    pub map_nodes: bool,
    /// vCPUs that run in real time.
    pub realtime: Option<VcpuMask>,
}

/// `<resource>`.
#[derive(Debug, Serialize)]
pub(super) struct ResourceGroup {
    partition: &'static str,
}

/// `<cputune>`.
#[derive(Debug, Serialize)]
pub(super) struct CpuTune {
    #[serde(rename = "vcpupin")]
    vcpus: Vec<VcpuPin>,
    #[serde(rename = "emulatorpin")]
    emulator: EmulatorPin,
    #[serde(rename = "iothreadpin")]
    io_threads: Vec<IoThreadPin>,
    #[serde(rename = "vcpusched", skip_serializing_if = "Option::is_none")]
    scheduler: Option<VcpuScheduler>,
}

#[derive(Debug, Serialize)]
struct VcpuPin {
    #[serde(rename = "@vcpu")]
    vcpu: u32,
    #[serde(rename = "@cpuset")]
    cpuset: String,
}

#[derive(Debug, Serialize)]
struct EmulatorPin {
    #[serde(rename = "@cpuset")]
    cpuset: String,
}

#[derive(Debug, Serialize)]
struct IoThreadPin {
    #[serde(rename = "@iothread")]
    thread: u32,
    #[serde(rename = "@cpuset")]
    cpuset: String,
}

#[derive(Debug, Serialize)]
struct VcpuScheduler {
    #[serde(rename = "@vcpus")]
    vcpus: String,
    #[serde(rename = "@scheduler")]
    scheduler: &'static str,
    #[serde(rename = "@priority")]
    priority: u32,
}

/// `<numatune>`.
#[derive(Debug, Serialize)]
pub(super) struct NumaTune {
    memory: NodeMemory,
    #[serde(rename = "memnode")]
    nodes: Vec<MemoryNode>,
}

#[derive(Debug, Serialize)]
struct NodeMemory {
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(rename = "@nodeset")]
    nodeset: String,
}

#[derive(Debug, Serialize)]
struct MemoryNode {
    #[serde(rename = "@cellid")]
    cell: u32,
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(rename = "@nodeset")]
    nodeset: u32,
}

/// `<allocation>` of `<memoryBacking>`.
#[derive(Debug, Serialize)]
pub(super) struct Allocation {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

/// A NUMA node of the guest.
#[derive(Debug, PartialEq, Eq)]
struct GuestNode {
    /// The node's own.
    host: u32,
    vcpus: CpuSet,
    memory_kib: u64,
}

/// Places the guest.
fn pins(spec: &DomainSpec, pinning: &PinningSpec) -> Result<Pins, DomainError> {
    let (io_threads, _) = io_threads::assign(spec.io_threads, &spec.disks, spec.cpu.count());
    let pool_threads = if let IoThreadPolicy::Pool(count) = spec.io_threads { count } else { 0 };
    let need = CpuNeed {
        vcpus: spec.cpu.count(),
        pool_threads,
        isolate_emulator: pinning.isolate_emulator,
        even: pinning.even,
    };
    let wish = PinWish {
        cores: spec.cpu.sockets * spec.cpu.cores,
        threads: spec.cpu.threads,
        io_threads,
        need,
        within_nodes: pinning.map_nodes,
    };
    Ok(choose(wish, &pinning.assigned, &pinning.topology)?)
}

/// The NUMA nodes of a guest by where its vCPUs are, in the order of the node's own. Memory is shared out in whole huge
/// pages; those that are left over go to the first nodes.
fn guest_nodes(spec: &DomainSpec, pinning: &PinningSpec, pins: &Pins) -> Result<Vec<GuestNode>, DomainError> {
    let on = |vcpu: usize| pins.vcpus.get(vcpu).and_then(|cpu| pinning.topology.cell_of(*cpu));
    let vcpus = || 0..pins.vcpus.len();
    let hosts: std::collections::BTreeSet<u32> = vcpus().filter_map(on).collect();
    let nodes = hosts.len() as u64;
    let unspreadable = || DomainError::NodeMemory { kib: spec.memory_kib, nodes };
    let page_kib = spec.hugepage_kib.filter(|kib| *kib > 0).ok_or_else(unspreadable)?;
    let pages = spec.memory_kib / page_kib;
    if nodes == 0 || pages < nodes || !spec.memory_kib.is_multiple_of(page_kib) {
        return Err(unspreadable());
    }
    let node = |(place, host): (u64, u32)| GuestNode {
        host,
        vcpus: vcpus().filter(|vcpu| on(*vcpu) == Some(host)).filter_map(|vcpu| u32::try_from(vcpu).ok()).collect(),
        memory_kib: (pages / nodes + u64::from(place < pages % nodes)) * page_kib,
    };
    Ok((0..).zip(hosts).map(node).collect())
}

/// Checks that the guest fits on its processors.
pub(super) fn validate(spec: &DomainSpec) -> Result<(), DomainError> {
    let Some(pinning) = &spec.pinning else { return Ok(()) };
    let pins = pins(spec, pinning)?;
    if pinning.map_nodes {
        guest_nodes(spec, pinning, &pins)?;
    }
    Ok(())
}

/// Everything that follows from processors of its own. Last of all: it changes what others have made.
pub(super) fn configure(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let Some(pinning) = &spec.pinning else { return };
    // What cannot be placed was refused by `validate`.
    let Ok(pins) = pins(spec, pinning) else { return };
    domain.resource = Some(ResourceGroup { partition: DEDICATED_PARTITION });
    if let Some(vcpu) = &mut domain.vcpu {
        // Also for threads that come later, such as those that write disks.
        vcpu.cpuset = Some(pinning.assigned.to_string());
    }
    domain.cputune = Some(cpu_tune(pinning, &pins, facts.virtualization));
    if facts.virtualization == Virtualization::Kvm && spec.cpu.model == CpuModelSpec::HostPassthrough {
        // The guest's kernel then spins where it would yield. libvirt takes it with this model only.
        let features = domain.features.get_or_insert_default();
        let kvm = features.kvm.get_or_insert(KvmFeatures { hidden: None, hint_dedicated: None });
        kvm.hint_dedicated = Some(Switch::new(true));
    }
    if pinning.map_nodes
        && let Ok(nodes) = guest_nodes(spec, pinning, &pins)
    {
        map_nodes(spec, &nodes, domain);
    }
    if pinning.realtime.is_some() {
        domain.features.get_or_insert_default().pmu = Some(Switch::new(false));
        let backing = domain.memory_backing.get_or_insert_default();
        // A page that is looked for on a disk, or shared and to be copied, is a pause without an end.
        backing.nosharepages = Some(Empty {});
        backing.locked = Some(Empty {});
    }
}

fn cpu_tune(pinning: &PinningSpec, pins: &Pins, virtualization: Virtualization) -> CpuTune {
    let kvm = virtualization == Virtualization::Kvm;
    let count = u32::try_from(pins.vcpus.len()).unwrap_or(u32::MAX);
    let vcpus = (0..count).zip(&pins.vcpus).filter(|_| kvm);
    let realtime = pinning.realtime.as_ref().filter(|_| kvm).map(|mask| CpuSet::from_iter(mask.within(count)));
    let io_threads = (1..).zip(&pins.io_threads);
    CpuTune {
        vcpus: vcpus.map(|(vcpu, cpu)| VcpuPin { vcpu, cpuset: cpu.to_string() }).collect(),
        emulator: EmulatorPin { cpuset: if kvm { &pins.emulator } else { &pinning.assigned }.to_string() },
        io_threads: io_threads.map(|(thread, cpus)| IoThreadPin { thread, cpuset: cpus.to_string() }).collect(),
        scheduler: realtime.filter(|vcpus| !vcpus.is_empty()).map(|vcpus| VcpuScheduler {
            vcpus: vcpus.to_string(),
            scheduler: "fifo",
            priority: REALTIME_PRIORITY,
        }),
    }
}

fn map_nodes(spec: &DomainSpec, nodes: &[GuestNode], domain: &mut Domain) {
    let numbered = || (0_u32..).zip(nodes);
    let cell =
        |(id, node): (u32, &GuestNode)| Cell { id, cpus: node.vcpus.to_string(), memory: node.memory_kib, unit: "KiB" };
    if let Some(cpu) = &mut domain.cpu {
        cpu.numa = Some(Numa { cells: numbered().map(cell).collect() });
    }
    let mode = "strict";
    domain.numatune = Some(NumaTune {
        memory: NodeMemory { mode, nodeset: nodes.iter().map(|node| node.host).collect::<CpuSet>().to_string() },
        nodes: numbered().map(|(cell, node)| MemoryNode { cell, mode, nodeset: node.host }).collect(),
    });
    let size = spec.hugepage_kib.unwrap_or_default();
    let page = |(id, _): (u32, &GuestNode)| Page { size, unit: "KiB", nodeset: Some(id.to_string()) };
    let backing = domain.memory_backing.get_or_insert_default();
    backing.hugepages = Some(Hugepages { pages: numbered().map(page).collect() });
    // Now, while the pages are there: later the guest would be killed for one.
    backing.allocation = Some(Allocation { mode: "immediate" });
}
