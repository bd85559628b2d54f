//! Operations that move a machine in name or in place: rename, migrate, calling off an evacuation; and its object graph. The
//! judging functions are pure. What follows from a renaming's mark is the controller's (`crate::vm`).

use furrow_api::meta::Condition;
use furrow_api::subresources::{EvacuateCancelOptions, MigrateOptions, ObjectGraphOptions, RenameOptions, is_dry_run};
use furrow_api::vm::RunStrategy;
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration, names};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::carry::{Answer, Carrier, document, missing};
use super::failure::Failure;
use super::graph;
use super::machine::Change;
use super::options::{self, decode};
use super::route::{Resource, Target};
use crate::cluster::{find, find_cluster};
use crate::{calls, migration};

/// The taint that drains a node where the KubeVirt object names no other; KubeVirt's.
const DRAIN_TAINT: &str = "kubevirt.io/drain";
const NO_SCHEDULE: &str = "NoSchedule";

/// Longest name of a machine: it is its guest's host name.
const NAME_MAX: usize = 63;

impl Carrier {
    /// Judges a migration and asks for it. What becomes of it is the controller's (`crate::migration`).
    ///
    /// # Errors
    /// Why the guest cannot move.
    pub(super) async fn migrate(&self, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let asked: MigrateOptions = decode(body)?;
        let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
        let no_guest = || Failure::not_found(Resource::VirtualMachineInstances, &target.name);
        let vmi = self.instance(target).await?.ok_or_else(no_guest)?;
        movable(&vm, &vmi)?;
        if let Some(uid) = migration::in_flight(&self.cluster, &target.namespace, &target.name) {
            return Err(moving(&uid, &vmi));
        }
        let api = self.cluster.api::<VirtualMachineInstanceMigration>(&target.namespace);
        let params = PostParams { dry_run: is_dry_run(&asked.dry_run), ..PostParams::default() };
        let request = migration::request(&vmi, &asked);
        let made =
            calls::within(|| format!("create a migration of {}", target.name), api.create(&params, &request)).await;
        made.map_err(|error| Failure::of_call("unable to migrate", &error))?;
        Ok(Answer::Accepted)
    }

    /// Marks a machine for the controller, which renames it.
    ///
    /// # Errors
    /// Why it keeps its name.
    pub(super) async fn rename(&self, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
        if options::document(body)?.is_null() {
            let why = "Request with no body, a new name is expected as the request body";
            return Err(Failure::bad_request(why));
        }
        let asked: RenameOptions = decode(body)?;
        check_name(&target.name, &asked)?;
        let plan = |vm: &_, vmi: Option<&_>| rename(vm, vmi, &asked);
        plan(&vm, self.instance(target).await?.as_ref())?;
        self.try_successor(&vm, &asked.new_name).await?;
        self.change(target, is_dry_run(&asked.dry_run), plan).await
    }

    /// Has the API server say whether it would take the machine of the new name.
    async fn try_successor(&self, vm: &VirtualMachine, name: &str) -> Result<(), Failure> {
        let new = crate::vm::successor(vm, name).map_err(|error| Failure::internal(&error.to_string()))?;
        let api = self.cluster.api::<VirtualMachine>(&vm.namespace().unwrap_or_default());
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match calls::within(|| format!("try VM {name}"), api.create(&params, &new)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_there() => {
                let why = format!("a VirtualMachine named {name} exists");
                Err(Failure::conflict(Resource::VirtualMachines, &vm.name_any(), &why))
            }
            Err(error) => Err(Failure::of_call("unable to rename", &error)),
        }
    }

    /// Calls off that a guest leaves its node.
    ///
    /// # Errors
    /// Why it is not called off.
    pub(super) async fn cancel_evacuation(&self, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let asked: EvacuateCancelOptions = decode(body)?;
        self.not_draining(&self.guest_of(target).await?).await?;
        let plan = |vmi: &_| {
            let patch = json!({"status": {"evacuationNodeName": null}});
            evacuates(vmi, &asked).map(|evacuates| evacuates.then_some(patch))
        };
        self.change_guest(target, is_dry_run(&asked.dry_run), plan).await?;
        Ok(Answer::Done)
    }

    /// A node that is being drained would evacuate its guests again at once.
    async fn not_draining(&self, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
        let status = vmi.status.as_ref();
        let evacuated = status.and_then(|status| status.evacuation_node_name.clone()).filter(|name| !name.is_empty());
        let Some(name) = evacuated.or_else(|| status.and_then(|status| status.node_name.clone())) else {
            return Ok(());
        };
        let settings = find(&self.cluster.kubevirts, names::KUBEVIRT_NAMESPACE, names::KUBEVIRT_NAME);
        let key = settings.and_then(|kubevirt| {
            kubevirt.spec.configuration.as_ref()?.migrations.as_ref()?.node_drain_taint_key.clone()
        });
        let node = find_cluster(&self.cluster.nodes, &name);
        match node {
            Some(node) => check_taints(&node, key.as_deref().unwrap_or(DRAIN_TAINT)),
            None => Ok(()),
        }
    }

    /// What a machine or a guest is made of.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) async fn graph(&self, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let asked: ObjectGraphOptions = decode(body)?;
        let pod = |vmi: &VirtualMachineInstance| {
            let name = crate::pod::name(vmi);
            find(&self.cluster.pods, &target.namespace, &name).map(|_| name)
        };
        let vmi = self.instance(target).await?;
        let graph = match target.subresource.resource {
            Resource::VirtualMachines => {
                let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
                graph::of_machine(&vm, vmi.as_ref().and_then(pod), &asked)?
            }
            Resource::VirtualMachineInstances => {
                let vmi = vmi.ok_or_else(|| missing(target))?;
                graph::of_guest(&vmi, pod(&vmi), &asked)?
            }
        };
        let graph = serde_json::to_value(&graph).map_err(|error| Failure::internal(&error.to_string()))?;
        Ok(document(&graph))
    }
}

fn conflict(vm: &VirtualMachine, why: &str) -> Failure {
    Failure::conflict(Resource::VirtualMachines, &vm.name_any(), why)
}

/// Whether a guest may be moved at all, by KubeVirt's rules and in its words.
fn movable(vm: &VirtualMachine, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    let status = vmi.status.as_ref();
    if status.map(|status| status.phase.clone()).unwrap_or_default() != VmiPhase::Running {
        return Err(conflict(vm, "VM is not running"));
    }
    let of_vm = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if Condition::find(of_vm, "Paused").is_some_and(Condition::is_true) {
        return Err(conflict(vm, "VM is paused"));
    }
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    if let Some(fixed) = Condition::find(conditions, "LiveMigratable").filter(|condition| condition.status == "False") {
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        let why = format!("Cannot migrate VMI, Reason: {}, Message: {}", word(&fixed.reason), word(&fixed.message));
        return Err(Failure::internal(&why));
    }
    let migration = status.and_then(|status| status.migration_state.as_ref());
    if migration.is_some_and(|state| state.end_timestamp.is_none() && !state.completed) {
        return Err(moving(migration.and_then(|state| state.migration_uid.as_deref()).unwrap_or_default(), vmi));
    }
    Ok(())
}

fn moving(uid: &str, vmi: &VirtualMachineInstance) -> Failure {
    let name = vmi.name_any();
    Failure::internal(&format!(
        "in-flight migration detected. Active migration job ({uid}) is currently already in progress for VMI {name}."
    ))
}

fn check_name(name: &str, asked: &RenameOptions) -> Result<(), Failure> {
    let new = asked.new_name.as_str();
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if new.is_empty() {
        return Err(Failure::bad_request("Please provide a new name for the VM"));
    }
    if asked.old_name.as_ref().is_some_and(|old| !old.is_empty() && old != name) {
        return Err(Failure::bad_request(format!("oldName is not {name}")));
    }
    if new == name {
        return Err(Failure::bad_request("Renaming a VM to itself is not allowed"));
    }
    let fits = new.len() <= NAME_MAX && new.chars().all(|c| letter(c) || c == '-');
    if !fits || !new.starts_with(letter) || !new.ends_with(letter) {
        let why = "newName must consist of lower case letters, digits and '-', at most 63 of them: it is the guest's host name";
        return Err(Failure::bad_request(why));
    }
    Ok(())
}

/// Plans the mark of a renaming: for a machine that is stopped, and will not start by itself.
fn rename(vm: &VirtualMachine, vmi: Option<&VirtualMachineInstance>, asked: &RenameOptions) -> Result<Change, Failure> {
    let strategy = vm.spec.run_strategy.clone().unwrap_or(match vm.spec.running {
        Some(true) => RunStrategy::Always,
        _ => RunStrategy::Halted,
    });
    let requests = vm.status.as_ref().is_some_and(|status| !status.state_change_requests.is_empty());
    if vmi.is_some() || !matches!(strategy, RunStrategy::Halted | RunStrategy::Manual) || requests {
        return Err(conflict(vm, "Renaming a running VM is not allowed: stop it first"));
    }
    let marked = |key: &str| vm.annotations().get(key);
    match (marked(names::ANNOTATION_RENAME_TO), marked(names::ANNOTATION_SUCCEEDS)) {
        (Some(other), _) if *other != asked.new_name => Err(conflict(vm, &format!("VM is being renamed to {other}"))),
        (_, Some(_)) => Err(conflict(vm, "VM is being renamed")),
        _ => {
            let mark: Value = json!({"metadata": {"annotations": {names::ANNOTATION_RENAME_TO: asked.new_name}}});
            Ok(Change { machine: Some(mark), ..Change::default() })
        }
    }
}

/// Whether there is an evacuation to call off.
fn evacuates(vmi: &VirtualMachineInstance, asked: &EvacuateCancelOptions) -> Result<bool, Failure> {
    let node = vmi.status.as_ref().and_then(|status| status.evacuation_node_name.as_deref()).unwrap_or_default();
    if node.is_empty() {
        return Ok(false);
    }
    if !asked.evacuation_node_name.is_empty() && asked.evacuation_node_name != node {
        let why = format!("VMI is evacuated from node {node}, not {}", asked.evacuation_node_name);
        return Err(Failure::conflict(Resource::VirtualMachineInstances, &vmi.name_any(), &why));
    }
    Ok(true)
}

fn check_taints(node: &Node, key: &str) -> Result<(), Failure> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if taints.iter().any(|taint| taint.key == key && taint.effect == NO_SCHEDULE) {
        let why = format!("Node \"{}\" has NodeDrainTaintKey \"{key}:{NO_SCHEDULE}\"", node.name_any());
        return Err(Failure::bad_request(why));
    }
    Ok(())
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
