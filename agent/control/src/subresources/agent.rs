//! The way from control to an agent: one request over one connection of its own, to the address of the guest's node, with
//! certificates on both sides. Refuses to try again: whoever asked sees why it failed and knows whether it may be repeated.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use furrow_api::channel::{self, GuestAddress, GuestOperation, ImageAnswer, ImageQuestion, Refusal};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::Identity;
use super::trust::Trusted;
use furrow_model::reasons::chain;

/// A node of the cluster answers within milliseconds, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An agent gives a guest 30 s to answer; the API server gives this whole request 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);

/// An agent gives a registry 90 s.
const LOOK_TIMEOUT: Duration = Duration::from_secs(100);

/// What requests call the agent; it does not look.
const HOST: &str = "furrow-agent";

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// It is not known yet which certificates to trust.
    #[error("could not reach the agent of node {node}: it is not known yet which certificates to trust")]
    NoTrust {
        /// The node.
        node: String,
    },
    /// There is no secured connection.
    #[error("could not reach the agent of node {node}")]
    Unreachable {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("could not reach the agent of node {node}: no answer within {} s", limit.as_secs())]
    Timeout {
        /// The node.
        node: String,
        /// The limit.
        limit: Duration,
    },
    /// It refused; the message is its own.
    #[error("{message}")]
    Refused {
        /// Status of its answer.
        code: u16,
        /// For people.
        message: String,
    },
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the node.
    pub(crate) node: String,
    /// Its address.
    pub(crate) address: IpAddr,
}

/// Reaches agents.
pub(crate) struct Agents {
    identity: Identity,
    trusted: Trusted,
    port: u16,
}

impl Agents {
    /// With control's own identity, on this port of every node.
    pub(super) fn new(identity: Identity, trusted: Trusted, port: u16) -> Self {
        Self { identity, trusted, port }
    }

    /// Has an operation carried out; gives the body of the answer.
    ///
    /// # Errors
    /// When the agent refuses or cannot be asked.
    pub(super) async fn ask(
        &self,
        place: &Place,
        guest: &GuestAddress,
        operation: GuestOperation,
        body: Bytes,
    ) -> Result<Bytes, AgentError> {
        let node = || place.node.clone();
        let within = |limit: Duration| move |_| AgentError::Timeout { node: node(), limit };
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(place)).await;
        let connection = connection.map_err(within(CONNECT_TIMEOUT))??;
        let method = if operation.only_asks() { "GET" } else { "PUT" };
        let path = channel::path(guest, operation);
        let exchange = exchange(connection, place, (method, &path, operation.answer_max_bytes()), body);
        // Dropping it at the deadline closes the connection; the agent may still finish what it began.
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        answer.map_err(within(ANSWER_TIMEOUT))?
    }

    /// Has an image of a registry looked at.
    ///
    /// # Errors
    /// As [`Self::ask`]; a refusal's message says what is wrong with the image or its registry.
    pub(crate) async fn look(&self, place: &Place, question: &ImageQuestion) -> Result<ImageAnswer, AgentError> {
        let body = serde_json::to_vec(question).map_err(unreachable(place))?;
        let looked = async {
            let connection = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(place)).await;
            let limit = CONNECT_TIMEOUT;
            let connection = connection.map_err(|_| AgentError::Timeout { node: place.node.clone(), limit })??;
            exchange(connection, place, ("PUT", channel::IMAGES_PATH, channel::ANSWER_MAX_BYTES), body.into()).await
        };
        // Dropping it at the deadline closes the connection, and the agent ends its look.
        let answer = tokio::time::timeout(LOOK_TIMEOUT, looked).await;
        let answer = answer.map_err(|_| AgentError::Timeout { node: place.node.clone(), limit: LOOK_TIMEOUT })??;
        serde_json::from_slice(&answer).map_err(unreachable(place))
    }

    /// Has a stream begin. `path`: with its query, as [`channel`] makes it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn open(&self, place: &Place, path: &str) -> Result<Upgraded, AgentError> {
        let request = Request::builder()
            .uri(path)
            .header("host", HOST)
            .header("connection", "upgrade")
            .header("upgrade", channel::STREAM_PROTOCOL)
            .body(Full::new(Bytes::new()))
            .map_err(unreachable(place))?;
        let opened = async {
            let answer = send(self.connect(place).await?, place, request).await?;
            if answer.status().as_u16() == 101 {
                return hyper::upgrade::on(answer).await.map_err(unreachable(place));
            }
            let code = answer.status().as_u16();
            Err(refusal(place, code, &body(place, answer).await?))
        };
        // Dropping it at the deadline closes the connection.
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opened).await;
        opened.map_err(|_| AgentError::Timeout { node: place.node.clone(), limit: CONNECT_TIMEOUT })?
    }

    async fn connect(&self, place: &Place) -> Result<tokio_rustls::client::TlsStream<TcpStream>, AgentError> {
        let trust = self.trusted.borrow().clone();
        let trust = trust.ok_or_else(|| AgentError::NoTrust { node: place.node.clone() })?;
        let config = self.identity.client(&place.node, &trust).map_err(unreachable(place))?;
        let address = SocketAddr::new(place.address, self.port);
        let stream = TcpStream::connect(address).await.map_err(unreachable(place))?;
        let name = ServerName::IpAddress(place.address.into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable(place))
    }
}

fn unreachable<E: std::error::Error + Send + Sync + 'static>(place: &Place) -> impl FnOnce(E) -> AgentError {
    let node = place.node.clone();
    |source| AgentError::Unreachable { node, source: Box::new(source) }
}

async fn exchange(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    place: &Place,
    (method, path, answer_max_bytes): (&str, &str, usize),
    content: Bytes,
) -> Result<Bytes, AgentError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", HOST)
        .header("content-type", "application/json")
        .body(Full::new(content))
        .map_err(unreachable(place))?;
    let answer = send(stream, place, request).await?;
    let code = answer.status().as_u16();
    let body = limited(place, answer, answer_max_bytes).await?;
    if code == 200 { Ok(body) } else { Err(refusal(place, code, &body)) }
}

async fn send(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    place: &Place,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, AgentError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable(place))?;
    tokio::spawn(async move {
        // It ends with the sender, or becomes the stream; an error is seen by whoever waits for the answer.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = chain(&error), "a connection to an agent ended");
        }
    });
    sender.send_request(request).await.map_err(unreachable(place))
}

async fn body(place: &Place, answer: Response<Incoming>) -> Result<Bytes, AgentError> {
    limited(place, answer, channel::ANSWER_MAX_BYTES).await
}

async fn limited(place: &Place, answer: Response<Incoming>, max_bytes: usize) -> Result<Bytes, AgentError> {
    let body = Limited::new(answer.into_body(), max_bytes).collect().await;
    let body = body.map_err(|source| AgentError::Unreachable { node: place.node.clone(), source })?;
    Ok(body.to_bytes())
}

fn refusal(place: &Place, code: u16, body: &[u8]) -> AgentError {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let message = match refusal.message {
        empty if empty.is_empty() => format!("the agent of node {} answered {code}", place.node),
        message => message,
    };
    AgentError::Refused { code, message }
}
