//! Volumes of a running guest as its virtual machine has them: those that may be plugged in and out follow the template,
//! those of the guest alone stay. Refuses disks that a running guest has no place for: they wait for the next start.

use std::sync::Arc;

use furrow_api::vmi::{Disk, DiskBus, VirtualMachineInstanceSpec, Volume};
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use kube::ResourceExt;

use super::status::guest_over;
use super::{Machines, VmError};
use crate::calls;
use crate::cluster::key_of;

/// Names of volumes that were plugged into a guest and are not its machine's.
pub(crate) fn ephemeral(vmi: &VirtualMachineInstance) -> Vec<String> {
    let text = vmi.annotations().get(names::ANNOTATION_EPHEMERAL_VOLUMES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether a running guest has a place for a disk: one that was not made without has a SCSI controller, and none has a free
/// slot for a disk of its own.
pub(crate) fn can_join(disk: &Disk) -> bool {
    disk.cdrom.is_none() && disk.lun.is_none() && bus(disk) == Some(&DiskBus::Scsi)
}

/// Whether a guest can let go of a disk while it runs.
pub(crate) fn can_leave(disk: &Disk) -> bool {
    disk.cdrom.is_none() && disk.lun.is_none() && matches!(bus(disk), Some(DiskBus::Scsi | DiskBus::Virtio))
}

fn bus(disk: &Disk) -> Option<&DiskBus> {
    disk.disk.as_ref().and_then(|target| target.bus.as_ref())
}

/// Whether a list has this volume: of its name, and of its claim. How it is written does not matter.
fn has(volumes: &[Volume], volume: &Volume) -> bool {
    volumes.iter().any(|other| other.name == volume.name && other.claim_name() == volume.claim_name())
}

fn disk_of<'a>(spec: &'a VirtualMachineInstanceSpec, volume: &str) -> Option<&'a Disk> {
    spec.domain.devices.disks.iter().find(|disk| disk.name == volume)
}

/// The guest as it is to be; the same when nothing is to be plugged.
fn followed(vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    let template = &vm.spec.template.spec;
    let stays = ephemeral(vmi);
    let gone: Vec<_> = vmi
        .spec
        .volumes
        .iter()
        .filter(|volume| volume.is_hotpluggable() && !stays.contains(&volume.name) && !has(&template.volumes, volume))
        .filter(|volume| disk_of(&vmi.spec, &volume.name).is_some_and(can_leave))
        .map(|volume| volume.name.clone())
        .collect();
    new.spec.volumes.retain(|volume| !gone.contains(&volume.name));
    new.spec.domain.devices.disks.retain(|disk| !gone.contains(&disk.name));
    for volume in template.volumes.iter().filter(|volume| volume.is_hotpluggable()) {
        let place = !vmi.spec.domain.devices.disable_hotplug;
        let disk = disk_of(template, &volume.name).filter(|disk| place && can_join(disk));
        let there = new.spec.volumes.iter().any(|other| other.name == volume.name);
        if let (Some(disk), false) = (disk, there) {
            new.spec.volumes.push(volume.clone());
            new.spec.domain.devices.disks.push(disk.clone());
        }
    }
    new
}

/// Whether volumes that may be plugged have to wait for the next start all the same: there is no place for their disks, or
/// their disks cannot leave. `vmi`: after it has followed.
pub(super) fn awaits_start(vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> bool {
    let stays = ephemeral(vmi);
    let (template, own) = (&vm.spec.template.spec.volumes, &vmi.spec.volumes);
    let comes = template.iter().any(|volume| volume.is_hotpluggable() && !has(own, volume));
    let goes = own.iter().filter(|volume| volume.is_hotpluggable() && !stays.contains(&volume.name));
    comes || goes.into_iter().any(|volume| !has(template, volume))
}

impl Machines {
    /// Has a running guest follow its machine in the volumes that may be plugged. The guest as it is then.
    pub(super) async fn plug(
        &self,
        vm: &VirtualMachine,
        guest: Option<Arc<VirtualMachineInstance>>,
    ) -> Result<Option<Arc<VirtualMachineInstance>>, VmError> {
        let Some(vmi) = guest else { return Ok(None) };
        if guest_over(&vmi) || vmi.metadata.deletion_timestamp.is_some() {
            return Ok(Some(vmi));
        }
        let new = followed(vm, &vmi);
        let api = self.cluster.api::<VirtualMachineInstance>(&vm.namespace().unwrap_or_default());
        let Some(written) = calls::update(&api, vmi.as_ref(), &new).await? else { return Ok(Some(vmi)) };
        tracing::info!(vm = %key_of(vm), volumes = written.spec.volumes.len(), "volumes of the guest changed");
        Ok(Some(Arc::new(written)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(volumes: &[(&str, bool)]) -> Value {
        let volume = |(name, plugs): &(&str, bool)| json!({"name": name, "persistentVolumeClaim": {"claimName": format!("{name}-claim"), "hotpluggable": plugs}});
        let disk = |(name, _): &(&str, bool)| json!({"name": name, "disk": {"bus": "scsi"}});
        json!({"domain": {"devices": {"disks": volumes.iter().map(disk).collect::<Vec<_>>()}},
            "volumes": volumes.iter().map(volume).collect::<Vec<_>>()})
    }

    fn vm(volumes: &[(&str, bool)]) -> VirtualMachine {
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web"}, "spec": {"runStrategy": "Always", "template": {"spec": spec(volumes)}}}))
        .unwrap()
    }

    fn vmi(volumes: &[(&str, bool)], ephemeral: &[&str]) -> VirtualMachineInstance {
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "annotations": {names::ANNOTATION_EPHEMERAL_VOLUMES: json!(ephemeral).to_string()}},
            "spec": spec(volumes)}))
        .unwrap()
    }

    fn check(vm: &VirtualMachine, vmi: &VirtualMachineInstance, expected: &[&str]) {
        let new = followed(vm, vmi);
        let volumes: Vec<_> = new.spec.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let disks: Vec<_> = new.spec.domain.devices.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!((volumes.as_slice(), disks.as_slice()), (expected, expected));
    }

    #[test]
    fn a_guest_follows_its_machine_in_what_may_be_plugged_alone() {
        let root = ("root", false);
        check(&vm(&[root]), &vmi(&[root], &[]), &["root"]);
        check(&vm(&[root, ("data", true)]), &vmi(&[root], &[]), &["root", "data"]);
        check(&vm(&[root]), &vmi(&[root, ("data", true)], &[]), &["root"]);
        // Somebody's alone, and what waits for the next start.
        check(&vm(&[root]), &vmi(&[root, ("own", true)], &["own"]), &["root", "own"]);
        check(&vm(&[root, ("more", false)]), &vmi(&[root], &[]), &["root"]);
        check(&vm(&[("other", false)]), &vmi(&[root], &[]), &["root"]);
    }

    #[test]
    fn another_claim_under_the_same_name_is_another_volume() {
        let mut machine = vm(&[("data", true)]);
        let source = machine.spec.template.spec.volumes[0].persistent_volume_claim.as_mut().unwrap();
        source.claim_name = "other".to_owned();
        let new = followed(&machine, &vmi(&[("data", true)], &[]));
        assert_eq!(new.spec.volumes, machine.spec.template.spec.volumes);
        assert!(!awaits_start(&machine, &new));
        let written = json!([{"name": "data", "dataVolume": {"name": "data-claim", "hotpluggable": true}}]);
        machine.spec.template.spec.volumes = serde_json::from_value(written).unwrap();
        let guest = vmi(&[("data", true)], &[]);
        assert_eq!(followed(&machine, &guest), guest, "the same claim, written otherwise");
    }

    #[test]
    fn disks_that_have_no_place_or_cannot_leave_wait_for_the_next_start() {
        let on = |bus: &str, volumes: &[(&str, bool)]| {
            let mut machine = vm(volumes);
            for disk in &mut machine.spec.template.spec.domain.devices.disks {
                disk.disk.as_mut().unwrap().bus = Some(serde_json::from_value(json!(bus)).unwrap());
            }
            machine
        };
        for bus in ["virtio", "sata"] {
            let machine = on(bus, &[("data", true)]);
            let guest = vmi(&[], &[]);
            assert_eq!(followed(&machine, &guest), guest, "{bus} has no place");
            assert!(awaits_start(&machine, &guest));
        }
        let mut closed = vmi(&[], &[]);
        closed.spec.domain.devices.disable_hotplug = true;
        let machine = vm(&[("data", true)]);
        assert_eq!(followed(&machine, &closed), closed);
        assert!(awaits_start(&machine, &closed));
        let empty = vm(&[]);
        for (bus, leaves) in [("scsi", true), ("virtio", true), ("sata", false)] {
            let mut guest = vmi(&[], &[]);
            guest.spec = on(bus, &[("data", true)]).spec.template.spec;
            let new = followed(&empty, &guest);
            assert_eq!((new.spec.volumes.is_empty(), awaits_start(&empty, &new)), (leaves, !leaves), "{bus}");
        }
        let own = vmi(&[("own", true)], &["own"]);
        assert!(!awaits_start(&empty, &own), "what is the guest's alone waits for nothing");
    }
}
