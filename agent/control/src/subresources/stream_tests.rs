//! WebSockets through the whole server, with an agent whose guest repeats what it is told: consoles, ports, and clients that
//! mean no good.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::server_tests::{Bench, SERVER_NAME, message, on};

const AGENT: &str = "furrow:agent:n1";

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Asks for a WebSocket: its bytes, or what the client is told instead.
async fn raw(bench: &Bench, path: &str) -> Result<TokioIo<Upgraded>, (u16, String)> {
    let mut sender = bench.connect(Some(&bench.api_server())).await.unwrap();
    let request = http_request(path);
    let answer = sender.send_request(request).await.unwrap();
    let code = answer.status().as_u16();
    if code != 101 {
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        return Err(message(&(code, String::from_utf8_lossy(&body).into_owned())));
    }
    assert_eq!(answer.headers()["sec-websocket-protocol"], "plain.kubevirt.io");
    Ok(TokioIo::new(hyper::upgrade::on(answer).await.unwrap()))
}

fn http_request(path: &str) -> axum::http::Request<Full<Bytes>> {
    axum::http::Request::builder()
        .uri(path)
        .header("host", SERVER_NAME)
        .header("x-remote-user", "jane")
        .header("x-remote-group", "system:authenticated")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "plain.kubevirt.io")
        .body(Full::new(Bytes::new()))
        .unwrap()
}

async fn open(bench: &Bench, path: &str) -> Socket {
    let stream = raw(bench, path).await.unwrap();
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

/// The next frame that is no ping.
async fn next(socket: &mut Socket) -> Option<Message> {
    let frame = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("a frame or the end");
    frame.and_then(Result::ok)
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::binary(bytes)
}

#[tokio::test]
async fn a_console_is_a_websocket_to_the_agents_stream() {
    let bench = Bench::new(AGENT).await;
    let path = on("virtualmachineinstances", "lone", "console");
    assert_eq!(message(&bench.jane("GET", &path, "").await).0, 400, "without an upgrade there is no stream");
    let mut socket = open(&bench, &path).await;
    socket.send(Message::text("ignored")).await.unwrap();
    socket.send(binary(b"hello")).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(binary(b"hello")));
    // The guest ends, or another client takes over: virtctl knows by the end without a goodbye.
    socket.send(binary(b"bye")).await.unwrap();
    assert_eq!(next(&mut socket).await, None);
    assert_eq!(*bench.calls.lock().unwrap(), ["/v1/guests/shop/lone/u-1/console"]);
    bench.server.stop().await;
}

#[tokio::test]
async fn a_display_is_asked_for_with_what_the_client_wants_of_the_one_there_is() {
    let bench = Bench::new(AGENT).await;
    let path = on("virtualmachineinstances", "lone", "vnc");
    drop(open(&bench, &format!("{path}?preserveSession=true")).await);
    drop(open(&bench, &path).await);
    let expected = ["/v1/guests/shop/lone/u-1/vnc?preserve=true", "/v1/guests/shop/lone/u-1/vnc"];
    assert_eq!(*bench.calls.lock().unwrap(), expected);
    bench.server.stop().await;
}

#[tokio::test]
async fn usb_devices_have_streams_side_by_side_and_one_too_many_is_told_so() {
    let bench = Bench::new(AGENT).await;
    let path = on("virtualmachineinstances", "lone", "usbredir");
    let mut first = open(&bench, &path).await;
    let mut second = open(&bench, &path.replace("/v1/", "/v1alpha3/")).await;
    for (socket, bytes) in [(&mut first, &b"first"[..]), (&mut second, &b"second"[..])] {
        socket.send(binary(bytes)).await.unwrap();
        assert_eq!(next(socket).await, Some(binary(bytes)));
    }
    let told = raw(&bench, &path).await.unwrap_err();
    assert_eq!(told, (503, "all are taken".to_owned()));
    first.send(binary(b"bye")).await.unwrap();
    assert!(matches!(next(&mut first).await, Some(Message::Close(_))), "nobody took over: the end is said");
    second.send(binary(b"still")).await.unwrap();
    assert_eq!(next(&mut second).await, Some(binary(b"still")));
    assert_eq!(*bench.calls.lock().unwrap(), ["/v1/guests/shop/lone/u-1/usbredir"; 3]);
    bench.server.stop().await;
}

#[tokio::test]
async fn a_port_is_reached_by_the_machine_and_by_its_guest() {
    let bench = Bench::new(AGENT).await;
    for (resource, tail) in [("virtualmachineinstances", "22"), ("virtualmachines", "22/tcp")] {
        let mut socket = open(&bench, &on(resource, "lone", &format!("portforward/{tail}"))).await;
        socket.send(binary(b"SSH-2.0")).await.unwrap();
        assert_eq!(next(&mut socket).await, Some(binary(b"SSH-2.0")));
        socket.send(binary(b"bye")).await.unwrap();
        assert!(matches!(next(&mut socket).await, Some(Message::Close(_))), "the end of a connection is said");
    }
    let expected = "/v1/guests/shop/lone/u-1/portforward/22/tcp/lan/192.168.10.7";
    assert_eq!(*bench.calls.lock().unwrap(), [expected, expected]);
    let reviews: Vec<_> = bench.seen.lock().unwrap().reviews.iter().map(|r| r["resourceAttributes"].clone()).collect();
    assert!(reviews.iter().all(|asked| asked["subresource"] == "portforward" && asked["verb"] == "get"));

    let told = raw(&bench, &on("virtualmachines", "web", "portforward/22")).await.unwrap_err();
    let expected = "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"web\": VMI is not started";
    assert_eq!(told, (409, expected.to_owned()));
    let told = raw(&bench, &on("virtualmachineinstances", "lone", "portforward/23")).await.unwrap_err();
    let expected = "Internal error occurred: dialing VM: could not reach it: connection refused";
    assert_eq!(told, (500, expected.to_owned()));
    bench.server.stop().await;
}

#[tokio::test]
async fn a_frame_to_a_port_of_udp_is_a_datagram() {
    let bench = Bench::new(AGENT).await;
    let mut socket = open(&bench, &on("virtualmachineinstances", "lone", "portforward/53/udp")).await;
    for datagram in [&b"one"[..], b"", b"another"] {
        socket.feed(Message::binary(Bytes::copy_from_slice(datagram))).await.unwrap();
    }
    // Longer than any datagram: lost.
    socket.feed(Message::binary(vec![0_u8; 70_000])).await.unwrap();
    socket.feed(binary(b"last")).await.unwrap();
    socket.flush().await.unwrap();
    for expected in [&b"one"[..], b"", b"another", b"last"] {
        assert_eq!(next(&mut socket).await, Some(Message::binary(Bytes::copy_from_slice(expected))));
    }
    bench.server.stop().await;
}

#[tokio::test]
async fn garbage_and_frames_beyond_all_bounds_end_their_stream_alone() {
    let bench = Bench::new(AGENT).await;
    let console = on("virtualmachineinstances", "lone", "console");
    let mut healthy = open(&bench, &console).await;
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        // Reserved bits; a frame without a mask; one that announces 2 GiB.
        &[0xff; 64],
        &[0x82, 0x05, b'h', b'e', b'l', b'l', b'o'],
        &[0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 2, 3, 4],
    ];
    for bytes in garbage {
        let mut stream = raw(&bench, &console).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?} did not end the stream");
    }
    let mut large = open(&bench, &console).await;
    // The server may be gone before all of it is sent.
    let _ = large.send(Message::binary(vec![0_u8; (1 << 20) + 1])).await;
    assert!(!matches!(next(&mut large).await, Some(Message::Binary(_))));
    healthy.send(binary(b"hello")).await.unwrap();
    assert_eq!(next(&mut healthy).await, Some(binary(b"hello")));
    bench.server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_held_back_by_its_own_connection() {
    let bench = Bench::new(AGENT).await;
    let console = on("virtualmachineinstances", "lone", "console");
    let mut deaf = open(&bench, &console).await;
    // The guest repeats everything, and nobody reads that: the bytes stop at the first full buffer on their way.
    let flood = tokio::time::timeout(Duration::from_secs(5), async {
        for _ in 0..4096 {
            deaf.send(Message::binary(vec![0_u8; 64 << 10])).await.unwrap();
        }
    });
    assert!(flood.await.is_err(), "256 MiB were taken from a client that reads nothing");
    let mut other = open(&bench, &console).await;
    other.send(binary(b"hello")).await.unwrap();
    assert_eq!(next(&mut other).await, Some(binary(b"hello")));
    bench.server.stop().await;
}
