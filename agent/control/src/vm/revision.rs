//! The specification that a guest was made from, kept as a ControllerRevision of its virtual machine under KubeVirt's name
//! (`revision-start-vm-<uid>-<generation>`), so that a later change can be told from it. One a virtual machine: older ones
//! go when a newer one is made. Refuses to keep the revisions of instancetypes: those are of another kind of object.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta};
use serde_json::{Value, json};

use furrow_api::{VirtualMachine, VirtualMachineInstance, names};

use super::{Machines, VmError, owner_reference};
use crate::calls;
use crate::cluster::key_of;

/// Revisions of one virtual machine that are looked at when older ones are taken away; there are two at most.
const LISTED: u32 = 16;

/// The name of the revision that a guest made now would have.
pub(super) fn name(vm: &VirtualMachine) -> String {
    let generation = vm.metadata.generation.unwrap_or_default();
    format!("revision-start-vm-{}-{generation}", vm.uid().unwrap_or_default())
}

/// The revision of a virtual machine as it is.
///
/// # Errors
/// When its specification has no JSON form.
fn render(vm: &VirtualMachine) -> Result<ControllerRevision, serde_json::Error> {
    let spec = serde_json::to_value(&vm.spec)?;
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(vm)),
            namespace: vm.namespace(),
            labels: Some(BTreeMap::from([(names::LABEL_CREATED_BY.to_owned(), vm.uid().unwrap_or_default())])),
            owner_references: Some(vec![owner_reference(vm)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": spec}))),
        revision: vm.metadata.generation.unwrap_or_default(),
    })
}

/// The specification that a revision keeps.
pub(super) fn spec(revision: &ControllerRevision) -> Option<&Value> {
    revision.data.as_ref().and_then(|data| data.0.get("spec")).filter(|spec| spec["template"].is_object())
}

impl Machines {
    /// Makes the revision that a guest is about to be made from, and takes older ones away.
    pub(super) async fn keep_revision(&self, vm: &VirtualMachine) -> Result<(), VmError> {
        let api = self.cluster.api::<ControllerRevision>(&vm.namespace().unwrap_or_default());
        let revision = render(vm).map_err(|source| VmError::Template { vm: key_of(vm), source })?;
        if calls::create(&api, &revision).await?.is_none() {
            return Ok(());
        }
        // One that never started has no older revision.
        if vm.status.as_ref().is_none_or(|status| status.run_strategy.is_none()) {
            return Ok(());
        }
        let selector = format!("{}={}", names::LABEL_CREATED_BY, vm.uid().unwrap_or_default());
        let params = ListParams::default().labels(&selector).limit(LISTED);
        let kept = calls::within(|| format!("list revisions of {}", key_of(vm)), api.list(&params)).await?;
        for older in kept.items.iter().filter(|other| other.name_any() != revision.name_any()) {
            calls::delete(&api, older).await?;
        }
        Ok(())
    }

    /// The revision that a guest was made from; `None` if there is none any more.
    pub(super) async fn revision(&self, vmi: &VirtualMachineInstance) -> Result<Option<ControllerRevision>, VmError> {
        let name = vmi.status.as_ref().and_then(|status| status.virtual_machine_revision_name.as_deref());
        let Some(name) = name else { return Ok(None) };
        let api = self.cluster.api::<ControllerRevision>(&vmi.namespace().unwrap_or_default());
        Ok(calls::get(&api, name).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_keeps_the_specification_under_kubevirts_name() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 7},
            "spec": {"runStrategy": "Always", "template": {"spec": {"domain": {"devices": {}}}}},
        }))
        .unwrap();
        let revision = render(&vm).unwrap();
        assert_eq!(revision.name_any(), "revision-start-vm-u-1-7");
        assert_eq!(revision.revision, 7);
        assert_eq!(revision.owner_references()[0].controller, Some(true));
        assert_eq!(spec(&revision), Some(&serde_json::to_value(&vm.spec).unwrap()));
        assert_eq!(revision.data.unwrap().0["spec"]["runStrategy"], "Always");
    }
}
