//! Events for people and tools, with KubeVirt's and CDI's reasons. Published by a task of its own, so that no controller
//! waits for one. Refuses to be relied on: when there are too many, the newest are dropped.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::calls::Object;

/// Events that wait to be published. A burst of a hundred guests makes a few hundred.
const WAITING: usize = 1024;

/// Longest note that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// Starts the publishing task; it ends when the last clone is dropped.
    pub(crate) fn start(client: Client, instance: &str) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let reporter = Reporter { controller: "furrow-control".to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((event, object)) = receiver.recv().await {
                let publish = crate::calls::within(
                    || format!("publish event {}", event.reason),
                    recorder.publish(&event, &object),
                );
                if let Err(error) = publish.await {
                    tracing::debug!(error = error.message(), "event not published");
                }
            }
        });
        Self { sender }
    }

    /// Something went as it should.
    pub(crate) fn normal<K: Object>(&self, object: &K, reason: &str, note: impl Into<String>) {
        self.publish(EventType::Normal, object.object_ref(&()), reason, note.into());
    }

    /// Something went wrong.
    pub(crate) fn warning<K: Object>(&self, object: &K, reason: &str, note: impl Into<String>) {
        self.publish(EventType::Warning, object.object_ref(&()), reason, note.into());
    }

    fn publish(&self, type_: EventType, object: ObjectReference, reason: &str, mut note: String) {
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
            note.truncate(end);
        }
        let event =
            Event { type_, reason: reason.to_owned(), note: Some(note), action: reason.to_owned(), secondary: None };
        if self.sender.try_send((event, object)).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}
