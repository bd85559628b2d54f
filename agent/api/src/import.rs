//! What control tells an agent of an import in a DataVolume's annotation.

use serde::{Deserialize, Serialize};

/// Value of [`crate::names::ANNOTATION_IMPORT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportJob {
    /// Ceph pool.
    pub pool: String,
    /// RBD image to write.
    pub image: String,
    /// Capacity of the claim, bytes; a larger image is refused.
    pub capacity_bytes: i64,
    /// Where the bytes come from.
    pub source: ImportSource,
}

/// Where the bytes of an image come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImportSource {
    /// An HTTP or HTTPS server.
    Http(HttpImport),
    /// An image of a registry.
    Registry(RegistryImport),
    /// Nothing: zeros.
    Blank,
}

/// An image on an HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpImport {
    /// `http://` or `https://` URL.
    pub url: String,
    /// Secret in the DataVolume's namespace with `accessKeyId` and `secretKey`: basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<String>,
    /// ConfigMap in the DataVolume's namespace with CA certificates (PEM) as values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_config_map: Option<String>,
}

/// The disk in an image of a container registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryImport {
    /// Reference: `HOST/REPOSITORY:TAG` or `HOST/REPOSITORY@DIGEST`.
    pub image: String,
    /// Path of the disk in the image; absent: the one file below `disk/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The registry may be asked without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// Secret in the DataVolume's namespace with `accessKeyId` and `secretKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<String>,
    /// The pull secret of the guest that the image was first asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<PullSecret>,
    /// ConfigMap in the DataVolume's namespace with CA certificates (PEM) as values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_config_map: Option<String>,
}

/// A Secret with logins for registries (type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}
