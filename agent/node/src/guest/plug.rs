//! Processors of a guest that runs: how many it should have by its spec, how many it has, and the word that the change is
//! done. Refuses to decide whether more are plugged in: that is the model's.

use furrow_api::VirtualMachineInstance;
use furrow_model::domain::DomainSpec;

/// KubeVirt's condition for a change under way. Control sets it with the wish; it goes with the fulfilment.
const HOT_VCPU_CHANGE: &str = "HotVCPUChange";

/// vCPUs that a guest should have; `None` where its spec does not count sockets, and they cannot be changed.
pub(super) fn vcpus(vmi: &VirtualMachineInstance) -> Option<u32> {
    let cpu = vmi.spec.domain.cpu.as_ref()?;
    let count = |count: Option<i32>| count.map_or(Some(1), |count| u32::try_from(count).ok().filter(|c| *c > 0));
    cpu.sockets?;
    count(cpu.sockets)?.checked_mul(count(cpu.cores)?)?.checked_mul(count(cpu.threads)?)
}

/// Puts what the domain has in place of what its spec asks for. `vcpus`: what it has, and has room for.
pub(super) fn in_force(spec: &mut DomainSpec, vcpus: Option<(u32, u32)>) {
    let each = spec.cpu.cores * spec.cpu.threads;
    if let Some((now, _)) = vcpus.filter(|(now, _)| each > 0 && now.is_multiple_of(each)) {
        spec.cpu.sockets = now / each;
    }
}

/// Takes the condition away once the guest has what its spec asks for. `spec`: as it is in force.
pub(super) fn settle(vmi: &mut VirtualMachineInstance, spec: &DomainSpec) {
    let wanted = vmi.spec.domain.cpu.as_ref().and_then(|cpu| cpu.sockets);
    let arrived = wanted.is_none_or(|wanted| u32::try_from(wanted).is_ok_and(|wanted| wanted <= spec.cpu.sockets));
    if arrived && let Some(status) = &mut vmi.status {
        status.conditions.retain(|condition| condition.type_ != HOT_VCPU_CHANGE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn processors_are_counted_only_where_sockets_are() {
        let check = |cpu: serde_json::Value, expected| {
            let vmi: VirtualMachineInstance = serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"},
                "spec": {"domain": {"cpu": cpu, "devices": {}}},
            }))
            .expect("a guest");
            assert_eq!(vcpus(&vmi), expected, "{:?}", vmi.spec.domain.cpu);
        };
        check(json!({"sockets": 2, "cores": 3, "threads": 2}), Some(12));
        check(json!({"sockets": 2}), Some(2));
        check(json!({"cores": 2}), None);
    }
}
