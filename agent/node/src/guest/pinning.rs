//! Conversion of what a spec says of dedicated processors. Split from `super::convert`, which owns the rules; refuses to
//! choose a processor.

use furrow_api::VirtualMachineInstance;
use furrow_model::cpus::{CpuNeed, PARITY_ANNOTATION, VcpuMask};
use furrow_model::domain::{CpuSpec, PinningSpec};
use kube::ResourceExt as _;

use super::convert::ConvertError;
use super::cpus::Taken;

/// How many processors a guest has to itself; `None` when none.
pub(super) fn need(vmi: &VirtualMachineInstance, cpu: &CpuSpec) -> Option<CpuNeed> {
    let domain = &vmi.spec.domain;
    let asked = domain.cpu.as_ref().filter(|_| domain.is_dedicated())?;
    Some(CpuNeed {
        vcpus: cpu.count(),
        pool_threads: domain.pool_threads(),
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
    let map_nodes = cpu.maps_nodes();
    let mask = |mask: Option<String>| mask.unwrap_or_default().parse::<VcpuMask>();
    let realtime = cpu.realtime.map(|realtime| mask(realtime.mask)).transpose();
    let path = "domain.cpu.realtime.mask".to_owned();
    Ok(PinningSpec {
        assigned: taken.cpus,
        topology: taken.topology,
        isolate_emulator: cpu.isolate_emulator_thread,
        even: vmi.annotations().contains_key(PARITY_ANNOTATION),
        map_nodes,
        realtime: realtime.map_err(|error| ConvertError::Value { path, message: error.to_string() })?,
    })
}
