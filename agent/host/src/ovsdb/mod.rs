//! Open vSwitch's database, spoken directly (RFC 7047 and ovsdb-server(7)): one task owns the connection, keeps a copy
//! of the monitored tables, carries transactions, and comes back after the server was gone. Refuses to queue without
//! end, and to let a transaction whose fate is unknown look like one that failed.
//!
//! ```text
//!   connect -> schema -> monitor ->  serving  -- lost --> wait, connect, resume from the last transaction id
//!                                    | answers echo, applies updates before the replies that follow them
//! ```

mod client;
mod frame;
mod mirror;
mod op;
pub mod value;
pub mod vswitch;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use mirror::Tables;
pub use op::{Compare, Mutator, Operation, Outcome, Where};

use value::{Datum, NotOvsdb};

/// The database of vswitchd.
const DATABASE: &str = "Open_vSwitch";

/// The socket that Debian's openvswitch-switch serves it on.
pub const DEFAULT_SOCKET: &str = "/run/openvswitch/db.sock";

/// Requests that may wait for the owner: a start of every guest of a full node at once, several times over.
const QUEUE: usize = 256;

/// How long a transaction may take. The server answers in milliseconds; it compacts its file in under a second.
const TRANSACT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long vswitchd may take to realise a change. It reconfigures in milliseconds, but waits for slow drivers.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A table and its columns.
pub type Monitored = (&'static str, &'static [&'static str]);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OvsdbError {
    /// Too many requests wait already.
    #[error("the OVSDB connection is busy with {QUEUE} requests")]
    Busy,
    /// The owner has ended: this process is stopping.
    #[error("the OVSDB connection has been closed")]
    Exited,
    /// The server cannot be reached; nothing was sent.
    #[error("ovsdb-server is not reachable")]
    NotConnected,
    /// The connection broke after the request was sent: it may or may not have happened.
    #[error("ovsdb-server went away before it answered")]
    Lost,
    /// No answer in time: it may or may not have happened.
    #[error("ovsdb-server did not answer within {timeout_ms} ms")]
    Timeout {
        /// The limit in milliseconds.
        timeout_ms: u128,
    },
    /// The transaction was not done.
    #[error("ovsdb-server refused operation {operation}: {error}: {details}")]
    Refused {
        /// Index of the operation; the number of operations for a failed commit.
        operation: usize,
        /// The server's word for it.
        error: String,
        /// The server's sentence.
        details: String,
    },
    /// The transaction was done, but vswitchd has not taken it up.
    #[error("ovs-vswitchd did not apply configuration {wanted} within {timeout_ms} ms")]
    NotApplied {
        /// `next_cfg` of the transaction.
        wanted: i64,
        /// The limit in milliseconds.
        timeout_ms: u128,
    },
    /// The server said what the protocol does not know.
    #[error("ovsdb-server spoke out of protocol: {0}")]
    Malformed(String),
}

impl OvsdbError {
    fn malformed(what: &str) -> Self {
        Self::Malformed(what.to_owned())
    }
}

impl From<NotOvsdb> for OvsdbError {
    fn from(error: NotOvsdb) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What is known of the database.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Counts connections, so that a reader notices one that came back.
    pub session: u64,
    /// The monitored tables; `None` while there is no connection.
    pub tables: Option<Tables>,
}

/// A request on its way to the owner.
#[derive(Debug)]
struct Request {
    method: &'static str,
    params: Value,
    reply: oneshot::Sender<Result<Value, OvsdbError>>,
}

/// A handle to the owner of the connection; clones share it.
#[derive(Debug, Clone)]
pub struct Ovsdb {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
}

impl Ovsdb {
    /// Starts the owner of a connection to `socket`, which copies the `monitored` tables and ends with `stop`.
    #[must_use]
    pub fn start(socket: PathBuf, monitored: &'static [Monitored], stop: CancellationToken) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(State::default());
        tokio::spawn(client::Owner::new(socket, monitored, publish).run(inbox, stop));
        Self { requests, state }
    }

    /// The state, and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The monitored tables as they are now. A transaction of this handle that has been answered is in them.
    ///
    /// # Errors
    /// `NotConnected`.
    pub fn tables(&self) -> Result<Tables, OvsdbError> {
        self.state.borrow().tables.clone().ok_or(OvsdbError::NotConnected)
    }

    /// Does all of these operations, or none.
    ///
    /// # Errors
    /// See [`OvsdbError`]; after `Lost` and `Timeout` look before trying again.
    pub async fn transact(&self, operations: &[Operation]) -> Result<Vec<Outcome>, OvsdbError> {
        let mut params = vec![json!(DATABASE)];
        params.extend(operations.iter().map(Operation::to_json));
        let (reply, answer) = oneshot::channel();
        let request = Request { method: "transact", params: Value::Array(params), reply };
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OvsdbError::Busy,
            mpsc::error::TrySendError::Closed(_) => OvsdbError::Exited,
        })?;
        // Dropping the answer at the deadline is safe: the owner finds nobody waiting and forgets the request.
        match tokio::time::timeout(TRANSACT_TIMEOUT, answer).await {
            Ok(Ok(result)) => op::outcomes(&result?, operations.len()),
            Ok(Err(_)) => Err(OvsdbError::Exited),
            Err(_) => Err(OvsdbError::Timeout { timeout_ms: TRANSACT_TIMEOUT.as_millis() }),
        }
    }

    /// Like [`Ovsdb::transact`], and waits until vswitchd has applied it.
    ///
    /// # Errors
    /// Those of `transact`, and `NotApplied`.
    pub async fn apply(&self, mut operations: Vec<Operation>) -> Result<Vec<Outcome>, OvsdbError> {
        let count = operations.len();
        operations.push(Operation::Mutate {
            table: DATABASE,
            rows: Vec::new(),
            mutations: vec![("next_cfg", Mutator::Add, Datum::one(1))],
        });
        operations.push(Operation::Select { table: DATABASE, rows: Vec::new(), columns: vec!["next_cfg"] });
        let mut outcomes = self.transact(&operations).await?;
        let wanted = outcomes.last().and_then(|outcome| outcome.rows.first()?.integer("next_cfg"));
        let wanted = wanted.ok_or_else(|| OvsdbError::malformed("the root row has no next_cfg"))?;
        self.applied(wanted).await?;
        outcomes.truncate(count);
        Ok(outcomes)
    }

    async fn applied(&self, wanted: i64) -> Result<(), OvsdbError> {
        let mut state = self.state.clone();
        let applied = state.wait_for(|state| {
            let root = state.tables.as_ref().and_then(|tables| tables.rows(DATABASE).next());
            root.is_some_and(|(_, root)| root.integer("cur_cfg").unwrap_or(0) >= wanted)
        });
        // Dropping the wait at the deadline is safe: it only reads.
        match tokio::time::timeout(APPLY_TIMEOUT, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(OvsdbError::Exited),
            Err(_) => Err(OvsdbError::NotApplied { wanted, timeout_ms: APPLY_TIMEOUT.as_millis() }),
        }
    }
}

#[cfg(test)]
mod tests;
