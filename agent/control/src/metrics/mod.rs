//! Metrics of virtual machines and of control itself, as OpenMetrics text over HTTPS on a port of their own, from the caches
//! of this process: a scrape asks the API server nothing but who the scraper is. Every control process answers, whether it
//! leads or not; which one leads is a metric, and the others show themselves only, so that a virtual machine is not counted
//! once a server. Refuses whoever has no token of the cluster that may `get /metrics`.

mod access;
mod collect;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use furrow_model::metrics::CONTENT_TYPE;
use tokio::sync::Semaphore;

use self::access::Access;
use crate::cluster::Cluster;
use crate::server::{self, Server};

/// Scrapes at a time; there are one or two Prometheus.
const CONCURRENT_SCRAPES: usize = 4;

/// What is shown of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Its caches are filled: it may lead.
    pub(crate) ready: Arc<AtomicBool>,
    /// It leads.
    pub(crate) leading: Arc<AtomicBool>,
}

struct Served {
    access: Access,
    cluster: Cluster,
    standing: Standing,
    scrapes: Semaphore,
}

/// Starts to serve. `pki`: the directory with `serving.crt` and `serving.key`.
///
/// # Errors
/// When the certificate cannot be read or the address is taken.
pub(crate) async fn start(
    listen: SocketAddr,
    pki: &Path,
    cluster: Cluster,
    standing: Standing,
) -> anyhow::Result<Server> {
    let tls = RustlsConfig::from_pem_file(pki.join("serving.crt"), pki.join("serving.key"))
        .await
        .with_context(|| format!("could not read serving.crt and serving.key in {}", pki.display()))?;
    let access = Access::new(cluster.client.clone());
    let scrapes = Semaphore::new(CONCURRENT_SCRAPES);
    let served = Arc::new(Served { access, cluster, standing, scrapes });
    let app = Router::new().route("/metrics", get(scrape)).with_state(served);
    let listener = crate::subresources::listen(listen).with_context(|| format!("could not listen on {listen}"))?;
    let bound = axum_server::from_tcp_rustls(listener, tls).context("could not use the socket")?;
    server::run(bound, app).await.with_context(|| format!("could not serve on {listen}"))
}

async fn scrape(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = served.access.check(&headers).await {
        return refusal.into_response();
    }
    let Ok(_permit) = served.scrapes.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at a time\n").into_response();
    };
    let (ready, leading) = (&served.standing.ready, &served.standing.leading);
    let (ready, leading) = (ready.load(Ordering::Acquire), leading.load(Ordering::Acquire));
    let mut metrics = collect::process(ready, leading);
    if leading {
        let settings = crate::kubevirt::settings(&served.cluster.kubevirts);
        collect::cluster(&mut metrics, settings.as_deref());
        served.cluster.vms.state().iter().for_each(|vm| collect::vm(&mut metrics, vm));
        let (vmis, pods) = (served.cluster.vmis.state(), served.cluster.pods.state());
        collect::vmis(&mut metrics, &vmis, &pods);
    }
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
