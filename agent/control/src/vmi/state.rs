//! The state of a virtual machine that outlives its guests: a claim for each part of it that is kept. They belong to the VM,
//! so that Kubernetes deletes them with it; where a guest has no VM, to the guest. Named and labelled as KubeVirt's
//! (`pkg/storage/backend-storage`), but found by owner: a VM that is renamed takes its claims along, and they keep their
//! names. What is encrypted has a key as well (`state_key`). Refuses to give a machine the state of another.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};

use furrow_api::reservation::{STATE_NVRAM, STATE_TPM};
use furrow_api::vmi::{PvcVolume, Volume};
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};

use super::scratch::ScratchError;
use super::state_key;
use super::status::HeldUp;
use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller};
use crate::pod;

/// What a claim asks for: as much as the two slots of a TPM's state take, and more than the variables do. RBD makes of it
/// what is written.
const SIZE: &str = "1Mi";

/// A part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The variables of the UEFI firmware.
    Nvram,
    /// What the TPM does not forget, encrypted.
    Tpm,
}

impl Part {
    /// Its word in the label.
    fn label(self) -> &'static str {
        match self {
            Self::Nvram => "nvram",
            Self::Tpm => "tpm",
        }
    }

    /// The name of its volume in the reservation.
    fn volume(self) -> &'static str {
        match self {
            Self::Nvram => STATE_NVRAM,
            Self::Tpm => STATE_TPM,
        }
    }

    fn is_encrypted(self) -> bool {
        self == Self::Tpm
    }
}

/// The parts that a guest's machine keeps.
fn parts(vmi: &VirtualMachineInstance) -> Vec<Part> {
    let domain = &vmi.spec.domain;
    let rows = [(domain.keeps_nvram(), Part::Nvram), (domain.keeps_tpm(), Part::Tpm)];
    rows.into_iter().filter(|(kept, _)| *kept).map(|(_, part)| part).collect()
}

/// The volumes of a guest that keep its machine's state, as far as their claims are there.
pub(super) fn volumes(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Vec<Volume> {
    let owner = owner(vmi);
    let volume = |part: Part| {
        let claim_name = claim(cluster, vmi, &owner, part)?.name_any();
        let source = PvcVolume { claim_name, ..PvcVolume::default() };
        Some(Volume { name: part.volume().to_owned(), persistent_volume_claim: Some(source), ..Volume::default() })
    };
    parts(vmi).into_iter().filter_map(volume).collect()
}

/// Makes the claims that are missing, and their keys.
pub(super) async fn ensure(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Result<(), ScratchError> {
    let namespace = vmi.namespace().unwrap_or_default();
    let owner = owner(vmi);
    let mut made = None;
    for part in parts(vmi) {
        let api = cluster.api::<PersistentVolumeClaim>(&namespace);
        if let Some(claim) = claim(cluster, vmi, &owner, part) {
            if part.is_encrypted() {
                state_key::ensure(cluster, &claim).await?;
            }
            continue;
        }
        if is_known(&api, &owner, part).await.map_err(ScratchError::Call)? {
            let message = format!("the PVC of {}'s state is not known yet", vmi.name_any());
            return Err(ScratchError::HeldUp(HeldUp { passing: true, ..HeldUp::binding(message) }));
        }
        let claim = render(vmi, &owner, part);
        let name = claim.name_any();
        let waits = HeldUp::binding_own(format!("PVC {namespace}/{name} is not bound to a volume"));
        match calls::create(&api, &claim).await {
            // The cache will tell of it; until then it would look as if it were missing.
            Ok(Some(claim)) => {
                if part.is_encrypted() {
                    state_key::ensure(cluster, &claim).await?;
                }
                made = Some(waits);
            }
            // One of this name is on its way into the cache, or being deleted, or somebody else's.
            Ok(None) => return Err(ScratchError::HeldUp(HeldUp { passing: true, own: false, ..waits })),
            Err(error) => return Err(ScratchError::of_create(error)),
        }
    }
    made.map_or(Ok(()), |waits| Err(ScratchError::HeldUp(waits)))
}

/// Whether the API server knows a claim that the cache does not: of a machine that was renamed a moment ago, and would
/// begin with nothing if it got another.
async fn is_known(api: &Api<PersistentVolumeClaim>, owner: &OwnerReference, part: Part) -> Result<bool, CallError> {
    let params = ListParams::default().labels(&format!("{}={}", names::LABEL_STATE, part.label()));
    let claims = calls::within(|| "list PersistentVolumeClaims of state".to_owned(), api.list(&params)).await?;
    Ok(claims.items.iter().any(|claim| keeps(claim, owner, part)))
}

/// Whom the state belongs to.
fn owner(vmi: &VirtualMachineInstance) -> OwnerReference {
    controller::<VirtualMachine>(vmi).cloned().unwrap_or_else(|| pod::owner(vmi))
}

fn claim(
    cluster: &Cluster,
    vmi: &VirtualMachineInstance,
    owner: &OwnerReference,
    part: Part,
) -> Option<Arc<PersistentVolumeClaim>> {
    let namespace = vmi.namespace();
    let mut claims = cluster.claims.state().into_iter();
    claims.find(|claim| claim.namespace() == namespace && keeps(claim, owner, part))
}

/// Whether a claim keeps a part of the state of this owner's machine.
fn keeps(claim: &PersistentVolumeClaim, owner: &OwnerReference, part: Part) -> bool {
    claim.metadata.deletion_timestamp.is_none()
        && claim.labels().get(names::LABEL_STATE).is_some_and(|label| label == part.label())
        && claim.owner_references().iter().any(|other| other.controller == Some(true) && other.uid == owner.uid)
}

fn render(vmi: &VirtualMachineInstance, owner: &OwnerReference, part: Part) -> PersistentVolumeClaim {
    let labels = [(names::LABEL_STATE_FOR, vmi.name_any()), (names::LABEL_STATE, part.label().to_owned())];
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(&vmi.name_any(), &owner.uid, part)),
            namespace: vmi.namespace(),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteMany".to_owned()]),
            volume_mode: Some("Block".to_owned()),
            storage_class_name: Some(names::STORAGE_CLASS.to_owned()),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(SIZE.to_owned()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The name of a claim: always the same for the same machine, so that a pass that is begun again makes no second one, and
/// another for its namesakes, of which one may have taken the first one's claim with it when it was renamed.
fn claim_name(machine: &str, owner_uid: &str, part: Part) -> String {
    let digest = Sha256::digest(format!("{owner_uid}/{}", part.label()));
    let suffix: String = digest.iter().take(5).map(|byte| pod::letter(*byte)).collect();
    format!("{}-{machine}-{suffix}", names::LABEL_STATE_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vmi(owners: serde_json::Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "guest-1", "ownerReferences": owners},
            "spec": {"domain": {"devices": {}, "firmware": {"bootloader": {"efi": {"persistent": true}}}}},
        }))
        .unwrap()
    }

    fn vm(uid: &str) -> serde_json::Value {
        json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "web", "uid": uid, "controller": true}])
    }

    fn rendered(vmi: &VirtualMachineInstance) -> PersistentVolumeClaim {
        render(vmi, &owner(vmi), Part::Nvram)
    }

    #[test]
    fn state_belongs_to_the_machine_and_without_one_to_the_guest() {
        let claim = rendered(&vmi(vm("vm-1")));
        assert_eq!(controller::<VirtualMachine>(&claim).unwrap().uid, "vm-1");
        assert_eq!(controller::<VirtualMachineInstance>(&rendered(&vmi(json!([])))).unwrap().uid, "guest-1");
        assert!(claim.name_any().starts_with("persistent-state-for-web-"), "{}", claim.name_any());
        assert_eq!(claim.labels()["persistent-state-for"], "web");
        let spec = claim.spec.unwrap();
        assert_eq!(spec.volume_mode.as_deref(), Some("Block"));
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteMany"]);
        assert_eq!(spec.resources.unwrap().requests.unwrap()["storage"].0, "1Mi");
    }

    #[test]
    fn a_guest_has_a_claim_for_each_part_that_it_keeps() {
        assert_eq!(parts(&vmi(json!([]))), [Part::Nvram]);
        let check = |tpm: serde_json::Value, expected: &[Part]| {
            let mut guest = vmi(json!([]));
            guest.spec.domain.firmware = None;
            guest.spec.domain.devices.tpm = serde_json::from_value(tpm.clone()).unwrap();
            assert_eq!(parts(&guest), expected, "{tpm}");
        };
        check(json!(null), &[]);
        check(json!({}), &[]);
        check(json!({"persistent": true}), &[Part::Tpm]);
        check(json!({"persistent": true, "enabled": true}), &[Part::Tpm]);
        check(json!({"persistent": true, "enabled": false}), &[]);
        let mut both = vmi(vm("vm-1"));
        both.spec.domain.devices.tpm = serde_json::from_value(json!({"persistent": true})).unwrap();
        assert_eq!(parts(&both), [Part::Nvram, Part::Tpm]);
        let [nvram, tpm] = [Part::Nvram, Part::Tpm].map(|part| render(&both, &owner(&both), part));
        assert_ne!(nvram.name_any(), tpm.name_any());
        assert_eq!(tpm.labels()["furrow.io/state"], "tpm");
        assert!(!keeps(&tpm, &owner(&both), Part::Nvram), "one part is not the other");
    }

    #[test]
    fn a_namesake_does_not_get_the_state_of_another() {
        let (first, second) = (vmi(vm("vm-1")), vmi(vm("vm-2")));
        let claim = rendered(&first);
        assert_ne!(claim.name_any(), rendered(&second).name_any());
        assert_eq!(claim.name_any(), rendered(&first).name_any());
        assert!(keeps(&claim, &owner(&first), Part::Nvram));
        assert!(!keeps(&claim, &owner(&second), Part::Nvram));
        // As renaming leaves it: another owner, the old name.
        let mut kept = claim;
        kept.metadata.owner_references = Some(vec![owner(&second)]);
        assert!(keeps(&kept, &owner(&second), Part::Nvram));
        kept.metadata.labels = None;
        assert!(!keeps(&kept, &owner(&second), Part::Nvram), "any other claim of the VM");
    }
}
