//! TLS of the channel: the agent serves with the certificate that it has as a client of the cluster, and takes a connection
//! from control's certificate only. Refuses names of hosts; both sides are known by their subjects.

use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use furrow_api::names::{AUTHENTICATION_CONFIG, CONTROL_GROUP, CONTROL_USER, KUBE_NAMESPACE};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::guest::publish::answered;

/// The CA of the cluster's clients, as PEM.
pub(super) async fn clients_ca(client: &Client) -> anyhow::Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), KUBE_NAMESPACE);
    let map = answered(api.get(AUTHENTICATION_CONFIG)).await;
    let map = map.with_context(|| format!("could not read configmap {KUBE_NAMESPACE}/{AUTHENTICATION_CONFIG}"))?;
    let found = map.data.unwrap_or_default().remove("client-ca-file");
    found.with_context(|| format!("configmap {KUBE_NAMESPACE}/{AUTHENTICATION_CONFIG} has no client-ca-file"))
}

/// The server's side. `clients`: the CA of the cluster's clients, as PEM.
pub(super) fn server(kubeconfig: &Kubeconfig, clients: &str) -> anyhow::Result<ServerConfig> {
    let (certificates, key) = identity(kubeconfig)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in self::certificates(clients.as_bytes())? {
        roots.add(certificate).context("could not use the CA of clients")?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let chain = chain.context("could not verify clients")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("could not choose versions of TLS")?
        .with_client_cert_verifier(Arc::new(ControlVerifier { chain }))
        .with_single_cert(certificates, key)
        .context("could not use the certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificate and key of the kubeconfig's user, which is who the agent is.
pub(crate) fn identity(
    kubeconfig: &Kubeconfig,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    // Its fields are kept from being printed by mistake; the document is not.
    let document = serde_json::to_value(kubeconfig).context("could not read the kubeconfig's user")?;
    let decoded = |field: &str| -> anyhow::Result<Vec<u8>> {
        let text = document.pointer(&format!("/users/0/user/{field}")).and_then(|value| value.as_str());
        let text = text.with_context(|| format!("the kubeconfig's user has no {field}"))?;
        BASE64_STANDARD.decode(text).with_context(|| format!("could not decode the kubeconfig's {field}"))
    };
    let certificates = certificates(&decoded("client-certificate-data")?)?;
    let key = PrivateKeyDer::from_pem_slice(&decoded("client-key-data")?).context("could not read the key")?;
    Ok((certificates, key))
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().context("could not read certificates")?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate");
    Ok(found)
}

/// Lets control through, and no other client of the cluster.
#[derive(Debug)]
struct ControlVerifier {
    chain: Arc<dyn ClientCertVerifier>,
}

fn is_control(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let names: Vec<_> = subject.iter_common_name().map(|name| name.as_str().unwrap_or_default()).collect();
    let groups: Vec<_> = subject.iter_organization().map(|name| name.as_str().unwrap_or_default()).collect();
    names == [CONTROL_USER] && groups == [CONTROL_GROUP]
}

impl ClientCertVerifier for ControlVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if is_control(end_entity) {
            return Ok(verified);
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
