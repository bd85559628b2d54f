//! The object graph of a virtual machine or a guest: what it is made of, by KubeVirt's rules for which objects there are and
//! in what order. Pure. Refuses to look whether they exist.

use std::collections::BTreeMap;

use furrow_api::subresources::{ObjectGraphNode, ObjectGraphOptions, ObjectReference};
use furrow_api::vm::{InstancetypeMatcher, InstancetypeStatusRef};
use furrow_api::vmi::{VirtualMachineInstanceSpec, Volume};
use furrow_api::{VirtualMachine, VirtualMachineInstance};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::failure::Failure;

/// Label of a node, and what it says.
const DEPENDENCY: &str = "kubevirt.io/dependency-type";
const COMPUTE: &str = "compute";
const STORAGE: &str = "storage";
const NETWORK: &str = "network";
const CONFIG: &str = "config";

/// A kind of objects: its group, its name, and what depends on it.
type Kind = (&'static str, &'static str, &'static str);

const VM: Kind = ("kubevirt.io", "VirtualMachine", COMPUTE);
const VMI: Kind = ("kubevirt.io", "VirtualMachineInstance", COMPUTE);
const POD: Kind = ("", "Pod", COMPUTE);
const DATA_VOLUME: Kind = ("cdi.kubevirt.io", "DataVolume", STORAGE);
const CLAIM: Kind = ("", "PersistentVolumeClaim", STORAGE);
const CONFIG_MAP: Kind = ("", "ConfigMap", CONFIG);
const SECRET: Kind = ("", "Secret", CONFIG);
const SERVICE_ACCOUNT: Kind = ("", "ServiceAccount", CONFIG);
const REVISION: Kind = ("apps", "ControllerRevision", CONFIG);
const ATTACHMENT: Kind = ("k8s.cni.cncf.io", "NetworkAttachmentDefinition", NETWORK);

/// Instancetypes and preferences, each for a namespace and for the cluster.
const TYPES: [&str; 4] = [
    "VirtualMachineInstancetype",
    "VirtualMachinePreference",
    "VirtualMachineClusterInstancetype",
    "VirtualMachineClusterPreference",
];

/// The graph of a virtual machine. `pod`: name of its guest's pod.
///
/// # Errors
/// 400 when the options name a selector that is none.
pub(super) fn of_machine(
    vm: &VirtualMachine,
    pod: Option<String>,
    options: &ObjectGraphOptions,
) -> Result<ObjectGraphNode, Failure> {
    let namespace = vm.namespace().unwrap_or_default();
    let status = vm.status.as_ref();
    let mut children = Vec::new();
    if status.is_some_and(|status| status.created) {
        let pods = pod.map(|name| node(POD, &name, &namespace)).into_iter().collect();
        children.push(ObjectGraphNode { children: pods, ..node(VMI, &vm.name_any(), &namespace) });
    }
    let instancetype = status.and_then(|status| status.instancetype_ref.as_ref());
    let preference = status.and_then(|status| status.preference_ref.as_ref());
    children.extend(matched(vm.spec.instancetype.as_ref(), TYPES[0], instancetype, &namespace));
    children.extend(matched(vm.spec.preference.as_ref(), TYPES[1], preference, &namespace));
    children.extend(of_spec(&vm.spec.template.spec, &namespace));
    chosen(ObjectGraphNode { children, ..node(VM, &vm.name_any(), &namespace) }, options)
}

/// The graph of a guest.
///
/// # Errors
/// As [`of_machine`].
pub(super) fn of_guest(
    vmi: &VirtualMachineInstance,
    pod: Option<String>,
    options: &ObjectGraphOptions,
) -> Result<ObjectGraphNode, Failure> {
    let namespace = vmi.namespace().unwrap_or_default();
    let mut children: Vec<_> = pod.map(|name| node(POD, &name, &namespace)).into_iter().collect();
    children.extend(of_spec(&vmi.spec, &namespace));
    chosen(ObjectGraphNode { children, ..node(VMI, &vmi.name_any(), &namespace) }, options)
}

fn node((group, kind, depends): Kind, name: &str, namespace: &str) -> ObjectGraphNode {
    ObjectGraphNode {
        object_reference: ObjectReference {
            api_group: group.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        },
        labels: BTreeMap::from([(DEPENDENCY.to_owned(), depends.to_owned())]),
        optional: None,
        children: Vec::new(),
    }
}

/// An instancetype or a preference, and the copy of it in effect. `default`: the kind where none is named.
fn matched(
    matcher: Option<&InstancetypeMatcher>,
    default: &'static str,
    effective: Option<&InstancetypeStatusRef>,
    namespace: &str,
) -> Vec<ObjectGraphNode> {
    let Some(matcher) = matcher else { return Vec::new() };
    let named = matcher.kind.as_deref().filter(|kind| !kind.is_empty());
    // Where none is named it is the cluster's.
    let named = named.map_or_else(|| default.replacen("Machine", "MachineCluster", 1), str::to_owned);
    let kind = TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(&named));
    let optional = |node: ObjectGraphNode| ObjectGraphNode { optional: Some(true), ..node };
    let of_kind = |kind: &'static str| {
        let namespace = if kind.contains("Cluster") { "" } else { namespace };
        optional(node(
            ("instancetype.kubevirt.io", kind, CONFIG),
            matcher.name.as_deref().unwrap_or_default(),
            namespace,
        ))
    };
    let revision = effective.and_then(|effective| effective.controller_revision_ref.as_ref()?.name.as_deref());
    let revision = revision.map(|name| optional(node(REVISION, name, namespace)));
    kind.map(of_kind).into_iter().chain(revision).collect()
}

fn of_spec(spec: &VirtualMachineInstanceSpec, namespace: &str) -> Vec<ObjectGraphNode> {
    let credentials = spec.access_credentials.iter().filter_map(|credential| {
        let key = credential.ssh_public_key.as_ref().map(|key| &key.source);
        let source = key.or_else(|| credential.user_password.as_ref().map(|password| &password.source))?;
        Some(node(SECRET, &source.secret.as_ref()?.secret_name, namespace))
    });
    let volumes = spec.volumes.iter().flat_map(|volume| of_volume(volume, namespace));
    let networks = spec.networks.iter().filter_map(|network| {
        let full = &network.multus.as_ref()?.network_name;
        let (namespace, name) = full.split_once('/').unwrap_or((namespace, full));
        Some(node(ATTACHMENT, name, namespace))
    });
    credentials.chain(volumes).chain(networks).collect()
}

fn of_volume(volume: &Volume, namespace: &str) -> Vec<ObjectGraphNode> {
    let named = |kind: Kind, name: Option<&String>| name.map(|name| node(kind, name, namespace)).into_iter().collect();
    if let Some(source) = &volume.data_volume {
        let children = vec![node(CLAIM, &source.name, namespace)];
        return vec![ObjectGraphNode { children, ..node(DATA_VOLUME, &source.name, namespace) }];
    }
    if let Some(source) = volume.persistent_volume_claim.as_ref().or(volume.memory_dump.as_ref()) {
        return vec![node(CLAIM, &source.claim_name, namespace)];
    }
    if let Some(source) = &volume.config_map {
        return named(CONFIG_MAP, source.name.as_ref());
    }
    if let Some(source) = &volume.secret {
        return named(SECRET, source.secret_name.as_ref());
    }
    if let Some(source) = &volume.service_account {
        return named(SERVICE_ACCOUNT, source.service_account_name.as_ref());
    }
    let Some(source) = volume.cloud_init_no_cloud.as_ref().or(volume.cloud_init_config_drive.as_ref()) else {
        return Vec::new();
    };
    let secrets = [&source.secret_ref, &source.network_data_secret_ref].into_iter().flatten();
    secrets.filter(|secret| !secret.name.is_empty()).map(|secret| node(SECRET, &secret.name, namespace)).collect()
}

/// Leaves out what the options leave out, with everything below it.
fn chosen(mut root: ObjectGraphNode, options: &ObjectGraphOptions) -> Result<ObjectGraphNode, Failure> {
    let selector = options.label_selector.clone().map(Selector::try_from).transpose();
    let selector = selector.map_err(|error| Failure::bad_request(format!("labelSelector cannot be used: {error}")))?;
    let optional = options.include_optional_nodes.unwrap_or(true);
    let keep = |node: &ObjectGraphNode| {
        (optional || node.optional != Some(true)) && selector.as_ref().is_none_or(|wanted| wanted.matches(&node.labels))
    };
    prune(&mut root, &keep);
    Ok(root)
}

fn prune(node: &mut ObjectGraphNode, keep: &impl Fn(&ObjectGraphNode) -> bool) {
    node.children.retain(keep);
    node.children.iter_mut().for_each(|child| prune(child, keep));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vm() -> VirtualMachine {
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "shop"}, "status": {"created": true,
                "instancetypeRef": {"controllerRevisionRef": {"name": "web-r1"}}},
            "spec": {"instancetype": {"name": "small"},
                "preference": {"name": "debian", "kind": "VirtualMachinePreference"},
                "template": {"spec": {"domain": {"devices": {}},
                "accessCredentials": [{"sshPublicKey": {"source": {"secret": {"secretName": "keys"}},
                    "propagationMethod": {"noCloud": {}}}}],
                "networks": [{"name": "pod", "pod": {}}, {"name": "lan", "multus": {"networkName": "nets/vlan100"}}],
                "volumes": [{"name": "root", "dataVolume": {"name": "web-root"}},
                    {"name": "data", "persistentVolumeClaim": {"claimName": "web-data"}},
                    {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
                    {"name": "conf", "configMap": {"name": "settings"}}, {"name": "scratch", "emptyDisk": {"capacity": "1Gi"}}],
            }}}}))
        .unwrap()
    }

    /// `Kind namespace/name`, indented by depth, `?` for what is optional.
    fn drawn(node: &ObjectGraphNode, depth: usize, lines: &mut Vec<String>) {
        let reference = &node.object_reference;
        let mark = if node.optional == Some(true) { "?" } else { "" };
        let line = format!("{} {}/{}{mark}", reference.kind, reference.namespace, reference.name);
        lines.push(format!("{}{line}", " ".repeat(depth)));
        node.children.iter().for_each(|child| drawn(child, depth + 1, lines));
    }

    fn check(options: Value, expected: &[&str]) {
        let options = serde_json::from_value(options).unwrap();
        let mut lines = Vec::new();
        drawn(&of_machine(&vm(), Some("virt-launcher-web".into()), &options).unwrap(), 0, &mut lines);
        assert_eq!(lines, expected);
    }

    #[test]
    fn everything_that_a_machine_is_made_of_is_in_its_graph() {
        check(
            json!({}),
            &[
                "VirtualMachine shop/web",
                " VirtualMachineInstance shop/web",
                "  Pod shop/virt-launcher-web",
                " VirtualMachineClusterInstancetype /small?",
                " ControllerRevision shop/web-r1?",
                " VirtualMachinePreference shop/debian?",
                " Secret shop/keys",
                " DataVolume shop/web-root",
                "  PersistentVolumeClaim shop/web-root",
                " PersistentVolumeClaim shop/web-data",
                " Secret shop/seed",
                " ConfigMap shop/settings",
                " NetworkAttachmentDefinition nets/vlan100",
            ],
        );
    }

    #[test]
    fn options_leave_out_what_they_say() {
        let storage = json!({"labelSelector": {"matchLabels": {"kubevirt.io/dependency-type": "storage"}}});
        let expected = [
            "VirtualMachine shop/web",
            " DataVolume shop/web-root",
            "  PersistentVolumeClaim shop/web-root",
            " PersistentVolumeClaim shop/web-data",
        ];
        check(storage, &expected);
        let mut lines = Vec::new();
        let options = ObjectGraphOptions { include_optional_nodes: Some(false), ..ObjectGraphOptions::default() };
        drawn(&of_machine(&vm(), None, &options).unwrap(), 0, &mut lines);
        assert!(!lines.iter().any(|line| line.contains('?')), "{lines:?}");
        let odd = json!({"labelSelector": {"matchExpressions": [{"key": "x", "operator": "Near", "values": ["y"]}]}});
        let refused = of_machine(&vm(), None, &serde_json::from_value(odd).unwrap()).unwrap_err();
        assert_eq!(refused.told().0, 400);
    }

    #[test]
    fn a_node_has_kubevirts_fields() {
        let graph = serde_json::to_value(node(VM, "web", "shop")).unwrap();
        let expected = json!({"objectReference": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web",
            "namespace": "shop"}, "labels": {"kubevirt.io/dependency-type": "compute"}});
        assert_eq!(graph, expected);
    }
}
