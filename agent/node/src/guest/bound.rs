//! Reservation pods bound to this node, reduced to what a guest needs. Owns reading them; refuses pods that are not
//! what they say: the controller owner must be a VirtualMachineInstance, and the reservation must name that very one.

use furrow_api::names;
use furrow_api::reservation::Reservation;
use furrow_model::guest::PodSize;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::Key;

/// A reservation pod on this node.
#[derive(Debug, Clone)]
pub(crate) struct BoundPod {
    /// Its UID.
    pub(crate) uid: String,
    /// Name of its VMI, in the pod's namespace.
    pub(crate) key: Key,
    /// UID of its VMI.
    pub(crate) vmi_uid: String,
    /// The reservation, or why it cannot be used.
    pub(crate) reservation: Result<Reservation, String>,
    /// It is being deleted, was evicted, or has ended.
    pub(crate) ending: bool,
    /// The newest generation of it that the kubelet has looked at; 0 before it has looked at any.
    observed_generation: i64,
    /// Why the kubelet has not granted its size.
    resize_pending: Option<PendingResize>,
    /// When the scheduler bound it, in milliseconds since 1970, to the second.
    pub(crate) bound_ms: Option<i64>,
    /// When control made it.
    pub(crate) created: Option<Time>,
    /// Its class of service.
    pub(crate) qos_class: Option<String>,
    /// When this agent first saw it.
    pub(crate) seen: Instant,
}

/// The kubelet's word on a size that it has not granted (the pod's condition PodResizePending).
#[derive(Debug, Clone)]
struct PendingResize {
    /// It never will on this node.
    infeasible: bool,
    message: String,
    /// The generation that it was said of.
    generation: i64,
}

impl BoundPod {
    /// What the kubelet says of the size that a generation of the pod has.
    pub(crate) fn size(&self, generation: i64) -> PodSize {
        match &self.resize_pending {
            Some(pending) if pending.infeasible && pending.generation >= generation => {
                PodSize::Infeasible(pending.message.clone())
            }
            Some(pending) => PodSize::Pending(pending.message.clone()),
            None if self.observed_generation < generation => PodSize::Pending(String::new()),
            None => PodSize::Granted,
        }
    }

    /// Reads a pod; `None` when it is no VMI's.
    pub(crate) fn read(pod: &Pod) -> Option<Self> {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        if owner.kind != "VirtualMachineInstance" {
            return None;
        }
        let namespace = pod.namespace()?;
        let status = pod.status.clone().unwrap_or_default();
        let over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let conditions = status.conditions.unwrap_or_default();
        let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let scheduled = scheduled.filter(|condition| condition.status == "True");
        let observed_generation = status.observed_generation.unwrap_or_default();
        let pending = conditions.iter().find(|condition| condition.type_ == "PodResizePending");
        let resize_pending = pending.filter(|pending| pending.status == "True").map(|pending| PendingResize {
            infeasible: pending.reason.as_deref() == Some("Infeasible"),
            message: pending.message.clone().unwrap_or_default(),
            generation: pending.observed_generation.unwrap_or(observed_generation),
        });
        Some(Self {
            uid: pod.uid()?,
            key: Key { namespace, name: owner.name.clone() },
            vmi_uid: owner.uid.clone(),
            reservation: reservation(pod, &owner.uid),
            ending: over || pod.metadata.deletion_timestamp.is_some(),
            observed_generation,
            resize_pending,
            bound_ms: scheduled
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0.as_millisecond()),
            created: pod.metadata.creation_timestamp.clone(),
            qos_class: status.qos_class,
            seen: Instant::now(),
        })
    }
}

fn reservation(pod: &Pod, owner_uid: &str) -> Result<Reservation, String> {
    let text = pod.annotations().get(names::ANNOTATION_RESERVATION);
    let text =
        text.ok_or_else(|| format!("pod {} has no annotation {}", pod.name_any(), names::ANNOTATION_RESERVATION))?;
    let reservation: Reservation = serde_json::from_str(text)
        .map_err(|error| format!("the reservation of pod {} is malformed: {error}", pod.name_any()))?;
    if reservation.vmi.uid != owner_uid {
        return Err(format!("the reservation of pod {} is for another vmi than its owner", pod.name_any()));
    }
    Ok(reservation)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(owner: &serde_json::Value, annotation: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "virt-launcher-a-x", "namespace": "ns", "uid": "p",
                "ownerReferences": [owner],
                "annotations": {names::ANNOTATION_RESERVATION: annotation},
            },
        }))
        .expect("a pod")
    }

    fn owner(uid: &str) -> serde_json::Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "a", "uid": uid, "controller": true})
    }

    const RESERVATION: &str = r#"{"vmi": {"namespace": "ns", "name": "a", "uid": "u"}, "nics": [], "volumes": []}"#;

    #[test]
    fn a_reservation_is_read_from_its_own_pod() {
        let bound = BoundPod::read(&pod(&owner("u"), RESERVATION)).expect("a reservation pod");
        assert!(bound.reservation.is_ok());
        assert!(!bound.ending);
    }

    #[test]
    fn a_reservation_for_another_vmi_is_refused() {
        let bound = BoundPod::read(&pod(&owner("other"), RESERVATION)).expect("a reservation pod");
        assert!(bound.reservation.is_err());
    }

    #[test]
    fn a_size_is_granted_when_the_kubelet_has_seen_it_and_not_put_it_off() {
        let check = |status: serde_json::Value, expected: PodSize| {
            let mut pod = pod(&owner("u"), RESERVATION);
            pod.status = Some(serde_json::from_value(status.clone()).expect("a status"));
            assert_eq!(BoundPod::read(&pod).expect("a reservation pod").size(3), expected, "{status}");
        };
        check(json!({}), PodSize::Pending(String::new()));
        check(json!({"observedGeneration": 2}), PodSize::Pending(String::new()));
        check(json!({"observedGeneration": 3}), PodSize::Granted);
        let pending = |reason: &str, generation: i64| {
            json!({"observedGeneration": 3, "conditions": [{"type": "PodResizePending", "status": "True",
                "reason": reason, "message": "too little memory", "observedGeneration": generation}]})
        };
        check(pending("Deferred", 3), PodSize::Pending("too little memory".into()));
        check(pending("Infeasible", 3), PodSize::Infeasible("too little memory".into()));
        // It was said of an earlier size.
        check(pending("Infeasible", 2), PodSize::Pending("too little memory".into()));
    }

    #[test]
    fn a_pod_of_somebody_else_is_none_of_ours() {
        let mut other = owner("u");
        other["kind"] = json!("ReplicaSet");
        assert!(BoundPod::read(&pod(&other, RESERVATION)).is_none());
    }
}
