//! Kubernetes events about guests, with KubeVirt's reasons. Publishing never holds up a guest: events go through a
//! bounded queue to one task, and one that finds the queue full is dropped, because the status says the same.

use furrow_api::VirtualMachineInstance;
use furrow_model::reasons::chain;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::publish::API_TIMEOUT;

/// A burst of starts on a full node, twice over.
const QUEUE: usize = 256;
/// Kubernetes refuses longer notes.
const MAX_NOTE: usize = 1000;

struct Entry {
    regarding: k8s_openapi::api::core::v1::ObjectReference,
    event: Event,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Entry>,
}

impl Events {
    /// Starts the task that publishes.
    pub(crate) fn start(client: Client, node: &str, stop: CancellationToken) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: "virt-handler".to_owned(), instance: Some(node.to_owned()) };
        tokio::spawn(run(Recorder::new(client, reporter), entries, stop));
        Self { queue }
    }

    /// Something expected happened.
    pub(crate) fn normal(&self, vmi: &VirtualMachineInstance, reason: &str, note: &str) {
        self.send(vmi, EventType::Normal, reason, note);
    }

    /// Something needs attention.
    pub(crate) fn warning(&self, vmi: &VirtualMachineInstance, reason: &str, note: &str) {
        self.send(vmi, EventType::Warning, reason, note);
    }

    fn send(&self, vmi: &VirtualMachineInstance, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(MAX_NOTE).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if self.queue.try_send(Entry { regarding: vmi.object_ref(&()), event }).is_err() {
            tracing::debug!(reason, "an event was dropped because too many wait");
        }
    }
}

async fn run(recorder: Recorder, mut entries: mpsc::Receiver<Entry>, stop: CancellationToken) {
    loop {
        // Safe to cancel on both arms: a received entry is handled before the next select.
        let entry = tokio::select! {
            entry = entries.recv() => entry,
            () = stop.cancelled() => None,
        };
        let Some(Entry { regarding, event }) = entry else { return };
        match tokio::time::timeout(API_TIMEOUT, recorder.publish(&event, &regarding)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(reason = %event.reason, error = %chain(&error), "an event was not published")
            }
            Err(_) => tracing::debug!(reason = %event.reason, "publishing an event took too long"),
        }
    }
}
