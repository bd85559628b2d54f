//! Writing a VMI: a merge patch of what changed, bound to the resourceVersion it was computed from. A conflict means
//! that somebody else wrote in between: the object is read again and the change computed anew. Refuses to bring a VMI
//! back from its final phase, and to write to another object of the same name.

use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_api::names;
use futures::future::BoxFuture;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Map, Value};

use super::dispatch::forget;

/// An answer of the API server takes milliseconds; past this the connection is dead.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Conflicts in a row before the pass is given up and tried later.
const MAX_CONFLICTS: u32 = 8;

/// Why a VMI could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// It does not exist any more, or another of its name does.
    #[error("could not write the vmi: it is gone")]
    Gone,
    /// Others kept writing.
    #[error("could not write the vmi: {MAX_CONFLICTS} conflicts in a row")]
    Conflicts,
    /// The API server did not answer.
    #[error("could not reach the kubernetes api within {} s", API_TIMEOUT.as_secs())]
    Timeout,
    /// The API server refused.
    #[error("could not reach the vmi")]
    Api(#[source] Box<kube::Error>),
    /// A document is not what it should be.
    #[error("could not serialise the vmi")]
    Serialise(#[source] serde_json::Error),
}

/// Waits for an answer of the API server, not for ever.
pub(crate) async fn answered<T>(
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, PublishError> {
    // Dropping a request at the deadline is safe: whether it took effect is seen by the next read.
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(PublishError::Gone),
        Ok(Err(error)) => Err(PublishError::Api(Box::new(error))),
        Err(_) => Err(PublishError::Timeout),
    }
}

/// Applies `change` to the VMI and writes what differs. Returns the object as it is afterwards. Boxed: the future holds
/// several VMIs.
pub(crate) fn publish<'a>(
    client: &Client,
    vmi: &'a VirtualMachineInstance,
    change: impl Fn(&mut VirtualMachineInstance) + Send + Sync + 'a,
) -> BoxFuture<'a, Result<VirtualMachineInstance, PublishError>> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &vmi.namespace().unwrap_or_default());
    Box::pin(async move {
        let (name, uid) = (vmi.name_any(), vmi.uid());
        let mut current = vmi.clone();
        for _ in 0..MAX_CONFLICTS {
            if current.uid() != uid {
                return Err(PublishError::Gone);
            }
            if current.status.as_ref().is_some_and(|status| status.phase.is_final()) {
                return Ok(current);
            }
            let mut changed = current.clone();
            change(&mut changed);
            let Some(patch) = patch(&current, &changed)? else { return Ok(current) };
            match answered(api.patch(&name, &params(), &Patch::Merge(&patch))).await {
                Ok(mut written) => {
                    // The owner keeps it until the watch tells of it, which leaves this out as well.
                    forget(&mut written);
                    return Ok(written);
                }
                Err(PublishError::Api(error)) if is_conflict(&error) => current = answered(api.get(&name)).await?,
                Err(error) => return Err(error),
            }
        }
        Err(PublishError::Conflicts)
    })
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::FIELD_MANAGER_AGENT.to_owned()), ..PatchParams::default() }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// The merge patch (RFC 7396) from one object to the other, of labels and status, bound to the first's version.
fn patch(from: &VirtualMachineInstance, to: &VirtualMachineInstance) -> Result<Option<Value>, PublishError> {
    let json = |status: &VirtualMachineInstance| {
        serde_json::to_value(status.status.clone().unwrap_or_default()).map_err(PublishError::Serialise)
    };
    let labels = |vmi: &VirtualMachineInstance| serde_json::to_value(vmi.labels()).map_err(PublishError::Serialise);
    let status = difference(&json(from)?, &json(to)?);
    let labels = difference(&labels(from)?, &labels(to)?);
    if status.is_none() && labels.is_none() {
        return Ok(None);
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), from.resource_version().into());
    metadata.extend(labels.map(|labels| ("labels".to_owned(), labels)));
    let mut patch = Map::new();
    patch.insert("metadata".to_owned(), metadata.into());
    patch.extend(status.map(|status| ("status".to_owned(), status)));
    Ok(Some(patch.into()))
}

/// What a merge patch must say to turn `from` into `to`; `None` when they are the same.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return Some(to.clone()) };
    let removed = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        let difference = old.get(key).map_or_else(|| Some(value.clone()), |old| difference(old, value))?;
        Some((key.clone(), difference))
    });
    Some(removed.chain(changed).collect::<Map<_, _>>().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_says_what_changed_and_what_went() {
        let from = json!({"a": 1, "b": {"c": 2, "d": 3}, "list": [1, 2], "gone": true});
        let to = json!({"a": 1, "b": {"c": 4, "d": 3}, "list": [2], "new": {"x": 1}});
        let expected = json!({"b": {"c": 4}, "list": [2], "gone": null, "new": {"x": 1}});
        assert_eq!(difference(&from, &to), Some(expected));
        assert_eq!(difference(&to, &to), None);
    }

    #[test]
    fn a_patch_is_bound_to_the_version_it_was_made_from() {
        let from: VirtualMachineInstance = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "a", "resourceVersion": "7"},
            "spec": {"domain": {"devices": {}}}, "status": {"phase": "Scheduling"},
        }))
        .expect("a vmi");
        let mut to = from.clone();
        to.labels_mut().insert("l".into(), "v".into());
        let patch = patch(&from, &to).expect("it serialises").expect("a difference");
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7", "labels": {"l": "v"}}}));
    }
}
