//! Volumes that are plugged into a machine, or out of it: from its spec and the client's options to what is written, or to
//! why nothing is; KubeVirt's rules and words. A machine's volume is written to its template, and its running guest follows
//! (`crate::vm::plug`); a guest's alone is written to the guest and remembered as such. Pure. Refuses to plug what no running
//! guest has a place for: disks of another bus than SCSI.

use furrow_api::subresources::is_dry_run;
use furrow_api::vm::{AddVolumeOptions, HotplugVolumeSource, RemoveVolumeOptions};
use furrow_api::vmi::{Disk, VmiPhase, Volume};
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::failure::Failure;
use super::machine::Change;
use super::options;
use super::route::Resource;
use crate::admission;
use crate::vm::plug::{can_join, can_leave, ephemeral};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Add(Box<AddVolumeOptions>),
    Remove(RemoveVolumeOptions),
}

impl Asked {
    /// Whether it is only to be checked.
    pub(super) fn is_dry_run(&self) -> bool {
        match self {
            Self::Add(options) => is_dry_run(&options.dry_run),
            Self::Remove(options) => is_dry_run(&options.dry_run),
        }
    }
}

/// Reads what is to be plugged in.
///
/// # Errors
/// 400 when something is missing.
pub(super) fn read_add(body: &[u8]) -> Result<Asked, Failure> {
    let mut document = options::document(body)?;
    let has = |field: &str| document.get(field).is_some_and(|value| !value.is_null());
    let name = document["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Failure::bad_request("AddVolumeOptions requires name to be set"));
    }
    for (field, word) in [("disk", "disk"), ("volumeSource", "VolumeSource")] {
        if !has(field) {
            return Err(Failure::bad_request(format!("AddVolumeOptions requires {word} to not be nil")));
        }
    }
    // A disk is named as its volume is, whatever the client calls it.
    if document["disk"].is_object() {
        document["disk"]["name"] = json!(name);
    }
    let mut options: AddVolumeOptions = read(document)?;
    match &mut options.volume_source {
        HotplugVolumeSource { data_volume: Some(source), persistent_volume_claim: None } => source.hotpluggable = true,
        HotplugVolumeSource { data_volume: None, persistent_volume_claim: Some(source) } => source.hotpluggable = true,
        _ => {
            let why = "AddVolumeOptions requires volumeSource to be one of dataVolume and persistentVolumeClaim";
            return Err(Failure::bad_request(why));
        }
    }
    Ok(Asked::Add(Box::new(options)))
}

/// Reads what is to be plugged out.
///
/// # Errors
/// 400 when there is no name.
pub(super) fn read_remove(body: &[u8]) -> Result<Asked, Failure> {
    let document = options::document(body)?;
    if document["name"].as_str().unwrap_or_default().is_empty() {
        return Err(Failure::bad_request("RemoveVolumeOptions requires name to be set"));
    }
    Ok(Asked::Remove(read(document)?))
}

fn read<T: serde::de::DeserializeOwned>(document: Value) -> Result<T, Failure> {
    serde_json::from_value(document)
        .map_err(|error| Failure::bad_request(format!("Can not unmarshal Request body to struct, error: {error}")))
}

/// Plans the change of a virtual machine.
///
/// # Errors
/// Why it stays as it is.
pub(super) fn change(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    asked: &Asked,
) -> Result<Change, Failure> {
    let spec = &vm.spec.template.spec;
    let (volumes, disks) = changed(&spec.volumes, &spec.domain.devices.disks, asked)
        .map_err(|why| Failure::conflict(Resource::VirtualMachines, &vm.name_any(), &why))?;
    let live = vmi.is_some_and(|vmi| vmi.status.as_ref().is_none_or(|status| !status.phase.is_final()));
    if live {
        check_place(asked, spec.domain.devices.disable_hotplug)
            .map_err(|why| Failure::conflict(Resource::VirtualMachines, &vm.name_any(), &why))?;
    }
    let spec = json!({"volumes": volumes, "domain": {"devices": {"disks": disks}}});
    let machine = Some(json!({"spec": {"template": {"spec": spec}}}));
    Ok(Change { machine, ..Change::default() })
}

/// Plans the change of a running guest alone; a merge patch of it.
///
/// # Errors
/// Why it stays as it is.
pub(super) fn change_guest(vmi: &VirtualMachineInstance, asked: &Asked) -> Result<Value, Failure> {
    let conflict = |why: String| Failure::conflict(Resource::VirtualMachineInstances, &vmi.name_any(), &why);
    if vmi.status.as_ref().is_none_or(|status| status.phase != VmiPhase::Running) {
        return Err(conflict("VMI is not running".to_owned()));
    }
    let spec = &vmi.spec;
    let (volumes, disks) = changed(&spec.volumes, &spec.domain.devices.disks, asked).map_err(conflict)?;
    check_place(asked, spec.domain.devices.disable_hotplug).map_err(conflict)?;
    let mut new = spec.clone();
    new.volumes.clone_from(&volumes);
    new.domain.devices.disks.clone_from(&disks);
    // What stays is numbered anew when something goes, and was judged before.
    let adds = matches!(asked, Asked::Add(_));
    let faults = if adds { admission::new_faults(vmi, &new) } else { Vec::new() };
    if !faults.is_empty() {
        return Err(Failure::bad_request(faults.join(", ")));
    }
    let mut own = ephemeral(vmi);
    match asked {
        Asked::Add(options) => own.push(options.name.clone()),
        Asked::Remove(options) => {
            let machine = vmi.owner_references().iter().any(|owner| owner.kind == "VirtualMachine");
            let left = |name: &String| volumes.iter().any(|volume| volume.name == *name);
            let gone: Vec<_> =
                spec.volumes.iter().map(|volume| volume.name.clone()).filter(|name| !left(name)).collect();
            if machine && gone.iter().any(|name| !own.contains(name)) {
                let name = &options.name;
                let why =
                    format!("Unable to remove volume [{name}] because it is the VirtualMachine's: remove it there");
                return Err(conflict(why));
            }
            let held = |disk: &&Disk| gone.contains(&disk.name) && !can_leave(disk);
            if let Some(disk) = spec.domain.devices.disks.iter().find(held) {
                let why = format!("Unable to remove volume [{}] because no guest lets go of its bus", disk.name);
                return Err(conflict(why));
            }
            own.retain(|name| !gone.contains(name));
        }
    }
    let annotation = (!own.is_empty()).then(|| json!(own).to_string());
    Ok(json!({"metadata": {"annotations": {names::ANNOTATION_EPHEMERAL_VOLUMES: annotation}},
        "spec": {"volumes": volumes, "domain": {"devices": {"disks": disks}}}}))
}

/// Whether a running guest has a place for what is to be plugged in. `closed`: it was made without.
fn check_place(asked: &Asked, closed: bool) -> Result<(), String> {
    match asked {
        Asked::Add(options) if closed => {
            Err(format!("Unable to add volume [{}] because domain.devices.disableHotplug is set", options.name))
        }
        Asked::Add(options) if !can_join(&options.disk) => Err(format!(
            "Unable to add volume [{}] because disk.disk.bus must be scsi to be plugged into a running guest",
            options.name
        )),
        _ => Ok(()),
    }
}

/// Volumes and disks as they are to be.
///
/// # Errors
/// KubeVirt's sentence about why they cannot.
fn changed(volumes: &[Volume], disks: &[Disk], asked: &Asked) -> Result<(Vec<Volume>, Vec<Disk>), String> {
    let (mut volumes, mut disks) = (volumes.to_vec(), disks.to_vec());
    match asked {
        Asked::Add(options) => {
            let name = &options.name;
            if volumes.iter().any(|volume| volume.name == *name) || disks.iter().any(|disk| disk.name == *name) {
                return Err(format!("Unable to add volume [{name}] because volume with that name already exists"));
            }
            let HotplugVolumeSource { data_volume, persistent_volume_claim } = options.volume_source.clone();
            let added = Volume { name: name.clone(), data_volume, persistent_volume_claim, ..Volume::default() };
            let claim = added.claim_name().unwrap_or_default();
            if volumes.iter().any(|volume| volume.claim_name() == Some(claim)) {
                return Err(format!("Unable to add volume source [{claim}] because it already exists"));
            }
            volumes.push(added);
            disks.push(options.disk.clone());
        }
        Asked::Remove(options) => {
            let name = options.name.as_str();
            let found = volumes.iter().find(|volume| volume.name == name || volume.claim_name() == Some(name));
            let found = found.ok_or_else(|| format!("Unable to remove volume [{name}] because it does not exist"))?;
            if !found.is_hotpluggable() {
                return Err(format!("Unable to remove volume [{}] because it is not hotpluggable", found.name));
            }
            let name = found.name.clone();
            volumes.retain(|volume| volume.name != name);
            disks.retain(|disk| disk.name != name);
        }
    }
    Ok((volumes, disks))
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
