//! The volumes of a guest: which images they are, and whether they can be opened yet. Reads caches only.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use furrow_api::datavolume::DataVolumePhase;
use furrow_api::reservation::{Reservation, ReservedVolume};
use furrow_api::vmi::Volume;
use furrow_api::{DataVolume, VirtualMachineInstance, names, quantity};
use furrow_model::vmi::{ClaimState, Filling, VolumeState, volume_state};

use super::status::HeldUp;
use crate::cluster::{Cluster, controller, find, find_cluster};
use crate::marks::claim_name;
use crate::vm::plug::is_hotpluggable;

/// The images of a guest's volumes, if all can be opened.
///
/// # Errors
/// What the guest waits for: of several things, the worst.
pub(crate) fn reserved(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Result<Vec<ReservedVolume>, HeldUp> {
    let namespace = vmi.namespace().unwrap_or_default();
    let mut reserved = Vec::new();
    let mut worst: Option<(VolumeState, String)> = None;
    for volume in &vmi.spec.volumes {
        let Some(claim) = claim_name(volume) else { continue };
        let (state, found) = judge(cluster, &namespace, volume, claim);
        match found {
            Some((claim, persistent)) => reserved.push(image(volume, &claim, &persistent)?),
            None if worst.as_ref().is_none_or(|(other, _)| state > *other) => worst = Some((state, claim.to_owned())),
            None => {}
        }
    }
    match worst {
        None => Ok(reserved),
        Some((state, claim)) => Err(waits_for(state, &namespace, &claim)),
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
    new.volumes.retain(|reserved| vmi.spec.volumes.iter().any(|volume| volume.name == reserved.name));
    let mut held_up = None;
    for volume in vmi.spec.volumes.iter().filter(|volume| is_hotpluggable(volume)) {
        let Some(claim) = claim_name(volume) else { continue };
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
    let state = volume_state(volume.data_volume.is_some(), filling, state);
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
