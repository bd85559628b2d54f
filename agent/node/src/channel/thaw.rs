//! Frozen guests that are to be thawed by themselves. Owns the timers and a file for each, so that an agent that starts anew
//! thaws what the one before has frozen: a guest whose file systems stay frozen hangs. Refuses to freeze.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use furrow_api::channel::GuestAddress;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::guests::{Act, RunningGuests};
use super::operations::key_of;
use furrow_model::reasons::chain;

/// Attempts to thaw a guest whose agent does not answer, and the time between them.
const ATTEMPTS: u32 = 20;
const AGAIN: Duration = Duration::from_secs(3);

/// A file: which guest, and when.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    namespace: String,
    name: String,
    thaw_at_ms: i64,
}

/// What is done after a guest was thawed in its time.
pub(super) type Thawed = Box<dyn Fn(GuestAddress) -> BoxFuture<'static, ()> + Send + Sync>;

/// The timers.
pub(super) struct Thaws {
    dir: PathBuf,
    guests: Arc<dyn RunningGuests>,
    thawed: Thawed,
    stop: CancellationToken,
    /// By UID; cancelled when the guest is thawed before its time, or frozen anew.
    timers: Mutex<HashMap<String, CancellationToken>>,
}

impl Thaws {
    pub(super) fn new(dir: PathBuf, guests: Arc<dyn RunningGuests>, thawed: Thawed, stop: CancellationToken) -> Self {
        Self { dir, guests, thawed, stop, timers: Mutex::default() }
    }

    /// Writes down that a guest is to be thawed.
    pub(super) async fn keep(&self, guest: &GuestAddress, after: Duration) -> std::io::Result<()> {
        let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
        let thaw_at_ms = jiff::Timestamp::now().as_millisecond().saturating_add(after_ms);
        let record = Record { namespace: guest.namespace.clone(), name: guest.name.clone(), thaw_at_ms };
        let (dir, path) = (self.dir.clone(), self.path(&guest.uid)?);
        let text = serde_json::to_vec(&record)?;
        let written = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let new = path.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(new, path)
        });
        written.await.map_err(std::io::Error::other)?
    }

    /// A UID comes over the network and becomes a file's name.
    fn path(&self, uid: &str) -> std::io::Result<PathBuf> {
        let fits = !uid.is_empty() && uid.len() <= 64 && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if fits { Ok(self.dir.join(uid)) } else { Err(std::io::Error::other("the UID is not one")) }
    }

    /// Forgets a guest: it is thawed, or was not frozen.
    pub(super) async fn forget(&self, guest: &GuestAddress) {
        self.replace_timer(&guest.uid, None);
        self.remove_file(&guest.uid).await;
    }

    async fn remove_file(&self, uid: &str) {
        let Ok(path) = self.path(uid) else { return };
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a guest may be thawed once too often");
            }
            _ => {}
        }
    }

    fn replace_timer(&self, uid: &str, timer: Option<CancellationToken>) {
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match timer {
            Some(timer) => timers.insert(uid.to_owned(), timer),
            None => timers.remove(uid),
        };
        if let Some(old) = old {
            old.cancel();
        }
    }

    /// Thaws a guest after a while, unless it is forgotten before; with no time it only ends an earlier timer.
    pub(super) fn arm(self: &Arc<Self>, guest: GuestAddress, after: Option<Duration>) {
        let Some(after) = after else { return self.replace_timer(&guest.uid, None) };
        let timer = self.stop.child_token();
        self.replace_timer(&guest.uid, Some(timer.clone()));
        let thaws = Arc::clone(self);
        tokio::spawn(async move {
            // Safe to cancel: whoever cancels has thawed it, or a later timer or agent will.
            tokio::select! {
                () = timer.cancelled() => return,
                () = tokio::time::sleep(after) => {}
            }
            if thaws.thaw(&guest, &timer).await {
                (thaws.thawed)(guest).await;
            }
        });
    }

    /// Whether it is not frozen any more.
    async fn thaw(&self, guest: &GuestAddress, timer: &CancellationToken) -> bool {
        let key = key_of(guest);
        let domain = key.domain_name();
        for _ in 0..ATTEMPTS {
            let done = match self.guests.running(&domain).await {
                Ok(uid) if uid.as_ref() != Some(&guest.uid) => Ok(()),
                Ok(_) => self.guests.act(&domain, Act::Thaw).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {
                    tracing::info!(vm = %key, "the guest's time to be frozen is over");
                    self.forget(guest).await;
                    return true;
                }
                Err(error) => tracing::warn!(vm = %key, error = chain(&error), "the guest could not be thawed"),
            }
            // Safe to cancel: as above.
            tokio::select! {
                () = timer.cancelled() => return false,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        tracing::error!(vm = %key, "the guest's file systems may still be frozen: thaw them from inside, or reset it");
        self.forget(guest).await;
        false
    }

    /// Takes up the timers of the agent before.
    pub(super) async fn resume(self: &Arc<Self>) {
        let dir = self.dir.clone();
        let found = tokio::task::spawn_blocking(move || {
            let entries =
                std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
            let read = |entry: &std::fs::DirEntry| {
                let record: Record = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
                Some((entry.file_name().into_string().ok()?, record))
            };
            entries.iter().filter_map(read).collect::<Vec<_>>()
        });
        for (uid, record) in found.await.unwrap_or_default() {
            let left_ms = record.thaw_at_ms.saturating_sub(jiff::Timestamp::now().as_millisecond());
            let guest = GuestAddress { namespace: record.namespace, name: record.name, uid };
            let after = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
            self.arm(guest, Some(after));
        }
    }
}
