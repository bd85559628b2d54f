//! A pool's virtual machines: made from the template, and told apart from what the template says now. Pure.
//!
//! A virtual machine remembers in an annotation digests of the template that it was made from. The label with the pool's
//! revision goes into the guest's labels, and changes there only when the guest would: a guest whose label differs from
//! its virtual machine's is outdated.

use std::collections::BTreeMap;

use furrow_api::meta::Condition;
use furrow_api::pool::{PoolSelectionPolicy, PoolSortPolicy};
use furrow_api::vm::{PrintableStatus, VirtualMachineSpec};
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance, VirtualMachinePool};
use furrow_model::replicas::{
    Guest, Healing, Member, Order, PoolSpec, ScaleIn, Starts, Suffixes, Update, digests, indexed, is_lost,
    max_unavailable,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::controller;
use crate::selector;
use crate::subresources::go_duration_ms;

/// Revision of the pool that a virtual machine, or a guest, was made from; KubeVirt's.
pub(super) const LABEL_REVISION: &str = "kubevirt.io/vm-pool-revision-name";

/// Digests of the template that a virtual machine was made from: of all, of the guest, of the disks.
pub(super) const ANNOTATION_TEMPLATE: &str = "furrow.io/pool-template";

/// Failed starts in a row after which a member is replaced; KubeVirt's default.
const START_FAILURES: i32 = 3;

/// How long a member's status says that it cannot start until it is replaced; KubeVirt's default.
const FAILING_MS: i64 = 300_000;

/// Words of a status that say that a member cannot start as it is.
const FAILING: [PrintableStatus; 6] = [
    PrintableStatus::CrashLoopBackOff,
    PrintableStatus::ErrorUnschedulable,
    PrintableStatus::DataVolumeError,
    PrintableStatus::ErrorPvcNotFound,
    PrintableStatus::ErrImagePull,
    PrintableStatus::ImagePullBackOff,
];

/// Whether a virtual machine belongs to a pool.
pub(super) fn owned_by(vm: &impl ResourceExt, pool: &VirtualMachinePool) -> bool {
    controller::<VirtualMachinePool>(vm).is_some_and(|owner| Some(&owner.uid) == pool.metadata.uid.as_ref())
}

/// A pool's template, ready to make virtual machines.
pub(super) struct Template {
    pool: String,
    namespace: Option<String>,
    owner: OwnerReference,
    revision: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    spec: Value,
    suffixes: Suffixes,
    digests: [String; 3],
}

impl Template {
    /// Of a pool.
    ///
    /// # Errors
    /// When the template has no JSON form.
    pub(super) fn of(pool: &VirtualMachinePool) -> Result<Self, serde_json::Error> {
        let template = &pool.spec.virtual_machine_template;
        let metadata = template.metadata.clone().unwrap_or_default();
        let names = pool.spec.name_generation.clone().unwrap_or_default();
        let all = serde_json::to_value(template)?;
        Ok(Self {
            pool: pool.name_any(),
            namespace: pool.namespace(),
            owner: OwnerReference {
                api_version: VirtualMachinePool::api_version(&()).into_owned(),
                kind: VirtualMachinePool::kind(&()).into_owned(),
                name: pool.name_any(),
                uid: pool.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            },
            revision: format!("{}-{}", pool.name_any(), pool.metadata.generation.unwrap_or_default()),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            digests: digests(&all),
            spec: all["spec"].clone(),
            suffixes: Suffixes {
                config_maps: names.append_index_to_config_map_refs == Some(true),
                secrets: names.append_index_to_secret_refs == Some(true),
            },
        })
    }

    /// The virtual machine of an index.
    ///
    /// # Errors
    /// When the template makes none.
    pub(super) fn machine(&self, index: usize) -> Result<VirtualMachine, serde_json::Error> {
        let spec = self.spec(index, &self.revision)?;
        let mut labels = self.labels.clone();
        labels.insert(LABEL_REVISION.to_owned(), self.revision.clone());
        let mut annotations = self.annotations.clone();
        annotations.insert(ANNOTATION_TEMPLATE.to_owned(), self.digests.join("."));
        Ok(VirtualMachine {
            metadata: ObjectMeta {
                name: Some(format!("{}-{index}", self.pool)),
                namespace: self.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        })
    }

    fn spec(&self, index: usize, revision: &str) -> Result<VirtualMachineSpec, serde_json::Error> {
        let mut spec: VirtualMachineSpec = serde_json::from_value(indexed(&self.spec, index, self.suffixes))?;
        let metadata = spec.template.metadata.get_or_insert_default();
        metadata.labels.get_or_insert_default().insert(LABEL_REVISION.to_owned(), revision.to_owned());
        Ok(spec)
    }

    /// A virtual machine after the template was written to it. What others added to its metadata stays, and so does what
    /// the guest is known by: its UUID and its hardware addresses.
    ///
    /// # Errors
    /// When the template makes none.
    pub(super) fn renewed(&self, vm: &VirtualMachine, index: usize) -> Result<VirtualMachine, serde_json::Error> {
        let same_guest = remembered(vm).is_some_and(|[_, guest, _]| guest == self.digests[1]);
        let old_revision = guest_revision(vm).filter(|_| same_guest).unwrap_or_else(|| self.revision.clone());
        let mut new = vm.clone();
        new.spec = self.spec(index, &old_revision)?;
        let (old, domain) = (&vm.spec.template.spec.domain, &mut new.spec.template.spec.domain);
        if domain.machine.is_none() {
            domain.machine = old.machine.clone();
        }
        if let Some(uuid) = old.firmware.as_ref().and_then(|firmware| firmware.uuid.clone()) {
            domain.firmware.get_or_insert_default().uuid.get_or_insert(uuid);
        }
        for interface in &mut domain.devices.interfaces {
            let before = old.devices.interfaces.iter().find(|before| before.name == interface.name);
            if interface.mac_address.is_none() {
                interface.mac_address = before.and_then(|before| before.mac_address.clone());
            }
        }
        new.labels_mut().extend(self.labels.clone());
        new.labels_mut().insert(LABEL_REVISION.to_owned(), self.revision.clone());
        new.annotations_mut().extend(self.annotations.clone());
        new.annotations_mut().insert(ANNOTATION_TEMPLATE.to_owned(), self.digests.join("."));
        Ok(new)
    }
}

/// The digests that a virtual machine remembers.
fn remembered(vm: &VirtualMachine) -> Option<[String; 3]> {
    let parts: Vec<String> = vm.annotations().get(ANNOTATION_TEMPLATE)?.split('.').map(str::to_owned).collect();
    parts.try_into().ok()
}

fn guest_revision(vm: &VirtualMachine) -> Option<String> {
    vm.spec.template.metadata.as_ref()?.labels.as_ref()?.get(LABEL_REVISION).cloned()
}

/// A virtual machine and its guest in the model's words.
pub(super) fn facts(
    pool: &VirtualMachinePool,
    template: &Template,
    (vm, vmi): (&VirtualMachine, Option<&VirtualMachineInstance>),
) -> Member {
    let remembered = remembered(vm);
    let guest = vmi.map(|vmi| Guest {
        deleting: vmi.metadata.deletion_timestamp.is_some(),
        ready: vmi.status.as_ref().is_some_and(|status| {
            status.phase == VmiPhase::Running
                && Condition::find(&status.conditions, "Ready").is_some_and(Condition::is_true)
        }),
        outdated: vmi.labels().get(LABEL_REVISION) != guest_revision(vm).as_ref(),
    });
    let scale_in = pool.spec.scale_in_strategy.as_ref().and_then(|strategy| strategy.proactive.as_ref());
    let update = pool.spec.update_strategy.as_ref().and_then(|strategy| strategy.proactive.as_ref());
    Member {
        name: vm.name_any(),
        deleting: vm.metadata.deletion_timestamp.is_some(),
        born_ms: vm.creation_timestamp().map_or(0, |time| time.0.as_millisecond()),
        removable: selected(scale_in.and_then(|proactive| proactive.selection_policy.as_ref()), vm),
        updatable: selected(update.and_then(|proactive| proactive.selection_policy.as_ref()), vm),
        current: remembered.as_ref().is_some_and(|[all, _, _]| *all == template.digests[0]),
        disks_changed: remembered.as_ref().is_some_and(|[_, _, disks]| *disks != template.digests[2]),
        lost: healing(pool).is_some_and(|healing| is_lost(&starts(vm), &healing, Timestamp::now().as_millisecond())),
        guest,
    }
}

/// When members that do not start are replaced; never, if the pool does not ask for it.
fn healing(pool: &VirtualMachinePool) -> Option<Healing> {
    let asked = pool.spec.autohealing.as_ref()?;
    let said = asked.min_failing_to_start_duration.as_deref().and_then(go_duration_ms);
    Some(Healing {
        failures: asked.start_up_failure_threshold.unwrap_or(START_FAILURES),
        after_ms: said.and_then(|said| i64::try_from(said).ok()).unwrap_or(FAILING_MS),
    })
}

/// Whether a member does not start and may have to be replaced later, though nothing changes until then.
pub(super) fn may_be_lost(pool: &VirtualMachinePool, vm: &VirtualMachine) -> bool {
    pool.spec.autohealing.is_some() && vm.metadata.deletion_timestamp.is_none() && starts(vm).failing
}

fn starts(vm: &VirtualMachine) -> Starts {
    let status = vm.status.clone().unwrap_or_default();
    let down = Condition::find(&status.conditions, "Ready").filter(|ready| ready.status == "False");
    Starts {
        failures: status.start_failure.and_then(|failure| failure.consecutive_fail_count).unwrap_or_default(),
        failing: status.printable_status.is_some_and(|word| FAILING.contains(&word)),
        down_since_ms: down.and_then(|ready| ready.last_transition_time.as_ref()).map(|at| at.0.as_millisecond()),
    }
}

/// Whether a policy may take a virtual machine.
fn selected(policy: Option<&PoolSelectionPolicy>, vm: &VirtualMachine) -> bool {
    let Some(selectors) = policy.and_then(|policy| policy.selectors.as_ref()) else { return true };
    let template = &vm.spec.template;
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    selectors.label_selector.as_ref().is_none_or(|selector| selector::matches(selector, &labels))
        && selectors
            .node_selector_requirement_matcher
            .as_ref()
            .is_none_or(|requirements| selector::matches(&of_nodes(requirements), &template.spec.node_selector))
}

/// Requirements of node labels as a selector; admission has refused the two operators that a selector does not have.
pub(crate) fn of_nodes(requirements: &[NodeSelectorRequirement]) -> LabelSelector {
    let requirement = |requirement: &NodeSelectorRequirement| LabelSelectorRequirement {
        key: requirement.key.clone(),
        operator: requirement.operator.clone(),
        values: requirement.values.clone(),
    };
    LabelSelector { match_expressions: Some(requirements.iter().map(requirement).collect()), match_labels: None }
}

fn order(policy: Option<&PoolSelectionPolicy>) -> Order {
    match policy.and_then(|policy| policy.sort_policy.as_ref()) {
        Some(PoolSortPolicy::AscendingOrder) => Order::Ascending,
        Some(PoolSortPolicy::DescendingOrder) => Order::Descending,
        Some(PoolSortPolicy::Newest) => Order::Newest,
        Some(PoolSortPolicy::Oldest) => Order::Oldest,
        Some(PoolSortPolicy::Random | PoolSortPolicy::Other(_)) | None => Order::Random,
    }
}

/// What a pool wants in the model's words. `seed`: a random number.
pub(super) fn spec(pool: &VirtualMachinePool, seed: u64) -> PoolSpec {
    let replicas = usize::try_from(pool.spec.replicas.unwrap_or(1)).unwrap_or_default();
    let scale_in = pool.spec.scale_in_strategy.clone().unwrap_or_default();
    let update = pool.spec.update_strategy.clone().unwrap_or_default();
    let said = pool.spec.max_unavailable.as_ref().map(text);
    PoolSpec {
        replicas,
        scale_in: if scale_in.unmanaged.is_some() || scale_in.opportunistic.is_some() {
            ScaleIn::Manual
        } else {
            ScaleIn::Proactive(order(scale_in.proactive.and_then(|proactive| proactive.selection_policy).as_ref()))
        },
        update: if update.unmanaged.is_some() {
            Update::Unmanaged
        } else if update.opportunistic.is_some() {
            Update::Opportunistic
        } else {
            Update::Proactive(order(update.proactive.and_then(|proactive| proactive.selection_policy).as_ref()))
        },
        // What cannot be read was refused by admission; one at a time takes the least down.
        max_unavailable: max_unavailable(said.as_deref(), replicas).unwrap_or(1),
        seed,
    }
}

/// As it is written.
pub(crate) fn text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

/// The template as a VirtualMachine of its own, for admission.
pub(crate) fn sample(pool: &Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"labels": pool["spec"]["virtualMachineTemplate"]["metadata"]["labels"].clone()},
        "spec": pool["spec"]["virtualMachineTemplate"]["spec"].clone(),
    })
}

#[cfg(test)]
#[path = "member_tests.rs"]
pub(super) mod tests;
