//! Whole objects through the webhooks: the field report's manifests are let in, bad ones are refused with their path.

use std::net::Ipv4Addr;
use std::sync::Arc;

use furrow_api::names;
use serde_json::{Value, json};

use super::facts::{AddressHolder, MacHolder};
use super::review::{Answer, Request};
use super::testing::{FakeCluster, create, refused, subnet, update, words};
use super::{datavolume, defaults, ip, vm, vmi};

fn manifest(text: &str) -> Value {
    let filled = text
        .replace("${URL}", "http://10.0.0.1/debian.qcow2")
        .replace("${NAME}", "tiny-1")
        .replace("${NETWORK}", "default/vlan100")
        .replace("${RUN_STRATEGY}", "Always")
        .replace("${SOURCE}", "blank: {}")
        .replace("${SSH_KEY}", "ssh-ed25519 AAAA");
    serde_saphyr::from_str(&filled).unwrap()
}

fn report() -> Value {
    manifest(include_str!("../../../../tests/manifests/field-report/debian.yaml"))
}

async fn judge_vm(object: Value) -> Answer {
    vm::validate(Arc::new(FakeCluster::usual()), create(object)).await.unwrap()
}

#[tokio::test]
async fn the_field_reports_machines_are_let_in() {
    for text in [
        include_str!("../../../../tests/manifests/field-report/debian.yaml"),
        include_str!("../../../../tests/manifests/field-report/tiny.yaml"),
    ] {
        assert_eq!(judge_vm(manifest(text)).await, Answer::Allowed(Vec::new()));
    }
    let guest = manifest(include_str!("../../../../tests/manifests/field-report/diskless-vmi.yaml"));
    let answer = vmi::validate(Arc::new(FakeCluster::usual()), create(guest)).await.unwrap();
    assert_eq!(answer, Answer::Allowed(Vec::new()));
}

#[tokio::test]
async fn paths_in_a_machine_begin_at_its_root() {
    let mut bad = report();
    bad["spec"]["template"]["spec"]["domain"]["devices"]["gpus"] = json!([{"name": "g", "deviceName": "x"}]);
    bad["spec"]["dataVolumeTemplates"][0]["spec"]["pvc"]["storageClassName"] = json!("fast");
    bad["spec"]["running"] = json!(true);
    let answer = judge_vm(bad).await;
    let field = "spec.dataVolumeTemplates[0].spec.pvc.storageClassName";
    assert_eq!(refused(&answer), ["spec.running", "spec.template.spec.domain.devices.gpus", field]);
    assert!(words(&answer).contains(&format!("{field}: StorageClass \"fast\" does not exist")));
}

#[tokio::test]
async fn templates_of_data_volumes_are_used() {
    let mut bad = report();
    bad["spec"]["template"]["spec"]["volumes"][0]["dataVolume"]["name"] = json!("another");
    assert_eq!(refused(&judge_vm(bad).await), ["spec.dataVolumeTemplates[0]"]);
    let mut bad = report();
    bad["spec"]["dataVolumeTemplates"][0]["metadata"] = json!({});
    let fields = ["spec.dataVolumeTemplates[0].metadata.name", "spec.dataVolumeTemplates[0]"];
    assert_eq!(refused(&judge_vm(bad).await), fields);
}

#[tokio::test]
async fn a_change_that_leaves_the_spec_alone_is_not_judged() {
    let mut bad = report();
    bad["spec"]["running"] = json!(true);
    let request = update(bad.clone(), bad.clone());
    let answer = vm::validate(Arc::new(FakeCluster::usual()), request).await.unwrap();
    assert_eq!(answer, Answer::Allowed(Vec::new()));
    let answer = vm::validate(Arc::new(FakeCluster::usual()), update(report(), bad)).await.unwrap();
    assert_eq!(refused(&answer), ["spec.running"]);
}

#[tokio::test]
async fn a_hardware_address_of_another_machine_is_refused() {
    let holder =
        MacHolder { mac: "02:00:00:00:00:01".parse().unwrap(), namespace: "shop".into(), name: "first".into() };
    let facts = FakeCluster { macs: vec![holder], ..FakeCluster::usual() };
    let mut second = report();
    second["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"] = json!("02:00:00:00:00:01");
    let answer = vm::validate(Arc::new(facts), create(second)).await.unwrap();
    assert_eq!(refused(&answer), ["spec.template.spec.domain.devices.interfaces[0].macAddress"]);
}

fn by(user: &str, request: Request) -> Request {
    let mut request = request;
    request.user_info.username = Some(user.into());
    request
}

#[tokio::test]
async fn a_guest_is_changed_by_nobody_but_control_and_agents() {
    let old = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"domain": {"devices": {}}}});
    let mut new = old.clone();
    new["spec"]["domain"]["memory"] = json!({"guest": "1Gi"});
    new["metadata"]["labels"][names::LABEL_NODE_NAME] = json!("n1");
    let facts = || Arc::new(FakeCluster::usual());
    let answer = vmi::validate(facts(), update(old.clone(), new.clone())).await.unwrap();
    assert_eq!(refused(&answer), ["metadata.labels[kubevirt.io/nodeName]", "spec"]);
    let answer = vmi::validate(facts(), by(names::CONTROL_USER, update(old.clone(), new.clone()))).await.unwrap();
    assert_eq!(answer, Answer::Allowed(Vec::new()));
    let mut agent = update(old, new);
    agent.user_info.groups = Some(vec![names::AGENT_GROUP.into()]);
    assert_eq!(vmi::validate(facts(), agent).await.unwrap(), Answer::Allowed(Vec::new()));
}

async fn judge_volume(spec: Value) -> Answer {
    let facts = FakeCluster { open_namespaces: vec!["images".into()], ..FakeCluster::usual() };
    let object =
        json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "d"}, "spec": spec});
    datavolume::validate(Arc::new(facts), create(object)).await.unwrap()
}

async fn check_volume(source: Value, storage: Value, expected: &[&str]) {
    let spec = json!({"source": source, "storage": storage});
    assert_eq!(refused(&judge_volume(spec.clone()).await), expected, "{spec}");
}

#[tokio::test]
async fn data_volumes_have_one_source_that_is_realised() {
    let size = || json!({"resources": {"requests": {"storage": "1Gi"}}});
    check_volume(json!({"http": {"url": "https://example.org/a.qcow2"}}), size(), &[]).await;
    check_volume(json!({"blank": {}}), size(), &[]).await;
    check_volume(json!({}), size(), &["spec.source"]).await;
    check_volume(json!({"blank": {}, "http": {"url": "http://a/b"}}), size(), &["spec.source"]).await;
    check_volume(json!({"registry": {"url": "docker://r.example:5000/x:1"}}), size(), &[]).await;
    for url in ["oci-archive://x", "docker://", "docker://user:word@host/a", "", "http://r.example/x"] {
        check_volume(json!({"registry": {"url": url}}), size(), &["spec.source.registry.url"]).await;
    }
    let stream = json!({"registry": {"imageStream": "x"}});
    check_volume(stream, size(), &["spec.source.registry.imageStream"]).await;
    let node = json!({"registry": {"url": "docker://x", "pullMethod": "node"}});
    check_volume(node, size(), &["spec.source.registry.pullMethod"]).await;
    for url in ["ftp://a/b", "/etc/passwd", "file:///etc/passwd", "http://", "", "http://user:word@host/a"] {
        check_volume(json!({"http": {"url": url}}), size(), &["spec.source.http.url"]).await;
    }
    check_volume(
        json!({"http": {"url": "http://a/b", "extraHeaders": ["x: y"]}}),
        size(),
        &["spec.source.http.extraHeaders"],
    )
    .await;
}

#[tokio::test]
async fn data_volumes_say_how_large_and_where() {
    let blank = || json!({"blank": {}});
    check_volume(blank(), json!({}), &["spec.storage.resources.requests.storage"]).await;
    check_volume(
        blank(),
        json!({"resources": {"requests": {"storage": "0"}}}),
        &["spec.storage.resources.requests.storage"],
    )
    .await;
    check_volume(json!({"pvc": {"name": "golden"}}), json!({}), &[]).await;
    let with = |key: &str, value: Value| {
        let mut storage = json!({"resources": {"requests": {"storage": "1Gi"}}});
        storage[key] = value;
        storage
    };
    check_volume(blank(), with("volumeMode", json!("Filesystem")), &["spec.storage.volumeMode"]).await;
    check_volume(blank(), with("accessModes", json!(["Whatever"])), &["spec.storage.accessModes[0]"]).await;
    check_volume(blank(), with("storageClassName", json!("gone")), &["spec.storage.storageClassName"]).await;
    check_volume(blank(), with("storageClassName", json!("nfs")), &["spec.storage.storageClassName"]).await;
    let both = json!({"source": {"blank": {}}, "pvc": {}, "storage": {}});
    assert_eq!(refused(&judge_volume(both).await), ["spec.pvc"]);
}

#[tokio::test]
async fn copies_across_namespaces_need_a_permission() {
    let copy = |namespace: &str| json!({"pvc": {"namespace": namespace, "name": "golden"}});
    check_volume(copy("shop"), json!({}), &[]).await;
    check_volume(copy("images"), json!({}), &[]).await;
    check_volume(copy("bank"), json!({}), &["spec.source.pvc"]).await;
    let object = json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "d"},
        "spec": {"source": copy("bank"), "storage": {}}});
    let own = by(names::CONTROL_USER, create(object.clone()));
    let answer = datavolume::validate(Arc::new(FakeCluster::usual()), own).await.unwrap();
    assert_eq!(answer, Answer::Allowed(Vec::new()));
    let broken = FakeCluster { broken: true, ..FakeCluster::usual() };
    assert!(datavolume::validate(Arc::new(broken), create(object)).await.is_err());
}

#[tokio::test]
async fn a_data_volume_cannot_be_changed() {
    let old = json!({"metadata": {"name": "d"}, "spec": {"source": {"blank": {}}}});
    let mut new = old.clone();
    new["spec"]["contentType"] = json!("kubevirt");
    let answer = datavolume::validate(Arc::new(FakeCluster::usual()), update(old, new)).await.unwrap();
    assert_eq!(refused(&answer), ["spec"]);
}

#[tokio::test]
async fn hand_made_addresses_are_free_and_of_the_subnet() {
    let held = AddressHolder {
        object: "web.shop".into(),
        subnet: "lan".into(),
        address: Some(Ipv4Addr::new(192, 168, 10, 20)),
        mac: "02:00:00:00:00:01".parse().ok(),
    };
    let lan = subnet("lan", json!({"cidrBlock": "192.168.10.0/24", "gateway": "192.168.10.1", "vlan": "ovn-vlan"}));
    let facts = Arc::new(FakeCluster { subnets: vec![lan], addresses: vec![held], ..FakeCluster::usual() });
    let judge = async |subnet: &str, address: &str, mac: &str| {
        let object = json!({"apiVersion": "kubeovn.io/v1", "kind": "IP", "metadata": {"name": "x.shop"},
            "spec": {"podName": "x", "namespace": "shop", "subnet": subnet, "ipAddress": address, "macAddress": mac}});
        let answer = ip::validate(Arc::clone(&facts), create(object)).await.unwrap();
        refused(&answer).join(" ")
    };
    assert_eq!(judge("lan", "192.168.10.21", "02:00:00:00:00:02").await, "");
    assert_eq!(judge("lan", "192.168.10.20", "02:00:00:00:00:01").await, "spec.macAddress spec.ipAddress");
    assert_eq!(judge("lan", "192.168.10.1", "02:00:00:00:00:02").await, "spec.ipAddress");
    assert_eq!(judge("lan", "192.168.11.1", "02:00:00:00:00:02").await, "spec.ipAddress");
    assert_eq!(judge("wan", "192.168.10.21", "nonsense").await, "spec.macAddress spec.subnet");
}

#[tokio::test]
async fn what_defaults_make_of_a_valid_object_is_valid() {
    let facts = || Arc::new(FakeCluster::usual());
    let Answer::Patched(patch) = defaults::of_vm(facts(), create(report())).await.unwrap() else {
        panic!("no defaults")
    };
    let mut object = report();
    object["spec"] = patch[0]["value"].clone();
    assert_eq!(judge_vm(object).await, Answer::Allowed(Vec::new()));
}
