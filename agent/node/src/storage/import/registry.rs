//! The distribution API of container registries, as far as a disk needs it: manifests, blobs, and tokens to get at them.
//! What comes is what was asked for, or an error: each document and each blob is checked against its digest and its length.
//!
//! The API is three GETs, and here they go the way of every import (`fetch`): its proxy, certificates, redirects, time
//! limits, and blobs that are taken up where a connection broke. oci-client was the alternative; it makes a client of its own
//! without those, and verifies no blob that was taken up.
//!
//! A registry on CDI's list of insecure ones is asked without TLS, and if it does not take that, by TLS with whatever
//! certificate it has. Refuses to send a password so to anybody but that registry, and to push.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use furrow_model::import::Severity;
use furrow_model::oci::{Challenge, Digest, Document, Layer, Reference, Version, choose_platform, parse};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::ImportError;
use super::fetch::{Auth, MAX_ATTEMPTS, Net, Source, Stream, broken, shown, successful};
use super::stream::Progress;

/// The distribution specification advises registries to take no larger manifest.
const MANIFEST_MAX_BYTES: usize = 4 << 20;
const TOKEN_MAX_BYTES: usize = 1 << 20;
/// A server of TLS that waits for a handshake is not waited for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the time without a byte: a registry may take its time for a manifest of another registry's.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// An image.
#[derive(Debug)]
pub(super) struct Image {
    /// What the reference points to: the digest of the index where there is one.
    pub(super) digest: Digest,
    /// The layers of the image for this platform, the lowest first.
    pub(super) layers: Vec<Layer>,
}

/// One repository of a registry.
pub(super) struct Registry {
    net: Net,
    /// The way to servers of tokens: verified.
    tokens: Net,
    /// Whether TLS is to be used is not known yet.
    unsettled: bool,
    reference: Reference,
    base: Url,
    login: Option<(String, String)>,
    auth: Auth,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registry {
    /// For an image; nothing is asked yet. `plain_http`: that the registry has no TLS, or an untrusted certificate, is
    /// allowed.
    pub(super) fn new(
        net: Net,
        image: &str,
        plain_http: bool,
        login: Option<(String, String)>,
    ) -> Result<Self, ImportError> {
        let reference = Reference::parse(image)?;
        let scheme = if plain_http || reference.is_loopback() { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/", reference.endpoint(), reference.repository());
        let base = Url::parse(&text).map_err(|e| ImportError::Setup(format!("{text:?} is no URL: {e}")))?;
        let tokens = net.clone();
        let net = if plain_http { net.unverified() } else { net };
        Ok(Self { net, tokens, unsettled: plain_http, reference, base, login, auth: Auth::Nobody })
    }

    /// Turns to TLS where a registry does not answer without.
    fn settle(&mut self) -> Result<(), ImportError> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(());
        }
        let root = self.base.join("/v2/").map_err(|e| ImportError::Setup(format!("no path: {e}")))?;
        let net = self.net.clone();
        let plain = net.wait_for(async {
            let asked = tokio::time::timeout(PROBE_TIMEOUT, net.get(&root, &Auth::Nobody, HeaderMap::new())).await;
            // A server of TLS hangs up, or says that this was no TLS; one that has both sends its client on.
            Ok(matches!(asked, Ok(Ok(answer)) if answer.status() != StatusCode::BAD_REQUEST && answer.url().scheme() == "http"))
        })?;
        if !plain && self.base.set_scheme("https").is_err() {
            return Err(ImportError::Setup(format!("{} has no form for https", shown(&self.base))));
        }
        Ok(())
    }

    /// What the reference points to now.
    pub(super) fn image(&mut self) -> Result<Image, ImportError> {
        self.settle()?;
        let digest = match self.reference.version() {
            Version::Digest(digest) => Some(digest.clone()),
            Version::Tag(_) => None,
        };
        let bytes = self.manifest(&self.reference.version_text(), digest.as_ref())?;
        let digest = Digest::of(&bytes);
        let entries = match parse(&bytes)? {
            Document::Image(layers) => return Ok(Image { digest, layers }),
            Document::Index(entries) => entries,
        };
        let chosen = choose_platform(&entries)?.digest.clone();
        let bytes = self.manifest(&chosen.to_string(), Some(&chosen))?;
        match parse(&bytes)? {
            Document::Image(layers) => Ok(Image { digest, layers }),
            Document::Index(_) => {
                let what = format!("manifest {chosen}");
                let (expected, found) = ("one image".to_owned(), "an index of images".to_owned());
                Err(ImportError::Mismatch { what, expected, found })
            }
        }
    }

    /// Begins to read a layer.
    pub(super) fn layer(&self, layer: &Layer, progress: &Arc<Progress>) -> Result<LayerReader, ImportError> {
        let url = self.url(&format!("blobs/{}", layer.digest))?;
        let mut source = Source::blob(self.net.clone(), url, self.auth.clone());
        let stream = source.open()?;
        if let Some(found) = source.len.filter(|len| *len != layer.size) {
            return Err(wrong_size(layer, format!("{found} bytes")));
        }
        progress.total.fetch_add(layer.size, Ordering::Relaxed);
        let progress = Arc::clone(progress);
        Ok(LayerReader { stream, layer: layer.clone(), hash: Sha256::new(), read: 0, failure: None, progress })
    }

    fn url(&self, tail: &str) -> Result<Url, ImportError> {
        self.base.join(tail).map_err(|e| ImportError::Setup(format!("{tail:?} is no path: {e}")))
    }

    /// A manifest. `expected`: the digest it must have.
    fn manifest(&mut self, version: &str, expected: Option<&Digest>) -> Result<Vec<u8>, ImportError> {
        let url = self.url(&format!("manifests/{version}"))?;
        let net = self.net.clone();
        let bytes = net.wait_for(self.document(&url))?;
        let found = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            let what = format!("the manifest at {}", shown(&url));
            let (expected, found) = (format!("digest {expected}"), format!("digest {found}"));
            return Err(ImportError::Mismatch { what, expected, found });
        }
        Ok(bytes)
    }

    /// Tries as often as a blob is tried.
    async fn document(&mut self, url: &Url) -> Result<Vec<u8>, ImportError> {
        let mut attempts = 0;
        loop {
            let attempt = tokio::time::timeout(DOCUMENT_TIMEOUT, self.ask(url)).await;
            let error = match attempt {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(error)) => error,
                Err(_) => {
                    let why = format!("no answer within {} s", DOCUMENT_TIMEOUT.as_secs());
                    ImportError::Transfer { url: shown(url), why }
                }
            };
            attempts += 1;
            if error.severity() == Severity::Permanent || attempts >= MAX_ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(500 << attempts.min(4))).await;
        }
    }

    async fn ask(&mut self, url: &Url) -> Result<Vec<u8>, ImportError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]);
        let mut response = self.net.get(url, &self.auth, headers.clone()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && matches!(self.auth, Auth::Nobody) {
            self.auth = self.log_in(&response).await?;
            response = self.net.get(url, &self.auth, headers).await?;
        }
        read_all(url, successful(url, response)?, MANIFEST_MAX_BYTES).await
    }

    /// Does what the registry asks for.
    async fn log_in(&self, response: &Response) -> Result<Auth, ImportError> {
        let refused = |why: &str| ImportError::Login { registry: shown(&self.base), why: why.to_owned() };
        let asked = response.headers().get_all(WWW_AUTHENTICATE);
        let mut asked = asked.iter().filter_map(|value| Challenge::parse(value.to_str().ok()?));
        match asked.next() {
            None => Err(refused("it asks for neither a password nor a token")),
            Some(Challenge::Basic) if self.login.is_none() => {
                Err(refused("it asks for a password, and there is no secret with one"))
            }
            Some(Challenge::Basic) => Ok(Auth::basic(self.login.as_ref())),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let mut url = Url::parse(&realm).map_err(|_| refused("the address for tokens is no URL"))?;
                if url.scheme() != "https" && url.scheme() != self.base.scheme() {
                    return Err(refused("the address for tokens is not https"));
                }
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository()));
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", &service);
                }
                let own = url.host() == self.base.host();
                let net = if own { &self.net } else { &self.tokens };
                let response = net.get(&url, &Auth::basic(self.login.as_ref()), HeaderMap::new()).await?;
                let bytes = read_all(&url, successful(&url, response)?, TOKEN_MAX_BYTES).await?;
                let answer: Token = serde_json::from_slice(&bytes).map_err(|_| refused("the answer is no token"))?;
                let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
                if token.is_empty() { Err(refused("the answer has no token")) } else { Ok(Auth::Bearer(token)) }
            }
        }
    }
}

async fn read_all(url: &Url, mut response: Response, limit: usize) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(url, &error.without_url()))? {
        if bytes.len() + chunk.len() > limit {
            let (expected, found) = (format!("at most {limit} bytes"), "more bytes".to_owned());
            return Err(ImportError::Mismatch { what: format!("the answer at {}", shown(url)), expected, found });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn wrong_size(layer: &Layer, found: String) -> ImportError {
    let (what, expected) = (format!("blob {}", layer.digest), format!("{} bytes", layer.size));
    ImportError::Mismatch { what, expected, found }
}

/// The bytes of a layer as they are stored. Nothing of them may count before [`Self::finish`] has said that they are those.
pub(super) struct LayerReader {
    stream: Stream,
    layer: Layer,
    hash: Sha256,
    read: u64,
    /// Decompressors and archives wrap errors so that nothing is left to tell them by.
    failure: Option<ImportError>,
    progress: Arc<Progress>,
}

impl LayerReader {
    /// What went wrong below whoever reads.
    pub(super) fn failure(&mut self) -> Option<ImportError> {
        self.failure.take()
    }

    /// Reads the rest and compares the digest.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        let copied = io::copy(&mut self, &mut io::sink());
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        copied.map_err(ImportError::of_read)?;
        if self.read != self.layer.size {
            return Err(wrong_size(&self.layer, format!("{} bytes", self.read)));
        }
        let found = Digest::from_hash(&self.hash.finalize());
        if found != self.layer.digest {
            let (what, expected) = (format!("blob {}", self.layer.digest), format!("digest {}", self.layer.digest));
            return Err(ImportError::Mismatch { what, expected, found: format!("digest {found}") });
        }
        Ok(())
    }

    fn fail(&mut self, error: ImportError) -> io::Error {
        self.failure = Some(error);
        io::Error::other("the layer broke off")
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.stream.read(buffer) {
            Ok(read) => read,
            Err(error) => return Err(self.fail(ImportError::of_read(error))),
        };
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        if self.read > self.layer.size {
            let error = wrong_size(&self.layer, "more".to_owned());
            return Err(self.fail(error));
        }
        self.progress.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
