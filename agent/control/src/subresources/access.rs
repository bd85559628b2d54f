//! Who asks, and the question whether they may: the API server's headers, and one SubjectAccessReview a request. Pure.
//! Refuses to trust a header by itself: whoever calls this has seen the API server's certificate.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method};
use furrow_api::names::SUBRESOURCES_GROUP;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};

use super::route::{EXPAND_VM_SPEC, Path};

/// The headers that the API server says it uses, each with alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeaderNames {
    pub(super) user: Vec<String>,
    pub(super) uid: Vec<String>,
    pub(super) group: Vec<String>,
    pub(super) extra_prefix: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    name: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Reads who asks.
///
/// # Errors
/// A sentence for the client when a header is missing.
pub(super) fn user(headers: &HeaderMap, names: &HeaderNames) -> Result<User, &'static str> {
    let name = first(headers, &names.user).into_iter().next();
    let name = name.ok_or("a valid user header is required for authorization")?;
    let groups = first(headers, &names.group);
    if groups.is_empty() {
        return Err("a valid group header is required for authorization");
    }
    let uid = first(headers, &names.uid).into_iter().next();
    Ok(User { name, uid, groups, extra: extra(headers, &names.extra_prefix) })
}

/// The values of the first of these headers that is there.
fn first(headers: &HeaderMap, names: &[String]) -> Vec<String> {
    let of = |name: &String| -> Vec<String> {
        let values = headers.get_all(name.as_str()).iter().filter_map(|value| value.to_str().ok());
        values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
    };
    names.iter().map(of).find(|values| !values.is_empty()).unwrap_or_default()
}

fn extra(headers: &HeaderMap, prefixes: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        // Names of headers are in lower case here.
        let key = prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(&prefix.to_ascii_lowercase()));
        if let (Some(key), Ok(value)) = (key, value.to_str()) {
            extra.entry(unescape(key)).or_default().push(value.to_owned());
        }
    }
    extra
}

/// Undoes percent escapes; text with a broken one stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else { return text.to_owned() };
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The question to the API server; `None` for a path about which there is none.
pub(super) fn review(user: User, method: &Method, path: &Path) -> Option<SubjectAccessReview> {
    let (version, namespace) = match path {
        Path::Object { version, target } => (*version, target.namespace.clone()),
        Path::Expand { version, namespace } => (*version, namespace.clone()),
        _ => return None,
    };
    let (resource, subresource, name) = match path {
        Path::Object { target, .. } => {
            let subresource = target.subresource;
            (subresource.resource.plural(), Some(subresource.name.to_owned()), Some(target.name.clone()))
        }
        _ => (EXPAND_VM_SPEC, None, None),
    };
    let attributes = ResourceAttributes {
        group: Some(SUBRESOURCES_GROUP.to_owned()),
        version: Some(version.to_owned()),
        namespace: Some(namespace),
        resource: Some(resource.to_owned()),
        verb: Some(verb(method, name.is_some()).to_owned()),
        subresource,
        name,
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name),
        uid: user.uid,
        groups: Some(user.groups),
        extra: Some(user.extra),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    Some(SubjectAccessReview { spec, ..SubjectAccessReview::default() })
}

/// Kubernetes' verb for a method; unknown methods are asked about as what they are, which nobody is granted.
fn verb(method: &Method, named: bool) -> &str {
    match (method.as_str(), named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("PUT", _) => "update",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        (other, _) => other,
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
