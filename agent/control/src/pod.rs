//! The reservation pod: what a guest takes of a node, as the scheduler sees it, and what the node's agent is told. Refuses
//! to run anything: its only container sleeps.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use furrow_api::quantity::{self, QuantityError};
use furrow_api::reservation::Reservation;
use furrow_api::vmi::{Cpu, VirtualMachineInstanceSpec};
use furrow_api::{KubeVirt, VirtualMachineInstance, names};
use furrow_model::overhead::{GuestSize, cpu_request_millis, memory_overhead};

mod account;
mod dedicated;

/// KubeVirt's default of `cpuAllocationRatio`.
const CPU_ALLOCATION_RATIO: i64 = 10;

/// Longest name of a pod's VMI in the pod's own name: the API server takes 253, a host name 63.
const NAME_MAX: usize = 40;

/// Letters of the names that Kubernetes generates: no vowels, so that they spell nothing.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A guest that cannot be put in the scheduler's terms.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    /// A quantity is none.
    #[error("{path} cannot be used")]
    Quantity {
        /// Where it stands in the spec.
        path: &'static str,
        /// Why.
        #[source]
        source: QuantityError,
    },
    /// Neither `memory.guest` nor a memory request.
    #[error("spec.domain.memory.guest is missing, and so is spec.domain.resources.requests.memory")]
    NoMemory,
    /// A defect.
    #[error("the reservation cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// What a guest takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    cpu_millis: i64,
    memory_bytes: i64,
    cpu_limit_millis: Option<i64>,
    memory_limit_bytes: Option<i64>,
    /// Size of the huge pages that hold the guest's memory, as the spec has it, and how much of them.
    hugepages: Option<(String, i64)>,
}

/// Name of a guest's pod. The same guest always has the same, so that a pass that is begun again after a crash makes no
/// second one.
pub(crate) fn name(vmi: &VirtualMachineInstance) -> String {
    let digest = Sha256::digest(vmi.uid().unwrap_or_default());
    let suffix: String = digest.iter().take(5).map(|byte| letter(*byte)).collect();
    let name: String = vmi.name_any().chars().take(NAME_MAX).collect();
    format!("virt-launcher-{}-{suffix}", name.trim_end_matches(['-', '.']))
}

/// A letter of generated names.
pub(crate) fn letter(byte: u8) -> char {
    char::from(LETTERS[usize::from(byte) % LETTERS.len()])
}

/// The pod. `provider_networks`: what the node must have. `annotations`: Kube-OVN's, for people.
///
/// # Errors
/// When the guest's size cannot be understood.
pub(crate) fn render(
    vmi: &VirtualMachineInstance,
    reservation: &Reservation,
    provider_networks: &[String],
    annotations: BTreeMap<String, String>,
    settings: Option<&KubeVirt>,
) -> Result<Pod, RenderError> {
    let taken = taken(vmi, settings)?;
    let mut annotations = annotations;
    annotations.insert(names::ANNOTATION_RESERVATION.to_owned(), serde_json::to_string(reservation)?);
    let mut labels = vmi.labels().clone();
    labels.insert(names::LABEL_APP.to_owned(), names::APP_VIRT_LAUNCHER.to_owned());
    labels.insert(names::LABEL_CREATED_BY.to_owned(), vmi.uid().unwrap_or_default());
    labels.insert(names::LABEL_VM_NAME.to_owned(), vmi.name_any());
    let spec = &vmi.spec;
    let account = account::of(spec);
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(name(vmi)),
            namespace: vmi.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(vmi)]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            affinity: affinity(spec.affinity.clone(), provider_networks),
            automount_service_account_token: Some(false),
            containers: vec![Container { volume_mounts: account.mounts, ..container(&taken) }],
            service_account_name: account.name,
            volumes: account.volumes,
            enable_service_links: Some(false),
            node_selector: Some(dedicated::node_selector(vmi)).filter(|selector| !selector.is_empty()),
            priority_class_name: spec.priority_class_name.clone(),
            restart_policy: Some("Always".to_owned()),
            scheduler_name: spec.scheduler_name.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(65534),
                run_as_group: Some(65534),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            // The container sleeps and has nothing to finish.
            termination_grace_period_seconds: Some(1),
            tolerations: Some(spec.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            topology_spread_constraints: Some(spec.topology_spread_constraints.clone()).filter(|list| !list.is_empty()),
            ..PodSpec::default()
        }),
        status: None,
    })
}

/// The patch of subresource `resize` that makes a guest's pod reserve what its spec says now.
///
/// # Errors
/// As [`render`].
pub(crate) fn resources(
    vmi: &VirtualMachineInstance,
    settings: Option<&KubeVirt>,
) -> Result<serde_json::Value, RenderError> {
    let Container { name, resources, .. } = container(&taken(vmi, settings)?);
    Ok(serde_json::json!({"spec": {"containers": [{"name": name, "resources": resources}]}}))
}

/// Virtual processors for each one that is requested of a node.
pub(crate) fn cpu_ratio(settings: Option<&KubeVirt>) -> i64 {
    let configuration = settings.and_then(|kubevirt| kubevirt.spec.configuration.as_ref());
    let developer = configuration.and_then(|configuration| configuration.developer_configuration.as_ref());
    developer.and_then(|developer| developer.cpu_allocation_ratio).map_or(CPU_ALLOCATION_RATIO, i64::from)
}

/// The guest, as owner of what is made for it.
pub(crate) fn owner(vmi: &VirtualMachineInstance) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachineInstance::api_version(&()).into_owned(),
        kind: VirtualMachineInstance::kind(&()).into_owned(),
        name: vmi.name_any(),
        uid: vmi.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn container(taken: &Taken) -> Container {
    let cpu = |millis: i64| ("cpu".to_owned(), Quantity(format!("{millis}m")));
    let memory = |bytes: i64| ("memory".to_owned(), Quantity(bytes.to_string()));
    let mut limits: BTreeMap<_, _> =
        taken.cpu_limit_millis.map(cpu).into_iter().chain(taken.memory_limit_bytes.map(memory)).collect();
    let mut requests = BTreeMap::from([cpu(taken.cpu_millis), memory(taken.memory_bytes)]);
    if let Some((size, bytes)) = &taken.hugepages {
        // Kubernetes takes huge pages only where the limit is the request.
        let (name, amount) = (format!("hugepages-{size}"), Quantity(bytes.to_string()));
        requests.insert(name.clone(), amount.clone());
        limits.insert(name, amount);
    }
    Container {
        name: "compute".to_owned(),
        image: Some(names::PAUSE_IMAGE.to_owned()),
        image_pull_policy: Some("Never".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some(requests),
            limits: Some(limits).filter(|limits| !limits.is_empty()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// What the guest takes.
fn taken(vmi: &VirtualMachineInstance, settings: Option<&KubeVirt>) -> Result<Taken, RenderError> {
    Ok(dedicated::exact(vmi, asked(&vmi.spec, settings)?))
}

/// Its own request where it names one, else what its hardware costs.
fn asked(spec: &VirtualMachineInstanceSpec, settings: Option<&KubeVirt>) -> Result<Taken, RenderError> {
    let domain = &spec.domain;
    let configuration = settings.and_then(|kubevirt| kubevirt.spec.configuration.as_ref());
    let developer = configuration.and_then(|configuration| configuration.developer_configuration.as_ref());
    let usual = configuration.and_then(|configuration| configuration.cpu_request.as_ref());
    let overcommit = developer.and_then(|developer| developer.memory_overcommit);
    let percent = overcommit.filter(|_| !domain.is_dedicated()).map_or(100, i64::from).max(1);
    let ratio = cpu_ratio(settings);
    let (requests, limits) = (&domain.resources.requests, &domain.resources.limits);
    let guest = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let guest = bytes("spec.domain.memory.guest", guest)?;
    let requested = bytes("spec.domain.resources.requests.memory", requests.get("memory"))?;
    let memory_limit = bytes("spec.domain.resources.limits.memory", limits.get("memory"))?;
    let added = domain.memory.as_ref().and_then(|memory| memory.reserved_overhead.as_ref());
    let added = added.and_then(|reserved| reserved.added_overhead.as_ref());
    let visible = guest.or(requested).or(memory_limit).ok_or(RenderError::NoMemory)?;
    let vcpus = vcpus(spec);
    let overhead = if domain.resources.overcommit_guest_overhead {
        0
    } else {
        memory_overhead(GuestSize {
            memory_bytes: visible,
            vcpus,
            graphics: domain.devices.autoattach_graphics_device != Some(false),
            tpm: domain.has_tpm(),
            shares: i64::try_from(domain.devices.filesystems.len()).unwrap_or(i64::MAX),
            added_bytes: bytes("spec.domain.memory.reservedOverhead.addedOverhead", added)?.unwrap_or_default(),
        })
    };
    let pages = domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref()?.page_size.clone());
    // What is in huge pages is not in ordinary memory.
    let backed = match pages {
        Some(_) => 0,
        None => requested.unwrap_or_else(|| visible.saturating_mul(100) / percent),
    };
    let cpu_request = millis("spec.domain.resources.requests.cpu", requests.get("cpu"))?;
    let usual = millis("the KubeVirt object's spec.configuration.cpuRequest", usual)?;
    Ok(Taken {
        cpu_millis: cpu_request.or(usual).unwrap_or_else(|| cpu_request_millis(vcpus, ratio)),
        memory_bytes: backed.saturating_add(overhead),
        cpu_limit_millis: millis("spec.domain.resources.limits.cpu", limits.get("cpu"))?,
        memory_limit_bytes: memory_limit
            .filter(|_| pages.is_none())
            .map(|limit| limit.max(visible).saturating_add(overhead)),
        hugepages: pages.map(|size| (size, visible)),
    })
}

/// Virtual processors: sockets, cores and threads multiplied; without a topology as many as requested, at least one.
fn vcpus(spec: &VirtualMachineInstanceSpec) -> i64 {
    spec.domain.cpu.as_ref().and_then(Cpu::vcpus).unwrap_or_else(|| {
        let resources = &spec.domain.resources;
        let named = resources.limits.get("cpu").or_else(|| resources.requests.get("cpu"));
        named.and_then(|quantity| quantity::units(quantity).ok()).unwrap_or(1).max(1)
    })
}

fn bytes(path: &'static str, value: Option<&Quantity>) -> Result<Option<i64>, RenderError> {
    value.map(quantity::units).transpose().map_err(|source| RenderError::Quantity { path, source })
}

fn millis(path: &'static str, value: Option<&Quantity>) -> Result<Option<i64>, RenderError> {
    value.map(quantity::millis).transpose().map_err(|source| RenderError::Quantity { path, source })
}

/// The guest's own affinity, and nodes only that have its physical networks.
fn affinity(own: Option<Affinity>, provider_networks: &[String]) -> Option<Affinity> {
    if provider_networks.is_empty() {
        return own;
    }
    let mut affinity = own.unwrap_or_default();
    let node = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = node.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    // Terms are alternatives and a requirement holds within one, so each of them gets ours.
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        let expressions = term.match_expressions.get_or_insert_with(Vec::new);
        expressions.extend(provider_networks.iter().map(|network| NodeSelectorRequirement {
            key: format!("{network}.provider-network.ovn.kubernetes.io/ready"),
            operator: "In".to_owned(),
            values: Some(vec!["true".to_owned()]),
        }));
    }
    Some(affinity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MIB: i64 = 1 << 20;

    fn vmi(domain: serde_json::Value) -> VirtualMachineInstance {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "11111111-2222-3333-4444-555555555555"},
            "spec": {"domain": domain},
        });
        serde_json::from_value(object).unwrap()
    }

    fn check(domain: serde_json::Value, cpu_millis: i64, memory_mib: i64) -> Taken {
        let taken = taken(&vmi(domain), None).unwrap();
        assert_eq!((taken.cpu_millis, taken.memory_bytes / MIB), (cpu_millis, memory_mib), "{taken:?}");
        taken
    }

    #[test]
    fn a_guest_takes_its_memory_and_overhead_and_a_tenth_of_its_processors() {
        check(json!({"devices": {}, "memory": {"guest": "1Gi"}}), 100, 1024 + 100);
        check(json!({"devices": {}, "cpu": {"cores": 2, "sockets": 2}, "memory": {"guest": "8Gi"}}), 400, 8192 + 138);
        let headless = json!({"devices": {"autoattachGraphicsDevice": false}, "memory": {"guest": "1Gi"}});
        check(headless, 100, 1024 + 68);
        let shares = json!([{"name": "a", "virtiofs": {}}, {"name": "b", "virtiofs": {}}]);
        check(json!({"devices": {"filesystems": shares}, "memory": {"guest": "1Gi"}}), 100, 1024 + 100 + 2 * 16);
    }

    #[test]
    fn a_request_of_its_own_counts() {
        let own = json!({"devices": {}, "memory": {"guest": "1Gi"},
            "resources": {"requests": {"memory": "512Mi", "cpu": "250m"}, "limits": {"memory": "512Mi", "cpu": "2"}}});
        let taken = check(own, 250, 512 + 108);
        assert_eq!(taken.cpu_limit_millis, Some(2000));
        assert_eq!(taken.memory_limit_bytes.map(|bytes| bytes / MIB), Some(1024 + 108), "never below the guest's own");
    }

    #[test]
    fn the_clusters_settings_count_where_the_guest_says_nothing() {
        let settings: KubeVirt = serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt"}, "spec": {"configuration": {"cpuRequest": "50m",
                "developerConfiguration": {"memoryOvercommit": 200}}}}))
        .unwrap();
        let silent = vmi(json!({"devices": {}, "memory": {"guest": "1Gi"}}));
        let guest = taken(&silent, Some(&settings)).unwrap();
        assert_eq!((guest.cpu_millis, guest.memory_bytes / MIB), (50, 512 + 100));
        let own = json!({"devices": {}, "memory": {"guest": "1Gi"}, "resources": {"requests": {"cpu": "250m"}}});
        assert_eq!(taken(&vmi(own), Some(&settings)).unwrap().cpu_millis, 250);
    }

    #[test]
    fn huge_pages_are_requested_as_what_they_are() {
        let huge = json!({"devices": {}, "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}}});
        let resources = container(&check(huge, 100, 100)).resources.unwrap();
        for list in [resources.requests.unwrap(), resources.limits.unwrap()] {
            assert_eq!(list["hugepages-2Mi"].0, (1024 * MIB).to_string());
        }
    }

    #[test]
    fn the_overhead_can_be_left_out() {
        check(
            json!({"devices": {}, "memory": {"guest": "1Gi"}, "resources": {"overcommitGuestOverhead": true}}),
            100,
            1024,
        );
        let more = json!({"devices": {}, "memory": {"guest": "1Gi", "reservedOverhead": {"addedOverhead": "50Mi"}}});
        check(more, 100, 1024 + 150);
    }

    #[test]
    fn a_pod_is_placed_as_its_guest_asks() {
        let mut vmi = vmi(json!({"devices": {}, "memory": {"guest": "1Gi"}}));
        let spec = json!({
            "domain": vmi.spec.domain, "nodeSelector": {"disk": "fast"}, "priorityClassName": "high",
            "schedulerName": "mine", "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname"}]}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        });
        vmi.spec = serde_json::from_value(spec).unwrap();
        let pod = render(&vmi, &Reservation::default(), &[], BTreeMap::new(), None).unwrap().spec.unwrap();
        assert_eq!(pod.node_selector, Some(vmi.spec.node_selector));
        assert_eq!(pod.affinity, vmi.spec.affinity);
        assert_eq!(pod.tolerations, Some(vmi.spec.tolerations));
        assert_eq!(pod.topology_spread_constraints, Some(vmi.spec.topology_spread_constraints));
        assert_eq!((pod.priority_class_name.as_deref(), pod.scheduler_name.as_deref()), (Some("high"), Some("mine")));
    }

    #[test]
    fn says_what_is_missing() {
        let none = taken(&vmi(json!({"devices": {}})), None).unwrap_err();
        assert!(none.to_string().contains("spec.domain.memory.guest"), "{none}");
    }

    #[test]
    fn the_same_guest_has_the_same_pod() {
        let vmi = vmi(json!({"devices": {}, "memory": {"guest": "1Gi"}}));
        let name = name(&vmi);
        assert!(name.starts_with("virt-launcher-web-") && name.len() == "virt-launcher-web-".len() + 5, "{name}");
        let pod = render(&vmi, &Reservation::default(), &["provider".to_owned()], BTreeMap::new(), None).unwrap();
        assert_eq!(pod.name_any(), name);
        let terms = pod.spec.unwrap().affinity.unwrap().node_affinity.unwrap();
        let terms = terms.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
        let key = &terms[0].match_expressions.as_ref().unwrap()[0].key;
        assert_eq!(key, "provider.provider-network.ovn.kubernetes.io/ready");
    }
}
