//! Conversion of what a spec says of dedicated processors. Split from `super::convert`, which owns the rules; refuses to
//! choose a processor.

use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::IoThreadsPolicy;
use furrow_model::cpus::{CpuNeed, PARITY_ANNOTATION, VcpuMask};
use furrow_model::domain::{CpuSpec, PinningSpec};
use kube::ResourceExt as _;

use super::convert::ConvertError;
use super::cpus::Taken;

/// How many processors a guest has to itself; `None` when none.
pub(super) fn need(vmi: &VirtualMachineInstance, cpu: &CpuSpec) -> Option<CpuNeed> {
    let domain = &vmi.spec.domain;
    let asked = domain.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement)?;
    let pool = domain.io_threads_policy == Some(IoThreadsPolicy::SupplementalPool);
    let count = domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
    Some(CpuNeed {
        vcpus: cpu.count(),
        pool_threads: count.filter(|_| pool).and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        isolate_emulator: asked.isolate_emulator_thread,
        even: vmi.annotations().contains_key(PARITY_ANNOTATION),
    })
}

/// How the guest is to be placed on the processors that were taken for it.
///
/// # Errors
/// When its mask is none.
pub(super) fn spec(vmi: &VirtualMachineInstance, taken: Taken) -> Result<PinningSpec, ConvertError> {
    let cpu = vmi.spec.domain.cpu.clone().unwrap_or_default();
    let mask = |mask: Option<String>| mask.unwrap_or_default().parse::<VcpuMask>();
    let realtime = cpu.realtime.map(|realtime| mask(realtime.mask)).transpose();
    let path = "domain.cpu.realtime.mask".to_owned();
    Ok(PinningSpec {
        assigned: taken.cpus,
        topology: taken.topology,
        isolate_emulator: cpu.isolate_emulator_thread,
        even: vmi.annotations().contains_key(PARITY_ANNOTATION),
        map_nodes: cpu.numa.is_some_and(|numa| numa.guest_mapping_passthrough.is_some()),
        realtime: realtime.map_err(|error| ConvertError::Value { path, message: error.to_string() })?,
    })
}
