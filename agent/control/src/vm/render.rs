//! What a virtual machine makes: its guest and its DataVolumes, from the templates. Pure.

use std::collections::BTreeMap;

use furrow_api::vm::DataVolumeTemplateSpec;
use furrow_api::vmi::StartStrategy;
use furrow_api::{DataVolume, VirtualMachine, VirtualMachineInstance, names};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

use super::owner_reference;

/// Generation of the virtual machine that a guest was made from; KubeVirt's.
pub(crate) const ANNOTATION_GENERATION: &str = "kubevirt.io/vm-generation";

/// Digest of the template that a guest was made from: tells a changed template from any other change.
pub(crate) const ANNOTATION_TEMPLATE: &str = "furrow.io/template-digest";

/// Name of the virtual machine, for selectors.
const LABEL_VM: &str = "kubevirt.io/vm";

/// The guest.
///
/// # Errors
/// When the template has no JSON form.
pub(crate) fn guest(vm: &VirtualMachine, paused: bool) -> Result<VirtualMachineInstance, serde_json::Error> {
    let template = &vm.spec.template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.entry(LABEL_VM.to_owned()).or_insert_with(|| label_value(&vm.name_any()));
    labels.insert(names::LABEL_VM_NAME.to_owned(), label_value(&vm.name_any()));
    let mut annotations = metadata.annotations.unwrap_or_default();
    let generation = vm.metadata.generation.unwrap_or_default();
    annotations.insert(ANNOTATION_GENERATION.to_owned(), generation.to_string());
    annotations.insert(ANNOTATION_TEMPLATE.to_owned(), template_digest(vm)?);
    let mut spec = template.spec.clone();
    if paused {
        spec.start_strategy = Some(StartStrategy::Paused);
    }
    Ok(VirtualMachineInstance {
        metadata: ObjectMeta {
            name: Some(vm.name_any()),
            namespace: vm.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            finalizers: Some(vec![names::FINALIZER_VMI.to_owned()]),
            owner_references: Some(vec![owner_reference(vm)]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    })
}

/// A label takes 63 characters, a name 253.
fn label_value(name: &str) -> String {
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Digest of the template without what may be plugged into a running guest, 16 hexadecimal digits.
///
/// # Errors
/// When it has no JSON form.
pub(crate) fn template_digest(vm: &VirtualMachine) -> Result<String, serde_json::Error> {
    let digest = Sha256::digest(serde_json::to_vec(&super::plug::fixed(&vm.spec).template)?);
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// A DataVolume, deleted with the virtual machine and kept over its stops.
pub(crate) fn data_volume(vm: &VirtualMachine, template: &DataVolumeTemplateSpec) -> DataVolume {
    let metadata = &template.metadata;
    let mut labels: BTreeMap<_, _> = metadata.labels.clone().unwrap_or_default();
    labels.insert("kubevirt.io/created-by".to_owned(), vm.uid().unwrap_or_default());
    DataVolume {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: vm.namespace(),
            labels: Some(labels),
            annotations: metadata.annotations.clone(),
            owner_references: Some(vec![owner_reference(vm)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_knows_what_it_was_made_from() {
        let text = include_str!("../../../../tests/manifests/field-report/debian.yaml");
        let vm: VirtualMachine = serde_saphyr::from_str(text).unwrap();
        let vmi = guest(&vm, true).unwrap();
        assert_eq!(vmi.name_any(), "report");
        assert_eq!(vmi.labels()[LABEL_VM], "report");
        assert_eq!(vmi.annotations()[ANNOTATION_TEMPLATE], template_digest(&vm).unwrap());
        assert_eq!(vmi.spec.start_strategy, Some(StartStrategy::Paused));
        let mut changed = vm.clone();
        changed.spec.running = Some(true);
        assert_eq!(template_digest(&changed).unwrap(), template_digest(&vm).unwrap());
        changed.spec.template.spec.termination_grace_period_seconds = Some(1);
        assert_ne!(template_digest(&changed).unwrap(), template_digest(&vm).unwrap());
        let volume = data_volume(&vm, &vm.spec.data_volume_templates[0]);
        assert_eq!(volume.name_any(), "report-root");
        assert_eq!(volume.owner_references()[0].kind, "VirtualMachine");
    }
}
