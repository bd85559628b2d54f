//! What the world sees of an import: the DataVolume's status and its events, in CDI's words.
//!
//! Writes only the DataVolume it was made for (same UID) and only while its label names this
//! node. Conditions are read, changed and replaced under the object's resourceVersion, since
//! control writes others of them. Progress goes by a patch of its own, at most once a second.

use std::time::Duration;

use furrow_api::DataVolume;
use furrow_api::datavolume::{DataVolumeCondition, DataVolumePhase, DataVolumeStatus};
use furrow_api::names::LABEL_IMPORT_NODE;
use furrow_model::import;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::time::Instant;

/// Progress is written no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Why an import failed, as it is shown.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// CamelCase.
    pub(super) reason: String,
    pub(super) message: String,
}

/// The status of one DataVolume.
pub(super) struct Status {
    api: Api<DataVolume>,
    recorder: Recorder,
    reference: ObjectReference,
    node: String,
    uid: String,
    name: String,
    namespace: String,
    written: Option<Instant>,
}

struct Shown<'a> {
    phase: DataVolumePhase,
    progress: Option<&'a str>,
    restarts: Option<u32>,
    running: (&'a str, &'a str, &'a str),
    ready: (&'a str, &'a str, &'a str),
}

impl Status {
    pub(super) fn new(client: &Client, node: &str, dv: &DataVolume, namespace: &str) -> Self {
        let reporter = Reporter { controller: "furrow-agent".to_owned(), instance: Some(node.to_owned()) };
        Self {
            api: Api::namespaced(client.clone(), namespace),
            recorder: Recorder::new(client.clone(), reporter),
            reference: dv.object_ref(&()),
            node: node.to_owned(),
            uid: dv.uid().unwrap_or_default(),
            name: dv.name_any(),
            namespace: namespace.to_owned(),
            written: None,
        }
    }

    /// `namespace/name`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// A child begins.
    pub(super) async fn started(&mut self) {
        let shown = Shown {
            phase: DataVolumePhase::ImportInProgress,
            progress: Some("0.00%"),
            restarts: None,
            running: ("True", "TransferRunning", ""),
            ready: ("False", "TransferRunning", ""),
        };
        self.write(&shown).await;
        let note = format!("Import into {} in progress", self.name);
        self.event(EventType::Normal, "ImportInProgress", note).await;
    }

    /// A child is on its way.
    pub(super) async fn progress(&mut self, done: u64, total: Option<u64>) {
        if self.written.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.written = Some(Instant::now());
        let patch = Patch::Merge(serde_json::json!({ "status": { "progress": import::progress(done, total) } }));
        let params = PatchParams::default();
        let patched = self.api.patch_status(&self.name, &params, &patch);
        match tokio::time::timeout(API_TIMEOUT, patched).await {
            Ok(Ok(_)) => {}
            // The next one comes in a second, and the end is written whatever it takes.
            Ok(Err(error)) => tracing::debug!(datavolume = %self.name(), error = %error, "progress not written"),
            Err(_) => tracing::debug!(datavolume = %self.name(), "progress not written in time"),
        }
    }

    /// A child failed, and another will begin.
    pub(super) async fn restarting(&mut self, failure: &Failure, restarts: u32) {
        let shown = Shown {
            phase: DataVolumePhase::ImportInProgress,
            progress: Some("0.00%"),
            restarts: Some(restarts),
            running: ("False", &failure.reason, &failure.message),
            ready: ("False", &failure.reason, &failure.message),
        };
        self.write(&shown).await;
        self.event(EventType::Warning, &failure.reason, failure.message.clone()).await;
    }

    /// Nothing more will be tried.
    pub(super) async fn failed(&mut self, failure: &Failure) {
        let shown = Shown {
            phase: DataVolumePhase::Failed,
            progress: None,
            restarts: None,
            running: ("False", &failure.reason, &failure.message),
            ready: ("False", &failure.reason, &failure.message),
        };
        self.write(&shown).await;
        let note = format!("Failed to import into PVC {}: {}", self.name, failure.message);
        self.event(EventType::Warning, "ImportFailed", note).await;
    }

    /// Every byte is safe.
    pub(super) async fn succeeded(&mut self) {
        let shown = Shown {
            phase: DataVolumePhase::Succeeded,
            progress: Some("100.0%"),
            restarts: None,
            running: ("False", "Completed", "Import Complete"),
            ready: ("True", "Completed", "Import Complete"),
        };
        self.write(&shown).await;
        let note = format!("Successfully imported into PVC {}", self.name);
        self.event(EventType::Normal, "ImportSucceeded", note).await;
    }

    /// Writes until it is written, or the DataVolume is not ours any more. The task that waits
    /// here is cancelled when the DataVolume goes.
    async fn write(&mut self, shown: &Shown<'_>) {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match tokio::time::timeout(API_TIMEOUT, self.write_once(shown)).await {
                Ok(Ok(())) => break,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => break,
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server gave no answer in time".to_owned(),
            };
            tracing::warn!(datavolume = %self.name(), error, "DataVolume status cannot be written");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        self.written = Some(Instant::now());
    }

    async fn write_once(&self, shown: &Shown<'_>) -> Result<(), kube::Error> {
        let mut dv = self.api.get(&self.name).await?;
        let ours = dv.uid().as_deref() == Some(self.uid.as_str())
            && dv.labels().get(LABEL_IMPORT_NODE).is_some_and(|node| *node == self.node);
        if !ours {
            return Ok(());
        }
        let status = dv.status.get_or_insert_default();
        apply(status, shown, Time(k8s_openapi::jiff::Timestamp::now()));
        self.api.replace_status(&self.name, &PostParams::default(), &dv).await.map(drop)
    }

    async fn event(&self, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: "Import".to_owned(),
            secondary: None,
        };
        match tokio::time::timeout(API_TIMEOUT, self.recorder.publish(&event, &self.reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason, error = %error, "event not recorded"),
            Err(_) => tracing::warn!(reason, "event not recorded in time"),
        }
    }
}

fn apply(status: &mut DataVolumeStatus, shown: &Shown<'_>, now: Time) {
    status.phase = shown.phase.clone();
    if let Some(progress) = shown.progress {
        status.progress = Some(progress.to_owned());
    }
    if let Some(restarts) = shown.restarts {
        status.restart_count = i32::try_from(restarts).ok();
    }
    for (type_, (value, reason, message)) in [("Running", shown.running), ("Ready", shown.ready)] {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let before = status.conditions.iter().position(|condition| condition.type_ == type_);
        let index = before.unwrap_or_else(|| {
            status.conditions.push(DataVolumeCondition { type_: type_.to_owned(), ..Default::default() });
            status.conditions.len() - 1
        });
        let condition = &mut status.conditions[index];
        if condition.status != value {
            condition.last_transition_time = Some(now.clone());
        }
        condition.status = value.to_owned();
        condition.reason = text(reason);
        condition.message = text(message);
        condition.last_heartbeat_time = Some(now.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_others_stay_and_transitions_are_dated() {
        let bound = DataVolumeCondition { type_: "Bound".to_owned(), status: "True".to_owned(), ..Default::default() };
        let mut status = DataVolumeStatus { conditions: vec![bound.clone()], ..Default::default() };
        let at = |second| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
        let shown = |message: &'static str| Shown {
            phase: DataVolumePhase::ImportInProgress,
            progress: Some("0.00%"),
            restarts: Some(2),
            running: ("False", "TransferFailed", message),
            ready: ("False", "TransferFailed", message),
        };
        apply(&mut status, &shown("one"), at(1));
        apply(&mut status, &shown("two"), at(2));
        assert_eq!(status.conditions.len(), 3);
        assert_eq!(status.conditions[0], bound);
        let running = &status.conditions[1];
        assert_eq!(running.message.as_deref(), Some("two"));
        assert_eq!(running.last_transition_time, Some(at(1)));
        assert_eq!(status.restart_count, Some(2));
    }
}
