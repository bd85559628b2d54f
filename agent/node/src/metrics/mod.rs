//! Metrics of this node's guests, as OpenMetrics text over HTTPS on a port of their own: the channel to control wants
//! control's certificate, which no Prometheus has. Whoever has a token of the cluster that may `get /metrics` is answered.
//!
//! ```text
//!  Prometheus ─(TLS, bearer token)─> access ─(TokenReview, SubjectAccessReview; a minute's memory)─> API server
//!                                      └──> collect: libvirt, one call for all guests; what owners know
//! ```
//!
//! The server's certificate is the agent's own, which names no host, so that scrapers skip its verification, as KubeVirt's
//! own ServiceMonitor does. Refuses to ask a guest anything, and more scrapes at a time than a few.

mod access;
mod collect;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use furrow_api::names::AGENT_METRICS_PORT;
use furrow_host::libvirt::{Libvirt, LibvirtError};
use furrow_model::metrics::CONTENT_TYPE;
use furrow_model::reasons::chain;
use futures::future::BoxFuture;
use kube::Client;
use kube::config::Kubeconfig;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::channel::{listen, tls};
use crate::guest::Shown;
use access::Access;

/// Between attempts to begin, while the address is not free yet.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// A connection that asks nothing is closed after this long.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Scrapes under way have this long when the agent ends.
const DRAIN: Duration = Duration::from_secs(2);
/// Scrapes at a time; there are one or two Prometheus.
const CONCURRENT_SCRAPES: usize = 4;

/// Statistics of every guest by its domain's name, in libvirt's names.
pub(crate) type AllStats = HashMap<String, HashMap<String, String>>;

/// Where statistics come from.
pub(crate) trait Statistics: Send + Sync {
    /// Those of every guest that runs.
    fn all(&self) -> BoxFuture<'_, Result<AllStats, LibvirtError>>;
}

impl Statistics for Libvirt {
    fn all(&self) -> BoxFuture<'_, Result<AllStats, LibvirtError>> {
        Box::pin(self.all_stats())
    }
}

/// What metrics work with.
pub(crate) struct Parts {
    /// Kubernetes.
    pub(crate) client: Client,
    /// Statistics.
    pub(crate) statistics: Arc<dyn Statistics>,
    /// The guests.
    pub(crate) shown: Arc<Shown>,
    /// Kubernetes name of this node.
    pub(crate) node: String,
    /// The kubeconfig whose user the agent is: its certificate is what it serves with.
    pub(crate) kubeconfig: PathBuf,
}

struct Served {
    access: Access,
    statistics: Arc<dyn Statistics>,
    shown: Arc<Shown>,
    node: String,
    scrapes: Semaphore,
}

/// Serves until `stop`. Guests do not wait for it: it begins when it can.
pub(crate) fn start(parts: Parts, stop: CancellationToken) {
    let served = Arc::new(Served {
        access: Access::new(parts.client),
        statistics: parts.statistics,
        shown: parts.shown,
        node: parts.node,
        scrapes: Semaphore::new(CONCURRENT_SCRAPES),
    });
    tokio::spawn(async move {
        loop {
            // Safe to cancel: a server that is dropped closes its socket.
            tokio::select! {
                () = stop.cancelled() => return,
                result = serve(&parts.kubeconfig, Arc::clone(&served), &stop) => match result {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "metrics cannot be shown yet"),
                },
            }
            // Safe to cancel: waiting changes nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    });
}

async fn serve(kubeconfig: &Path, served: Arc<Served>, stop: &CancellationToken) -> anyhow::Result<()> {
    let path = kubeconfig.display();
    let document = Kubeconfig::read_from(kubeconfig).with_context(|| format!("could not read {path}"))?;
    let (certificates, key) = tls::identity(&document).with_context(|| format!("could not serve with {path}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("could not choose versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .context("could not use the certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener =
        listen(AGENT_METRICS_PORT).with_context(|| format!("could not listen on port {AGENT_METRICS_PORT}"))?;
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config)))
        .context("could not use the socket")?
        .first_request_timeout(FIRST_REQUEST)
        .handle(handle.clone());
    tracing::info!(port = AGENT_METRICS_PORT, "showing metrics");
    let serving = server.serve(router(served).into_make_service());
    let mut serving = std::pin::pin!(serving);
    // Safe to cancel: the other arm goes on with the same future.
    tokio::select! {
        () = stop.cancelled() => {}
        result = &mut serving => return result.context("the server failed"),
    }
    handle.graceful_shutdown(Some(DRAIN));
    if let Err(error) = serving.await {
        tracing::debug!(error = chain(&error), "the server ended");
    }
    Ok(())
}

fn router(served: Arc<Served>) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(served)
}

async fn scrape(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = served.access.check(&headers).await {
        return refusal.into_response();
    }
    let Ok(_permit) = served.scrapes.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at a time\n").into_response();
    };
    let stats = match served.statistics.all().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!(error = chain(&error), "there are no statistics of guests");
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", chain(&error))).into_response();
        }
    };
    match collect::collect(&served.node, &served.shown.all(), &stats).text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
