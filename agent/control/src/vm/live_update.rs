//! A change of a virtual machine whose guest runs: what the guest takes over at once, and what waits for a restart; the
//! rules are `furrow_model::vm::{change, plug}`. Refuses to change a guest that is on its way out.
//!
//! ```text
//!  generation of the virtual machine differs from the guest's
//!    ├─ its template does not: the guest's is written anew
//!    ├─ a part differs that only a start can apply ──> RestartRequired, nothing else is done
//!    ├─ volumes that may be plugged ──> `super::plug` has done it; one that it had to leave ──> RestartRequired
//!    └─ placement ──> guest's spec     sockets ──> reservation pod resized, guest's spec, HotVCPUChange (to the agent)
//!       memory, as sockets (`super::live_memory`) ──> HotMemoryChange
//! ```

use furrow_api::meta::Condition;
use furrow_api::quantity;
use furrow_api::vmi::{Cpu, DomainSpec, ResourceRequirements};
use furrow_api::{KubeVirt, VirtualMachine, VirtualMachineInstance, names};
use furrow_model::vm::{change, plug};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::render::ANNOTATION_GENERATION;
use super::status::{Failed, conditions_of, guest_over};
use super::{Machines, VmError, live_memory, revision};
use crate::calls;
use crate::cluster::key_of;
use crate::pod;
use crate::vmi::condition;

/// KubeVirt's reason of a virtual machine's condition when processors cannot be added.
const CPU_ERROR: &str = "HotPlugCPUError";

/// Parts of a specification that fill in the guest from elsewhere. A change of one waits for a restart.
const TYPES: [&str; 2] = ["instancetype", "preference"];

/// What a guest that runs makes of a change.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Update {
    /// The guest as it should be, if it differs.
    guest: Option<VirtualMachineInstance>,
    /// Its pod must reserve more. With the reason of the condition when it may not.
    resize: Option<&'static str>,
    /// Why it has to be restarted.
    pub(super) restart: Option<&'static str>,
    /// What could not be done now.
    pub(super) failure: Option<Failed>,
}

impl Machines {
    /// Lets a guest that runs take over what it can.
    pub(super) async fn update_guest(
        &self,
        vm: &VirtualMachine,
        vmi: &VirtualMachineInstance,
    ) -> Result<Update, VmError> {
        let made_from = vmi.annotations().get(ANNOTATION_GENERATION);
        let current = vm.metadata.generation.unwrap_or_default().to_string();
        if vmi.metadata.deletion_timestamp.is_some() || guest_over(vmi) || made_from == Some(&current) {
            return Ok(Update::default());
        }
        let kept = self.revision(vmi).await?;
        let Some(before) = kept.as_ref().and_then(revision::spec) else { return Ok(Update::default()) };
        let settings = self.cluster.kubevirts.state();
        let settings = settings.first().map(std::sync::Arc::as_ref);
        let after = serde_json::to_value(&vm.spec);
        let after = after.map_err(|source| VmError::Template { vm: key_of(vm), source })?;
        let mut update = plan(vm, vmi, (before, &after), settings);
        let Some(mut new) = update.guest.take() else { return Ok(update) };
        if let Some(reason) = update.resize {
            match self.resize(&new, settings).await? {
                Ok(generation) => {
                    let annotation = names::ANNOTATION_RESERVED_GENERATION.to_owned();
                    new.annotations_mut().insert(annotation, generation.to_string());
                }
                Err(refusal) => {
                    update.failure = Some(Failed { reason, message: refusal });
                    return Ok(update);
                }
            }
        }
        let api = self.cluster.api::<VirtualMachineInstance>(&vmi.namespace().unwrap_or_default());
        calls::update(&api, vmi, &new).await?;
        tracing::info!(vm = %key_of(vm), generation = current, resized = update.resize.is_some(), "running guest changed");
        Ok(update)
    }

    /// Makes the guest's pod reserve what its spec says now, and returns the pod's generation that does. The inner error is the
    /// API server's refusal, as by a quota.
    async fn resize(
        &self,
        vmi: &VirtualMachineInstance,
        settings: Option<&KubeVirt>,
    ) -> Result<Result<i64, String>, VmError> {
        let body = match pod::resources(vmi, settings) {
            Ok(body) => body,
            Err(error) => return Ok(Err(furrow_model::reasons::chain(&error))),
        };
        let api = self.cluster.api::<Pod>(&vmi.namespace().unwrap_or_default());
        let (name, params, patch) = (pod::name(vmi), PatchParams::default(), Patch::Strategic(&body));
        let resize = api.patch_subresource("resize", &name, &params, &patch);
        match calls::within(|| format!("resize pod {name}"), resize).await {
            Ok(pod) => Ok(Ok(pod.metadata.generation.unwrap_or_default())),
            Err(error) if error.is_refusal() || error.is_gone() => Ok(Err(error.message())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Decides. `before` and `after`: the specification that the guest was made from, and as it is.
fn plan(
    vm: &VirtualMachine,
    vmi: &VirtualMachineInstance,
    (before, after): (&Value, &Value),
    settings: Option<&KubeVirt>,
) -> Update {
    let mut new = vmi.clone();
    let mut update = Update::default();
    let same_types = TYPES.iter().all(|which| refers(before, which) == refers(after, which));
    let template = &vm.spec.template.spec;
    let (sockets, memory) = (plug::sockets(sockets(&template.domain, vmi)), live_memory::judge(&template.domain, vmi));
    // A size that was changed and is changed back is the template's that the guest was made from, and not the guest's.
    let same_sizes = sockets == plug::Plug::Nothing && memory == plug::Plug::Nothing;
    if same_types && same_sizes && before["template"] == after["template"] {
        let generation = vm.metadata.generation.unwrap_or_default().to_string();
        new.annotations_mut().insert(ANNOTATION_GENERATION.to_owned(), generation);
        update.guest = Some(new);
        return update;
    }
    if !same_types || change::restart_required(&before["template"]["spec"], &after["template"]["spec"]) {
        update.restart = Some(change::RESTART);
        return update;
    }
    new.spec.node_selector.clone_from(&template.node_selector);
    new.spec.affinity.clone_from(&template.affinity);
    new.spec.tolerations.clone_from(&template.tolerations);
    match sockets {
        plug::Plug::Nothing => {}
        plug::Plug::Now => {
            add_sockets(&mut new, &template.domain, pod::cpu_ratio(settings));
            update.resize = Some(CPU_ERROR);
        }
        plug::Plug::Later(why) => update.failure = Some(Failed { reason: CPU_ERROR, message: why.to_owned() }),
        plug::Plug::Restart(why) => update.restart = Some(why),
    }
    match memory {
        plug::Plug::Nothing => {}
        plug::Plug::Now => {
            live_memory::add(&mut new, &template.domain);
            update.resize = update.resize.or(Some(live_memory::ERROR));
        }
        plug::Plug::Later(why) => update.failure = Some(Failed { reason: live_memory::ERROR, message: why.to_owned() }),
        plug::Plug::Restart(why) => update.restart = Some(why),
    }
    if super::plug::awaits_start(vm, vmi) {
        update.restart = Some(change::RESTART);
    }
    update.guest = Some(new).filter(|new| new != vmi);
    update
}

/// What a specification refers to, without the revision of it that a controller may have written down.
fn refers<'a>(spec: &'a Value, which: &str) -> [Option<&'a Value>; 2] {
    ["name", "kind"].map(|part| spec[which].get(part).filter(|value| !value.is_null()))
}

fn sockets(wanted: &DomainSpec, vmi: &VirtualMachineInstance) -> plug::Sockets {
    let sockets = |cpu: Option<&Cpu>| cpu.and_then(|cpu| cpu.sockets).map(i64::from);
    let own = vmi.spec.domain.cpu.as_ref();
    let current = sockets(own).unwrap_or(1);
    plug::Sockets {
        wanted: sockets(wanted.cpu.as_ref()).unwrap_or(current),
        current,
        // The kubelet gives no more to a pod whose CPUs are its own.
        most: own.filter(|cpu| !cpu.dedicated_cpu_placement).and_then(|cpu| cpu.max_sockets).map_or(current, i64::from),
        plugging: Condition::find(conditions_of(Some(vmi)), "HotVCPUChange").is_some_and(Condition::is_true),
        migrating: is_migrating(vmi),
    }
}

/// Whether a guest is moving to another node.
pub(super) fn is_migrating(vmi: &VirtualMachineInstance) -> bool {
    let migration = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    migration.is_some_and(|state| state.start_timestamp.is_some() && state.end_timestamp.is_none())
}

/// Lets requests and limits of a resource grow where the template names some. `grown`: what becomes of an amount.
pub(super) fn grow(
    own: &mut ResourceRequirements,
    template: &ResourceRequirements,
    resource: &str,
    grown: impl Fn(&Quantity) -> Option<Quantity>,
) {
    let lists = [(&template.requests, &mut own.requests), (&template.limits, &mut own.limits)];
    for (named, list) in lists {
        if named.contains_key(resource)
            && let Some(amount) = list.get_mut(resource)
            && let Some(more) = grown(amount)
        {
            *amount = more;
        }
    }
}

/// Sockets as the template has them, requests and limits of CPU along with them where the template names some, and the
/// condition that the agent takes away when the guest has got them.
fn add_sockets(vmi: &mut VirtualMachineInstance, template: &DomainSpec, ratio: i64) {
    let Some(wanted) = template.cpu.as_ref().and_then(|cpu| cpu.sockets) else { return };
    let cpu = vmi.spec.domain.cpu.get_or_insert_default();
    let each = i64::from(cpu.cores.unwrap_or(1).max(1)) * i64::from(cpu.threads.unwrap_or(1).max(1));
    let added = i64::from(wanted - cpu.sockets.unwrap_or(1)) * each;
    cpu.sockets = Some(wanted);
    let millis = added * 1000 / ratio.max(1);
    let grown = |before: &Quantity| {
        let before = quantity::millis(before).ok()?;
        Some(Quantity(format!("{}m", before.saturating_add(millis))))
    };
    grow(&mut vmi.spec.domain.resources, &template.resources, "cpu", grown);
    let conditions = &mut vmi.status.get_or_insert_default().conditions;
    condition("HotVCPUChange", true, "", "").set(conditions, Time(Timestamp::now()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(spec: &Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 5},
            "spec": {"runStrategy": "Always", "template": {"spec": spec}},
        }))
        .unwrap()
    }

    fn spec(sockets: i32) -> Value {
        json!({"domain": {"cpu": {"sockets": sockets, "cores": 2}, "memory": {"guest": "1Gi"}, "devices": {},
            "resources": {"requests": {"cpu": "400m"}}}})
    }

    /// A guest with two sockets and room for four.
    fn guest() -> VirtualMachineInstance {
        let mut spec = spec(2);
        spec["domain"]["cpu"]["maxSockets"] = json!(4);
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "annotations": {ANNOTATION_GENERATION: "4"}},
            "spec": spec, "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    fn planned(after: &Value, vmi: &VirtualMachineInstance) -> Update {
        let (before, vm) = (vm(&spec(2)), vm(after));
        let spec = |vm: &VirtualMachine| serde_json::to_value(&vm.spec).unwrap();
        plan(&vm, vmi, (&spec(&before), &spec(&vm)), None)
    }

    #[test]
    fn a_change_elsewhere_only_moves_the_generation() {
        let update = planned(&spec(2), &guest());
        assert_eq!(update.guest.unwrap().annotations()[ANNOTATION_GENERATION], "5");
        assert!(update.resize.is_none() && update.restart.is_none());
    }

    #[test]
    fn sockets_are_plugged_with_their_request() {
        let update = planned(&spec(3), &guest());
        assert_eq!(update.resize, Some(CPU_ERROR));
        assert!(update.restart.is_none() && update.failure.is_none());
        let new = update.guest.unwrap();
        let cpu = new.spec.domain.cpu.as_ref().unwrap();
        assert_eq!((cpu.sockets, cpu.max_sockets), (Some(3), Some(4)));
        assert_eq!(new.spec.domain.resources.requests["cpu"].0, "600m");
        let conditions = &new.status.as_ref().unwrap().conditions;
        assert!(Condition::find(conditions, "HotVCPUChange").unwrap().is_true());
        assert_eq!(new.annotations()[ANNOTATION_GENERATION], "4", "its revision is the older one");
        let again = planned(&spec(4), &new);
        assert_eq!(again.guest, None);
        assert_eq!(again.failure.unwrap().message, "another CPU hotplug is in progress");
    }

    #[test]
    fn what_cannot_be_plugged_waits_for_a_restart() {
        assert!(planned(&spec(5), &guest()).restart.unwrap().contains("higher than what's available"));
        assert!(planned(&spec(1), &guest()).restart.unwrap().contains("Reduction"));
        let mut memory = spec(2);
        memory["domain"]["memory"]["guest"] = json!("2Gi");
        let update = planned(&memory, &guest());
        assert!(
            update.restart.unwrap().starts_with("memory updated in template spec. Memory-hotplug is not available")
        );
        assert_eq!(update.guest, None);
        let mut grace = spec(3);
        grace["terminationGracePeriodSeconds"] = json!(5);
        let update = planned(&grace, &guest());
        assert_eq!((update.restart, update.guest), (Some(change::RESTART), None));
    }

    #[test]
    fn a_size_that_is_changed_back_waits_for_a_restart() {
        let grown = planned(&spec(3), &guest()).guest.unwrap();
        let update = planned(&spec(2), &VirtualMachineInstance { status: None, ..grown });
        assert_eq!((update.restart, update.guest), (Some("Reduction of CPU socket count requires a restart"), None));
        let mut larger = guest();
        larger.spec.domain.memory = Some(serde_json::from_value(json!({"guest": "2Gi", "maxGuest": "4Gi"})).unwrap());
        let update = planned(&spec(2), &larger);
        assert_eq!((update.restart, update.guest), (Some("Reduction of guest memory requires a restart"), None));
    }

    #[test]
    fn memory_is_added_along_with_sockets_or_alone() {
        let mut guest = guest();
        guest.spec.domain.memory.as_mut().unwrap().max_guest = Some(Quantity("4Gi".into()));
        let mut larger = spec(2);
        larger["domain"]["memory"]["guest"] = json!("2Gi");
        let update = planned(&larger, &guest);
        assert_eq!((update.resize, update.restart), (Some(live_memory::ERROR), None));
        let new = update.guest.unwrap();
        assert_eq!(new.spec.domain.memory.as_ref().unwrap().guest, Some(Quantity("2Gi".into())));
        let conditions = &new.status.as_ref().unwrap().conditions;
        assert!(Condition::find(conditions, "HotMemoryChange").unwrap().is_true());
        assert_eq!(new.annotations()[ANNOTATION_GENERATION], "4", "its revision is the older one");
        larger["domain"]["cpu"]["sockets"] = json!(3);
        let update = planned(&larger, &guest);
        let domain = &update.guest.as_ref().unwrap().spec.domain;
        assert_eq!((update.resize, domain.cpu.as_ref().unwrap().sockets), (Some(CPU_ERROR), Some(3)));
        larger["domain"]["memory"]["guest"] = json!("3Gi");
        let failure = planned(&larger, &new).failure.unwrap();
        assert_eq!(
            (failure.reason, failure.message.as_str()),
            (live_memory::ERROR, "another memory hotplug is in progress")
        );
    }

    #[test]
    fn another_instancetype_waits_for_a_restart_and_its_revision_does_not() {
        let changed = |matcher: Value| {
            let (before, mut after) = (vm(&spec(2)), vm(&spec(2)));
            let mut before = serde_json::to_value(&before.spec).unwrap();
            before["instancetype"] = json!({"name": "u1.small"});
            after.spec.instancetype = serde_json::from_value(matcher).unwrap();
            let now = serde_json::to_value(&after.spec).unwrap();
            plan(&after, &guest(), (&before, &now), None).restart
        };
        assert_eq!(changed(json!({"name": "u1.large"})), Some(change::RESTART));
        assert_eq!(changed(json!({"name": "u1.small", "revisionName": "r-1"})), None);
    }

    #[test]
    fn placement_is_taken_over() {
        let mut moved = spec(2);
        moved["nodeSelector"] = json!({"rack": "b"});
        let update = planned(&moved, &guest());
        assert_eq!(update.guest.unwrap().spec.node_selector["rack"], "b");
        assert!(update.resize.is_none() && update.restart.is_none());
    }
}
