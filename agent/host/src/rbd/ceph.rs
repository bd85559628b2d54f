//! How async code reaches Ceph: a lazy connection and a bounded number of blocking calls.
//!
//! A call that is given up on goes on in its thread until librados' own limit; its permit comes
//! back only then, so a hung cluster cannot take all threads of the process.

use super::cluster::{Cluster, ClusterConfig};
use super::error::{RbdError, RbdErrorKind};
use super::pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, Semaphore};

/// Calls that run at the same time. Each takes a thread; Ceph itself spreads the work.
const MAX_RUNNING: usize = 16;
/// Calls that wait for a thread before callers are told to come back.
const MAX_WAITING: usize = 256;

/// A shared, lazily connected handle.
#[derive(Clone, Debug)]
pub struct Ceph(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ClusterConfig,
    cluster: RwLock<Option<Arc<Cluster>>>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Ceph {
    /// Remembers how to connect; connects at the first call.
    pub fn new(config: ClusterConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            cluster: RwLock::new(None),
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }))
    }

    /// Runs `call` with the pool on a thread where it may block, for at most `limit`.
    ///
    /// A timeout does not undo or stop the call: callers repeat only what is idempotent.
    pub async fn run<T, F>(&self, pool: &str, action: &'static str, limit: Duration, call: F) -> Result<T, RbdError>
    where
        T: Send + 'static,
        F: FnOnce(&Pool) -> Result<T, RbdError> + Send + 'static,
    {
        let Ok(_place) = Arc::clone(&self.0.waiting).try_acquire_owned() else {
            return Err(RbdError::Busy { action, waiting: MAX_WAITING });
        };
        tokio::time::timeout(limit, self.run_when_free(pool, action, call))
            .await
            .unwrap_or(Err(RbdError::Timeout { action, limit }))
    }

    async fn run_when_free<T, F>(&self, pool: &str, action: &'static str, call: F) -> Result<T, RbdError>
    where
        T: Send + 'static,
        F: FnOnce(&Pool) -> Result<T, RbdError> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.0.running).acquire_owned().await else {
            return Err(RbdError::Panicked { action });
        };
        let cluster = self.cluster(action).await?;
        let pool = pool.to_owned();
        let result = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            cluster.pool(&pool).and_then(|pool| call(&pool))
        })
        .await
        .unwrap_or(Err(RbdError::Panicked { action }));
        if matches!(&result, Err(error) if error.kind() == RbdErrorKind::Fenced) {
            // A client on the blocklist never comes back; the next call connects as a new one.
            *self.0.cluster.write().await = None;
        }
        result
    }

    /// The connection, made now if there is none.
    async fn cluster(&self, action: &'static str) -> Result<Arc<Cluster>, RbdError> {
        if let Some(cluster) = self.0.cluster.read().await.as_ref() {
            return Ok(Arc::clone(cluster));
        }
        let mut slot = self.0.cluster.write().await;
        if let Some(cluster) = slot.as_ref() {
            return Ok(Arc::clone(cluster));
        }
        let config = self.0.config.clone();
        let cluster = tokio::task::spawn_blocking(move || Cluster::connect(&config))
            .await
            .unwrap_or(Err(RbdError::Panicked { action }))?;
        *slot = Some(Arc::clone(&cluster));
        Ok(cluster)
    }
}
