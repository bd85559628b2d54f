//! The DataVolumes of a virtual machine: made from its templates, and the state of every volume that it names. Refuses to
//! fill them, which is the DataVolume controller's, and to delete them: they go with the virtual machine.

use furrow_api::datavolume::DataVolumePhase;
use furrow_api::vm::{DataVolumeTemplateSpec, PrintableStatus};
use furrow_api::{DataVolume, VirtualMachine};
use kube::ResourceExt;

use super::status::{Failed, Volumes};
use super::{FAILED_CREATE, Machines, VmError, render};
use crate::calls;
use crate::cluster::find;

impl Machines {
    /// Makes the DataVolumes of the templates that are not there. Gives what the API server said against one.
    pub(super) async fn make_data_volumes(&self, vm: &VirtualMachine) -> Result<Option<Failed>, VmError> {
        let namespace = vm.namespace().unwrap_or_default();
        let api = self.cluster.api::<DataVolume>(&namespace);
        let mut refusal = None;
        for template in &vm.spec.data_volume_templates {
            let name = template.metadata.name.clone().unwrap_or_default();
            // A claim without DataVolume is one whose DataVolume was deleted after it was filled.
            let there = find(&self.cluster.data_volumes, &namespace, &name).is_some()
                || find(&self.cluster.claims, &namespace, &name).is_some();
            if there {
                continue;
            }
            match calls::create(&api, &render::data_volume(vm, template)).await {
                Ok(Some(_)) => self.tell_of_data_volume(vm, template),
                Ok(None) => {}
                Err(error) if error.is_refusal() => {
                    let message = format!("Error creating DataVolume {name}: {}", error.message());
                    self.cluster.events.warning(vm, "FailedDataVolumeCreate", message.clone());
                    refusal = Some(Failed { reason: FAILED_CREATE, message });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(refusal)
    }

    /// The events of a DataVolume that was made. One that copies a claim which is not there stays empty until it is.
    fn tell_of_data_volume(&self, vm: &VirtualMachine, template: &DataVolumeTemplateSpec) {
        let name = template.metadata.name.as_deref().unwrap_or_default();
        self.cluster.events.normal(vm, "SuccessfulDataVolumeCreate", format!("Created DataVolume {name}"));
        let Some(copied) = template.spec.source.as_ref().and_then(|source| source.pvc.as_ref()) else { return };
        let own = vm.namespace().unwrap_or_default();
        let namespace = Some(copied.namespace.as_str()).filter(|namespace| !namespace.is_empty()).unwrap_or(&own);
        if find(&self.cluster.claims, namespace, &copied.name).is_none() {
            let source = &copied.name;
            let note = format!(
                "Source PVC {source} not available: Target PVC {name} will remain unpopulated until source is created"
            );
            // Spelt as KubeVirt spells it.
            self.cluster.events.warning(vm, "SourcePVCNotAvailabe", note);
        }
    }

    /// Said once, when the virtual machine is first seen with a DataVolume that failed.
    pub(super) fn tell_of_failed_volumes(&self, vm: &VirtualMachine, volumes: &Volumes) {
        let shown = vm.status.as_ref().and_then(|status| status.printable_status.as_ref());
        if shown == Some(&PrintableStatus::DataVolumeError) {
            return;
        }
        for name in &volumes.failed {
            let note = format!("DataVolume {name} failed to import disk image");
            self.cluster.events.warning(vm, "FailedDataVolumeImport", note);
        }
    }

    /// The state of all volumes that the template names.
    pub(super) fn volumes(&self, vm: &VirtualMachine) -> Volumes {
        let namespace = vm.namespace().unwrap_or_default();
        let mut volumes = Volumes::default();
        let templates = vm.spec.data_volume_templates.iter().filter_map(|template| template.metadata.name.as_deref());
        let named = vm.spec.template.spec.volumes.iter().filter_map(furrow_api::vmi::Volume::claim_name);
        let mut names: Vec<&str> = templates.clone().chain(named).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let claim = find(&self.cluster.claims, &namespace, name);
            let bound = claim.as_ref().is_some_and(|claim| crate::vmi::claim_bound(claim));
            volumes.unbound |= claim.is_some() && !bound;
            let class = claim.as_ref().and_then(|claim| claim.spec.as_ref()?.storage_class_name.clone());
            volumes.classes.extend(class.map(|class| (name.to_owned(), class)));
            let filler = find(&self.cluster.data_volumes, &namespace, name);
            match filler.map(|filler| filler.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default()) {
                Some(DataVolumePhase::Succeeded) => {}
                Some(DataVolumePhase::Failed) => volumes.failed.push(name.to_owned()),
                Some(_) => volumes.filling = true,
                None if bound => {}
                // Somebody else's claim is not this machine's to wait for: its guest says what it misses.
                None => volumes.filling |= templates.clone().any(|template| template == name),
            }
        }
        volumes
    }
}
