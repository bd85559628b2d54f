//! How async code asks a cluster: as one user, over a connection that is made at the first command and kept for the next
//! ones, each with a limit. It decides nothing and asks nothing twice.
//!
//! ```text
//!            monitors' command ──> connection, limited by librados ──────────> answer
//!  Monitor ─┤
//!            manager's command ──> is one active? ──> connection without limit, on a thread that may be left ──> answer
//! ```

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::CephError;
use super::commands::{self, Command, Target};
use super::connection::{Connection, User};

/// How long a monitor is looked for. One that elects or copies needs some seconds, a test machine more.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long a command may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// What librados may need beyond its own limits before the call is given up on.
const SLACK: Duration = Duration::from_secs(5);

type Kept = Mutex<Option<Arc<Connection>>>;

/// The monitors of this node's cluster, and its manager, as one user asks them. Makes no connection by itself.
pub struct Monitor {
    user: User,
    connect: Duration,
    answer: Duration,
    /// Two, as only one of them may have librados' limit on answers.
    monitors: Kept,
    manager: Kept,
}

/// The answer of `mgr stat`.
#[derive(Deserialize)]
struct ManagerStatus {
    available: bool,
}

impl Monitor {
    /// As `client.<id>` with this keyring.
    pub fn new(id: &'static str, keyring: impl Into<String>) -> Monitor {
        let user = User { id, keyring: keyring.into() };
        Monitor {
            user,
            connect: CONNECT_LIMIT,
            answer: ANSWER_LIMIT,
            monitors: Kept::default(),
            manager: Kept::default(),
        }
    }

    /// As `client.<id>` with the keyring that bootstrap writes for it.
    pub fn of(id: &'static str) -> Monitor {
        Monitor::new(id, format!("/etc/ceph/ceph.client.{id}.keyring"))
    }

    /// As the administrator.
    pub fn administrator() -> Monitor {
        Monitor::of("admin")
    }

    /// Other limits than 20 s for a connection and 60 s for an answer, in whole seconds: a process does not end before
    /// them while the monitors are silent.
    #[must_use]
    pub fn limits(mut self, connect: Duration, answer: Duration) -> Monitor {
        // Zero is for ever to librados.
        let least = Duration::from_secs(1);
        (self.connect, self.answer) = (connect.max(least), answer.max(least));
        self
    }

    /// Sends a command; the answer as `ceph` would write it to a file.
    ///
    /// # Errors
    /// When nobody answers in time, or they refuse.
    pub async fn send(&self, command: Command) -> Result<Vec<u8>, CephError> {
        match command.target() {
            Target::Monitors => self.ask_monitors(command).await,
            Target::Manager => {
                let prefix = command.prefix();
                let status: ManagerStatus =
                    read("mgr stat", &self.ask_monitors(commands::mgr_stat().in_json()).await?)?;
                if !status.available {
                    return Err(CephError::NoManager { command: prefix });
                }
                self.ask_manager(command).await
            }
        }
    }

    /// Sends a command whose answer is a text.
    ///
    /// # Errors
    /// As [`Monitor::send`].
    pub async fn text(&self, command: Command) -> Result<String, CephError> {
        Ok(String::from_utf8_lossy(&self.send(command).await?).into_owned())
    }

    /// Sends a command for an answer in JSON.
    ///
    /// # Errors
    /// As [`Monitor::send`], and when the answer is no such JSON.
    pub async fn query<T: DeserializeOwned>(&self, command: Command) -> Result<T, CephError> {
        let prefix = command.prefix();
        read(prefix, &self.send(command.in_json()).await?)
    }

    async fn ask_monitors(&self, command: Command) -> Result<Vec<u8>, CephError> {
        let (prefix, limit) = (command.prefix(), self.answer);
        let connection = self.connection(prefix, &self.monitors, Some(limit)).await?;
        let call = tokio::task::spawn_blocking(move || connection.send(&command));
        match timeout(limit + SLACK, call).await {
            Ok(Ok(Err(CephError::Refused { errno: Errno::ETIMEDOUT, .. }))) | Err(_) => {
                forget(&self.monitors).await;
                Err(CephError::Timeout { command: prefix, limit })
            }
            Ok(answer) => answer.unwrap_or(Err(CephError::Thread { command: prefix })),
        }
    }

    /// On a thread of its own, for which no end of a process waits: a manager that hangs leaves it waiting for ever.
    async fn ask_manager(&self, command: Command) -> Result<Vec<u8>, CephError> {
        let (prefix, limit) = (command.prefix(), self.answer);
        let connection = self.connection(prefix, &self.manager, None).await?;
        let (answer, answered) = oneshot::channel();
        let thread = std::thread::Builder::new().name("ceph-manager".into());
        let begun = thread.spawn(move || answer.send(connection.send(&command)));
        begun.map_err(|_| CephError::Thread { command: prefix })?;
        match timeout(limit, answered).await {
            Ok(answer) => answer.unwrap_or(Err(CephError::Thread { command: prefix })),
            Err(_) => {
                forget(&self.manager).await;
                Err(CephError::Timeout { command: prefix, limit })
            }
        }
    }

    /// The connection, made now if there is none.
    async fn connection(
        &self,
        prefix: &'static str,
        kept: &Kept,
        answer: Option<Duration>,
    ) -> Result<Arc<Connection>, CephError> {
        let mut kept = kept.lock().await;
        if let Some(connection) = kept.as_ref() {
            return Ok(Arc::clone(connection));
        }
        let (user, connect) = (self.user.clone(), self.connect);
        let call = tokio::task::spawn_blocking(move || Connection::open(&user, connect, answer));
        let opened = match timeout(connect + SLACK, call).await {
            Ok(opened) => opened.unwrap_or(Err(CephError::Thread { command: prefix }))?,
            Err(_) => return Err(CephError::Timeout { command: prefix, limit: connect }),
        };
        let opened = Arc::new(opened);
        *kept = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Drop for Monitor {
    /// Taking leave of the cluster blocks for some milliseconds, which is nothing for a thread that others' tasks run on.
    fn drop(&mut self) {
        for kept in [&mut self.monitors, &mut self.manager] {
            close(kept.get_mut().take());
        }
    }
}

/// What gave no answer is not asked again: the next command connects anew.
async fn forget(kept: &Kept) {
    close(kept.lock().await.take());
}

fn close(connection: Option<Arc<Connection>>) {
    if let (Some(connection), Ok(runtime)) = (connection, Handle::try_current()) {
        runtime.spawn_blocking(move || drop(connection));
    }
}

fn read<T: DeserializeOwned>(command: &'static str, answer: &[u8]) -> Result<T, CephError> {
    serde_json::from_slice(answer).map_err(|source| CephError::Answer { command, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_none_is_told_with_its_command() {
        let status: ManagerStatus =
            read("mgr stat", br#"{"epoch":5,"available":true,"active_name":"n1","num_standby":0}"#).expect("read");
        assert!(status.available);
        let error = read::<ManagerStatus>("mgr stat", b"").err().expect("nothing to read").to_string();
        assert_eq!(error, "could not read the answer of `ceph mgr stat`");
    }

    #[test]
    fn a_limit_is_never_none() {
        let monitor = Monitor::administrator().limits(Duration::ZERO, Duration::from_millis(1));
        assert_eq!((monitor.connect, monitor.answer), (Duration::from_secs(1), Duration::from_secs(1)));
    }
}
