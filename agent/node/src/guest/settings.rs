//! The KubeVirt object, reduced to the settings that a node follows. Owns the watch; without the object, or while it
//! cannot be read, the defaults hold.

use furrow_api::{KubeVirt, names};
use furrow_model::reasons::chain;
use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::convert::ClusterDefaults;

/// Settings of the cluster that a node follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Guests run in software even where there is KVM.
    pub(crate) use_emulation: bool,
    /// What guests get that name nothing else.
    pub(crate) defaults: ClusterDefaults,
}

impl Settings {
    /// Reads the object.
    pub(crate) fn of(kubevirt: &KubeVirt) -> Self {
        let configuration = kubevirt.spec.configuration.clone().unwrap_or_default();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            use_emulation: configuration.developer_configuration.is_some_and(|developer| developer.use_emulation),
            defaults: ClusterDefaults {
                cpu_model: text(configuration.cpu_model),
                machine_type: configuration
                    .architecture_configuration
                    .and_then(|all| text(all.amd64?.machine_type))
                    .or_else(|| text(configuration.machine_type)),
            },
        }
    }
}

/// Follows the object until `stop`. The channel's first value is there once it has been looked for.
pub(crate) fn follow(client: Client, stop: CancellationToken) -> watch::Receiver<Option<Settings>> {
    let (sender, receiver) = watch::channel(None);
    let api: Api<KubeVirt> = Api::namespaced(client, names::KUBEVIRT_NAMESPACE);
    tokio::spawn(async move {
        let fields = format!("metadata.name={}", names::KUBEVIRT_NAME);
        let mut events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff().boxed();
        let mut seen_in_list = false;
        loop {
            // Safe to cancel: an event that was not returned is delivered again by the next list.
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => None,
            };
            let settings = match event {
                None => return,
                Some(Ok(watcher::Event::Init)) => {
                    seen_in_list = false;
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                    seen_in_list = true;
                    Settings::of(&object)
                }
                Some(Ok(watcher::Event::InitDone)) if seen_in_list => continue,
                Some(Ok(watcher::Event::InitDone | watcher::Event::Delete(_))) => Settings::default(),
                Some(Err(error)) => {
                    tracing::debug!(error = %chain(&error), "the kubevirt object cannot be watched at the moment");
                    continue;
                }
            };
            sender.send_if_modified(|current| {
                let changed = current.as_ref() != Some(&settings);
                *current = Some(settings.clone());
                changed
            });
        }
    });
    receiver
}
