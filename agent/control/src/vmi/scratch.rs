//! Claims of a guest's own: an `emptyDisk` is a fresh RBD image, an `ephemeral` volume a copy-on-write clone of the claim
//! below it. Both belong to the VirtualMachineInstance, so that Kubernetes deletes them with it, whatever becomes of the
//! node; a file of the node would fill its disk, be left behind by a crash, and keep the guest from moving. Refuses to
//! write to the claim below. Disks of images are made by `container_disk`, under names from here.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use furrow_api::vmi::Volume;
use furrow_api::{VirtualMachineInstance, names};

use super::status::HeldUp;
use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find};
use crate::pod;

/// What a guest asks for: its own claim, and what is in it.
enum Content<'a> {
    /// Zeroes.
    Empty(&'a Quantity),
    /// The content of a claim of the same namespace.
    Copy(&'a str),
}

fn content(volume: &Volume) -> Option<Content<'_>> {
    if let Some(empty) = &volume.empty_disk {
        return Some(Content::Empty(&empty.capacity));
    }
    let below = volume.ephemeral.as_ref()?.persistent_volume_claim.as_ref()?;
    Some(Content::Copy(&below.claim_name))
}

/// Name of the claim that a volume of this guest has of its own; `None` for any other volume. Another guest of the same
/// name has another, so that what one run wrote is never seen by the next.
pub(crate) fn claim_name(vmi: &VirtualMachineInstance, volume: &Volume) -> Option<String> {
    if volume.container_disk.is_none() {
        content(volume)?;
    }
    // The pod's name tells this guest from its predecessors; a volume's name is a label, so that no two meet.
    let pod = pod::name(vmi);
    Some(format!("{}-{}", pod.trim_start_matches("virt-launcher-"), volume.name))
}

/// Whether a guest's own claim copies the claim of this name.
pub(crate) fn copies(volume: &Volume, name: &str) -> bool {
    matches!(content(volume), Some(Content::Copy(below)) if below == name)
}

/// Why a guest's own claims are not there.
pub(crate) enum ScratchError {
    /// The API server did not do its part.
    Call(CallError),
    /// The guest waits.
    HeldUp(HeldUp),
}

impl ScratchError {
    /// Something of the guest could not be made: what the API server refuses, as by a quota, is waited for.
    pub(crate) fn of_create(error: CallError) -> Self {
        if error.is_refusal() {
            return Self::HeldUp(HeldUp::passing("FailedCreate", error.message()));
        }
        Self::Call(error)
    }
}

/// Makes the claims that are missing.
pub(crate) async fn ensure(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Result<(), ScratchError> {
    let namespace = vmi.namespace().unwrap_or_default();
    let api = cluster.api::<PersistentVolumeClaim>(&namespace);
    let mut made = None;
    for volume in &vmi.spec.volumes {
        let (Some(content), Some(name)) = (content(volume), claim_name(vmi, volume)) else { continue };
        if let Some(claim) = find(&cluster.claims, &namespace, &name) {
            belongs(&claim, vmi).map_err(ScratchError::HeldUp)?;
            continue;
        }
        let below = match content {
            Content::Copy(below) => match find(&cluster.claims, &namespace, below) {
                Some(found) => Some(found),
                None => return Err(ScratchError::HeldUp(no_claim(&namespace, below))),
            },
            Content::Empty(_) => None,
        };
        let claim = render(vmi, &name, &content, below.as_deref()).map_err(ScratchError::HeldUp)?;
        match calls::create(&api, &claim).await {
            Ok(_) => made = Some(name),
            Err(error) => return Err(ScratchError::of_create(error)),
        }
    }
    // The cache will tell of it; until then it would look as if it were missing.
    made.map_or(Ok(()), |name| {
        Err(ScratchError::HeldUp(HeldUp::binding_own(format!("PVC {namespace}/{name} is not bound to a volume"))))
    })
}

fn no_claim(namespace: &str, name: &str) -> HeldUp {
    let message = format!("PVC {namespace}/{name} does not exist, waiting for it to appear");
    HeldUp::until_change("FailedPvcNotFound", message)
}

fn belongs(claim: &PersistentVolumeClaim, vmi: &VirtualMachineInstance) -> Result<(), HeldUp> {
    let owner = controller::<VirtualMachineInstance>(claim);
    if owner.is_some_and(|owner| Some(&owner.uid) == vmi.metadata.uid.as_ref()) {
        return Ok(());
    }
    let message = format!("PVC {} exists and is not this guest's", claim.name_any());
    Err(HeldUp::until_change("FailedCreate", message))
}

fn render(
    vmi: &VirtualMachineInstance,
    name: &str,
    content: &Content<'_>,
    below: Option<&PersistentVolumeClaim>,
) -> Result<PersistentVolumeClaim, HeldUp> {
    let spec = below.and_then(|claim| claim.spec.as_ref());
    let (size, data_source) = match content {
        Content::Empty(capacity) => ((*capacity).clone(), None),
        Content::Copy(below_name) => {
            let capacity = below.and_then(|claim| claim.status.as_ref()?.capacity.as_ref()?.get("storage").cloned());
            let unbound = || HeldUp::binding(format!("PVC {below_name} is not bound to a volume"));
            let source = TypedLocalObjectReference {
                api_group: None,
                kind: "PersistentVolumeClaim".to_owned(),
                name: (*below_name).to_owned(),
            };
            (capacity.ok_or_else(unbound)?, Some(source))
        }
    };
    let class = spec.and_then(|spec| spec.storage_class_name.clone());
    Ok(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: vmi.namespace(),
            labels: Some([(names::LABEL_CREATED_BY.to_owned(), vmi.uid().unwrap_or_default())].into()),
            owner_references: Some(vec![pod::owner(vmi)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteMany".to_owned()]),
            volume_mode: Some("Block".to_owned()),
            storage_class_name: Some(class.unwrap_or_else(|| names::STORAGE_CLASS.to_owned())),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                limits: None,
            }),
            data_source,
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vmi(uid: &str) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": uid},
            "spec": {"domain": {"devices": {}}, "volumes": [
                {"name": "scratch", "emptyDisk": {"capacity": "2Gi"}},
                {"name": "over", "ephemeral": {"persistentVolumeClaim": {"claimName": "golden"}}},
                {"name": "root", "persistentVolumeClaim": {"claimName": "golden"}}]},
        }))
        .unwrap()
    }

    fn rendered(index: usize, below: Option<&PersistentVolumeClaim>) -> Result<PersistentVolumeClaim, HeldUp> {
        let vmi = vmi("u-1");
        let volume = &vmi.spec.volumes[index];
        render(&vmi, &claim_name(&vmi, volume).unwrap(), &content(volume).unwrap(), below)
    }

    #[test]
    fn an_empty_disk_is_a_claim_of_its_size_that_the_guest_owns() {
        let claim = rendered(0, None).unwrap();
        assert!(claim.name_any().starts_with("web-") && claim.name_any().ends_with("-scratch"), "{}", claim.name_any());
        assert_eq!(controller::<VirtualMachineInstance>(&claim).unwrap().uid, "u-1");
        let spec = claim.spec.unwrap();
        assert_eq!(spec.resources.unwrap().requests.unwrap()["storage"].0, "2Gi");
        assert_eq!((spec.volume_mode.as_deref(), spec.data_source), (Some("Block"), None));
        assert_eq!(spec.storage_class_name.as_deref(), Some(names::STORAGE_CLASS));
    }

    #[test]
    fn an_ephemeral_volume_is_a_clone_of_the_claim_below() {
        let below: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeMode": "Block", "storageClassName": "fast"}, "status": {"capacity": {"storage": "5Gi"}}}))
        .unwrap();
        let spec = rendered(1, Some(&below)).unwrap().spec.unwrap();
        assert_eq!(spec.data_source.unwrap().name, "golden");
        assert_eq!(spec.resources.unwrap().requests.unwrap()["storage"].0, "5Gi");
        assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
        let unbound = rendered(1, Some(&PersistentVolumeClaim::default())).unwrap_err();
        assert_eq!(unbound.reason, "PvcNotBound");
    }

    #[test]
    fn each_run_has_claims_of_its_own() {
        let (first, second) = (vmi("u-1"), vmi("u-2"));
        let name = |vmi: &VirtualMachineInstance, index: usize| claim_name(vmi, &vmi.spec.volumes[index]);
        assert_ne!(name(&first, 0), name(&second, 0));
        assert_ne!(name(&first, 0), name(&first, 1));
        assert_eq!(name(&first, 2), None);
        assert!(copies(&first.spec.volumes[1], "golden") && !copies(&first.spec.volumes[2], "golden"));
    }
}
