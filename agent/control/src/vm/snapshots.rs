//! `status.volumeSnapshotStatuses`: which volumes could be snapshotted. None can yet, and the reason says so in KubeVirt's
//! words: of a claim that its class takes no snapshots, of anything else that its kind does not. Pure.

use std::collections::BTreeMap;

use furrow_api::VirtualMachine;
use furrow_api::names;
use furrow_api::vm::VolumeSnapshotStatus;

/// One entry a volume. `classes`: the storage class of each claim that is known.
pub(super) fn statuses(vm: &VirtualMachine, classes: &BTreeMap<String, String>) -> Vec<VolumeSnapshotStatus> {
    let reason = |volume: &furrow_api::vmi::Volume| {
        let name = &volume.name;
        let Some(claim) = volume.claim_name() else {
            return format!("Snapshot is not supported for this volumeSource type [{name}]");
        };
        let class = classes.get(claim).cloned().or_else(|| of_template(vm, claim));
        let class = class.unwrap_or_else(|| names::STORAGE_CLASS.to_owned());
        format!("No VolumeSnapshotClass: Volume snapshots are not configured for this StorageClass [{class}] [{name}]")
    };
    let volumes = vm.spec.template.spec.volumes.iter();
    volumes
        .map(|volume| VolumeSnapshotStatus { name: volume.name.clone(), enabled: false, reason: Some(reason(volume)) })
        .collect()
}

/// The storage class that the template of a DataVolume names.
fn of_template(vm: &VirtualMachine, claim: &str) -> Option<String> {
    let named = |template: &&furrow_api::vm::DataVolumeTemplateSpec| template.metadata.name.as_deref() == Some(claim);
    let template = vm.spec.data_volume_templates.iter().find(named)?;
    let spec = serde_json::to_value(&template.spec).ok()?;
    let class = ["/storage/storageClassName", "/pvc/storageClassName"].iter().find_map(|path| spec.pointer(path));
    class.and_then(|class| class.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_volume_says_why_it_cannot_be_snapshotted() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"domain": {"devices": {}}, "volumes": [
                {"name": "root", "dataVolume": {"name": "web-root"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "seed", "cloudInitNoCloud": {"userData": "#"}},
            ]}}},
        }))
        .unwrap();
        let classes = BTreeMap::from([("data".to_owned(), "nfs".to_owned())]);
        let reasons: Vec<_> = statuses(&vm, &classes).into_iter().map(|status| status.reason.unwrap()).collect();
        let of = |class, name| {
            format!(
                "No VolumeSnapshotClass: Volume snapshots are not configured for this StorageClass [{class}] [{name}]"
            )
        };
        assert_eq!(reasons[..2], [of("csi-rbd-sc", "root"), of("nfs", "data")]);
        assert_eq!(reasons[2], "Snapshot is not supported for this volumeSource type [seed]");
    }
}
