//! The volumes of a guest: which images they are, and whether they can be opened yet. Reads caches only.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use furrow_api::datavolume::DataVolumePhase;
use furrow_api::reservation::{Reservation, ReservedVolume};
use furrow_api::vmi::{PersistentVolumeClaimInfo, Volume, VolumePhase, VolumeStatus};
use furrow_api::{DataVolume, VirtualMachineInstance, names, quantity};
use furrow_model::vmi::{ClaimState, Filling, VolumeState, volume_state};

use super::scratch;
use super::state;
use super::status::HeldUp;
use crate::cluster::{Cluster, controller, find, find_cluster};

/// The images of a guest's volumes, if all can be opened.
///
/// # Errors
/// What the guest waits for: of several things, the worst.
pub(crate) fn reserved(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Result<Vec<ReservedVolume>, HeldUp> {
    let namespace = vmi.namespace().unwrap_or_default();
    let mut reserved = Vec::new();
    let mut worst: Option<(Wait, String)> = None;
    let machine = state::volumes(cluster, vmi);
    for volume in vmi.spec.volumes.iter().chain(&machine) {
        let own = scratch::claim_name(vmi, volume);
        let Some(claim) = volume.claim_name().or(own.as_deref()) else { continue };
        let (state, found) = judge(cluster, &namespace, volume, claim);
        match found {
            Some((claim, persistent)) => reserved.push(image(volume, &claim, &persistent)?),
            None => {
                let foreign = own.is_none() && !machine.iter().any(|own| own.name == volume.name);
                let wait = Wait { state, foreign };
                if worst.as_ref().is_none_or(|(other, _)| wait > *other) {
                    worst = Some((wait, claim.to_owned()));
                }
            }
        }
    }
    match worst {
        None => Ok(reserved),
        Some((wait, claim)) => Err(wait.held_up(&namespace, &claim)),
    }
}

/// What one volume waits for. Ordered: of all volumes the worst is said, and of two alike one that somebody else made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wait {
    state: VolumeState,
    /// The claim is not one that control made for the guest.
    foreign: bool,
}

impl Wait {
    fn held_up(self, namespace: &str, claim: &str) -> HeldUp {
        let held_up = waits_for(self.state, namespace, claim);
        if !self.foreign && self.state == VolumeState::Unbound { HeldUp::binding_own(held_up.message) } else { held_up }
    }
}

/// The volumes of a guest as its status shows them before a node has it: what is known of each claim, and what it waits for.
pub(crate) fn shown(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Vec<VolumeStatus> {
    let namespace = vmi.namespace().unwrap_or_default();
    let one = |volume: &Volume| {
        let name = volume.name.clone();
        let Some(claim) = volume.claim_name() else { return VolumeStatus { name, ..VolumeStatus::default() } };
        let (state, _) = judge(cluster, &namespace, volume, claim);
        let claim = find(&cluster.claims, &namespace, claim).as_deref().map(claim_info);
        volume_status(name, state, claim, &namespace)
    };
    let mut shown: Vec<_> = vmi.spec.volumes.iter().map(one).collect();
    shown.sort_by(|one, other| one.name.cmp(&other.name));
    shown
}

fn volume_status(
    name: String,
    state: VolumeState,
    claim: Option<PersistentVolumeClaimInfo>,
    namespace: &str,
) -> VolumeStatus {
    let claim_name = claim.as_ref().and_then(|claim| claim.claim_name.clone()).unwrap_or_else(|| name.clone());
    let waits = (state != VolumeState::Ready).then(|| waits_for(state, namespace, &claim_name));
    VolumeStatus {
        name,
        phase: Some(if waits.is_none() { VolumePhase::Bound } else { VolumePhase::Pending }),
        reason: waits.as_ref().map(|waits| waits.reason.to_owned()),
        message: waits.map(|waits| waits.message),
        persistent_volume_claim_info: claim,
        ..VolumeStatus::default()
    }
}

fn claim_info(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimInfo {
    let spec = claim.spec.clone().unwrap_or_default();
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.clone());
    PersistentVolumeClaimInfo {
        claim_name: Some(claim.name_any()),
        access_modes: spec.access_modes.unwrap_or_default(),
        volume_mode: Some(spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned())),
        capacity: capacity.unwrap_or_default(),
        requests: spec.resources.and_then(|resources| resources.requests).unwrap_or_default(),
        ..PersistentVolumeClaimInfo::default()
    }
}

/// A reservation with the volumes that are to be plugged in, as far as they can be opened, and without those that the spec
/// no longer has; and what one of them waits for.
pub(crate) fn plugged(
    cluster: &Cluster,
    vmi: &VirtualMachineInstance,
    old: &Reservation,
) -> (Reservation, Option<HeldUp>) {
    let namespace = vmi.namespace().unwrap_or_default();
    let mut new = old.clone();
    new.volumes.retain(|reserved| stays(&vmi.spec.volumes, reserved));
    let mut held_up = None;
    for volume in vmi.spec.volumes.iter().filter(|volume| volume.is_hotpluggable()) {
        let Some(claim) = volume.claim_name() else { continue };
        if new.volumes.iter().any(|reserved| reserved.name == volume.name) {
            continue;
        }
        let (state, found) = judge(cluster, &namespace, volume, claim);
        match found.map(|(claim, persistent)| image(volume, &claim, &persistent)) {
            Some(Ok(reserved)) => new.volumes.push(reserved),
            Some(Err(error)) => held_up = Some(error),
            None => held_up = Some(waits_for(state, &namespace, claim)),
        }
    }
    (new, held_up)
}

/// Whether a guest still has a volume. One of the same name whose claim is another is another volume.
fn stays(volumes: &[Volume], reserved: &ReservedVolume) -> bool {
    if reserved.is_state() {
        return true;
    }
    let named = volumes.iter().find(|volume| volume.name == reserved.name);
    named.is_some_and(|volume| !volume.is_hotpluggable() || volume.claim_name() == Some(reserved.claim.as_str()))
}

fn waits_for(state: VolumeState, namespace: &str, claim: &str) -> HeldUp {
    let name = format!("{namespace}/{claim}");
    match state {
        VolumeState::Failed => {
            HeldUp::until_change("FailedDataVolumeImport", format!("DataVolume {name} cannot be filled"))
        }
        VolumeState::Filling => HeldUp::filling("Not all of the VMI's DVs are ready".to_owned()),
        VolumeState::Missing => {
            HeldUp::until_change("FailedPvcNotFound", format!("PVC {name} does not exist, waiting for it to appear"))
        }
        VolumeState::Lost => {
            HeldUp::until_change("FailedPvcNotFound", format!("PVC {name} is being deleted, or its volume is lost"))
        }
        VolumeState::Unbound | VolumeState::Ready => HeldUp::binding(format!("PVC {name} is not bound to a volume")),
    }
}

type Found = Option<(std::sync::Arc<PersistentVolumeClaim>, std::sync::Arc<PersistentVolume>)>;

fn judge(cluster: &Cluster, namespace: &str, volume: &Volume, name: &str) -> (VolumeState, Found) {
    let claim = find(&cluster.claims, namespace, name);
    let persistent =
        claim.as_ref().and_then(|claim| find_cluster(&cluster.volumes, claim.spec.as_ref()?.volume_name.as_ref()?));
    let filled_by = find(&cluster.data_volumes, namespace, name);
    let state = match (&claim, &persistent) {
        (None, _) => ClaimState::Missing,
        (Some(claim), _) if claim.metadata.deletion_timestamp.is_some() || claim_phase(claim) == "Lost" => {
            ClaimState::Lost
        }
        (Some(claim), Some(_)) if claim_phase(claim) == "Bound" => ClaimState::Bound,
        (Some(_), _) => ClaimState::Unbound,
    };
    // A DataVolume of the same name that does not own the claim has nothing to do with it.
    let owns = |filler: &DataVolume| {
        claim.as_ref().is_none_or(|claim| {
            controller::<DataVolume>(claim.as_ref())
                .is_some_and(|owner| Some(&owner.uid) == filler.metadata.uid.as_ref())
        })
    };
    let filling = match filled_by.filter(|filler| owns(filler)) {
        None => Filling::None,
        Some(filler) => match filler.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default() {
            DataVolumePhase::Succeeded => Filling::Done,
            DataVolumePhase::Failed => Filling::Failed,
            _ => Filling::UnderWay,
        },
    };
    let state = volume_state(volume.data_volume.is_some() || volume.container_disk.is_some(), filling, state);
    let found = if state == VolumeState::Ready { claim.zip(persistent) } else { None };
    (state, found)
}

/// Phase of a claim; "Pending" before anybody looked at it.
pub(crate) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn image(
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    persistent: &PersistentVolume,
) -> Result<ReservedVolume, HeldUp> {
    let name = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
    let (pool, image) = rbd_image(persistent).ok_or_else(|| {
        let message = format!(
            "PVC {name} cannot be a disk: its volume {} is not one of {}",
            persistent.name_any(),
            names::CSI_DRIVER
        );
        HeldUp::until_change("VolumeNotSupported", message)
    })?;
    let spec = claim.spec.as_ref();
    Ok(ReservedVolume {
        name: volume.name.clone(),
        claim: claim.name_any(),
        pool,
        image,
        access_modes: spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default(),
        volume_mode: spec.and_then(|spec| spec.volume_mode.clone()).unwrap_or_else(|| "Filesystem".to_owned()),
        read_only: volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only).unwrap_or(false),
        capacity_bytes: capacity_bytes(persistent),
    })
}

/// Pool and image behind a volume of Furrow's driver.
pub(crate) fn rbd_image(persistent: &PersistentVolume) -> Option<(String, String)> {
    let csi = persistent.spec.as_ref()?.csi.as_ref()?;
    let (pool, image) = csi.volume_handle.split_once('/')?;
    (csi.driver == names::CSI_DRIVER && !pool.is_empty() && !image.is_empty())
        .then(|| (pool.to_owned(), image.to_owned()))
}

/// Capacity of a volume, bytes; 0 if it names none.
pub(crate) fn capacity_bytes(persistent: &PersistentVolume) -> i64 {
    let capacity = persistent.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| quantity::units(quantity).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> PersistentVolumeClaim {
        let claim = serde_json::json!({"metadata": {"name": "web-root", "namespace": "shop"},
            "spec": {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "volumeName": "pv",
                "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "3Gi"}}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_reservation_keeps_what_the_guest_still_has() {
        let reserved: ReservedVolume = serde_json::from_value(serde_json::json!({"name": "data", "claim": "a",
            "pool": "p", "image": "i", "accessModes": [], "volumeMode": "Block", "readOnly": false, "capacityBytes": 1}))
        .unwrap();
        let check = |volume: serde_json::Value, expected| {
            let volumes: Vec<Volume> = serde_json::from_value(serde_json::json!([volume])).unwrap();
            assert_eq!(stays(&volumes, &reserved), expected, "{volumes:?}");
        };
        let claim = |name: &str, claim: &str| serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": claim, "hotpluggable": true}});
        check(claim("data", "a"), true);
        check(claim("data", "b"), false);
        check(claim("other", "a"), false);
        // The claim of an emptyDisk is not named in the spec.
        check(serde_json::json!({"name": "data", "emptyDisk": {"capacity": "1Gi"}}), true);
        let nvram = ReservedVolume { name: furrow_api::reservation::STATE_NVRAM.to_owned(), ..reserved.clone() };
        assert!(stays(&[], &nvram), "the machine's state is in no spec");
    }

    #[test]
    fn only_a_guests_own_claim_that_is_being_bound_is_told_apart() {
        let wait = |state, foreign| Wait { state, foreign };
        let check = |wait: Wait, own, reason| {
            let held_up = wait.held_up("shop", "a");
            assert_eq!((held_up.own, held_up.reason), (own, reason), "{wait:?}");
        };
        check(wait(VolumeState::Unbound, false), true, "PvcNotBound");
        check(wait(VolumeState::Unbound, true), false, "PvcNotBound");
        check(wait(VolumeState::Lost, false), false, "FailedPvcNotFound");
        assert!(wait(VolumeState::Unbound, true) > wait(VolumeState::Unbound, false));
        assert!(wait(VolumeState::Missing, false) > wait(VolumeState::Unbound, true));
    }

    #[test]
    fn a_volume_shows_its_claim_and_what_it_waits_for() {
        let info = claim_info(&claim());
        let shown = serde_json::to_value(&info).unwrap();
        let expected = serde_json::json!({"claimName": "web-root", "accessModes": ["ReadWriteMany"],
            "volumeMode": "Block", "capacity": {"storage": "3Gi"}, "requests": {"storage": "2Gi"}});
        assert_eq!(shown, expected);
        let bound = volume_status("root".into(), VolumeState::Ready, Some(info.clone()), "shop");
        assert_eq!((bound.phase, bound.reason), (Some(VolumePhase::Bound), None));
        let waits = volume_status("root".into(), VolumeState::Missing, Some(info), "shop");
        assert_eq!(waits.phase, Some(VolumePhase::Pending));
        assert_eq!(waits.reason.as_deref(), Some("FailedPvcNotFound"));
        assert!(waits.message.is_some_and(|message| message.contains("shop/web-root")));
    }
}
