//! The schemas against the types and against the fields that published manifests use.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use furrow_api::{
    CDIConfig, DataVolume, IP, KubeVirt, NetworkAttachmentDefinition, ProviderNetwork, StorageProfile, Subnet,
    VirtualMachine, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstancePreset, VirtualMachineInstanceReplicaSet,
    VirtualMachineInstancetype, VirtualMachinePool, VirtualMachinePreference, Vlan, crds,
};
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The schema of a kind's storage version.
fn schema(kind: &str) -> Value {
    let crd = crds::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap()).unwrap()
}

/// A value that fills in everything a schema has.
fn sample(schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().find(|word| !word.is_null()).unwrap().clone();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return json!("1");
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => json!("2026-01-02T03:04:05Z"),
        Some("string") => json!("02:00:00:00:00:01"),
        Some("integer" | "number") => {
            schema.get("minimum").filter(|minimum| **minimum != json!(0.0)).map_or(json!(1), whole)
        }
        Some("boolean") => json!(true),
        Some("array") => json!([sample(&schema["items"])]),
        Some("object") if schema["additionalProperties"].is_object() => {
            json!({"key": sample(&schema["additionalProperties"])})
        }
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, child)| (name.clone(), sample(child))).collect::<Map<_, _>>())
        }
    }
}

/// Limits are written as floating point numbers.
fn whole(limit: &Value) -> Value {
    json!(limit.as_f64().map(|limit| limit.round() as i64))
}

/// JSON writes one number in several ways.
fn same_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(elements) => elements.iter_mut().for_each(same_numbers),
        Value::Object(fields) => fields.values_mut().for_each(same_numbers),
        _ => {}
    }
}

fn check_round_trip<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>() {
    let kind = K::kind(&());
    let mut written = sample(&schema(&kind));
    written["apiVersion"] = json!(K::api_version(&()));
    written["kind"] = json!(kind);
    written["metadata"] = json!({"name": "a"});
    let read: K = serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    let mut again = serde_json::to_value(&read).unwrap();
    same_numbers(&mut written);
    same_numbers(&mut again);
    let mut lost = Vec::new();
    differences("", &written, &again, &mut lost);
    assert_eq!(lost, Vec::<String>::new(), "{kind}");
}

fn differences(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for name in one.keys().chain(other.keys()) {
                let null = Value::Null;
                let (one, other) = (one.get(name).unwrap_or(&null), other.get(name).unwrap_or(&null));
                differences(&format!("{path}.{name}"), one, other, found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).for_each(|(one, other)| differences(&format!("{path}[]"), one, other, found));
        }
        _ if one == other => {}
        _ => found.push(format!("{path}: {one} became {other}")),
    }
}

/// A field that a type drops would be lost whenever control or an agent writes an object back.
#[test]
fn every_field_survives_reading_and_writing() {
    check_round_trip::<VirtualMachine>();
    check_round_trip::<VirtualMachineInstance>();
    check_round_trip::<VirtualMachineInstanceMigration>();
    check_round_trip::<KubeVirt>();
    check_round_trip::<DataVolume>();
    check_round_trip::<CDIConfig>();
    check_round_trip::<StorageProfile>();
    check_round_trip::<NetworkAttachmentDefinition>();
    check_round_trip::<ProviderNetwork>();
    check_round_trip::<Vlan>();
    check_round_trip::<Subnet>();
    check_round_trip::<IP>();
    check_round_trip::<VirtualMachineInstanceReplicaSet>();
    check_round_trip::<VirtualMachinePool>();
    check_round_trip::<VirtualMachineInstancePreset>();
    check_round_trip::<VirtualMachineInstancetype>();
    check_round_trip::<VirtualMachineClusterInstancetype>();
    check_round_trip::<VirtualMachinePreference>();
    check_round_trip::<VirtualMachineClusterPreference>();
}

#[test]
fn fields_of_published_manifests_are_in_the_schema() {
    let (vm, vmi) = (schema("VirtualMachine"), schema("VirtualMachineInstance"));
    let paths = include_str!("fixtures/paths.txt").lines().filter(|line| !line.starts_with('#'));
    for path in paths {
        let (kind, fields) = path.split_once('.').unwrap();
        let mut node = if kind == "VM" { &vm } else { &vmi };
        for field in fields.split('.').filter(|field| *field != "*") {
            let name = field.trim_end_matches("[]");
            // Free-form maps have no names for their keys.
            if node["properties"].is_null() && node["additionalProperties"].is_object() {
                break;
            }
            node = &node["properties"][name];
            if field.ends_with("[]") && node["items"].is_object() {
                node = &node["items"];
            }
        }
        assert!(node.is_object(), "the schema has no {path}");
    }
}

/// What Go clients write besides what users write.
#[test]
fn nulls_and_empty_objects_of_clients_are_read() {
    let vm: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "a", "creationTimestamp": null},
        "spec": {
            "running": null,
            "runStrategy": "Always",
            "template": {
                "metadata": {"creationTimestamp": null},
                "spec": {"domain": {"devices": {}, "resources": {"requests": {"memory": 1073741824_i64, "cpu": 2}}}},
            },
            "dataVolumeTemplates": [{"metadata": {"creationTimestamp": null, "name": "d"},
                "spec": {"source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": 10}}}}}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "False", "lastProbeTime": null, "lastTransitionTime": null}]},
    }))
    .unwrap();
    assert_eq!(vm.spec.template.spec.domain.resources.requests["cpu"].0, "2");
    assert_eq!(vm.spec.running, None);
}
