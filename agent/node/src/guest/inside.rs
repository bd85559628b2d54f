//! What is asked of a running guest's own agent for its status, and when: the one place that polls a guest. Four
//! questions, each for a reason: who it is and which addresses it has (nothing tells when they change), how full its file
//! systems are (for metrics, so that no scrape asks a guest), once a connection what its agent can do, and, only while its
//! file systems are said to be frozen, whether they still are (a guest may thaw itself). How often is `furrow_model::guest::next_pause`; a paused guest is not asked, since it cannot answer. Refuses to
//! fail a pass: a guest that says nothing is as it was.

use std::time::Duration;

use furrow_host::libvirt::{DomainRecord, DomainState};
use furrow_model::guest::{Next, next_pause};
use tokio::time::Instant;

use super::credentials::Handed;
use super::guest_info::{self, GuestReport};
use super::owner::Known;
use super::{Context, Key};

/// What a guest's agent said last.
#[derive(Debug)]
pub(super) struct Heard {
    /// What it said.
    pub(super) report: GuestReport,
    /// The pause after it.
    pause: Duration,
    /// When it is asked again.
    next: Instant,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The guest said that its file systems are not frozen.
    pub(super) thawed: bool,
    /// It was asked, and answers.
    pub(super) now: bool,
    /// When it is asked again.
    pub(super) again: Option<Duration>,
}

/// Asks a connected agent when it is time to. `frozen`: its file systems are said to be.
pub(super) async fn ask(
    (context, key): (&Context, &Key),
    known: &mut Known,
    domain: &DomainRecord,
    frozen: bool,
) -> Asked {
    if !domain.agent_connected {
        known.heard = None;
        known.handed = Handed::default();
        context.shown.put_filesystems(key, Vec::new());
        return Asked::default();
    }
    if domain.state != DomainState::Running {
        return Asked::default();
    }
    let now = Instant::now();
    if let Some(heard) = known.heard.as_ref().filter(|heard| now < heard.next) {
        return Asked { again: Some(heard.next - now), ..Asked::default() };
    }
    let last = known.heard.take();
    let pause = last.as_ref().map(|heard| heard.pause);
    let old = last.map(|heard| heard.report).unwrap_or_default();
    // A frozen guest's agent answers no other question.
    let still_frozen = if frozen { is_frozen(context, &domain.name).await } else { Some(false) };
    let report = if still_frozen == Some(false) { report(context, domain, &old).await } else { old.clone() };
    if still_frozen == Some(false)
        && let Ok(values) = context.domains.filesystems(&domain.name).await
    {
        context.shown.put_filesystems(key, guest_info::filesystems(&values));
    }
    let pause = next_pause(pause, report == old && !frozen);
    known.heard = Some(Heard { report, pause, next: Instant::now() + pause });
    let answers = still_frozen == Some(false);
    Asked { thawed: frozen && answers, now: answers, again: Some(pause) }
}

async fn is_frozen(context: &Context, domain: &str) -> Option<bool> {
    let answer = context.domains.agent(domain, r#"{"execute":"guest-fsfreeze-status"}"#.to_owned()).await.ok()?;
    guest_info::is_frozen(&answer)
}

async fn report(context: &Context, domain: &DomainRecord, old: &GuestReport) -> GuestReport {
    let mut report = match context.domains.guest_info(&domain.name).await {
        Ok(values) => GuestReport::read(&values),
        Err(error) => {
            tracing::debug!(domain = domain.name, error = %error, "the guest agent gave no report");
            return old.clone();
        }
    };
    report.commands.clone_from(&old.commands);
    if report.commands.is_none() {
        let answer = context.domains.agent(&domain.name, r#"{"execute":"guest-info"}"#.to_owned()).await;
        report.commands = answer.ok().and_then(|answer| guest_info::commands(&answer));
    }
    report
}

/// A pause as the planner says it.
pub(super) fn later(pause: Duration) -> Next {
    Next::At(super::now_ms() + i64::try_from(pause.as_millis()).unwrap_or(i64::MAX / 2))
}
