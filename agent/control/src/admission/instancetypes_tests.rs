//! Virtual machines that refer to instancetypes and preferences, through the webhooks; and the set that is shipped.

use std::collections::BTreeMap;

use super::super::testing::{FakeCluster, create, refused, update, words};
use super::super::{defaults, vm};
use super::*;

fn machine(spec: Value) -> Value {
    let mut full = json!({
        "runStrategy": "Always",
        "template": {"spec": {"domain": {"devices": {}},
            "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "root"}}]}},
    });
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"}, "spec": full})
}

fn cluster() -> FakeCluster {
    let mut cluster = FakeCluster::usual();
    let mut add = |kind, name: &str, spec| cluster.types.insert((kind, name.to_owned()), spec);
    let size = json!({"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}});
    add("VirtualMachineClusterInstancetype", "u1.medium", size);
    add(
        "VirtualMachinePreference",
        "own",
        json!({
            "devices": {"preferredDiskBus": "virtio"}, "machine": {"preferredMachineType": "pc-q35-9.2"},
            "volumes": {"preferredStorageClassName": "fast"}, "requirements": {"cpu": {"guest": 2}},
        }),
    );
    add("VirtualMachineClusterPreference", "large", json!({"requirements": {"memory": {"guest": "8Gi"}}}));
    add("VirtualMachineClusterPreference", "gpu", json!({"devices": {"preferredUseVirtioTransitional": true}}));
    cluster
}

async fn judge(object: Value) -> Answer {
    vm::validate(Arc::new(cluster()), create(object)).await.unwrap()
}

#[tokio::test]
async fn a_machine_of_a_size_needs_none_of_its_own() {
    let fine = machine(json!({"instancetype": {"name": "u1.medium"},
        "preference": {"name": "own", "kind": "VirtualMachinePreference"}}));
    assert_eq!(judge(fine).await, Answer::Allowed(Vec::new()));
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_with_its_path() {
    let mut both = machine(json!({"instancetype": {"name": "u1.medium"}}));
    both["spec"]["template"]["spec"]["domain"]["memory"] = json!({"guest": "1Gi"});
    let answer = judge(both).await;
    assert_eq!(refused(&answer), ["spec.template.spec.domain.memory.guest"]);
    assert!(words(&answer).contains("conflicts with selected instance type"));
    let missing = machine(json!({"instancetype": {"name": "none"}, "preference": {"name": "neither"}}));
    assert_eq!(refused(&judge(missing).await), ["spec.instancetype", "spec.preference"]);
    let small = machine(json!({"instancetype": {"name": "u1.medium"}, "preference": {"name": "large"}}));
    assert_eq!(refused(&judge(small).await), ["spec.instancetype"]);
}

/// What a preference asks for is judged like what a template says.
#[tokio::test]
async fn what_is_not_realised_is_refused_from_a_preference_too() {
    let asks = machine(json!({"instancetype": {"name": "u1.medium"}, "preference": {"name": "gpu"}}));
    assert_eq!(refused(&judge(asks).await), ["spec.template.spec.domain.devices.useVirtioTransitional"]);
}

/// The object after the mutating webhook.
async fn mutated(facts: FakeCluster, object: Value) -> Result<Value, Answer> {
    match defaults::of_vm(Arc::new(facts), create(object.clone())).await.unwrap() {
        Answer::Patched(patch) => {
            let mut object = object;
            object["spec"] = patch[0]["value"].clone();
            Ok(object)
        }
        Answer::Allowed(_) => Ok(object),
        other => Err(other),
    }
}

#[tokio::test]
async fn references_are_completed() {
    let object = machine(json!({
        "instancetype": {"name": "u1.medium"},
        "preference": {"name": "own", "kind": "VirtualMachinePreference"},
        "dataVolumeTemplates": [{"metadata": {"name": "d"}, "spec": {"storage": {}, "source": {"blank": {}}}}],
    }));
    let spec = mutated(cluster(), object).await.unwrap()["spec"].clone();
    assert_eq!(spec["instancetype"]["kind"], "VirtualMachineClusterInstancetype");
    assert_eq!(spec["template"]["spec"]["domain"]["machine"]["type"], "pc-q35-9.2");
    assert_eq!(spec["dataVolumeTemplates"][0]["spec"]["storage"]["storageClassName"], "fast");
    assert_eq!(spec["template"]["spec"]["domain"].get("memory"), None, "sizes stay with the instancetype");
}

fn labelled(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let label = |key: &str| format!("instancetype.kubevirt.io/default-{key}");
    pairs.iter().map(|(key, value)| (label(key), (*value).to_owned())).collect()
}

#[tokio::test]
async fn names_are_inferred_from_a_volume_and_its_sources() {
    let place = || ("shop".to_owned(), "root".to_owned());
    let mut facts = cluster();
    let (namespace, name) = place();
    let labels = labelled(&[
        ("instancetype", "u1.medium"),
        ("preference", "own"),
        ("preference-kind", "VirtualMachinePreference"),
    ]);
    facts.labelled.push((Source::Claim { namespace, name }, (labels, Value::Null)));
    let object =
        machine(json!({"instancetype": {"inferFromVolume": "root"}, "preference": {"inferFromVolume": "root"}}));
    let spec = mutated(facts, object).await.unwrap()["spec"].clone();
    let expected = json!({"name": "u1.medium", "kind": "VirtualMachineClusterInstancetype"});
    assert_eq!(spec["instancetype"], expected);
    assert_eq!(spec["preference"], json!({"name": "own", "kind": "VirtualMachinePreference"}));

    // A DataVolume without labels is a copy of a claim with labels.
    let mut facts = cluster();
    let (namespace, name) = place();
    let copy = json!({"source": {"pvc": {"namespace": "images", "name": "golden"}}});
    facts.labelled.push((Source::DataVolume { namespace, name }, (BTreeMap::new(), copy)));
    let golden = Source::Claim { namespace: "images".into(), name: "golden".into() };
    facts.labelled.push((golden, (labelled(&[("instancetype", "u1.medium")]), Value::Null)));
    let mut object = machine(json!({"instancetype": {"inferFromVolume": "root"}}));
    object["spec"]["template"]["spec"]["volumes"][0] = json!({"name": "root", "dataVolume": {"name": "root"}});
    assert_eq!(mutated(facts, object).await.unwrap()["spec"]["instancetype"], expected);
}

#[tokio::test]
async fn a_volume_without_labels_is_refused_or_passed_over() {
    let facts = || {
        let mut facts = cluster();
        let claim = Source::Claim { namespace: "shop".into(), name: "root".into() };
        facts.labelled.push((claim, (BTreeMap::new(), Value::Null)));
        facts
    };
    let strict = machine(json!({"instancetype": {"inferFromVolume": "root"}}));
    let answer = mutated(facts(), strict.clone()).await.unwrap_err();
    assert_eq!(refused(&answer), ["spec.instancetype.inferFromVolume"]);
    assert!(words(&answer).contains("unable to find required instancetype.kubevirt.io/default-instancetype label"));
    // No claim is no label either, but nobody asked to pass over that.
    assert_eq!(refused(&mutated(cluster(), strict).await.unwrap_err()), ["spec.instancetype.inferFromVolume"]);
    let mut lenient =
        machine(json!({"instancetype": {"inferFromVolume": "root", "inferFromVolumeFailurePolicy": "Ignore"}}));
    lenient["spec"]["template"]["spec"]["domain"]["memory"] = json!({"guest": "1Gi"});
    let spec = mutated(facts(), lenient).await.unwrap()["spec"].clone();
    assert_eq!(spec.get("instancetype"), None);
    assert_eq!(spec["template"]["spec"]["domain"]["memory"]["guest"], "1Gi");
}

#[tokio::test]
async fn a_reference_that_is_neither_name_nor_volume_is_refused() {
    let answer = mutated(cluster(), machine(json!({"instancetype": {"kind": "Pod", "name": "x"}}))).await.unwrap_err();
    assert_eq!(refused(&answer), ["spec.instancetype.kind"]);
}

#[tokio::test]
async fn instancetypes_and_preferences_are_judged() {
    let facts = || Arc::new(FakeCluster::usual());
    let spec = json!({"cpu": {"guest": 1}, "memory": {"guest": "1Gi", "overcommitPercent": 15, "hugepages": {}}});
    let object = json!({"metadata": {"name": "a"}, "spec": spec});
    let answer = size(facts(), create(object.clone())).await.unwrap();
    assert_eq!(refused(&answer), ["spec.memory.overcommitPercent"]);
    let mut fine = object.clone();
    fine["spec"]["memory"] = json!({"guest": "1Gi", "overcommitPercent": 15});
    assert_eq!(size(facts(), update(object, fine)).await.unwrap(), Answer::Allowed(Vec::new()));
    let odd = json!({"spec": {"cpu": {"preferredCPUTopology": "preferCores"}}});
    match preference(facts(), create(odd)).await.unwrap() {
        Answer::Allowed(warnings) => assert_eq!(warnings.len(), 1),
        other => panic!("{other:?}"),
    }
}

/// Objects of the set that is shipped.
fn shipped() -> Vec<Value> {
    let texts = [include_str!("../../manifests/instancetypes.yaml"), include_str!("../../manifests/preferences.yaml")];
    texts.iter().flat_map(|text| serde_saphyr::from_multiple::<Value>(text).unwrap()).collect()
}

#[tokio::test]
async fn every_shipped_object_is_let_in_and_makes_a_machine_that_is() {
    let (mut sizes, mut preferences) = (Vec::new(), Vec::new());
    for object in shipped() {
        let facts = Arc::new(FakeCluster::usual());
        let (list, answer) = match object["kind"].as_str().unwrap() {
            "VirtualMachineClusterInstancetype" => (&mut sizes, size(facts, create(object.clone())).await),
            "VirtualMachineClusterPreference" => (&mut preferences, preference(facts, create(object.clone())).await),
            other => panic!("{other} is shipped"),
        };
        assert_eq!(answer.unwrap(), Answer::Allowed(Vec::new()), "{}", object["metadata"]["name"]);
        list.push((object["metadata"]["name"].as_str().unwrap().to_owned(), object["spec"].clone()));
    }
    assert!(sizes.len() >= 15 && preferences.len() >= 10, "{} and {}", sizes.len(), preferences.len());
    // Every preference with the size that most take, and every size with one preference.
    let usual = sizes.iter().position(|(name, _)| name == "u1.large").unwrap();
    let pairs = (0..preferences.len()).map(|at| (usual, at)).chain((0..sizes.len()).map(|at| (at, 0)));
    for (size, preference) in pairs {
        let (size, preference) = (&sizes[size], &preferences[preference]);
        let mut facts = FakeCluster::usual();
        facts.types.insert(("VirtualMachineClusterInstancetype", size.0.clone()), size.1.clone());
        facts.types.insert(("VirtualMachineClusterPreference", preference.0.clone()), preference.1.clone());
        let machine = machine(json!({"instancetype": {"name": size.0}, "preference": {"name": preference.0}}));
        let answer = vm::validate(Arc::new(facts), create(machine)).await.unwrap();
        assert_eq!(answer, Answer::Allowed(Vec::new()), "{} with {}", size.0, preference.0);
    }
}
