//! What the API says of itself: groups, resources and OpenAPI, all from the one table. Pure. kube-aggregator reads it from
//! one of the servers and shows it as its own, and kubectl's short names of all kinds fail where it is malformed.

use std::collections::BTreeSet;

use furrow_api::names::SUBRESOURCES_GROUP;
use serde_json::{Map, Value, json};

use super::route::{EXPAND_VM_SPEC, Resource, SUBRESOURCES, Subresource, VERSIONS};
use crate::kubevirt::API_LEVEL;

/// The registry and the tag of the image that `virtctl guestfs` starts a pod with: KubeVirt's own.
const GUESTFS_REGISTRY: &str = "quay.io/kubevirt";

fn group_version(version: &str) -> Value {
    json!({"groupVersion": format!("{SUBRESOURCES_GROUP}/{version}"), "version": version})
}

/// The APIGroup. Its name is the APIService's: `virtctl version` goes by it.
pub(super) fn group() -> Value {
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": SUBRESOURCES_GROUP,
        "versions": VERSIONS.map(group_version),
        "preferredVersion": group_version(VERSIONS[0]),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

/// The APIGroupList.
pub(super) fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})
}

/// The media type of aggregated discovery (`k8s.io/api/apidiscovery/v2`), for `Accept` and `Content-Type`.
pub(super) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether a client takes aggregated discovery.
pub(super) fn takes_aggregated(accept: Option<&str>) -> bool {
    let parts = |range: &str| range.split(';').map(|part| part.trim().to_owned()).collect::<BTreeSet<_>>();
    let wanted = parts(AGGREGATED);
    accept.is_some_and(|accept| accept.split(',').any(|range| wanted.is_subset(&parts(range))))
}

/// The APIGroupDiscoveryList: all versions in one document. The API server would make one of the lists by version itself,
/// with `verbs: null` where an object's operations are listed and the object is not, and kube-rs refuses the whole
/// document of all groups for it.
pub(super) fn aggregated() -> Value {
    let kind = |kind: &str| json!({"group": "", "version": "", "kind": kind});
    let resource = |name: &str, verbs: Value, subresources: Vec<Value>| {
        json!({"resource": name, "responseKind": kind(""), "scope": "Namespaced", "singularResource": "",
            "verbs": verbs, "subresources": subresources})
    };
    let of = |of: Resource| {
        let known = SUBRESOURCES.iter().filter(|known| known.resource == of);
        let entry = |known: &Subresource| json!({"subresource": known.name, "responseKind": kind(of.kind()), "verbs": [verb(known)]});
        resource(of.plural(), json!([]), known.map(entry).collect())
    };
    let resources = [
        resource(EXPAND_VM_SPEC, json!(["update"]), Vec::new()),
        of(Resource::VirtualMachines),
        of(Resource::VirtualMachineInstances),
    ];
    let version = |version: &str| json!({"version": version, "freshness": "Current", "resources": resources});
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{"metadata": {"name": SUBRESOURCES_GROUP}, "versions": VERSIONS.map(version)}],
    })
}

/// What a user must be allowed, for an operation.
fn verb(known: &Subresource) -> &'static str {
    if known.reads { "get" } else { "update" }
}

/// The list of paths.
pub(super) fn root() -> Value {
    let base = format!("/apis/{SUBRESOURCES_GROUP}");
    let versions = VERSIONS.map(|version| format!("{base}/{version}"));
    let paths: Vec<_> = ["/apis", "/healthz", "/openapi/v2", "/openapi/v3", &base]
        .into_iter()
        .map(str::to_owned)
        .chain(versions)
        .collect();
    json!({"paths": paths})
}

/// The APIResourceList of a version.
pub(super) fn resources(version: &str) -> Value {
    let entry = |name: String, kind: &str, verb: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": [verb]});
    let of = |known: &Subresource| {
        entry(format!("{}/{}", known.resource.plural(), known.name), known.resource.kind(), verb(known))
    };
    // Without a kind, as KubeVirt has it: with one it would be a second resource for VirtualMachines.
    let expand = entry(EXPAND_VM_SPEC.to_owned(), "", "update");
    let resources: Vec<_> = [expand].into_iter().chain(SUBRESOURCES.iter().map(of)).collect();
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{SUBRESOURCES_GROUP}/{version}"), "resources": resources,
    })
}

/// KubeVirt's version, as its own server gives it.
pub(super) fn version() -> Value {
    json!({
        "gitVersion": API_LEVEL, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

/// Where `virtctl guestfs` finds its image.
pub(super) fn guestfs() -> Value {
    json!({"registry": GUESTFS_REGISTRY, "tag": API_LEVEL, "digest": "", "imagePrefix": "", "gsImage": ""})
}

/// The OpenAPI document, version 2; `super::openapi` makes version 3 of it. Bodies stay open: they are KubeVirt's.
pub(super) fn openapi() -> Value {
    let mut paths = Map::new();
    for version in VERSIONS {
        let base = format!("/apis/{SUBRESOURCES_GROUP}/{version}");
        let plain = |name: &str| (format!("{base}/{name}"), json!({"get": operation(version, &["get", name], false)}));
        paths.extend(["version", "guestfs", "healthz"].map(plain));
        let expand = json!({
            "parameters": [parameter("namespace")],
            "put": operation(version, &["update", EXPAND_VM_SPEC], true),
        });
        paths.insert(format!("{base}/namespaces/{{namespace}}/{EXPAND_VM_SPEC}"), expand);
        for known in SUBRESOURCES {
            paths.extend(documented(version, &base, known));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "KubeVirt subresource API", "version": API_LEVEL},
        "paths": paths,
    })
}

fn documented(version: &str, base: &str, known: &Subresource) -> Vec<(String, Value)> {
    let (method, verb) = (known.method().as_str().to_ascii_lowercase(), verb(known));
    let resource = known.resource;
    let path = format!("{base}/namespaces/{{namespace}}/{}/{{name}}/{}", resource.plural(), known.name);
    let entry = |names: &[&str], suffix: &str| {
        let parameters: Vec<_> = ["namespace", "name"].iter().chain(names).map(|name| parameter(name)).collect();
        let words = [verb, singular(resource), known.name, suffix];
        json!({"parameters": parameters, method.as_str(): operation(version, &words, !known.reads)})
    };
    if known.takes_port() {
        return vec![
            (format!("{path}/{{port}}"), entry(&["port"], "")),
            (format!("{path}/{{port}}/{{protocol}}"), entry(&["port", "protocol"], "protocol")),
        ];
    }
    vec![(path, entry(&[], ""))]
}

fn singular(resource: Resource) -> &'static str {
    match resource {
        Resource::VirtualMachines => "vm",
        Resource::VirtualMachineInstances => "vmi",
    }
}

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true})
}

/// An operation, named by its words in camel case.
fn operation(version: &str, words: &[&str], takes_body: bool) -> Value {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    let words = words.iter().flat_map(|word| word.split(['/', '-'])).map(capital);
    let id: String = std::iter::once(version.to_owned()).chain(words).collect();
    let mut operation = json!({
        "operationId": id, "produces": ["application/json"],
        "responses": {"default": {"description": "the answer, or a Status"}},
    });
    if takes_body {
        operation["consumes"] = json!(["*/*"]);
        operation["parameters"] = json!([{"name": "body", "in": "body", "schema": {"type": "object"}}]);
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_named_as_the_service_is() {
        assert_eq!(group()["name"], "subresources.kubevirt.io");
        assert_eq!(group()["preferredVersion"]["groupVersion"], "subresources.kubevirt.io/v1");
        assert_eq!(groups()["groups"][0], group());
    }

    #[test]
    fn every_operation_is_listed_with_its_verb() {
        for version in VERSIONS {
            let list = resources(version);
            assert_eq!(list["groupVersion"], format!("subresources.kubevirt.io/{version}"));
            let listed: Vec<_> = list["resources"].as_array().unwrap().iter().collect();
            assert_eq!(listed.len(), SUBRESOURCES.len() + 1);
            let verb =
                |name: &str| listed.iter().find(|entry| entry["name"] == name).map(|entry| entry["verbs"].clone());
            assert_eq!(verb("virtualmachines/start"), Some(json!(["update"])));
            assert_eq!(verb("virtualmachineinstances/vnc/screenshot"), Some(json!(["get"])));
            assert_eq!(verb("expand-vm-spec"), Some(json!(["update"])));
        }
    }

    #[test]
    fn aggregated_discovery_has_what_the_lists_have() {
        let document = aggregated();
        for (place, version) in VERSIONS.iter().enumerate() {
            let found = &document["items"][0]["versions"][place];
            assert_eq!(found["version"], *version);
            let mut listed = BTreeSet::new();
            for resource in found["resources"].as_array().unwrap() {
                let name = resource["resource"].as_str().unwrap();
                if resource["verbs"] != json!([]) {
                    listed.insert(format!("{name} {}", resource["verbs"]));
                }
                let parts = resource["subresources"].as_array().unwrap().iter();
                listed.extend(
                    parts.map(|part| format!("{name}/{} {}", part["subresource"].as_str().unwrap(), part["verbs"])),
                );
            }
            let list = resources(version);
            let entry = |entry: &Value| format!("{} {}", entry["name"].as_str().unwrap(), entry["verbs"]);
            assert_eq!(listed, list["resources"].as_array().unwrap().iter().map(entry).collect());
        }
    }

    #[test]
    fn aggregated_discovery_is_for_those_who_take_it() {
        let check = |accept: Option<&str>, expected: bool| assert_eq!(takes_aggregated(accept), expected, "{accept:?}");
        check(None, false);
        check(Some("application/json"), false);
        check(Some("*/*"), false);
        check(Some(AGGREGATED), true);
        // As kube-aggregator asks.
        let older = AGGREGATED.replace("v=v2", "v=v2beta1");
        check(Some(&format!("{AGGREGATED},{older}")), true);
        check(Some("application/json; as=APIGroupDiscoveryList; v=v2; g=apidiscovery.k8s.io; q=0.9, */*"), true);
        check(Some(&older), false);
    }

    #[test]
    fn every_documented_path_is_served_and_named_once() {
        let document = openapi();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let real = path.replace("{namespace}", "shop").replace("{name}", "web").replace("{port}", "22");
            let real = real.replace("{protocol}", "tcp");
            let parsed = super::super::route::parse(&real);
            let method = parsed.unwrap_or_else(|| panic!("{path} is not served")).method();
            let operation = &item[method.as_str().to_ascii_lowercase()];
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        }
        // Two paths for each of the two that take a port, and four that are no operations on objects.
        assert_eq!(ids.len(), 2 * (SUBRESOURCES.len() + 2 + 4));
    }
}
