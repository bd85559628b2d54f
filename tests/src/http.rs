//! One HTTP/1.1 request over one connection, as plain as a client can be: what the contract is checked with, so that no
//! library's own ideas come between. Refuses TLS, redirects and connections that are used twice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Most that an answer may have, bytes: an OpenAPI document of all kinds has several megabytes.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// A request. The body is sent as JSON unless a header says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// With its query.
    pub(crate) path: &'a str,
    /// More headers.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// What was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of this name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} answered no JSON: {}", self.code, self.brief()))
    }

    /// The beginning of the body, for messages.
    pub(crate) fn brief(&self) -> String {
        self.text().chars().take(400).collect()
    }
}

/// Sends a request and reads the answer.
pub(crate) fn call(address: SocketAddr, request: &Request<'_>, limit: Duration) -> Result<Answer> {
    let deadline = Instant::now() + limit;
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("could not connect to {address}"))?;
    stream.set_write_timeout(Some(limit))?;
    let json = [("Content-Type", "application/json")];
    let own = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let mut headers: Vec<(&str, &str)> = request.headers.to_vec();
    headers.extend(json.iter().filter(|_| !own && !request.body.is_empty()));
    headers.push(("Connection", "close"));
    let length = request.body.len().to_string();
    headers.push(("Content-Length", &length));
    // Whoever refuses a body may do so before it was read, and what was refused tells more than a broken connection.
    let sent = stream
        .write_all(head(request.method, request.path, address, &headers).as_bytes())
        .and_then(|()| stream.write_all(request.body));
    let read = read_to_end(&mut stream, deadline);
    let what = || format!("{} {}", request.method, request.path);
    let bytes = read.with_context(|| match &sent {
        Ok(()) => what(),
        Err(error) => format!("{}, which could not be sent whole ({error})", what()),
    })?;
    parse(&bytes).with_context(what)
}

/// The lines before the body.
pub(crate) fn head(method: &str, path: &str, address: SocketAddr, headers: &[(&str, &str)]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n")
}

/// Reads what is left until the other side closes.
pub(crate) fn read_to_end(stream: &mut TcpStream, deadline: Instant) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no whole answer in time, but {} bytes", bytes.len());
        ensure!(bytes.len() <= ANSWER_MAX_BYTES, "the answer has no end");
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It may close before it has read all that it refuses.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && !bytes.is_empty() => return Ok(bytes),
            Err(error) => return Err(error).with_context(|| format!("after {} bytes of the answer", bytes.len())),
        }
    }
}

/// Reads a whole answer.
pub(crate) fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = find(bytes, b"\r\n\r\n").with_context(|| format!("no answer in {} bytes", bytes.len()))?;
    let mut answer = parse_head(&bytes[..end])?;
    let body = &bytes[end + 4..];
    let chunked = answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    answer.body = if chunked { unchunk(body)? } else { body.to_vec() };
    Ok(answer)
}

/// Reads the lines before the body, without the empty one.
pub(crate) fn parse_head(head: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let code = first.split(' ').nth(1).filter(|_| first.starts_with("HTTP/1.")).and_then(|code| code.parse().ok());
    let code = code.with_context(|| format!("no HTTP answer: {first:?}"))?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Answer { code, headers, body: Vec::new() })
}

/// Where the pattern begins.
pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = find(bytes, b"\r\n").context("a chunk without a length")?;
        let length = String::from_utf8_lossy(&bytes[..end]);
        let length = length.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).with_context(|| format!("a chunk of length {length:?}"))?;
        bytes = &bytes[end + 2..];
        if length == 0 {
            return Ok(whole);
        }
        let Some(chunk) = bytes.get(..length) else { bail!("a chunk of {length} bytes with {}", bytes.len()) };
        whole.extend_from_slice(chunk);
        bytes = bytes.get(length + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_in_chunks() {
        let plain = parse(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"code\":404}").unwrap();
        assert_eq!((plain.code, plain.header("content-type")), (404, Some("application/json")));
        assert_eq!(plain.json().unwrap()["code"], 404);
        let chunked =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n");
        assert_eq!(chunked.unwrap().text(), "Wikipedia");
        let empty = parse(b"HTTP/1.1 202 Accepted\r\n\r\n").unwrap();
        assert_eq!((empty.code, empty.body.len()), (202, 0));
    }

    #[test]
    fn what_is_no_answer_is_said_so() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let short = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nfew\r\n";
        assert!(parse(short).is_err());
    }
}
