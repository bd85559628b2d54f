//! The KubeVirt object: the settings of the cluster, and its status, which every KubeVirt tool reads to see that
//! virtualization is there. How that is follows from the nodes (`furrow_model::kubevirt`). Refuses to install or remove
//! anything: there is nothing to deploy.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::Store;

use furrow_api::kubevirt::KubeVirtPhase;
use furrow_api::{KubeVirt, names};
use furrow_model::kubevirt::{NodeHealth, health};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::vmi::condition;

/// The version of KubeVirt whose API is served: tools compare it with their own.
pub(crate) const API_LEVEL: &str = "v1.9.0";

/// The controller of the KubeVirt object.
pub(crate) struct Settings {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Settings {
    type Error = CallError;

    const NAME: &'static str = "kubevirt";

    fn keys(&self) -> Vec<Key> {
        self.cluster.kubevirts.state().iter().map(|kubevirt| key_of(kubevirt.as_ref())).collect()
    }

    /// Observe: the object. Report: that all is there. Nothing is planned or executed.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        let Some(kubevirt) = find(&self.cluster.kubevirts, &key.namespace, &key.name) else {
            return Ok(Next::OnChange);
        };
        let api = self.cluster.api::<KubeVirt>(&key.namespace);
        let nodes = self.cluster.nodes.state();
        let nodes: Vec<_> = nodes.iter().map(|node| node_health(node)).collect();
        calls::update_status(&api, kubevirt.as_ref(), &deployed(&kubevirt, &nodes)).await?;
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        Disposition::of_call(error)
    }
}

/// The settings of the cluster: the one KubeVirt object that counts.
pub(crate) fn settings(kubevirts: &Store<KubeVirt>) -> Option<Arc<KubeVirt>> {
    find(kubevirts, names::KUBEVIRT_NAMESPACE, names::KUBEVIRT_NAME)
}

fn node_health(node: &Node) -> NodeHealth {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    NodeHealth { name: node.name_any(), ready }
}

fn deployed(kubevirt: &KubeVirt, nodes: &[NodeHealth]) -> KubeVirt {
    let mut new = kubevirt.clone();
    let status = new.status.get_or_insert_default();
    status.phase = Some(KubeVirtPhase::Deployed);
    status.operator_version = Some(API_LEVEL.to_owned());
    status.target_kubevirt_version = Some(API_LEVEL.to_owned());
    status.observed_kubevirt_version = Some(API_LEVEL.to_owned());
    status.observed_generation = kubevirt.metadata.generation;
    status.default_architecture = Some("amd64".to_owned());
    // A guest runs in no image that could be outdated.
    status.outdated_virtual_machine_instance_workloads = Some(0);
    let now = || Time(Timestamp::now());
    for found in health(nodes) {
        condition(found.kind, found.holds, found.reason, &found.message).set(&mut status.conditions, now());
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: &str) -> NodeHealth {
        let node = serde_json::json!({"metadata": {"name": "n"},
            "status": {"conditions": [{"type": "Ready", "status": status}]}});
        node_health(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn the_second_pass_has_nothing_to_write() {
        let empty = KubeVirt::new("kubevirt", furrow_api::kubevirt::KubeVirtSpec::default());
        let once = deployed(&empty, &[node("True")]);
        assert_eq!(deployed(&once, &[node("True")]), once);
        assert_ne!(deployed(&once, &[node("Unknown")]), once);
    }

    #[test]
    fn it_is_available_when_a_node_is_ready() {
        assert!(node("True").ready);
        assert!(!node("Unknown").ready);
        let status = deployed(&KubeVirt::new("kubevirt", Default::default()), &[node("True")]).status.unwrap();
        let available = furrow_api::meta::Condition::find(&status.conditions, "Available");
        assert!(available.is_some_and(furrow_api::meta::Condition::is_true));
        assert_eq!(status.observed_kubevirt_version, status.target_kubevirt_version);
    }
}
