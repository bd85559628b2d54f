//! The CustomResourceDefinitions of all kinds, made from the types and checked in under `crds/`.
//!
//! A test compares the files with the types; `make bless` writes them anew.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{
    CDIConfig, DataVolume, IP, KubeVirt, NetworkAttachmentDefinition, ProviderNetwork, StorageProfile, Subnet,
    VirtualMachine, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstancePreset, VirtualMachineInstanceReplicaSet,
    VirtualMachineInstancetype, VirtualMachinePool, VirtualMachinePreference, Vlan,
};

/// Clients of the field report's time use this version of kubevirt.io; it has the schema of `v1`.
const OLD_KUBEVIRT_VERSION: &str = "v1alpha3";

/// Clients of VirtualMachinePools of KubeVirt before 1.7.
const OLD_POOL_VERSION: &str = "v1alpha1";

/// Fields whose type is Kubernetes' own: `kubectl explain pod` describes what is below them.
const FOREIGN: [&str; 14] = [
    "affinity",
    "dnsConfig",
    "exec",
    "fields",
    "gatewayNodeSelectors",
    "httpGet",
    "labelSelector",
    "namespaceSelectors",
    "nodeSelector",
    "nodeSelectorRequirementMatcher",
    "selector",
    "tcpSocket",
    "tolerations",
    "topologySpreadConstraints",
];

/// Descriptions longer than this are those of Kubernetes' types, repeated wherever the type is used.
const DESCRIPTION_MAX: usize = 300;

/// Every CRD, in the order in which they are applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    let kinds = vec![
        with_old_version(VirtualMachine::crd()),
        without_status_subresource(with_old_version(VirtualMachineInstance::crd())),
        with_old_version(VirtualMachineInstanceMigration::crd()),
        with_old_version(KubeVirt::crd()),
        DataVolume::crd(),
        CDIConfig::crd(),
        StorageProfile::crd(),
        NetworkAttachmentDefinition::crd(),
        ProviderNetwork::crd(),
        Vlan::crd(),
        Subnet::crd(),
        IP::crd(),
        with_old_version(VirtualMachineInstanceReplicaSet::crd()),
        with_version(VirtualMachinePool::crd(), OLD_POOL_VERSION, None),
        with_old_version(deprecated(VirtualMachineInstancePreset::crd())),
        VirtualMachineInstancetype::crd(),
        VirtualMachineClusterInstancetype::crd(),
        VirtualMachinePreference::crd(),
        VirtualMachineClusterPreference::crd(),
    ];
    kinds.into_iter().map(described_once).collect()
}

/// Leaves out the descriptions that this crate did not write, and all of those of the old version. `kubectl apply` keeps
/// a copy of what it applies in an annotation, which takes 256 KiB; with every word repeated the copy would not fit.
fn described_once(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let is_old = !version.storage;
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        let mut value = serde_json::to_value(&*schema).expect("a schema that was just made is JSON");
        keep_descriptions(&mut value, !is_old);
        *schema = serde_json::from_value::<JSONSchemaProps>(value).expect("a schema without descriptions is a schema");
    }
    crd
}

fn keep_descriptions(schema: &mut Value, keep: bool) {
    let Some(node) = schema.as_object_mut() else { return };
    if node.get("description").and_then(Value::as_str).is_some_and(|text| !keep || text.len() > DESCRIPTION_MAX) {
        node.remove("description");
    }
    for (name, child) in node.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if FOREIGN.contains(&name.as_str()) {
            // The field's own description is this crate's; what is below it is not.
            let own = child.get("description").cloned().filter(|_| keep);
            keep_descriptions(child, false);
            if let (Some(own), Some(child)) = (own, child.as_object_mut()) {
                child.insert("description".to_owned(), own);
            }
        } else {
            keep_descriptions(child, keep);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key) {
            keep_descriptions(child, keep);
        }
    }
}

fn with_old_version(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let warning = format!("kubevirt.io/{OLD_KUBEVIRT_VERSION} is deprecated; use kubevirt.io/v1");
    with_version(crd, OLD_KUBEVIRT_VERSION, Some(warning))
}

/// Serves the same schema under another version; `deprecation`: what clients of that version are told.
fn with_version(
    mut crd: CustomResourceDefinition,
    name: &str,
    deprecation: Option<String>,
) -> CustomResourceDefinition {
    let mut other = crd.spec.versions[0].clone();
    other.name = name.to_owned();
    other.storage = false;
    other.deprecated = deprecation.is_some().then_some(true);
    other.deprecation_warning = deprecation;
    crd.spec.versions.push(other);
    crd
}

/// A kind that upstream will remove, in its newest version too.
fn deprecated(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        version.deprecated = Some(true);
        let warning = format!("{} is deprecated; use instancetypes and preferences", crd.spec.names.kind);
        version.deprecation_warning = Some(warning);
    }
    crd
}

/// A VMI's status is written through the object itself, as KubeVirt's clients expect.
fn without_status_subresource(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        version.subresources = None;
    }
    crd
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn checked_in_crds_are_those_of_the_types() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        #[expect(clippy::disallowed_methods, reason = "how golden files are blessed")]
        let bless = std::env::var("BLESS").is_ok();
        for crd in all() {
            let path = dir.join(format!("{}.yaml", crd.metadata.name.as_deref().unwrap()));
            let text = serde_saphyr::to_string(&serde_json::to_value(&crd).unwrap()).unwrap();
            if bless {
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == text, "{} differs from the types: run `make bless`", path.display());
        }
    }

    /// The annotation `kubectl.kubernetes.io/last-applied-configuration`, with all others, takes 262144 bytes.
    #[test]
    fn every_crd_fits_into_kubectls_annotation() {
        for crd in all() {
            let bytes = serde_json::to_vec(&crd).unwrap().len();
            assert!(bytes < 240 << 10, "{:?} has {bytes} bytes", crd.metadata.name);
        }
    }

    /// What users and tools see of a kind: facts of KubeVirt's, CDI's and Kube-OVN's CRDs.
    #[test]
    fn names_scopes_and_subresources_are_upstreams() {
        let check = |kind: &str, expected: &str| {
            let crd = all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
            let names = &crd.spec.names;
            let versions: Vec<_> = crd.spec.versions.iter().map(|version| version.name.as_str()).collect();
            let columns = crd.spec.versions[0].additional_printer_columns.iter().flatten();
            let found = format!(
                "{} {} {} {} {} status:{} {}",
                crd.metadata.name.unwrap_or_default(),
                versions.join("+"),
                crd.spec.scope,
                names.short_names.clone().unwrap_or_default().join(","),
                names.categories.clone().unwrap_or_default().join(","),
                crd.spec.versions[0].subresources.as_ref().is_some_and(|s| s.status.is_some()),
                columns.map(|column| column.name.as_str()).collect::<Vec<_>>().join(","),
            );
            assert_eq!(found, expected);
        };
        let old = "v1+v1alpha3 Namespaced";
        check("VirtualMachine", &format!("virtualmachines.kubevirt.io {old} vm,vms all status:true Age,Status,Ready"));
        check(
            "VirtualMachineInstance",
            &format!(
                "virtualmachineinstances.kubevirt.io {old} vmi,vmis all status:false \
                 Age,Phase,IP,NodeName,Ready,Live-Migratable,Paused"
            ),
        );
        check(
            "VirtualMachineInstanceMigration",
            &format!("virtualmachineinstancemigrations.kubevirt.io {old} vmim,vmims all status:true Phase,VMI"),
        );
        check("KubeVirt", &format!("kubevirts.kubevirt.io {old} kv,kvs all status:true Age,Phase"));
        let cdi = "v1beta1 Namespaced dv,dvs all status:true Phase,Progress,Restarts,Age";
        check("DataVolume", &format!("datavolumes.cdi.kubevirt.io {cdi}"));
        check("CDIConfig", "cdiconfigs.cdi.kubevirt.io v1beta1 Cluster   status:true ");
        check("StorageProfile", "storageprofiles.cdi.kubevirt.io v1beta1 Cluster   status:true ");
        let columns = "Desired,Current,Ready,Age";
        check(
            "VirtualMachineInstanceReplicaSet",
            &format!("virtualmachineinstancereplicasets.kubevirt.io {old} vmirs,vmirss all status:true {columns}"),
        );
        check(
            "VirtualMachinePool",
            &format!(
                "virtualmachinepools.pool.kubevirt.io v1beta1+v1alpha1 Namespaced vmpool,vmpools all status:true {columns}"
            ),
        );
        check(
            "VirtualMachineInstancePreset",
            &format!("virtualmachineinstancepresets.kubevirt.io {old} vmipreset,vmipresets all status:false "),
        );
        check(
            "VirtualMachineInstancetype",
            "virtualmachineinstancetypes.instancetype.kubevirt.io v1beta1 Namespaced \
             vminstancetype,vminstancetypes,vmf,vmfs all status:false ",
        );
        check(
            "VirtualMachineClusterInstancetype",
            "virtualmachineclusterinstancetypes.instancetype.kubevirt.io v1beta1 Cluster \
             vmclusterinstancetype,vmclusterinstancetypes,vmcf,vmcfs  status:false ",
        );
        check(
            "VirtualMachinePreference",
            "virtualmachinepreferences.instancetype.kubevirt.io v1beta1 Namespaced \
             vmpref,vmprefs,vmp,vmps all status:false ",
        );
        check(
            "VirtualMachineClusterPreference",
            "virtualmachineclusterpreferences.instancetype.kubevirt.io v1beta1 Cluster vmcp,vmcps  status:false ",
        );
        check("IP", "ips.kubeovn.io v1 Cluster ip  status:false V4IP,V6IP,Mac,Node,Subnet");
        check("Vlan", "vlans.kubeovn.io v1 Cluster vlan  status:true ID,Provider,conflict");
    }

    /// `kubectl scale` and autoscalers find them by these.
    #[test]
    fn what_has_replicas_can_be_scaled() {
        for kind in ["VirtualMachineInstanceReplicaSet", "VirtualMachinePool"] {
            let crd = all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
            for version in &crd.spec.versions {
                let scale = version.subresources.clone().unwrap().scale.unwrap();
                let paths = (scale.spec_replicas_path.as_str(), scale.status_replicas_path.as_str());
                assert_eq!(paths, (".spec.replicas", ".status.replicas"), "{kind} {}", version.name);
                assert_eq!(scale.label_selector_path.as_deref(), Some(".status.labelSelector"), "{kind}");
            }
        }
    }

    /// The API server warns about formats that it does not know.
    #[test]
    fn schemas_use_no_unsigned_formats() {
        for crd in all() {
            let text = serde_json::to_string(&crd).unwrap();
            for format in ["uint8", "uint16", "uint32", "uint64", "uint\""] {
                assert!(
                    !text.contains(&format!("\"format\":\"{format}")),
                    "{:?} has format {format}",
                    crd.metadata.name
                );
            }
        }
    }
}
