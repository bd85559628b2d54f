//! WebSockets to guests: frames of the client on one side, bytes of the agent's stream on the other. Binary frames carry
//! bytes, text is ignored, as KubeVirt has it; its subprotocol is spoken where it is offered and needed by nobody. A frame
//! to a port of UDP is a datagram. Refuses to look into what it carries.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use furrow_api::channel::{ForwardProtocol, GuestStream};
use furrow_api::datagrams::{self, Datagrams};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::carry::Carrier;
use super::failure::Failure;
use super::options::is_true;
use super::route::{Target, Work};

/// KubeVirt's subprotocol.
const PROTOCOL: &str = "plain.kubevirt.io";

/// Streams at once in this process; each takes some 40 KiB.
static STREAMS: Semaphore = Semaphore::const_new(1024);

/// Bytes that are read from a guest at once.
const READ_BYTES: usize = 16 << 10;

/// Largest frame of a client: virtctl sends 32 KiB, browsers what was pasted.
const FRAME_MAX_BYTES: usize = 1 << 20;

/// A client is asked for a sign of life this often, and given up after this long without one, or without taking what it is
/// sent.
const PING: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);

/// Whether a request asks for a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_word(headers, header::CONNECTION, "upgrade") && has_word(headers, header::UPGRADE, "websocket")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

/// The answer to a client's handshake.
///
/// # Errors
/// 400 when it is none.
fn answer(headers: &HeaderMap) -> Result<Response, Failure> {
    let value = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if value(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Failure::bad_request(
            "websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header",
        ));
    }
    let key = value(header::SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Failure::bad_request("websocket: 'Sec-WebSocket-Key' header is missing"))?;
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        answer = answer.header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    }
    answer.body(Body::empty()).map_err(|error| Failure::internal(&error.to_string()))
}

/// Whether a client of the display leaves the one there is alone.
fn preserves(query: Option<&str>) -> bool {
    is_true(query, "preserveSession")
}

/// How a stream is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carriage {
    /// Bytes of a session that one client has at a time. When the guest or the next client ends it there is no goodbye:
    /// virtctl tells its user so by the abnormal end.
    Session,
    /// Bytes of a connection to a port, or to a USB port that nobody takes over: its end is said.
    Connection,
    /// Datagrams.
    Datagrams,
}

/// Opens the stream, answers the handshake and carries bytes from then on.
///
/// # Errors
/// What the client is told instead.
pub(super) async fn serve(carrier: &Carrier, target: &Target, mut request: Request) -> Result<Response, Failure> {
    let answer = answer(request.headers())?;
    let permit = STREAMS.try_acquire().map_err(|error| match error {
        TryAcquireError::NoPermits | TryAcquireError::Closed => Failure::unavailable("too many streams are open"),
    })?;
    let (guest, carriage) = match (target.subresource.work, target.port) {
        (Work::Stream(stream), _) => {
            let preserve = stream == GuestStream::Vnc && preserves(request.uri().query());
            let lent = stream == GuestStream::UsbRedirection;
            let carriage = if lent { Carriage::Connection } else { Carriage::Session };
            (carrier.open(target, stream, preserve).await?, carriage)
        }
        (Work::Forward, Some(to)) => {
            let datagrams = to.1 == ForwardProtocol::Udp;
            let carriage = if datagrams { Carriage::Datagrams } else { Carriage::Connection };
            (carrier.forward(target, to).await?, carriage)
        }
        _ => return Err(Failure::no_such_path()),
    };
    let stream = target.subresource.name;
    let upgrade = hyper::upgrade::on(&mut request);
    let name = format!("{}/{}", target.namespace, target.name);
    tokio::spawn(async move {
        let _permit = permit;
        match upgrade.await {
            Ok(client) => {
                tracing::info!(guest = name, stream, "stream begins");
                splice(client, guest, carriage).await;
                tracing::info!(guest = name, stream, "stream ended");
            }
            Err(error) => {
                tracing::debug!(guest = name, error = furrow_model::reasons::chain(&error), "client went away")
            }
        }
    });
    Ok(answer)
}

type Client = WebSocketStream<TokioIo<Upgraded>>;

async fn splice(client: Upgraded, guest: Upgraded, carriage: Carriage) {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = READ_BYTES;
    config.write_buffer_size = 0;
    config.max_message_size = Some(FRAME_MAX_BYTES);
    config.max_frame_size = Some(FRAME_MAX_BYTES);
    let client: Client = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config)).await;
    let (mut sink, frames) = client.split();
    let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
    // Safe to cancel: when one direction has ended the other has nobody to speak to.
    let guest_ended = tokio::select! {
        () = up(frames, to_guest, carriage) => false,
        () = down(from_guest, &mut sink, carriage) => true,
    };
    if !(guest_ended && carriage == Carriage::Session) {
        // It says goodbye, in case the client still listens.
        drop(tokio::time::timeout(PING, sink.close()).await);
    }
}

/// From the client to the guest, until either is gone or the client is silent.
async fn up(mut frames: SplitStream<Client>, mut guest: WriteHalf<TokioIo<Upgraded>>, carriage: Carriage) {
    // A client that lives answers pings, so that there is a frame in time.
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, frames.next()).await {
        let written = match frame {
            Message::Binary(bytes) if carriage == Carriage::Datagrams => {
                let mut datagram = Vec::with_capacity(bytes.len() + 2);
                // One that is longer than any datagram is lost, as on any wire.
                if datagrams::put(&bytes, &mut datagram) { guest.write_all(&datagram).await } else { Ok(()) }
            }
            Message::Binary(bytes) => guest.write_all(&bytes).await,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
}

/// From the guest to the client, until either is gone or the client takes nothing.
async fn down(mut guest: ReadHalf<TokioIo<Upgraded>>, client: &mut SplitSink<Client, Message>, carriage: Carriage) {
    let mut buffer = vec![0; READ_BYTES];
    let mut datagrams = Datagrams::default();
    let mut pinged = Instant::now();
    loop {
        // A guest that never pauses must not keep the client from being asked.
        let until_ping = PING.saturating_sub(pinged.elapsed());
        let read = match until_ping {
            Duration::ZERO => None,
            wait => tokio::time::timeout(wait, guest.read(&mut buffer)).await.ok(),
        };
        let frame = match read {
            Some(Ok(0) | Err(_)) => return,
            Some(Ok(read)) if carriage == Carriage::Datagrams => {
                datagrams.push(&buffer[..read]);
                while let Some(datagram) = datagrams.take().map(Bytes::copy_from_slice) {
                    if !sent(tokio::time::timeout(SILENCE, client.send(Message::Binary(datagram))).await) {
                        return;
                    }
                }
                continue;
            }
            Some(Ok(read)) => Message::Binary(Bytes::copy_from_slice(&buffer[..read])),
            None => {
                pinged = Instant::now();
                Message::Ping(Bytes::new())
            }
        };
        if !sent(tokio::time::timeout(SILENCE, client.send(frame)).await) {
            return;
        }
    }
}

fn sent(result: Result<Result<(), Error>, tokio::time::error::Elapsed>) -> bool {
    matches!(result, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    const ASKED: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_subprotocol_is_spoken_where_it_is_offered() {
        let plain = headers(&ASKED);
        assert!(is_asked_for(&plain));
        let told = answer(&plain).unwrap();
        assert_eq!(told.status(), StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455.
        assert_eq!(told.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!told.headers().contains_key("sec-websocket-protocol"));
        let mut offered = plain;
        offered.append("sec-websocket-protocol", "other, plain.kubevirt.io".parse().unwrap());
        offered.append("origin", "https://elsewhere.example".parse().unwrap());
        assert_eq!(answer(&offered).unwrap().headers()["sec-websocket-protocol"], "plain.kubevirt.io");
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        for missing in 0..2 {
            let mut pairs = ASKED.to_vec();
            pairs.remove(missing);
            assert!(!is_asked_for(&headers(&pairs)));
        }
        for missing in 2..4 {
            let mut pairs = ASKED.to_vec();
            pairs.remove(missing);
            assert_eq!(answer(&headers(&pairs)).unwrap_err().told().0, 400);
        }
    }

    #[test]
    fn a_session_is_preserved_when_asked() {
        let check = |query: Option<&str>, expected| assert_eq!(preserves(query), expected, "{query:?}");
        check(None, false);
        check(Some(""), false);
        check(Some("preserveSession=false"), false);
        check(Some("preserveSession="), false);
        check(Some("a=b&preserveSession=true"), true);
        check(Some("preserveSession=1"), true);
    }
}
