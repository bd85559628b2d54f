//! What machines fetch: iPXE, its scripts, and for an approved machine kernel, initrd, medium and its node.yaml. Plain HTTP
//! on the LAN's address, because firmware knows nothing else; serves nothing but this.
//!
//! ```text
//!  /ipxe.efi ── /boot.ipxe ── /boot?mac=&uuid=&serial= ─┬─ pending:  /h/TOKEN/wait?try=N ─┐ (asks again)
//!                                                       ├─ approved: <────────────────────┘
//!                                                       │    /h/TOKEN/vmlinuz, initrd, medium, node.yaml (once)
//!                                                       └─ given: the machine boots from its disk
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Deserialize;

use super::content::{Content, OnSent, Watch};
use super::hosts::{self, Arrival, Host, Hosts, HostsError, Identity};
use super::script;
use super::source::Source;
use super::{LOADERS, Say};
use crate::steps::now;

/// The server.
pub(super) struct Server {
    pub(super) hosts: Hosts,
    pub(super) source: Source,
    /// `http://ADDRESS:PORT`, as machines see it.
    pub(super) base: String,
    /// More words for the kernel.
    pub(super) words: String,
    /// Where iPXE's programs lie.
    pub(super) loaders: PathBuf,
    pub(super) say: Say,
}

/// What iPXE knows of its machine.
#[derive(Deserialize)]
struct Asking {
    #[serde(default)]
    mac: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    serial: String,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(rename = "try", default)]
    tries: u32,
}

/// The routes.
pub(super) fn routes(server: Arc<Server>) -> Router {
    let mut routes = Router::new();
    for loader in LOADERS {
        let serve = move |State(server), ConnectInfo(from), method, headers| {
            send_loader(server, from, loader, (method, headers))
        };
        routes = routes.route(&format!("/{loader}"), get(serve));
    }
    routes
        .route("/boot.ipxe", get(async |State(server): State<Arc<Server>>| script::first(&server.base)))
        .route("/boot", get(arrive))
        .route("/h/{token}/wait", get(wait))
        .route("/h/{token}/{file}", get(send))
        .with_state(server)
}

async fn send_loader(
    server: Arc<Server>,
    from: SocketAddr,
    name: &'static str,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let content = match std::fs::read(server.loaders.join(name)) {
        Ok(bytes) => Content::Memory(Bytes::from(bytes)),
        Err(error) => return server.failed(&format!("{name} cannot be read: {error}")),
    };
    let watch = Watch { what: format!("{}: {name}", from.ip()), say: server.say.clone(), on_sent: None };
    let answer = content.answer(&method, &headers, watch).await;
    answer.unwrap_or_else(|error| server.failed(&format!("{name} cannot be sent: {error}")))
}

/// A machine that has loaded iPXE says who it is.
async fn arrive(State(server): State<Arc<Server>>, Query(asking): Query<Asking>) -> Response {
    let identity = Identity::cleaned(&asking.mac, &asking.uuid, &asking.serial);
    let mac = identity.mac.clone();
    match server.hosts.arrive(identity, now()) {
        Ok(Arrival::Pending(host)) => {
            (server.say)(&format!(
                "{mac}: unknown, shows fingerprint {0}: `pxe approve {0} --config node.yaml` installs it",
                host.name
            ));
            script::wait(&server.base, &host, 1).into_response()
        }
        Ok(Arrival::Approved(host)) => server.boot(&host).into_response(),
        Ok(Arrival::Given(host)) => {
            (server.say)(&format!("{mac}: has its system; sent to its disk"));
            script::disk(&host).into_response()
        }
        Ok(Arrival::Full) => {
            (server.say)(&format!("{mac}: refused: too many machines wait already"));
            script::refuse("too many machines wait for approval").into_response()
        }
        Err(error) => server.list_failed(&error),
    }
}

/// A machine that waits asks again.
async fn wait(
    State(server): State<Arc<Server>>,
    Path(token): Path<String>,
    Query(waiting): Query<Waiting>,
) -> Response {
    match server.hosts.session(&token, now()) {
        Ok(Some(host)) => match host.state {
            hosts::State::Pending => script::wait(&server.base, &host, waiting.tries).into_response(),
            hosts::State::Approved => server.boot(&host).into_response(),
            hosts::State::Given => script::disk(&host).into_response(),
        },
        // Forgotten meanwhile; it introduces itself again.
        Ok(None) => script::first(&server.base).into_response(),
        Err(error) => server.list_failed(&error),
    }
}

/// A file for an approved machine.
async fn send(
    State(server): State<Arc<Server>>,
    Path((token, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let host = match server.hosts.session(&token, now()) {
        Ok(Some(host)) if host.state == hosts::State::Approved => host,
        Ok(Some(host)) => {
            let reason = if host.state == hosts::State::Given { "it has its system" } else { "it is not approved" };
            (server.say)(&format!("{}: {file} refused: {reason}", host.identity.mac));
            return StatusCode::FORBIDDEN.into_response();
        }
        Ok(None) => return StatusCode::NOT_FOUND.into_response(),
        Err(error) => return server.list_failed(&error),
    };
    let image = &server.source.image;
    let content = match (file.as_str(), &host.config) {
        ("vmlinuz", _) => Content::Memory(image.kernel.clone()),
        ("initrd", _) => Content::Memory(image.initrd.clone()),
        ("medium", _) => Content::File(server.source.path.clone(), server.source.bytes),
        ("node.yaml", Some(config)) => Content::Memory(Bytes::from(config.clone())),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let last = if host.config.is_some() { "node.yaml" } else { "medium" };
    let is_whole = !headers.contains_key(axum::http::header::RANGE);
    let on_sent = (file == last && is_whole).then(|| given(server.clone(), &host));
    let what = format!("{}: {}", host.identity.mac, if file == "node.yaml" { "configuration" } else { &file });
    let watch = Watch { what, say: server.say.clone(), on_sent };
    let answer = content.answer(&method, &headers, watch).await;
    answer.unwrap_or_else(|error| server.failed(&format!("{file} cannot be sent: {error}")))
}

/// Notes that a machine has all, when it has.
fn given(server: Arc<Server>, host: &Host) -> OnSent {
    let (name, mac) = (host.name.clone(), host.identity.mac.clone());
    Box::new(move || match server.hosts.given(&name) {
        Ok(()) => (server.say)(&format!("{mac}: has everything and boots; from now on it is sent to its disk")),
        Err(error) => (server.say)(&format!("{mac}: could not be noted as served: {error}")),
    })
}

impl Server {
    fn boot(&self, host: &Host) -> String {
        let image = &self.source.image;
        let words = if host.config.is_some() { &image.unattended } else { &image.attended };
        let how = if host.config.is_some() { "by its node.yaml" } else { "at its console" };
        (self.say)(&format!("{}: approved; boots version {} to be installed {how}", host.identity.mac, image.version));
        script::boot(&self.base, host, format!("{words} {}", self.words).trim(), &image.version)
    }

    fn failed(&self, reason: &str) -> Response {
        (self.say)(&format!("error: {reason}"));
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }

    fn list_failed(&self, error: &HostsError) -> Response {
        self.failed(&format!("the list of machines: {error}"))
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
