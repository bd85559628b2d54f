//! Virtual machines: their DataVolumes, their guest, their status; see `furrow_model::vm` for the run strategies. Refuses
//! to touch a guest's status, and what a guest is made of beyond the template.

mod live_memory;
mod live_update;
pub(crate) mod plug;
mod rename;
mod render;
mod revision;
mod snapshots;
mod status;
mod volumes;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use furrow_api::vm::RunStrategy;
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use furrow_model::ipam::Owner;
use furrow_model::vm::{Action, Decision, Departing, Departure, Observed, decide, departure};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::instancetype::{self, TypesError};
use crate::ipam;

pub(crate) use self::rename::{Predecessor, successor};

use self::live_update::Update;
use self::status::{Facts, Failed, Volumes};

/// KubeVirt's reason, of an event and of the condition Failure.
const FAILED_CREATE: &str = "FailedCreate";

/// Why a pass over a virtual machine failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The cache has not seen yet that the last guest is not quite gone.
    #[error("guest of {vm} is not quite gone")]
    Behind {
        /// The virtual machine.
        vm: Key,
    },
    /// What a machine is to be renamed by has no JSON form: a defect.
    #[error("{vm} cannot be renamed")]
    Rename {
        /// The virtual machine.
        vm: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The template has no JSON form: a defect.
    #[error("template of {vm} cannot be written")]
    Template {
        /// The virtual machine.
        vm: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The controller of virtual machines.
pub(crate) struct Machines {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Machines {
    type Error = VmError;

    const NAME: &'static str = "vm";

    fn keys(&self) -> Vec<Key> {
        self.cluster.vms.state().iter().map(|vm| key_of(vm.as_ref())).collect()
    }

    /// Observe: the virtual machine, its DataVolumes, its guest. Validate and plan: `furrow_model::vm`. Execute: make
    /// DataVolumes, start or stop, let a guest that runs take over a change. Report: the status.
    async fn reconcile(&self, key: &Key) -> Result<Next, VmError> {
        let Some(vm) = find(&self.cluster.vms, &key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let namesake = find(&self.cluster.vmis, &key.namespace, &key.name);
        let guest = namesake.clone().filter(|vmi| owned_by(vmi.as_ref(), &vm));
        if vm.metadata.deletion_timestamp.is_some() {
            return Box::pin(self.take_down(&vm, guest.as_deref())).await;
        }
        if let Some(next) = Box::pin(self.rename(&vm)).await? {
            return Ok(next);
        }
        let kept = vm.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_VM);
        let vm = if kept { vm } else { std::sync::Arc::new(self.keep(&vm).await?) };
        let failure = self.make_data_volumes(&vm).await?;
        if let Some(vmi) = namesake.as_deref().filter(|vmi| is_orphan(vmi)) {
            return Box::pin(self.adopt(&vm, vmi)).await;
        }
        let volumes = self.volumes(&vm);
        let guest = self.plug(&vm, guest).await?;
        let decision = decide(&self.observe(&vm, guest.as_deref(), &volumes));
        let foreign = namesake.is_some() && guest.is_none();
        Box::pin(self.execute(&vm, guest.as_deref(), Plan { decision, volumes, failure, foreign })).await
    }

    fn disposition(error: &VmError) -> Disposition {
        match error {
            VmError::Call(error) => Disposition::of_call(error),
            VmError::Behind { .. } => Disposition::Stale,
            VmError::Template { .. } | VmError::Rename { .. } => Disposition::OnChange,
        }
    }
}

/// What a pass is going to do and to report.
struct Plan {
    decision: Decision,
    volumes: Volumes,
    /// Something that could not be done, for the condition Failure.
    failure: Option<Failed>,
    /// A guest of its name belongs to nobody, or to another.
    foreign: bool,
}

/// A guest that no controller owns: its virtual machine was deleted without it, and one of its name may take it over.
fn is_orphan(vmi: &VirtualMachineInstance) -> bool {
    let owned = vmi.owner_references().iter().any(|owner| owner.controller == Some(true));
    !owned && vmi.metadata.deletion_timestamp.is_none()
}

fn owned_by(object: &impl ResourceExt, vm: &VirtualMachine) -> bool {
    controller::<VirtualMachine>(object).is_some_and(|owner| Some(&owner.uid) == vm.metadata.uid.as_ref())
}

impl Machines {
    /// Deletes the guest, waits until it is gone, then lets go. With `--cascade=orphan` the guest stays.
    async fn take_down(&self, vm: &VirtualMachine, guest: Option<&VirtualMachineInstance>) -> Result<Next, VmError> {
        let has = |name: &str| vm.finalizers().iter().any(|finalizer| finalizer == name);
        let api = self.cluster.api::<VirtualMachineInstance>(&vm.namespace().unwrap_or_default());
        let (kept, orphan) = (has(names::FINALIZER_VM), has("orphan"));
        // The cache may not know a guest that was made a moment ago.
        let now = if kept && !orphan { calls::get(&api, &vm.name_any()).await? } else { None };
        let now = now.filter(|vmi| owned_by(vmi, vm));
        let guest_deleting = now.as_ref().map(|vmi| vmi.metadata.deletion_timestamp.is_some());
        match departure(Departing { kept, orphan, guest_deleting }) {
            Departure::Wait => return Ok(Next::OnChange),
            Departure::StopGuest | Departure::WaitForGuest => {
                if let Some(vmi) = now.filter(|_| guest_deleting == Some(false)) {
                    self.delete_guest(vm, &vmi).await?;
                }
                let new = status::terminating(vm, guest);
                calls::update_status(&self.api(vm), vm, &new).await?;
                return Ok(Next::OnChange);
            }
            Departure::Release => {}
        }
        let mut new = vm.clone();
        new.finalizers_mut().retain(|finalizer| finalizer != names::FINALIZER_VM);
        calls::update(&self.api(vm), vm, &new).await?;
        tracing::info!(vm = %key_of(vm), "virtual machine released");
        Ok(Next::OnChange)
    }

    /// Takes over a guest of its name that belongs to nobody, and its addresses before that: they would be given back.
    async fn adopt(&self, vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> Result<Next, VmError> {
        let owner = Owner {
            kind: VirtualMachine::kind(&()).into_owned(),
            namespace: vm.namespace().unwrap_or_default(),
            name: vm.name_any(),
            uid: vm.uid().unwrap_or_default(),
        };
        ipam::hand_over(&self.cluster, &owner).await?;
        let mut new = vmi.clone();
        new.owner_references_mut().push(owner_reference(vm));
        let api = self.cluster.api::<VirtualMachineInstance>(&owner.namespace);
        calls::update(&api, vmi, &new).await?;
        tracing::info!(vm = %key_of(vm), uid = vmi.uid(), "guest taken over");
        // The change comes back as an event.
        Ok(Next::OnChange)
    }

    fn api(&self, vm: &VirtualMachine) -> kube::Api<VirtualMachine> {
        self.cluster.api::<VirtualMachine>(&vm.namespace().unwrap_or_default())
    }

    async fn keep(&self, vm: &VirtualMachine) -> Result<VirtualMachine, CallError> {
        let mut new = vm.clone();
        new.finalizers_mut().push(names::FINALIZER_VM.to_owned());
        Ok(calls::update(&self.api(vm), vm, &new).await?.unwrap_or(new))
    }

    fn observe(&self, vm: &VirtualMachine, guest: Option<&VirtualMachineInstance>, volumes: &Volumes) -> Observed {
        let status = vm.status.as_ref();
        Observed {
            strategy: status::strategy(vm),
            last_strategy: status.and_then(|status| status.run_strategy.as_ref()).and_then(status::known_strategy),
            guest: guest.map(status::guest),
            requests: status.map(|status| status::requests(&status.state_change_requests)).unwrap_or_default(),
            volumes_ready: volumes.failed.is_empty() && !volumes.filling,
            failure: status.and_then(|status| status.start_failure.as_ref()).map(status::start_failure),
            now_ms: Timestamp::now().as_millisecond(),
            jitter_permille: rand::random_range(0..=1000),
        }
    }

    /// Start: make the guest first and then write what is remembered, so that a request to start is never lost.
    /// Stop: the other way round, for the same reason.
    async fn execute(
        &self,
        vm: &VirtualMachine,
        guest: Option<&VirtualMachineInstance>,
        mut plan: Plan,
    ) -> Result<Next, VmError> {
        let mut started = None;
        match &plan.decision.action {
            Action::Start { paused } => match Box::pin(self.start(vm, *paused, plan.foreign)).await? {
                Ok(vmi) => started = Some(vmi),
                Err(message) => {
                    // What was asked for is not done: it stays remembered as it was.
                    plan.failure = Some(Failed { reason: FAILED_CREATE, message });
                    let status = vm.status.clone().unwrap_or_default();
                    plan.decision.requests = status::requests(&status.state_change_requests);
                    plan.decision.strategy = status.run_strategy.as_ref().and_then(status::known_strategy);
                }
            },
            Action::SwitchToAlways => {
                let mut new = vm.clone();
                match new.spec.running {
                    Some(_) => new.spec.running = Some(true),
                    None => new.spec.run_strategy = Some(RunStrategy::Always),
                }
                calls::update(&self.api(vm), vm, &new).await?;
                // The change comes back as an event, and with it the start.
                return Ok(Next::OnChange);
            }
            Action::Stop { .. } | Action::Nothing => {}
        }
        let update = match (&plan.decision.action, guest) {
            (Action::Nothing, Some(vmi)) => Box::pin(self.update_guest(vm, vmi)).await?,
            _ => Update::default(),
        };
        let Update { restart, failure, .. } = update;
        plan.failure = plan.failure.or(failure);
        self.tell_of_failed_volumes(vm, &plan.volumes);
        let shown = started.as_ref().or(guest);
        let facts = Facts { guest: shown, volumes: &plan.volumes, failure: plan.failure.as_ref(), restart };
        let new = status::report(vm, &plan.decision, &facts);
        let written = calls::update_status(&self.api(vm), vm, &new).await;
        if let (Action::Stop { uid }, Some(vmi)) = (&plan.decision.action, guest) {
            written?;
            if vmi.uid().as_ref() == Some(uid) {
                self.delete_guest(vm, vmi).await?;
            }
        } else {
            written?;
        }
        Ok(next(&plan))
    }

    /// Makes the guest. The inner error is the API server's, or what stands in the way.
    async fn start(
        &self,
        vm: &VirtualMachine,
        paused: bool,
        foreign: bool,
    ) -> Result<Result<VirtualMachineInstance, String>, VmError> {
        let api = self.cluster.api::<VirtualMachineInstance>(&vm.namespace().unwrap_or_default());
        let vmi = render::guest(vm, paused);
        let taken = || format!("could not create VirtualMachineInstance {}: one of its name exists", key_of(vm));
        if foreign {
            return Ok(Err(taken()));
        }
        let refused = |error: &CallError| {
            let message = format!("Error creating virtual machine instance: {}", error.message());
            self.cluster.events.warning(vm, FAILED_CREATE, message.clone());
            Ok(Err(message))
        };
        match self.keep_revision(vm).await {
            Err(VmError::Call(error)) if error.is_refusal() => return refused(&error),
            kept => kept?,
        }
        let vmi = match Box::pin(instancetype::guest(&self.cluster, vm, vmi)).await {
            Ok(vmi) => vmi,
            Err(TypesError::Call(error)) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
        match calls::create(&api, &vmi).await {
            Ok(Some(created)) => {
                tracing::info!(vm = %key_of(vm), uid = created.uid(), "guest made");
                let note = format!(
                    "Started the virtual machine by creating the new virtual machine instance {}",
                    created.name_any()
                );
                self.cluster.events.normal(vm, "SuccessfulCreate", note);
                Ok(Ok(created))
            }
            // The cache did not know it yet: an earlier pass made it, or the one before is not quite gone.
            Ok(None) => match calls::get(&api, &vm.name_any()).await? {
                Some(there) if !owned_by(&there, vm) => Ok(Err(taken())),
                Some(there) if there.metadata.deletion_timestamp.is_none() => Ok(Ok(there)),
                _ => Err(VmError::Behind { vm: key_of(vm) }),
            },
            Err(error) if error.is_refusal() => refused(&error),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete_guest(&self, vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> Result<(), CallError> {
        let api = self.cluster.api::<VirtualMachineInstance>(&vm.namespace().unwrap_or_default());
        if let Err(error) = calls::delete(&api, vmi).await {
            let note = format!("Error deleting virtual machine instance {}: {}", vmi.name_any(), error.message());
            self.cluster.events.warning(vm, "FailedDelete", note);
            return Err(error);
        }
        tracing::info!(vm = %key_of(vm), uid = vmi.uid(), "guest told to stop");
        let uid = vmi.uid().unwrap_or_default();
        let note = format!("Stopped the virtual machine by deleting the virtual machine instance {uid}");
        self.cluster.events.normal(vm, "SuccessfulDelete", note);
        Ok(())
    }
}

/// When to look again though nothing changes: at the end of a back-off, or a while after a refusal.
fn next(plan: &Plan) -> Next {
    let now_ms = Timestamp::now().as_millisecond();
    let wait = plan.decision.retry_at_ms.and_then(|at| u64::try_from(at - now_ms).ok());
    match wait {
        Some(wait_ms) => Next::After(std::time::Duration::from_millis(wait_ms)),
        None if plan.decision.retry_at_ms.is_some() => Next::After(std::time::Duration::ZERO),
        None if plan.failure.is_some() => Next::After(status::REFUSED_AGAIN),
        None => Next::OnChange,
    }
}

/// For owner references to a virtual machine.
fn owner_reference(vm: &VirtualMachine) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: vm.name_any(),
        uid: vm.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
