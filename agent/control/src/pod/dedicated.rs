//! What a guest with dedicated processors takes: the kubelet sets whole processors aside for containers whose requests and
//! limits are the same, on nodes whose label says that it does. The sizes are KubeVirt's (`WithCPUPinning`). Refuses to
//! know which processors they will be.

use std::collections::BTreeMap;

use furrow_api::{VirtualMachineInstance, names};
use furrow_model::cpus::{CpuNeed, PARITY_ANNOTATION};
use kube::ResourceExt as _;

use super::{Taken, vcpus};

/// What a guest takes, made exact where its processors are its own.
pub(super) fn exact(vmi: &VirtualMachineInstance, taken: Taken) -> Taken {
    let domain = &vmi.spec.domain;
    if !domain.is_dedicated() {
        return taken;
    }
    let need = CpuNeed {
        vcpus: u32::try_from(vcpus(&vmi.spec)).unwrap_or(u32::MAX),
        pool_threads: domain.pool_threads(),
        isolate_emulator: domain.cpu.as_ref().is_some_and(|cpu| cpu.isolate_emulator_thread),
        even: vmi.annotations().contains_key(PARITY_ANNOTATION),
    };
    let cpu_millis = i64::from(need.total()).saturating_mul(1000);
    Taken { cpu_millis, cpu_limit_millis: Some(cpu_millis), memory_limit_bytes: Some(taken.memory_bytes), ..taken }
}

/// Labels that the guest's node must have.
pub(super) fn node_selector(vmi: &VirtualMachineInstance) -> BTreeMap<String, String> {
    let mut labels = vmi.spec.node_selector.clone();
    let cpu = vmi.spec.domain.cpu.as_ref();
    let wanted = [
        (vmi.spec.domain.is_dedicated(), names::LABEL_CPU_MANAGER),
        (cpu.is_some_and(|cpu| cpu.realtime.is_some()), names::LABEL_REALTIME),
    ];
    labels.extend(wanted.into_iter().filter(|(is, _)| *is).map(|(_, label)| (label.to_owned(), "true".to_owned())));
    labels
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use furrow_api::reservation::Reservation;
    use furrow_api::{KubeVirt, VirtualMachineInstance};
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::{Value, json};

    use super::super::render;

    fn pod(domain: Value, annotation: Option<&str>, settings: Option<&KubeVirt>) -> PodSpec {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": {}},
            "spec": {"domain": domain, "nodeSelector": {"disk": "fast"}},
        });
        object["metadata"]["annotations"] = annotation.map(|key| json!({key: ""})).unwrap_or_default();
        let vmi: VirtualMachineInstance = serde_json::from_value(object).unwrap();
        render(&vmi, &Reservation::default(), &[], BTreeMap::new(), settings).unwrap().spec.unwrap()
    }

    /// CPUs of the pod, whose requests and limits must be the same.
    fn check(domain: Value, annotation: Option<&str>, expected: &str) {
        let pod = pod(domain.clone(), annotation, None);
        let resources = pod.containers[0].resources.clone().unwrap();
        assert_eq!(resources.requests, resources.limits, "{domain}");
        assert_eq!((resources.requests.unwrap()["cpu"].0.as_str(), pod.containers.len()), (expected, 1), "{domain}");
    }

    fn domain(cpu: Value) -> Value {
        json!({"devices": {}, "memory": {"guest": "1Gi"}, "cpu": cpu})
    }

    #[test]
    fn the_pod_has_whole_processors_and_is_guaranteed() {
        check(domain(json!({"sockets": 2, "cores": 2, "threads": 2, "dedicatedCpuPlacement": true})), None, "8000m");
        let isolated = json!({"cores": 4, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true});
        check(domain(isolated.clone()), None, "5000m");
        check(domain(isolated.clone()), Some("alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity"), "6000m");
        let mut pool = domain(isolated);
        pool["ioThreadsPolicy"] = json!("supplementalPool");
        pool["ioThreads"] = json!({"supplementalPoolThreadCount": 2});
        check(pool, None, "7000m");
        let mut requested = domain(json!({"dedicatedCpuPlacement": true}));
        requested["resources"] = json!({"requests": {"cpu": "3"}});
        check(requested, None, "3000m");
        let mut huge = domain(json!({"cores": 2, "dedicatedCpuPlacement": true}));
        huge["memory"]["hugepages"] = json!({"pageSize": "2Mi"});
        check(huge, None, "2000m");
    }

    #[test]
    fn its_memory_is_not_overcommitted() {
        let settings: KubeVirt = serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt"},
            "spec": {"configuration": {"developerConfiguration": {"memoryOvercommit": 200}}}}))
        .unwrap();
        let memory = |cpu: Value| {
            let pod = pod(domain(cpu), None, Some(&settings));
            pod.containers[0].resources.clone().unwrap().requests.unwrap()["memory"].0.parse::<i64>().unwrap() >> 20
        };
        assert_eq!(memory(json!({"dedicatedCpuPlacement": true})), 1024 + 100);
        assert_eq!(memory(json!({})), 512 + 100);
    }

    #[test]
    fn its_node_sets_processors_aside_and_has_what_else_is_asked_for() {
        let selector = |cpu: Value| {
            let labels = pod(domain(cpu), None, None).node_selector.unwrap();
            labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(selector(json!({})), ["disk=fast"]);
        assert_eq!(selector(json!({"dedicatedCpuPlacement": true})), ["cpumanager=true", "disk=fast"]);
        let realtime = selector(json!({"dedicatedCpuPlacement": true, "realtime": {}}));
        assert_eq!(realtime, ["cpumanager=true", "disk=fast", "kubevirt.io/realtime=true"]);
    }
}
