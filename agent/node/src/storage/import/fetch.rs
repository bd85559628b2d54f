//! Reads a source over HTTP: as one stream that survives broken connections, and in parts.
//!
//! A connection that breaks is taken up where it was (`Range`, with `If-Range` so that a changed
//! file is noticed). Bounds: 10 redirects, 15 s to connect, 30 s without a byte, 5 attempts in a
//! row without progress. Goes through the proxy of the task, and refuses one of the environment and
//! to decompress transfer encodings: bytes are those of the file. Blobs of a registry are read in
//! the same way; their digest tells that nothing changed.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use furrow_model::import::Severity;
use furrow_model::proxy::Proxies;
use furrow_model::reasons::chain;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, Client, Response, StatusCode, Url};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::ImportError;
use super::protocol::{Location, Origin};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// Attempts in a row that brought no byte.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// Pieces between the network and the reader: up to 400 KiB each, as hyper reads them.
const QUEUE: usize = 12;

/// What a request says of who asks.
#[derive(Clone)]
pub(super) enum Auth {
    Nobody,
    Basic(String, String),
    Bearer(String),
}

impl Auth {
    /// By password, if there is one.
    pub(super) fn basic(login: Option<&(String, String)>) -> Self {
        login.map_or(Self::Nobody, |(user, password)| Self::Basic(user.clone(), password.clone()))
    }
}

/// The way to servers.
#[derive(Clone)]
pub(super) struct Net {
    client: Client,
    /// One that takes any certificate, where the task is about a registry that may be reached so.
    unverified: Option<Client>,
    handle: Handle,
    stop: CancellationToken,
    /// Bytes of files that came over the network.
    received: Arc<AtomicU64>,
}

impl Net {
    /// With the proxy and the certificates of a task.
    pub(super) fn new(origin: &Origin, (handle, stop): (Handle, CancellationToken)) -> Result<Self, ImportError> {
        let mut trusted = Vec::new();
        for pem in &origin.certificates {
            let found = Certificate::from_pem_bundle(pem.as_bytes());
            trusted.extend(found.map_err(|e| ImportError::Setup(format!("a certificate is malformed: {e}")))?);
        }
        let client = client(origin, &trusted, true)?;
        let insecure = matches!(origin.location, Location::Registry { plain_http: true, .. });
        let unverified = insecure.then(|| self::client(origin, &trusted, false)).transpose()?;
        Ok(Self { client, unverified, handle, stop, received: Arc::default() })
    }

    /// The way to a registry that may be reached without certificates that prove anything.
    pub(super) fn unverified(&self) -> Self {
        let client = self.unverified.as_ref().unwrap_or(&self.client).clone();
        Self { client, ..self.clone() }
    }

    /// Waits for `work`, or the end. Not for async code.
    pub(super) fn wait_for<T>(&self, work: impl Future<Output = Result<T, ImportError>>) -> Result<T, ImportError> {
        let stop = self.stop.clone();
        self.handle.block_on(stop.run_until_cancelled(work)).unwrap_or(Err(ImportError::Cancelled))
    }

    /// One GET, whatever is answered.
    pub(super) async fn get(&self, url: &Url, auth: &Auth, headers: HeaderMap) -> Result<Response, ImportError> {
        let request = self.client.get(url.clone()).headers(headers).header(ACCEPT_ENCODING, "identity");
        let request = match auth {
            Auth::Nobody => request,
            Auth::Basic(user, password) => request.basic_auth(user, Some(password)),
            Auth::Bearer(token) => request.bearer_auth(token),
        };
        request.send().await.map_err(|error| broken(url, &error.without_url()))
    }

    /// Bytes of files that came over the network so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn client(origin: &Origin, trusted: &[Certificate], verified: bool) -> Result<Client, ImportError> {
    let mut builder = Client::builder()
        .user_agent(concat!("furrow-import/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS));
    let Proxies { http, https, direct } = &origin.proxies;
    builder = furrow_host::http::through(builder, (http.as_deref(), https.as_deref()), direct)
        .map_err(|e| ImportError::Setup(format!("the node's proxy: {}", chain(&e))))?;
    if !verified {
        builder = builder.tls_danger_accept_invalid_certs(true);
    } else if !trusted.is_empty() {
        builder = builder.tls_certs_merge(trusted.to_vec());
    }
    builder.build().map_err(|e| ImportError::Setup(chain(&e)))
}

/// A URL without what might be a secret in it.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.to_string()
}

/// A transfer that broke off.
pub(super) fn broken(url: &Url, error: &(dyn std::error::Error + 'static)) -> ImportError {
    ImportError::Transfer { url: shown(url), why: chain(error) }
}

/// An answer that is one; the error says whether asking again can help.
pub(super) fn successful(url: &Url, response: Response) -> Result<Response, ImportError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let passing = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
    Err(ImportError::Status { url: shown(url), status: status.to_string(), permanent: !passing })
}

/// Where to read from.
#[derive(Clone)]
pub(super) struct Source {
    net: Net,
    url: Url,
    auth: Auth,
    /// Length of the file in bytes, once known.
    pub(super) len: Option<u64>,
    /// Tells one version of the file from another.
    validator: Option<String>,
    /// There is one version only: whoever reads it checks its digest.
    immutable: bool,
}

impl Source {
    /// A file of a web server; nothing was asked of it yet.
    pub(super) fn new(net: Net, url: &str, auth: Auth) -> Result<Self, ImportError> {
        let parsed = Url::parse(url).map_err(|e| ImportError::Setup(format!("{url:?} is no URL: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(ImportError::Setup(format!("{url:?} is neither http nor https")));
        }
        Ok(Self { net, url: parsed, auth, len: None, validator: None, immutable: false })
    }

    /// A blob of a registry.
    pub(super) fn blob(net: Net, url: Url, auth: Auth) -> Self {
        Self { net, url, auth, len: None, validator: None, immutable: true }
    }

    fn shown(&self) -> String {
        shown(&self.url)
    }

    async fn get(&self, range: Option<(u64, Option<u64>)>) -> Result<Response, ImportError> {
        let mut headers = HeaderMap::new();
        if let Some((first, last)) = range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            let value = |text: &str| HeaderValue::from_str(text).map_err(|e| ImportError::Setup(e.to_string()));
            headers.insert(RANGE, value(&format!("bytes={first}-{last}"))?);
            if let Some(validator) = &self.validator {
                headers.insert(IF_RANGE, value(validator)?);
            }
        }
        let response = self.net.get(&self.url, &self.auth, headers).await?;
        match successful(&self.url, response) {
            // A token that ran out amid a blob: the next attempt has a new one.
            Err(ImportError::Status { url, status, .. })
                if status.starts_with("401") && matches!(self.auth, Auth::Bearer(_)) =>
            {
                Err(ImportError::Status { url, status, permanent: false })
            }
            other => other,
        }
    }

    /// Begins to read at the beginning, and learns the length.
    pub(super) fn open(&mut self) -> Result<Stream, ImportError> {
        let response = self.net.wait_for(self.get(None))?;
        self.len = response.content_length();
        self.validator = validator(response.headers());
        Ok(self.pump(Some(response), 0))
    }

    /// Reads from `offset` to the end. The server must answer ranges.
    pub(super) fn stream(&self, offset: u64) -> Stream {
        self.pump(None, offset)
    }

    /// Reads a part of the file.
    pub(super) fn part(&self, offset: u64, len: usize) -> Result<Vec<u8>, ImportError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::with_capacity(len);
        let mut stream = self.pump_until(None, offset, Some(offset + len as u64 - 1));
        let read = (&mut stream).take(len as u64).read_to_end(&mut bytes).map_err(ImportError::of_read)?;
        if read < len {
            let why = format!("it ended at byte {}, before byte {}", offset + read as u64, offset + len as u64);
            return Err(ImportError::Transfer { url: self.shown(), why });
        }
        Ok(bytes)
    }

    fn pump(&self, response: Option<Response>, offset: u64) -> Stream {
        self.pump_until(response, offset, None)
    }

    fn pump_until(&self, response: Option<Response>, offset: u64, last: Option<u64>) -> Stream {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let pump = Pump { source: self.clone(), offset, last, sender };
        let stop = self.net.stop.clone();
        self.net.handle.spawn(async move {
            let sender = pump.sender.clone();
            // Safe to cancel: what was not passed on is fetched again by nobody.
            if stop.run_until_cancelled(pump.run(response)).await.is_none() {
                let _ = sender.send(Err(ImportError::Cancelled)).await;
            }
        });
        Stream { receiver, rest: Bytes::new() }
    }
}

/// The task that keeps a stream flowing.
struct Pump {
    source: Source,
    offset: u64,
    last: Option<u64>,
    sender: mpsc::Sender<Result<Bytes, ImportError>>,
}

impl Pump {
    async fn run(mut self, mut response: Option<Response>) {
        let mut attempts = 0;
        loop {
            let before = self.offset;
            let result = match response.take() {
                Some(response) => self.forward(response).await,
                None => match self.resume().await {
                    Ok(response) => self.forward(response).await,
                    Err(error) => Err(error),
                },
            };
            attempts = if self.offset > before { 0 } else { attempts + 1 };
            match result {
                Ok(()) => return,
                Err(error)
                    if error.severity() == Severity::Permanent
                        || !self.may_resume(&error)
                        || attempts >= MAX_ATTEMPTS =>
                {
                    // The reader is gone if this fails, and then nobody wants to know.
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(500 << attempts.min(4))).await,
            }
        }
    }

    /// A file that cannot be told from its next version is not put together from two parts.
    fn may_resume(&self, error: &ImportError) -> bool {
        let passing = matches!(error, ImportError::Transfer { .. } | ImportError::Status { .. });
        passing && (self.source.immutable || self.source.validator.is_some() || self.offset == 0)
    }

    async fn resume(&self) -> Result<Response, ImportError> {
        let response = self.source.get(Some((self.offset, self.last))).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let begins = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(range_start);
            return if begins == Some(self.offset) {
                Ok(response)
            } else {
                Err(ImportError::NoRanges { url: self.source.shown() })
            };
        }
        let same = validator(response.headers()) == self.source.validator;
        match (same, self.offset) {
            (true, 0) if self.last.is_none() => Ok(response),
            (true, _) => Err(ImportError::NoRanges { url: self.source.shown() }),
            (false, _) => Err(ImportError::Changed { url: self.source.shown() }),
        }
    }

    /// Passes the body on; an error when it ends before its length.
    async fn forward(&mut self, mut response: Response) -> Result<(), ImportError> {
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.offset += chunk.len() as u64;
                    self.source.net.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    if self.sender.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return self.complete(),
                Err(error) => return Err(broken(&self.source.url, &error.without_url())),
            }
        }
    }

    fn complete(&self) -> Result<(), ImportError> {
        let end = self.last.map(|last| last + 1).or(self.source.len);
        if end.is_some_and(|end| self.offset < end) {
            let why = format!("it ended at byte {} of {}", self.offset, end.unwrap_or(0));
            return Err(ImportError::Transfer { url: self.source.shown(), why });
        }
        Ok(())
    }
}

/// The first byte of a `Content-Range: bytes 5-9/20`.
fn range_start(value: &str) -> Option<u64> {
    value.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A strong entity tag, or the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// Bytes of a source, in order. Blocks; not for async code.
pub(super) struct Stream {
    receiver: mpsc::Receiver<Result<Bytes, ImportError>>,
    rest: Bytes,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(0),
            }
        }
        let len = self.rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(len)
    }
}
