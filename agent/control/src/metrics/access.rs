//! Whether a scraper may read: the API server is asked who its token is and whether that may `get /metrics`. Refuses
//! everybody when the API server does not answer.

use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode, header};
use furrow_model::metrics::access::{Decision, Decisions, bearer};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::calls::{self, CallError};

/// Questions to the API server at a time: whoever has no token may ask for nothing more than this.
const CONCURRENT_QUESTIONS: usize = 4;

/// The answer to who may not read.
pub(super) type Refusal = (StatusCode, &'static str);

/// Asks, and remembers for a moment.
pub(super) struct Access {
    client: Client,
    decisions: Mutex<Decisions>,
    questions: Semaphore,
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self { client, decisions: Mutex::default(), questions: Semaphore::new(CONCURRENT_QUESTIONS) }
    }

    /// Lets nobody through whom the API server does not allow.
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
        let token = token.ok_or((StatusCode::UNAUTHORIZED, "a bearer token is needed\n"))?;
        let now_ms = Timestamp::now().as_millisecond();
        let known = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).find(token, now_ms);
        let decision = match known {
            Some(decision) => decision,
            None => {
                let busy = (StatusCode::SERVICE_UNAVAILABLE, "too many questions at a time\n");
                let _permit = self.questions.try_acquire().map_err(|_| busy)?;
                let decision = self.ask(token).await.map_err(|error| {
                    tracing::warn!(error = error.message(), "who may read metrics cannot be asked");
                    (StatusCode::SERVICE_UNAVAILABLE, "the API server cannot be asked\n")
                })?;
                self.decisions.lock().unwrap_or_else(PoisonError::into_inner).keep(token, decision, now_ms);
                decision
            }
        };
        match decision {
            Decision::Allowed => Ok(()),
            Decision::Forbidden => Err((StatusCode::FORBIDDEN, "this token's user may not get /metrics\n")),
            Decision::Unknown => Err((StatusCode::UNAUTHORIZED, "this token is not known\n")),
        }
    }

    async fn ask(&self, token: &str) -> Result<Decision, CallError> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let (tokens, params) = (Api::<TokenReview>::all(self.client.clone()), PostParams::default());
        let answer = calls::within(|| "ask whose token this is".to_owned(), tokens.create(&params, &review)).await?;
        let status = answer.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Decision::Unknown);
        };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = review_of(user);
        let answer = calls::within(|| "ask who may read metrics".to_owned(), reviews.create(&params, &review)).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if allowed { Decision::Allowed } else { Decision::Forbidden })
    }
}

fn review_of(user: UserInfo) -> SubjectAccessReview {
    let spec = SubjectAccessReviewSpec {
        user: user.username,
        uid: user.uid,
        groups: user.groups,
        extra: user.extra,
        non_resource_attributes: Some(NonResourceAttributes {
            path: Some("/metrics".to_owned()),
            verb: Some("get".to_owned()),
        }),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that knows the tokens `good` and `poor`, and allows the first one's user. Counts its answers.
    fn access() -> (Access, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let service = tower::service_fn(move |request: axum::http::Request<kube::client::Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                review["status"] = if head.uri.path().ends_with("/tokenreviews") {
                    let token = review["spec"]["token"].as_str().unwrap().to_owned();
                    let known = matches!(token.as_str(), "good" | "poor");
                    json!({"authenticated": known, "user": {"username": token}})
                } else {
                    let attributes = json!({"path": "/metrics", "verb": "get"});
                    assert_eq!(review["spec"]["nonResourceAttributes"], attributes);
                    json!({"allowed": review["spec"]["user"] == "good"})
                };
                let answer = axum::http::Response::builder().status(201);
                Ok::<_, Infallible>(answer.body(Body::from(review.to_string())).unwrap())
            }
        });
        (Access::new(Client::new(service, "default")), asked)
    }

    async fn code(access: &Access, header: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|value| (header::AUTHORIZATION, value.parse().unwrap())));
        access.check(&headers).await.map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[tokio::test]
    async fn only_whom_the_api_server_allows_may_read() {
        let (access, asked) = access();
        for header in [None, Some("Basic good"), Some("Bearer ")] {
            assert_eq!(code(&access, header).await, 401, "{header:?}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody is asked about no token");
        assert_eq!(code(&access, Some("Bearer bad")).await, 401);
        assert_eq!(code(&access, Some("Bearer poor")).await, 403);
        assert_eq!(code(&access, Some("Bearer good")).await, 200);
        let before = asked.load(Ordering::Relaxed);
        assert_eq!(before, 1 + 2 + 2);
        assert_eq!(code(&access, Some("Bearer good")).await, 200);
        assert_eq!(asked.load(Ordering::Relaxed), before, "what was answered a moment ago is not asked again");
    }
}
