//! Which imports run: one task for each DataVolume of this node, from its annotation to its end.
//!
//! Owns the tasks' lives: a DataVolume that is deleted, or given to another node, ends its task,
//! and with it the child, before anything else touches the image. Refuses to start two tasks for
//! one object. At most `RUNNING` children at a time; the others wait their turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use furrow_api::DataVolume;
use furrow_api::import::ImportJob;
use furrow_api::names::{ANNOTATION_IMPORT, LABEL_IMPORT_NODE};
use furrow_model::import::{Next, Severity, after_failure};
use futures::StreamExt as _;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Place;
use super::attempt::{self, Outcome};
use super::inputs;
use super::protocol::{Report, Task};
use super::status::{Failure, Status};

/// Children at a time: an import takes a processor and about 100 MiB.
const RUNNING: usize = 2;

/// What all tasks share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) place: Place,
    turns: Semaphore,
}

struct Jobs {
    context: Arc<Context>,
    /// Tasks that run, by the UID of their DataVolume.
    running: HashMap<String, CancellationToken>,
    tasks: JoinSet<String>,
    /// UIDs of a list that is being received.
    listed: Vec<String>,
    stop: CancellationToken,
}

/// Watches and imports until `stop`.
pub(crate) async fn run(client: Client, place: Place, stop: CancellationToken) {
    let selector = format!("{LABEL_IMPORT_NODE}={}", place.node);
    let api: Api<DataVolume> = Api::all(client.clone());
    let watch = watcher(api, watcher::Config::default().labels(&selector)).default_backoff();
    let mut watch = std::pin::pin!(watch);
    let context = Arc::new(Context { client, place, turns: Semaphore::new(RUNNING) });
    let mut jobs =
        Jobs { context, running: HashMap::new(), tasks: JoinSet::new(), listed: Vec::new(), stop: stop.clone() };
    loop {
        // Safe to cancel on every arm: each only waits, and what it yields is handled whole.
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = jobs.tasks.join_next(), if !jobs.tasks.is_empty() => jobs.ended(ended),
            event = watch.next() => match event {
                Some(Ok(event)) => jobs.observe(event),
                Some(Err(error)) => tracing::warn!(error = %error, "DataVolumes cannot be watched"),
                None => break,
            },
        }
    }
    // Children end with their tasks; the images keep their notes, and the next start begins anew.
    while jobs.tasks.join_next().await.is_some() {}
}

impl Jobs {
    fn observe(&mut self, event: Event<DataVolume>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(dv) => {
                self.listed.extend(dv.uid());
                self.consider(&dv);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let gone: Vec<_> = self.running.keys().filter(|uid| !listed.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| self.cancel(uid));
            }
            Event::Apply(dv) => self.consider(&dv),
            // Also when its label names another node now.
            Event::Delete(dv) => self.cancel(&dv.uid().unwrap_or_default()),
        }
    }

    fn consider(&mut self, dv: &DataVolume) {
        let (Some(uid), Some(namespace)) = (dv.uid(), dv.namespace()) else { return };
        if dv.metadata.deletion_timestamp.is_some() {
            self.cancel(&uid);
            return;
        }
        let over = dv.status.as_ref().is_some_and(|status| status.phase.is_final());
        let Some(text) = dv.annotations().get(ANNOTATION_IMPORT).filter(|_| !over) else { return };
        if self.running.contains_key(&uid) {
            return;
        }
        let token = self.stop.child_token();
        self.running.insert(uid.clone(), token.clone());
        let status = Status::new(&self.context.client, &self.context.place.node, dv, &namespace);
        let mut job = Job {
            context: Arc::clone(&self.context),
            restarts: dv.status.as_ref().and_then(|s| s.restart_count).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            golden: !dv.owner_references().iter().any(|owner| owner.kind == "VirtualMachine"),
            text: text.clone(),
            uid: uid.clone(),
            namespace,
            status,
            waited: Duration::ZERO,
            child: None,
        };
        self.tasks.spawn(async move {
            // Safe to cancel: an import begins anew, and its child is ended below.
            if token.run_until_cancelled(job.run()).await.is_none() {
                job.stop().await;
            }
            uid
        });
    }

    fn cancel(&mut self, uid: &str) {
        if let Some(token) = self.running.get(uid) {
            tracing::info!(uid, "import cancelled");
            token.cancel();
        }
    }

    fn ended(&mut self, task: Result<String, tokio::task::JoinError>) {
        // A panic ends the process by the agent's hook, so there is always a UID.
        if let Ok(uid) = task {
            self.running.remove(&uid);
        }
    }
}

struct Job {
    context: Arc<Context>,
    status: Status,
    text: String,
    uid: String,
    namespace: String,
    golden: bool,
    restarts: u32,
    waited: Duration,
    child: Option<attempt::Run>,
}

impl Job {
    /// Until the DataVolume is Succeeded or Failed, or is not ours any more.
    async fn run(&mut self) {
        let task: ImportJob = match serde_json::from_str(&self.text) {
            Ok(task) => task,
            Err(error) => {
                let message = format!("the import's annotation {ANNOTATION_IMPORT} is malformed: {error}");
                return self.status.failed(&Failure { reason: "ImportFailed".to_owned(), message }).await;
            }
        };
        loop {
            let failure = match self.attempt(&task).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            let (failure, severity) = failure;
            tracing::warn!(
                datavolume = %self.status.name(), reason = %failure.reason, error = %failure.message, ?severity,
                restarts = self.restarts, "import failed"
            );
            match after_failure(severity, self.restarts, self.waited) {
                Next::GiveUp => return self.status.failed(&failure).await,
                Next::Retry(wait) => {
                    self.restarts += 1;
                    self.wait(&failure, wait).await;
                }
                Next::Wait(wait) => {
                    self.waited += wait;
                    self.wait(&failure, wait).await;
                }
            }
        }
    }

    async fn wait(&mut self, failure: &Failure, wait: Duration) {
        self.status.restarting(failure, self.restarts).await;
        tokio::time::sleep(wait).await;
    }

    /// Ends the child of a job that was cancelled.
    async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop().await;
        }
    }

    /// One child; the error says whether trying again can help.
    async fn attempt(&mut self, task: &ImportJob) -> Result<(), (Failure, Severity)> {
        let Ok(_turn) = self.context.turns.acquire().await else { return Ok(()) };
        let Some(origin) = inputs::read(&self.context.client, &self.namespace, &task.source).await? else {
            self.status.succeeded().await;
            return Ok(());
        };
        self.status.started().await;
        let started = std::time::Instant::now();
        let place = &self.context.place;
        let spec = Task::Import(Box::new(attempt::spec(place, task, origin, self.golden)));
        // The run before clears the directory when it is dropped, and this one has the same.
        self.child = None;
        let run = self.child.insert(attempt::start(place, &self.uid, spec).await?);
        loop {
            match run.next().await {
                Outcome::Progress { done, total } => self.status.progress(done, total).await,
                Outcome::Ended(Report::Done { read, written, virtual_size, peak_kib }) => {
                    let elapsed_ms = started.elapsed().as_millis() as u64;
                    tracing::info!(
                        datavolume = %self.status.name(), image = %task.image, read, written, virtual_size, peak_kib,
                        elapsed_ms, "import succeeded"
                    );
                    self.status.succeeded().await;
                    return Ok(());
                }
                Outcome::Ended(Report::Failed { reason, message, severity }) => {
                    return Err((Failure { reason, message }, severity));
                }
                Outcome::Ended(Report::Progress { .. } | Report::Seen { .. } | Report::Taken {}) => {}
                Outcome::Broken(message) => {
                    return Err((Failure { reason: "ImportFailed".to_owned(), message }, Severity::Passing));
                }
            }
        }
    }
}
