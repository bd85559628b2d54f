//! The KubeVirt object: one a cluster, in its place, and of its settings those that take effect. Whatever else KubeVirt
//! knows is refused with its path: a setting that is ignored in silence is the worst answer. An empty object says nothing,
//! so that KubeVirt's own sample is let in.

use std::sync::Arc;

use furrow_api::names::{KUBEVIRT_NAME, KUBEVIRT_NAMESPACE};
use furrow_model::kubevirt::{Gate, gate};
use serde_json::Value;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::{settled, verdict};

/// Settings that take effect, below `spec`.
const HONOURED: &[&str] = &[
    "configuration.architectureConfiguration.amd64.machineType",
    "configuration.architectureConfiguration.defaultArchitecture",
    "configuration.cpuModel",
    "configuration.cpuRequest",
    "configuration.developerConfiguration.cpuAllocationRatio",
    "configuration.developerConfiguration.disabledFeatureGates",
    "configuration.developerConfiguration.featureGates",
    "configuration.developerConfiguration.memoryOvercommit",
    "configuration.developerConfiguration.useEmulation",
    "configuration.evictionStrategy",
    "configuration.liveUpdateConfiguration.maxCpuSockets",
    "configuration.liveUpdateConfiguration.maxGuest",
    "configuration.liveUpdateConfiguration.maxHotplugRatio",
    "configuration.machineType",
    // Tells how an image is pulled that nobody pulls; every sample has it.
    "imagePullPolicy",
];

/// Why others are refused, by the beginning of their path; the first that fits.
const REFUSED: &[(&str, &str)] = &[
    ("configuration.permittedHostDevices", "passing host devices through is not supported yet"),
    ("configuration.mediatedDevicesConfiguration", "passing host devices through is not supported yet"),
    ("configuration.migrations", "live migration is not supported yet"),
    ("configuration.network", "guests are bridged; the binding is not chosen for the cluster"),
    ("configuration.emulatedMachines", "machine types are q35 and those that begin with pc-q35-"),
    ("configuration.architectureConfiguration", "only amd64's machine type can be set"),
    ("configuration.developerConfiguration", "this setting has no effect"),
    ("configuration", "this setting has no effect"),
    ("", "this is about deploying KubeVirt, and there is nothing to deploy"),
];

pub(super) async fn validate<F: Facts>(_facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    let mut causes = Causes::default();
    if request.is_create() && (request.namespace() != KUBEVIRT_NAMESPACE || request.name() != KUBEVIRT_NAME) {
        let text = format!("there is one KubeVirt in a cluster: {KUBEVIRT_NAMESPACE}/{KUBEVIRT_NAME}");
        causes.forbidden("metadata.name", text);
    }
    if !settled(&request) {
        check(&request.object["spec"], &mut causes);
    }
    Ok(verdict(causes, Vec::new()))
}

fn check(spec: &Value, causes: &mut Causes) {
    walk("", spec, causes);
    let configuration = &spec["configuration"];
    machine_type("spec.configuration.machineType", &configuration["machineType"], causes);
    let amd64 = &configuration["architectureConfiguration"]["amd64"]["machineType"];
    machine_type("spec.configuration.architectureConfiguration.amd64.machineType", amd64, causes);
    words(
        "spec.configuration.architectureConfiguration.defaultArchitecture",
        &configuration["architectureConfiguration"]["defaultArchitecture"],
        (&["amd64"], "only amd64 is supported"),
        causes,
    );
    let eviction = "live migration is not supported yet, so that a drain cannot wait for it: use None or \
                    LiveMigrateIfPossible";
    let strategies: &[&str] = &["None", "LiveMigrateIfPossible"];
    words("spec.configuration.evictionStrategy", &configuration["evictionStrategy"], (strategies, eviction), causes);
    gates(&configuration["developerConfiguration"], causes);
    for (field, pointer) in [
        ("spec.configuration.cpuRequest", "/cpuRequest"),
        ("spec.configuration.liveUpdateConfiguration.maxGuest", "/liveUpdateConfiguration/maxGuest"),
    ] {
        let Some(amount) = configuration.pointer(pointer).and_then(Value::as_str) else { continue };
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.to_owned());
        if let Err(error) = furrow_api::quantity::millis(&quantity) {
            causes.invalid(field, error);
        }
    }
}

/// Refuses what says something and is not honoured.
fn walk(path: &str, value: &Value, causes: &mut Causes) {
    if HONOURED.contains(&path) {
        return;
    }
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        Value::Array(elements) if elements.is_empty() => {}
        Value::Object(fields) => {
            for (name, child) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(&path, child, causes);
            }
        }
        _ => causes.unsupported(format!("spec.{path}"), why(path)),
    }
}

fn why(path: &str) -> &'static str {
    REFUSED.iter().find(|(beginning, _)| path.starts_with(beginning)).map_or("", |(_, why)| why)
}

fn machine_type(field: &str, value: &Value, causes: &mut Causes) {
    let Some(kind) = value.as_str().filter(|kind| !kind.is_empty()) else { return };
    if !(kind == "q35" || kind.starts_with("pc-q35-")) {
        causes.unsupported(field, format!("{field} is not supported: {kind} (allowed values: [q35* pc-q35*])"));
    }
}

fn words(field: &str, value: &Value, (known, why): (&[&str], &str), causes: &mut Causes) {
    if value.as_str().is_some_and(|word| !word.is_empty() && !known.contains(&word)) {
        causes.unsupported(field, why);
    }
}

fn gates(developer: &Value, causes: &mut Causes) {
    for (list, wanted) in [("featureGates", Gate::Open), ("disabledFeatureGates", Gate::Closed)] {
        for (index, name) in developer[list].as_array().into_iter().flatten().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let found = gate(name);
            if found == wanted {
                continue;
            }
            let text = match found {
                Gate::Unknown => format!("{name:?} is not a feature gate of KubeVirt"),
                Gate::Closed => format!("what {name} opens is not supported yet"),
                Gate::Open => format!("what {name} opens is always there"),
            };
            causes.unsupported(format!("spec.configuration.developerConfiguration.{list}[{index}]"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{FakeCluster, create, refused, update};
    use super::*;

    fn fields(spec: Value) -> Vec<String> {
        let mut causes = Causes::default();
        check(&spec, &mut causes);
        causes.fields().into_iter().map(str::to_owned).collect()
    }

    fn object(name: &str, spec: Value) -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": name, "namespace": "kubevirt"}, "spec": spec})
    }

    #[test]
    fn kubevirts_own_sample_is_let_in() {
        let sample = json!({"certificateRotateStrategy": {}, "configuration": {"developerConfiguration":
            {"featureGates": []}}, "customizeComponents": {}, "imagePullPolicy": "IfNotPresent",
            "workloadUpdateStrategy": {}});
        assert_eq!(fields(sample), Vec::<String>::new());
    }

    #[test]
    fn what_takes_effect_is_let_in() {
        let developer = json!({"useEmulation": true, "cpuAllocationRatio": 4, "memoryOvercommit": 150,
            "featureGates": ["NonRoot"], "disabledFeatureGates": ["Sidecar"]});
        let spec = json!({"configuration": {"cpuModel": "EPYC", "cpuRequest": "50m", "machineType": "pc-q35-9.2",
            "evictionStrategy": "None", "developerConfiguration": developer,
            "liveUpdateConfiguration": {"maxCpuSockets": 8, "maxGuest": "8Gi", "maxHotplugRatio": 2},
            "architectureConfiguration": {"defaultArchitecture": "amd64", "amd64": {"machineType": "q35"}}}});
        assert_eq!(fields(spec), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_is_named_by_its_path() {
        let cases = [
            (
                json!({"configuration": {"permittedHostDevices": {"pciHostDevices": [{"x": 1}]}}}),
                "spec.configuration.permittedHostDevices.pciHostDevices",
            ),
            (
                json!({"configuration": {"migrations": {"allowPostCopy": true}}}),
                "spec.configuration.migrations.allowPostCopy",
            ),
            (json!({"configuration": {"machineType": "pc-i440fx-9.2"}}), "spec.configuration.machineType"),
            (json!({"configuration": {"evictionStrategy": "LiveMigrate"}}), "spec.configuration.evictionStrategy"),
            (json!({"configuration": {"cpuRequest": "much"}}), "spec.configuration.cpuRequest"),
            (
                json!({"configuration": {"liveUpdateConfiguration": {"maxGuest": "much"}}}),
                "spec.configuration.liveUpdateConfiguration.maxGuest",
            ),
            (json!({"imageTag": "v1.9.0"}), "spec.imageTag"),
            (
                json!({"configuration": {"developerConfiguration": {"featureGates": ["NonRoot", "Sidecar"]}}}),
                "spec.configuration.developerConfiguration.featureGates[1]",
            ),
            (
                json!({"configuration": {"developerConfiguration": {"disabledFeatureGates": ["NonRoot"]}}}),
                "spec.configuration.developerConfiguration.disabledFeatureGates[0]",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(fields(spec.clone()), [expected], "{spec}");
        }
    }

    #[test]
    fn every_refusal_says_why() {
        assert!(why("configuration.migrations.x").contains("migration"));
        assert!(why("imageTag").contains("deploy"));
    }

    fn asked(name: &str) -> Request {
        Request { namespace: Some(KUBEVIRT_NAMESPACE.to_owned()), ..create(object(name, json!({}))) }
    }

    #[tokio::test]
    async fn there_is_one_kubevirt() {
        let facts = || Arc::new(FakeCluster::usual());
        let answer = validate(facts(), asked("kubevirt")).await.unwrap();
        assert_eq!(answer, Answer::Allowed(Vec::new()));
        let second = validate(facts(), asked("another")).await.unwrap();
        assert_eq!(refused(&second), ["metadata.name"]);
        let elsewhere = validate(facts(), create(object("kubevirt", json!({})))).await.unwrap();
        assert_eq!(refused(&elsewhere), ["metadata.name"]);
        let (old, new) = (object("kubevirt", json!({})), object("kubevirt", json!({"imageTag": "x"})));
        let changed = validate(facts(), update(old, new)).await.unwrap();
        assert_eq!(refused(&changed), ["spec.imageTag"]);
    }
}
