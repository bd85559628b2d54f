//! HTTPS servers and their ends; the one on the node's loopback is made here: admission webhooks and `/healthz`. Every
//! control process serves, whether it leads or not; until its caches are filled that one answers 503, so that nothing is
//! admitted on what it does not know yet.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};

/// Requests under way have this long when the process ends; the API server's own limit for webhooks is 10 s.
const DRAIN: Duration = Duration::from_secs(5);

/// Set once the caches are filled.
pub(crate) type Filled = Arc<AtomicBool>;

/// A server that listens.
pub(crate) struct Server {
    handle: axum_server::Handle<SocketAddr>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Starts to serve. `pki`: the directory with `serving.crt` and `serving.key`.
///
/// # Errors
/// When the certificate cannot be read or the address is taken.
pub(crate) async fn start(address: SocketAddr, pki: &Path, webhooks: Router, filled: Filled) -> anyhow::Result<Server> {
    let tls = RustlsConfig::from_pem_file(pki.join("serving.crt"), pki.join("serving.key"))
        .await
        .with_context(|| format!("could not read serving.crt and serving.key in {}", pki.display()))?;
    let app = webhooks.route("/healthz", get(|| async { "ok" })).layer(middleware::from_fn_with_state(filled, gate));
    run(axum_server::bind_rustls(address, tls), app).await.with_context(|| format!("could not serve on {address}"))
}

/// Serves, once the address is listened on.
///
/// # Errors
/// When it cannot be listened on.
pub(crate) async fn run(
    server: axum_server::Server<SocketAddr, RustlsAcceptor>,
    app: Router,
) -> std::io::Result<Server> {
    let handle = axum_server::Handle::new();
    let mut task = tokio::spawn(server.handle(handle.clone()).serve(app.into_make_service()));
    let bound = tokio::select! {
        // Asking again changes nothing.
        bound = handle.listening() => bound,
        // The task is not lost: its result is looked at only here.
        ended = &mut task => return Err(failure(ended)),
    };
    match bound {
        Some(address) => tracing::info!(%address, "serving"),
        None => return Err(failure((&mut task).await)),
    }
    Ok(Server { handle, task })
}

fn failure(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> std::io::Error {
    match ended {
        Ok(Ok(())) => std::io::Error::other("the server ended"),
        Ok(Err(error)) => error,
        Err(error) => std::io::Error::other(error),
    }
}

async fn gate(State(filled): State<Filled>, request: Request, next: Next) -> Response {
    if !filled.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "caches are not filled yet").into_response();
    }
    next.run(request).await
}

impl Server {
    /// Where it listens.
    #[cfg(test)]
    pub(crate) async fn address(&self) -> SocketAddr {
        self.handle.listening().await.expect("it listens")
    }

    /// Waits until it ends, which it does only on an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        anyhow::Error::new(failure((&mut self.task).await)).context("a server failed")
    }

    /// Takes no new connections and waits a moment for those there are.
    pub(crate) async fn stop(self) {
        self.handle.graceful_shutdown(Some(DRAIN));
        drop(tokio::time::timeout(DRAIN + Duration::from_secs(1), self.task).await);
    }
}

/// All servers of the process.
pub(crate) struct Servers {
    /// Of admission webhooks.
    pub(crate) webhooks: Server,
    /// Of the subresource API.
    pub(crate) subresources: Server,
    /// Of metrics.
    pub(crate) metrics: Server,
}

impl Servers {
    /// Waits until one ends, which it does only on an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            // Each may be asked again.
            error = self.webhooks.ended() => error,
            error = self.subresources.ended() => error,
            error = self.metrics.ended() => error,
        }
    }

    /// As [`Server::stop`], all at once.
    pub(crate) async fn stop(self) {
        tokio::join!(self.webhooks.stop(), self.subresources.stop(), self.metrics.stop());
    }
}
