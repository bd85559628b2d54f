//! The shape of a kubeconfig with one cluster and one user. Pure; where credentials come from and go to is others'.

use serde_json::{Value, json};

/// The document. `cluster` and `credentials` are the objects that stand under those names, `user` is how it is called.
pub(crate) fn document(cluster: &Value, user: &str, credentials: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "furrow", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "furrow", "context": {"cluster": "furrow", "user": user}}],
        "current-context": "furrow",
    })
}
