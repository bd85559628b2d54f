//! Defaults, as pairs of objects before and after.

use furrow_api::names::CONTROL_USER;
use furrow_api::vmi::{VirtualMachineInstanceStatus, VmiPhase};
use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;
use crate::admission::testing::{FakeCluster, create};

/// What the API server makes of an answer (RFC 6902: adding a member replaces one that is there).
fn patched(answer: Answer, object: &Value) -> Value {
    match answer {
        Answer::Allowed(_) => object.clone(),
        Answer::Patched(patch) => {
            let mut object = object.clone();
            for operation in patch.as_array().unwrap() {
                let (parent, key) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
                let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).expect("a parent");
                let there = parent.contains_key(key);
                match operation["op"].as_str().unwrap() {
                    "replace" => assert!(there, "{operation}"),
                    "add" => {}
                    other => panic!("{other}"),
                }
                parent.insert(key.to_owned(), operation["value"].clone());
            }
            object
        }
        other => panic!("{other:?}"),
    }
}

async fn vmi(spec: Value) -> Value {
    let object = json!({"metadata": {"name": "a"}, "spec": spec, "status": {"nodeName": "n1"}});
    let answer = of_vmi(Arc::new(FakeCluster::usual()), create(object.clone())).await.unwrap();
    patched(answer, &object)
}

#[tokio::test]
async fn a_guest_that_says_little_is_completed() {
    let made = vmi(json!({"domain": {"devices": {}, "resources": {"requests": {"memory": "64Mi", "cpu": 2}}},
        "volumes": [{"name": "root", "dataVolume": {"name": "r"}}]}))
    .await;
    assert_eq!(made["spec"]["networks"], json!([{"name": "default", "pod": {}}]));
    assert_eq!(made["spec"]["domain"]["devices"]["interfaces"], json!([{"name": "default", "bridge": {}}]));
    assert_eq!(made["spec"]["domain"]["devices"]["disks"], json!([{"name": "root", "disk": {}}]));
    assert_eq!(made["spec"]["domain"]["memory"]["guest"], "64Mi");
    assert_eq!(made["spec"]["domain"]["cpu"], json!({"sockets": 2, "cores": 1, "threads": 1, "maxSockets": 8}));
    assert_eq!(made["spec"]["domain"]["machine"]["type"], "q35");
}

#[tokio::test]
async fn a_new_guest_is_accepted_whatever_it_says_of_itself() {
    let check = async |metadata: Value, status: Value, finalizers: Value| {
        let object = json!({"metadata": metadata, "spec": {"domain": {"devices": {}}}, "status": status});
        let answer = of_vmi(Arc::new(FakeCluster::usual()), create(object.clone())).await.unwrap();
        let made = patched(answer, &object);
        assert_eq!(made["metadata"]["finalizers"], finalizers, "{object}");
        let status: VirtualMachineInstanceStatus = serde_json::from_value(made["status"].clone()).unwrap();
        let (phases, conditions) = (&status.phase_transition_timestamps, &status.conditions);
        assert_eq!((status.phase.clone(), phases.len(), conditions.len()), (VmiPhase::Pending, 1, 1), "{object}");
        assert!(phases[0].phase == VmiPhase::Pending && phases[0].phase_transition_timestamp.is_some());
        let ready = (conditions[0].type_.as_str(), conditions[0].status.as_str(), conditions[0].reason.as_deref());
        assert_eq!(ready, ("Ready", "False", Some("PodNotExists")));
        let keys: Vec<_> = made["status"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["conditions", "phase", "phaseTransitionTimestamps"], "{object}");
        // The policy judges what this webhook made of it.
        let allowed = policy_status_fields();
        assert!(keys.iter().all(|key| allowed.contains(key)), "{keys:?} {allowed:?}");
        // Control goes on from here without accepting it anew.
        assert_eq!(crate::vmi::phase(&status.phase), furrow_model::vmi::Phase::Pending);
    };
    let own = json!([FINALIZER_VMI]);
    check(json!({"name": "a"}), Value::Null, own.clone()).await;
    check(json!({"name": "a", "finalizers": null}), json!({}), own.clone()).await;
    check(json!({"name": "a", "finalizers": [FINALIZER_VMI]}), json!({"phase": "Pending"}), own).await;
    let exported = json!({"phase": "Running", "nodeName": "n1", "activePods": {"p": "n1"},
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "LiveMigratable", "status": "True"}]});
    check(json!({"generateName": "a-", "finalizers": ["x/y"]}), exported, json!(["x/y", FINALIZER_VMI])).await;
}

/// The fields of a status that the policy lets a user's new guest have, as the manifest lists them.
fn policy_status_fields() -> Vec<String> {
    let text = include_str!("../../manifests/policies.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let guests = documents.iter().find(|document| {
        document["kind"] == "ValidatingAdmissionPolicy" && document["metadata"]["name"] == "furrow-guest-status"
    });
    let variables = guests.unwrap()["spec"]["variables"].as_array().unwrap().clone();
    let fields = variables.iter().find(|variable| variable["name"] == "acceptedFields").unwrap();
    serde_json::from_str(fields["expression"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn what_control_says_of_a_guest_that_it_makes_stays() {
    let object =
        json!({"metadata": {"name": "a"}, "spec": {"domain": {"devices": {}}}, "status": {"phase": "Scheduling"}});
    let user_info = UserInfo { username: Some(CONTROL_USER.into()), ..UserInfo::default() };
    let by_control = |object: &Value| Request { user_info: user_info.clone(), ..create(object.clone()) };
    let answer = of_vmi(Arc::new(FakeCluster::usual()), by_control(&object)).await.unwrap();
    assert_eq!(patched(answer, &object)["status"], object["status"]);
    let silent = json!({"metadata": {"name": "a"}, "spec": {"domain": {"devices": {}}}});
    let answer = of_vmi(Arc::new(FakeCluster::usual()), by_control(&silent)).await.unwrap();
    assert_eq!(patched(answer, &silent)["status"]["phase"], "Pending");
    // Without its revision no change of its virtual machine would ever be noticed.
    let named = json!({"metadata": {"name": "a"}, "spec": {"domain": {"devices": {}}},
        "status": {"virtualMachineRevisionName": "revision-1"}});
    let answer = of_vmi(Arc::new(FakeCluster::usual()), by_control(&named)).await.unwrap();
    let status = patched(answer, &named)["status"].clone();
    assert_eq!((&status["virtualMachineRevisionName"], &status["phase"]), (&json!("revision-1"), &json!("Pending")));
}

#[tokio::test]
async fn what_a_guest_says_stays() {
    let spec = json!({"domain": {"cpu": {"cores": 4}, "memory": {"guest": "1Gi"}, "machine": {"type": "pc-q35-9.2"},
        "devices": {"autoattachPodInterface": false, "disks": [{"name": "root", "disk": {"bus": "scsi"}}]},
        "resources": {"requests": {"memory": "512Mi"}}}, "volumes": [{"name": "root", "dataVolume": {"name": "r"}}]});
    let made = vmi(spec.clone()).await["spec"].clone();
    assert_eq!(made["domain"]["cpu"], json!({"sockets": 1, "cores": 4, "threads": 1, "maxSockets": 4}));
    for path in ["/domain/memory", "/domain/machine", "/domain/devices", "/volumes", "/networks"] {
        assert_eq!(made.pointer(path), spec.pointer(path), "{path}");
    }
}

#[tokio::test]
async fn a_guest_that_makes_no_sense_is_left_to_the_schema() {
    for spec in
        [json!(null), json!([]), json!({}), json!({"domain": 3}), json!({"domain": {"devices": []}, "volumes": 1})]
    {
        let made = vmi(spec.clone()).await;
        assert_eq!(made["metadata"]["name"], "a", "{spec}");
    }
}

#[tokio::test]
async fn a_virtual_machine_keeps_its_machine_type() {
    let object = json!({"metadata": {"name": "a"}, "spec": {"runStrategy": "Halted",
        "template": {"spec": {"domain": {"devices": {}}}},
        "dataVolumeTemplates": [{"metadata": {"name": "d"}, "spec": {"pvc": {}, "source": {"pvc": {"name": "golden"}}}}]}});
    let answer = of_vm(Arc::new(FakeCluster::usual()), create(object.clone())).await.unwrap();
    let made = patched(answer, &object);
    assert_eq!(made["spec"]["template"]["spec"]["domain"], json!({"devices": {}, "machine": {"type": "q35"}}));
    let template = &made["spec"]["dataVolumeTemplates"][0]["spec"];
    assert_eq!(template["source"]["pvc"]["namespace"], "shop");
    assert_eq!(template["pvc"]["volumeMode"], "Block");
    let again = of_vm(Arc::new(FakeCluster::usual()), create(made)).await.unwrap();
    assert_eq!(again, Answer::Allowed(Vec::new()));
}

#[tokio::test]
async fn a_data_volume_is_a_block_device() {
    let object =
        json!({"metadata": {"name": "a"}, "spec": {"storage": {"volumeMode": "Filesystem"}, "source": {"blank": {}}}});
    let answer = of_data_volume(Arc::new(FakeCluster::usual()), create(object.clone())).await.unwrap();
    assert_eq!(patched(answer, &object), object);
    let object = json!({"metadata": {"name": "a"}, "spec": {"storage": {}, "source": {"blank": {}}}});
    let answer = of_data_volume(Arc::new(FakeCluster::usual()), create(object.clone())).await.unwrap();
    assert_eq!(patched(answer, &object)["spec"]["storage"]["volumeMode"], "Block");
}

#[tokio::test]
async fn there_is_room_for_processors_that_come_later() {
    let check = async |cpu: Value, expected: i64| {
        let made = vmi(json!({"domain": {"cpu": cpu.clone(), "devices": {}}})).await;
        assert_eq!(made["spec"]["domain"]["cpu"]["maxSockets"], expected, "{cpu}");
    };
    check(json!({"sockets": 2}), 8).await;
    check(json!({"sockets": 2, "maxSockets": 3}), 3).await;
    check(json!({"sockets": 16, "cores": 4, "threads": 2}), 31).await;
    check(json!({"sockets": 2, "dedicatedCpuPlacement": true}), 2).await;
    check(json!({"sockets": 2, "dedicatedCpuPlacement": false}), 8).await;
}

#[tokio::test]
async fn the_clusters_eviction_strategy_is_that_of_guests_that_name_none() {
    let strategy = async |spec: Value, default| {
        let object = json!({"metadata": {"name": "a"}, "spec": spec});
        let cluster = FakeCluster { eviction_strategy: default, ..FakeCluster::usual() };
        let answer = of_vmi(Arc::new(cluster), create(object.clone())).await.unwrap();
        patched(answer, &object)["spec"]["evictionStrategy"].clone()
    };
    let default = Some(furrow_api::vmi::EvictionStrategy::LiveMigrate);
    assert_eq!(strategy(json!({"domain": {"devices": {}}}), default.clone()).await, "LiveMigrate");
    let own = json!({"domain": {"devices": {}}, "evictionStrategy": "None"});
    assert_eq!(strategy(own, default).await, "None");
    assert_eq!(strategy(json!({"domain": {"devices": {}}}), None).await, Value::Null);
}

async fn with_room(domain: Value, room: ClusterRoom) -> Value {
    let object = json!({"metadata": {"name": "a"}, "spec": {"domain": domain}});
    let cluster = FakeCluster { room, ..FakeCluster::usual() };
    let answer = of_vmi(Arc::new(cluster), create(object.clone())).await.unwrap();
    patched(answer, &object)["spec"]["domain"].clone()
}

#[tokio::test]
async fn there_is_room_for_memory_only_where_somebody_asks_for_it() {
    let check = async |memory: Value, room: ClusterRoom, expected: Value| {
        let made = with_room(json!({"devices": {}, "memory": memory}), room).await;
        assert_eq!(made["memory"]["maxGuest"], expected, "{memory} {room:?}");
    };
    let ratio = ClusterRoom { ratio: Some(4), ..ClusterRoom::default() };
    let fixed = ClusterRoom { max_guest: Some(8 << 30), ..ratio };
    check(json!({"guest": "1Gi"}), ClusterRoom::default(), Value::Null).await;
    check(json!({"guest": "1Gi"}), ratio, json!("4096Mi")).await;
    check(json!({"guest": "1Gi"}), fixed, json!("8192Mi")).await;
    check(json!({"guest": "1Gi", "maxGuest": "2Gi"}), fixed, json!("2Gi")).await;
    check(json!({"guest": "128Mi"}), ratio, Value::Null).await;
    check(json!({"guest": "16Gi"}), fixed, Value::Null).await;
}

#[tokio::test]
async fn the_cluster_says_how_many_processors_there_is_room_for() {
    let check = async |room: ClusterRoom, expected: i64| {
        let made = with_room(json!({"devices": {}, "cpu": {"sockets": 2}}), room).await;
        assert_eq!(made["cpu"]["maxSockets"], expected, "{room:?}");
    };
    check(ClusterRoom { ratio: Some(2), ..ClusterRoom::default() }, 4).await;
    check(ClusterRoom { max_sockets: Some(6), ..ClusterRoom::default() }, 6).await;
}
