//! Volumes of a running guest as its virtual machine has them: those that may be plugged in and out follow the template,
//! those of the guest alone stay. Pure.

use furrow_api::vm::VirtualMachineSpec;
use furrow_api::vmi::Volume;
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use kube::ResourceExt;

/// Whether a volume may be plugged into a running guest, and out of it.
pub(crate) fn is_hotpluggable(volume: &Volume) -> bool {
    volume.data_volume.as_ref().is_some_and(|source| source.hotpluggable)
        || volume.persistent_volume_claim.as_ref().is_some_and(|source| source.hotpluggable)
}

/// Names of volumes that were plugged into a guest and are not its machine's.
pub(crate) fn ephemeral(vmi: &VirtualMachineInstance) -> Vec<String> {
    let text = vmi.annotations().get(names::ANNOTATION_EPHEMERAL_VOLUMES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The guest as it is to be; the same when nothing is to be plugged.
pub(super) fn followed(vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    let template = &vm.spec.template.spec;
    let stays = ephemeral(vmi);
    let gone: Vec<_> = vmi
        .spec
        .volumes
        .iter()
        .filter(|volume| is_hotpluggable(volume))
        .map(|volume| volume.name.clone())
        .filter(|name| !stays.contains(name) && !template.volumes.iter().any(|volume| volume.name == *name))
        .collect();
    new.spec.volumes.retain(|volume| !gone.contains(&volume.name));
    new.spec.domain.devices.disks.retain(|disk| !gone.contains(&disk.name));
    for volume in template.volumes.iter().filter(|volume| is_hotpluggable(volume)) {
        let disk = template.domain.devices.disks.iter().find(|disk| disk.name == volume.name);
        let there = new.spec.volumes.iter().any(|other| other.name == volume.name);
        if let (Some(disk), false) = (disk, there) {
            new.spec.volumes.push(volume.clone());
            new.spec.domain.devices.disks.push(disk.clone());
        }
    }
    new
}

/// A machine without what may be plugged: a change of the rest waits for the next start.
pub(super) fn fixed(spec: &VirtualMachineSpec) -> VirtualMachineSpec {
    let mut fixed = spec.clone();
    let guest = &mut fixed.template.spec;
    let plugged: Vec<_> =
        guest.volumes.iter().filter(|volume| is_hotpluggable(volume)).map(|volume| volume.name.clone()).collect();
    guest.volumes.retain(|volume| !plugged.contains(&volume.name));
    guest.domain.devices.disks.retain(|disk| !plugged.contains(&disk.name));
    fixed
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
    fn what_may_be_plugged_is_no_reason_to_start_anew() {
        assert_eq!(fixed(&vm(&[("root", false), ("data", true)]).spec), fixed(&vm(&[("root", false)]).spec));
        assert_ne!(fixed(&vm(&[("root", false), ("data", false)]).spec), fixed(&vm(&[("root", false)]).spec));
    }
}
