//! VirtualMachines.

use std::sync::Arc;

use furrow_api::VirtualMachine;
use furrow_api::vm::VirtualMachineSpec;
use serde_json::Value;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::guest::{self, Identity};
use super::review::{Answer, Request};
use super::{datavolume, instancetypes, is_own, malformed, settled, supported, verdict};
use crate::vm::Predecessor;

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let vm: VirtualMachine = match request.object() {
        Ok(vm) => vm,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    let raw = &request.object["spec"];
    guest::check_name(request.name(), &mut causes);
    supported::refuse("spec", raw, supported::MACHINE, &mut causes);
    run_strategy(&vm.spec, &mut causes);
    let identity = Identity { namespace: request.namespace(), name: request.name() };
    let mut holders = facts.macs();
    // A successor has its predecessor's hardware addresses. Nobody but control is believed to make one.
    if let Some(old) = Predecessor::of(&vm).filter(|_| is_own(&request)) {
        holders.retain(|holder| holder.namespace != identity.namespace || holder.name != old.name);
    }
    if let Some(template) = instancetypes::template(facts.as_ref(), &request, &vm, &mut causes).await? {
        guest::check("spec.template.spec", &template.raw, &template.spec, (identity, &holders), &mut causes);
    }
    data_volume_templates(facts.as_ref(), &request, &vm.spec, &mut causes).await?;
    Ok(verdict(causes, guest::warnings("spec.template.spec", &vm.spec.template.spec)))
}

fn run_strategy(spec: &VirtualMachineSpec, causes: &mut Causes) {
    match (&spec.running, &spec.run_strategy) {
        (Some(_), Some(_)) => causes.invalid(
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead",
        ),
        (None, None) => causes.required("spec.runStrategy", "One of Running or RunStrategy must be specified"),
        _ => {}
    }
}

async fn data_volume_templates<F: Facts>(
    facts: &F,
    request: &Request,
    spec: &VirtualMachineSpec,
    causes: &mut Causes,
) -> Result<(), FactsError> {
    let mut seen = std::collections::HashMap::new();
    for (index, template) in spec.data_volume_templates.iter().enumerate() {
        let field = format!("spec.dataVolumeTemplates[{index}]");
        let name = template.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            let text = format!("'name' field must not be empty for DataVolumeTemplate entry {field}.");
            causes.required(format!("{field}.metadata.name"), text);
        } else if let Some(first) = seen.insert(name.to_owned(), index) {
            let text = format!("{field} and spec.dataVolumeTemplates[{first}] must not have the same name.");
            causes.duplicate(format!("{field}.metadata.name"), text);
        }
        let volumes = &spec.template.spec.volumes;
        let refers = |volume: &furrow_api::vmi::Volume| {
            let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
            let data_volume = volume.data_volume.as_ref().map(|reference| reference.name.as_str());
            claim == Some(name) || data_volume == Some(name)
        };
        if !volumes.iter().any(refers) {
            let text =
                format!("DataVolumeTemplate entry {field} must be referenced in the VMI template's 'volumes' list");
            causes.required(&field, text);
        }
        let raw = &request.object["spec"]["dataVolumeTemplates"][index]["spec"];
        let context = datavolume::Context { base: &format!("{field}.spec"), raw, request };
        datavolume::check(facts, context, &template.spec, causes).await?;
    }
    Ok(())
}

/// The raw spec of a template, for defaults.
pub(super) fn template_spec(object: &mut Value) -> Option<&mut Value> {
    object.pointer_mut("/spec/template/spec").filter(|spec| spec.is_object())
}
