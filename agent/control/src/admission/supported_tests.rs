//! The lists of refused fields against the CRDs: no field of the API is forgotten.

use furrow_api::crds;
use serde_json::json;

use super::*;
use crate::admission::realised_tests;

const MACHINE_REALISED: &[&str] = &["dataVolumeTemplates", "instancetype", "preference", "running", "template"];

const DATA_VOLUME_REALISED: &[&str] = &[
    "pvc",
    "source.blank",
    "source.http.certConfigMap",
    "source.http.secretRef",
    "source.http.url",
    "source.pvc",
    "source.registry.certConfigMap",
    "source.registry.secretRef",
    "source.registry.url",
    "storage",
];

/// `disableGatewayCheck`, `enableDHCP` and `underlayGateway` ask for what is always so.
const SUBNET_REALISED: &[&str] = &[
    "cidrBlock",
    "default",
    "dhcpV4Options",
    "disableGatewayCheck",
    "enableDHCP",
    "excludeIps",
    "gateway",
    "mtu",
    "provider",
    "underlayGateway",
    "vlan",
];

const VLAN_REALISED: &[&str] = &["id", "provider"];

const PROVIDER_NETWORK_REALISED: &[&str] = &["customInterfaces", "defaultInterface", "excludeNodes", "nodeSelector"];

fn forgotten(kind: &str, table: &[Refused], realised: &[&str]) -> Vec<String> {
    let crd = crds::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
    let schema = serde_json::to_value(schema).unwrap();
    let mut missing = Vec::new();
    walk("", &schema["properties"]["spec"], table, realised, &mut missing);
    missing
}

fn walk(path: &str, schema: &Value, table: &[Refused], realised: &[&str], missing: &mut Vec<String>) {
    if realised.contains(&path) || table.iter().any(|entry| entry.path == path && !matches!(entry.when, When::NotIn(_)))
    {
        return;
    }
    if let Some(items) = schema.get("items").filter(|items| items.get("properties").is_some()) {
        return walk(&format!("{path}[]"), items, table, realised, missing);
    }
    let properties = schema.get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty());
    match properties {
        Some(properties) => {
            for (name, child) in properties {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(&path, child, table, realised, missing);
            }
        }
        None if table.iter().any(|entry| entry.path == path) => {}
        None => missing.push(path.to_owned()),
    }
}

#[test]
fn every_field_is_realised_or_refused() {
    let none: Vec<String> = Vec::new();
    let guest: Vec<_> = realised_tests::GUEST.iter().map(|row| row.path).collect();
    assert_eq!(forgotten("VirtualMachineInstance", GUEST, &guest), none);
    assert_eq!(forgotten("VirtualMachine", MACHINE, MACHINE_REALISED), none);
    assert_eq!(forgotten("DataVolume", DATA_VOLUME, DATA_VOLUME_REALISED), none);
    assert_eq!(forgotten("Subnet", SUBNET, SUBNET_REALISED), none);
    assert_eq!(forgotten("Vlan", VLAN, VLAN_REALISED), none);
    assert_eq!(forgotten("ProviderNetwork", PROVIDER_NETWORK, PROVIDER_NETWORK_REALISED), none);
}

/// A path that the CRD does not have can never match: a typing error in the table would let the field in.
#[test]
fn every_refused_path_exists() {
    let tables = [
        ("VirtualMachineInstance", GUEST),
        ("VirtualMachine", MACHINE),
        ("DataVolume", DATA_VOLUME),
        ("Subnet", SUBNET),
        ("Vlan", VLAN),
        ("ProviderNetwork", PROVIDER_NETWORK),
    ];
    for (kind, table) in tables {
        let crd = crds::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        let schema = serde_json::to_value(schema).unwrap();
        for entry in table {
            let mut node = &schema["properties"]["spec"];
            for segment in entry.path.split('.') {
                node = &node["properties"][segment.trim_end_matches("[]")];
                node = if segment.ends_with("[]") { &node["items"] } else { node };
            }
            assert!(node.is_object(), "{kind} has no spec.{}", entry.path);
        }
    }
}

fn check(spec: Value, expected: &[&str]) {
    let mut causes = Causes::default();
    refuse("spec.template.spec", &spec, GUEST, &mut causes);
    let paths: Vec<_> =
        causes.fields().into_iter().map(|field| field.trim_start_matches("spec.template.spec.")).collect();
    assert_eq!(paths, expected, "{spec}");
}

#[test]
fn what_is_off_is_not_used() {
    check(
        json!({"domain": {"devices": {"gpus": [], "useVirtioTransitional": false, "tpm": {"persistent": false}}}}),
        &[],
    );
    check(json!({"domain": {"devices": {"useVirtioTransitional": true}}}), &["domain.devices.useVirtioTransitional"]);
    check(json!({"evictionStrategy": "LiveMigrateIfPossible", "architecture": "amd64", "subdomain": ""}), &[]);
    check(json!({"evictionStrategy": "LiveMigrate", "domain": {"cpu": {"maxSockets": 4}}}), &[]);
}

#[test]
fn disks_may_be_plugged_and_utility_volumes_may_not() {
    let volumes = json!({"volumes": [{"name": "a", "dataVolume": {"name": "d", "hotpluggable": true}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "c", "hotpluggable": true}}]});
    check(volumes, &[]);
    check(json!({"domain": {"devices": {"disableHotplug": true}}}), &[]);
    check(json!({"utilityVolumes": [{"name": "u", "claimName": "c"}]}), &["utilityVolumes"]);
}

#[test]
fn elements_are_numbered() {
    check(
        json!({"volumes": [{"name": "a"}, {"name": "b", "containerPath": {"path": "/x"}}],
            "domain": {"devices": {"interfaces": [{"name": "c", "sriov": {}}]}}}),
        &["domain.devices.interfaces[0].sriov", "volumes[1].containerPath"],
    );
}

#[test]
fn the_reason_stands_behind_the_path() {
    let mut causes = Causes::default();
    refuse("spec", &json!({"domain": {"devices": {"gpus": [{"name": "g"}]}}}), GUEST, &mut causes);
    assert_eq!(causes.text(), "spec.domain.devices.gpus: GPUs are not supported yet");
}
