//! The status of a guest as control writes it, before a node takes it. Pure: from one state of the object to the next.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use furrow_api::meta::Condition;
use furrow_api::vmi::{
    ALL_DATA_VOLUMES_READY, GUEST_NOT_RUNNING, PhaseTransitionTimestamp, VirtualMachineInstanceStatus, VmiPhase,
    VolumeStatus,
};
use furrow_api::{VirtualMachineInstance, names};

/// What a guest waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldUp {
    /// Reason of the condition Synchronized, and of the event.
    pub(crate) reason: &'static str,
    /// What could not be done to which object.
    pub(crate) message: String,
    /// It may pass without a change that anybody would tell of.
    pub(crate) passing: bool,
    /// Somebody should look at it.
    pub(crate) warn: bool,
    /// DataVolumes are being filled: no failure, and shown by a condition of its own.
    pub(crate) filling: bool,
    /// A claim that control made for this guest is being bound: usual, and soon over.
    pub(crate) own: bool,
    /// Another pass after this time, though nothing changed.
    pub(crate) again: Option<Duration>,
}

impl HeldUp {
    /// Nothing helps but a change of the cluster.
    pub(crate) fn until_change(reason: &'static str, message: String) -> Self {
        Self { reason, message, passing: false, warn: true, filling: false, own: false, again: None }
    }

    /// It may pass.
    pub(crate) fn passing(reason: &'static str, message: String) -> Self {
        Self { passing: true, ..Self::until_change(reason, message) }
    }

    /// Its DataVolumes are being filled.
    pub(crate) fn filling(message: String) -> Self {
        Self { warn: false, filling: true, ..Self::until_change("NotAllDVsReady", message) }
    }

    /// The image of a disk is being fetched, or its copy made.
    pub(crate) fn pulling(image: &str) -> Self {
        Self { warn: false, ..Self::until_change("PullingImage", format!("Pulling image \"{image}\"")) }
    }

    /// The image of a disk could not be fetched.
    pub(crate) fn pull_failed(image: &str, why: &str) -> Self {
        Self::until_change("ErrImagePull", format!("Failed to pull image \"{image}\": {why}"))
    }

    /// It will be tried again later.
    pub(crate) fn back_off(image: &str, why: &str) -> Self {
        Self::until_change("ImagePullBackOff", format!("Back-off pulling image \"{image}\": ErrImagePull: {why}"))
    }

    /// With another pass after this time.
    pub(crate) fn again(self, after: Duration) -> Self {
        Self { again: Some(after), ..self }
    }

    /// Its claims are not bound yet.
    pub(crate) fn binding(message: String) -> Self {
        Self { warn: false, ..Self::until_change("PvcNotBound", message) }
    }

    /// A claim that control made for the guest is not bound yet.
    pub(crate) fn binding_own(message: String) -> Self {
        Self { own: true, ..Self::binding(message) }
    }
}

impl std::fmt::Display for HeldUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn now() -> Time {
    Time(Timestamp::now())
}

/// A condition without times.
pub(crate) fn condition(type_: &str, status: bool, reason: &str, message: &str) -> Condition {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: text(reason),
        message: text(message),
        ..Condition::default()
    }
}

fn enter(status: &mut VirtualMachineInstanceStatus, phase: VmiPhase) {
    if status.phase == phase {
        return;
    }
    status.phase = phase.clone();
    status.phase_transition_timestamps.retain(|entry| entry.phase != phase);
    let entry = PhaseTransitionTimestamp { phase, phase_transition_timestamp: Some(now()) };
    status.phase_transition_timestamps.push(entry);
}

fn remove(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// Finalizer on, phase Pending: for a guest that admission did not accept already.
pub(crate) fn accept(vmi: &VirtualMachineInstance) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    if !new.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_VMI) {
        new.finalizers_mut().push(names::FINALIZER_VMI.to_owned());
    }
    enter_pending(new.status.get_or_insert_default());
    new
}

/// The status of a guest that has just been accepted.
pub(crate) fn pending() -> VirtualMachineInstanceStatus {
    let mut status = VirtualMachineInstanceStatus::default();
    enter_pending(&mut status);
    status
}

fn enter_pending(status: &mut VirtualMachineInstanceStatus) {
    enter(status, VmiPhase::Pending);
    let message = "virt-launcher pod has not yet been scheduled";
    condition("Ready", false, "PodNotExists", message).set(&mut status.conditions, now());
}

/// Whether the status does not say already that it waits for this.
pub(crate) fn says_something_new(vmi: &VirtualMachineInstance, held_up: &HeldUp) -> bool {
    let conditions = vmi.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let old = Condition::find(conditions, "Synchronized");
    !old.is_some_and(|old| {
        old.reason.as_deref() == Some(held_up.reason) && old.message.as_ref() == Some(&held_up.message)
    })
}

/// Whether a wait need not be said at once: it is for claims of the guest's own, and the status says nothing else that
/// would be untrue by now.
pub(crate) fn may_wait_unsaid(vmi: &VirtualMachineInstance, held_up: &HeldUp) -> bool {
    let conditions = vmi.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    held_up.own && !conditions.iter().any(|condition| condition.type_ != "Ready")
}

/// What the guest waits for.
pub(crate) fn held_up(vmi: &VirtualMachineInstance, held_up: &HeldUp) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    let status = new.status.get_or_insert_default();
    let uses = vmi.spec.has_data_volumes();
    if held_up.filling {
        remove(&mut status.conditions, "Synchronized");
        condition("DataVolumesReady", false, held_up.reason, &held_up.message).set(&mut status.conditions, now());
        return new;
    }
    if uses && !matches!(held_up.reason, "PvcNotBound" | "FailedPvcNotFound" | "FailedDataVolumeImport") {
        volumes_ready(status);
    }
    condition("Synchronized", false, held_up.reason, &held_up.message).set(&mut status.conditions, now());
    new
}

fn volumes_ready(status: &mut VirtualMachineInstanceStatus) {
    let (reason, message) = ALL_DATA_VOLUMES_READY;
    condition("DataVolumesReady", true, reason, message).set(&mut status.conditions, now());
}

/// Shows the volumes. What is known of one already (where a guest saw it, how large it is) stays.
pub(crate) fn show_volumes(vmi: &mut VirtualMachineInstance, shown: Vec<VolumeStatus>) {
    let status = vmi.status.get_or_insert_default();
    let known = |name: &str| status.volume_status.iter().find(|known| known.name == name);
    let merged = shown.into_iter().map(|mut new| {
        if let Some(known) = known(&new.name) {
            new.target.clone_from(&known.target);
            new.size = known.size;
            new.hotplug_volume.clone_from(&known.hotplug_volume);
            new.memory_dump_volume.clone_from(&known.memory_dump_volume);
            new.container_disk_volume.clone_from(&known.container_disk_volume);
        }
        new
    });
    status.volume_status = merged.collect();
}

/// Whether it need not be said at once that a pod exists: the node that takes it will say more.
pub(crate) fn may_bind_unsaid(vmi: &VirtualMachineInstance, pod: &Pod) -> bool {
    let phase = vmi.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default();
    phase == VmiPhase::Pending && unschedulable(pod).is_none()
}

/// The pod exists: phase Scheduling, and what the scheduler says of it.
pub(crate) fn scheduling(vmi: &VirtualMachineInstance, pod: &Pod) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    let uses = vmi.spec.has_data_volumes();
    let status = new.status.get_or_insert_default();
    enter(status, VmiPhase::Scheduling);
    if let Some(uid) = pod.uid() {
        status.active_pods.entry(uid).or_default();
    }
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.clone()) {
        status.qos_class = Some(class);
    }
    if uses {
        volumes_ready(status);
    }
    remove(&mut status.conditions, "Synchronized");
    let (reason, message) = GUEST_NOT_RUNNING;
    condition("Ready", false, reason, message).set(&mut status.conditions, now());
    match unschedulable(pod) {
        Some((reason, message)) => {
            condition("PodScheduled", false, &reason, &message).set(&mut status.conditions, now());
        }
        None => remove(&mut status.conditions, "PodScheduled"),
    }
    new
}

/// Reason and message of the scheduler.
fn unschedulable(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let refused =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some((refused.reason.clone().unwrap_or_default(), refused.message.clone().unwrap_or_default()))
}

/// Phase Failed: its pod was taken away, or is on its way out (`terminating`).
pub(crate) fn failed(vmi: &VirtualMachineInstance, terminating: bool) -> VirtualMachineInstance {
    let mut new = vmi.clone();
    let status = new.status.get_or_insert_default();
    enter(status, VmiPhase::Failed);
    status.reason = Some("PodDeleted".to_owned());
    let (reason, message) = if terminating {
        ("PodTerminating", "virt-launcher pod is terminating")
    } else {
        ("PodNotExists", "virt-launcher pod was deleted before a node took the guest")
    };
    condition("Ready", false, reason, message).set(&mut status.conditions, now());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(vmi: &VirtualMachineInstance) -> Vec<(String, String, String)> {
        let conditions = &vmi.status.as_ref().unwrap().conditions;
        let row = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone().unwrap_or_default());
        conditions.iter().map(row).collect()
    }

    #[test]
    fn a_guest_is_accepted_held_up_and_scheduled() {
        let accepted = accept(&VirtualMachineInstance::default());
        assert_eq!(accepted.finalizers(), [names::FINALIZER_VMI]);
        let full = HeldUp::until_change("SubnetExhausted", "subnet s is full".into());
        assert!(says_something_new(&accepted, &full));
        let held = held_up(&accepted, &full);
        assert!(!says_something_new(&held, &full));
        let synchronized = ("Synchronized".to_owned(), "False".to_owned(), "SubnetExhausted".to_owned());
        assert!(conditions(&held).contains(&synchronized));
        let scheduled = scheduling(&held, &Pod::default());
        assert_eq!(conditions(&scheduled), [("Ready".into(), "False".into(), "GuestNotRunning".into())]);
        let phases: Vec<_> =
            scheduled.status.unwrap().phase_transition_timestamps.into_iter().map(|t| t.phase).collect();
        assert_eq!(phases, [VmiPhase::Pending, VmiPhase::Scheduling]);
    }

    #[test]
    fn only_a_wait_for_claims_of_its_own_is_left_unsaid() {
        let accepted = accept(&VirtualMachineInstance::default());
        let own = HeldUp::binding_own("PVC s/a is not bound to a volume".into());
        assert!(may_wait_unsaid(&accepted, &own));
        for other in [
            HeldUp::binding("PVC s/users is not bound to a volume".into()),
            HeldUp::passing("FailedCreate", "exceeded quota".into()),
            HeldUp::until_change("FailedPvcNotFound", "PVC s/golden does not exist".into()),
            HeldUp::filling("Not all of the VMI's DVs are ready".into()),
        ] {
            assert!(!may_wait_unsaid(&accepted, &other), "{other:?}");
            // What the status says of an earlier wait is not true any more.
            assert!(!may_wait_unsaid(&held_up(&accepted, &other), &own), "{other:?}");
        }
    }

    #[test]
    fn a_pod_without_a_node_is_told_of_at_once() {
        let pod = |conditions: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"status": {"conditions": conditions}})).unwrap()
        };
        let (accepted, fresh) = (accept(&VirtualMachineInstance::default()), pod(serde_json::json!([])));
        assert!(may_bind_unsaid(&accepted, &fresh));
        let refused = serde_json::json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
        assert!(!may_bind_unsaid(&accepted, &pod(refused)));
        assert!(!may_bind_unsaid(&scheduling(&accepted, &fresh), &fresh), "what was said is kept up");
    }

    #[test]
    fn what_the_scheduler_says_is_shown_and_forgotten() {
        let refused = serde_json::json!({"status": {"conditions":
            [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}});
        let pod: Pod = serde_json::from_value(refused).unwrap();
        let shown = scheduling(&accept(&VirtualMachineInstance::default()), &pod);
        assert!(conditions(&shown).contains(&("PodScheduled".into(), "False".into(), "Unschedulable".into())));
        let bound = scheduling(&shown, &Pod::default());
        assert_eq!(conditions(&bound).len(), 1);
    }

    #[test]
    fn a_pod_that_is_taken_away_is_told_apart_from_one_that_is_on_its_way_out() {
        for (terminating, reason) in [(true, "PodTerminating"), (false, "PodNotExists")] {
            let failed = failed(&VirtualMachineInstance::default(), terminating);
            assert_eq!(conditions(&failed), [("Ready".into(), "False".into(), reason.into())]);
        }
    }

    #[test]
    fn what_is_known_of_a_volume_stays_when_its_claim_is_shown() {
        let named = |name: &str| VolumeStatus { name: name.into(), ..VolumeStatus::default() };
        let mut vmi = VirtualMachineInstance::default();
        let known = VolumeStatus { target: "vda".into(), size: Some(5), ..named("root") };
        vmi.status.get_or_insert_default().volume_status = vec![known, named("gone")];
        show_volumes(&mut vmi, vec![named("root"), named("seed")]);
        let shown: Vec<_> = vmi.status.unwrap().volume_status.into_iter().map(|v| (v.name, v.target, v.size)).collect();
        assert_eq!(shown, [("root".into(), "vda".into(), Some(5)), ("seed".into(), String::new(), None)]);
    }

    #[test]
    fn a_scheduled_guest_has_its_pods_class() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "p"},
            "status": {"qosClass": "Burstable"}}))
        .unwrap();
        let status = scheduling(&VirtualMachineInstance::default(), &pod).status.unwrap();
        assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
        assert_eq!(status.active_pods.get("p").map(String::as_str), Some(""));
    }
}
