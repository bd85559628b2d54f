//! What an import reads from Kubernetes: a login and certificates. The DataVolume's namespace only, but for the pull secret
//! of a guest's image, which control names; an object that is missing is waited for by trying again.

use furrow_api::import::{ImportSource, PullSecret};
use furrow_model::import::Severity;
use furrow_model::oci::{Reference, login};
use furrow_model::proxy::Proxies;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use super::protocol::{Location, Origin};
use super::status::Failure;

type Refused = (Failure, Severity);

fn failure(message: String) -> Refused {
    (Failure { reason: "ImportInputMissing".to_owned(), message }, Severity::Passing)
}

/// Reads the objects that a source names, once for each attempt; `None` for a source without bytes.
pub(super) async fn read(client: &Client, namespace: &str, source: &ImportSource) -> Result<Option<Origin>, Refused> {
    let (location, secret, certificates) = match source {
        ImportSource::Blank => return Ok(None),
        ImportSource::Http(http) => (Location::Http { url: http.url.clone() }, &http.secret_ref, &http.cert_config_map),
        ImportSource::Registry(from) => {
            let (image, path, plain_http) = (from.image.clone(), from.path.clone(), from.plain_http);
            (Location::Registry { image, path, plain_http }, &from.secret_ref, &from.cert_config_map)
        }
    };
    let mut origin = Origin { location, login: None, certificates: Vec::new(), proxies: Proxies::default() };
    if let Some(name) = secret {
        origin.login = Some(keys(client, namespace, name).await?);
    } else if let ImportSource::Registry(from) = source
        && let Some(secret) = &from.pull_secret
    {
        origin.login = pull_login(client, secret, &from.image).await?;
    }
    if let Some(name) = certificates {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let map = maps.get(name).await.map_err(|e| failure(format!("could not read ConfigMap {name}: {e}")))?;
        origin.certificates = map.data.unwrap_or_default().into_values().collect();
        if origin.certificates.is_empty() {
            return Err(failure(format!("ConfigMap {name} has no certificates")));
        }
    }
    Ok(Some(origin))
}

/// User and password as CDI's secrets have them.
async fn keys(client: &Client, namespace: &str, name: &str) -> Result<(String, String), Refused> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get(name).await.map_err(|e| failure(format!("could not read Secret {name}: {e}")))?;
    let data = secret.data.unwrap_or_default();
    let field = |key: &str| {
        let value = data.get(key).and_then(|ByteString(bytes)| String::from_utf8(bytes.clone()).ok());
        value.ok_or_else(|| failure(format!("Secret {name} has no text under the key {key}")))
    };
    Ok((field("accessKeyId")?, field("secretKey")?))
}

/// The login for an image in pull secrets; `None` when they have none for its registry.
pub(super) async fn pull_login(
    client: &Client,
    secret: &PullSecret,
    image: &str,
) -> Result<Option<(String, String)>, Refused> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &secret.namespace);
    let reference = Reference::parse(image).map_err(|e| failure(e.to_string()))?;
    for name in secret.names() {
        let label = format!("{}/{name}", secret.namespace);
        let found = tokio::time::timeout(super::API_TIMEOUT, secrets.get_opt(name)).await;
        let found = found.map_err(|_| failure(format!("could not read Secret {label} in time")))?;
        let found = found.map_err(|e| failure(format!("could not read Secret {label}: {e}")))?;
        match login_in(&label, found, &reference) {
            Ok(None) => {}
            Ok(login) => return Ok(login),
            // The account may be older than its Secrets, or name what is none: the kubelet asks without it.
            Err((why, _)) if secret.of_account => {
                tracing::warn!(secret = label, error = why.message, "a service account's pull secret is passed over");
            }
            Err(why) => return Err(why),
        }
    }
    Ok(None)
}

fn login_in(label: &str, secret: Option<Secret>, image: &Reference) -> Result<Option<(String, String)>, Refused> {
    let secret = secret.ok_or_else(|| failure(format!("Secret {label} does not exist")))?;
    let data = secret.data.unwrap_or_default();
    let document = data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg"));
    let Some(ByteString(document)) = document else {
        return Err(failure(format!("Secret {label} has neither .dockerconfigjson nor .dockercfg")));
    };
    login(document, image).map_err(|e| failure(format!("Secret {label}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Full;
    use serde_json::json;

    use super::*;

    /// An API server with the Secrets `old` (of another registry), `new` and `none` (no login at all).
    fn client() -> Client {
        let service = tower::service_fn(|request: Request<kube::client::Body>| async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let login = |registry: &str| json!({"auths": {registry: {"username": "u", "password": name}}}).to_string();
            let data = match name.as_str() {
                "old" => json!({".dockerconfigjson": ByteString(login("other.example").into_bytes())}),
                "new" => json!({".dockerconfigjson": ByteString(login("r.example").into_bytes())}),
                "none" => json!({}),
                _ => json!(null),
            };
            let (code, body) = if data.is_null() {
                (
                    404_u16,
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}),
                )
            } else {
                (200, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}))
            };
            let body = Full::<bytes::Bytes>::from(body.to_string());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).expect("a response"))
        });
        Client::new(service, "default")
    }

    async fn check(secret: PullSecret, expected: Result<Option<&str>, ()>) {
        let found = pull_login(&client(), &secret, "r.example/x:1").await;
        let found = found.as_ref().map(|login| login.as_ref().map(|(_, password)| password.as_str()));
        assert_eq!(found.map_err(|_| ()), expected, "{secret}");
    }

    #[tokio::test]
    async fn the_first_secret_of_an_account_that_has_a_login_counts() {
        let account = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            PullSecret::of_account("shop", names).expect("some")
        };
        check(account(&["missing", "none", "old", "new"]), Ok(Some("new"))).await;
        check(account(&["missing", "none", "old"]), Ok(None)).await;
        check(PullSecret::named("shop", "new"), Ok(Some("new"))).await;
        check(PullSecret::named("shop", "old"), Ok(None)).await;
        check(PullSecret::named("shop", "missing"), Err(())).await;
        check(PullSecret::named("shop", "none"), Err(())).await;
    }
}
