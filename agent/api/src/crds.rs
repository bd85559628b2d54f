//! The CustomResourceDefinitions of all kinds, made from the types and checked in under `crds/`.
//!
//! A test compares the files with the types; `make bless` writes them anew.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{
    CDIConfig, DataVolume, IP, KubeVirt, NetworkAttachmentDefinition, ProviderNetwork, StorageProfile, Subnet,
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration, Vlan,
};

/// Clients of the field report's time use this version of kubevirt.io; it has the schema of `v1`.
const OLD_KUBEVIRT_VERSION: &str = "v1alpha3";

/// Every CRD, in the order in which they are applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
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
    ]
}

fn with_old_version(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut old = crd.spec.versions[0].clone();
    old.name = OLD_KUBEVIRT_VERSION.to_owned();
    old.storage = false;
    old.deprecated = Some(true);
    old.deprecation_warning = Some(format!("kubevirt.io/{OLD_KUBEVIRT_VERSION} is deprecated; use kubevirt.io/v1"));
    crd.spec.versions.push(old);
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

    /// The API server warns about formats that it does not know.
    #[test]
    fn schemas_use_no_unsigned_formats() {
        for crd in all() {
            let text = serde_json::to_string(&crd).unwrap();
            for format in ["uint8", "uint16", "uint32", "uint64", "uint\""] {
                assert!(!text.contains(&format!("\"format\":\"{format}")), "{:?} has format {format}", crd.metadata.name);
            }
        }
    }
}
