//! Which certificates are trusted, as the API server says it in the ConfigMap `kube-system/extension-apiserver-authentication`:
//! its own as a proxy, and those of the cluster's clients. Followed by a watch, so that a new CA counts at once. Refuses
//! every certificate until it has been read.

use std::collections::BTreeMap;
use std::sync::Arc;

use furrow_api::names::{AUTHENTICATION_CONFIG, KUBE_NAMESPACE};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::HeaderNames;
use furrow_model::reasons::chain;

/// What is trusted now; `None` before it was read.
pub(super) type Trusted = watch::Receiver<Option<Arc<Trust>>>;

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Trust {
    /// Certificates of the API server as a proxy.
    pub(super) proxy: Arc<dyn ClientCertVerifier>,
    /// Common names of them that may speak for others; empty: every one.
    proxy_names: Vec<String>,
    /// In which headers it says for whom it speaks.
    pub(super) headers: HeaderNames,
    /// Certificates of the cluster's clients, which agents are.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

/// Why a ConfigMap says nothing about trust.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// A key is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value is not what it should be.
    #[error("{0} is malformed")]
    Malformed(&'static str),
}

impl Trust {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// The first key that is not as it should be.
    pub(super) fn read(data: &BTreeMap<String, String>) -> Result<Self, TrustError> {
        let bundle = |key: &'static str| verifier(data.get(key).ok_or(TrustError::Missing(key))?, key);
        let list = |key: &'static str| -> Result<Vec<String>, TrustError> {
            let text = data.get(key).map(String::as_str).unwrap_or("[]");
            serde_json::from_str(text).map_err(|_| TrustError::Malformed(key))
        };
        let headers = HeaderNames {
            user: list("requestheader-username-headers")?,
            uid: list("requestheader-uid-headers")?,
            group: list("requestheader-group-headers")?,
            extra_prefix: list("requestheader-extra-headers-prefix")?,
        };
        Ok(Self {
            proxy: bundle("requestheader-client-ca-file")?,
            proxy_names: list("requestheader-allowed-names")?,
            headers,
            clients: bundle("client-ca-file")?,
        })
    }

    /// Whether the holder of a certificate, which was verified when the connection was made, may speak for others.
    pub(super) fn may_speak_for_others(&self, certificate: &[u8]) -> bool {
        let Some(subject) = Subject::read(certificate) else { return false };
        self.proxy_names.is_empty() || subject.common_names.iter().any(|name| self.proxy_names.contains(name))
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Common names; a certificate of ours has one.
    pub(super) common_names: Vec<String>,
    /// Organisations.
    pub(super) organizations: Vec<String>,
}

impl Subject {
    /// Reads a certificate's subject; `None` when it is none.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
        Some(Self {
            common_names: subject.iter_common_name().map(text).collect(),
            organizations: subject.iter_organization().map(text).collect(),
        })
    }
}

fn verifier(pem: &str, key: &'static str) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| TrustError::Malformed(key))?;
        roots.add(certificate).map_err(|_| TrustError::Malformed(key))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    // The only errors are an empty bundle and malformed revocation lists, of which there are none.
    built.map_err(|_| TrustError::Malformed(key))
}

/// Follows the ConfigMap until the process ends.
pub(super) fn follow(client: Client) -> Trusted {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={AUTHENTICATION_CONFIG}"));
        let api: Api<ConfigMap> = Api::namespaced(client, KUBE_NAMESPACE);
        let mut maps = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        // The stream starts again by itself, with a back-off; it never ends.
        loop {
            match maps.try_next().await {
                Ok(Some(map)) => match Trust::read(&map.data.unwrap_or_default()) {
                    Ok(trust) => drop(sender.send_replace(Some(Arc::new(trust)))),
                    Err(error) => tracing::error!(%error, map = AUTHENTICATION_CONFIG, "trust is not as it should be"),
                },
                Ok(None) => break,
                Err(error) => tracing::warn!(error = chain(&error), "trust cannot be followed at the moment"),
            }
        }
    });
    receiver
}
