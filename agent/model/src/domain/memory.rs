//! A domain's memory: what the guest starts with, and the virtio-mem device through which the rest of its room arrives
//! while it runs. Owns these elements and their rules.
//!
//! ```text
//!  <maxMemory>  the whole room         <numa><cell>  what the guest starts with: libvirt wants a cell to plug into
//!  <memory>     both devices' sizes    <memory model="virtio-mem">  the rest, of which 0 is requested at the start
//! ```
//!
//! The device is there from the start, where KubeVirt adds it at the first change: a guest has no free slot for one. A guest
//! without the driver keeps what it started with. Refuses to resize anything: that is a step of the guest's plan.

use serde::Serialize;

use super::document::{Alias, Domain, Hugepages, MemoryBacking, Page, Size};
use super::spec::{DomainError, DomainSpec};

/// Alias of the device that memory is plugged in by.
pub const MEMORY_ALIAS: &str = "ua-memory";

/// Memory is plugged in blocks of this size, KiB: a transparent huge page, as QEMU recommends.
pub const MEMORY_BLOCK_KIB: u64 = 2048;

/// `<source>` of `<memoryBacking>`.
#[derive(Debug, Serialize)]
pub(super) struct MemorySource {
    #[serde(rename = "@type")]
    kind: &'static str,
}

impl MemorySource {
    /// A file without a name: huge pages of any size without a file system of theirs, and memory that another process can map.
    pub(super) const MEMFD: MemorySource = MemorySource { kind: "memfd" };
}

/// `<maxMemory>`.
#[derive(Debug, Serialize)]
pub(super) struct MaxMemory {
    #[serde(rename = "@slots")]
    slots: u32,
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    amount: u64,
}

/// `<numa>` of `<cpu>`.
#[derive(Debug, Serialize)]
pub(super) struct Numa {
    #[serde(rename = "cell")]
    pub(super) cells: Vec<Cell>,
}

/// `<cell>` of `<numa>`.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    #[serde(rename = "@id")]
    pub(super) id: u32,
    #[serde(rename = "@cpus")]
    pub(super) cpus: String,
    #[serde(rename = "@memory")]
    pub(super) memory: u64,
    #[serde(rename = "@unit")]
    pub(super) unit: &'static str,
}

/// `<memory>` of `<devices>`.
#[derive(Debug, Serialize)]
pub(super) struct MemoryDevice {
    #[serde(rename = "@model")]
    model: &'static str,
    target: Target,
    alias: Alias,
}

#[derive(Debug, Serialize)]
struct Target {
    size: Size,
    node: u32,
    block: Size,
    requested: Size,
}

fn kib(amount: u64) -> Size {
    Size { unit: "KiB", amount }
}

impl DomainSpec {
    /// Memory that can be plugged in, KiB.
    fn pluggable_kib(&self) -> u64 {
        self.max_memory_kib.map_or(0, |most| most.saturating_sub(self.memory_kib))
    }
}

/// Checks the room against what the guest starts with.
pub(super) fn validate(spec: &DomainSpec) -> Result<(), DomainError> {
    let Some(most_kib) = spec.max_memory_kib else { return Ok(()) };
    let whole = [spec.memory_kib, most_kib].into_iter().all(|kib| kib.is_multiple_of(MEMORY_BLOCK_KIB));
    if spec.pluggable_kib() > 0 && spec.hugepage_kib.is_some() {
        return Err(DomainError::HugePagesGrow);
    }
    if most_kib < spec.memory_kib || (most_kib > spec.memory_kib && !whole) {
        return Err(DomainError::MemoryRoom { kib: spec.memory_kib, most_kib });
    }
    Ok(())
}

/// Memory of the domain. After the processors: the NUMA cell is part of theirs.
pub(super) fn configure(spec: &DomainSpec, domain: &mut Domain) {
    domain.memory = Some(kib(spec.memory_kib));
    domain.memory_backing = spec.hugepage_kib.map(|size| {
        let pages = vec![Page { size, unit: "KiB", nodeset: None }];
        MemoryBacking {
            hugepages: Some(Hugepages { pages }),
            source: Some(MemorySource::MEMFD),
            ..MemoryBacking::default()
        }
    });
    let pluggable_kib = spec.pluggable_kib();
    if pluggable_kib == 0 {
        return;
    }
    let most_kib = spec.memory_kib + pluggable_kib;
    // Slots are for DIMMs; libvirt's schema wants the attribute all the same, and QEMU at least one.
    domain.max_memory = Some(MaxMemory { slots: 1, unit: "KiB", amount: most_kib });
    domain.memory = Some(kib(most_kib));
    // Without it libvirt would take the whole for what the balloon holds.
    domain.current_memory = Some(kib(spec.memory_kib));
    if let Some(cpu) = &mut domain.cpu {
        let last = spec.cpu.max_count().saturating_sub(1);
        let cell = Cell { id: 0, cpus: format!("0-{last}"), memory: spec.memory_kib, unit: "KiB" };
        cpu.numa = Some(Numa { cells: vec![cell] });
    }
    domain.devices.memory = Some(MemoryDevice {
        model: "virtio-mem",
        target: Target { size: kib(pluggable_kib), node: 0, block: kib(MEMORY_BLOCK_KIB), requested: kib(0) },
        alias: Alias { name: MEMORY_ALIAS.to_owned() },
    });
}
