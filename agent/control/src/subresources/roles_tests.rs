//! The roles that are shipped, against the table of operations: KubeVirt's grants, one row an operation.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::route::{EXPAND_VM_SPEC, SUBRESOURCES};

/// What each role may do in the group, as `verb resource`.
fn granted() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../manifests/rbac-users.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let mut granted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for role in documents.iter().filter(|document| document["kind"] == "ClusterRole") {
        let entry = granted.entry(role["metadata"]["name"].as_str().unwrap().to_owned()).or_default();
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        for rule in role["rules"].as_array().unwrap() {
            if !list(&rule["apiGroups"]).iter().any(|group| group == "subresources.kubevirt.io") {
                continue;
            }
            for verb in list(&rule["verbs"]) {
                entry.extend(list(&rule["resources"]).iter().map(|resource| format!("{verb} {resource}")));
            }
        }
    }
    granted
}

/// Who may do it: `a` admin, `e` edit, `v` view, `m` migrate; `-` nobody but who may do everything.
const GRANTS: &[(&str, &str)] = &[
    ("update virtualmachines/start", "ae"),
    ("update virtualmachines/stop", "ae"),
    ("update virtualmachines/restart", "ae"),
    ("get virtualmachines/expand-spec", "aev"),
    ("update virtualmachines/migrate", "m"),
    ("update virtualmachines/rename", "ae"),
    ("update virtualmachines/addvolume", "ae"),
    ("update virtualmachines/removevolume", "ae"),
    ("update virtualmachines/memorydump", "ae"),
    ("update virtualmachines/removememorydump", "ae"),
    ("update virtualmachines/evacuate/cancel", "-"),
    ("get virtualmachines/objectgraph", "aev"),
    ("get virtualmachines/portforward", "ae"),
    ("update virtualmachineinstances/pause", "ae"),
    ("update virtualmachineinstances/unpause", "ae"),
    ("update virtualmachineinstances/softreboot", "ae"),
    ("update virtualmachineinstances/reset", "ae"),
    ("update virtualmachineinstances/freeze", "ae"),
    ("update virtualmachineinstances/unfreeze", "ae"),
    ("get virtualmachineinstances/guestosinfo", "aev"),
    ("get virtualmachineinstances/userlist", "aev"),
    ("get virtualmachineinstances/filesystemlist", "aev"),
    ("update virtualmachineinstances/addvolume", "ae"),
    ("update virtualmachineinstances/removevolume", "ae"),
    ("update virtualmachineinstances/backup", "-"),
    ("update virtualmachineinstances/redefine-checkpoint", "-"),
    ("update virtualmachineinstances/evacuate/cancel", "-"),
    ("get virtualmachineinstances/objectgraph", "aev"),
    ("get virtualmachineinstances/console", "ae"),
    ("get virtualmachineinstances/vnc", "ae"),
    ("get virtualmachineinstances/vnc/screenshot", "a"),
    ("get virtualmachineinstances/usbredir", "ae"),
    ("get virtualmachineinstances/vsock", "ae"),
    ("get virtualmachineinstances/portforward", "ae"),
    ("get virtualmachineinstances/sev/fetchcertchain", "-"),
    ("get virtualmachineinstances/sev/querylaunchmeasurement", "-"),
    ("update virtualmachineinstances/sev/setupsession", "-"),
    ("update virtualmachineinstances/sev/injectlaunchsecret", "-"),
    ("update expand-vm-spec", "aev"),
];

const ROLES: [(char, &str); 4] =
    [('a', "kubevirt.io:admin"), ('e', "kubevirt.io:edit"), ('v', "kubevirt.io:view"), ('m', "kubevirt.io:migrate")];

#[test]
fn every_operation_is_granted_to_whom_kubevirt_grants_it() {
    let granted = granted();
    for (right, letters) in GRANTS {
        for (letter, role) in ROLES {
            assert_eq!(granted[role].contains(*right), letters.contains(letter), "{role}: {right}");
        }
    }
}

#[test]
fn the_table_has_a_row_for_every_operation_and_no_other_right_is_granted() {
    let verb = |reads: bool| if reads { "get" } else { "update" };
    let mut operations: BTreeSet<String> =
        SUBRESOURCES.iter().map(|s| format!("{} {}/{}", verb(s.reads), s.resource.plural(), s.name)).collect();
    operations.insert(format!("update {EXPAND_VM_SPEC}"));
    let rows: BTreeSet<String> = GRANTS.iter().map(|(right, _)| (*right).to_owned()).collect();
    assert_eq!(operations, rows);
    for (_, role) in ROLES {
        let beyond: Vec<_> = granted()[role].difference(&rows).cloned().collect();
        assert_eq!(beyond, Vec::<String>::new(), "{role}");
    }
    let everybody: Vec<_> = granted()["kubevirt.io:default"].iter().cloned().collect();
    assert_eq!(everybody, ["get guestfs", "get version", "list guestfs", "list version"]);
}
