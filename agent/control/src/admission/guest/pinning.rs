//! Dedicated processors, NUMA nodes and real time of a guest. The rules and texts are KubeVirt's
//! (`validateCpuPinning`, `validateNUMA`, `validateRealtime` of its create admitter), with two differences: a guest that
//! names no topology has one processor, so that none must be named, and a mask is looked at before the guest starts.

use std::collections::BTreeMap;

use furrow_api::quantity;
use furrow_api::vmi::{Cpu, DomainSpec};
use furrow_model::cpus::VcpuMask;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::admission::causes::Causes;

/// Threads of a core at most: those that a core of a node has.
const THREADS_MAX: i32 = 2;

/// `base`: where the domain stands.
pub(super) fn check(base: &str, domain: &DomainSpec, causes: &mut Causes) {
    let Some(cpu) = &domain.cpu else { return };
    if cpu.dedicated_cpu_placement {
        dedicated(base, domain, cpu, causes);
    }
    if cpu.isolate_emulator_thread && !cpu.dedicated_cpu_placement {
        let text = "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement";
        causes.invalid(format!("{base}.cpu.isolateEmulatorThread"), text);
    }
    numa(base, domain, cpu, causes);
    realtime(base, cpu, causes);
}

/// An amount in thousandths, of those that are one and above 0.
fn millis(list: &BTreeMap<String, Quantity>, key: &str) -> Option<i64> {
    list.get(key).and_then(|amount| quantity::millis(amount).ok()).filter(|amount| *amount > 0)
}

fn dedicated(base: &str, domain: &DomainSpec, cpu: &Cpu, causes: &mut Causes) {
    let (requests, limits) = (&domain.resources.requests, &domain.resources.limits);
    let (request, limit) = (millis(requests, "cpu"), millis(limits, "cpu"));
    for (amount, which) in [(request, "requests"), (limit, "limits")] {
        if amount.is_some_and(|amount| amount % 1000 != 0) {
            let text = format!("provided resources CPU {which} must be an interger");
            causes.invalid(format!("{base}.resources.{which}.cpu"), text);
        }
    }
    let memory = (millis(requests, "memory"), millis(limits, "memory"));
    if let (Some(request), Some(limit)) = memory
        && request != limit
    {
        let field = format!("{base}.resources.requests.memory");
        causes.invalid(&field, format!("{field} must be equal to {base}.resources.limits.memory"));
    }
    let field = format!("{base}.cpu.dedicatedCpuPlacement");
    let either = format!("{base}.resources.requests.cpu or {base}.resources.limits.cpu");
    if let (Some(request), Some(limit)) = (request, limit)
        && request != limit
    {
        causes.invalid(&field, format!("{either} must be equal when DedicatedCPUPlacement is true "));
    }
    let vcpus = cpu.vcpus().map(|count| count.saturating_mul(1000));
    if (request.is_some() || limit.is_some()) && vcpus.is_some() && request != vcpus && limit != vcpus {
        let cores = format!("{base}.cpu.cores");
        let text =
            format!("{either} must not be provided at the same time with {cores} when DedicatedCPUPlacement is true ");
        causes.invalid(&field, text);
    }
    if let Some(threads) = cpu.threads.filter(|threads| *threads > THREADS_MAX) {
        let text = format!(
            "Not more than two threads must be provided at {base}.cpu.threads (got {threads}) when DedicatedCPUPlacement \
             is true"
        );
        causes.invalid(&field, text);
    }
}

fn numa(base: &str, domain: &DomainSpec, cpu: &Cpu, causes: &mut Causes) {
    if !cpu.maps_nodes() {
        return;
    }
    let field = format!("{base}.cpu.numa.guestMappingPassthrough");
    let when = format!("when NUMA topology strategy is set in {field}");
    if !cpu.dedicated_cpu_placement {
        causes.invalid(&field, format!("{base}.cpu.dedicatedCpuPlacement must be set to true {when}"));
    }
    if domain.memory.as_ref().is_none_or(|memory| memory.hugepages.is_none()) {
        causes.invalid(&field, format!("{base}.memory.hugepages must be requested {when}"));
    }
}

fn realtime(base: &str, cpu: &Cpu, causes: &mut Causes) {
    let Some(realtime) = &cpu.realtime else { return };
    let used = format!("when {base}.cpu.realtime is used");
    if !cpu.dedicated_cpu_placement {
        let field = format!("{base}.cpu.dedicatedCpuPlacement");
        causes.required(&field, format!("{field} must be set to true {used}"));
    }
    if !cpu.maps_nodes() {
        let field = format!("{base}.cpu.numa.guestMappingPassthrough");
        causes.required(&field, format!("{field} must be defined {used}"));
    }
    if let Err(error) = realtime.mask.clone().unwrap_or_default().parse::<VcpuMask>() {
        causes.invalid(format!("{base}.cpu.realtime.mask"), error);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The causes with their fields, for these parts of a domain.
    fn causes(cpu: Value, resources: Value, memory: Value) -> Vec<String> {
        let domain = json!({"devices": {}, "cpu": cpu, "resources": resources, "memory": memory});
        let mut causes = Causes::default();
        check("d", &serde_json::from_value(domain).unwrap(), &mut causes);
        causes.text().lines().map(str::to_owned).collect()
    }

    fn check_causes(cpu: Value, resources: Value, expected: &[&str]) {
        let found = causes(cpu.clone(), resources.clone(), json!({"guest": "1Gi"}));
        assert_eq!(found.len(), expected.len(), "{cpu} {resources}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{cpu} {resources}: {found} has no {expected}");
        }
    }

    #[test]
    fn dedicated_processors_are_whole_and_asked_for_once() {
        let pinned = json!({"sockets": 2, "cores": 2, "threads": 1, "dedicatedCpuPlacement": true});
        check_causes(pinned.clone(), json!({}), &[]);
        check_causes(pinned.clone(), json!({"requests": {"cpu": "4"}, "limits": {"cpu": 4}}), &[]);
        check_causes(json!({"dedicatedCpuPlacement": true}), json!({"requests": {"cpu": "2"}}), &[]);
        check_causes(
            json!({"dedicatedCpuPlacement": true}),
            json!({"requests": {"cpu": "1500m"}, "limits": {"cpu": "2500m"}}),
            &[
                "d.resources.requests.cpu: provided resources CPU requests must be an interger",
                "d.resources.limits.cpu: provided resources CPU limits must be an interger",
                "d.resources.requests.cpu or d.resources.limits.cpu must be equal when DedicatedCPUPlacement is true",
            ],
        );
        check_causes(
            pinned.clone(),
            json!({"requests": {"cpu": "3"}}),
            &["must not be provided at the same time with d.cpu.cores when DedicatedCPUPlacement is true"],
        );
        check_causes(
            pinned,
            json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
            &["d.resources.requests.memory must be equal to d.resources.limits.memory"],
        );
        check_causes(
            json!({"cores": 1, "threads": 4, "dedicatedCpuPlacement": true}),
            json!({}),
            &["Not more than two threads must be provided at d.cpu.threads (got 4) when DedicatedCPUPlacement is true"],
        );
        // Nothing of it holds for others.
        check_causes(json!({"threads": 4}), json!({"requests": {"cpu": "1500m"}}), &[]);
    }

    #[test]
    fn what_builds_on_dedicated_processors_needs_them() {
        check_causes(
            json!({"isolateEmulatorThread": true}),
            json!({}),
            &["d.cpu.isolateEmulatorThread: IsolateEmulatorThread should be only set in combination with"],
        );
        check_causes(json!({"isolateEmulatorThread": true, "dedicatedCpuPlacement": true}), json!({}), &[]);
        check_causes(
            json!({"numa": {"guestMappingPassthrough": {}}}),
            json!({}),
            &[
                "d.cpu.dedicatedCpuPlacement must be set to true when NUMA topology strategy is set in d.cpu.numa",
                "d.memory.hugepages must be requested when NUMA topology strategy is set in d.cpu.numa",
            ],
        );
        check_causes(
            json!({"realtime": {}}),
            json!({}),
            &[
                "d.cpu.dedicatedCpuPlacement must be set to true when d.cpu.realtime is used",
                "d.cpu.numa.guestMappingPassthrough must be defined when d.cpu.realtime is used",
            ],
        );
    }

    #[test]
    fn a_guest_in_real_time_with_all_it_needs_is_let_in() {
        let cpu = |mask: &str| json!({"dedicatedCpuPlacement": true, "numa": {"guestMappingPassthrough": {}}, "realtime": {"mask": mask}});
        let memory = json!({"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}});
        assert_eq!(causes(cpu("0-3,^1"), json!({}), memory.clone()), [""; 0]);
        let wrong = causes(cpu("3-1"), json!({}), memory);
        assert!(wrong.len() == 1 && wrong[0].contains("invalid mask range `3-1`"), "{wrong:?}");
    }
}
