//! Requests as control sends them, against guests in memory. TLS is left to the machines.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use bytes::Bytes;
use furrow_api::channel::{GuestAddress, GuestOperation, GuestStream, STREAM_PROTOCOL, path, stream_path};
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

use super::guests::{Act, RunningGuests};
use super::operations::{self, Operations};
use super::requests::{self, Served};
use super::streams::Streams;
use super::thaw::{Thawed, Thaws};

/// Guests: UIDs by domain, and what was done to them.
#[derive(Default)]
struct State {
    running: BTreeMap<String, String>,
    acts: Vec<Act>,
    failing: Option<Act>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
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

struct Bench {
    guests: Fake,
    vmi: Arc<Mutex<Value>>,
    dir: tempfile::TempDir,
    router: axum::Router,
}

fn guest() -> GuestAddress {
    GuestAddress { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() }
}

fn thaws(guests: &Fake, client: Client, dir: &tempfile::TempDir) -> Arc<Thaws> {
    let thawed: Thawed = Box::new(move |guest| Box::pin(operations::mark(client.clone(), guest, None)));
    let path = dir.path().join("thaw");
    Arc::new(Thaws::new(path, Arc::new(guests.clone()), thawed, CancellationToken::new()))
}

impl Bench {
    fn new() -> Self {
        let guests = Fake::default();
        guests.state().running.insert("shop_web".into(), "u-1".into());
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "1"},
            "spec": {"domain": {"devices": {}}}, "status": {"phase": "Running"}});
        let vmi = Arc::new(Mutex::new(vmi));
        let dir = tempfile::tempdir().expect("a directory");
        let client = client(Arc::clone(&vmi));
        let thaws = thaws(&guests, client.clone(), &dir);
        let streams = Streams::new(Arc::new(guests.clone()), dir.path().to_owned(), CancellationToken::new());
        let operations = Operations { client, guests: Arc::new(guests.clone()), thaws };
        Self { guests, vmi, dir, router: requests::router(Arc::new(Served::new(operations, streams))) }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
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
async fn operations_reach_the_guest_that_was_meant() {
    let bench = Bench::new();
    let acts = [
        (GuestOperation::Pause, Act::Pause),
        (GuestOperation::Unpause, Act::Resume),
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
async fn listening(bench: &Bench) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let server = axum_server::from_tcp(listener).expect("a server");
    tokio::spawn(server.serve(bench.router.clone().into_make_service()));
    address
}

async fn stream(address: std::net::SocketAddr, query: &str) -> (u16, Option<TokioIo<Upgraded>>) {
    let socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("http");
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .uri(format!("{}{query}", stream_path(&guest(), GuestStream::Console)))
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
    let (code, first) = stream(address, "").await;
    let mut first = first.unwrap_or_else(|| panic!("answered {code}"));
    let (mut guest, _) = qemu.accept().await.expect("a connection");
    first.write_all(b"root\n").await.expect("written");
    let mut buffer = [0; 5];
    guest.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"root\n");
    guest.write_all(b"login").await.expect("written");
    first.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"login");

    assert_eq!(stream(address, "?preserve=true").await.0, 409, "somebody is there");
    let (_, second) = stream(address, "").await;
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
