//! What a pass over a guest asks of the API server and tells: against an API server of two objects.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use furrow_api::channel::{ImageAnswer, ImageQuestion};
use futures::future::BoxFuture;

use super::*;
use crate::events::Events;
use crate::subresources::{AgentError, Place};

/// Calls that matter: method and path, without those of the watches.
type Calls = Arc<Mutex<Vec<String>>>;

fn vmi(version: &str) -> VirtualMachineInstance {
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": version,
            "finalizers": [names::FINALIZER_VMI]},
        "spec": {"domain": {"devices": {}}}, "status": {"phase": "Pending"}});
    serde_json::from_value(object).unwrap()
}

/// No guest here has an image.
struct NoRegistry;

impl pull::Lookout for NoRegistry {
    fn look<'a>(&'a self, _: &'a Place, question: &'a ImageQuestion) -> BoxFuture<'a, Result<ImageAnswer, AgentError>> {
        panic!("asked for {}", question.image)
    }
}

/// The controller before an API server that has this pod, and answers writes of the guest with `patched`.
fn guests(pod: Value, patched: (StatusCode, Value)) -> (Guests, Calls) {
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let (status, body) = match (method.as_str(), path.as_str()) {
            ("GET", path) if path.starts_with("/api/v1/namespaces/shop/pods/") => (StatusCode::OK, pod.clone()),
            ("DELETE", _) => (StatusCode::OK, pod.clone()),
            ("PATCH", _) => patched.clone(),
            // Watches and events: neither answers anything that a test looks at.
            _ => (StatusCode::INTERNAL_SERVER_ERROR, failure(500)),
        };
        if method != "GET" {
            seen.lock().unwrap().push(format!("{method} {path}"));
        }
        let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
        async move { Ok::<_, Infallible>(response.unwrap()) }
    });
    let client = Client::new(service, "default");
    let events = Events::start(client.clone(), "test");
    (Guests::new(Cluster::start(client, events), Arc::default(), Pulls::new(Arc::new(NoRegistry))), calls)
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "no", "code": code})
}

fn pod(deleting: bool) -> Value {
    let owner = serde_json::to_value(pod::owner(&vmi("5"))).unwrap();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod::name(&vmi("5")),
        "namespace": "shop", "uid": "p-1", "ownerReferences": [owner]}});
    if deleting {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

/// How often a kind of call was made, once events had the time to be sent.
async fn count(calls: &Calls, prefix: &str, part: &str) -> usize {
    tokio::time::sleep(Duration::from_millis(100)).await;
    calls.lock().unwrap().iter().filter(|call| call.starts_with(prefix) && call.contains(part)).count()
}

#[tokio::test]
async fn the_end_of_a_pod_is_told_once() {
    for (deleting, expected) in [(false, 1), (true, 0)] {
        let (guests, calls) = guests(pod(deleting), (StatusCode::OK, Value::Null));
        guests.drop_pod(&vmi("5")).await.unwrap();
        assert_eq!(count(&calls, "DELETE", "/pods/").await, expected, "deleting: {deleting}");
        assert_eq!(count(&calls, "POST", "/events").await, expected, "deleting: {deleting}");
    }
}

#[tokio::test]
async fn a_wait_whose_write_is_refused_is_not_told() {
    let held_up = HeldUp::until_change("SubnetExhausted", "subnet s is full".into());
    let (refusing, calls) = guests(pod(false), (StatusCode::CONFLICT, failure(409)));
    assert!(refusing.hold_up(&vmi("5"), held_up.clone()).await.is_err());
    assert_eq!(count(&calls, "POST", "/events").await, 0);
    let (writing, calls) = guests(pod(false), (StatusCode::OK, serde_json::to_value(vmi("6")).unwrap()));
    writing.hold_up(&vmi("5"), held_up).await.unwrap();
    assert_eq!(count(&calls, "POST", "/events").await, 1);
    assert!(writing.recall.is_behind(&vmi("5"), Instant::now()), "what was written is remembered");
    assert!(!writing.recall.is_behind(&vmi("6"), Instant::now()));
}

#[tokio::test]
async fn a_wait_for_claims_of_its_own_is_not_written_at_once() {
    let (guests, calls) = guests(pod(false), (StatusCode::OK, serde_json::to_value(vmi("6")).unwrap()));
    let own = HeldUp::binding_own("PVC shop/a is not bound to a volume".into());
    assert!(matches!(guests.hold_up(&vmi("5"), own).await.unwrap(), Next::After(_)));
    assert_eq!(count(&calls, "PATCH", "").await, 0);
    let foreign = HeldUp::binding("PVC shop/a is not bound to a volume".into());
    assert_eq!(guests.hold_up(&vmi("5"), foreign).await.unwrap(), Next::OnChange);
    assert_eq!(count(&calls, "PATCH", "/virtualmachineinstances/web").await, 1);
}
