//! Subnets, Vlans and ProviderNetworks through the webhooks.

use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::AddressHolder;
use super::review::Answer;
use super::testing::{FakeCluster, create, delete, refused, subnet, update, words};
use super::{subnet as subnets, underlay};

fn report() -> Value {
    json!({"cidrBlock": "192.168.10.0/23", "default": true, "excludeIps": ["192.168.10.1..192.168.10.9"],
        "gateway": "192.168.10.1", "gatewayNode": "", "gatewayType": "distributed", "natOutgoing": false, "private": false,
        "protocol": "IPv4", "provider": "ovn", "underlayGateway": true, "vlan": "ovn-vlan"})
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

async fn judge(facts: FakeCluster, spec: Value) -> Answer {
    subnets::validate(Arc::new(facts), create(object("Subnet", "lan", &spec))).await.unwrap()
}

async fn check(key: &str, value: Value, expected: &[&str]) {
    let mut spec = report();
    spec[key] = value;
    assert_eq!(refused(&judge(FakeCluster::usual(), spec.clone()).await), expected, "{spec}");
}

#[tokio::test]
async fn the_field_reports_subnet_is_let_in() {
    assert_eq!(judge(FakeCluster::usual(), report()).await, Answer::Allowed(Vec::new()));
}

#[tokio::test]
async fn addresses_are_of_the_network() {
    check("cidrBlock", json!("192.168.10.0"), &["spec.cidrBlock"]).await;
    check("cidrBlock", json!(""), &["spec.cidrBlock"]).await;
    check("cidrBlock", json!("fd00::/64"), &["spec.cidrBlock"]).await;
    check("gateway", json!("10.0.0.1"), &["spec.gateway"]).await;
    check("gateway", json!("router"), &["spec.gateway"]).await;
    check("excludeIps", json!(["192.168.10.5", "192.168.10"]), &["spec.excludeIps[1]"]).await;
    check("excludeIps", json!(["192.168.10.9..192.168.12.1"]), &["spec.excludeIps[0]"]).await;
}

#[tokio::test]
async fn an_overlays_fields_are_refused_when_they_are_on() {
    check("natOutgoing", json!(true), &["spec.natOutgoing"]).await;
    check("gatewayType", json!("centralized"), &["spec.gatewayType"]).await;
    check("protocol", json!("Dual"), &["spec.protocol"]).await;
    check("private", json!(true), &["spec.private"]).await;
    check("vpc", json!("ovn-cluster"), &[]).await;
    check("vlan", json!(""), &["spec.vlan"]).await;
    check("dhcpV4Options", json!("dns_server={1.1.1.1,8.8.8.8}"), &[]).await;
    check("dhcpV4Options", json!("lease_time=60,dns_server={1.1.1.1,8.8.8.8}"), &["spec.dhcpV4Options"]).await;
}

#[tokio::test]
async fn a_missing_vlan_is_a_warning() {
    let facts = FakeCluster { vlans: Vec::new(), ..FakeCluster::usual() };
    let Answer::Allowed(warnings) = judge(facts, report()).await else { panic!("refused") };
    assert!(warnings[0].contains("Vlan ovn-vlan does not exist"), "{warnings:?}");
}

#[tokio::test]
async fn two_subnets_share_no_address_on_one_wire() {
    let with = |cidr: &str, default: bool, provider: &str, vlan: &str| {
        let other = json!({"cidrBlock": cidr, "default": default, "provider": provider, "vlan": vlan});
        FakeCluster { subnets: vec![subnet("other", other)], ..FakeCluster::usual() }
    };
    let fields = async |facts: FakeCluster| refused(&judge(facts, report()).await).join(" ");
    assert_eq!(fields(with("192.168.11.0/24", false, "a.b.ovn", "ovn-vlan")).await, "spec.cidrBlock");
    assert_eq!(fields(with("192.168.0.0/16", false, "a.b.ovn", "ovn-vlan")).await, "spec.cidrBlock");
    assert_eq!(fields(with("192.168.12.0/24", false, "a.b.ovn", "ovn-vlan")).await, "");
    assert_eq!(fields(with("192.168.11.0/24", false, "a.b.ovn", "elsewhere")).await, "");
    assert_eq!(fields(with("10.0.0.0/24", true, "a.b.ovn", "ovn-vlan")).await, "spec.default");
}

#[tokio::test]
async fn a_subnet_stays_where_it_is() {
    let old = object("Subnet", "lan", &report());
    let changed = |key: &str, value: Value| {
        let mut new = old.clone();
        new["spec"][key] = value;
        update(old.clone(), new)
    };
    let facts = |held: bool| {
        let holder = AddressHolder { object: "x".into(), subnet: "lan".into(), address: None, mac: None };
        let addresses = if held { vec![holder] } else { Vec::new() };
        Arc::new(FakeCluster { addresses, ..FakeCluster::usual() })
    };
    let answer = subnets::validate(facts(false), changed("cidrBlock", json!("192.168.10.0/24"))).await.unwrap();
    assert_eq!(refused(&answer), ["spec.cidrBlock"]);
    let answer = subnets::validate(facts(true), changed("provider", json!("a.b.ovn"))).await.unwrap();
    assert_eq!(refused(&answer), ["spec.provider"]);
    let answer = subnets::validate(facts(false), changed("provider", json!("a.b.ovn"))).await.unwrap();
    assert_eq!(refused(&answer), [""; 0]);
    let answer = subnets::validate(facts(true), changed("excludeIps", json!([]))).await.unwrap();
    assert_eq!(refused(&answer), [""; 0]);
}

#[tokio::test]
async fn a_tag_is_on_a_wire_once() {
    let judge = async |spec: Value| {
        let answer = underlay::validate_vlan(Arc::new(FakeCluster::usual()), create(object("Vlan", "v", &spec))).await;
        match answer.unwrap() {
            Answer::Allowed(warnings) => warnings.join(" "),
            other => refused(&other).join(" "),
        }
    };
    assert_eq!(judge(json!({"id": 200, "provider": "provider"})).await, "");
    assert_eq!(judge(json!({"id": 100, "provider": "provider"})).await, "spec.id");
    assert_eq!(judge(json!({"id": 100})).await, "spec.provider");
    assert_eq!(judge(json!({"id": 1, "vlanId": 1, "provider": "provider"})).await, "spec.vlanId");
    assert!(judge(json!({"id": 1, "provider": "gone"})).await.contains("does not exist"));
}

#[tokio::test]
async fn a_vlan_in_use_stays_as_it_is() {
    let facts = FakeCluster { subnets: vec![subnet("lan", report())], ..FakeCluster::usual() };
    let old = object("Vlan", "ovn-vlan", &json!({"id": 100, "provider": "provider"}));
    let new = object("Vlan", "ovn-vlan", &json!({"id": 101, "provider": "provider"}));
    let answer = underlay::validate_vlan(Arc::new(facts), update(old, new)).await.unwrap();
    assert_eq!(refused(&answer), ["spec"]);
}

#[tokio::test]
async fn a_bridge_must_be_possible_on_every_node() {
    let judge = async |name: &str, spec: Value| {
        let request = create(object("ProviderNetwork", name, &spec));
        let answer = underlay::validate_provider_network(Arc::new(FakeCluster::usual()), request).await.unwrap();
        refused(&answer).join(" ")
    };
    assert_eq!(judge("provider", json!({"defaultInterface": "eth1"})).await, "");
    assert_eq!(judge("thirteen-char", json!({"defaultInterface": "eth1"})).await, "metadata.name");
    assert_eq!(judge("p", json!({"defaultInterface": "eth 1"})).await, "spec.defaultInterface");
    let twice = json!([{"interface": "a", "nodes": ["n1"]}, {"interface": "b", "nodes": ["n1"]}]);
    let field = "spec.customInterfaces[1].nodes[0]";
    assert_eq!(judge("p", json!({"defaultInterface": "eth1", "customInterfaces": twice})).await, field);
    assert_eq!(
        judge("p", json!({"defaultInterface": "eth1", "exchangeLinkName": true})).await,
        "spec.exchangeLinkName"
    );
}

#[tokio::test]
async fn what_is_used_is_not_deleted() {
    let used = || {
        let holder = AddressHolder { object: "web.shop".into(), subnet: "lan".into(), address: None, mac: None };
        Arc::new(FakeCluster {
            subnets: vec![subnet("lan", report())],
            addresses: vec![holder],
            ..FakeCluster::usual()
        })
    };
    let spec = json!({});
    let lan = subnets::validate(used(), delete(object("Subnet", "lan", &spec))).await.unwrap();
    assert!(words(&lan).contains("while it is used, by IP web.shop"), "{lan:?}");
    let vlan = underlay::validate_vlan(used(), delete(object("Vlan", "ovn-vlan", &spec))).await.unwrap();
    assert!(words(&vlan).contains("by Subnet lan"), "{vlan:?}");
    let provider = object("ProviderNetwork", "provider", &spec);
    let provider = underlay::validate_provider_network(used(), delete(provider)).await.unwrap();
    assert!(words(&provider).contains("by Vlan ovn-vlan"), "{provider:?}");
    let unused = subnets::validate(used(), delete(object("Subnet", "other", &spec))).await.unwrap();
    assert_eq!(unused, Answer::Allowed(Vec::new()));
}
