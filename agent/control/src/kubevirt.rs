//! The KubeVirt object's status: what every KubeVirt tool reads to see that virtualization is there. Refuses to install or
//! remove anything: there is nothing to deploy.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use furrow_api::KubeVirt;
use furrow_api::kubevirt::KubeVirtPhase;

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
        calls::update_status(&api, kubevirt.as_ref(), &deployed(&kubevirt)).await?;
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        if error.is_conflict() || error.is_gone() { Disposition::Stale } else { Disposition::Retry }
    }
}

fn deployed(kubevirt: &KubeVirt) -> KubeVirt {
    let mut new = kubevirt.clone();
    let status = new.status.get_or_insert_default();
    status.phase = Some(KubeVirtPhase::Deployed);
    status.operator_version = Some(API_LEVEL.to_owned());
    status.target_kubevirt_version = Some(API_LEVEL.to_owned());
    status.observed_kubevirt_version = Some(API_LEVEL.to_owned());
    status.observed_generation = kubevirt.metadata.generation;
    status.default_architecture = Some("amd64".to_owned());
    let now = || Time(Timestamp::now());
    let conditions = [
        ("Available", true, "AllComponentsReady", "All components are ready."),
        ("Progressing", false, "AllComponentsReady", "All components are ready."),
        ("Degraded", false, "AllComponentsReady", "All components are ready."),
        ("Created", true, "AllResourcesCreated", "All resources were created."),
    ];
    for (type_, value, reason, message) in conditions {
        condition(type_, value, reason, message).set(&mut status.conditions, now());
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_pass_has_nothing_to_write() {
        let once = deployed(&KubeVirt::new("kubevirt", furrow_api::kubevirt::KubeVirtSpec::default()));
        assert_eq!(deployed(&once), once);
    }
}
