//! Admission: what is let into the cluster, and with which defaults. One webhook a kind, called by the API server over
//! loopback. Owns the rules that a schema cannot say and the list of what is not realised yet. Refuses to write anything
//! but the node that a guest is to leave (`eviction`), and to be in the way of status: the webhooks' `matchConditions`
//! call it only for what it judges.
//!
//! ```text
//!  API server ──AdmissionReview──> route ──> kind (vm, vmi, ...) ──> guest rules, supported fields ──> causes ──> answer
//!                                              └── Facts: caches, one SubjectAccessReview for copies across namespaces
//! ```

mod causes;
mod datavolume;
mod defaults;
mod eviction;
mod facts;
#[cfg(test)]
mod fields_tests;
mod guest;
mod instancetypes;
mod ip;
mod kubevirt;
mod live;
#[cfg(test)]
mod network_tests;
mod presets;
#[cfg(test)]
mod realised_tests;
mod replicas;
mod review;
mod subnet;
mod supported;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod underlay;
mod vm;
mod vmi;

use std::future::Future;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use furrow_api::VirtualMachineInstance;
use furrow_api::names::{AGENT_GROUP, CONTROL_USER};
use furrow_api::vmi::VirtualMachineInstanceSpec;
use kube::ResourceExt;
use serde_json::Value;

pub(crate) use self::defaults::devices as default_devices;

use self::causes::Causes;
use self::facts::{Facts, FactsError};
use self::review::{Answer, Request, Review};

/// A review carries an object before and after; etcd takes 1.5 MiB for each, JSON escapes some of it.
const REVIEW_MAX_BYTES: usize = 8 << 20;

/// The webhooks. `facts`: the cluster they judge by.
pub(crate) fn router<F: Facts>(facts: Arc<F>) -> Router {
    Router::new()
        .route("/validate/vm", post(|facts, review| answer::<F, _>(facts, review, vm::validate)))
        .route("/validate/vmi", post(|facts, review| answer::<F, _>(facts, review, vmi::validate)))
        .route("/validate/datavolume", post(|facts, review| answer::<F, _>(facts, review, datavolume::validate)))
        .route("/validate/subnet", post(|facts, review| answer::<F, _>(facts, review, subnet::validate)))
        .route("/validate/vlan", post(|facts, review| answer::<F, _>(facts, review, underlay::validate_vlan)))
        .route(
            "/validate/providernetwork",
            post(|facts, review| answer::<F, _>(facts, review, underlay::validate_provider_network)),
        )
        .route("/validate/instancetype", post(|facts, review| answer::<F, _>(facts, review, instancetypes::size)))
        .route("/validate/replicaset", post(|facts, review| answer::<F, _>(facts, review, replicas::replica_set)))
        .route("/validate/pool", post(|facts, review| answer::<F, _>(facts, review, replicas::pool)))
        .route("/validate/preset", post(|facts, review| answer::<F, _>(facts, review, presets::validate)))
        .route("/validate/preference", post(|facts, review| answer::<F, _>(facts, review, instancetypes::preference)))
        .route("/validate/eviction", post(|facts, review| answer::<F, _>(facts, review, eviction::validate)))
        .route("/validate/kubevirt", post(|facts, review| answer::<F, _>(facts, review, kubevirt::validate)))
        .route("/validate/ip", post(|facts, review| answer::<F, _>(facts, review, ip::validate)))
        .route("/mutate/vm", post(|facts, review| answer::<F, _>(facts, review, defaults::of_vm)))
        .route("/mutate/vmi", post(|facts, review| answer::<F, _>(facts, review, defaults::of_vmi)))
        .route("/mutate/datavolume", post(|facts, review| answer::<F, _>(facts, review, defaults::of_data_volume)))
        .layer(DefaultBodyLimit::max(REVIEW_MAX_BYTES))
        .with_state(facts)
}

async fn answer<F: Facts, Fut>(
    State(facts): State<Arc<F>>,
    Json(review): Json<Review>,
    judge: impl FnOnce(Arc<F>, Request) -> Fut,
) -> Json<Value>
where
    Fut: Future<Output = Result<Answer, FactsError>>,
{
    let uid = review.request.uid.clone();
    let answer = judge(facts, review.request).await.unwrap_or_else(|error| {
        tracing::warn!(error = %error, "admission could not decide");
        Answer::Undecided(error.to_string())
    });
    Json(answer.to_review(&uid))
}

/// Whether there is nothing to judge: an object on its way out, or one whose spec stays as it is.
fn settled(request: &Request) -> bool {
    !request.is_create() && (request.is_deleting() || !request.changes("spec"))
}

/// What would be wrong with a guest's spec that is not wrong now, in sentences with paths. For changes that control writes
/// for a user: they are not asked about here.
pub(crate) fn new_faults(vmi: &VirtualMachineInstance, new: &VirtualMachineInstanceSpec) -> Vec<String> {
    let faults = |spec: &VirtualMachineInstanceSpec| {
        let mut causes = Causes::default();
        let (namespace, name) = (vmi.namespace().unwrap_or_default(), vmi.name_any());
        let identity = guest::Identity { namespace: &namespace, name: &name };
        let raw = serde_json::to_value(spec).unwrap_or_default();
        guest::check("spec", &raw, spec, (identity, &[]), &mut causes);
        causes.into_vec()
    };
    let before = faults(&vmi.spec);
    faults(new).into_iter().filter(|cause| !before.contains(cause)).map(|cause| cause.with_path()).collect()
}

/// Whether control or an agent asks. What they write follows from objects that were judged before.
fn is_own(request: &Request) -> bool {
    let groups = request.user_info.groups.iter().flatten();
    request.user() == CONTROL_USER || groups.into_iter().any(|group| group == AGENT_GROUP)
}

/// The answer that causes make.
fn verdict(causes: Causes, warnings: Vec<String>) -> Answer {
    let causes = causes.into_vec();
    if causes.is_empty() { Answer::Allowed(warnings) } else { Answer::Refused(causes) }
}

/// The answer to a deletion: refused while others need the object. `users`: what they are, such as "Subnet lan".
fn unless_needed(users: Vec<String>) -> Answer {
    let mut causes = Causes::default();
    if let Some(first) = users.first() {
        let others = users.len() - 1;
        let more = if others > 0 { format!(" and {others} more") } else { String::new() };
        causes.forbidden("metadata", format!("cannot be deleted while it is used, by {first}{more}"));
    }
    verdict(causes, Vec::new())
}

/// An object whose shape the schema should have refused already.
fn malformed(error: &serde_json::Error) -> Answer {
    let mut causes = Causes::default();
    causes.invalid("spec", error);
    Answer::Refused(causes.into_vec())
}
