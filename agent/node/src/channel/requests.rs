//! HTTP of the channel: a path is one operation on one guest, or a look at an image. Owns codes and bodies; refuses what
//! is no such path, too large a body, and more operations at once than libvirt has threads to spare for.

use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use furrow_api::channel::{
    self, Forward, GuestAddress, GuestOperation, GuestStream, IMAGES_PATH, ImageQuestion, PRESERVE, REQUEST_MAX_BYTES,
    Refusal, STREAM_PROTOCOL,
};
use tokio::sync::Semaphore;

use super::forward::Forwards;

use super::images::LooksAtImages;
use super::operations::{OperationError, Operations};
use super::streams::Streams;
use furrow_model::reasons::chain;

/// Operations at once. Observing, starting and stopping guests use the same threads of libvirt and must not wait for a guest
/// agent that is silent.
const CONCURRENT: usize = 4;

/// What requests are served with.
pub(super) struct Served {
    operations: Operations,
    streams: Arc<Streams>,
    forwards: Arc<Forwards>,
    images: Arc<dyn LooksAtImages>,
    permits: Semaphore,
}

impl Served {
    pub(super) fn new(
        operations: Operations,
        streams: Streams,
        forwards: Arc<Forwards>,
        images: Arc<dyn LooksAtImages>,
    ) -> Self {
        Self { operations, streams: Arc::new(streams), forwards, images, permits: Semaphore::new(CONCURRENT) }
    }
}

/// The routes.
pub(super) fn router(served: Arc<Served>) -> Router {
    Router::new().fallback(handle).with_state(served)
}

async fn handle(State(served): State<Arc<Served>>, request: Request) -> Response {
    if let Some((guest, stream)) = channel::parse_stream(request.uri().path()) {
        return stream_to(&served.streams, &guest, stream, request).await;
    }
    if let Some((guest, to)) = channel::parse_forward(request.uri().path()) {
        return forward_to(&served.forwards, &guest, &to, request).await;
    }
    if request.uri().path() == IMAGES_PATH {
        return look(served.images.as_ref(), request).await;
    }
    let (head, body) = request.into_parts();
    let Some((guest, operation)) = channel::parse(head.uri.path()) else {
        return refused(StatusCode::NOT_FOUND, "there is no such operation");
    };
    let method = if operation.only_asks() { Method::GET } else { Method::PUT };
    if head.method != method {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "the operation is called by another method");
    }
    let Ok(body) = to_bytes(body, REQUEST_MAX_BYTES).await else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    };
    let Ok(_permit) = served.permits.acquire().await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending");
    };
    match Box::pin(served.operations.run(&guest, operation, &body)).await {
        Ok(answer) if operation == GuestOperation::Screenshot => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "image/png")], answer).into_response()
        }
        Ok(answer) => document(StatusCode::OK, answer),
        Err(error) => failed(&error, &guest, operation.name()),
    }
}

/// Bounded by whoever looks: a slow registry must not keep operations on guests waiting.
async fn look(images: &dyn LooksAtImages, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if head.method != Method::PUT {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "images are looked at by PUT");
    }
    let Ok(body) = to_bytes(body, REQUEST_MAX_BYTES).await else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    };
    let Ok(question) = serde_json::from_slice::<ImageQuestion>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "could not read the question");
    };
    match images.look(&question).await {
        Ok(answer) => document(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default().into()),
        Err(error) => {
            let message = chain(&error);
            tracing::warn!(image = question.image, error = message, "look at an image failed");
            refused(StatusCode::BAD_GATEWAY, &message)
        }
    }
}

async fn stream_to(
    streams: &Arc<Streams>,
    guest: &GuestAddress,
    stream: GuestStream,
    mut request: Request,
) -> Response {
    let preserve = request.uri().query() == Some(PRESERVE);
    let begun = match asks_for_stream(&request) {
        true => streams.begin(guest, stream, preserve).await,
        false => Err(OperationError::NoUpgrade),
    };
    match begun.and_then(|begun| Streams::carry(begun, request.extensions_mut())) {
        Ok(()) => stream_begins(),
        Err(error) => failed(&error, guest, stream.name()),
    }
}

async fn forward_to(forwards: &Forwards, guest: &GuestAddress, to: &Forward, mut request: Request) -> Response {
    let begun = match asks_for_stream(&request) {
        true => Box::pin(forwards.begin(guest, to)).await,
        false => Err(OperationError::NoUpgrade),
    };
    match begun.and_then(|begun| forwards.carry(begun, request.extensions_mut())) {
        Ok(()) => stream_begins(),
        Err(error) => failed(&error, guest, "portforward"),
    }
}

fn asks_for_stream(request: &Request) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|protocol| protocol == STREAM_PROTOCOL)
}

fn stream_begins() -> Response {
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, STREAM_PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn failed(error: &OperationError, guest: &GuestAddress, operation: &str) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = chain(error);
    tracing::warn!(guest = guest.name, namespace = guest.namespace, operation, error = message, "operation failed");
    refused(code, &message)
}

fn document(code: StatusCode, body: Bytes) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refused(code: StatusCode, message: &str) -> Response {
    let body = serde_json::to_vec(&Refusal { message: message.to_owned() }).unwrap_or_default();
    document(code, body.into())
}
