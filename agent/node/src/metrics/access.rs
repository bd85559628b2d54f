//! Whether a scraper may read: the API server is asked who its token is and whether that may `get /metrics`. Refuses
//! everybody when the API server does not answer.

use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode, header};
use furrow_model::metrics::access::{Decision, Decisions, bearer};
use furrow_model::reasons::chain;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::guest::publish::{PublishError, answered};

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
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let known = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).find(token, now_ms);
        let decision = match known {
            Some(decision) => decision,
            None => {
                let busy = (StatusCode::SERVICE_UNAVAILABLE, "too many questions at a time\n");
                let _permit = self.questions.try_acquire().map_err(|_| busy)?;
                let decision = self.ask(token).await.map_err(|error| {
                    tracing::warn!(error = chain(&error), "who may read metrics cannot be asked");
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

    async fn ask(&self, token: &str) -> Result<Decision, PublishError> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let tokens: Api<TokenReview> = Api::all(self.client.clone());
        let status = answered(tokens.create(&PostParams::default(), &review)).await?.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Decision::Unknown);
        };
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
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = answered(reviews.create(&PostParams::default(), &review)).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if allowed { Decision::Allowed } else { Decision::Forbidden })
    }
}
