//! What a client is told when it does not get what it asked for: Kubernetes' Status, with the codes, reasons and sentences
//! that its own helpers make, so that clients recognise them. Refuses to decide what is wrong.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use furrow_model::reasons::chain;
use serde_json::{Value, json};

use super::route::Resource;
use crate::calls::CallError;

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    code: u16,
    reason: String,
    message: String,
    details: Option<Value>,
}

/// Whom it is about: KubeVirt names the resource in the singular here, and so do its clients' tests.
fn named(resource: Resource) -> String {
    resource.kind().to_ascii_lowercase()
}

fn about(resource: Resource, name: &str) -> Option<Value> {
    Some(json!({"name": name, "group": "kubevirt.io", "kind": named(resource)}))
}

impl Failure {
    fn new(code: u16, reason: &str, message: String) -> Self {
        Self { code, reason: reason.to_owned(), message, details: None }
    }

    /// 404 for an object.
    pub(super) fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{}.kubevirt.io \"{name}\" not found", named(resource));
        Self { details: about(resource, name), ..Self::new(404, "NotFound", message) }
    }

    /// 404 for a path.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource".to_owned())
    }

    /// 401: KubeVirt's answer to whoever may not, in bare text instead of 403 with a Status, and clients look for it.
    pub(super) fn denied(reason: &str) -> Self {
        Self::new(401, "Unauthorized", reason.to_owned())
    }

    /// 405.
    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message.to_owned())
    }

    /// 409: the object is not in a state for it.
    pub(super) fn conflict(resource: Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {}.kubevirt.io \"{name}\": {why}", named(resource));
        Self { details: about(resource, name), ..Self::new(409, "Conflict", message) }
    }

    /// 403 for what the object's spec forbids.
    pub(super) fn forbidden(resource: Resource, name: &str, why: &str) -> Self {
        let message = format!("{}.kubevirt.io \"{name}\" is forbidden: {why}", named(resource));
        Self { details: about(resource, name), ..Self::new(403, "Forbidden", message) }
    }

    /// 400.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    /// 413.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity is too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 500.
    pub(super) fn internal(why: &str) -> Self {
        let details = Some(json!({"causes": [{"message": why}]}));
        Self { details, ..Self::new(500, "InternalError", format!("Internal error occurred: {why}")) }
    }

    /// 501: it is part of the API and not carried out yet.
    pub(super) fn not_implemented(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("{what} is not supported yet"))
    }

    /// 503.
    pub(super) fn unavailable(why: &str) -> Self {
        Self::new(503, "ServiceUnavailable", why.to_owned())
    }

    /// The API server's own refusal passed on, or 500 for anything else. `prefix`: what was attempted, in KubeVirt's words.
    pub(super) fn of_call(prefix: &str, error: &CallError) -> Self {
        match error.status() {
            Some(status) if (400..500).contains(&status.code) => Self {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                details: status.details.as_ref().and_then(|details| serde_json::to_value(details).ok()),
            },
            _ => Self::internal(&format!("{prefix}: {}", chain(error))),
        }
    }

    /// The Status.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if code == StatusCode::UNAUTHORIZED {
            return (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], self.message).into_response();
        }
        (code, [(header::CONTENT_TYPE, "application/json")], self.status().to_string()).into_response()
    }
}

#[cfg(test)]
impl Failure {
    /// Code and sentence, for tables.
    pub(super) fn told(&self) -> (u16, &str) {
        (self.code, &self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_kubernetes_helpers() {
        let check = |failure: Failure, expected: Value| assert_eq!(failure.status(), expected);
        check(
            Failure::conflict(Resource::VirtualMachines, "web", "VM is not running"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
                "reason": "Conflict",
                "message": "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"web\": VM is not running",
                "details": {"name": "web", "group": "kubevirt.io", "kind": "virtualmachine"}}),
        );
        check(
            Failure::not_found(Resource::VirtualMachineInstances, "web"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "virtualmachineinstance.kubevirt.io \"web\" not found",
                "details": {"name": "web", "group": "kubevirt.io", "kind": "virtualmachineinstance"}}),
        );
        check(
            Failure::internal("no"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500,
                "reason": "InternalError", "message": "Internal error occurred: no",
                "details": {"causes": [{"message": "no"}]}}),
        );
        check(
            Failure::not_implemented("virtualmachines/migrate"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 501,
                "reason": "NotImplemented", "message": "virtualmachines/migrate is not supported yet"}),
        );
    }
}
