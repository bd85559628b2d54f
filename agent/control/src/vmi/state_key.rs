//! The key of a state that is encrypted: a Secret beside its claim, of the claim's name, made once and never written again.
//! It belongs to the claim, so that it goes with it, and stays with it when a renamed VM takes the claim along. The claim
//! says that its key was made; one that says so and has none is not given another, since the state could not be read with
//! it: the node says what is missing. Refuses to read a Secret, and has no right to.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use furrow_api::names;

use super::scratch::ScratchError;
use crate::calls;
use crate::cluster::Cluster;

/// Random bytes of a passphrase. swtpm makes a key of 32 bytes of it.
const PASSPHRASE_BYTES: usize = 32;

/// Makes the key of a claim that does not say that it has one.
pub(super) async fn ensure(cluster: &Cluster, claim: &PersistentVolumeClaim) -> Result<(), ScratchError> {
    if claim.annotations().contains_key(names::ANNOTATION_STATE_KEY) {
        return Ok(());
    }
    let namespace = claim.namespace().unwrap_or_default();
    let secret = render(claim, &rand::random());
    // One that is there was made by a pass that ended here.
    calls::create(&cluster.api::<Secret>(&namespace), &secret).await.map_err(ScratchError::of_create)?;
    mark(&cluster.api::<PersistentVolumeClaim>(&namespace), claim, &secret.name_any()).await
}

/// Without a precondition: the provisioner writes to a new claim at the same time, and this is the same whenever it is said.
async fn mark(api: &Api<PersistentVolumeClaim>, claim: &PersistentVolumeClaim, key: &str) -> Result<(), ScratchError> {
    let body = json!({"metadata": {"uid": claim.uid(), "annotations": {(names::ANNOTATION_STATE_KEY): key}}});
    let params = PatchParams { field_manager: Some(names::CONTROL_FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let name = claim.name_any();
    let (what, patch) = (|| format!("mark the key of PersistentVolumeClaim {name}"), Patch::Merge(&body));
    calls::within(what, api.patch(&name, &params, &patch)).await.map(drop).map_err(ScratchError::Call)
}

fn render(claim: &PersistentVolumeClaim, random: &[u8; PASSPHRASE_BYTES]) -> Secret {
    // Text, without an end of line: it can be given to swtpm by hand as well.
    let passphrase: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(claim.name_any()),
            namespace: claim.namespace(),
            labels: claim.metadata.labels.clone(),
            owner_references: Some(vec![OwnerReference {
                api_version: PersistentVolumeClaim::api_version(&()).into_owned(),
                kind: PersistentVolumeClaim::kind(&()).into_owned(),
                name: claim.name_any(),
                uid: claim.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        type_: Some(names::SECRET_STATE_KEY.to_owned()),
        immutable: Some(true),
        data: Some([(names::STATE_PASSPHRASE.to_owned(), ByteString(passphrase.into_bytes()))].into()),
        string_data: None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use axum::http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::Client;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::events::Events;

    fn claim() -> PersistentVolumeClaim {
        let claim = json!({"metadata": {"name": "persistent-state-for-web-abcde", "namespace": "shop", "uid": "claim-1",
            "labels": {"persistent-state-for": "web", "furrow.io/state": "tpm"}}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_key_belongs_to_its_claim_and_cannot_be_changed() {
        let secret = serde_json::to_value(render(&claim(), &[0xa5; 32])).unwrap();
        let metadata = &secret["metadata"];
        assert_eq!(
            (&metadata["name"], &metadata["namespace"]),
            (&json!("persistent-state-for-web-abcde"), &json!("shop"))
        );
        let owner = json!([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": "claim-1", "controller": true,
            "name": "persistent-state-for-web-abcde"}]);
        assert_eq!(metadata["ownerReferences"], owner);
        assert_eq!(metadata["labels"]["persistent-state-for"], "web");
        assert_eq!((&secret["type"], &secret["immutable"]), (&json!("furrow.io/state-key"), &json!(true)));
    }

    #[test]
    fn a_passphrase_is_64_digits_and_never_the_same() {
        let passphrase = |secret: Secret| secret.data.unwrap().remove("passphrase").unwrap().0;
        assert_eq!(passphrase(render(&claim(), &[0xa5; 32])), "a5".repeat(32).into_bytes());
        assert_ne!(passphrase(render(&claim(), &rand::random())), passphrase(render(&claim(), &rand::random())));
    }

    type Calls = Arc<Mutex<Vec<(String, Value)>>>;

    /// A cluster whose API server answers the creation of a Secret so, and what was written to it.
    fn cluster(created: u16) -> (Cluster, Calls) {
        let calls = Calls::default();
        let seen = Arc::clone(&calls);
        let service = tower::service_fn(move |request: Request<Body>| {
            let seen = Arc::clone(&seen);
            async move {
                let call = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = match call.split(' ').next() {
                    Some("POST") if created == 201 => {
                        let mut made = body.clone();
                        made["metadata"]["uid"] = json!("claim-1");
                        (201, made)
                    }
                    Some("POST") => (created, failure(created)),
                    Some("PATCH") => (200, serde_json::to_value(claim()).unwrap()),
                    Some("GET") if call.ends_with("/shop/persistentvolumeclaims") => {
                        let kind = "PersistentVolumeClaimList";
                        (200, json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": []}))
                    }
                    // Watches, which have nothing to say.
                    _ => (500, failure(500)),
                };
                if !call.starts_with("GET") {
                    seen.lock().unwrap().push((call, body));
                }
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        let client = Client::new(service, "default");
        let events = Events::start(client.clone(), "test");
        (Cluster::start(client, events), calls)
    }

    fn failure(code: u16) -> Value {
        let reason = if code == 409 { "AlreadyExists" } else { "Forbidden" };
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code})
    }

    const SECRETS: &str = "POST /api/v1/namespaces/shop/secrets";
    const CLAIM: &str = "PATCH /api/v1/namespaces/shop/persistentvolumeclaims/persistent-state-for-web-abcde";

    #[tokio::test]
    async fn a_key_is_made_once_and_then_its_claim_says_so() {
        // One that is there is of a pass that was cut short: it stays as it is.
        for created in [201, 409] {
            let (cluster, calls) = cluster(created);
            assert!(ensure(&cluster, &claim()).await.is_ok());
            let calls = calls.lock().unwrap().clone();
            let paths: Vec<_> = calls.iter().map(|(call, _)| call.as_str()).collect();
            assert_eq!(paths, [SECRETS, CLAIM], "{created}");
            let said = &calls[1].1["metadata"];
            assert_eq!(said["annotations"], json!({"furrow.io/state-key": "persistent-state-for-web-abcde"}));
            assert_eq!(said["uid"], "claim-1", "of this very claim");
        }
    }

    #[tokio::test]
    async fn a_claim_is_made_before_its_key_and_its_wait_is_the_guests_own() {
        let (cluster, calls) = cluster(201);
        let guest = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
            "spec": {"domain": {"devices": {"tpm": {"persistent": true}}}}});
        let waits = super::super::state::ensure(&cluster, &serde_json::from_value(guest).unwrap()).await;
        assert!(matches!(waits, Err(ScratchError::HeldUp(held_up)) if held_up.own && !held_up.passing));
        let calls = calls.lock().unwrap().clone();
        let claims = "/api/v1/namespaces/shop/persistentvolumeclaims";
        let name = calls[0].1["metadata"]["name"].as_str().unwrap();
        let paths: Vec<_> = calls.iter().map(|(call, _)| call.clone()).collect();
        assert_eq!(paths, [format!("POST {claims}"), SECRETS.to_owned(), format!("PATCH {claims}/{name}")]);
        assert_eq!(calls[1].1["metadata"]["name"], name, "its key has its name");
        assert_eq!(calls[1].1["metadata"]["ownerReferences"][0]["uid"], "claim-1");
    }

    #[tokio::test]
    async fn a_claim_that_says_it_has_a_key_is_given_no_other() {
        let (cluster, calls) = cluster(201);
        let (mut marked, name) = (claim(), claim().name_any());
        marked.annotations_mut().insert(names::ANNOTATION_STATE_KEY.to_owned(), name);
        assert!(ensure(&cluster, &marked).await.is_ok());
        assert!(calls.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_claim_whose_key_is_refused_does_not_say_that_it_has_one() {
        let (cluster, calls) = cluster(403);
        assert!(matches!(ensure(&cluster, &claim()).await, Err(ScratchError::HeldUp(held_up)) if held_up.passing));
        assert_eq!(calls.lock().unwrap().iter().map(|(call, _)| call.as_str()).collect::<Vec<_>>(), [SECRETS]);
    }

    /// What a role may do with Secrets; `None` where no rule names them.
    fn verbs_on_secrets(manifest: &str) -> Option<Value> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
        let roles = documents.iter().filter(|document| document["kind"] == "ClusterRole");
        let mut rules = roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default());
        let names_secrets =
            |rule: &Value| rule["resources"].as_array().is_some_and(|all| all.contains(&json!("secrets")));
        rules.find(names_secrets).map(|rule| rule["verbs"].clone())
    }

    #[test]
    fn control_makes_secrets_of_one_type_and_reads_none() {
        assert_eq!(verbs_on_secrets(include_str!("../../manifests/rbac-control.yaml")), Some(json!(["create"])));
        let policies: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../manifests/policies.yaml")).unwrap();
        let policy = policies.iter().find(|policy| policy["metadata"]["name"] == "furrow-control-secrets").unwrap();
        let rule = policy["spec"]["validations"][0]["expression"].as_str().unwrap();
        assert!(rule.contains(&format!("object.?type.orValue(\"\") == {:?}", names::SECRET_STATE_KEY)), "{rule}");
    }
}
