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

/// The login for an image in a pull secret; `None` when the secret has none for its registry.
pub(super) async fn pull_login(
    client: &Client,
    PullSecret { namespace, name }: &PullSecret,
    image: &str,
) -> Result<Option<(String, String)>, Refused> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = tokio::time::timeout(super::API_TIMEOUT, secrets.get(name)).await;
    let found = found.map_err(|_| failure(format!("could not read Secret {namespace}/{name} in time")))?;
    let secret = found.map_err(|e| failure(format!("could not read Secret {namespace}/{name}: {e}")))?;
    let data = secret.data.unwrap_or_default();
    let document = data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg"));
    let Some(ByteString(document)) = document else {
        return Err(failure(format!("Secret {namespace}/{name} has neither .dockerconfigjson nor .dockercfg")));
    };
    let reference = Reference::parse(image).map_err(|e| failure(e.to_string()))?;
    login(document, &reference).map_err(|e| failure(format!("Secret {namespace}/{name}: {e}")))
}
