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
use furrow_model::proxy::Proxies;
use kube::Client;
use tokio::sync::Semaphore;

use super::Place;
use super::attempt::{self, Outcome};
use super::inputs;
use super::protocol::{Location, Look, Origin, Report, Task};

/// Children at a time.
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
    looks: Arc<AtomicU64>,
}

impl Images {
    pub(in crate::storage) fn new(client: Client, place: Place) -> Self {
        Self { client, place, turns: Arc::new(Semaphore::new(LOOKS)), looks: Arc::default() }
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

    async fn see(&self, question: &ImageQuestion) -> Result<ImageAnswer, LookError> {
        let failed = |message: &str| LookError::Failed(message.to_owned());
        let _turn = self.turns.acquire().await.map_err(|_| failed("the agent is ending"))?;
        let login = match &question.pull_secret {
            Some(secret) => inputs::pull_login(&self.client, secret, &question.image).await,
            None => Ok(None),
        };
        let login = login.map_err(|(failure, _)| LookError::Failed(failure.message))?;
        let ImageQuestion { image, path, plain_http, measure, .. } = question.clone();
        let location = Location::Registry { image, path, plain_http };
        let origin = Origin { location, login, certificates: Vec::new(), proxies: Proxies::default() };
        let look = Look { origin, measure, directory: std::path::PathBuf::new() };
        let name = format!("look-{}", self.looks.fetch_add(1, Ordering::Relaxed));
        let started = attempt::start(&self.place, &name, Task::Look(Box::new(look))).await;
        let mut run = started.map_err(|(failure, _)| LookError::Failed(failure.message))?;
        loop {
            match run.next().await {
                Outcome::Ended(Report::Seen { digest, disk_bytes }) => return Ok(ImageAnswer { digest, disk_bytes }),
                Outcome::Ended(Report::Failed { message, .. }) | Outcome::Broken(message) => {
                    return Err(LookError::Failed(message));
                }
                Outcome::Ended(_) => return Err(failed("the look ended without an answer")),
                Outcome::Progress { .. } => {}
            }
        }
    }
}
