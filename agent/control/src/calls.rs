//! Calls to the API server: a deadline on each, errors that name what was attempted, and writes that change only what
//! differs. Refuses to retry: whoever called knows whether the world has moved on.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use furrow_api::names::CONTROL_FIELD_MANAGER;
use furrow_model::reasons::chain;

/// The API server answers in milliseconds; after this long it, or the way to it, is broken.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The API server refused it, or could not be reached.
    #[error("could not {what}")]
    Api {
        /// The attempt, such as "create Pod default/x".
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer came.
    #[error("could not {what}: no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout {
        /// The attempt.
        what: String,
    },
    /// An object that has no JSON form: a defect.
    #[error("could not {what}: it cannot be written as JSON")]
    Json {
        /// The attempt.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl CallError {
    /// What the API server answered, if it did.
    pub(crate) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } | Self::Json { .. } => None,
        }
    }

    /// The object changed since it was read, or has another UID.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409 && status.reason != "AlreadyExists")
    }

    /// There is one of that name.
    pub(crate) fn is_there(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409 && status.reason == "AlreadyExists")
    }

    /// There is none of that name.
    pub(crate) fn is_gone(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// The API server refused the content: trying the same again is of no use until something changes.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status().is_some_and(|status| matches!(status.code, 400 | 403 | 422))
    }

    /// The API server's own words, or the whole chain.
    pub(crate) fn message(&self) -> String {
        match self.status() {
            Some(status) if !status.message.is_empty() => format!("{self}: {}", status.message),
            _ => chain(self),
        }
    }
}

/// Waits for a call, but not for ever.
///
/// # Errors
/// When it fails or takes too long.
pub(crate) fn within<T>(
    what: impl FnOnce() -> String + Send,
    call: impl Future<Output = kube::Result<T>> + Send,
) -> impl Future<Output = Result<T, CallError>> + Send {
    // Futures of calls are large, and would be copied into those of every pass that makes one.
    let call = Box::pin(call);
    async move {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(CallError::Api { what: what(), source: Box::new(source) }),
            Err(_) => Err(CallError::Timeout { what: what() }),
        }
    }
}

/// What a kind must be able to do to be written here.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// "create Pod default/x".
fn phrase<K: Object>(verb: &str, object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{verb} {} {namespace}/{}", K::kind(&()), object.name_any()),
        None => format!("{verb} {} {}", K::kind(&()), object.name_any()),
    }
}

/// Reads an object; `None` if there is none.
///
/// # Errors
/// When it could not be read.
pub(crate) async fn get<K: Object>(api: &Api<K>, name: &str) -> Result<Option<K>, CallError> {
    within(|| format!("read {} {name}", K::kind(&())), api.get_opt(name)).await
}

/// Creates an object; `None` if there is one of its name.
///
/// # Errors
/// When it could not be created for another reason.
pub(crate) async fn create<K: Object>(api: &Api<K>, object: &K) -> Result<Option<K>, CallError> {
    let params = PostParams { dry_run: false, field_manager: Some(CONTROL_FIELD_MANAGER.to_owned()) };
    match within(|| phrase("create", object), api.create(&params, object)).await {
        Ok(created) => Ok(Some(created)),
        Err(error) if error.is_there() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces an object on condition of the resourceVersion in it.
///
/// # Errors
/// When it could not be replaced; [`CallError::is_conflict`] tells that it changed.
pub(crate) async fn replace<K: Object>(api: &Api<K>, object: &K) -> Result<K, CallError> {
    let params = PostParams { dry_run: false, field_manager: Some(CONTROL_FIELD_MANAGER.to_owned()) };
    within(|| phrase("replace", object), api.replace(&object.name_any(), &params, object)).await
}

/// Deletes exactly this object, not a later one of its name. One that is gone, or was replaced, is no error.
///
/// # Errors
/// When it could not be deleted.
pub(crate) async fn delete<K: Object>(api: &Api<K>, object: &K) -> Result<(), CallError> {
    let preconditions = Preconditions { resource_version: None, uid: object.uid() };
    let params = DeleteParams::background().preconditions(preconditions);
    match within(|| phrase("delete", object), api.delete(&object.name_any(), &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_gone() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes what differs between two states of an object, on condition that it did not change since it was read. `None`
/// if nothing differs.
///
/// # Errors
/// When it could not be written; [`CallError::is_conflict`] tells that it changed.
pub(crate) async fn update<K: Object>(api: &Api<K>, old: &K, new: &K) -> Result<Option<K>, CallError> {
    let Some(body) = difference(old, new, &["metadata", "spec", "status"])? else { return Ok(None) };
    let (name, params, patch) = (old.name_any(), patch_params(), Patch::Merge(&body));
    within(|| phrase("update", old), api.patch(&name, &params, &patch)).await.map(Some)
}

/// As [`update`], for the status of a kind with a status subresource.
///
/// # Errors
/// As [`update`].
pub(crate) async fn update_status<K: Object>(api: &Api<K>, old: &K, new: &K) -> Result<Option<K>, CallError> {
    let Some(body) = difference(old, new, &["status"])? else { return Ok(None) };
    let (name, params, patch) = (old.name_any(), patch_params(), Patch::Merge(&body));
    within(|| phrase("update the status of", old), api.patch_status(&name, &params, &patch)).await.map(Some)
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(CONTROL_FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// The merge patch from one state to the other in some top-level fields, with the precondition in it.
fn difference<K: Object>(old: &K, new: &K, fields: &[&str]) -> Result<Option<Value>, CallError> {
    let json = |object: &K| {
        serde_json::to_value(object).map_err(|source| CallError::Json { what: phrase("write", object), source })
    };
    let (old_json, new_json) = (json(old)?, json(new)?);
    let mut body = Map::new();
    for field in fields {
        let nothing = json!({});
        let before = old_json.get(*field).unwrap_or(&nothing);
        let after = new_json.get(*field).unwrap_or(&nothing);
        if let Some(patch) = merge_patch(before, after) {
            body.insert((*field).to_owned(), patch);
        }
    }
    if body.is_empty() {
        return Ok(None);
    }
    let metadata = body.entry("metadata").or_insert_with(|| json!({}));
    metadata["resourceVersion"] = json!(old.resource_version());
    metadata["uid"] = json!(old.uid());
    Ok(Some(Value::Object(body)))
}

/// The JSON merge patch (RFC 7386) that turns one value into another; `None` if they are equal.
fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Some(after.clone()) };
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        match before.get(key) {
            Some(old) => {
                if let Some(inner) = merge_patch(old, value) {
                    patch.insert(key.clone(), inner);
                }
            }
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: Value, after: Value, expected: Option<Value>) {
        assert_eq!(merge_patch(&before, &after), expected);
    }

    #[test]
    fn a_patch_holds_what_differs_and_nulls_what_is_gone() {
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1, "b": [1]}), json!({"a": 2, "b": [1]}), Some(json!({"a": 2})));
        check(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 2}}), Some(json!({"a": {"b": null}})));
        check(json!({"l": [1, 2]}), json!({"l": [2]}), Some(json!({"l": [2]})));
        check(json!({"l": [1]}), json!({}), Some(json!({"l": null})));
        check(json!({}), json!({"a": {"b": 1}}), Some(json!({"a": {"b": 1}})));
    }
}
