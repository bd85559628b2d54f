//! The controller that keeps, for every virtual machine that refers to an instancetype or a preference, a revision of
//! each, and names it in the status: what the object says later does not change a virtual machine that is there. Refuses
//! to touch the guest, and to delete revisions: they go with their virtual machine, and snapshots may name them.

use std::time::Duration;

use furrow_api::VirtualMachine;
use furrow_api::vm::{ControllerRevisionRef, InstancetypeStatusRef};
use furrow_model::instancetype::Which;
use furrow_model::reasons::chain;
use kube::ResourceExt;

use super::{TypesError, lookup, refers};
use crate::calls;
use crate::cluster::{Cluster, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};

/// A reference to what is not there is looked at again after this long: the object may have come.
const AGAIN: Duration = Duration::from_secs(60);

/// The controller.
pub(crate) struct Revisions {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Revisions {
    type Error = TypesError;

    const NAME: &'static str = "instancetype";

    fn keys(&self) -> Vec<Key> {
        let vms = self.cluster.vms.state();
        vms.iter().filter(|vm| concerned(vm)).map(|vm| key_of(vm.as_ref())).collect()
    }

    /// Observe: the virtual machine. Validate and execute: keep what it refers to. Report: the revisions' names.
    async fn reconcile(&self, key: &Key) -> Result<Next, TypesError> {
        let Some(vm) = find(&self.cluster.vms, &key.namespace, &key.name) else { return Ok(Next::OnChange) };
        if vm.metadata.deletion_timestamp.is_some() || !concerned(&vm) {
            return Ok(Next::OnChange);
        }
        let mut new = vm.as_ref().clone();
        let mut next = Next::OnChange;
        for which in Which::ALL {
            match self.reference(&vm, which).await {
                Ok(reference) => set(&mut new, which, reference),
                Err(error @ TypesError::Call(_)) => return Err(error),
                Err(error) => {
                    let reason = match which {
                        Which::Instancetype => "FailedFindInstancetype",
                        Which::Preference => "FailedFindPreference",
                    };
                    self.cluster.events.warning(vm.as_ref(), reason, chain(&error));
                    next = Next::After(AGAIN);
                }
            }
        }
        let api = self.cluster.api::<VirtualMachine>(&key.namespace);
        calls::update_status(&api, vm.as_ref(), &new).await?;
        Ok(next)
    }

    fn disposition(error: &TypesError) -> Disposition {
        match error {
            TypesError::Call(error) => Disposition::of_call(error),
            _ => Disposition::OnChange,
        }
    }
}

/// Whether there is a reference, or what is left of one.
pub(crate) fn concerned(vm: &VirtualMachine) -> bool {
    refers(vm) || Which::ALL.into_iter().any(|which| lookup::status_ref(vm, which).is_some())
}

fn set(vm: &mut VirtualMachine, which: Which, reference: Option<InstancetypeStatusRef>) {
    let status = vm.status.get_or_insert_default();
    match which {
        Which::Instancetype => status.instancetype_ref = reference,
        Which::Preference => status.preference_ref = reference,
    }
}

impl Revisions {
    /// What the status is to say. Costs no call when it says so already.
    async fn reference(&self, vm: &VirtualMachine, which: Which) -> Result<Option<InstancetypeStatusRef>, TypesError> {
        let Some(matcher) = lookup::matcher(vm, which) else { return Ok(None) };
        let asked = matcher.revision_name.as_deref().filter(|name| !name.is_empty());
        let kept = lookup::kept_revision(vm, which).filter(|kept| asked.is_none_or(|asked| asked == *kept));
        let revision = match kept {
            Some(revision) => Some(revision.to_owned()),
            None => lookup::keep(&self.cluster, vm, which).await?.map(|kept| kept.revision),
        };
        let scope = which.scope(matcher.kind.as_deref().unwrap_or_default());
        Ok(Some(InstancetypeStatusRef {
            name: matcher.name.clone(),
            kind: scope.map(|scope| which.kind(scope).to_owned()),
            controller_revision_ref: revision.map(|name| ControllerRevisionRef { name: Some(name) }),
            infer_from_volume: matcher.infer_from_volume.clone(),
            infer_from_volume_failure_policy: matcher.infer_from_volume_failure_policy.clone(),
        }))
    }
}

/// The key under which this controller looks at a virtual machine, if it does.
pub(crate) fn key(vm: &VirtualMachine) -> Option<Key> {
    concerned(vm).then(|| Key::new(&vm.namespace().unwrap_or_default(), &vm.name_any()))
}
