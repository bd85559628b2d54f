//! Evictions, from the request to the answer and what was written.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::admission::testing::{FakeCluster, create};

fn reserved(strategy: Option<&str>, migratable: bool) -> Reserved {
    let status = if migratable { "True" } else { "False" };
    let mut vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
        "spec": {"domain": {"devices": {}}},
        "status": {"phase": "Running", "nodeName": "n1",
            "conditions": [{"type": "LiveMigratable", "status": status}]},
    });
    if let Some(strategy) = strategy {
        vmi["spec"]["evictionStrategy"] = json!(strategy);
    }
    Reserved { vmi: serde_json::from_value(vmi).unwrap(), node: "n1".into(), over: false }
}

fn cluster(reserved: Reserved) -> Arc<FakeCluster> {
    Arc::new(FakeCluster { reserved: Some(reserved), ..FakeCluster::usual() })
}

fn eviction() -> Request {
    let object = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "virt-launcher-web-x"}});
    Request { target: "virt-launcher-web-x".into(), ..create(object) }
}

async fn check(cluster: &Arc<FakeCluster>, request: Request, expected: &str) {
    let answer = validate(Arc::clone(cluster), request).await.unwrap();
    let review: Value = answer.to_review("u");
    let response = &review["response"];
    let allowed = expected.is_empty();
    assert_eq!(response["allowed"], allowed, "{response}");
    if !allowed {
        assert_eq!(response["status"]["message"], expected);
        assert_eq!(response["status"]["code"], 429);
        assert_eq!(response["status"]["reason"], "TooManyRequests");
    }
}

fn marks(cluster: &FakeCluster) -> Vec<(String, bool)> {
    cluster.marks.lock().unwrap().clone()
}

const TRIGGERED: &str = "Eviction triggered evacuation of VMI \"shop/web\"";

#[tokio::test]
async fn a_guest_that_is_to_migrate_keeps_its_pod_and_is_marked() {
    let cluster = cluster(reserved(Some("LiveMigrate"), true));
    check(&cluster, eviction(), TRIGGERED).await;
    assert_eq!(marks(&cluster), [("n1".to_owned(), false)]);
}

#[tokio::test]
async fn with_dry_run_the_answer_is_the_same_and_nothing_is_written() {
    let cluster = cluster(reserved(Some("External"), false));
    check(&cluster, Request { dry_run: true, ..eviction() }, TRIGGERED).await;
    assert_eq!(marks(&cluster), [("n1".to_owned(), true)]);
}

#[tokio::test]
async fn a_guest_without_a_strategy_goes_unless_the_cluster_has_one() {
    let plain = cluster(reserved(None, true));
    check(&plain, eviction(), "").await;
    let configured = FakeCluster {
        reserved: Some(reserved(None, true)),
        eviction_strategy: Some(EvictionStrategy::LiveMigrate),
        ..FakeCluster::usual()
    };
    check(&Arc::new(configured), eviction(), TRIGGERED).await;
    check(&cluster(reserved(Some("LiveMigrateIfPossible"), false)), eviction(), "").await;
    let stays = "VMI web is configured with an eviction strategy but is not live-migratable";
    check(&cluster(reserved(Some("LiveMigrate"), false)), eviction(), stays).await;
}

#[test]
fn no_webhook_has_an_effect_with_dry_run() {
    let manifest = include_str!("../../manifests/webhooks.yaml");
    let lines = |prefix: &str| -> Vec<&str> {
        manifest.lines().filter_map(|line| line.trim().strip_prefix(prefix)).map(str::trim).collect()
    };
    let effects = lines("sideEffects:");
    let webhooks = lines("clientConfig:").len();
    assert_eq!(effects.len(), webhooks, "each webhook says what it does besides");
    assert_eq!(lines("admissionReviewVersions:").len(), webhooks, "the API server takes none without");
    assert_eq!(lines("timeoutSeconds:").len(), webhooks, "no request waits longer for control");
    let writes: Vec<_> = effects.iter().filter(|effect| **effect != "None").collect();
    assert_eq!(writes, [&"NoneOnDryRun"], "one writes, and not with dry run");
}

#[tokio::test]
async fn other_pods_are_none_of_its_business() {
    let cluster = Arc::new(FakeCluster::usual());
    check(&cluster, eviction(), "").await;
    assert_eq!(marks(&cluster), []);
}

#[tokio::test]
async fn a_guest_that_cannot_be_marked_keeps_its_pod() {
    let cluster =
        FakeCluster { reserved: Some(reserved(Some("LiveMigrate"), true)), broken: true, ..FakeCluster::usual() };
    let text = "kubevirt failed marking the vmi for eviction: write";
    check(&Arc::new(cluster), eviction(), text).await;
}
