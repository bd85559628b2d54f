//! VirtualMachineInstanceReplicaSets and VirtualMachinePools: selector and template fit together, and the template is
//! judged as if somebody made a guest, or a virtual machine, of it.

use std::sync::Arc;

use furrow_api::meta::TemplateMeta;
use furrow_api::pool::{PoolSelectionPolicy, VirtualMachinePoolSpec};
use furrow_api::replicaset::VirtualMachineInstanceReplicaSetSpec;
use furrow_model::replicas::max_unavailable;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::guest::{self, Identity};
use super::review::{Answer, Request};
use super::supported::{self, Refused, When};
use super::{defaults, malformed, settled, verdict, vm};
use crate::subresources::go_duration_ms;
use crate::{pool, selector};

/// Characters that the API server adds to a name that it makes.
const GENERATED: &str = "xxxxx";

const NO_STATE: &str = "keeping disks or memory of removed virtual machines is not supported yet: use Disabled";

/// Below `spec` of a VirtualMachinePool, beside its template.
const POOL: &[Refused] = &[
    Refused {
        path: "scaleInStrategy.opportunistic.statePreservation",
        when: When::NotIn(&["Disabled"]),
        why: NO_STATE,
    },
    Refused { path: "scaleInStrategy.proactive.statePreservation", when: When::NotIn(&["Disabled"]), why: NO_STATE },
];

pub(super) async fn replica_set<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let raw = &request.object["spec"];
    let spec: VirtualMachineInstanceReplicaSetSpec = match serde_json::from_value(raw.clone()) {
        Ok(spec) => spec,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    if !request.name().is_empty() {
        guest::check_name(&format!("{}{GENERATED}", request.name()), &mut causes);
    }
    selects(&spec.selector, spec.template.metadata.as_ref(), &mut causes);
    let identity = Identity { namespace: request.namespace(), name: "" };
    let template = &raw["template"]["spec"];
    guest::check("spec.template.spec", template, &spec.template.spec, (identity, &facts.macs()), &mut causes);
    Ok(verdict(causes, Vec::new()))
}

pub(super) async fn pool<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let raw = &request.object["spec"];
    let spec: VirtualMachinePoolSpec = match serde_json::from_value(raw.clone()) {
        Ok(spec) => spec,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    if !request.name().is_empty() {
        guest::check_name(&format!("{}-0", request.name()), &mut causes);
    }
    supported::refuse("spec", raw, POOL, &mut causes);
    selects(&spec.selector, spec.virtual_machine_template.metadata.as_ref(), &mut causes);
    if !request.is_create() && raw["selector"] != request.old_object["spec"]["selector"] {
        causes.invalid("spec.selector", "selector is immutable after creation.");
    }
    strategies(&spec, &mut causes);
    let judged = Box::pin(template(facts, &request)).await?;
    if let Answer::Undecided(_) = judged {
        return Ok(judged);
    }
    if let Answer::Refused(found) = judged {
        causes.adopt(found, "spec", "spec.virtualMachineTemplate.spec");
    }
    Ok(verdict(causes, Vec::new()))
}

/// The answer to a virtual machine of a pool's template, defaults and all.
async fn template<F: Facts>(facts: Arc<F>, request: &Request) -> Result<Answer, FactsError> {
    let mut machine = Request {
        operation: "CREATE".to_owned(),
        object: pool::sample(&request.object),
        old_object: Value::Null,
        ..request.clone()
    };
    match defaults::of_vm(Arc::clone(&facts), machine.clone()).await? {
        Answer::Patched(patch) => {
            let operations = patch.as_array().into_iter().flatten();
            for operation in operations.filter(|operation| operation["path"] == "/spec") {
                machine.object["spec"] = operation["value"].clone();
            }
        }
        Answer::Allowed(_) => {}
        refused => return Ok(refused),
    }
    vm::validate(facts, machine).await
}

/// A selector that selects what is made: or it would be made for ever.
fn selects(selector: &LabelSelector, metadata: Option<&TemplateMeta>, causes: &mut Causes) {
    if let Err(error) = selector::of(selector) {
        return causes.invalid("spec.selector", error);
    }
    if selector::is_empty(selector) {
        return causes.required("spec.selector", "selects everything: name a label of the template");
    }
    let labels = metadata.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    if !selector::matches(selector, &labels) {
        causes.invalid("spec.selector", "selector does not match labels.");
    }
}

fn strategies(spec: &VirtualMachinePoolSpec, causes: &mut Causes) {
    let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    let said = spec.max_unavailable.as_ref().map(pool::text);
    if let Err(error) = max_unavailable(said.as_deref(), replicas) {
        causes.invalid("spec.maxUnavailable", error);
    }
    let patience = spec.autohealing.as_ref().and_then(|healing| healing.min_failing_to_start_duration.as_deref());
    if let Some(said) = patience.filter(|said| go_duration_ms(said).is_none()) {
        causes.invalid("spec.autohealing.minFailingToStartDuration", format!("must be a time such as 5m, is {said:?}"));
    }
    let scale_in = spec.scale_in_strategy.clone().unwrap_or_default();
    let update = spec.update_strategy.clone().unwrap_or_default();
    let named = [
        (
            "scaleInStrategy",
            [scale_in.unmanaged.is_some(), scale_in.opportunistic.is_some(), scale_in.proactive.is_some()],
        ),
        ("updateStrategy", [update.unmanaged.is_some(), update.opportunistic.is_some(), update.proactive.is_some()]),
    ];
    for (field, there) in named {
        if there.into_iter().filter(|there| *there).count() > 1 {
            causes.invalid(format!("spec.{field}"), "takes one of unmanaged, opportunistic and proactive");
        }
    }
    let policies = [
        ("scaleInStrategy", scale_in.proactive.and_then(|proactive| proactive.selection_policy)),
        ("updateStrategy", update.proactive.and_then(|proactive| proactive.selection_policy)),
    ];
    for (field, policy) in policies {
        let Some(policy) = policy else { continue };
        selectors(&format!("spec.{field}.proactive.selectionPolicy.selectors"), &policy, causes);
    }
}

fn selectors(base: &str, policy: &PoolSelectionPolicy, causes: &mut Causes) {
    let Some(selectors) = &policy.selectors else { return };
    if let Some(Err(error)) = selectors.label_selector.as_ref().map(selector::of) {
        causes.invalid(format!("{base}.labelSelector"), error);
    }
    let requirements = selectors.node_selector_requirement_matcher.as_deref();
    if let Some(Err(error)) = requirements.map(pool::of_nodes).as_ref().map(selector::of) {
        let text = format!("takes In, NotIn, Exists and DoesNotExist: {error}");
        causes.invalid(format!("{base}.nodeSelectorRequirementMatcher"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeCluster, create, refused, update, words};
    use super::*;
    use serde_json::json;

    fn replicas(spec: Value) -> Value {
        let mut full = json!({
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}},
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"metadata": {"name": "web"}, "spec": full})
    }

    async fn judge_set(object: Value) -> Answer {
        replica_set(Arc::new(FakeCluster::usual()), create(object)).await.unwrap()
    }

    #[tokio::test]
    async fn a_set_selects_what_it_makes() {
        assert_eq!(judge_set(replicas(json!({}))).await, Answer::Allowed(Vec::new()));
        let other = replicas(json!({"selector": {"matchLabels": {"app": "other"}}}));
        let answer = judge_set(other).await;
        assert_eq!(refused(&answer), ["spec.selector"]);
        assert!(words(&answer).contains("selector does not match labels."));
        assert_eq!(refused(&judge_set(replicas(json!({"selector": {}}))).await), ["spec.selector"]);
        let odd = json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}});
        assert_eq!(refused(&judge_set(replicas(odd)).await), ["spec.selector"]);
    }

    #[tokio::test]
    async fn a_sets_template_is_judged_as_a_guest() {
        let mut bad = replicas(json!({}));
        bad["spec"]["template"]["spec"]["domain"]["devices"]["useVirtioTransitional"] = json!(true);
        let answer = judge_set(bad).await;
        assert_eq!(refused(&answer), ["spec.template.spec.domain.devices.useVirtioTransitional"]);
    }

    fn machines(spec: Value) -> Value {
        let mut full = json!({
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "virtualMachineTemplate": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "runStrategy": "Always",
                "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}}}},
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"metadata": {"name": "web"}, "spec": full})
    }

    async fn judge_pool(object: Value) -> Answer {
        super::pool(Arc::new(FakeCluster::usual()), create(object)).await.unwrap()
    }

    #[tokio::test]
    async fn a_pools_template_is_judged_as_a_virtual_machine() {
        assert_eq!(judge_pool(machines(json!({}))).await, Answer::Allowed(Vec::new()));
        let mut bad = machines(json!({}));
        bad["spec"]["virtualMachineTemplate"]["spec"]["running"] = json!(true);
        bad["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"]["domain"]["memory"] = json!({});
        let base = "spec.virtualMachineTemplate.spec";
        let (running, memory) = (format!("{base}.running"), format!("{base}.template.spec.domain.memory.guest"));
        assert_eq!(refused(&judge_pool(bad).await), [running, memory]);
        let mut size = machines(json!({}));
        size["spec"]["virtualMachineTemplate"]["spec"]["instancetype"] = json!({"name": "none"});
        assert_eq!(refused(&judge_pool(size).await), [format!("{base}.instancetype")]);
    }

    #[tokio::test]
    async fn a_pools_strategies_are_read() {
        let check = |spec: Value, expected: &'static [&'static str]| async move {
            assert_eq!(refused(&judge_pool(machines(spec.clone())).await), expected, "{spec}");
        };
        check(json!({"maxUnavailable": "50%"}), &[]).await;
        check(json!({"maxUnavailable": "half"}), &["spec.maxUnavailable"]).await;
        check(json!({"autohealing": {"minFailingToStartDuration": "90s"}}), &[]).await;
        let odd = json!({"autohealing": {"minFailingToStartDuration": "soon"}});
        check(odd, &["spec.autohealing.minFailingToStartDuration"]).await;
        let kept = json!({"scaleInStrategy": {"proactive": {"statePreservation": "Offline"}}});
        check(kept, &["spec.scaleInStrategy.proactive.statePreservation"]).await;
        let both = json!({"updateStrategy": {"unmanaged": {}, "opportunistic": {}}});
        check(both, &["spec.updateStrategy"]).await;
        let odd = json!({"scaleInStrategy": {"proactive": {"selectionPolicy": {"selectors": {
            "nodeSelectorRequirementMatcher": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}}}});
        let field = "spec.scaleInStrategy.proactive.selectionPolicy.selectors.nodeSelectorRequirementMatcher";
        assert_eq!(refused(&judge_pool(machines(odd)).await), [field]);
    }

    #[tokio::test]
    async fn a_pools_selector_cannot_be_changed() {
        let (old, mut new) = (machines(json!({})), machines(json!({"replicas": 3})));
        let facts = || Arc::new(FakeCluster::usual());
        let answer = super::pool(facts(), update(old.clone(), new.clone())).await.unwrap();
        assert_eq!(answer, Answer::Allowed(Vec::new()));
        new["spec"]["selector"] = json!({"matchLabels": {"tier": "a"}});
        new["spec"]["virtualMachineTemplate"]["metadata"]["labels"]["tier"] = json!("a");
        let answer = super::pool(facts(), update(old, new)).await.unwrap();
        assert_eq!(refused(&answer), ["spec.selector"]);
    }
}
