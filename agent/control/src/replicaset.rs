//! VirtualMachineInstanceReplicaSets: so many guests of a template; see `furrow_model::replicas`. Takes in guests that
//! match and belong to nobody, lets go of those that no longer match. Refuses to change a guest that is there.
//!
//! The cache may not know yet what the last pass made. Before anything is made or deleted the API server is asked.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{ListParams, ObjectMeta};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};

use furrow_api::meta::Condition;
use furrow_api::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet, names};
use furrow_model::replicas::{Plan, Replica, replica_set};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::selector;
use crate::vmi::condition;

/// What the API server refused is tried again after this long.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// The controller of replica sets.
pub(crate) struct ReplicaSets {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

/// What a pass could not do: the condition's reason and its message.
type Failure = (&'static str, String);

impl Reconcile for ReplicaSets {
    type Error = CallError;

    const NAME: &'static str = "replicaset";

    fn keys(&self) -> Vec<Key> {
        self.cluster.replica_sets.state().iter().map(|set| key_of(set.as_ref())).collect()
    }

    /// Observe: the guests that are its own. Validate and plan: `furrow_model::replicas`. Execute: make and delete.
    /// Report: the status.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        let Some(set) = find(&self.cluster.replica_sets, &key.namespace, &key.name) else { return Ok(Next::OnChange) };
        // One that is not to be read selects nothing, and admission has said so.
        let Ok(selector) = selector::of(&set.spec.selector) else { return Ok(Next::OnChange) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let cached = self.cluster.vmis.state();
        let here = cached.iter().filter(|vmi| vmi.namespace().as_deref() == Some(key.namespace.as_str()));
        let mut own: Vec<VirtualMachineInstance> = here.map(|vmi| vmi.as_ref().clone()).collect();
        for vmi in &own {
            self.claim(&set, &selector, vmi).await?;
        }
        own.retain(|vmi| owned_by(vmi, &set));
        let mut failure = None;
        if !set.spec.paused && plan(&set, &own) != Plan::default() {
            own = self.ask(&set, &selector).await?;
            failure = self.execute(&set, &mut own).await?;
        }
        let new = report(&set, &own, (&selector, failure.as_ref()));
        self.tell(&set, &new);
        let api = self.cluster.api::<VirtualMachineInstanceReplicaSet>(&key.namespace);
        calls::update_status(&api, set.as_ref(), &new).await?;
        Ok(if failure.is_some() { Next::After(REFUSED_AGAIN) } else { Next::OnChange })
    }

    fn disposition(error: &CallError) -> Disposition {
        Disposition::of_call(error)
    }
}

fn owned_by(object: &impl ResourceExt, set: &VirtualMachineInstanceReplicaSet) -> bool {
    controller::<VirtualMachineInstanceReplicaSet>(object)
        .is_some_and(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
}

fn wanted(set: &VirtualMachineInstanceReplicaSet) -> usize {
    usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or_default()
}

fn plan(set: &VirtualMachineInstanceReplicaSet, own: &[VirtualMachineInstance]) -> Plan {
    replica_set(wanted(set), &own.iter().map(replica).collect::<Vec<_>>())
}

fn replica(vmi: &VirtualMachineInstance) -> Replica {
    let status = vmi.status.as_ref();
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    Replica {
        name: vmi.name_any(),
        deleting: vmi.metadata.deletion_timestamp.is_some(),
        over: status.is_some_and(|status| status.phase.is_final()),
        ready: Condition::find(conditions, "Ready").is_some_and(Condition::is_true),
        born_ms: vmi.creation_timestamp().map_or(0, |time| time.0.as_millisecond()),
    }
}

fn owner_reference(set: &VirtualMachineInstanceReplicaSet) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachineInstanceReplicaSet::api_version(&()).into_owned(),
        kind: VirtualMachineInstanceReplicaSet::kind(&()).into_owned(),
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The guest of a set. The API server makes its name.
fn guest(set: &VirtualMachineInstanceReplicaSet) -> VirtualMachineInstance {
    let metadata = set.spec.template.metadata.clone().unwrap_or_default();
    let prefix = metadata.generate_name.filter(|prefix| !prefix.is_empty());
    VirtualMachineInstance {
        metadata: ObjectMeta {
            generate_name: Some(prefix.unwrap_or_else(|| set.name_any())),
            namespace: set.namespace(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: Some(vec![names::FINALIZER_VMI.to_owned()]),
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: set.spec.template.spec.clone(),
        status: None,
    }
}

/// The status. `own`: its guests.
fn report(
    set: &VirtualMachineInstanceReplicaSet,
    own: &[VirtualMachineInstance],
    (selector, failure): (&Selector, Option<&Failure>),
) -> VirtualMachineInstanceReplicaSet {
    let now = || Time(Timestamp::now());
    let mut new = set.clone();
    let status = new.status.get_or_insert_default();
    let active: Vec<_> = own.iter().map(replica).filter(Replica::is_active).collect();
    status.replicas = i32::try_from(active.len()).ok();
    status.ready_replicas = i32::try_from(active.iter().filter(|replica| replica.ready).count()).ok();
    status.label_selector = Some(selector.to_string());
    let paused = set.spec.paused.then_some(("Paused", "Controller got paused".to_owned()));
    let failed = failure.map(|(reason, message)| (*reason, message.clone()));
    for (type_, said) in [("ReplicaFailure", failed), ("ReplicaPaused", paused)] {
        match said {
            Some((reason, message)) => {
                condition(type_, true, reason, &message).set(&mut status.conditions, now());
            }
            None => status.conditions.retain(|condition| condition.type_ != type_),
        }
    }
    new
}

impl ReplicaSets {
    /// Takes in a guest that matches and belongs to nobody; lets go of one that no longer matches.
    async fn claim(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        selector: &Selector,
        vmi: &VirtualMachineInstance,
    ) -> Result<(), CallError> {
        let matches = selector.matches(vmi.labels());
        let orphan = vmi.owner_references().iter().all(|owner| owner.controller != Some(true));
        if vmi.metadata.deletion_timestamp.is_some() || (matches || !owned_by(vmi, set)) && !(matches && orphan) {
            return Ok(());
        }
        let mut new = vmi.clone();
        if matches {
            new.owner_references_mut().push(owner_reference(set));
        } else {
            new.owner_references_mut().retain(|owner| Some(&owner.uid) != set.metadata.uid.as_ref());
        }
        let api = self.cluster.api::<VirtualMachineInstance>(&set.namespace().unwrap_or_default());
        calls::update(&api, vmi, &new).await?;
        tracing::info!(replicaset = %key_of(set), vmi = %key_of(vmi), taken_in = matches, "guest changed hands");
        Ok(())
    }

    /// Its guests as the API server has them now.
    async fn ask(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        selector: &Selector,
    ) -> Result<Vec<VirtualMachineInstance>, CallError> {
        let api = self.cluster.api::<VirtualMachineInstance>(&set.namespace().unwrap_or_default());
        let params = ListParams::default().labels_from(selector);
        let list = calls::within(|| format!("list guests of {}", key_of(set)), api.list(&params)).await?;
        Ok(list.items.into_iter().filter(|vmi| owned_by(vmi, set)).collect())
    }

    /// Makes and deletes. What was made is added to `own`. Gives the first thing that was refused.
    async fn execute(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        own: &mut Vec<VirtualMachineInstance>,
    ) -> Result<Option<Failure>, CallError> {
        let plan = plan(set, own);
        let (api, events) =
            (self.cluster.api::<VirtualMachineInstance>(&set.namespace().unwrap_or_default()), &self.cluster.events);
        for vmi in own.iter_mut().filter(|vmi| plan.delete.contains(&vmi.name_any())) {
            calls::delete(&api, vmi).await?;
            let note =
                format!("Stopped the virtual machine by deleting the virtual machine instance {}", vmi.name_any());
            events.normal(set, "SuccessfulDelete", note);
            vmi.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        }
        let wanted = guest(set);
        for _ in 0..plan.create {
            match calls::create(&api, &wanted).await {
                Ok(Some(vmi)) => {
                    let name = vmi.name_any();
                    let note =
                        format!("Started the virtual machine by creating the new virtual machine instance {name}");
                    events.normal(set, "SuccessfulCreate", note);
                    own.push(vmi);
                }
                // A random name that is taken: another is tried in the next pass.
                Ok(None) => {}
                Err(error) if error.is_refusal() => {
                    let message = error.message();
                    events.warning(set, "FailedCreate", format!("Error creating virtual machine instance: {message}"));
                    return Ok(Some(("FailedCreate", message)));
                }
                Err(error) => return Err(error),
            }
        }
        if plan != Plan::default() {
            tracing::info!(replicaset = %key_of(set), made = plan.create, deleted = plan.delete.len(), "scaled");
        }
        Ok(None)
    }

    /// Tells when it was paused and when no longer.
    fn tell(&self, old: &VirtualMachineInstanceReplicaSet, new: &VirtualMachineInstanceReplicaSet) {
        let paused = |set: &VirtualMachineInstanceReplicaSet| {
            let conditions = set.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            Condition::find(conditions, "ReplicaPaused").is_some()
        };
        match (paused(old), paused(new)) {
            (false, true) => self.cluster.events.normal(new, "SuccessfulPaused", "Paused"),
            (true, false) => self.cluster.events.normal(new, "SuccessfulResumed", "Resumed"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> VirtualMachineInstanceReplicaSet {
        let mut full = json!({
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"domain": {"devices": {}}}},
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
            "metadata": {"name": "web", "namespace": "shop", "uid": "set"}, "spec": full,
        }))
        .unwrap()
    }

    fn vmi(name: &str, ready: &str, phase: &str) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": name},
            "spec": {"domain": {"devices": {}}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_guest_belongs_to_its_set_and_gets_its_name_from_the_api_server() {
        let vmi = guest(&set(json!({})));
        assert!(owned_by(&vmi, &set(json!({}))));
        assert_eq!((vmi.metadata.name.clone(), vmi.metadata.generate_name.as_deref()), (None, Some("web")));
        assert_eq!(vmi.labels()["app"], "web");
    }

    #[test]
    fn the_status_counts_what_is_active_and_says_the_selector() {
        let set = set(json!({"paused": true}));
        let own = [vmi("a", "True", "Running"), vmi("b", "False", "Scheduling"), vmi("c", "False", "Failed")];
        let selector = selector::of(&set.spec.selector).unwrap();
        let status = report(&set, &own, (&selector, Some(&("FailedCreate", "no".into())))).status.unwrap();
        assert_eq!((status.replicas, status.ready_replicas), (Some(2), Some(1)));
        assert_eq!(status.label_selector.as_deref(), Some("app=web"));
        let types: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["ReplicaFailure", "ReplicaPaused"]);
        let mut again = set.clone();
        again.spec.paused = false;
        again.status = Some(status_of(&set, &own, &selector));
        assert_eq!(report(&again, &own, (&selector, None)).status.unwrap().conditions, Vec::new());
    }

    fn status_of(
        set: &VirtualMachineInstanceReplicaSet,
        own: &[VirtualMachineInstance],
        selector: &Selector,
    ) -> furrow_api::replicaset::VirtualMachineInstanceReplicaSetStatus {
        report(set, own, (selector, None)).status.unwrap()
    }
}
