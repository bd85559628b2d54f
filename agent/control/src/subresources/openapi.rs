//! OpenAPI version 3: its index, and a document a version, made of the one of version 2 (`super::discovery`), so that the two
//! never say different things. Pure. Refuses the binary form, which clients ask for and do without.

use furrow_api::names::SUBRESOURCES_GROUP;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::discovery;
use super::route::VERSIONS;

/// The index. A document is known by its digest, so that clients keep it for as long as it is the same.
pub(super) fn index() -> Value {
    let entry = |version: &'static str| {
        let digest = Sha256::digest(document(version).to_string());
        let digest: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let name = format!("apis/{SUBRESOURCES_GROUP}/{version}");
        let url = format!("/openapi/v3/{name}?hash={digest}");
        (name, json!({"serverRelativeURL": url}))
    };
    json!({"paths": VERSIONS.map(entry).into_iter().collect::<Map<_, _>>()})
}

/// The document of a version.
pub(super) fn document(version: &str) -> Value {
    let old = discovery::openapi();
    let base = format!("/apis/{SUBRESOURCES_GROUP}/{version}/");
    let paths = old["paths"].as_object().into_iter().flatten().filter(|(path, _)| path.starts_with(&base));
    let paths: Map<_, _> = paths.map(|(path, item)| (path.clone(), path_item(item))).collect();
    json!({"openapi": "3.0.0", "info": old["info"], "paths": paths})
}

fn path_item(old: &Value) -> Value {
    let part = |(name, value): (&String, &Value)| match name.as_str() {
        "parameters" => (name.clone(), parameters(value)),
        _ => (name.clone(), operation(value)),
    };
    Value::Object(old.as_object().into_iter().flatten().map(part).collect())
}

fn parameters(old: &Value) -> Value {
    let parameter = |old: &Value| {
        json!({"name": old["name"], "in": old["in"], "required": old["required"],
            "schema": {"type": old["type"], "uniqueItems": old["uniqueItems"]}})
    };
    old.as_array().into_iter().flatten().map(parameter).collect()
}

fn operation(old: &Value) -> Value {
    let mut new = json!({"operationId": old["operationId"], "responses": old["responses"]});
    let body = old["parameters"].as_array().into_iter().flatten().find(|parameter| parameter["in"] == "body");
    if let Some(body) = body {
        new["requestBody"] = json!({"content": {"*/*": {"schema": body["schema"]}}});
    }
    new
}

/// Whether a client takes JSON: it says nothing, or anything, or so.
pub(super) fn takes_json(accept: Option<&str>) -> bool {
    let named = |range: &str| {
        let media = range.split(';').next().unwrap_or_default().trim();
        matches!(media, "" | "*/*" | "application/*" | "application/json")
    };
    accept.is_none_or(|accept| accept.split(',').any(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_listed_with_the_digest_of_its_document() {
        let index = index();
        for version in VERSIONS {
            let url = &index["paths"][format!("apis/subresources.kubevirt.io/{version}")]["serverRelativeURL"];
            let url = url.as_str().unwrap();
            let (path, digest) = url.split_once("?hash=").unwrap();
            assert_eq!(path, format!("/openapi/v3/apis/subresources.kubevirt.io/{version}"));
            assert_eq!(digest.len(), 64);
            assert_eq!(super::super::route::parse(path).map(|path| path.is_public()), Some(true));
        }
    }

    #[test]
    fn a_document_has_what_the_older_one_has_of_its_version() {
        let old = discovery::openapi();
        let mut found = 0;
        for version in VERSIONS {
            for (path, item) in document(version)["paths"].as_object().unwrap() {
                for method in ["get", "put"].iter().filter(|method| item.get(**method).is_some()) {
                    assert_eq!(item[*method]["operationId"], old["paths"][path][*method]["operationId"], "{path}");
                    assert_eq!(item[*method].get("requestBody").is_some(), *method == "put", "{path}");
                    found += 1;
                }
                for parameter in item["parameters"].as_array().into_iter().flatten() {
                    assert_eq!((&parameter["in"], &parameter["schema"]["type"]), (&json!("path"), &json!("string")));
                }
            }
        }
        assert_eq!(found, old["paths"].as_object().unwrap().len());
    }

    #[test]
    fn json_is_given_to_whoever_takes_it() {
        let check = |accept: Option<&str>, expected| assert_eq!(takes_json(accept), expected, "{accept:?}");
        check(None, true);
        check(Some("*/*"), true);
        check(Some("application/json; charset=utf-8"), true);
        check(Some("application/com.github.proto-openapi.spec.v3@v1.0+protobuf, application/json"), true);
        check(Some("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"), false);
    }
}
