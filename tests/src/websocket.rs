//! A client of WebSockets (RFC 6455) over a plain connection: what consoles, displays and ports of guests are checked with.
//! It may misbehave, which no library does: send raw bytes, texts, frames in pieces, or never read. Refuses extensions, and
//! secrets: its mask and its key are constants.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::http::{self, Answer};

/// KubeVirt's subprotocol.
pub(crate) const PLAIN: &str = "plain.kubevirt.io";

/// The RFC's own example, so that its answer is known without SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A handshake is answered within this, on two busy cores.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Kinds of frames.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The last frame of its message.
const LAST: u8 = 0x80;

/// Largest frame that a server may send, bytes: it is told in the frame's head, and memory is taken for it.
const FRAME_MAX_BYTES: usize = 16 << 20;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// A binary message, or a piece of one.
    Bytes(Vec<u8>),
    /// The answer to a ping.
    Pong(Vec<u8>),
    /// The other side ended it, with the code of its close frame if there was one.
    Closed(Option<u16>),
    /// Nothing in time.
    Silence,
}

/// A WebSocket, or why there is none.
pub(crate) enum Opened {
    /// It is open.
    Stream(WebSocket),
    /// The server's answer instead.
    Refused(Answer),
}

impl Opened {
    /// The stream; a refusal is an error.
    pub(crate) fn stream(self) -> Result<WebSocket> {
        match self {
            Opened::Stream(stream) => Ok(stream),
            Opened::Refused(answer) => bail!("it was refused with {}: {}", answer.code, answer.brief()),
        }
    }

    /// The refusal; a stream is an error.
    pub(crate) fn refusal(self) -> Result<Answer> {
        match self {
            Opened::Stream(_) => bail!("it was opened, but it should have been refused"),
            Opened::Refused(answer) => Ok(answer),
        }
    }
}

/// An open WebSocket.
pub(crate) struct WebSocket {
    stream: TcpStream,
    /// Bytes that are no whole frame yet.
    pending: Vec<u8>,
    /// The subprotocol that the server chose.
    protocol: Option<String>,
}

/// Opens a WebSocket, offering a subprotocol or none.
pub(crate) fn open(address: SocketAddr, path: &str, protocol: Option<&str>) -> Result<Opened> {
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    let mut headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
        // A browser's page from elsewhere: nobody is refused for it, since nobody is let in by a cookie.
        ("Origin", "https://elsewhere.example"),
    ];
    headers.extend(protocol.map(|protocol| ("Sec-WebSocket-Protocol", protocol)));
    stream.write_all(http::head("GET", path, address, &headers).as_bytes())?;
    let deadline = Instant::now() + HANDSHAKE;
    let (mut answer, rest) = read_head(&mut stream, deadline).with_context(|| format!("the handshake of {path}"))?;
    if answer.code != 101 {
        answer.body = body_of(&answer, rest, &mut stream, deadline)?;
        return Ok(Opened::Refused(answer));
    }
    let accept = answer.header("sec-websocket-accept");
    ensure!(accept == Some(ACCEPT), "the handshake was answered with the key {accept:?}");
    let protocol = answer.header("sec-websocket-protocol").map(str::to_owned);
    Ok(Opened::Stream(WebSocket { stream, pending: rest, protocol }))
}

fn read_head(stream: &mut TcpStream, deadline: Instant) -> Result<(Answer, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = http::find(&bytes, b"\r\n\r\n") {
            return Ok((http::parse_head(&bytes[..end])?, bytes[end + 4..].to_vec()));
        }
        ensure!(bytes.len() < 64 << 10, "the head has no end");
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer in time");
        stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).context("no answer")?;
        ensure!(read > 0, "closed without an answer");
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// The body of a refusal: by its length, in chunks, or until the end.
fn body_of(answer: &Answer, mut rest: Vec<u8>, stream: &mut TcpStream, deadline: Instant) -> Result<Vec<u8>> {
    let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let chunked = answer.header("transfer-encoding").is_some();
    let whole = |rest: &[u8]| match length {
        Some(length) => rest.len() >= length,
        None => chunked && rest.ends_with(b"0\r\n\r\n"),
    };
    let mut buffer = [0; 4096];
    while !whole(&rest) {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "the refusal has no end");
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => rest.extend_from_slice(&buffer[..read]),
        }
    }
    let coding = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
    let text = [format!("HTTP/1.1 {} -\r\n{coding}\r\n", answer.code).into_bytes(), rest].concat();
    Ok(http::parse(&text)?.body)
}

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        medium @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first frame of a server's bytes, as its kind, its payload and its whole length; `None` when it is not all there.
fn unframe(bytes: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    ensure!(first & 0x70 == 0, "a frame with bits that mean nothing: {first:#04x}");
    ensure!(second & 0x80 == 0, "a server's frame is masked");
    let (length, head) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        short => (usize::from(short), 2),
    };
    ensure!(length <= FRAME_MAX_BYTES, "a frame of {length} bytes");
    let payload = bytes.get(head..head + length);
    Ok(payload.map(|payload| (first & 0x0f, payload.to_vec(), head + length)))
}

impl WebSocket {
    /// The subprotocol that the server chose.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends a binary message.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_raw(&masked(LAST | BINARY, bytes))
    }

    /// Sends a text message, which KubeVirt's streams ignore.
    pub(crate) fn send_text(&mut self, text: &str) -> Result<()> {
        self.send_raw(&masked(LAST | TEXT, text.as_bytes()))
    }

    /// Sends a binary message in pieces, a ping between each two.
    pub(crate) fn send_in_pieces(&mut self, pieces: &[&[u8]]) -> Result<()> {
        for (index, piece) in pieces.iter().enumerate() {
            let kind = if index == 0 { BINARY } else { CONTINUATION };
            let last = if index + 1 == pieces.len() { LAST } else { 0 };
            self.send_raw(&masked(last | kind, piece))?;
            if last == 0 {
                self.send_raw(&masked(LAST | PING, b"between"))?;
            }
        }
        Ok(())
    }

    /// The same connection once more, to send by while another thread receives.
    pub(crate) fn sender(&self) -> Result<WebSocket> {
        Ok(WebSocket { stream: self.stream.try_clone()?, pending: Vec::new(), protocol: self.protocol.clone() })
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.send_raw(&masked(LAST | CLOSE, &1000_u16.to_be_bytes()))
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("could not send")
    }

    /// Waits for what comes next, and answers pings on the way.
    pub(crate) fn receive(&mut self, limit: Duration) -> Result<Received> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 64 << 10];
        loop {
            while let Some((kind, payload, used)) = unframe(&self.pending)? {
                self.pending.drain(..used);
                match kind {
                    BINARY | CONTINUATION => return Ok(Received::Bytes(payload)),
                    // Whoever has gone does not hear it.
                    PING => drop(self.send_raw(&masked(LAST | PONG, &payload))),
                    PONG => return Ok(Received::Pong(payload)),
                    CLOSE => return Ok(Received::Closed(payload.first_chunk::<2>().map(|c| u16::from_be_bytes(*c)))),
                    TEXT => bail!("a text came: {}", String::from_utf8_lossy(&payload)),
                    other => bail!("a frame of kind {other} came"),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Received::Silence);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Received::Closed(None)),
                Ok(read) => self.pending.extend_from_slice(&buffer[..read]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(Received::Silence),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Ok(Received::Closed(None)),
                    _ => return Err(error).context("could not read"),
                },
            }
        }
    }

    /// Reads until what has come contains a text, and returns all of it.
    pub(crate) fn read_until(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut seen: Vec<u8> = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // It may have begun in what came before.
            let from = seen.len().saturating_sub(text.len());
            match self.receive(left)? {
                Received::Bytes(bytes) => seen.extend_from_slice(&bytes),
                Received::Pong(_) => {}
                other => {
                    let seen = String::from_utf8_lossy(&seen);
                    let tail = crate::host::tail(&seen, 400);
                    bail!("`{text}` did not come within {} s ({other:?}), but: {tail}", limit.as_secs())
                }
            }
            if http::find(&seen[from..], text.as_bytes()).is_some() {
                return Ok(String::from_utf8_lossy(&seen).into_owned());
            }
        }
    }

    /// Waits until the other side has ended it, whatever comes before.
    pub(crate) fn wait_closed(&mut self, limit: Duration) -> Result<Option<u16>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Received::Closed(code) => return Ok(code),
                Received::Silence => bail!("it is still open after {} s", limit.as_secs()),
                Received::Bytes(_) | Received::Pong(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Two ends of a connection on the loopback, the second a WebSocket.
    fn pair() -> (TcpStream, WebSocket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (server, WebSocket { stream, pending: Vec::new(), protocol: None })
    }

    fn unmasked(frame: &[u8], head: usize) -> Vec<u8> {
        frame[head..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    #[test]
    fn frames_are_the_rfcs() {
        // "Hello" with this mask is an example of RFC 6455, section 5.7.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(masked(LAST | TEXT, b"Hello"), hello);
        let medium = masked(LAST | BINARY, &[7; 256]);
        assert_eq!(medium[..4], [0x82, 0xfe, 1, 0]);
        assert_eq!(unmasked(&medium, 8), [7; 256]);
        let long = masked(LAST | BINARY, &[7; 65_536]);
        assert_eq!(long[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_servers_frame_is_read_when_it_is_whole() {
        let hello = [0x82, 0x05, b'H', b'e', b'l', b'l', b'o', 0x89];
        for cut in 0..7 {
            assert_eq!(unframe(&hello[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(unframe(&hello).unwrap(), Some((BINARY, b"Hello".to_vec(), 7)));
        let medium = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        assert_eq!(unframe(&medium).unwrap(), Some((BINARY, vec![7; 256], 260)));
        assert!(unframe(&[0xc2, 0]).is_err() && unframe(&[0x82, 0x80]).is_err());
        assert!(unframe(&[0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn pings_are_answered_and_the_end_is_seen() {
        let (mut server, mut client) = pair();
        server.write_all(&[0x89, 2, b'h', b'i', 0x82, 1, b'x', 0x88, 2, 3, 0xe8]).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(client.receive(second).unwrap(), Received::Bytes(b"x".to_vec()));
        let mut pong = [0; 8];
        server.read_exact(&mut pong).unwrap();
        assert_eq!((pong[0], unmasked(&pong, 6)), (LAST | PONG, b"hi".to_vec()));
        assert_eq!(client.wait_closed(second).unwrap(), Some(1000));
        assert_eq!(client.receive(Duration::from_millis(10)).unwrap(), Received::Silence);
        drop(server);
        assert_eq!(client.receive(second).unwrap(), Received::Closed(None));
    }

    #[test]
    fn a_message_goes_out_in_pieces_with_pings_between() {
        let (mut server, mut client) = pair();
        client.send_in_pieces(&[b"ab", b"c"]).unwrap();
        let mut frames = [0; 8 + 13 + 7];
        server.read_exact(&mut frames).unwrap();
        assert_eq!((frames[0], frames[8], frames[21]), (BINARY, LAST | PING, LAST | CONTINUATION));
        assert_eq!(unmasked(&frames[..8], 6), b"ab");
        assert_eq!(unmasked(&frames[21..], 6), b"c");
    }
}
