//! TLS on both sides of control: the server takes the API server's certificate, or none; the client takes the one of the
//! very agent that it wants to reach. Refuses names of hosts: what counts is the subject, by certificates of the cluster's
//! own clients' CA, since those are what agents have.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use furrow_api::names::{AGENT_GROUP, AGENT_USER_PREFIX};
use kube::config::Kubeconfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::trust::{Subject, Trust, Trusted};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The server's side. `pki`: the directory with `serving.crt` and `serving.key`.
///
/// # Errors
/// When they cannot be read or do not belong together.
pub(super) fn server(pki: &Path, trusted: Trusted) -> anyhow::Result<ServerConfig> {
    let read = |name: &str| std::fs::read(pki.join(name)).with_context(|| format!("could not read {name}"));
    let certificates = chain_of(&read("serving.crt")?).context("could not read the certificate in serving.crt")?;
    let key = PrivateKeyDer::from_pem_slice(&read("serving.key")?).context("could not read the key in serving.key")?;
    let provider = provider();
    let verifier = Arc::new(ProxyVerifier { trusted, provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("could not choose versions of TLS")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .context("could not serve with serving.crt and serving.key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn chain_of(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!certificates.is_empty(), "there is none");
    Ok(certificates)
}

/// Certificate and key that control has as a client.
#[derive(Debug)]
pub(super) struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From a kubeconfig.
    ///
    /// # Errors
    /// When it holds none.
    pub(super) fn read(kubeconfig: &Kubeconfig) -> anyhow::Result<Self> {
        // Its fields are kept from being printed by mistake; the document is not.
        let document = serde_json::to_value(kubeconfig).context("could not read the kubeconfig's user")?;
        let decoded = |field: &str| -> anyhow::Result<Vec<u8>> {
            let text = document.pointer(&format!("/users/0/user/{field}")).and_then(|value| value.as_str());
            let text = text.with_context(|| format!("the kubeconfig's user has no {field}"))?;
            BASE64_STANDARD.decode(text).with_context(|| format!("could not decode the kubeconfig's {field}"))
        };
        let certificates = chain_of(&decoded("client-certificate-data")?).context("could not read the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&decoded("client-key-data")?).context("could not read the key")?;
        Ok(Self { certificates, key })
    }

    /// The client's side of a connection to the agent of a node.
    ///
    /// # Errors
    /// When the certificate and the key cannot be used.
    pub(super) fn client(&self, node: &str, trust: &Arc<Trust>) -> Result<ClientConfig, Error> {
        let provider = provider();
        let user = format!("{AGENT_USER_PREFIX}{node}");
        let verifier = AgentVerifier { user, trust: Arc::clone(trust), provider: Arc::clone(&provider) };
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.certificates.clone(), self.key.clone_key())
    }
}

/// Verifies the API server as a proxy. Who presents no certificate may connect too, and gets what everybody may see.
#[derive(Debug)]
struct ProxyVerifier {
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ProxyVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They change while the server runs; without a hint a client presents what it has.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.trusted.borrow().clone();
        let trust = trust.ok_or_else(|| Error::General("it is not known yet which certificates to trust".into()))?;
        trust.proxy.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies that a server is the agent of one node: by its certificate as a client of the cluster, the only one it has.
#[derive(Debug)]
struct AgentVerifier {
    user: String,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AgentVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.clients.verify_client_cert(end_entity, intermediates, now)?;
        let subject = Subject::read(end_entity).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if subject.common_names == [self.user.as_str()] && subject.organizations == [AGENT_GROUP] {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
