//! Virtual machines and guests as metrics under KubeVirt's names (`pkg/monitoring/metrics/virt-controller` there). Pure.
//! What KubeVirt counts by recording rules is counted here, since there is no Prometheus to have rules: guests by phase and
//! virtual machines by namespace. Metrics that KubeVirt calls counters although they go down are gauges.

use std::collections::BTreeMap;
use std::sync::Arc;

use furrow_api::meta::Condition;
use furrow_api::vmi::{EvictionStrategy, Interface, VirtualMachineInstanceSpec};
use furrow_api::{KubeVirt, VirtualMachine, VirtualMachineInstance, names, quantity};
use furrow_model::metrics::{Descriptor, Labels, Metrics, gauge, labels};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::kubevirt::API_LEVEL;

const INFO: Descriptor = gauge("kubevirt_info", "Version information.");
const READY: Descriptor =
    gauge("kubevirt_virt_controller_ready_status", "Indication for a virt-controller that is ready to take the lead.");
const LEADING: Descriptor =
    gauge("kubevirt_virt_controller_leading_status", "Indication for an operating virt-controller.");
const EMULATION: Descriptor = gauge(
    "kubevirt_configuration_emulation_enabled",
    "Indicates whether the Software Emulation is enabled in the configuration.",
);
const VM_INFO: Descriptor = gauge("kubevirt_vm_info", "Information about Virtual Machines.");
const VM_CREATED: Descriptor =
    gauge("kubevirt_vm_create_date_timestamp_seconds", "Virtual Machine creation timestamp.");
const VM_REQUESTS: Descriptor = gauge("kubevirt_vm_resource_requests", "Resources requested by Virtual Machine.");
const VM_LIMITS: Descriptor = gauge("kubevirt_vm_resource_limits", "Resource limits set for a Virtual Machine.");
const VMI_INFO: Descriptor = gauge("kubevirt_vmi_info", "Information about VirtualMachineInstances.");
const VMI_PHASE_COUNT: Descriptor =
    gauge("kubevirt_vmi_phase_count", "Sum of VirtualMachineInstances per phase and node.");
const VMI_NON_EVICTABLE: Descriptor = gauge(
    "kubevirt_vmi_non_evictable",
    "Indication for a VirtualMachine that its eviction strategy is set to Live Migration but is not migratable.",
);
const VMI_ADDRESSES: Descriptor = gauge("kubevirt_vmi_status_addresses", "The addresses of a VirtualMachineInstance.");
const VMI_VNIC: Descriptor =
    gauge("kubevirt_vmi_vnic_info", "Details of VirtualMachineInstance (VMI) vNIC interfaces.");
const VM_VNIC: Descriptor = gauge("kubevirt_vm_vnic_info", "Details of Virtual Machine (VM) vNIC interfaces.");
const OUTDATED: Descriptor = gauge(
    "kubevirt_vmi_number_of_outdated",
    "Indication for the total number of VirtualMachineInstance workloads that are not up to date.",
);

/// Groups of a virtual machine's status, the metric of each, and the words in it. Whatever is in none is an error.
const GROUPS: &[(&str, Descriptor, &[&str])] = &[
    (
        "starting",
        gauge(
            "kubevirt_vm_starting_status_last_transition_timestamp_seconds",
            "Virtual Machine last transition timestamp to starting status.",
        ),
        &["Provisioning", "Starting", "WaitingForVolumeBinding", "WaitingForReceiver"],
    ),
    (
        "running",
        gauge(
            "kubevirt_vm_running_status_last_transition_timestamp_seconds",
            "Virtual Machine last transition timestamp to running status.",
        ),
        &["Running"],
    ),
    (
        "migrating",
        gauge(
            "kubevirt_vm_migrating_status_last_transition_timestamp_seconds",
            "Virtual Machine last transition timestamp to migrating status.",
        ),
        &["Migrating"],
    ),
    (
        "non_running",
        gauge(
            "kubevirt_vm_non_running_status_last_transition_timestamp_seconds",
            "Virtual Machine last transition timestamp to paused/stopped status.",
        ),
        &["Stopped", "Paused", "Stopping", "Terminating"],
    ),
    (
        "error",
        gauge(
            "kubevirt_vm_error_status_last_transition_timestamp_seconds",
            "Virtual Machine last transition timestamp to error status.",
        ),
        &[],
    ),
];

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

/// Prometheus knows no other numbers.
fn number(value: i64) -> f64 {
    value as f64
}

/// This process.
pub(super) fn process(ready: bool, leading: bool) -> Metrics {
    let mut metrics = Metrics::default();
    metrics.add(READY, Labels::new(), flag(ready));
    metrics.add(LEADING, Labels::new(), flag(leading));
    metrics
}

/// The cluster's settings.
pub(super) fn cluster(metrics: &mut Metrics, settings: Option<&KubeVirt>) {
    let configuration = settings.and_then(|settings| settings.spec.configuration.as_ref());
    let developer = configuration.and_then(|configuration| configuration.developer_configuration.as_ref());
    metrics.add(INFO, labels([("kubeversion", API_LEVEL)]), 1.0);
    metrics.add(EMULATION, Labels::new(), flag(developer.is_some_and(|developer| developer.use_emulation)));
    // A guest runs in no image that could be outdated.
    metrics.add(OUTDATED, Labels::new(), 0.0);
}

/// A virtual machine.
pub(super) fn vm(metrics: &mut Metrics, vm: &VirtualMachine) {
    let (namespace, name) = (vm.namespace().unwrap_or_default(), vm.name_any());
    let who = [("name", name.as_str()), ("namespace", namespace.as_str())];
    let status = vm.status.as_ref();
    let printed = status.and_then(|status| status.printable_status.as_ref());
    let printed = printed.map(ToString::to_string).unwrap_or_default();
    let group = GROUPS.iter().find(|(_, _, words)| words.contains(&printed.as_str())).unwrap_or(&GROUPS[4]);
    let annotations = vm.spec.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let kind = |what: &str| {
        let value = annotations.and_then(|annotations| annotations.get(&format!("vm.kubevirt.io/{what}")));
        value.cloned().unwrap_or_default()
    };
    let (os, workload, flavor) = (kind("os"), kind("workload"), kind("flavor"));
    let about = [
        ("os", os.as_str()),
        ("workload", &workload),
        ("flavor", &flavor),
        ("status", &printed),
        ("status_group", group.0),
    ];
    metrics.add(VM_INFO, labels(who.into_iter().chain(about)), 1.0);
    if let Some(created) = &vm.metadata.creation_timestamp {
        metrics.add(VM_CREATED, labels(who), number(created.0.as_second()));
    }
    let changed = status.and_then(|status| last_transition(&status.conditions)).unwrap_or_default();
    for (name, descriptor, _) in GROUPS {
        metrics.add(*descriptor, labels(who), if *name == group.0 { number(changed) } else { 0.0 });
    }
    resources(metrics, who, &vm.spec.template.spec);
    vnics(metrics, VM_VNIC, who, &vm.spec.template.spec);
}

/// When a condition last changed, in seconds since 1970.
fn last_transition(conditions: &[Condition]) -> Option<i64> {
    let counted = conditions.iter().filter(|c| matches!(c.type_.as_str(), "Ready" | "Failure" | "Paused"));
    counted.filter_map(|condition| Some(condition.last_transition_time.as_ref()?.0.as_second())).max()
}

fn resources(metrics: &mut Metrics, who: [(&str, &str); 2], spec: &VirtualMachineInstanceSpec) {
    let resources = &spec.domain.resources;
    let guest = spec.domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let mut add = |descriptor, resource: &str, unit: &str, source: &str, value: Option<f64>| {
        let about = [("resource", resource), ("unit", unit), ("source", source)];
        if let Some(value) = value {
            metrics.add(descriptor, labels(who.into_iter().chain(about)), value);
        }
    };
    for (descriptor, list) in [(VM_REQUESTS, &resources.requests), (VM_LIMITS, &resources.limits)] {
        let bytes = list.get("memory").and_then(|memory| quantity::units(memory).ok());
        add(descriptor, "memory", "bytes", "domain", bytes.map(number));
        let cores = list.get("cpu").and_then(|cpu| quantity::millis(cpu).ok());
        add(descriptor, "cpu", "cores", "requests", cores.map(|millis| number(millis) / 1000.0));
    }
    let bytes = guest.and_then(|guest| quantity::units(guest).ok());
    add(VM_REQUESTS, "memory", "bytes", "guest", bytes.map(number));
    if let Some(cpu) = &spec.domain.cpu {
        let parts = [("cores", cpu.cores), ("sockets", cpu.sockets), ("threads", cpu.threads)];
        for (unit, count) in parts {
            add(VM_REQUESTS, "cpu", unit, "domain", count.map(f64::from));
        }
    }
}

fn vnics(metrics: &mut Metrics, descriptor: Descriptor, who: [(&str, &str); 2], spec: &VirtualMachineInstanceSpec) {
    for interface in &spec.domain.devices.interfaces {
        let Some(network) = spec.networks.iter().find(|network| network.name == interface.name) else { continue };
        let network = network.multus.as_ref().map_or("pod networking", |multus| multus.network_name.as_str());
        let about = [
            ("vnic_name", interface.name.as_str()),
            ("binding_type", "core"),
            ("binding_name", binding(interface)),
            ("network", network),
            ("model", interface.model.as_deref().filter(|model| !model.is_empty()).unwrap_or("<none>")),
        ];
        metrics.add(descriptor, labels(who.into_iter().chain(about)), 1.0);
    }
}

fn binding(interface: &Interface) -> &'static str {
    if interface.masquerade.is_some() { "masquerade" } else { "bridge" }
}

/// All guests.
pub(super) fn vmis(metrics: &mut Metrics, vmis: &[Arc<VirtualMachineInstance>], pods: &[Arc<Pod>]) {
    let mut phases: BTreeMap<Labels, i64> = BTreeMap::new();
    for vmi in vmis {
        let pod = pods.iter().find(|pod| pod.labels().get(names::LABEL_CREATED_BY) == vmi.metadata.uid.as_ref());
        *phases.entry(self::vmi(metrics, vmi, pod.map(|pod| pod.name_any()))).or_default() += 1;
    }
    for (labels, count) in phases {
        metrics.add(VMI_PHASE_COUNT, labels, number(count));
    }
}

/// A guest; gives the labels by which it is counted.
fn vmi(metrics: &mut Metrics, vmi: &VirtualMachineInstance, pod: Option<String>) -> Labels {
    let status = vmi.status.clone().unwrap_or_default();
    let (namespace, name) = (vmi.namespace().unwrap_or_default(), vmi.name_any());
    let node = status.node_name.clone().unwrap_or_default();
    let who = [("node", node.as_str()), ("namespace", namespace.as_str()), ("name", name.as_str())];
    let kind = |what: &str| vmi.annotations().get(&format!("vm.kubevirt.io/{what}")).cloned().unwrap_or_default();
    let phase = status.phase.to_string().to_lowercase();
    let (os, workload, flavor) = (kind("os"), kind("workload"), kind("flavor"));
    let guest = status.guest_os_info.clone().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (release, arch) = (text(&guest.kernel_release), text(&guest.machine));
    let (system, version) = (text(&guest.name), text(&guest.version_id));
    let machine = status.machine.as_ref().map(|machine| machine.type_.clone()).unwrap_or_default();
    let evictable = is_evictable(vmi);
    let counted = [
        ("phase", phase.as_str()),
        ("os", &os),
        ("workload", &workload),
        ("flavor", &flavor),
        ("guest_os_kernel_release", &release),
        ("guest_os_machine", &machine),
        ("guest_os_arch", &arch),
        ("guest_os_name", &system),
        ("guest_os_version_id", &version),
    ];
    let more = [
        ("evictable", if evictable { "true" } else { "false" }),
        ("outdated", "false"),
        ("vmi_pod", pod.as_deref().unwrap_or_default()),
    ];
    metrics.add(VMI_INFO, labels(who.into_iter().chain(counted).chain(more)), 1.0);
    metrics.add(VMI_NON_EVICTABLE, labels(who), flag(!evictable));
    for interface in &status.interfaces {
        let (vnic, inside) = (text(&interface.name), text(&interface.interface_name));
        let address = text(&interface.ip_address);
        if address.is_empty() && vnic.is_empty() && inside.is_empty() {
            continue;
        }
        let about = [
            ("vnic_name", vnic.as_str()),
            ("interface_name", &inside),
            ("address", &address),
            ("type", if address.is_empty() { "SystemInterface" } else { "ExternalInterface" }),
        ];
        metrics.add(VMI_ADDRESSES, labels(who.into_iter().chain(about)), 1.0);
    }
    vnics(metrics, VMI_VNIC, [("name", &name), ("namespace", &namespace)], &vmi.spec);
    labels([("node", node.as_str())].into_iter().chain(counted))
}

/// Whether a drain of its node can move a guest, where it is to be moved.
fn is_evictable(vmi: &VirtualMachineInstance) -> bool {
    let wanted = vmi.spec.eviction_strategy == Some(EvictionStrategy::LiveMigrate);
    let conditions = vmi.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    !wanted || Condition::find(conditions, "LiveMigratable").is_some_and(Condition::is_true)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lines(metrics: Metrics, family: &str) -> Vec<String> {
        let text = metrics.text().unwrap();
        text.lines().filter(|line| line.starts_with(&format!("{family}{{"))).map(str::to_owned).collect()
    }

    fn machine(status: Value) -> VirtualMachine {
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"runStrategy": "Always", "template": {"spec": {"domain": {"devices": {},
                "cpu": {"cores": 2}, "memory": {"guest": "1Gi"}}}}},
            "status": status}))
        .unwrap()
    }

    #[test]
    fn a_virtual_machines_status_has_a_group_and_the_time_of_its_last_change() {
        let status = json!({"printableStatus": "Running", "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": "1970-01-01T00:01:40Z"}]});
        let mut metrics = Metrics::default();
        vm(&mut metrics, &machine(status));
        let who = "{name=\"web\",namespace=\"shop\"}";
        let of = |group: &str| {
            lines(metrics.clone(), &format!("kubevirt_vm_{group}_status_last_transition_timestamp_seconds"))
        };
        assert!(of("running")[0].ends_with(&format!("{who} 100.0")), "{:?}", of("running"));
        assert!(of("error")[0].ends_with(" 0.0"));
        let info = &lines(metrics.clone(), "kubevirt_vm_info")[0];
        assert!(info.contains("status=\"Running\",status_group=\"running\""), "{info}");
        let requests = lines(metrics, "kubevirt_vm_resource_requests");
        assert!(requests.iter().any(|line| line.contains("unit=\"cores\"") && line.ends_with(" 2.0")), "{requests:?}");
        assert!(requests.iter().any(|line| line.ends_with(" 1073741824.0")), "{requests:?}");
    }

    #[test]
    fn a_status_that_is_in_no_group_is_an_error() {
        for status in ["ErrorUnschedulable", "CrashLoopBackOff", "Unknown"] {
            let mut metrics = Metrics::default();
            vm(&mut metrics, &machine(json!({"printableStatus": status})));
            assert!(lines(metrics, "kubevirt_vm_info")[0].contains("status_group=\"error\""), "{status}");
        }
    }

    fn guest(name: &str, strategy: &str, migratable: &str) -> Arc<VirtualMachineInstance> {
        let guest = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"domain": {"devices": {}}, "evictionStrategy": strategy},
            "status": {"phase": "Running", "nodeName": "n1",
                "conditions": [{"type": "LiveMigratable", "status": migratable}],
                "interfaces": [{"name": "lan", "ipAddress": "10.0.0.1"}]}});
        Arc::new(serde_json::from_value(guest).unwrap())
    }

    #[test]
    fn guests_are_counted_by_phase_and_told_one_by_one() {
        let guests =
            [guest("a", "None", "False"), guest("b", "LiveMigrate", "False"), guest("c", "LiveMigrate", "True")];
        let mut metrics = Metrics::default();
        vmis(&mut metrics, &guests, &[]);
        let count = lines(metrics.clone(), "kubevirt_vmi_phase_count");
        assert_eq!(count, ["kubevirt_vmi_phase_count{node=\"n1\",phase=\"running\"} 3.0"]);
        let stuck: Vec<_> = lines(metrics.clone(), "kubevirt_vmi_non_evictable");
        assert_eq!(stuck.iter().filter(|line| line.ends_with(" 1.0")).count(), 1, "{stuck:?}");
        let addresses = lines(metrics, "kubevirt_vmi_status_addresses");
        assert!(addresses[0].contains("address=\"10.0.0.1\"") && addresses[0].contains("ExternalInterface"));
    }

    #[test]
    fn a_process_says_whether_it_leads() {
        let text = process(true, false).text().unwrap();
        assert!(text.contains("kubevirt_virt_controller_leading_status 0.0"), "{text}");
        assert!(text.contains("kubevirt_virt_controller_ready_status 1.0"), "{text}");
    }
}
