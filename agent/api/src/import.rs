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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Further Secrets of that namespace: the first that has a login for the registry counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<String>,
    /// They are those of a service account: one that is not there is passed over, as by the kubelet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_account: bool,
}

/// Begins what stands for the Secrets of a service account; no name of a Secret has a colon.
const OF_ACCOUNT: &str = "serviceaccount:";

impl PullSecret {
    /// The Secret that a spec names.
    #[must_use]
    pub fn named(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), ..Self::default() }
    }

    /// The Secrets of a service account; `None` when it has none.
    #[must_use]
    pub fn of_account(namespace: &str, mut names: Vec<String>) -> Option<Self> {
        names.retain(|name| !name.is_empty());
        let more = names.split_off(names.len().min(1));
        let name = names.pop()?;
        Some(Self { namespace: namespace.to_owned(), name, more, of_account: true })
    }

    /// Names of the Secrets, in the order in which they are looked at.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.more.iter().map(String::as_str))
    }

    /// Reads what an annotation says: `<namespace>/<name>`, or `<namespace>/serviceaccount:<name>,<name>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, names) = text.split_once('/')?;
        match names.strip_prefix(OF_ACCOUNT) {
            Some(names) => Self::of_account(namespace, names.split(',').map(str::to_owned).collect()),
            None => Some(Self::named(namespace, names)),
        }
    }
}

impl std::fmt::Display for PullSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of_account = if self.of_account { OF_ACCOUNT } else { "" };
        write!(f, "{}/{of_account}{}", self.namespace, self.names().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod pull_secret_tests {
    use super::PullSecret;

    #[test]
    fn what_an_annotation_says_is_read_as_it_was_written() {
        let one = PullSecret::named("shop", "login");
        let account = PullSecret::of_account("shop", ["a", "", "b"].map(str::to_owned).to_vec());
        let account = account.expect("two names");
        for (secret, text) in [(&one, "shop/login"), (&account, "shop/serviceaccount:a,b")] {
            assert_eq!(secret.to_string(), text);
            assert_eq!(PullSecret::parse(text).as_ref(), Some(secret));
        }
        assert_eq!((PullSecret::parse("shop"), PullSecret::of_account("shop", Vec::new())), (None, None));
    }

    #[test]
    fn one_that_a_spec_names_is_written_as_before() {
        let text = serde_json::to_string(&PullSecret::named("shop", "login")).expect("JSON");
        assert_eq!(text, r#"{"namespace":"shop","name":"login"}"#);
    }
}
