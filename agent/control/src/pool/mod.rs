//! VirtualMachinePools: so many virtual machines of a template, each with an index; see `furrow_model::replicas`. Lets go
//! of virtual machines that no longer match. Refuses to take in any, as KubeVirt does: an index is not found by a label.
//!
//! The cache may not know yet what the last pass made. Before anything is made or deleted the API server is asked.

mod member;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::{Selector, SelectorExt};

use furrow_api::meta::Condition;
use furrow_api::{VirtualMachine, VirtualMachineInstance, VirtualMachinePool};
use furrow_model::replicas::{PoolPlan, name_index, pool};

use self::member::{Template, owned_by};
use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::selector;
use crate::vmi::condition;

pub(crate) use self::member::{of_nodes, sample, text};

/// What the API server refused is tried again after this long.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// An update that waits for members to be ready looks again after this long, though their changes wake it too.
const WAITING_AGAIN: Duration = Duration::from_secs(30);

/// Why a pass over a pool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The template makes no virtual machine: admission should have refused it.
    #[error("template of {pool} makes no virtual machine")]
    Template {
        /// The pool.
        pool: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The controller of pools.
pub(crate) struct Pools {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

/// What a pass could not do: the condition's reason and its message.
type Failure = (&'static str, String);

impl Reconcile for Pools {
    type Error = PoolError;

    const NAME: &'static str = "pool";

    fn keys(&self) -> Vec<Key> {
        self.cluster.pools.state().iter().map(|pool| key_of(pool.as_ref())).collect()
    }

    /// Observe: the virtual machines that are its own and their guests. Validate and plan: `furrow_model::replicas`.
    /// Execute: make, write, restart, delete. Report: the status.
    async fn reconcile(&self, key: &Key) -> Result<Next, PoolError> {
        let Some(pool) = find(&self.cluster.pools, &key.namespace, &key.name) else { return Ok(Next::OnChange) };
        // One that is not to be read selects nothing, and admission has said so.
        let Ok(selector) = selector::of(&pool.spec.selector) else { return Ok(Next::OnChange) };
        if pool.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let cached = self.cluster.vms.state();
        let here = cached.iter().filter(|vm| vm.namespace().as_deref() == Some(key.namespace.as_str()));
        let mut machines: Vec<VirtualMachine> = here.map(|vm| vm.as_ref().clone()).collect();
        self.release(&pool, &selector, &machines).await?;
        let shape = |source| PoolError::Template { pool: key.clone(), source };
        let template = Template::of(&pool).map_err(shape)?;
        let (mut failure, mut waiting) = (None, false);
        if !pool.spec.paused {
            let mut plan = self.plan(&pool, &template, &machines);
            if !(plan.create.is_empty() && plan.delete.is_empty()) {
                machines = self.ask(key).await?;
                plan = self.plan(&pool, &template, &machines);
            }
            waiting = plan.waiting;
            failure = Box::pin(self.execute(&pool, &template, (&plan, &mut machines))).await?;
        }
        let new = report(&pool, &machines, (&selector, failure.as_ref()));
        self.tell(&pool, &new);
        calls::update_status(&self.cluster.api::<VirtualMachinePool>(&key.namespace), pool.as_ref(), &new).await?;
        waiting |= machines.iter().any(|vm| owned_by(vm, &pool) && member::may_be_lost(&pool, vm));
        Ok(match (failure, waiting) {
            (Some(_), _) => Next::After(REFUSED_AGAIN),
            (None, true) => Next::After(WAITING_AGAIN),
            (None, false) => Next::OnChange,
        })
    }

    fn disposition(error: &PoolError) -> Disposition {
        match error {
            PoolError::Call(error) => Disposition::of_call(error),
            PoolError::Template { .. } => Disposition::OnChange,
        }
    }
}

fn is_ready(vm: &VirtualMachine) -> bool {
    let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    Condition::find(conditions, "Ready").is_some_and(Condition::is_true)
}

/// The status. `machines`: all of the namespace.
fn report(
    pool: &VirtualMachinePool,
    machines: &[VirtualMachine],
    (selector, failure): (&Selector, Option<&Failure>),
) -> VirtualMachinePool {
    let now = || Time(Timestamp::now());
    let mut new = pool.clone();
    let status = new.status.get_or_insert_default();
    let own = || machines.iter().filter(|vm| owned_by(*vm, pool));
    status.replicas = i32::try_from(own().count()).ok();
    status.ready_replicas = i32::try_from(own().filter(|vm| is_ready(vm)).count()).ok();
    status.label_selector = Some(selector.to_string());
    let paused = pool.spec.paused.then_some(("SuccessfulPaused", "Pool controller is paused".to_owned()));
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

impl Pools {
    fn plan(&self, of: &VirtualMachinePool, template: &Template, machines: &[VirtualMachine]) -> PoolPlan {
        let guest = |vm: &VirtualMachine| {
            let vmi = find(&self.cluster.vmis, &vm.namespace().unwrap_or_default(), &vm.name_any());
            vmi.filter(|vmi| {
                controller::<VirtualMachine>(vmi.as_ref()).is_some_and(|owner| Some(&owner.uid) == vm.uid().as_ref())
            })
        };
        let own = machines.iter().filter(|vm| owned_by(*vm, of));
        let members: Vec<_> = own.map(|vm| member::facts(of, template, (vm, guest(vm).as_deref()))).collect();
        let taken: BTreeSet<_> = machines.iter().map(ResourceExt::name_any).collect();
        pool(&member::spec(of, rand::random()), &of.name_any(), &members, &taken)
    }

    /// All virtual machines of a namespace as the API server has them now.
    async fn ask(&self, key: &Key) -> Result<Vec<VirtualMachine>, CallError> {
        let api = self.cluster.api::<VirtualMachine>(&key.namespace);
        let params = ListParams::default();
        let list = calls::within(|| format!("list virtual machines of {key}"), api.list(&params)).await?;
        Ok(list.items)
    }

    /// Lets go of virtual machines that no longer match.
    async fn release(
        &self,
        pool: &VirtualMachinePool,
        selector: &Selector,
        machines: &[VirtualMachine],
    ) -> Result<(), CallError> {
        let api = self.cluster.api::<VirtualMachine>(&pool.namespace().unwrap_or_default());
        let strayed = |vm: &&VirtualMachine| {
            owned_by(*vm, pool) && vm.metadata.deletion_timestamp.is_none() && !selector.matches(vm.labels())
        };
        for vm in machines.iter().filter(strayed) {
            let mut new = vm.clone();
            new.owner_references_mut().retain(|owner| Some(&owner.uid) != pool.metadata.uid.as_ref());
            calls::update(&api, vm, &new).await?;
            tracing::info!(pool = %key_of(pool), vm = %key_of(vm), "virtual machine left its pool");
        }
        Ok(())
    }

    /// Carries out a plan; `machines` is kept in line with what was done. Gives the first thing that was refused.
    async fn execute(
        &self,
        pool: &VirtualMachinePool,
        template: &Template,
        (plan, machines): (&PoolPlan, &mut Vec<VirtualMachine>),
    ) -> Result<Option<Failure>, PoolError> {
        let namespace = pool.namespace().unwrap_or_default();
        let api = self.cluster.api::<VirtualMachine>(&namespace);
        for vm in machines.iter_mut().filter(|vm| plan.delete.contains(&vm.name_any())) {
            calls::delete(&api, vm).await?;
            let note = format!("Deleted VM {}", key_of(vm));
            self.cluster.events.normal(pool, "SuccessfulDelete", note);
            vm.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        }
        self.restart(pool, plan).await?;
        let shape = |source| PoolError::Template { pool: key_of(pool), source };
        for vm in machines.iter_mut().filter(|vm| plan.update.contains(&vm.name_any())) {
            let Some(index) = name_index(&vm.name_any()) else { continue };
            let new = template.renewed(vm, index).map_err(shape)?;
            match calls::update(&api, vm, &new).await {
                Ok(written) => {
                    *vm = written.unwrap_or(new);
                    self.cluster.events.normal(pool, "SuccessfulUpdate", format!("Updated VM {}", key_of(vm)));
                }
                Err(error) if error.is_refusal() => {
                    let note = format!("Error updating virtual machine {}: {}", key_of(vm), error.message());
                    self.cluster.events.warning(pool, "FailedUpdate", note.clone());
                    return Ok(Some(("FailedUpdate", note)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        for index in &plan.create {
            let vm = template.machine(*index).map_err(shape)?;
            match calls::create(&api, &vm).await {
                Ok(Some(created)) => {
                    self.cluster.events.normal(pool, "SuccessfulCreate", format!("Created VM {}", key_of(&created)));
                    machines.push(created);
                }
                // Somebody was faster: the next pass takes another index.
                Ok(None) => {}
                Err(error) if error.is_refusal() => {
                    let note = format!("Error creating VM: {}", error.message());
                    self.cluster.events.warning(pool, "FailedCreate", note.clone());
                    return Ok(Some(("FailedScaleOut", note)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Deletes guests that were made from an older template: their virtual machines make them anew.
    async fn restart(&self, pool: &VirtualMachinePool, plan: &PoolPlan) -> Result<(), CallError> {
        let namespace = pool.namespace().unwrap_or_default();
        let api = self.cluster.api::<VirtualMachineInstance>(&namespace);
        for name in &plan.restart {
            let Some(vmi) = find(&self.cluster.vmis, &namespace, name) else { continue };
            calls::delete(&api, vmi.as_ref()).await?;
            tracing::info!(pool = %key_of(pool), vmi = %key_of(vmi.as_ref()), "guest restarted for an update");
            let note = format!("Successfully updated resource {namespace}/{name}");
            self.cluster.events.normal(pool, "SuccessfulDelete", note);
        }
        Ok(())
    }

    /// Tells when it was paused and when no longer.
    fn tell(&self, old: &VirtualMachinePool, new: &VirtualMachinePool) {
        let paused = |pool: &VirtualMachinePool| {
            let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            Condition::find(conditions, "ReplicaPaused").is_some()
        };
        match (paused(old), paused(new)) {
            (false, true) => self.cluster.events.normal(new, "SuccessfulPaused", "Pool is paused"),
            (true, false) => self.cluster.events.normal(new, "SuccessfulResume", "Pool is unpaused"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::member::tests::{machine_of, pool};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_counts_its_own_and_says_the_selector() {
        let of = pool(json!({"paused": true}));
        let mut ready = machine_of(&of, 0);
        ready.status = serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap();
        let mut foreign = machine_of(&of, 7);
        foreign.metadata.owner_references = None;
        let machines = [ready, machine_of(&of, 1), foreign];
        let selector = selector::of(&of.spec.selector).unwrap();
        let status = report(&of, &machines, (&selector, None)).status.unwrap();
        assert_eq!((status.replicas, status.ready_replicas), (Some(2), Some(1)));
        assert_eq!(status.label_selector.as_deref(), Some("app=web"));
        assert_eq!(status.conditions[0].type_, "ReplicaPaused");
    }
}
