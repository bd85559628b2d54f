//! What an import reads from Kubernetes: a login and certificates. The DataVolume's namespace
//! only; an object that is missing is waited for by trying again.

use furrow_api::import::HttpImport;
use furrow_model::import::Severity;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use super::status::Failure;

/// Read once for each attempt.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) login: Option<(String, String)>,
    pub(super) certificates: Vec<String>,
}

type Refused = (Failure, Severity);

fn failure(message: String) -> Refused {
    (Failure { reason: "ImportInputMissing".to_owned(), message }, Severity::Passing)
}

/// Reads the objects that the import names.
pub(super) async fn read(client: &Client, namespace: &str, http: &HttpImport) -> Result<Inputs, Refused> {
    let mut inputs = Inputs::default();
    if let Some(name) = &http.secret_ref {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = secrets.get(name).await.map_err(|e| failure(format!("could not read Secret {name}: {e}")))?;
        let data = secret.data.unwrap_or_default();
        let field = |key: &str| {
            let value = data.get(key).and_then(|ByteString(bytes)| String::from_utf8(bytes.clone()).ok());
            value.ok_or_else(|| failure(format!("Secret {name} has no text under the key {key}")))
        };
        inputs.login = Some((field("accessKeyId")?, field("secretKey")?));
    }
    if let Some(name) = &http.cert_config_map {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let map = maps.get(name).await.map_err(|e| failure(format!("could not read ConfigMap {name}: {e}")))?;
        inputs.certificates = map.data.unwrap_or_default().into_values().collect();
        if inputs.certificates.is_empty() {
            return Err(failure(format!("ConfigMap {name} has no certificates")));
        }
    }
    Ok(inputs)
}
