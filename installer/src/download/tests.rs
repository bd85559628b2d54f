//! A server on the loopback that breaks off, and what comes of it.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

const LIMIT: u64 = 1 << 20;

/// Answers GET for one file; each connection ends after `piece` bytes of it.
struct Server {
    url: String,
    /// The Range of each request.
    asked: Arc<Mutex<Vec<Option<u64>>>>,
}

fn serve(content: Vec<u8>, piece: usize, tag: Option<&'static str>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://127.0.0.1:{}/medium.iso?key=secret", listener.local_addr().expect("bound").port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let from = request(&client);
            log.lock().expect("no panic").push(from);
            answer(client, &content, from.unwrap_or(0) as usize, (piece, tag));
        }
    });
    Server { url, asked }
}

fn request(client: &TcpStream) -> Option<u64> {
    let mut from = None;
    for line in BufReader::new(client).lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
    }
    from
}

fn answer(mut client: TcpStream, content: &[u8], from: usize, (piece, tag): (usize, Option<&str>)) {
    let rest = content.get(from..).unwrap_or_default();
    let tag = tag.map(|tag| format!("etag: \"{tag}\"\r\n")).unwrap_or_default();
    let head = if from == 0 {
        "HTTP/1.1 200 OK\r\n".to_owned()
    } else {
        let (last, all) = (content.len() - 1, content.len());
        format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{last}/{all}\r\n")
    };
    let head = format!("{head}{tag}content-length: {}\r\nconnection: close\r\n\r\n", rest.len());
    let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&rest[..rest.len().min(piece)]));
}

fn content() -> Vec<u8> {
    (0..50_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn source(server: &Server, digest: &str) -> Source {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Source::new(&server.url, (None, Some(digest)), Some(&Proxies::default())).expect("a source")
}

#[tokio::test]
async fn a_broken_connection_is_taken_up_where_it_was() {
    let server = serve(content(), 120_000, Some("v1"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = source(&server, &sha256(&content())).file(dir.path(), LIMIT, &|_| {}).await.expect("fetched");
    assert!(std::fs::read(path).expect("there") == content());
    assert_eq!(*server.asked.lock().expect("no panic"), [None, Some(120_000)]);
}

#[tokio::test]
async fn another_run_goes_on_where_the_first_was_killed() {
    let server = serve(content(), usize::MAX, Some("v1"));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("part"), &content()[..70_000]).expect("written");
    let begun = Begun { url: server.url.clone(), validator: "\"v1\"".into() };
    std::fs::write(dir.path().join("part.json"), serde_json::to_vec(&begun).expect("JSON")).expect("written");
    let path = source(&server, &sha256(&content())).file(dir.path(), LIMIT, &|_| {}).await.expect("fetched");
    assert!(std::fs::read(path).expect("there") == content());
    assert_eq!(*server.asked.lock().expect("no panic"), [Some(70_000)]);
}

#[tokio::test]
async fn a_file_that_has_no_version_is_begun_anew() {
    let server = serve(content(), 150_000, None);
    let dir = tempfile::tempdir().expect("a directory");
    let source = source(&server, &sha256(&content()));
    let first = source.append(&dir.path().join("part"), LIMIT, &|_| {}).await;
    assert!(matches!(first, Err(DownloadError::Transfer { .. })), "{first:?}");
    let _ = source.append(&dir.path().join("part"), LIMIT, &|_| {}).await;
    assert_eq!(*server.asked.lock().expect("no panic"), [None, None]);
}

#[tokio::test]
async fn what_is_not_as_expected_is_refused_and_not_kept() {
    let server = serve(content(), usize::MAX, Some("v1"));
    let dir = tempfile::tempdir().expect("a directory");
    let error =
        source(&server, &"0".repeat(64)).file(dir.path(), LIMIT, &|_| {}).await.expect_err("refused").to_string();
    assert!(error.contains("has the SHA-256") && !error.contains("secret"), "{error}");
    assert!(!dir.path().join("part").exists() && !dir.path().join("medium").exists());
    let error = source(&server, &sha256(&content())).file(dir.path(), 1000, &|_| {}).await.expect_err("refused");
    assert!(matches!(error, DownloadError::TooLarge { bytes: 200_000, limit: 1000, .. }), "{error}");
    let error = source(&server, &"0".repeat(64)).text(LIMIT).await.expect_err("refused");
    assert!(matches!(error, DownloadError::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn a_document_comes_whole() {
    let server = serve(b"kind: Node\n".to_vec(), usize::MAX, None);
    assert_eq!(source(&server, &sha256(b"kind: Node\n")).text(100).await.expect("fetched"), "kind: Node\n");
}

#[tokio::test]
async fn servers_outside_are_reached_through_the_proxy_and_the_others_directly() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // A proxy is asked for a whole URL, and answers itself.
    let (proxy, server) = (serve(b"proxy".to_vec(), usize::MAX, None), serve(b"server".to_vec(), usize::MAX, None));
    let origin = |server: &Server| server.url.trim_end_matches("/medium.iso?key=secret").to_owned();
    let direct = "localhost,127.0.0.0/8,.svc".to_owned();
    let proxies = Proxies { http: Some(origin(&proxy)), https: Some(origin(&proxy)), direct };
    for (url, expected) in [("http://images.invalid/a".to_owned(), "proxy"), (server.url.clone(), "server")] {
        let digest = sha256(expected.as_bytes());
        let source = Source::new(&url, (None, Some(&digest)), Some(&proxies)).expect("a source");
        assert_eq!(source.text(LIMIT).await.expect("fetched"), expected, "{url}");
    }
    assert_eq!((proxy.asked.lock().expect("no panic").len(), server.asked.lock().expect("no panic").len()), (1, 1));
}

#[test]
fn what_could_be_changed_on_its_way_needs_a_digest() {
    let check = |url: &str, digest: Option<&str>, expected: &str| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let result = Source::new(url, (None, digest), None).map(|s| s.shown());
        let text = result.unwrap_or_else(|error| error.to_string());
        assert!(text.contains(expected), "`{text}` does not contain `{expected}`");
    };
    let digest = "Ab".repeat(32);
    check("https://user:word@server/a?key=1", None, "https://server/a");
    check("http://server/a", Some(&digest), "http://server/a");
    check("http://server/a", None, "expected https, or a SHA-256 digest beside http");
    check("ftp://server/a", Some(&digest), "expected a URL such as https://server/path");
    check("server/a", None, "`server/a` is not allowed");
    check("https://server/a", Some("abc"), "`abc` is no SHA-256 digest");
}
