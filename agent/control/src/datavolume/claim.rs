//! The claim of a DataVolume: as its `pvc` says, or as its `storage` says and the StorageProfile completes. Reads caches
//! only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use furrow_api::DataVolume;
use furrow_api::datavolume::{PvcSpec, TypedRef, VolumeResources};
use furrow_api::storageprofile::ClaimPropertySet;

use super::copied;
use crate::cluster::{Cluster, find_cluster};

/// Marks the default storage class.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Labels and annotations of a DataVolume under this prefix are not for its claim.
const OWN_PREFIX: &str = "furrow.io/";

/// A DataVolume of which no claim can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Neither `pvc` nor `storage`.
    #[error("DataVolume spec has neither pvc nor storage")]
    Nothing,
    /// No size, and none to be copied.
    #[error("DataVolume spec has no resources.requests.storage")]
    NoSize,
}

/// The claim. `source`: the claim that is copied.
///
/// # Errors
/// When the spec does not say enough.
pub(crate) fn render(
    cluster: &Cluster,
    volume: &DataVolume,
    source: Option<&PersistentVolumeClaim>,
) -> Result<PersistentVolumeClaim, ClaimError> {
    let completed = match (&volume.spec.pvc, &volume.spec.storage) {
        (Some(pvc), _) => pvc.clone(),
        (None, Some(storage)) => complete(cluster, storage),
        (None, None) => return Err(ClaimError::Nothing),
    };
    let spec = spec(volume, completed, source)?;
    let kept = |map: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        map.iter().filter(|(key, _)| !key.starts_with(OWN_PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let mut labels = kept(volume.labels());
    labels.insert("app".to_owned(), "containerized-data-importer".to_owned());
    Ok(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(volume.name_any()),
            namespace: volume.namespace(),
            labels: Some(labels),
            annotations: Some(kept(volume.annotations())),
            owner_references: Some(vec![OwnerReference {
                api_version: DataVolume::api_version(&()).into_owned(),
                kind: DataVolume::kind(&()).into_owned(),
                name: volume.name_any(),
                uid: volume.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// `storage`, with what it leaves open from the profile of its storage class.
fn complete(cluster: &Cluster, storage: &furrow_api::datavolume::StorageSpec) -> PvcSpec {
    let profile = class_name(cluster, storage.storage_class_name.as_deref())
        .and_then(|class| find_cluster(&cluster.profiles, &class));
    let sets: Vec<ClaimPropertySet> = profile.as_deref().map_or_else(Vec::new, |profile| {
        let own = &profile.spec.claim_property_sets;
        let known = profile.status.as_ref().map(|status| status.claim_property_sets.as_slice()).unwrap_or_default();
        if own.is_empty() { known.to_vec() } else { own.clone() }
    });
    let fits = |set: &&ClaimPropertySet| {
        (storage.access_modes.is_empty() || storage.access_modes.iter().all(|mode| set.access_modes.contains(mode)))
            && (storage.volume_mode.is_none() || storage.volume_mode == set.volume_mode)
    };
    let set = sets.iter().find(fits);
    let access_modes = if storage.access_modes.is_empty() {
        set.map(|set| set.access_modes.clone()).unwrap_or_default()
    } else {
        storage.access_modes.clone()
    };
    PvcSpec {
        access_modes,
        volume_mode: storage.volume_mode.clone().or_else(|| set?.volume_mode.clone()),
        selector: storage.selector.clone(),
        resources: storage.resources.clone(),
        volume_name: storage.volume_name.clone(),
        storage_class_name: storage.storage_class_name.clone(),
        volume_attributes_class_name: None,
        data_source: storage.data_source.clone(),
        data_source_ref: storage.data_source_ref.clone(),
    }
}

/// The storage class that counts: the named one, or the default one.
fn class_name(cluster: &Cluster, named: Option<&str>) -> Option<String> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let classes = cluster.classes.state();
    let default =
        classes.iter().find(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true"));
    default.map(|class| class.name_any())
}

/// The storage class that a DataVolume names and that does not exist.
pub(crate) fn missing_class(cluster: &Cluster, volume: &DataVolume) -> Option<String> {
    let pvc = volume.spec.pvc.as_ref().and_then(|pvc| pvc.storage_class_name.clone());
    let named = pvc.or_else(|| volume.spec.storage.as_ref()?.storage_class_name.clone())?;
    (!named.is_empty() && find_cluster(&cluster.classes, &named).is_none()).then_some(named)
}

fn spec(
    volume: &DataVolume,
    pvc: PvcSpec,
    source: Option<&PersistentVolumeClaim>,
) -> Result<PersistentVolumeClaimSpec, ClaimError> {
    let modes = if pvc.access_modes.is_empty() { vec!["ReadWriteOnce".to_owned()] } else { pvc.access_modes };
    let source_spec = source.and_then(|claim| claim.spec.as_ref());
    // A copy has the mode of its source unless another is asked for.
    let volume_mode = pvc.volume_mode.or_else(|| source_spec?.volume_mode.clone());
    Ok(PersistentVolumeClaimSpec {
        access_modes: Some(modes),
        selector: pvc.selector,
        resources: Some(resources(pvc.resources.unwrap_or_default(), source)?),
        volume_name: pvc.volume_name,
        storage_class_name: pvc.storage_class_name,
        volume_mode,
        volume_attributes_class_name: pvc.volume_attributes_class_name,
        data_source: copy_source(volume).or_else(|| pvc.data_source.map(local)),
        data_source_ref: None,
    })
}

/// The size that is asked for, or that of the source.
fn resources(
    asked: VolumeResources,
    source: Option<&PersistentVolumeClaim>,
) -> Result<VolumeResourceRequirements, ClaimError> {
    let mut requests = asked.requests;
    if !requests.contains_key("storage") {
        let capacity = source.and_then(|claim| claim.status.as_ref()?.capacity.as_ref()?.get("storage").cloned());
        let size: Quantity = capacity.ok_or(ClaimError::NoSize)?;
        requests.insert("storage".to_owned(), size);
    }
    Ok(VolumeResourceRequirements {
        requests: Some(requests),
        limits: Some(asked.limits).filter(|limits| !limits.is_empty()),
    })
}

/// Within a namespace the claim names its source. Across namespaces it cannot: the agent finds the DataVolume by the
/// claim's owner.
fn copy_source(volume: &DataVolume) -> Option<TypedLocalObjectReference> {
    let (namespace, name) = copied(volume)?;
    (Some(namespace) == volume.namespace()).then(|| TypedLocalObjectReference {
        api_group: None,
        kind: "PersistentVolumeClaim".to_owned(),
        name,
    })
}

fn local(reference: TypedRef) -> TypedLocalObjectReference {
    TypedLocalObjectReference { api_group: reference.api_group, kind: reference.kind, name: reference.name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(spec: serde_json::Value) -> DataVolume {
        serde_json::from_value(json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
            "metadata": {"name": "copy", "namespace": "shop", "uid": "u"}, "spec": spec}))
        .unwrap()
    }

    #[test]
    fn a_copy_has_the_size_and_mode_of_its_source_and_names_it_within_a_namespace() {
        let source: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeMode": "Block"}, "status": {"phase": "Bound", "capacity": {"storage": "3Gi"}}}))
        .unwrap();
        let near = volume(json!({"source": {"pvc": {"namespace": "", "name": "golden"}}, "storage": {}}));
        let made = spec(&near, PvcSpec::default(), Some(&source)).unwrap();
        assert_eq!(made.volume_mode.as_deref(), Some("Block"));
        assert_eq!(made.resources.unwrap().requests.unwrap()["storage"].0, "3Gi");
        assert_eq!(made.data_source.unwrap().name, "golden");
        let far = volume(json!({"source": {"pvc": {"namespace": "images", "name": "golden"}}, "storage": {}}));
        assert_eq!(spec(&far, PvcSpec::default(), Some(&source)).unwrap().data_source, None);
        assert_eq!(spec(&far, PvcSpec::default(), None).unwrap_err(), ClaimError::NoSize);
    }
}
