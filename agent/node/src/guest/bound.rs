//! Reservation pods bound to this node, reduced to what a guest needs. Owns reading them; refuses pods that are not
//! what they say: the controller owner must be a VirtualMachineInstance, and the reservation must name that very one.

use furrow_api::names;
use furrow_api::reservation::Reservation;
use k8s_openapi::api::core::v1::Pod;
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
    /// When the scheduler bound it, in milliseconds since 1970, to the second.
    pub(crate) bound_ms: Option<i64>,
    /// When this agent first saw it.
    pub(crate) seen: Instant,
}

impl BoundPod {
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
        Some(Self {
            uid: pod.uid()?,
            key: Key { namespace, name: owner.name.clone() },
            vmi_uid: owner.uid.clone(),
            reservation: reservation(pod, &owner.uid),
            ending: over || pod.metadata.deletion_timestamp.is_some(),
            bound_ms: scheduled
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0.as_millisecond()),
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
    fn a_pod_of_somebody_else_is_none_of_ours() {
        let mut other = owner("u");
        other["kind"] = json!("ReplicaSet");
        assert!(BoundPod::read(&pod(&other, RESERVATION)).is_none());
    }
}
