//! A file server on the test LAN: what a company's image server is to a cluster.
//!
//! GET and HEAD, one `Range`, `ETag`, keep-alive. Serves plain files of one directory; `/slow/NAME` serves the
//! same file at 32 MiB/s at most, `/norange/NAME` ignores ranges; below `/v2` it is a registry, if a registry's files are
//! there. Asked as a proxy is, for a whole URL, it answers with the file of that name, whatever the URL's host. Not a
//! general web server.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns;

/// Serves `directory` on `listen` inside namespace `netns`. Never returns but on error.
pub(crate) fn serve(listen: SocketAddr, netns: &str, directory: &Path) -> Result<()> {
    netns::enter(netns)?;
    let listener = TcpListener::bind(listen).with_context(|| format!("could not listen on {listen}"))?;
    accept(&listener, directory)
}

/// Serves `directory` on a socket. Never returns but on error.
pub(crate) fn accept(listener: &TcpListener, directory: &Path) -> Result<()> {
    for client in listener.incoming() {
        let client = client?;
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            let _ = connection(client, &directory);
        });
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    range: Option<(u64, Option<u64>)>,
}

fn connection(client: TcpStream, directory: &Path) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut writer = client;
    while let Some(request) = read_request(&mut reader)? {
        println!("{} {} {:?}", request.method, request.path, request.range);
        answer(&request, directory, &mut writer)?;
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("/").to_owned());
    let mut range = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let header = header.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("range: bytes=") {
            range = value.trim().split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok())));
        }
    }
    Ok(Some(Request { method, path, range }))
}

fn answer(request: &Request, directory: &Path, out: &mut impl Write) -> Result<()> {
    let mut slow = false;
    let mut ranges = true;
    let of_proxy = request.path.strip_prefix("http://").and_then(|url| url.split_once('/'));
    let mut name = of_proxy.map_or(request.path.trim_start_matches('/'), |(_, path)| path);
    if let Some(rest) = name.strip_prefix("slow/") {
        (name, slow) = (rest, true);
    } else if let Some(rest) = name.strip_prefix("norange/") {
        (name, ranges) = (rest, false);
    }
    let file: Option<PathBuf> = (!name.contains("..")).then(|| directory.join(name)).filter(|p| p.is_file());
    let Some(path) = file else {
        out.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\nnot found\n")?;
        return Ok(());
    };
    let mut file = File::open(&path)?;
    let size = file.metadata()?.len();
    let wanted = request.range.filter(|_| ranges);
    let (from, to) = match wanted {
        Some((from, _)) if from >= size => {
            write!(
                out,
                "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{size}\r\ncontent-length: 0\r\n\r\n"
            )?;
            return Ok(());
        }
        Some((from, to)) => (from, to.map_or(size, |to| (to + 1).min(size))),
        None => (0, size),
    };
    let status = if wanted.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(out, "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"{name}-{size}\"\r\n", to - from)?;
    if name.starts_with("v2/") && name.contains("/manifests/") {
        write!(out, "content-type: application/vnd.oci.image.manifest.v1+json\r\n")?;
    }
    if ranges {
        write!(out, "accept-ranges: bytes\r\n")?;
    }
    if wanted.is_some() {
        write!(out, "content-range: bytes {from}-{}/{size}\r\n", to - 1)?;
    }
    write!(out, "\r\n")?;
    if request.method != "HEAD" {
        file.seek(SeekFrom::Start(from))?;
        send_body(file.take(to - from), slow, out)?;
    }
    Ok(())
}

fn send_body(mut body: impl Read, slow: bool, out: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0_u8; 256 * 1024];
    loop {
        let n = body.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..n])?;
        if slow {
            std::thread::sleep(Duration::from_millis(8));
        }
    }
}
