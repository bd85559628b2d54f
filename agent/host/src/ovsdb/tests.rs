//! The OVSDB client against a scripted server, for what a real one does rarely, and against a real ovsdb-server where
//! one is installed (Debian's openvswitch-switch): contract of transactions, copies and resumption.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::value::Row;
use super::vswitch::{MONITORED, PortConfig, add_bridge, add_port, bridges, change_port, remove_bridge, remove_port};
use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("furrow-ovsdb-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("db.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it happens in time")
}

/// One connection of the scripted server.
struct Scripted {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Scripted {
    async fn accept(listener: &UnixListener) -> Self {
        Self { stream: listener.accept().await.unwrap().0, buffer: Vec::new() }
    }

    async fn read(&mut self) -> Value {
        loop {
            let mut documents = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
            if let Some(Ok(document)) = documents.next() {
                let length = documents.byte_offset();
                self.buffer.drain(..length);
                return document;
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).await.unwrap();
            assert_ne!(length, 0, "the client closed the connection");
            self.buffer.extend_from_slice(&chunk[..length]);
        }
    }

    async fn write(&mut self, document: &Value) {
        self.stream.write_all(document.to_string().as_bytes()).await.unwrap();
    }

    /// Schema and monitor; returns the transaction id that the client resumes from.
    async fn handshake(&mut self, dump: Value) -> String {
        let schema = self.read().await;
        assert_eq!(schema["method"], "get_schema");
        self.write(&json!({"id": "x", "method": "echo", "params": [7]})).await;
        assert_eq!(self.read().await, json!({"id": "x", "result": [7], "error": null}));
        self.write(&json!({"id": schema["id"], "result": {"tables": {}}, "error": null})).await;
        let monitor = self.read().await;
        assert_eq!(monitor["method"], "monitor_cond_since");
        self.write(&json!({"id": monitor["id"], "result": dump, "error": null})).await;
        monitor["params"][3].as_str().unwrap().to_owned()
    }
}

fn bridge_dump(resumed: bool, transaction: &str) -> Value {
    let row = json!({"initial": {"name": "br-a"}});
    json!([resumed, transaction, {"Bridge": {"00000000-0000-0000-0000-000000000001": row}}])
}

#[tokio::test]
async fn resumes_after_the_server_went_away_and_says_what_was_lost() {
    let scratch = Scratch::new("resume");
    let listener = UnixListener::bind(scratch.socket()).unwrap();
    let ovsdb = Ovsdb::start(scratch.socket(), MONITORED, CancellationToken::new());
    let mut server = within(Scripted::accept(&listener)).await;
    assert_eq!(within(server.handshake(bridge_dump(false, "t1"))).await, "00000000-0000-0000-0000-000000000000");

    let mut state = ovsdb.state();
    within(state.wait_for(|state| state.session == 1)).await.unwrap();
    assert!(bridges(&ovsdb.tables().unwrap()).contains_key("br-a"));

    let asked = ovsdb.clone();
    let asked = tokio::spawn(async move { asked.transact(&[Operation::Comment("x".into())]).await });
    assert_eq!(within(server.read()).await["method"], "transact");
    drop(server);
    assert!(matches!(within(asked).await.unwrap(), Err(OvsdbError::Lost)));
    within(state.wait_for(|state| state.tables.is_none())).await.unwrap();
    let refused = within(ovsdb.transact(&[Operation::Comment("x".into())])).await;
    assert!(matches!(refused, Err(OvsdbError::NotConnected)), "{refused:?}");

    let mut server = within(Scripted::accept(&listener)).await;
    assert_eq!(within(server.handshake(json!([true, "t2", {}]))).await, "t1");
    within(state.wait_for(|state| state.session == 2)).await.unwrap();
    assert!(bridges(&ovsdb.tables().unwrap()).contains_key("br-a"), "nothing changed, so nothing was sent again");
}

#[tokio::test]
async fn starts_over_with_a_full_dump_after_nonsense() {
    let scratch = Scratch::new("nonsense");
    let listener = UnixListener::bind(scratch.socket()).unwrap();
    let ovsdb = Ovsdb::start(scratch.socket(), MONITORED, CancellationToken::new());
    let mut server = within(Scripted::accept(&listener)).await;
    within(server.handshake(bridge_dump(false, "t1"))).await;
    let unknown = json!({"Port": {"00000000-0000-0000-0000-000000000009": {"modify": {"tag": 1}}}});
    server.write(&json!({"id": null, "method": "update3", "params": ["furrow", "t2", unknown]})).await;
    let mut server = within(Scripted::accept(&listener)).await;
    let resumed_from = within(server.handshake(json!([false, "t3", {}]))).await;
    assert_eq!(resumed_from, "00000000-0000-0000-0000-000000000000");
    let mut state = ovsdb.state();
    within(state.wait_for(|state| state.session == 2)).await.unwrap();
    assert!(bridges(&ovsdb.tables().unwrap()).is_empty());
}

/// A real ovsdb-server with an empty database.
struct Server {
    scratch: Scratch,
    process: std::process::Child,
}

#[expect(clippy::disallowed_methods, reason = "a daemon in the foreground, ended by the test")]
fn command(program: &str) -> std::process::Command {
    std::process::Command::new(program)
}

impl Server {
    fn start(name: &str) -> Option<Self> {
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        if !Path::new("/usr/sbin/ovsdb-server").exists() || !Path::new(schema).exists() {
            eprintln!("SKIPPED: no ovsdb-server here; Debian's openvswitch-switch has it");
            return None;
        }
        let scratch = Scratch::new(name);
        let database = scratch.0.join("conf.db");
        assert!(command("/usr/bin/ovsdb-tool").arg("create").arg(&database).arg(schema).status().unwrap().success());
        let process = Self::spawn(&scratch);
        Some(Self { scratch, process })
    }

    fn spawn(scratch: &Scratch) -> std::process::Child {
        let socket = format!("--remote=punix:{}", scratch.socket().display());
        command("/usr/sbin/ovsdb-server")
            .args([&socket, "--no-chdir", "--log-file=/dev/null", "-vconsole:off"])
            .arg(format!("--unixctl={}", scratch.0.join("ctl").display()))
            .arg(scratch.0.join("conf.db"))
            .spawn()
            .unwrap()
    }

    fn restart(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(self.scratch.socket());
        self.process = Self::spawn(&self.scratch);
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn connected(ovsdb: &Ovsdb, session: u64) {
    let mut state = ovsdb.state();
    within(state.wait_for(|state| state.session >= session && state.tables.is_some())).await.unwrap();
}

async fn with_root(server: &Server) -> Ovsdb {
    let ovsdb = Ovsdb::start(server.scratch.socket(), MONITORED, CancellationToken::new());
    connected(&ovsdb, 1).await;
    let root = Operation::Insert { table: DATABASE, row: Row::default(), name: "root".into() };
    ovsdb.transact(&[root]).await.unwrap();
    ovsdb
}

const PORT: PortConfig<'static> =
    PortConfig { name: "fw1", tag: Some(100), external_ids: &[("a", "1")], interface_ids: &[("iface-id", "x")] };

#[tokio::test]
async fn an_answered_transaction_is_in_the_copy() {
    let Some(server) = Server::start("contract") else { return };
    let ovsdb = with_root(&server).await;
    ovsdb.transact(&add_bridge("br-a", "netdev", "bridge")).await.unwrap();
    let bridge = bridges(&ovsdb.tables().unwrap()).remove("br-a").unwrap();
    assert_eq!((bridge.datapath_type.as_str(), bridge.owner.as_deref()), ("netdev", Some("bridge")));
    assert!(bridge.ports.is_empty(), "the local port is not one of them");

    ovsdb.transact(&add_port(&bridge, &PORT)).await.unwrap();
    let bridge = bridges(&ovsdb.tables().unwrap()).remove("br-a").unwrap();
    let port = &bridge.ports["fw1"];
    assert_eq!((port.tag, port.external_ids["a"].as_str(), port.ofport), (Some(100), "1", None));

    let changed = PortConfig { tag: Some(0), external_ids: &[("b", "2")], ..PORT };
    ovsdb.transact(&change_port(&changed)).await.unwrap();
    let bridge = bridges(&ovsdb.tables().unwrap()).remove("br-a").unwrap();
    let port = &bridge.ports["fw1"];
    assert_eq!((port.tag, port.external_ids.len(), port.external_ids["b"].as_str()), (Some(0), 1, "2"));

    ovsdb.transact(&remove_port(bridge.uuid, port.uuid)).await.unwrap();
    assert!(bridges(&ovsdb.tables().unwrap())["br-a"].ports.is_empty());
    ovsdb.transact(&remove_port(bridge.uuid, port.uuid)).await.unwrap();
    ovsdb.transact(&remove_bridge(&bridge)).await.unwrap();
    assert!(bridges(&ovsdb.tables().unwrap()).is_empty());
}

#[tokio::test]
async fn a_refused_transaction_changes_nothing_and_says_why() {
    let Some(server) = Server::start("refused") else { return };
    let ovsdb = with_root(&server).await;
    ovsdb.transact(&add_bridge("br-a", "", "bridge")).await.unwrap();
    let twice = ovsdb.transact(&add_bridge("br-a", "", "bridge")).await;
    assert!(matches!(&twice, Err(OvsdbError::Refused { operation: 0, .. })), "{twice:?}");
    let bridge = bridges(&ovsdb.tables().unwrap()).remove("br-a").unwrap();
    ovsdb.transact(&remove_bridge(&bridge)).await.unwrap();
    let orphan = ovsdb.transact(&add_port(&bridge, &PORT)).await;
    assert!(matches!(&orphan, Err(OvsdbError::Refused { operation: 0, .. })), "{orphan:?}");
}

#[tokio::test]
async fn apply_waits_for_vswitchd() {
    let Some(server) = Server::start("apply") else { return };
    let ovsdb = with_root(&server).await;
    let vswitchd = Ovsdb::start(server.scratch.socket(), MONITORED, CancellationToken::new());
    connected(&vswitchd, 1).await;
    let asked = ovsdb.clone();
    let mut asked = tokio::spawn(async move { asked.apply(add_bridge("br-a", "", "bridge")).await });
    let mut state = vswitchd.state();
    within(state.wait_for(|state| state.tables.as_ref().is_some_and(|tables| !bridges(tables).is_empty())))
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
    assert!(early.is_err(), "nobody has applied it yet");
    let done = Row::of([("cur_cfg", Datum::one(1))]);
    vswitchd.transact(&[Operation::Update { table: DATABASE, rows: Vec::new(), row: done }]).await.unwrap();
    within(asked).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_copy_is_right_again_after_a_restart_of_the_server() {
    let Some(mut server) = Server::start("restart") else { return };
    let ovsdb = with_root(&server).await;
    ovsdb.transact(&add_bridge("br-a", "", "bridge")).await.unwrap();
    server.restart();
    connected(&ovsdb, 2).await;
    assert!(bridges(&ovsdb.tables().unwrap()).contains_key("br-a"));
    ovsdb.transact(&add_bridge("br-b", "", "bridge")).await.unwrap();
    assert_eq!(bridges(&ovsdb.tables().unwrap()).len(), 2);
}
