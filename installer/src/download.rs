//! Everything that the installer gets or sends over HTTP: a document, a large file that goes on where it was cut off, an
//! event. HTTPS is checked against the given CA alone, or else the system's; plain HTTP is taken only where a digest says
//! what must come. Bounds: 10 redirects, 15 s to connect, 30 s without a byte, 8 attempts in a row without progress, a size,
//! and a whole time. Goes through the proxies that it is given, otherwise through those of the environment's standard
//! variables. Refuses to show the user name, password or query of a URL.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use furrow_model::proxy::{self, Proxies};
use furrow_model::reasons::chain;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::device::{Progress, hex};
use crate::files::replace;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// Attempts in a row that brought no byte.
const MAX_ATTEMPTS: u32 = 8;
/// After the first attempt; doubled after each further one, up to half a minute.
const PAUSE: Duration = Duration::from_millis(500);
/// A document, attempts and pauses included.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// A medium of 600 MB over a line of 1 Mbit/s takes 80 minutes.
const FILE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// What stays free beside a file that is fetched: etcd and logs go on writing.
const ROOM_BYTES: u64 = 256 << 20;

/// Why something was not fetched. URLs are shown without secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("`{url}` is not allowed: expected {expected}")]
    Url { url: String, expected: &'static str },
    #[error("`{0}` is no SHA-256 digest: expected 64 hexadecimal digits")]
    Digest(String),
    #[error("the CA cannot be read: expected certificates in PEM ({0})")]
    Ca(String),
    #[error("no client for HTTP: {0}")]
    Setup(String),
    #[error("{url} cannot be fetched: {why}")]
    Transfer { url: String, why: String },
    #[error("{url} cannot be fetched: the server answers {status}")]
    Status { url: String, status: String, passing: bool },
    #[error("{url} has {bytes} bytes, at most {limit} are taken")]
    TooLarge { url: String, bytes: u64, limit: u64 },
    #[error("{url}: the server does not say how large it is")]
    NoLength { url: String },
    #[error("{url} needs {needed} bytes in {place}, where {free} are free")]
    NoRoom { url: String, place: String, needed: u64, free: u64 },
    #[error("{url} has the SHA-256 {found}, expected {expected}")]
    Mismatch { url: String, found: String, expected: String },
    #[error("{url} was not fetched within {seconds} s")]
    Late { url: String, seconds: u64 },
    #[error("{path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl DownloadError {
    /// Whether another attempt may go better.
    fn passes(&self) -> bool {
        matches!(self, DownloadError::Transfer { .. } | DownloadError::Status { passing: true, .. })
    }
}

/// Where something is fetched from, and what it is checked by.
#[derive(Debug)]
pub(crate) struct Source {
    client: Client,
    url: Url,
    sha256: Option<String>,
}

/// What is kept beside a file that has not come whole: whether the next attempt may go on with it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Begun {
    url: String,
    validator: String,
}

impl Source {
    /// A source that nothing was asked of yet. `ca`: certificates in PEM, trusted instead of the system's. `proxies`: None
    /// leaves them to the environment.
    ///
    /// # Errors
    /// When URL, CA, digest or proxies are not what they must be.
    pub(crate) fn new(
        url: &str,
        (ca, sha256): (Option<&[u8]>, Option<&str>),
        proxies: Option<&Proxies>,
    ) -> Result<Source, DownloadError> {
        let parsed = checked(url, sha256.is_some())?;
        let digest = sha256.map(str::to_ascii_lowercase);
        if let Some(wrong) = digest.as_ref().filter(|d| d.len() != 64 || !d.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(DownloadError::Digest(wrong.clone()));
        }
        Ok(Source { client: client(ca, IDLE_TIMEOUT, proxies)?, url: parsed, sha256: digest })
    }

    /// The URL without what might be a secret in it.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Fetches a document of at most `limit` bytes. Safe to cancel: nothing is kept.
    ///
    /// # Errors
    /// When it does not come in time, is too large, is not UTF-8, or has another digest.
    pub(crate) async fn text(&self, limit: u64) -> Result<String, DownloadError> {
        let fetched = tokio::time::timeout(DOCUMENT_TIMEOUT, self.document(limit)).await;
        let bytes = fetched.unwrap_or_else(|_| Err(self.late(DOCUMENT_TIMEOUT)))?;
        self.check(&hex(&Sha256::digest(&bytes)))?;
        String::from_utf8(bytes).map_err(|_| self.broken("it is not UTF-8 text".to_owned()))
    }

    async fn document(&self, limit: u64) -> Result<Vec<u8>, DownloadError> {
        let mut attempt = 0;
        loop {
            match self.document_once(limit).await {
                Err(error) if error.passes() && attempt + 1 < MAX_ATTEMPTS => {
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn document_once(&self, limit: u64) -> Result<Vec<u8>, DownloadError> {
        let mut response = self.get(None).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(chain(&e.without_url())))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(DownloadError::TooLarge { url: self.shown(), bytes: bytes.len() as u64, limit });
            }
        }
        Ok(bytes)
    }

    /// Fetches a file of at most `limit` bytes into `dir`, or the rest of one whose fetching was cut off, and checks it. Says
    /// every second how far it is. Safe to cancel or kill: the next call goes on with what is there.
    ///
    /// # Errors
    /// When it does not come in time, is too large for the limit or the file system, or has another digest.
    pub(crate) async fn file(&self, dir: &Path, limit: u64, say: &dyn Fn(&str)) -> Result<PathBuf, DownloadError> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        let part = dir.join("part");
        let deadline = Instant::now() + FILE_TIMEOUT;
        let mut attempt = 0;
        loop {
            let before = length(&part);
            match tokio::time::timeout_at(deadline.into(), self.append(&part, limit, say)).await {
                Err(_) => return Err(self.late(FILE_TIMEOUT)),
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    attempt = if length(&part) > before { 0 } else { attempt + 1 };
                    if !error.passes() || attempt >= MAX_ATTEMPTS {
                        return Err(error);
                    }
                    say(&format!("  {error}; attempt {} follows", attempt + 1));
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
        }
        if let Err(error) = self.check(&digest_of(&part)?) {
            // Otherwise the next attempt would take it for whole.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        let whole = dir.join("medium");
        std::fs::rename(&part, &whole).map_err(at(&whole))?;
        Ok(whole)
    }

    /// One connection's worth.
    async fn append(&self, part: &Path, limit: u64, say: &dyn Fn(&str)) -> Result<(), DownloadError> {
        let mark = part.with_extension("json");
        let begun = std::fs::read(&mark).ok().and_then(|text| serde_json::from_slice::<Begun>(&text).ok());
        let begun = begun.filter(|begun| begun.url == self.url.as_str());
        let have = begun.as_ref().map_or(0, |_| length(part));
        let response = self.get(begun.as_ref().filter(|_| have > 0).map(|b| (have, b.validator.as_str()))).await;
        // A server says that there is nothing behind the end.
        if have > 0 && matches!(&response, Err(DownloadError::Status { status, .. }) if status.starts_with("416")) {
            let _ = std::fs::remove_file(&mark);
            return Err(self.broken("what was there is not a beginning of it".to_owned()));
        }
        let response = response?;
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT && range_start(response.headers()) == Some(have);
        let offset = if goes_on { have } else { 0 };
        let rest = response.content_length().ok_or_else(|| DownloadError::NoLength { url: self.shown() })?;
        let total = offset + rest;
        if total > limit {
            return Err(DownloadError::TooLarge { url: self.shown(), bytes: total, limit });
        }
        let mut target = File::options().write(true).create(true).truncate(false).open(part).map_err(at(part))?;
        target.set_len(offset).and_then(|()| target.seek(SeekFrom::Start(offset))).map_err(at(part))?;
        self.check_room(part, rest)?;
        let validator = validator(response.headers());
        match &validator {
            Some(validator) => {
                let begun = Begun { url: self.url.to_string(), validator: validator.clone() };
                let text = serde_json::to_vec(&begun).unwrap_or_default();
                replace(&mark, &text, 0o600).map_err(at(&mark))?;
            }
            // What cannot be told from its next version is not put together from two parts.
            None => drop(std::fs::remove_file(&mark)),
        }
        self.copy(response, (&mut target, part), (offset, total), say).await?;
        let _ = std::fs::remove_file(&mark);
        Ok(())
    }

    async fn copy(
        &self,
        mut response: Response,
        (target, path): (&mut File, &Path),
        (offset, total): (u64, u64),
        say: &dyn Fn(&str),
    ) -> Result<(), DownloadError> {
        let mut progress = Progress::from(offset, total, say);
        let mut have = offset;
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(chain(&e.without_url())))? {
            have += chunk.len() as u64;
            if have > total {
                return Err(self.broken(format!("more than {total} bytes came")));
            }
            target.write_all(&chunk).map_err(at(path))?;
            progress.add(chunk.len() as u64, "fetched");
        }
        target.sync_all().map_err(at(path))?;
        if have < total { Err(self.broken(format!("it ended at byte {have} of {total}"))) } else { Ok(()) }
    }

    async fn get(&self, range: Option<(u64, &str)>) -> Result<Response, DownloadError> {
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some((first, validator)) = range {
            request = request.header(RANGE, format!("bytes={first}-")).header(IF_RANGE, validator);
        }
        let response = request.send().await.map_err(|e| self.broken(chain(&e.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let passing = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
        Err(DownloadError::Status { url: self.shown(), status: status.to_string(), passing })
    }

    fn check(&self, found: &str) -> Result<(), DownloadError> {
        match &self.sha256 {
            Some(expected) if expected != found => {
                Err(DownloadError::Mismatch { url: self.shown(), found: found.to_owned(), expected: expected.clone() })
            }
            _ => Ok(()),
        }
    }

    fn check_room(&self, part: &Path, rest: u64) -> Result<(), DownloadError> {
        let place = part.parent().unwrap_or(Path::new("/"));
        let room = nix::sys::statvfs::statvfs(place).map_err(|e| at(place)(e.into()))?;
        let free = room.blocks_available() * room.fragment_size();
        let needed = rest + ROOM_BYTES;
        if free >= needed {
            return Ok(());
        }
        Err(DownloadError::NoRoom { url: self.shown(), place: place.display().to_string(), needed, free })
    }

    fn broken(&self, why: String) -> DownloadError {
        DownloadError::Transfer { url: self.shown(), why }
    }

    fn late(&self, timeout: Duration) -> DownloadError {
        DownloadError::Late { url: self.shown(), seconds: timeout.as_secs() }
    }
}

/// The proxies of node.yaml on a running node; None where it names none, and on the medium.
pub(crate) fn node_proxies() -> Option<Proxies> {
    let text = std::fs::read_to_string(proxy::FILE).ok()?;
    Some(Proxies::parse(&text)).filter(|proxies| !proxies.is_none())
}

/// A client with our bounds. `ca`: certificates in PEM, trusted instead of the system's. `proxies`: None leaves them to the
/// environment.
///
/// # Errors
/// When the CA or the proxies cannot be read.
pub(crate) fn client(ca: Option<&[u8]>, idle: Duration, proxies: Option<&Proxies>) -> Result<Client, DownloadError> {
    let mut builder = Client::builder()
        .user_agent(concat!("furrow-install/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT.min(idle))
        .read_timeout(idle)
        .redirect(reqwest::redirect::Policy::custom(|attempt| {
            // Whoever was asked by HTTPS must not hand the answer to a connection that anyone may change.
            let weaker = attempt.url().scheme() == "http" && attempt.previous().iter().any(|u| u.scheme() == "https");
            match attempt.previous().len() {
                _ if weaker => attempt.error("a redirect from https to http"),
                n if n >= MAX_REDIRECTS => attempt.error("too many redirects"),
                _ => attempt.follow(),
            }
        }));
    if let Some(Proxies { http, https, direct }) = proxies {
        builder = furrow_host::http::through(builder, (http.as_deref(), https.as_deref()), direct)
            .map_err(|e| DownloadError::Setup(format!("proxy: {}", chain(&e))))?;
    }
    if let Some(pem) = ca {
        let found = Certificate::from_pem_bundle(pem).map_err(|e| DownloadError::Ca(chain(&e)))?;
        if found.is_empty() {
            return Err(DownloadError::Ca("there is none".to_owned()));
        }
        builder = builder.tls_certs_only(found);
    }
    builder.build().map_err(|e| DownloadError::Setup(chain(&e)))
}

fn checked(url: &str, has_digest: bool) -> Result<Url, DownloadError> {
    let refused = |url: String, expected| Err(DownloadError::Url { url, expected });
    let Ok(parsed) = Url::parse(url) else {
        return refused(url.to_owned(), "a URL such as https://server/path");
    };
    match parsed.scheme() {
        "https" => Ok(parsed),
        "http" if has_digest => Ok(parsed),
        "http" => refused(shown(&parsed), "https, or a SHA-256 digest beside http"),
        _ => refused(shown(&parsed), "a URL such as https://server/path"),
    }
}

/// A URL without what might be a secret in it.
pub(crate) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.to_string()
}

fn pause(attempt: u32) -> Duration {
    PAUSE * (1 << attempt.min(6))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> DownloadError {
    let path = path.display().to_string();
    move |source| DownloadError::File { path, source }
}

fn digest_of(path: &Path) -> Result<String, DownloadError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut digest = Sha256::new();
    std::io::copy(&mut file, &mut digest).map_err(at(path))?;
    Ok(hex(&digest.finalize()))
}

/// The first byte of a `Content-Range: bytes 5-9/20`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A strong entity tag, or the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

#[cfg(test)]
mod tests;
