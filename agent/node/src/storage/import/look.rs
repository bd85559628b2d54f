//! Looks at images of registries for control: which digest a tag has now, and how large the disk in an image is. The child
//! that looks is that of imports: shut in before it sees a byte, through the node's proxy, without a key of Ceph.
//!
//! Control does not ask registries itself: it has no way through the node's proxy, may read no Secret, and is no place for
//! bytes of strangers. It asks when a guest starts, once, and nobody looks in between. Bounds: `LOOKS` at a time, `LIMIT` for
//! each with its wait for a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use furrow_api::channel::{ImageAnswer, ImageQuestion};
use furrow_api::import::PullSecret;
use furrow_model::proxy::Proxies;
use kube::Client;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Place;
use super::attempt::{self, Outcome, Run};
use super::inputs;
use super::protocol::{Location, Look, Origin, Report, Task};

/// Children at a time, of each kind.
const LOOKS: usize = 4;
/// Control waits a little longer.
const LIMIT: Duration = Duration::from_secs(90);

/// Why nothing was seen. Ends up in a guest's condition.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// The registry, the secret, or the image in it.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("the registry of {image} did not answer within {} s", LIMIT.as_secs())]
    Timeout {
        /// The image.
        image: String,
    },
}

/// Looks at images.
#[derive(Clone)]
pub(crate) struct Images {
    client: Client,
    place: Place,
    turns: Arc<Semaphore>,
    /// Of those that take files: a look must not wait for a large one.
    pub(super) fetches: Arc<Semaphore>,
    started: Arc<AtomicU64>,
}

impl Images {
    pub(in crate::storage) fn new(client: Client, place: Place) -> Self {
        let turns = || Arc::new(Semaphore::new(LOOKS));
        Self { client, place, turns: turns(), fetches: turns(), started: Arc::default() }
    }

    /// Looks at one.
    ///
    /// # Errors
    /// What is wrong with it, or with its registry.
    pub(crate) async fn look(&self, question: &ImageQuestion) -> Result<ImageAnswer, LookError> {
        // Dropping the child at the deadline kills it.
        let seen = tokio::time::timeout(LIMIT, Box::pin(self.see(question))).await;
        seen.unwrap_or_else(|_| Err(LookError::Timeout { image: question.image.clone() }))
    }

    /// Where an image is, its path and whether without TLS, with the login in a pull secret if there is one.
    pub(super) async fn origin(
        &self,
        (image, path, plain_http): (String, Option<String>, bool),
        secret: Option<&PullSecret>,
    ) -> Result<Origin, LookError> {
        let login = match secret {
            Some(secret) => inputs::pull_login(&self.client, secret, &image).await,
            None => Ok(None),
        };
        let login = login.map_err(|(failure, _)| LookError::Failed(failure.message))?;
        let location = Location::Registry { image, path, plain_http };
        Ok(Origin { location, login, certificates: Vec::new(), proxies: Proxies::default() })
    }

    /// A child of its own.
    pub(super) async fn start(&self, task: Task) -> Result<Run, LookError> {
        let name = format!("look-{}", self.started.fetch_add(1, Ordering::Relaxed));
        let started = attempt::start(&self.place, &name, task).await;
        started.map_err(|(failure, _)| LookError::Failed(failure.message))
    }

    async fn see(&self, question: &ImageQuestion) -> Result<ImageAnswer, LookError> {
        let _turn = turn(&self.turns).await?;
        let ImageQuestion { image, path, plain_http, measure, pull_secret } = question.clone();
        let origin = self.origin((image, path, plain_http), pull_secret.as_ref()).await?;
        let look = Look { origin, measure, directory: std::path::PathBuf::new() };
        let mut run = self.start(Task::Look(Box::new(look))).await?;
        match ended(&mut run).await? {
            Report::Seen { digest, disk_bytes } => Ok(ImageAnswer { digest, disk_bytes }),
            _ => Err(LookError::Failed("the look ended without an answer".to_owned())),
        }
    }
}

/// Waits until a child has ended, and gives its last report.
pub(super) async fn ended(run: &mut Run) -> Result<Report, LookError> {
    loop {
        match run.next().await {
            Outcome::Ended(Report::Failed { message, .. }) | Outcome::Broken(message) => {
                return Err(LookError::Failed(message));
            }
            Outcome::Ended(report) => return Ok(report),
            Outcome::Progress { .. } => {}
        }
    }
}

/// A turn, held for as long as a child runs.
pub(super) async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, LookError> {
    turns.acquire().await.map_err(|_| LookError::Failed("the agent is ending".to_owned()))
}
