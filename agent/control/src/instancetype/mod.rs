//! What virtual machines refer to, instancetypes and preferences: found, kept as ControllerRevisions, and put into guests
//! and into virtual machines that are shown expanded. What follows from a spec is `furrow_model::instancetype`'s affair.
//! Refuses to judge what comes out: admission does.
//!
//! There is no cache of these kinds: an object is read when a virtual machine that refers to it is written or first
//! started, and its revision at later starts.

mod lookup;
mod revisions;

use furrow_api::{VirtualMachine, VirtualMachineInstance, quantity};
use furrow_model::instancetype::{self as model, Fault, Which};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::calls::CallError;
use crate::cluster::Cluster;

pub(crate) use lookup::{labels_of, spec_of};
pub(crate) use revisions::{Revisions, key};

/// Path of a virtual machine's template, as it stands in what users are told.
const TEMPLATE: &str = "spec.template";

/// Why a reference is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TypesError {
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is none of the name.
    #[error("{kind} {name:?} does not exist")]
    Missing {
        /// What is referred to.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The reference itself is wrong.
    #[error("{field}: {message}")]
    Matcher {
        /// Path of the field.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A ControllerRevision keeps something else, or something of a version that is not understood.
    #[error("ControllerRevision {name:?} does not keep a {expected} of version v1beta1")]
    Revision {
        /// Its name.
        name: String,
        /// What it should keep.
        expected: &'static str,
    },
    /// The virtual machine and what it refers to are at odds.
    #[error("{}", sentences(.0))]
    Conflicts(Vec<Fault>),
    /// An object that does not have its kind's shape: a defect, or a spec that is of no use.
    #[error("what {vm} refers to does not fit into it")]
    Shape {
        /// The virtual machine.
        vm: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn sentences(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect::<Vec<_>>().join(", ")
}

/// Specs of what a virtual machine refers to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Types {
    /// Of its instancetype.
    pub(crate) instancetype: Option<Value>,
    /// Of its preference.
    pub(crate) preference: Option<Value>,
}

impl Types {
    /// In the model's words.
    pub(crate) fn model(&self) -> model::Types<'_> {
        model::Types { instancetype: self.instancetype.as_ref(), preference: self.preference.as_ref(), bytes }
    }

    /// Puts a spec into its place.
    pub(crate) fn set(&mut self, which: Which, spec: Option<Value>) {
        match which {
            Which::Instancetype => self.instancetype = spec,
            Which::Preference => self.preference = spec,
        }
    }

    /// Fills in a template, defaults of devices included: preferences are for those too.
    ///
    /// # Errors
    /// Every field that is at odds with the instancetype.
    pub(crate) fn fill(&self, template: &mut Value) -> Result<(), Vec<Fault>> {
        let types = self.model();
        if let Some(spec) = template.get_mut("spec").filter(|spec| spec.is_object()) {
            model::attach(spec, &types);
            crate::admission::default_devices(spec);
        }
        model::apply(TEMPLATE, template, &types)
    }
}

fn bytes(text: &str) -> Option<i64> {
    quantity::units(&Quantity(text.to_owned())).ok()
}

/// Whether a virtual machine refers to anything.
pub(crate) fn refers(vm: &VirtualMachine) -> bool {
    vm.spec.instancetype.is_some() || vm.spec.preference.is_some()
}

/// Fills in the guest that is made of a virtual machine, from revisions, which are made if there are none yet.
///
/// # Errors
/// Why it cannot be filled in.
pub(crate) async fn guest(
    cluster: &Cluster,
    vm: &VirtualMachine,
    vmi: VirtualMachineInstance,
) -> Result<VirtualMachineInstance, TypesError> {
    if !refers(vm) {
        return Ok(vmi);
    }
    let mut types = Types::default();
    for which in Which::ALL {
        types.set(which, lookup::keep(cluster, vm, which).await?.map(|kept| kept.spec));
    }
    filled(vm, vmi, &types)
}

/// The guest with what its virtual machine refers to in it, and annotations that say so.
fn filled(
    vm: &VirtualMachine,
    vmi: VirtualMachineInstance,
    types: &Types,
) -> Result<VirtualMachineInstance, TypesError> {
    let shape = |source| TypesError::Shape { vm: crate::cluster::key_of(vm).to_string(), source };
    let mut object = serde_json::to_value(&vmi).map_err(shape)?;
    types.fill(&mut object).map_err(TypesError::Conflicts)?;
    let mut vmi: VirtualMachineInstance = serde_json::from_value(object).map_err(shape)?;
    for which in Which::ALL {
        let Some(matcher) = lookup::matcher(vm, which) else { continue };
        let scope = which.scope(matcher.kind.as_deref().unwrap_or_default());
        if let (Some(scope), Some(name)) = (scope, matcher.name.clone()) {
            vmi.annotations_mut().insert(which.annotation(scope).to_owned(), name);
        }
    }
    Ok(vmi)
}

/// A virtual machine as it is with what it refers to in it and without the references. Nothing is written.
///
/// # Errors
/// Why it cannot be expanded.
pub(crate) async fn expand(cluster: &Cluster, vm: &VirtualMachine) -> Result<Value, TypesError> {
    let shape = |source| TypesError::Shape { vm: crate::cluster::key_of(vm).to_string(), source };
    let object = serde_json::to_value(vm).map_err(shape)?;
    if !refers(vm) {
        return Ok(object);
    }
    let mut types = Types::default();
    for which in Which::ALL {
        types.set(which, lookup::spec_of(cluster, vm, which).await?);
    }
    model::expand(&object, |template| types.fill(template)).map_err(TypesError::Conflicts)
}

/// The `spec` of an object.
fn spec(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_else(|| json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "runStrategy": "Always",
                "instancetype": {"name": "u1.small"},
                "preference": {"name": "own", "kind": "VirtualMachinePreference"},
                "template": {"spec": {"domain": {"devices": {}},
                    "volumes": [{"name": "root", "dataVolume": {"name": "web-root"}}]}},
            },
        }))
        .unwrap()
    }

    fn types() -> Types {
        Types {
            instancetype: Some(json!({"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}})),
            preference: Some(json!({"devices": {"preferredDiskBus": "scsi", "preferredInterfaceModel": "e1000"},
                "cpu": {"preferredCPUTopology": "cores"}})),
        }
    }

    #[test]
    fn a_guest_is_filled_in_with_its_default_devices() {
        let vmi = VirtualMachineInstance { spec: vm().spec.template.spec, ..VirtualMachineInstance::default() };
        let vmi = filled(&vm(), vmi, &types()).unwrap();
        let cpu = vmi.spec.domain.cpu.clone().unwrap();
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (Some(1), Some(2), Some(1)));
        assert_eq!(vmi.spec.domain.memory.as_ref().unwrap().guest, Some(Quantity("4Gi".into())));
        let bus = vmi.spec.domain.devices.disks[0].disk.as_ref().unwrap().bus.clone();
        assert_eq!(bus, Some(furrow_api::vmi::DiskBus::Scsi));
        assert_eq!(vmi.spec.domain.devices.interfaces[0].model.as_deref(), Some("e1000"));
        assert_eq!(vmi.annotations()["kubevirt.io/cluster-instancetype-name"], "u1.small");
        assert_eq!(vmi.annotations()["kubevirt.io/preference-name"], "own");
    }

    #[test]
    fn a_conflict_names_the_field_of_the_virtual_machine() {
        let mut vmi = VirtualMachineInstance { spec: vm().spec.template.spec, ..VirtualMachineInstance::default() };
        vmi.spec.domain.cpu = Some(furrow_api::vmi::Cpu { cores: Some(1), ..furrow_api::vmi::Cpu::default() });
        let error = filled(&vm(), vmi, &types()).unwrap_err().to_string();
        assert!(error.starts_with("spec.template.spec.domain.cpu.cores: "), "{error}");
    }
}
