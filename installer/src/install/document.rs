//! Where the node.yaml of an installation comes from: a URL on the kernel's command line, or the file system labelled
//! `FURROW-CONFIG`; single keys of the command line are laid over it, and secrets that it refers to are opened. Reads only.

use std::path::Path;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use furrow_host::cmd::Cmd;
use furrow_model::proxy::Proxies;

use super::cmdline::{self, Remote, WordError, Words};
use super::medium;
use crate::config::{Secret, SecretKey};
use crate::download::{DownloadError, Source};
use crate::secrets::{self, SecretError};
use crate::settings;

/// A node.yaml has a few kilobytes.
const LIMIT: u64 = 1 << 20;
/// DHCP on a slow switch port, which first looks for loops.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error(transparent)]
    Words(#[from] WordError),
    #[error("furrow.config: {0}")]
    Download(#[from] DownloadError),
    #[error("furrow.config-ca: {0}")]
    Ca(String),
    #[error("{0}")]
    Medium(String),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// A node.yaml, and for people where it is from.
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) origin: String,
}

/// The node.yaml that this medium was told of.
///
/// # Errors
/// When it cannot be had or a word of the command line means nothing.
pub(crate) async fn read_config() -> Result<Document, DocumentError> {
    let words = cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())?;
    let (text, from) = match &words.remote {
        Some(remote) => {
            let (text, url) = fetch(remote, early_proxies(&words).await?.as_ref()).await?;
            (laid(Some(&text), &words, None).await?, url)
        }
        None => {
            let read = medium::labelled_config(async |text: String, beside: &Path| {
                laid(Some(&text), &words, Some(beside)).await
            });
            match read.await.map_err(DocumentError::Medium)? {
                Some(text) => (text?, medium::CONFIG_LABEL.to_owned()),
                None if words.keys.is_empty() => return Err(DocumentError::Medium(medium::no_config())),
                None => (laid(None, &words, None).await?, "the kernel's command line alone".to_owned()),
            }
        }
    };
    let names: Vec<String> = words.keys.iter().map(|(key, _)| format!("furrow.{key}")).collect();
    let over = if names.is_empty() { String::new() } else { format!(", with {} laid over it", names.join(", ")) };
    Ok(Document { text, origin: from + &over })
}

/// The document with the words laid over it and its secrets opened. `beside`: the directory it was read from.
async fn laid(text: Option<&str>, words: &Words, beside: Option<&Path>) -> Result<String, DocumentError> {
    Ok(secrets::resolved(cmdline::overlay(text, &words.keys)?, beside).await?)
}

/// The proxy of the command line; None leaves it to the environment, which has none but in a shell.
async fn early_proxies(words: &Words) -> Result<Option<Proxies>, DocumentError> {
    let Some(mut proxy) = cmdline::proxy(&words.keys)? else { return Ok(None) };
    for (key, place) in [(SecretKey::ProxyHttp, &mut proxy.http), (SecretKey::ProxyHttps, &mut proxy.https)] {
        if let Some(secret) = place {
            *secret = Secret::Value(secrets::open(key, secret, None).await?);
        }
    }
    Ok(Some(settings::early_proxies(&proxy)))
}

/// Text and URL.
async fn fetch(remote: &Remote, proxies: Option<&Proxies>) -> Result<(String, String), DocumentError> {
    let ca = remote.ca.as_deref().map(certificate).transpose()?;
    let source = Source::new(&remote.url, (ca.as_deref(), remote.sha256.as_deref()), proxies)?;
    println!("node.yaml comes from {}", source.shown());
    // Whether the network is there is seen by the download, which tries again and says what is wrong.
    let online = Cmd::new("/usr/lib/systemd/systemd-networkd-wait-online").args(["--any", "--timeout=60"]);
    let _ = online.timeout(NETWORK_TIMEOUT).run().await;
    Ok((source.text(LIMIT).await?, source.shown()))
}

/// Certificates in PEM, from a file or from DER in base64.
fn certificate(word: &str) -> Result<Vec<u8>, DocumentError> {
    if word.starts_with('/') && Path::new(word).exists() {
        return std::fs::read(word).map_err(|e| DocumentError::Ca(format!("{word}: {e}")));
    }
    let expected = || DocumentError::Ca("expected the path of a file, or a certificate as DER in base64".to_owned());
    let der = BASE64_STANDARD.decode(word).map_err(|_| expected())?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| expected())?;
    let pem = BASE64_STANDARD.encode(parsed.as_raw());
    Ok(format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_a_certificate() {
        let (_, pem) = x509_parser::pem::parse_x509_pem(include_bytes!("../update/testdata/update.crt")).expect("PEM");
        let text = certificate(&BASE64_STANDARD.encode(&pem.contents)).expect("a certificate");
        assert_eq!(x509_parser::pem::parse_x509_pem(&text).expect("PEM").1.contents, pem.contents);
        for wrong in ["abc", "AAAA", "/no/such/file"] {
            let error = certificate(wrong).expect_err("it was accepted").to_string();
            assert!(error.contains("furrow.config-ca: expected the path of a file"), "{error}");
        }
    }
}
