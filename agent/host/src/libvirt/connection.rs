//! The connection to libvirtd and its threads: one that owns it (connects, registers callbacks, installs secrets,
//! reconnects), one that runs libvirt's event loop, and a few that make the blocking calls.
//!
//! ```text
//!            +-> connecting --(open, callbacks, secrets)--> connected --(close callback, keepalive)--+
//!            +------------------------------ back-off 0.2 s .. 5 s <---------------------------------+
//! ```
//!
//! Refuses to interpret domains: that is `super::domain`.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use virt::connect::Connect;

use super::raw::{self, Sink};
use super::secret::{self, CephSecret};
use super::{EventStream, LibvirtError, LibvirtEvent};

/// Calls that run at the same time, each on a thread of its own: as many as libvirtd serves of one client
/// (`max_client_requests` in the image's `libvirtd.conf`).
pub const CONCURRENT_CALLS: usize = 20;
/// Calls that may wait for a thread: every guest of a full node once, with room.
const CALL_QUEUE: usize = 512;
/// Events that may wait for the reader; past it the reader looks at every domain.
const EVENT_QUEUE: usize = 1024;
/// libvirtd is asked for a sign of life every 5 s and given up after 3 unanswered ones.
const KEEPALIVE_INTERVAL_S: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;
const RECONNECT_FLOOR: Duration = Duration::from_millis(200);
const RECONNECT_CEILING: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(Option<Connect>) + Send>;

/// How to reach libvirt.
#[derive(Debug, Clone)]
pub struct LibvirtOptions {
    /// Connection URI, `qemu:///system` on a node.
    pub uri: String,
    /// Secrets to install whenever libvirtd has been (re)connected: they live in its memory only.
    pub secrets: Vec<CephSecret>,
}

/// A handle to libvirt; cheap to clone, all clones share the threads.
#[derive(Clone)]
pub struct Libvirt {
    jobs: mpsc::Sender<Job>,
    connected: watch::Receiver<bool>,
}

impl std::fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libvirt").field("connected", &*self.connected.borrow()).finish_non_exhaustive()
    }
}

impl Libvirt {
    /// Starts the threads. Returns at once: the first connection is made in the background and announced as
    /// [`LibvirtEvent::Connected`].
    ///
    /// # Errors
    /// When libvirt's event loop or a thread cannot be made. The event loop is one a process, so is this call.
    pub fn start(options: LibvirtOptions) -> Result<(Self, EventStream), LibvirtError> {
        virt::error::clear_error_callback();
        // Before any connection is opened: one opened earlier would never deliver an event (KubeVirt pull 1630).
        virt::event::event_register_default_impl().map_err(|error| LibvirtError::from_virt("start events", &error))?;
        let (events, event_reader) = mpsc::channel(EVENT_QUEUE);
        let lost = Arc::new(AtomicBool::new(false));
        let (closed, closed_reader) = sync_channel(1);
        let (connected_writer, connected) = watch::channel(false);
        let (jobs, job_reader) = mpsc::channel::<Job>(CALL_QUEUE);
        let shared = Arc::new(Mutex::new(None));
        let job_reader = Arc::new(Mutex::new(job_reader));

        spawn("libvirt-events", run_event_loop)?;
        for _ in 0..CONCURRENT_CALLS {
            let (shared, job_reader) = (Arc::clone(&shared), Arc::clone(&job_reader));
            spawn("libvirt-call", move || run_calls(&shared, &job_reader))?;
        }
        let sink = Sink { events, lost: Arc::clone(&lost), closed: SyncSender::clone(&closed) };
        let owner = Owner { options, sink, closed: closed_reader, shared, connected: connected_writer };
        spawn("libvirt-owner", move || owner.run())?;
        Ok((Self { jobs, connected }, EventStream::new(event_reader, lost)))
    }

    /// Waits until libvirt has been reached once.
    pub async fn connected(&self) {
        let mut connected = self.connected.clone();
        // The writer lives as long as the owner's thread, which does not end.
        let _ = connected.wait_for(|connected| *connected).await;
    }

    /// Makes one blocking call on a thread of its own.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        limit: Duration,
        work: impl FnOnce(&Connect) -> Result<T, LibvirtError> + Send + 'static,
    ) -> Result<T, LibvirtError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = match connection {
                Some(connection) => work(&connection),
                None => Err(LibvirtError::NotConnected { operation }),
            };
            // The asker may have given up at its deadline; the next observation shows what this call did.
            let _ = reply.send(result);
        });
        let asked = async {
            self.jobs.send(job).await.map_err(|_| LibvirtError::Exited { operation })?;
            answer.await.map_err(|_| LibvirtError::Exited { operation })?
        };
        // Dropping at the deadline is safe: the thread finishes the call and its answer goes nowhere.
        tokio::time::timeout(limit, asked)
            .await
            .map_err(|_| LibvirtError::Timeout { operation, limit_ms: limit.as_millis() })?
    }
}

struct Owner {
    options: LibvirtOptions,
    sink: Sink,
    closed: Receiver<()>,
    shared: Arc<Mutex<Option<Connect>>>,
    connected: watch::Sender<bool>,
}

impl Owner {
    fn run(self) {
        let mut delay = RECONNECT_FLOOR;
        loop {
            match self.connect() {
                Ok(connection) => {
                    delay = RECONNECT_FLOOR;
                    *lock(&self.shared) = Some(connection);
                    self.connected.send_replace(true);
                    tracing::info!(uri = %self.options.uri, "libvirt connected");
                    self.sink.publish(LibvirtEvent::Connected);
                    if self.closed.recv().is_err() {
                        return;
                    }
                    self.connected.send_replace(false);
                    if let Some(connection) = lock(&self.shared).take() {
                        raw::unregister_close(&connection);
                    }
                    tracing::warn!(uri = %self.options.uri, "libvirt connection lost, reconnecting");
                }
                Err(error) => tracing::warn!(uri = %self.options.uri, error = %error, "libvirt is not reachable yet"),
            }
            // A wait that a stale close notice may cut short: trying again early does no harm.
            if self.closed.recv_timeout(delay) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            delay = (delay * 2).min(RECONNECT_CEILING);
        }
    }

    fn connect(&self) -> Result<Connect, LibvirtError> {
        let connection = Connect::open(Some(&self.options.uri)).map_err(|e| LibvirtError::from_virt("connect", &e))?;
        // The test driver has no transport and refuses keepalive; a lost one is then noticed by its calls.
        if let Err(error) = connection.set_keep_alive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT) {
            tracing::debug!(error = %error, "this connection has no keepalive");
        }
        raw::register(&connection, &self.sink).map_err(|e| LibvirtError::from_virt("register events", &e))?;
        let installed = self.options.secrets.iter().try_for_each(|spec| secret::install(&connection, spec));
        if let Err(error) = installed {
            raw::unregister_close(&connection);
            return Err(error);
        }
        Ok(connection)
    }
}

fn run_event_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::error!(error = %error, "an iteration of libvirt's event loop failed");
            // Without a pause a broken loop would take a whole core.
            std::thread::park_timeout(RECONNECT_FLOOR);
        }
    }
}

fn run_calls(shared: &Mutex<Option<Connect>>, jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = lock(jobs).blocking_recv();
        let Some(job) = job else { return };
        let connection = lock(shared).clone();
        job(connection);
    }
}

/// The data behind these locks is replaced whole, so a thread that panicked while holding one left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), LibvirtError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 * 1024)
        .spawn(body)
        .map(drop)
        .map_err(|source| LibvirtError::Thread { name, source })
}
