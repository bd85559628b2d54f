//! Requests as control sends them, against guests in memory. TLS is left to the machines.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use bytes::Bytes;
use furrow_api::channel::{
    GuestAddress, GuestOperation, GuestStream, IMAGES_PATH, ImageAnswer, ImageQuestion, STREAM_PROTOCOL, path,
    stream_path,
};
use furrow_host::libvirt::{GuestQuestion, LibvirtError};
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::forward::Forwards;
use super::forward_tests::FakeLinks;
use super::guests::{Act, RunningGuests};
use super::images::LooksAtImages;
use super::links::GuestLinks;
use super::operations::{self, Operations};
use super::requests::{self, Served};
use super::streams::Streams;
use super::thaw::{Thawed, Thaws};
use crate::storage::LookError;

/// Guests: UIDs by domain, and what was done to them.
#[derive(Default)]
pub(super) struct State {
    pub(super) running: BTreeMap<String, String>,
    acts: Vec<Act>,
    failing: Option<Act>,
}

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }
}

impl RunningGuests for Fake {
    fn running<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Option<String>, LibvirtError>> {
        let uid = self.state().running.get(domain).cloned();
        Box::pin(async { Ok(uid) })
    }

    fn act<'a>(&'a self, _: &'a str, act: Act) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let mut state = self.state();
        let result = if state.failing == Some(act) {
            Err(LibvirtError::WrongState { operation: "do it", message: "told to fail".to_owned() })
        } else {
            state.acts.push(act);
            Ok(())
        };
        Box::pin(async { result })
    }

    fn ask<'a>(&'a self, _: &'a str, _: GuestQuestion) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        let values = [("user.count", "1"), ("user.0.name", "root")];
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Box::pin(async { Ok(values) })
    }

    fn picture<'a>(&'a self, _: &'a str, _: usize) -> BoxFuture<'a, Result<Vec<u8>, LibvirtError>> {
        Box::pin(async { Ok(b"\x89PNG\r\n\x1a\nand so on".to_vec()) })
    }

    fn command<'a>(&'a self, _: &'a str, _: &'static str) -> BoxFuture<'a, Result<String, LibvirtError>> {
        Box::pin(async { Err(LibvirtError::NotConnected { operation: "ask" }) })
    }
}

/// An API server that knows one VMI and keeps what is written to its status.
fn client(vmi: Arc<Mutex<Value>>) -> Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let vmi = Arc::clone(&vmi);
        async move {
            let (head, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut vmi = vmi.lock().expect("no test panics while holding it");
            if head.method == http::Method::PATCH {
                let patch: Value = serde_json::from_slice(&body).expect("a patch");
                vmi["status"]["fsFreezeStatus"] = patch["status"]["fsFreezeStatus"].clone();
            }
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(vmi.to_string()))))
        }
    });
    Client::new(service, "default")
}

/// Knows one image.
struct FakeRegistry;

impl LooksAtImages for FakeRegistry {
    fn look<'a>(&'a self, question: &'a ImageQuestion) -> BoxFuture<'a, Result<ImageAnswer, LookError>> {
        let answer = match question.image.as_str() {
            "r.example/x" => Ok(ImageAnswer { digest: "sha256:1".into(), disk_bytes: question.measure.then_some(7) }),
            other => Err(LookError::Failed(format!("there is no {other}"))),
        };
        Box::pin(async { answer })
    }
}

pub(super) struct Bench {
    pub(super) guests: Fake,
    pub(super) links: Arc<FakeLinks>,
    pub(super) forwards: Arc<Forwards>,
    vmi: Arc<Mutex<Value>>,
    dir: tempfile::TempDir,
    pub(super) stop: CancellationToken,
    router: axum::Router,
}

pub(super) fn guest() -> GuestAddress {
    GuestAddress { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() }
}

fn thaws(guests: &Fake, client: Client, dir: &tempfile::TempDir) -> Arc<Thaws> {
    let thawed: Thawed = Box::new(move |guest| Box::pin(operations::mark(client.clone(), guest, None)));
    let path = dir.path().join("thaw");
    Arc::new(Thaws::new(path, Arc::new(guests.clone()), thawed, CancellationToken::new()))
}

impl Bench {
    pub(super) fn new() -> Self {
        let guests = Fake::default();
        guests.state().running.insert("shop_web".into(), "u-1".into());
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "1"},
            "spec": {"domain": {"devices": {}}}, "status": {"phase": "Running"}});
        let vmi = Arc::new(Mutex::new(vmi));
        let dir = tempfile::tempdir().expect("a directory");
        let client = client(Arc::clone(&vmi));
        let thaws = thaws(&guests, client.clone(), &dir);
        let stop = CancellationToken::new();
        let streams = Streams::new(Arc::new(guests.clone()), dir.path().to_owned(), stop.clone());
        let links = Arc::new(FakeLinks::default());
        let as_links = Arc::clone(&links) as Arc<dyn GuestLinks>;
        let forwards = Arc::new(Forwards::new(Arc::new(guests.clone()), as_links, stop.clone()));
        let operations =
            Operations { client, guests: Arc::new(guests.clone()), thaws, guests_dir: dir.path().to_owned() };
        let registry = Arc::new(FakeRegistry);
        let router = requests::router(Arc::new(Served::new(operations, streams, Arc::clone(&forwards), registry)));
        Self { guests, links, forwards, vmi, dir, stop, router }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request");
        let response: Response<Body> = self.router.clone().oneshot(request).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn put(&self, operation: GuestOperation, body: &str) -> (u16, Value) {
        self.ask("PUT", &path(&guest(), operation), body).await
    }

    fn freeze_status(&self) -> Value {
        self.vmi.lock().expect("no test panics while holding it")["status"]["fsFreezeStatus"].clone()
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("thaw")).map(|entries| entries.count()).unwrap_or(0)
    }
}

#[tokio::test]
async fn a_guest_that_goes_on_has_its_clock_set() {
    let bench = Bench::new();
    assert_eq!(bench.put(GuestOperation::Unpause, "").await, (200, Value::Null));
    until(|| bench.guests.state().acts == [Act::Resume, Act::SetTime]).await;
}

#[tokio::test]
async fn operations_reach_the_guest_that_was_meant() {
    let bench = Bench::new();
    let acts = [
        (GuestOperation::Pause, Act::Pause),
        (GuestOperation::SoftReboot, Act::Reboot),
        (GuestOperation::Reset, Act::Reset),
    ];
    for (operation, act) in acts {
        assert_eq!(bench.put(operation, "").await, (200, Value::Null));
        assert_eq!(bench.guests.state().acts.pop(), Some(act));
    }
    let other = GuestAddress { uid: "u-0".into(), ..guest() };
    let (code, told) = bench.ask("PUT", &path(&other, GuestOperation::Reset), "").await;
    assert_eq!((code, &told["message"]), (404, &json!("the guest does not run on this node")));
    assert!(bench.guests.state().acts.is_empty(), "a later guest of the name is left alone");
    let (code, users) = bench.ask("GET", &path(&guest(), GuestOperation::UserList), "").await;
    assert_eq!((code, &users["items"]), (200, &json!([{"userName": "root"}])));
}

#[tokio::test]
async fn what_is_no_operation_is_refused() {
    let bench = Bench::new();
    assert_eq!(bench.ask("GET", "/metrics", "").await.0, 404);
    assert_eq!(bench.ask("GET", &path(&guest(), GuestOperation::Pause), "").await.0, 405);
    assert_eq!(bench.ask("PUT", &path(&guest(), GuestOperation::UserList), "").await.0, 405);
    assert_eq!(bench.put(GuestOperation::Freeze, "{").await.0, 400);
    assert_eq!(bench.put(GuestOperation::Freeze, &" ".repeat(1 << 20)).await.0, 413);
    bench.guests.state().failing = Some(Act::Pause);
    let (code, told) = bench.put(GuestOperation::Pause, "").await;
    assert_eq!((code, &told["message"]), (409, &json!("could not do it: told to fail")));
}

#[tokio::test]
async fn a_frozen_guest_is_shown_and_thawed() {
    let bench = Bench::new();
    assert_eq!(bench.put(GuestOperation::Freeze, r#"{"thawAfterMs":3600000}"#).await.0, 200);
    assert_eq!((bench.freeze_status(), bench.kept()), (json!("frozen"), 1));
    assert_eq!(bench.put(GuestOperation::Unfreeze, "").await.0, 200);
    assert_eq!((bench.freeze_status(), bench.kept()), (Value::Null, 0));
    assert_eq!(bench.guests.state().acts, [Act::Freeze, Act::Thaw]);
}

#[tokio::test]
async fn a_guest_that_did_not_freeze_is_not_thawed() {
    let bench = Bench::new();
    bench.guests.state().failing = Some(Act::Freeze);
    assert_eq!(bench.put(GuestOperation::Freeze, r#"{"thawAfterMs":1}"#).await.0, 409);
    assert_eq!((bench.freeze_status(), bench.kept()), (Value::Null, 0));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bench.guests.state().acts.is_empty());
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 5 s");
}

#[tokio::test]
async fn a_frozen_guest_is_thawed_in_its_time() {
    let bench = Bench::new();
    assert_eq!(bench.put(GuestOperation::Freeze, r#"{"thawAfterMs":20}"#).await.0, 200);
    until(|| bench.guests.state().acts == [Act::Freeze, Act::Thaw]).await;
    until(|| bench.freeze_status().is_null() && bench.kept() == 0).await;
}

#[tokio::test]
async fn the_next_agent_thaws_what_this_one_has_frozen() {
    let bench = Bench::new();
    let first = thaws(&bench.guests, client(Arc::clone(&bench.vmi)), &bench.dir);
    first.keep(&guest(), Duration::from_millis(1)).await.expect("it is kept");
    assert_eq!(bench.kept(), 1);
    let second = thaws(&bench.guests, client(Arc::clone(&bench.vmi)), &bench.dir);
    second.resume().await;
    until(|| bench.guests.state().acts == [Act::Thaw]).await;
    until(|| bench.kept() == 0).await;
    let strange = GuestAddress { uid: "../x".into(), ..guest() };
    assert!(second.keep(&strange, Duration::ZERO).await.is_err(), "a UID is a file's name");
}

/// Serves on a socket, without TLS.
pub(super) async fn listening(bench: &Bench) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let server = axum_server::from_tcp(listener).expect("a server");
    tokio::spawn(server.serve(bench.router.clone().into_make_service()));
    address
}

pub(super) async fn stream(
    address: std::net::SocketAddr,
    of: GuestStream,
    query: &str,
) -> (u16, Option<TokioIo<Upgraded>>) {
    open_stream(address, &format!("{}{query}", stream_path(&guest(), of))).await
}

/// Asks for a stream; gives the answer's code, and the stream if it is 101.
pub(super) async fn open_stream(address: std::net::SocketAddr, path: &str) -> (u16, Option<TokioIo<Upgraded>>) {
    let socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("http");
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .uri(path)
        .header("host", "agent")
        .header("connection", "upgrade")
        .header("upgrade", STREAM_PROTOCOL)
        .body(Full::new(Bytes::new()))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let code = answer.status().as_u16();
    let upgraded = if code == 101 { Some(hyper::upgrade::on(answer).await.expect("a stream")) } else { None };
    (code, upgraded.map(TokioIo::new))
}

#[tokio::test]
async fn a_console_is_carried_and_the_next_one_takes_over() {
    let bench = Bench::new();
    std::fs::create_dir(bench.dir.path().join("u-1")).expect("a directory");
    let qemu = tokio::net::UnixListener::bind(bench.dir.path().join("u-1/console.sock")).expect("a socket");
    let address = listening(&bench).await;
    let (code, first) = stream(address, GuestStream::Console, "").await;
    let mut first = first.unwrap_or_else(|| panic!("answered {code}"));
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    first.write_all(b"root\n").await.expect("written");
    let mut buffer = [0; 5];
    guest.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"root\n");
    guest.write_all(b"login").await.expect("written");
    first.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"login");

    assert_eq!(stream(address, GuestStream::Console, "?preserve=true").await.0, 409, "somebody is there");
    let (_, second) = stream(address, GuestStream::Console, "").await;
    let mut second = second.expect("a stream");
    assert_eq!(first.read(&mut buffer).await.unwrap_or(0), 0, "the first has ended");
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    guest.write_all(b"again").await.expect("written");
    second.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"again");
    drop(guest);
    assert_eq!(second.read(&mut buffer).await.unwrap_or(0), 0, "the guest has ended");
    let (code, _) = bench.ask("GET", &stream_path(&self::guest(), GuestStream::Console), "").await;
    assert_eq!(code, 400, "a stream is an upgrade");
}

/// A guest with one socket, as QEMU serves it.
pub(super) fn socket(bench: &Bench, file: &str) -> tokio::net::UnixListener {
    std::fs::create_dir_all(bench.dir.path().join("u-1")).expect("a directory");
    tokio::net::UnixListener::bind(bench.dir.path().join("u-1").join(file)).expect("a socket")
}

pub(super) async fn ended(stream: &mut TokioIo<Upgraded>) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_display_is_left_to_whoever_has_it_and_free_again_after_they_left() {
    let bench = Bench::new();
    let qemu = socket(&bench, "vnc.sock");
    let address = listening(&bench).await;
    let (code, first) = stream(address, GuestStream::Vnc, "?preserve=true").await;
    let first = first.unwrap_or_else(|| panic!("answered {code}: nobody was there"));
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    assert_eq!(stream(address, GuestStream::Vnc, "?preserve=true").await.0, 409);
    // Nobody was disturbed by being asked, and QEMU sees no second client.
    let waiting = tokio::time::timeout(Duration::from_millis(50), qemu.accept()).await;
    assert!(waiting.is_err(), "a client that is refused does not reach the guest");
    drop(first);
    assert_eq!(guest.read(&mut [0; 1]).await.unwrap_or(0), 0, "the guest sees its client leave");
    for _ in 0..500 {
        if stream(address, GuestStream::Vnc, "?preserve=true").await.0 == 101 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the display is still taken 5 s after its client left");
}

#[tokio::test]
async fn console_and_display_are_apart_and_each_takes_over_only_its_own() {
    let bench = Bench::new();
    let (console, display) = (socket(&bench, "console.sock"), socket(&bench, "vnc.sock"));
    let address = listening(&bench).await;
    let mut first = stream(address, GuestStream::Console, "").await.1.expect("a console");
    let _one = console.accept().await.expect("a connection");
    let mut second = stream(address, GuestStream::Vnc, "").await.1.expect("a display");
    let _two = display.accept().await.expect("a connection");
    let _third = stream(address, GuestStream::Vnc, "").await.1.expect("a display");
    assert!(ended(&mut second).await);
    let _three = display.accept().await.expect("a connection");
    let still = tokio::time::timeout(Duration::from_millis(50), first.read(&mut [0; 1])).await;
    assert!(still.is_err(), "the console goes on");
}

#[tokio::test]
async fn streams_end_with_the_agent_and_do_not_begin_where_nobody_serves() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    assert_eq!(stream(address, GuestStream::Vnc, "").await.0, 500, "there is no socket");
    let qemu = socket(&bench, "vnc.sock");
    let mut open = stream(address, GuestStream::Vnc, "?preserve=true").await.1.expect("what failed is forgotten");
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    bench.stop.cancel();
    assert!(ended(&mut open).await);
    assert_eq!(guest.read(&mut [0; 1]).await.unwrap_or(0), 0);
    bench.guests.state().running.clear();
    assert_eq!(stream(address, GuestStream::Vnc, "").await.0, 404);
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_its_guest_and_nobody_else() {
    let bench = Bench::new();
    let qemu = socket(&bench, "console.sock");
    let address = listening(&bench).await;
    let deaf = stream(address, GuestStream::Console, "").await.1.expect("a stream");
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    // The agent keeps no more than buffers of sockets: a guest that writes for ever is stopped by them.
    let flood = tokio::time::timeout(Duration::from_secs(2), async {
        for _ in 0..1024 {
            guest.write_all(&[b'x'; 64 << 10]).await.expect("written");
        }
    });
    assert!(flood.await.is_err(), "64 MiB were taken for a client that reads nothing");
    let mut next = stream(address, GuestStream::Console, "").await.1.expect("a stream");
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    guest.write_all(b"hello").await.expect("written");
    let mut buffer = [0; 5];
    next.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"hello");
    drop(deaf);
}

#[tokio::test]
async fn a_picture_is_a_png_and_the_pointer_is_moved_before_it() {
    let bench = Bench::new();
    let qemu = socket(&bench, "vnc.sock");
    let display = tokio::spawn(async move {
        let (mut client, _) = qemu.accept().await.expect("a connection");
        client.write_all(b"RFB 003.008\n").await.expect("written");
        let mut version = [0; 12];
        client.read_exact(&mut version).await.expect("read");
        assert_eq!(&version, b"RFB 003.008\n");
        client.write_all(&[1, 1]).await.expect("written");
        assert_eq!(client.read_u8().await.expect("read"), 1, "no security, as QEMU's socket has it");
        client.write_all(&[0, 0, 0, 0]).await.expect("written");
        assert_eq!(client.read_u8().await.expect("read"), 1, "shared: nobody is sent away");
        let name = [&[4, 0, 3, 0][..], &[0; 16], &4_u32.to_be_bytes(), b"QEMU"].concat();
        client.write_all(&name).await.expect("written");
        let mut events = Vec::new();
        client.read_to_end(&mut events).await.expect("read");
        events
    });
    let request = Request::builder()
        .uri(path(&guest(), GuestOperation::Screenshot))
        .body(Body::from(r#"{"moveCursor":true}"#))
        .expect("a request");
    let answer = bench.router.clone().oneshot(request).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "image/png");
    let picture = to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    let events = display.await.expect("it does not panic");
    assert!(!events.is_empty() && events.chunks(6).all(|event| event.len() == 6 && event[..2] == [5, 0]), "{events:?}");
    let sleeping = Request::builder().uri(path(&guest(), GuestOperation::Screenshot)).body(Body::empty());
    let answer = bench.router.clone().oneshot(sleeping.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "a display that nobody serves is no reason to give no picture");
}

#[tokio::test]
async fn an_image_is_looked_at_and_what_its_registry_says_is_passed_on() {
    let bench = Bench::new();
    let seen = bench.ask("PUT", IMAGES_PATH, r#"{"image": "r.example/x", "measure": true}"#).await;
    assert_eq!(seen, (200, json!({"digest": "sha256:1", "diskBytes": 7})));
    let (code, refusal) = bench.ask("PUT", IMAGES_PATH, r#"{"image": "r.example/y"}"#).await;
    assert_eq!((code, refusal["message"].as_str()), (502, Some("there is no r.example/y")));
    assert_eq!(bench.ask("GET", IMAGES_PATH, "").await.0, 405);
    assert_eq!(bench.ask("PUT", IMAGES_PATH, r#"{"picture": "x"}"#).await.0, 400);
}
