//! VirtualMachineInstances. Who may write their status, which has no subresource, is a ValidatingAdmissionPolicy's affair
//! (`manifests/policies.yaml`): it holds while control is down.

use std::sync::Arc;

use furrow_api::{VirtualMachineInstance, names};

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::guest::{self, Identity};
use super::review::{Answer, Request};
use super::{is_own, malformed, verdict};

/// Labels that say where a guest is and what belongs to it; by them agents find their guests.
const RESERVED_LABELS: [&str; 4] = [
    names::LABEL_CREATED_BY,
    names::LABEL_NODE_NAME,
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/migrationTargetNodeName",
];

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    let (mut causes, mut warnings) = (Causes::default(), Vec::new());
    if !is_own(&request) {
        reserved(&request, &mut causes);
    }
    if request.is_create() {
        let vmi: VirtualMachineInstance = match request.object() {
            Ok(vmi) => vmi,
            Err(error) => return Ok(malformed(&error)),
        };
        guest::check_name(request.name(), &mut causes);
        let identity = Identity { namespace: request.namespace(), name: request.name() };
        let raw = &request.object["spec"];
        let holders = facts.macs();
        guest::check("spec", raw, &vmi.spec, (identity, &holders), &mut causes);
        warnings = guest::warnings("spec", &vmi.spec);
    }
    Ok(verdict(causes, warnings))
}

/// What a user may not write.
fn reserved(request: &Request, causes: &mut Causes) {
    let label = |object: &serde_json::Value, key: &str| object["metadata"]["labels"].get(key).cloned();
    for key in RESERVED_LABELS {
        if label(&request.object, key) != label(&request.old_object, key) {
            let text = "modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
            causes.forbidden(format!("metadata.labels[{key}]"), format!("{text}: metadata.labels[{key}]"));
        }
    }
    if !request.is_create() && request.changes("spec") {
        causes.forbidden("spec", "update of VMI object is restricted: change the VirtualMachine and restart it");
    }
}
