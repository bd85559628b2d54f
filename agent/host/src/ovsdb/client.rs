//! The owner of the OVSDB connection: connects, monitors, answers echoes, matches replies to requests, and starts over
//! when the server is gone. Refuses requests while there is no connection instead of keeping them: what was true when
//! they were made may not be when the server is back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::frame::Documents;
use super::mirror::{Scalars, Tables};
use super::{DATABASE, Monitored, OvsdbError, Request, State};

/// How long connecting, the schema and the first dump may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one write may take: the server reads unless it hangs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which the server is asked whether it lives.
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// Silence after which it does not.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Requests sent and not answered.
const IN_FLIGHT: usize = 128;

/// Waits between attempts to connect: from the first to the ceiling by doubling.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The id of the last transaction seen, before the first.
const NO_TRANSACTION: &str = "00000000-0000-0000-0000-000000000000";

const MONITOR_ID: &str = "furrow";

pub(super) struct Owner {
    socket: PathBuf,
    monitored: &'static [Monitored],
    publish: watch::Sender<State>,
    tables: Tables,
    last_transaction: String,
    session: u64,
}

/// One connection.
struct Session {
    reader: FramedRead<OwnedReadHalf, Documents>,
    writer: OwnedWriteHalf,
    scalars: Scalars,
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, OvsdbError>>>,
    heard: Instant,
    probed: bool,
}

/// A message of the server.
enum Message {
    Reply { id: u64, result: Result<Value, OvsdbError> },
    Update { transaction: String, tables: Value },
    Echo { id: Value, params: Value },
    Other,
}

impl Owner {
    pub(super) fn new(socket: PathBuf, monitored: &'static [Monitored], publish: watch::Sender<State>) -> Self {
        let last_transaction = NO_TRANSACTION.to_owned();
        Self { socket, monitored, publish, tables: Tables::default(), last_transaction, session: 0 }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut wait = BACK_OFF.0;
        loop {
            // Dropping the handshake is safe: the half-open connection closes with it.
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.open()) => opened,
            };
            let ended = match opened {
                Ok(Ok(mut session)) => {
                    wait = BACK_OFF.0;
                    let ended = self.serve(&mut session, &mut inbox, &stop).await;
                    session.waiting.drain().for_each(|(_, reply)| drop(reply.send(Err(OvsdbError::Lost))));
                    ended
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(OvsdbError::Timeout { timeout_ms: HANDSHAKE_TIMEOUT.as_millis() }),
            };
            let Err(error) = ended else { return };
            if matches!(error, OvsdbError::Malformed(_)) {
                self.last_transaction = NO_TRANSACTION.to_owned();
            }
            if self.publish.send_replace(State { session: self.session, tables: None }).tables.is_some() {
                tracing::warn!(error = &error as &dyn std::error::Error, "OVSDB connection lost");
            }
            if refuse_for(wait, &mut inbox, &stop).await.is_err() {
                return;
            }
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }

    /// Connects, reads the schema, and takes the dump of the monitored tables, or what changed since the last.
    async fn open(&mut self) -> Result<Session, OvsdbError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|_| OvsdbError::NotConnected)?;
        let (reader, writer) = stream.into_split();
        let mut session = Session {
            reader: FramedRead::new(reader, Documents::default()),
            writer,
            scalars: Scalars::default(),
            next_id: 0,
            waiting: HashMap::new(),
            heard: Instant::now(),
            probed: false,
        };
        let schema = session.call("get_schema", json!([DATABASE])).await?;
        session.scalars = Scalars::of_schema(&schema);
        let request = |(table, columns): &Monitored| ((*table).to_owned(), json!([{"columns": columns}]));
        let requests: Map<String, Value> = self.monitored.iter().map(request).collect();
        let params = json!([DATABASE, MONITOR_ID, requests, self.last_transaction]);
        let dump = session.call("monitor_cond_since", params).await?;
        let Some([Value::Bool(resumed), Value::String(transaction), tables]) = dump.as_array().map(Vec::as_slice)
        else {
            return Err(OvsdbError::malformed("the answer to monitor_cond_since has another shape"));
        };
        if !resumed {
            self.tables = Tables::default();
        }
        self.tables.apply(tables, &session.scalars)?;
        self.last_transaction.clone_from(transaction);
        self.session += 1;
        self.publish.send_replace(State { session: self.session, tables: Some(self.tables.clone()) });
        tracing::info!(session = self.session, resumed, "OVSDB connection open");
        Ok(session)
    }

    /// Until the connection is lost (an error) or everybody is gone (success).
    async fn serve(
        &mut self,
        session: &mut Session,
        inbox: &mut mpsc::Receiver<Request>,
        stop: &CancellationToken,
    ) -> Result<(), OvsdbError> {
        loop {
            let silence = if session.probed { DEAD_AFTER } else { PROBE_AFTER };
            let room = session.waiting.len() < IN_FLIGHT;
            // Every arm is safe to drop: the frame decoder and the queue keep what they have, the others have nothing.
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                document = session.reader.next() => {
                    let document = document.ok_or(OvsdbError::Lost)?.map_err(broken)?;
                    (session.heard, session.probed) = (Instant::now(), false);
                    self.take(session, document).await?;
                }
                request = inbox.recv(), if room => {
                    let Some(request) = request else { return Ok(()) };
                    session.send_request(request).await?;
                }
                () = tokio::time::sleep_until(session.heard + silence) => {
                    if session.probed {
                        return Err(OvsdbError::Timeout { timeout_ms: DEAD_AFTER.as_millis() });
                    }
                    session.probed = true;
                    session.send(&json!({"method": "echo", "params": [], "id": "probe"})).await?;
                }
            }
        }
    }

    async fn take(&mut self, session: &mut Session, document: Value) -> Result<(), OvsdbError> {
        match Message::read(document)? {
            Message::Reply { id, result } => {
                if let Some(reply) = session.waiting.remove(&id) {
                    // A caller that gave up is gone; that is its right.
                    let _ = reply.send(result);
                }
            }
            Message::Update { transaction, tables } => {
                self.tables.apply(&tables, &session.scalars)?;
                self.last_transaction = transaction;
                self.publish.send_replace(State { session: self.session, tables: Some(self.tables.clone()) });
            }
            Message::Echo { id, params } => {
                session.send(&json!({"id": id, "result": params, "error": null})).await?;
            }
            Message::Other => {}
        }
        Ok(())
    }
}

impl Session {
    async fn send(&mut self, document: &Value) -> Result<(), OvsdbError> {
        let bytes = document.to_string();
        // Dropping a write half done is safe: the connection is given up with it.
        match tokio::time::timeout(WRITE_TIMEOUT, self.writer.write_all(bytes.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(OvsdbError::Lost),
        }
    }

    async fn send_request(&mut self, request: Request) -> Result<(), OvsdbError> {
        if request.reply.is_closed() {
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, request.reply);
        self.send(&json!({"method": request.method, "params": request.params, "id": id})).await
    }

    /// One request of the handshake: nothing else is under way but echoes.
    async fn call(&mut self, method: &'static str, params: Value) -> Result<Value, OvsdbError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"method": method, "params": params, "id": id})).await?;
        loop {
            let document = self.reader.next().await.ok_or(OvsdbError::Lost)?.map_err(broken)?;
            match Message::read(document)? {
                Message::Reply { id: answered, result } if answered == id => return result,
                Message::Echo { id, params } => {
                    self.send(&json!({"id": id, "result": params, "error": null})).await?;
                }
                _ => {}
            }
        }
    }
}

impl Message {
    fn read(mut document: Value) -> Result<Self, OvsdbError> {
        let id = document["id"].take();
        match document["method"].as_str() {
            Some("echo") => return Ok(Self::Echo { id, params: document["params"].take() }),
            Some("update3") => {
                let mut params = document["params"].take();
                let transaction = params[1].as_str().map(str::to_owned);
                let transaction = transaction.ok_or_else(|| OvsdbError::malformed("update3 has no transaction id"))?;
                return Ok(Self::Update { transaction, tables: params[2].take() });
            }
            Some(_) => return Ok(Self::Other),
            None => {}
        }
        let Some(id) = id.as_u64() else { return Ok(Self::Other) };
        let error = document["error"].take();
        let result = match error {
            Value::Null => Ok(document["result"].take()),
            error => Err(OvsdbError::Malformed(format!("the request was not understood: {error}"))),
        };
        Ok(Self::Reply { id, result })
    }
}

fn broken(error: std::io::Error) -> OvsdbError {
    match error.kind() {
        std::io::ErrorKind::InvalidData => OvsdbError::Malformed(error.to_string()),
        _ => OvsdbError::Lost,
    }
}

/// Waits, and refuses what is asked meanwhile. An error means that nobody is left to serve.
async fn refuse_for(
    wait: Duration,
    inbox: &mut mpsc::Receiver<Request>,
    stop: &CancellationToken,
) -> Result<(), OvsdbError> {
    let until = Instant::now() + wait;
    loop {
        // Every arm is safe to drop: nothing is taken from the queue by an arm that did not win.
        tokio::select! {
            () = stop.cancelled() => return Err(OvsdbError::Exited),
            () = tokio::time::sleep_until(until) => return Ok(()),
            request = inbox.recv() => match request {
                Some(request) => drop(request.reply.send(Err(OvsdbError::NotConnected))),
                None => return Err(OvsdbError::Exited),
            },
        }
    }
}
