//! Who asks and what is asked about them, as tables.

use axum::http::HeaderName;

use super::*;
use crate::subresources::route;

fn names() -> HeaderNames {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    HeaderNames {
        user: list(&["X-Remote-User"]),
        uid: list(&["X-Remote-Uid"]),
        group: list(&["X-Remote-Group"]),
        extra_prefix: list(&["X-Remote-Extra-"]),
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    headers
}

#[test]
fn a_user_is_what_the_headers_say() {
    let given = headers(&[
        ("x-remote-user", "jane"),
        ("x-remote-uid", "u-7"),
        ("x-remote-group", "dev"),
        ("x-remote-group", "system:authenticated"),
        ("x-remote-extra-scopes", "a"),
        ("x-remote-extra-scopes", "b"),
        ("x-remote-extra-acme.com%2fproject", "p"),
        ("x-remote-extra-broken%2", "q"),
        ("x-other", "no"),
    ]);
    let user = user(&given, &names()).unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_deref()), ("jane", Some("u-7")));
    assert_eq!(user.groups, ["dev", "system:authenticated"]);
    let extra: Vec<_> = user.extra.iter().map(|(key, values)| (key.as_str(), values.join(","))).collect();
    let expected = [("acme.com/project", "p"), ("broken%2", "q"), ("scopes", "a,b")];
    assert_eq!(extra, expected.map(|(key, values)| (key, values.to_owned())));
}

#[test]
fn nobody_is_a_user_without_name_and_group() {
    let check = |pairs: &[(&str, &str)], expected| assert_eq!(user(&headers(pairs), &names()).err(), Some(expected));
    check(&[("x-remote-group", "dev")], "a valid user header is required for authorization");
    check(&[("x-remote-user", ""), ("x-remote-group", "dev")], "a valid user header is required for authorization");
    check(&[("x-remote-user", "jane")], "a valid group header is required for authorization");
}

fn asked(method: &Method, path: &str) -> [String; 6] {
    let user = User { name: "jane".into(), groups: vec!["dev".into()], ..User::default() };
    let review = review(user, method, &route::parse(path).unwrap()).unwrap();
    assert_eq!(review.spec.user.as_deref(), Some("jane"));
    let attributes = review.spec.resource_attributes.unwrap();
    assert_eq!(attributes.group.as_deref(), Some("subresources.kubevirt.io"));
    [
        attributes.verb,
        attributes.version,
        attributes.namespace,
        attributes.resource,
        attributes.subresource,
        attributes.name,
    ]
    .map(Option::unwrap_or_default)
}

#[test]
fn the_question_is_about_the_object_and_its_subresource() {
    let base = "/apis/subresources.kubevirt.io";
    let check = |method: Method, path: &str, expected: [&str; 6]| {
        assert_eq!(asked(&method, &format!("{base}/{path}")), expected, "{method} {path}");
    };
    let vm = "v1/namespaces/shop/virtualmachines/web";
    let vmi = "v1alpha3/namespaces/shop/virtualmachineinstances/web";
    check(Method::PUT, &format!("{vm}/start"), ["update", "v1", "shop", "virtualmachines", "start", "web"]);
    check(Method::GET, &format!("{vm}/start"), ["get", "v1", "shop", "virtualmachines", "start", "web"]);
    check(Method::POST, &format!("{vm}/start"), ["create", "v1", "shop", "virtualmachines", "start", "web"]);
    check(Method::DELETE, &format!("{vm}/start"), ["delete", "v1", "shop", "virtualmachines", "start", "web"]);
    check(Method::PATCH, &format!("{vm}/start"), ["patch", "v1", "shop", "virtualmachines", "start", "web"]);
    let screenshot = ["get", "v1alpha3", "shop", "virtualmachineinstances", "vnc/screenshot", "web"];
    check(Method::GET, &format!("{vmi}/vnc/screenshot"), screenshot);
    let forward = ["get", "v1alpha3", "shop", "virtualmachineinstances", "portforward", "web"];
    check(Method::GET, &format!("{vmi}/portforward/22/tcp"), forward);
    check(Method::PUT, "v1/namespaces/shop/expand-vm-spec", ["update", "v1", "shop", "expand-vm-spec", "", ""]);
    check(Method::GET, "v1/namespaces/shop/expand-vm-spec", ["list", "v1", "shop", "expand-vm-spec", "", ""]);
}

#[test]
fn what_everybody_may_see_is_not_asked_about() {
    for path in ["/apis/subresources.kubevirt.io/v1", "/apis/subresources.kubevirt.io/v1/version", "/healthz"] {
        assert_eq!(review(User::default(), &Method::GET, &route::parse(path).unwrap()), None, "{path}");
    }
}
