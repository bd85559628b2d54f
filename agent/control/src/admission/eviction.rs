//! Evictions of reservation pods: a drain asks for them, and a guest may have to leave by other means. The rules are
//! `furrow_model::eviction`'s. The one webhook that writes: the node to be left, into the guest's status, and with dry run
//! not even that. Refuses to judge other pods.

use std::sync::Arc;

use furrow_api::VirtualMachineInstance;
use furrow_api::meta::Condition;
use furrow_api::vmi::EvictionStrategy;
use furrow_model::eviction::{Evicted, Strategy, Verdict, verdict};
use kube::ResourceExt;

use super::facts::{Facts, FactsError, Reserved};
use super::review::{Answer, Request};

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    let name = if request.target.is_empty() { request.name() } else { &request.target };
    let Some(reserved) = facts.reserved(request.namespace(), name).await? else {
        return Ok(Answer::Allowed(Vec::new()));
    };
    match verdict(&observe(&reserved, facts.eviction_strategy().as_ref())) {
        Verdict::Let => Ok(Answer::Allowed(Vec::new())),
        Verdict::Deny(text) => Ok(Answer::TooMany(text)),
        Verdict::Mark(text) => match facts.mark_evacuation(&reserved.vmi, &reserved.node, request.dry_run).await {
            Ok(()) => Ok(Answer::TooMany(text)),
            // Whoever drains asks again.
            Err(error) => Ok(Answer::TooMany(format!("kubevirt failed marking the vmi for eviction: {}", error.0))),
        },
    }
}

fn observe<'a>(reserved: &'a Reserved, default: Option<&EvictionStrategy>) -> Evicted<'a> {
    let vmi = &reserved.vmi;
    let status = vmi.status.as_ref();
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let names_node = |node: Option<&String>| node.is_some_and(|node| !node.is_empty());
    Evicted {
        namespace: vmi.metadata.namespace.as_deref().unwrap_or_default(),
        name: vmi.metadata.name.as_deref().unwrap_or_default(),
        strategy: vmi.spec.eviction_strategy.as_ref().or(default).and_then(strategy),
        migratable: Condition::find(conditions, "LiveMigratable").is_some_and(Condition::is_true),
        over: reserved.over || status.is_some_and(|status| status.phase.is_final()),
        marked: names_node(status.and_then(|status| status.evacuation_node_name.as_ref())),
        here: status.is_some_and(|status| status.node_name.as_ref() == Some(&reserved.node)),
    }
}

/// The model's word; `None` for one that this version does not know, which admission lets nobody write.
fn strategy(strategy: &EvictionStrategy) -> Option<Strategy> {
    match strategy {
        EvictionStrategy::None => Some(Strategy::None),
        EvictionStrategy::LiveMigrate => Some(Strategy::LiveMigrate),
        EvictionStrategy::LiveMigrateIfPossible => Some(Strategy::LiveMigrateIfPossible),
        EvictionStrategy::External => Some(Strategy::External),
        EvictionStrategy::Other(_) => None,
    }
}

/// Whether a pod of this name can be a reservation: others are not looked for when the cache has none.
pub(super) fn may_reserve(pod: &str) -> bool {
    pod.starts_with("virt-launcher-")
}

/// What is known of a reservation pod and its guest; `None` when the pod is not one of this very guest.
pub(super) fn reserved(pod: &k8s_openapi::api::core::v1::Pod, vmi: Option<VirtualMachineInstance>) -> Option<Reserved> {
    let owner = crate::cluster::controller::<VirtualMachineInstance>(pod)?;
    let vmi = vmi.filter(|vmi| vmi.uid().as_ref() == Some(&owner.uid))?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    Some(Reserved { vmi, node, over: matches!(phase, Some("Succeeded" | "Failed")) })
}

#[cfg(test)]
#[path = "eviction_tests.rs"]
mod tests;
