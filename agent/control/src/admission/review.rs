//! AdmissionReview (admission.k8s.io/v1) on the wire: what the API server asks and how it is answered. Refuses to judge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::causes::Cause;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server sends.
#[derive(Debug, Deserialize)]
pub(crate) struct Review {
    pub(crate) request: Request,
}

/// An attempt to write an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) uid: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub(crate) operation: String,
    #[serde(default)]
    pub(crate) user_info: UserInfo,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) object: Value,
    #[serde(default)]
    pub(crate) old_object: Value,
    /// Name in the request's path: of the pod that a subresource such as its eviction belongs to.
    #[serde(default, rename = "name")]
    pub(crate) target: String,
    /// Nothing may be written.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

impl Request {
    /// The new object.
    ///
    /// # Errors
    /// When it does not have the type's shape.
    pub(crate) fn object<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_value(self.object.clone())
    }

    /// Whether a part of the object differs from what is stored; true when the object is new.
    pub(crate) fn changes(&self, field: &str) -> bool {
        self.is_create() || self.object.get(field) != self.old_object.get(field)
    }

    /// Whether the object is new.
    pub(crate) fn is_create(&self) -> bool {
        self.operation == "CREATE"
    }

    /// Whether the object is to go.
    pub(crate) fn is_delete(&self) -> bool {
        self.operation == "DELETE"
    }

    /// Whether the object is on its way out: what is written then is about finalizers.
    pub(crate) fn is_deleting(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
    }

    /// The object's namespace; empty for cluster-wide kinds.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The object's name; empty when the API server is to choose it.
    pub(crate) fn name(&self) -> &str {
        let object = if self.is_delete() { &self.old_object } else { &self.object };
        object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Who asks.
    pub(crate) fn user(&self) -> &str {
        self.user_info.username.as_deref().unwrap_or_default()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Let in, with warnings for the user.
    Allowed(Vec<String>),
    /// Let in, changed by a JSON patch.
    Patched(Value),
    /// Kept out.
    Refused(Vec<Cause>),
    /// Kept out for now; whoever asked is to ask again.
    TooMany(String),
    /// Neither: what would decide it could not be found out.
    Undecided(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Answer {
    /// The answer as the API server reads it.
    pub(crate) fn to_review(&self, uid: &str) -> Value {
        let mut response =
            Response { uid, allowed: true, status: None, patch_type: None, patch: None, warnings: Vec::new() };
        match self {
            Self::Allowed(warnings) => response.warnings.clone_from(warnings),
            Self::Patched(patch) => {
                response.patch_type = Some("JSONPatch");
                response.patch = Some(STANDARD.encode(patch.to_string()));
            }
            Self::Refused(causes) => {
                response.allowed = false;
                response.status = Some(refusal(causes));
            }
            Self::TooMany(message) => {
                response.allowed = false;
                response.status = Some(json!({"status": "Failure", "reason": "TooManyRequests", "code": 429,
                    "message": message}));
            }
            Self::Undecided(message) => {
                response.allowed = false;
                response.status = Some(json!({"status": "Failure", "reason": "InternalError", "code": 500,
                    "message": message}));
            }
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}

fn refusal(causes: &[Cause]) -> Value {
    let message = causes.iter().map(Cause::with_path).collect::<Vec<_>>().join(", ");
    let details: Vec<_> = causes
        .iter()
        .map(|cause| json!({"reason": cause.reason, "field": cause.field, "message": cause.message}))
        .collect();
    json!({"status": "Failure", "reason": "Invalid", "code": 422, "message": message, "details": {"causes": details}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_every_field() {
        let mut causes = crate::admission::causes::Causes::default();
        causes.invalid("spec.a", "must be smaller");
        causes.required("spec.b", "spec.b must be set.");
        let review = Answer::Refused(causes.into_vec()).to_review("u1");
        let response = &review["response"];
        assert_eq!(response["uid"], "u1");
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["message"], "spec.a: must be smaller, spec.b must be set.");
        assert_eq!(response["status"]["details"]["causes"][1]["field"], "spec.b");
    }

    #[test]
    fn a_patch_is_base64_of_json() {
        let patch = json!([{"op": "replace", "path": "/spec", "value": {}}]);
        let review = Answer::Patched(patch.clone()).to_review("u1");
        assert_eq!(review["response"]["patchType"], "JSONPatch");
        let bytes = STANDARD.decode(review["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), patch);
    }

    #[test]
    fn an_update_that_leaves_the_spec_alone_changes_nothing() {
        let request = Request {
            operation: "UPDATE".into(),
            object: json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}),
            old_object: json!({"metadata": {}, "spec": {"x": 1}}),
            ..Request::default()
        };
        assert!(!request.changes("spec"));
        assert!(request.changes("metadata"));
    }
}
