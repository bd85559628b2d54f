//! How a provider network stands on this node, told to Kubernetes: this node's entry in the object's status, and the
//! node's labels that reservation pods select on. Writes nothing that is already so; refuses other nodes' entries.

use std::collections::BTreeMap;

use furrow_api::providernetwork::{ProviderNetwork, ProviderNetworkCondition, ProviderNetworkStatus};
use furrow_model::provider::Verdict;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};

const FIELD_MANAGER: &str = "furrow-agent";

/// What Kube-OVN puts between a provider network's name and `ready`, `interface`, `mtu` in a node's labels.
const LABEL_INFIX: &str = "provider-network.ovn.kubernetes.io";

const CONDITION: &str = "Ready";

/// How often a write is tried against other nodes' writes to the same object.
const ATTEMPTS: u32 = 5;

/// What could not be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum StatusError {
    #[error("could not label node {node}")]
    Label {
        node: String,
        #[source]
        source: kube::Error,
    },
    #[error("could not write the status")]
    Write(#[source] kube::Error),
    #[error("could not write the status: other nodes wrote it {ATTEMPTS} times meanwhile")]
    Contended,
}

/// Publishes a verdict. The label goes first when it is bad news: nothing may be scheduled here any more.
pub(super) async fn publish(client: &Client, node: &str, network: &str, verdict: &Verdict) -> Result<(), StatusError> {
    label(client, node, network, verdict).await?;
    let api = Api::<ProviderNetwork>::all(client.clone());
    for _ in 0..ATTEMPTS {
        let Some(mut object) = api.get_opt(network).await.map_err(StatusError::Write)? else { return Ok(()) };
        let mut status = object.status.clone().unwrap_or_default();
        if !update(&mut status, node, verdict, Timestamp::now()) {
            return Ok(());
        }
        object.status = Some(status);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match api.replace_status(network, &params, &object).await {
            Ok(_) => {
                tracing::info!(network, verdict = ?verdict, "provider network reported");
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(StatusError::Write(error)),
        }
    }
    Err(StatusError::Contended)
}

/// Takes the labels of networks away that are not among `networks` any more.
pub(super) async fn forget(
    client: &Client,
    node: &str,
    labels: &BTreeMap<String, String>,
    networks: impl Fn(&str) -> bool,
) -> Result<(), StatusError> {
    let stale = stale_labels(labels, networks);
    if stale.is_empty() {
        return Ok(());
    }
    let removals: serde_json::Map<_, _> = stale.into_iter().map(|key| (key, serde_json::Value::Null)).collect();
    patch_labels(client, node, removals).await
}

fn stale_labels(labels: &BTreeMap<String, String>, networks: impl Fn(&str) -> bool) -> Vec<String> {
    let infix = format!(".{LABEL_INFIX}/");
    let network = |key: &str| key.split_once(&infix).map(|(network, _)| network.to_owned());
    labels.keys().filter(|key| network(key).is_some_and(|network| !networks(&network))).cloned().collect()
}

async fn patch_labels(
    client: &Client,
    node: &str,
    labels: serde_json::Map<String, serde_json::Value>,
) -> Result<(), StatusError> {
    let patch = serde_json::json!({"metadata": {"labels": labels}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = Api::<Node>::all(client.clone()).patch_metadata(node, &params, &Patch::Merge(patch)).await;
    patched.map(drop).map_err(|source| StatusError::Label { node: node.to_owned(), source })
}

async fn label(client: &Client, node: &str, network: &str, verdict: &Verdict) -> Result<(), StatusError> {
    let failed = |source| StatusError::Label { node: node.to_owned(), source };
    let nodes = Api::<Node>::all(client.clone());
    let present = nodes.get_metadata(node).await.map_err(failed)?;
    let wanted = match verdict {
        Verdict::Ready { nic, mtu } => [Some("true".to_owned()), Some(nic.clone()), Some(mtu.to_string())],
        _ => [None, None, None],
    };
    let keys = ["ready", "interface", "mtu"].map(|key| format!("{network}.{LABEL_INFIX}/{key}"));
    let labels: serde_json::Map<_, _> = keys
        .into_iter()
        .zip(wanted)
        .filter(|(key, value)| present.labels().get(key) != value.as_ref())
        .map(|(key, value)| (key, value.into()))
        .collect();
    if labels.is_empty() {
        return Ok(());
    }
    patch_labels(client, node, labels).await
}

/// Puts this node's part into the status, and tells whether that changed anything.
fn update(status: &mut ProviderNetworkStatus, node: &str, verdict: &Verdict, now: Timestamp) -> bool {
    let before = status.clone();
    let ready = matches!(verdict, Verdict::Ready { .. });
    let concerned = *verdict != Verdict::NotConcerned;
    put(&mut status.ready_nodes, node, ready);
    put(&mut status.not_ready_nodes, node, concerned && !ready);
    status.ready = status.not_ready_nodes.is_empty() && !status.ready_nodes.is_empty();

    let old = status.conditions.iter().position(|condition| condition.node == node && condition.type_ == CONDITION);
    let old = old.map(|place| status.conditions.remove(place));
    if concerned {
        status.conditions.push(condition(node, verdict, old, now));
        status.conditions.sort_by(|a, b| a.node.cmp(&b.node));
    }
    *status != before
}

fn condition(
    node: &str,
    verdict: &Verdict,
    old: Option<ProviderNetworkCondition>,
    now: Timestamp,
) -> ProviderNetworkCondition {
    let (state, reason, message) = match verdict {
        Verdict::Ready { nic, .. } => ("True", "BridgeReady", format!("{nic} is on the bridge")),
        Verdict::Refused { reason, message } => ("False", *reason, message.clone()),
        Verdict::Pending | Verdict::NotConcerned => ("False", "Pending", "the bridge is being set up".to_owned()),
    };
    let same = |old: &ProviderNetworkCondition| {
        old.status == state && old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message)
    };
    if let Some(old) = old.as_ref().filter(|old| same(old)) {
        return old.clone();
    }
    let transition = old.filter(|old| old.status == state).and_then(|old| old.last_transition_time);
    ProviderNetworkCondition {
        node: node.to_owned(),
        type_: CONDITION.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: transition.or(Some(Time(now))),
    }
}

fn put(nodes: &mut Vec<String>, node: &str, there: bool) {
    nodes.retain(|other| other != node);
    if there {
        nodes.push(node.to_owned());
        nodes.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid time")
    }

    #[test]
    fn a_node_changes_only_its_own_part() {
        let ready = Verdict::Ready { nic: "eth1".into(), mtu: 1500 };
        let mut status = ProviderNetworkStatus::default();
        assert!(update(&mut status, "n2", &ready, at(1)));
        assert!(status.ready);
        let refused = Verdict::Refused { reason: "InterfaceNotFound", message: "there is no interface eth1".into() };
        assert!(update(&mut status, "n1", &refused, at(2)));
        assert!(!status.ready);
        assert_eq!(
            (status.ready_nodes.as_slice(), status.not_ready_nodes.as_slice()),
            (&["n2".into()][..], &["n1".into()][..])
        );
        let nodes: Vec<&str> = status.conditions.iter().map(|condition| condition.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
        assert!(update(&mut status, "n1", &Verdict::NotConcerned, at(3)));
        assert!(status.ready && status.conditions.len() == 1);
    }

    #[test]
    fn labels_of_networks_that_are_gone_are_stale() {
        let labels = ["prod", "old"].map(|network| (format!("{network}.{LABEL_INFIX}/ready"), "true".to_owned()));
        let mut labels = BTreeMap::from(labels);
        labels.insert("kubernetes.io/os".into(), "linux".into());
        assert_eq!(stale_labels(&labels, |network| network == "prod"), [format!("old.{LABEL_INFIX}/ready")]);
    }

    #[test]
    fn the_same_again_writes_nothing() {
        let mut status = ProviderNetworkStatus::default();
        assert!(update(&mut status, "n1", &Verdict::Pending, at(1)));
        assert!(!update(&mut status, "n1", &Verdict::Pending, at(2)));
        let refused = Verdict::Refused { reason: "InterfaceInUse", message: "by bond0".into() };
        assert!(update(&mut status, "n1", &refused, at(3)));
        assert_eq!(status.conditions[0].last_transition_time, Some(Time(at(1))), "it was not ready all along");
        assert_eq!(status.conditions[0].last_update_time, Some(Time(at(3))));
    }
}
