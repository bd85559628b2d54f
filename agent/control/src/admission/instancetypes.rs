//! Instancetypes, preferences, and virtual machines that refer to them: references are completed and inferred when a
//! virtual machine is written, and what comes of them is judged as if it stood in its template.

use std::borrow::Cow;
use std::sync::Arc;

use furrow_api::instancetype::{VirtualMachineInstancetypeSpec, VirtualMachinePreferenceSpec};
use furrow_api::vmi::VirtualMachineInstanceSpec;
use furrow_api::{VirtualMachine, quantity};
use furrow_model::instancetype::{self as model, Named, Source, Which};
use serde_json::{Value, json};

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::{malformed, settled, verdict};
use crate::instancetype::Types;

/// Steps from a volume to its labels: DataVolume, DataSource, claim. More would be a circle.
const STEPS: usize = 4;

/// What completing the references found.
#[derive(Debug, Default)]
pub(super) struct Completed {
    /// What is wrong with them.
    pub(super) causes: Causes,
    /// The preferred machine type.
    pub(super) machine: Option<String>,
}

/// Completes the references of a virtual machine: names from volumes, kinds that are not said, and what a preference
/// says of the virtual machine beside its template.
pub(super) async fn complete<F: Facts>(
    facts: &F,
    request: &Request,
    object: &mut Value,
) -> Result<Completed, FactsError> {
    let mut completed = Completed::default();
    for which in Which::ALL {
        let path = format!("/spec/{}", which.field());
        let Some(matcher) = object.pointer(&path).filter(|matcher| !matcher.is_null()).cloned() else { continue };
        let old = request.old_object.pointer(&path).filter(|old| !old.is_null());
        let faults = model::faults(which, &matcher, old);
        if faults.is_empty() {
            reference(facts, request, (&mut *object, which), &mut completed.causes).await?;
        }
        faults.into_iter().for_each(|fault| completed.causes.invalid(fault.field, fault.message));
    }
    if completed.causes.is_empty()
        && object.pointer("/spec/preference").is_some_and(Value::is_object)
        // A schema that it does not have, or a preference that is not there, is validation's affair.
        && let Ok(vm) = machine_of(request, object)
        && let Ok(Some(preference)) = facts.type_spec(&vm, Which::Preference).await?
    {
        model::storage_class(object, &preference);
        let machine = preference.pointer("/machine/preferredMachineType").and_then(Value::as_str);
        completed.machine = machine.filter(|machine| !machine.is_empty()).map(str::to_owned);
    }
    Ok(completed)
}

/// The virtual machine, in the namespace that it is written to.
fn machine_of(request: &Request, object: &Value) -> Result<VirtualMachine, serde_json::Error> {
    let mut vm: VirtualMachine = serde_json::from_value(object.clone())?;
    vm.metadata.namespace = Some(request.namespace().to_owned());
    Ok(vm)
}

async fn reference<F: Facts>(
    facts: &F,
    request: &Request,
    (object, which): (&mut Value, Which),
    causes: &mut Causes,
) -> Result<(), FactsError> {
    let field = which.field();
    let matcher = object["spec"][field].clone();
    let text = |key: &str| matcher.get(key).and_then(Value::as_str).unwrap_or_default();
    let (volume, ignore) = (text("inferFromVolume"), text("inferFromVolumeFailurePolicy") == "Ignore");
    if volume.is_empty() {
        if text("kind").is_empty() {
            object["spec"][field]["kind"] = json!(which.kind(model::Scope::Cluster));
        }
        return Ok(());
    }
    match infer(facts, which, model::of_volume(object, request.namespace(), volume)).await? {
        Ok(found) => {
            // Whoever ignores failures gave memory for that case, which an instancetype would be at odds with.
            let template = object.pointer_mut("/spec/template/spec/domain").and_then(Value::as_object_mut);
            if let Some(domain) = template.filter(|_| ignore && which == Which::Instancetype) {
                domain.remove("memory");
            }
            let scope = which.scope(&found.kind);
            let kind = scope.map_or(found.kind.as_str(), |scope| which.kind(scope));
            object["spec"][field] = json!({"name": found.name, "kind": kind});
        }
        Err(Source::Nowhere(_)) if ignore => {
            if let Some(spec) = object["spec"].as_object_mut() {
                spec.remove(field);
            }
        }
        Err(Source::Nowhere(why) | Source::NoVolume(why)) => {
            causes.invalid(format!("spec.{field}.inferFromVolume"), why);
        }
        Err(missing) => causes.invalid(format!("spec.{field}.inferFromVolume"), absent(&missing)),
    }
    Ok(())
}

fn absent(source: &Source) -> String {
    let (kind, namespace, name) = match source {
        Source::Claim { namespace, name } => ("PersistentVolumeClaim", namespace, name),
        Source::DataVolume { namespace, name } => ("DataVolume", namespace, name),
        Source::DataSource { namespace, name } => ("DataSource", namespace, name),
        Source::Nowhere(why) | Source::NoVolume(why) => return why.clone(),
    };
    format!("{kind} {namespace}/{name} does not exist")
}

/// Follows a volume to its labels. The inner error is where the way ended.
async fn infer<F: Facts>(facts: &F, which: Which, begin: Source) -> Result<Result<Named, Source>, FactsError> {
    let mut source = begin;
    for _ in 0..STEPS {
        if matches!(source, Source::Nowhere(_) | Source::NoVolume(_)) {
            return Ok(Err(source));
        }
        let Some((labels, spec)) = facts.labels_of(&source).await? else {
            match source {
                // It has done its work, and the claim is what is left of it.
                Source::DataVolume { namespace, name } => {
                    source = Source::Claim { namespace, name };
                    continue;
                }
                other => return Ok(Err(other)),
            }
        };
        if let Some(found) = model::labelled(which, &labels) {
            return Ok(Ok(found));
        }
        let missing = format!("unable to find required {} label on the volume", which.labels().0);
        source = match &source {
            Source::DataVolume { namespace, .. } | Source::DataSource { namespace, .. } => {
                model::of_data_volume(&spec, namespace)
            }
            _ => Source::Nowhere(missing),
        };
    }
    Ok(Err(Source::Nowhere("unable to infer defaults: the volume's sources lead in a circle".to_owned())))
}

/// A template that can be judged.
pub(super) struct Template<'a> {
    /// As it was written, or as it is with what is referred to in it.
    pub(super) raw: Cow<'a, Value>,
    /// The same.
    pub(super) spec: Cow<'a, VirtualMachineInstanceSpec>,
}

/// The template that the guest of a virtual machine will be made of; `None` when a reference is of no use, which is then
/// among the causes.
pub(super) async fn template<'a, F: Facts>(
    facts: &F,
    request: &'a Request,
    vm: &'a VirtualMachine,
    causes: &mut Causes,
) -> Result<Option<Template<'a>>, FactsError> {
    let raw = &request.object["spec"]["template"];
    if !crate::instancetype::refers(vm) {
        return Ok(Some(Template { raw: Cow::Borrowed(&raw["spec"]), spec: Cow::Borrowed(&vm.spec.template.spec) }));
    }
    let mut placed = vm.clone();
    placed.metadata.namespace = Some(request.namespace().to_owned());
    let mut types = Types::default();
    let mut missing = false;
    for which in Which::ALL {
        match facts.type_spec(&placed, which).await? {
            Ok(spec) => types.set(which, spec),
            Err(why) => {
                missing = true;
                let field = format!("spec.{}", which.field());
                causes.invalid(field, format!("Failure to find {}: {why}", which.field()));
            }
        }
    }
    if missing {
        return Ok(None);
    }
    let mut filled = raw.clone();
    if let Err(faults) = types.fill(&mut filled) {
        faults.into_iter().for_each(|fault| causes.invalid(fault.field, fault.message));
        return Ok(None);
    }
    for fault in model::unmet(&raw["spec"], &types.model()) {
        causes.invalid(fault.field, format!("failure checking preference requirements: {}", fault.message));
    }
    match serde_json::from_value(filled["spec"].clone()) {
        Ok(spec) => Ok(Some(Template { raw: Cow::Owned(filled["spec"].take()), spec: Cow::Owned(spec) })),
        Err(error) => {
            causes.invalid("spec.template.spec", format!("does not take what is referred to: {error}"));
            Ok(None)
        }
    }
}

/// An instancetype.
pub(super) async fn size<F: Facts>(_facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let spec: VirtualMachineInstancetypeSpec = match serde_json::from_value(request.object["spec"].clone()) {
        Ok(spec) => spec,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    let percent = spec.memory.overcommit_percent.unwrap_or_default();
    let field = "spec.memory.overcommitPercent";
    if !(0..=100).contains(&percent) {
        causes.invalid(field, format!("{field} '{percent}': must be in range between 0 and 100."));
    }
    if percent != 0 && spec.memory.hugepages.is_some() {
        causes.invalid(field, format!("{field} and spec.memory.hugepages should not be requested together."));
    }
    for (field, amount) in [("guest", Some(&spec.memory.guest)), ("maxGuest", spec.memory.max_guest.as_ref())] {
        if let Some(Err(error)) = amount.map(quantity::units) {
            causes.invalid(format!("spec.memory.{field}"), error);
        }
    }
    if spec.cpu.guest < 1 {
        causes.invalid("spec.cpu.guest", format!("must be at least 1, is {}", spec.cpu.guest));
    }
    let old = "launchSecurity is deprecated and will be removed in a future release. Use preference instead.";
    let warnings = spec.launch_security.iter().map(|_| old.to_owned()).collect();
    Ok(verdict(causes, warnings))
}

/// A preference.
pub(super) async fn preference<F: Facts>(_facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let raw = &request.object["spec"];
    let spec: VirtualMachinePreferenceSpec = match serde_json::from_value(raw.clone()) {
        Ok(spec) => spec,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    let (faults, warnings) = model::preference_faults(raw);
    faults.into_iter().for_each(|fault| causes.invalid(fault.field, fault.message));
    let memory = spec.requirements.as_ref().and_then(|required| required.memory.as_ref());
    if let Some(Err(error)) = memory.map(|memory| quantity::units(&memory.guest)) {
        causes.invalid("spec.requirements.memory.guest", error);
    }
    Ok(verdict(causes, warnings))
}

#[cfg(test)]
#[path = "instancetypes_tests.rs"]
mod tests;
