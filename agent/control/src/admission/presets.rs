//! VirtualMachineInstancePresets: judged when they are written, and put into guests when those are made. Deprecated
//! upstream; what follows from one is `furrow_model::preset`'s affair.

use std::sync::Arc;

use furrow_api::VirtualMachineInstancePreset;
use furrow_model::preset::{self as model, Preset};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::supported;
use super::{malformed, settled, verdict};
use crate::selector;

/// A guest with this annotation, `"true"`, gets no presets; KubeVirt's.
const EXCLUDED: &str = "virtualmachineinstancepresets.admission.kubevirt.io/exclude";

/// Annotation of a guest for each preset in it is this and the preset's name; its value is the version of the API.
const APPLIED: &str = "virtualmachinepreset.kubevirt.io/";

const VERSION: &str = "kubevirt.io/v1";

pub(super) async fn validate<F: Facts>(_facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let preset: VirtualMachineInstancePreset = match request.object() {
        Ok(preset) => preset,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    if let Err(error) = selector::of(&preset.spec.selector) {
        causes.invalid("spec.selector", error);
    }
    if preset.spec.domain.is_none() {
        causes.required("spec.domain", "missing domain.");
    }
    supported::refuse("spec", &json!({"domain": request.object["spec"]["domain"]}), supported::GUEST, &mut causes);
    let old = "VirtualMachineInstancePreset is deprecated: use instancetypes and preferences";
    Ok(verdict(causes, vec![old.to_owned()]))
}

/// Puts the presets of its namespace into a guest that is being made.
pub(super) fn apply<F: Facts>(facts: &F, request: &Request, object: &mut Value) -> Causes {
    let mut causes = Causes::default();
    let metadata = &object["metadata"];
    if metadata["annotations"][EXCLUDED] == "true" {
        return causes;
    }
    let labels = serde_json::from_value(metadata["labels"].clone()).unwrap_or_default();
    let mut presets = facts.presets(request.namespace());
    presets.retain(|preset| selector::matches(&preset.spec.selector, &labels));
    presets.sort_by_key(|preset| preset.name_any());
    if presets.is_empty() {
        return causes;
    }
    let domains: Vec<_> =
        presets.iter().map(|preset| serde_json::to_value(&preset.spec.domain).unwrap_or_default()).collect();
    let names: Vec<_> = presets.iter().map(|preset| preset.name_any()).collect();
    let named: Vec<_> = names.iter().zip(&domains).map(|(name, domain)| Preset { name, domain }).collect();
    let outcomes = object.pointer_mut("/spec/domain").map(|domain| model::apply(domain, &named));
    match outcomes {
        None => {}
        Some(Err(odds)) => {
            let odds = odds.join(", ");
            causes.invalid("spec.domain", format!("VirtualMachinePresets cannot be applied due to conflicts: {odds}"));
        }
        Some(Ok(outcomes)) => {
            for outcome in outcomes {
                if !outcome.overridden.is_empty() {
                    let parts = outcome.overridden.join(", ");
                    tracing::info!(preset = outcome.name, vmi = request.name(), parts, "guest overrides its preset");
                }
                if outcome.applied {
                    annotate(object, &outcome.name);
                }
            }
        }
    }
    causes
}

fn annotate(object: &mut Value, preset: &str) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][format!("{APPLIED}{preset}")] = json!(VERSION);
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::super::testing::{FakeCluster, create, refused, words};
    use super::*;

    fn preset(name: &str, app: &str, domain: Value) -> Arc<VirtualMachineInstancePreset> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstancePreset", "metadata": {"name": name},
                "spec": {"selector": {"matchLabels": {"app": app}}, "domain": domain},
            }))
            .unwrap(),
        )
    }

    fn facts() -> Arc<FakeCluster> {
        let memory = json!({"devices": {}, "resources": {"requests": {"memory": "96Mi"}}});
        let small = preset("small", "web", memory);
        Arc::new(FakeCluster { presets: vec![small], ..FakeCluster::usual() })
    }

    fn guest(labels: Value, annotations: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels, "annotations": annotations},
            "spec": {"domain": {"devices": {}}}})
    }

    async fn patched(object: Value) -> Vec<Value> {
        match defaults::of_vmi(facts(), create(object)).await.unwrap() {
            Answer::Patched(Value::Array(operations)) => operations,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_guest_with_its_labels_gets_a_preset_and_says_so() {
        let operations = patched(guest(json!({"app": "web"}), json!({"x": "y"}))).await;
        assert_eq!(operations[0]["value"]["domain"]["resources"]["requests"]["memory"], "96Mi");
        assert_eq!(operations[0]["value"]["domain"]["memory"]["guest"], "96Mi", "defaults come after it");
        let annotations = json!({"x": "y", "virtualmachinepreset.kubevirt.io/small": "kubevirt.io/v1"});
        assert_eq!(operations[1], json!({"op": "add", "path": "/metadata/annotations", "value": annotations}));
    }

    #[tokio::test]
    async fn others_and_the_excluded_get_none() {
        let excluded = guest(json!({"app": "web"}), json!({EXCLUDED: "true"}));
        for object in [guest(json!({"app": "db"}), json!({})), excluded] {
            let operations = patched(object).await;
            assert!(operations.iter().all(|one| one["path"] != "/metadata/annotations"), "{operations:?}");
            assert_eq!(operations[0]["path"], "/spec");
            assert_eq!(operations[0]["value"]["domain"].get("resources"), None);
        }
    }

    #[tokio::test]
    async fn presets_at_odds_refuse_the_guest() {
        let cpu = |cores: i64| json!({"devices": {}, "cpu": {"cores": cores}});
        let presets = vec![preset("a", "web", cpu(1)), preset("b", "web", cpu(2))];
        let facts = Arc::new(FakeCluster { presets, ..FakeCluster::usual() });
        let answer = defaults::of_vmi(facts, create(guest(json!({"app": "web"}), json!({})))).await.unwrap();
        assert_eq!(refused(&answer), ["spec.domain"]);
        assert!(words(&answer).contains("presets 'b' and 'a' conflict"));
    }

    #[tokio::test]
    async fn a_preset_names_only_what_is_realised() {
        let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstancePreset",
            "metadata": {"name": "p"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "domain": {"devices": {"useVirtioTransitional": true}}}});
        let answer = validate(facts(), create(object)).await.unwrap();
        assert_eq!(refused(&answer), ["spec.domain.devices.useVirtioTransitional"]);
    }
}
