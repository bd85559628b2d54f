//! The roles that are shipped for people, against a table of the kinds: KubeVirt's grants, one row a kind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Who may write it (`admin` everything, `edit` all but deletecollection), or only read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grant {
    /// Administrators and editors write, viewers read.
    Written,
    /// All of them read.
    Read,
}

/// Group, resource, grant.
const KINDS: &[(&str, &str, Grant)] = &[
    ("instancetype.kubevirt.io", "virtualmachineclusterinstancetypes", Grant::Written),
    ("instancetype.kubevirt.io", "virtualmachineclusterpreferences", Grant::Written),
    ("instancetype.kubevirt.io", "virtualmachineinstancetypes", Grant::Written),
    ("instancetype.kubevirt.io", "virtualmachinepreferences", Grant::Written),
    ("kubevirt.io", "virtualmachineinstancemigrations", Grant::Read),
    ("kubevirt.io", "virtualmachineinstancepresets", Grant::Written),
    ("kubevirt.io", "virtualmachineinstancereplicasets", Grant::Written),
    ("kubevirt.io", "virtualmachineinstances", Grant::Written),
    ("kubevirt.io", "virtualmachines", Grant::Written),
    ("pool.kubevirt.io", "virtualmachinepools", Grant::Written),
];

/// Verbs of each role on each kind.
fn granted(role: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../manifests/rbac-users.yaml")).unwrap();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut granted: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    let roles = documents.iter().filter(|document| document["kind"] == "ClusterRole");
    for rule in roles.filter(|found| found["metadata"]["name"] == role).flat_map(|found| found["rules"].as_array()) {
        for rule in rule {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    granted.entry((group.clone(), resource)).or_default().extend(words(&rule["verbs"]));
                }
            }
        }
    }
    granted
}

#[test]
fn every_kind_is_granted_as_kubevirt_grants_it() {
    let read = "get list watch";
    let edit = "create delete get list patch update watch";
    let admin = "create delete deletecollection get list patch update watch";
    for (role, writes) in [("kubevirt.io:admin", admin), ("kubevirt.io:edit", edit), ("kubevirt.io:view", read)] {
        let mut granted = granted(role);
        granted.retain(|(group, _), _| group != "subresources.kubevirt.io");
        for (group, resource, grant) in KINDS {
            let verbs = granted.remove(&((*group).to_owned(), (*resource).to_owned())).unwrap_or_default();
            let verbs = verbs.into_iter().collect::<Vec<_>>().join(" ");
            assert_eq!(verbs, if *grant == Grant::Written { writes } else { read }, "{role}: {group} {resource}");
        }
        assert!(granted.is_empty(), "{role} has more: {granted:?}");
    }
}

#[test]
fn everybody_sees_what_is_for_all() {
    let granted = granted("instancetype.kubevirt.io:view");
    let resources: Vec<_> = granted.keys().map(|(_, resource)| resource.as_str()).collect();
    assert_eq!(resources, ["virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences"]);
}
