//! A body of an HTTP answer: bytes in memory or a part of a file, whole or a range of it, with its progress told. Refuses
//! several ranges at once, which no boot firmware asks for.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// What is read of a file at once.
const CHUNK_BYTES: u64 = 256 << 10;
/// How often a long download tells how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Bytes),
    /// So many bytes from the beginning of a file or device.
    File(PathBuf, u64),
}

/// What is called when all has been sent.
pub(super) type OnSent = Box<dyn FnOnce() + Send>;

/// Who is told about a download.
pub(super) struct Watch {
    /// What is sent to whom, such as `52:54:00:00:00:01: medium`.
    pub(super) what: String,
    pub(super) say: super::Say,
    pub(super) on_sent: Option<OnSent>,
}

impl Content {
    fn bytes(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, bytes) => *bytes,
        }
    }

    /// The answer to a request for it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) async fn answer(self, method: &Method, headers: &HeaderMap, watch: Watch) -> io::Result<Response> {
        let total = self.bytes();
        let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let mut response = Response::new(Body::empty());
        let range = match asked.map(|text| range(text, total)) {
            None => 0..total,
            Some(Some(range)) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                set(&mut response, header::CONTENT_RANGE, &format!("bytes {}-{}/{total}", range.start, range.end - 1));
                range
            }
            Some(None) => {
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                set(&mut response, header::CONTENT_RANGE, &format!("bytes */{total}"));
                return Ok(response);
            }
        };
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
        set(&mut response, header::CONTENT_LENGTH, &(range.end - range.start).to_string());
        if *method != Method::HEAD {
            *response.body_mut() = self.body(range, watch).await?;
        }
        Ok(response)
    }

    async fn body(self, range: Range<u64>, watch: Watch) -> io::Result<Body> {
        let source = match self {
            Content::Memory(bytes) => Reader::Memory(bytes.slice(range.start as usize..range.end as usize)),
            Content::File(path, _) => Reader::File(opened(&path, range.start).await?, range.end - range.start),
        };
        let sending = Sending {
            source,
            watch,
            total: range.end - range.start,
            sent: 0,
            begun: Instant::now(),
            said: Instant::now(),
        };
        Ok(Body::from_stream(futures::stream::unfold(sending, Sending::next)))
    }
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

async fn opened(path: &Path, start: u64) -> io::Result<tokio::fs::File> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(start)).await?;
    Ok(file)
}

/// The range that a header asks for (RFC 9110, 14.1.2); None when there is no such part.
fn range(text: &str, total: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => total.saturating_sub(suffix.parse().ok()?)..total,
        (first, "") => first.parse().ok()?..total,
        (first, last) => first.parse().ok()?..total.min(last.parse::<u64>().ok()?.checked_add(1)?),
    };
    (range.start < range.end).then_some(range)
}

enum Reader {
    Memory(Bytes),
    File(tokio::fs::File, u64),
}

impl Reader {
    /// The next bytes, none at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Reader::Memory(bytes) => Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES as usize))),
            Reader::File(file, left) => {
                let mut chunk = vec![0; (*left).min(CHUNK_BYTES) as usize];
                file.read_exact(&mut chunk).await?;
                *left -= chunk.len() as u64;
                Ok(chunk.into())
            }
        }
    }
}

/// A download that goes on. The connection drops it when it has taken all bytes, without asking for more, or when the
/// client has broken off.
struct Sending {
    source: Reader,
    watch: Watch,
    total: u64,
    sent: u64,
    begun: Instant,
    said: Instant,
}

impl Sending {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Sending)> {
        if self.sent == self.total {
            return None;
        }
        let chunk = match self.source.next().await {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error), self)),
        };
        self.sent += chunk.len() as u64;
        if self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            (self.watch.say)(&format!("{}, {} of {} MiB", self.watch.what, mib(self.sent), mib(self.total)));
        }
        Some((Ok(chunk), self))
    }

    fn end(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let speed = if self.total > 1 << 20 {
            format!(
                ", {} MiB in {seconds:.1} s, {:.0} MiB/s",
                mib(self.total),
                self.total as f64 / 1_048_576.0 / seconds
            )
        } else {
            String::new()
        };
        (self.watch.say)(&format!("{} sent{speed}", self.watch.what));
        if let Some(on_sent) = self.watch.on_sent.take() {
            on_sent();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.sent < self.total {
            let (what, sent, total) = (&self.watch.what, self.sent, self.total);
            (self.watch.say)(&format!("{what} broken off after {sent} of {total} bytes"));
        } else {
            self.end();
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn one_range_is_understood() {
        for (text, expected) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=90-", Some(90..100)),
            ("bytes=90-500", Some(90..100)),
            ("bytes=-10", Some(90..100)),
            ("bytes=-500", Some(0..100)),
            ("bytes=100-", None),
            ("bytes=9-3", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(range(text, 100), expected, "{text}");
        }
    }

    async fn get(content: Content, asked: Option<&str>) -> (StatusCode, Vec<u8>, Vec<String>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (log, sent) = (said.clone(), said.clone());
        let watch = Watch {
            what: "it".into(),
            say: Arc::new(move |line: &str| log.lock().expect("said").push(line.to_owned())),
            on_sent: Some(Box::new(move || sent.lock().expect("said").push("done".into()))),
        };
        let mut headers = HeaderMap::new();
        if let Some(asked) = asked {
            headers.insert(header::RANGE, asked.parse().expect("a header"));
        }
        let response = content.answer(&Method::GET, &headers, watch).await.expect("an answer");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body").to_vec();
        let said = said.lock().expect("said").clone();
        (status, body, said)
    }

    #[tokio::test]
    async fn memory_and_files_are_sent_whole_or_in_part() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, b"0123456789rest").expect("written");
        for content in [Content::Memory(Bytes::from_static(b"0123456789")), Content::File(path, 10)] {
            let (status, body, said) = get(content.clone(), None).await;
            assert_eq!((status, body.as_slice()), (StatusCode::OK, b"0123456789".as_slice()));
            assert_eq!(said, ["it sent", "done"]);
            let (status, body, _) = get(content.clone(), Some("bytes=3-5")).await;
            assert_eq!((status, body.as_slice()), (StatusCode::PARTIAL_CONTENT, b"345".as_slice()));
            assert_eq!(get(content, Some("bytes=10-")).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
        }
    }

    #[tokio::test]
    async fn what_breaks_off_is_not_taken_for_sent() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = said.clone();
        let say: crate::pxe::Say = Arc::new(move |line: &str| log.lock().expect("said").push(line.to_owned()));
        let on_sent: OnSent = Box::new(|| panic!("it was not sent"));
        let watch = Watch { what: "it".into(), say, on_sent: Some(on_sent) };
        let content = Content::Memory(Bytes::from(vec![0; 1 << 20]));
        let response = content.answer(&Method::GET, &HeaderMap::new(), watch).await.expect("an answer");
        drop(response);
        assert_eq!(*said.lock().expect("said"), ["it broken off after 0 of 1048576 bytes"]);
    }
}
