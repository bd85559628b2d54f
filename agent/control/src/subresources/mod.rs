//! The subresource API, `subresources.kubevirt.io` v1 and v1alpha3: what KubeVirt's clients call beside the objects
//! themselves. An aggregated API: the API server says who asks, by a certificate and headers, and forwards; here it is asked
//! back whether they may, and then it is done. Every control process serves, whether it leads or not.
//!
//! ```text
//!  client ─> API server ─(its certificate, X-Remote-User)─> mod ─> route ─> access: one SubjectAccessReview
//!                                                                    └─> carry: machine, guest (pure) ─> API server
//!                                                                                   └─> agent of the guest's node
//! ```
//!
//! Refuses to know a user by anything but the API server's word, and to start or stop a guest itself: controllers do.

mod access;
mod agent;
mod carry;
mod discovery;
pub(crate) mod endpoints;
mod expand;
mod failure;
mod graph;
mod guest;
mod machine;
mod moves;
mod openapi;
#[cfg(test)]
mod operations_tests;
mod options;
#[cfg(test)]
mod roles_tests;
mod route;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod stream_tests;
mod streams;
mod tls;
mod trust;
mod volumes;

pub(crate) use agent::{AgentError, Agents, Place};
pub(crate) use options::go_duration_ms;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use axum_server::tls::TlsInfo;
use axum_server::tls_rustls::RustlsConfig;
use furrow_model::reasons::chain;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::PostParams;
use kube::config::Kubeconfig;
use serde_json::Value;

use self::carry::{Answer, Carrier};
use self::failure::Failure;
use self::route::{Path, Work};
use self::trust::Trusted;
use crate::calls;
use crate::cluster::Cluster;
use crate::server::{self, Server};

/// A VirtualMachine can be sent, as large as etcd takes one; JSON escapes some of it.
const BODY_MAX_BYTES: usize = 3 << 20;

/// A connection that asks nothing is closed after this long.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Where to serve and as whom.
pub(crate) struct Settings<'a> {
    /// Address; an unspecified one of IPv6 takes IPv4 too.
    pub(crate) listen: SocketAddr,
    /// Directory with serving.crt and serving.key.
    pub(crate) pki: &'a FilePath,
    /// The kubeconfig whose user control is.
    pub(crate) kubeconfig: &'a FilePath,
    /// Port of every node on which its agent answers.
    pub(crate) agent_port: u16,
}

struct Api {
    carrier: Carrier,
    trusted: Trusted,
}

/// Whom control trusts, and its way to agents.
pub(crate) struct Reach {
    trusted: Trusted,
    /// The agents.
    pub(crate) agents: Arc<Agents>,
}

/// Prepares to reach agents.
///
/// # Errors
/// When the kubeconfig has no certificate.
pub(crate) fn reach(settings: &Settings<'_>, client: kube::Client) -> anyhow::Result<Reach> {
    let trusted = trust::follow(client);
    let path = settings.kubeconfig.display();
    let kubeconfig = Kubeconfig::read_from(settings.kubeconfig).with_context(|| format!("could not read {path}"))?;
    let identity = tls::Identity::read(&kubeconfig).with_context(|| format!("could not use {path}"))?;
    let agents = Arc::new(Agents::new(identity, trusted.clone(), settings.agent_port));
    Ok(Reach { trusted, agents })
}

/// Starts to serve.
///
/// # Errors
/// When certificates cannot be read or the address is taken.
pub(crate) async fn start(settings: &Settings<'_>, cluster: Cluster, reach: &Reach) -> anyhow::Result<Server> {
    let (trusted, agents) = (reach.trusted.clone(), Arc::clone(&reach.agents));
    let config = tls::server(settings.pki, trusted.clone())
        .with_context(|| format!("could not use the certificate in {}", settings.pki.display()))?;
    let api = Arc::new(Api { carrier: Carrier { cluster, agents }, trusted });
    let router = Router::new().fallback(handle).with_state(api);
    let listener = listen(settings.listen).with_context(|| format!("could not listen on {}", settings.listen))?;
    let config = RustlsConfig::from_config(Arc::new(config));
    let served = axum_server::from_tcp_rustls(listener, config).context("could not use the socket")?;
    Ok(server::run(served.first_request_timeout(FIRST_REQUEST), router).await?)
}

/// A node may have no IPv6; then it is IPv4 alone.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = match std::net::TcpListener::bind(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            tracing::info!(%error, "listening on IPv4 only");
            std::net::TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn handle(State(api): State<Arc<Api>>, Extension(tls): Extension<Arc<TlsInfo>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(path) = route::parse(head.uri.path()) else { return Failure::no_such_path().into_response() };
    if !path.is_public()
        && let Err(failure) = api.authorize(&tls, &head.headers, &head.method, &path).await
    {
        return failure.into_response();
    }
    let head_asks_get = head.method == Method::HEAD && path.method() == Method::GET;
    if head.method != path.method() && !head_asks_get {
        return Failure::method_not_allowed().into_response();
    }
    let accepted = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if matches!(path, Path::OpenApi3 | Path::OpenApi3Of(_)) && !openapi::takes_json(accepted) {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    if path == Path::Groups && discovery::takes_aggregated(accepted) {
        return ([(header::CONTENT_TYPE, discovery::AGGREGATED)], discovery::aggregated().to_string()).into_response();
    }
    if let Path::Object { target, .. } = &path
        && matches!(target.subresource.work, Work::Stream(_) | Work::Forward)
        && streams::is_asked_for(&head.headers)
    {
        let served = Box::pin(streams::serve(&api.carrier, target, Request::from_parts(head, body))).await;
        return served.unwrap_or_else(IntoResponse::into_response);
    }
    match Box::pin(api.answer(&path, head.uri.query(), body)).await {
        Ok(answer) => answer.into_response(),
        Err(failure) => failure.into_response(),
    }
}

impl Api {
    /// Lets nobody through whom the API server did not name and allow.
    async fn authorize(&self, tls: &TlsInfo, headers: &HeaderMap, method: &Method, path: &Path) -> Result<(), Failure> {
        let trust = self.trusted.borrow().clone();
        let trust = trust.ok_or_else(|| Failure::unavailable("it is not known yet which certificates to trust"))?;
        // It was verified when the connection was made.
        let certificate = tls.peer_certificates.first();
        if !certificate.is_some_and(|certificate| trust.may_speak_for_others(certificate)) {
            return Err(Failure::denied("request is not authenticated"));
        }
        let user = access::user(headers, &trust.headers).map_err(Failure::denied)?;
        let Some(review) = access::review(user, method, path) else { return Ok(()) };
        let reviews = self.carrier.cluster.api_all::<SubjectAccessReview>();
        let params = PostParams::default();
        let answer = calls::within(|| "ask who may do this".to_owned(), reviews.create(&params, &review)).await;
        let answer = answer.map_err(|error| {
            tracing::warn!(error = chain(&error), "authorization could not be asked");
            Failure::internal("internal error during auth request")
        })?;
        let status = answer.status.unwrap_or_default();
        if status.allowed { Ok(()) } else { Err(Failure::denied(&status.reason.unwrap_or_default())) }
    }

    async fn answer(&self, path: &Path, query: Option<&str>, body: Body) -> Result<Answer, Failure> {
        let say = |document: Value| Ok(Answer::Document(document.to_string().into()));
        match path {
            Path::Root => say(discovery::root()),
            Path::Groups => say(discovery::groups()),
            Path::Group => say(discovery::group()),
            Path::Resources(version) => say(discovery::resources(version)),
            Path::OpenApi => say(discovery::openapi()),
            Path::OpenApi3 => say(openapi::index()),
            Path::OpenApi3Of(version) => say(openapi::document(version)),
            Path::Version => say(discovery::version()),
            Path::Guestfs => say(discovery::guestfs()),
            Path::Health => self.carrier.health().await,
            Path::Expand { namespace, .. } => Box::pin(self.carrier.expand_sent(&read(body).await?, namespace)).await,
            Path::Object { target, .. } => {
                let body = read(body).await?;
                Box::pin(self.carrier.carry(target, query, &body)).await
            }
        }
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Failure> {
    // The only other error is a connection that broke, to which nobody listens any more.
    to_bytes(body, BODY_MAX_BYTES).await.map_err(|_| Failure::too_large(BODY_MAX_BYTES))
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Accepted => StatusCode::ACCEPTED.into_response(),
            Self::Done => StatusCode::OK.into_response(),
            Self::Picture(bytes) => ([(header::CONTENT_TYPE, "image/png")], bytes).into_response(),
            Self::Document(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        }
    }
}
