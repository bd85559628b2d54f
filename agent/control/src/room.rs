//! What a guest's specification and the cluster's settings say of room to grow while it runs, in the model's terms. Refuses
//! to judge: that is `furrow_model::vm::{memory, plug}`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use furrow_api::vmi::{Cpu, DomainSpec};
use furrow_api::{KubeVirt, quantity};
use furrow_model::vm::memory::{ClusterRoom, Room};

/// Room of a guest's memory. What is no quantity counts as not said: admission says so elsewhere.
pub(crate) fn of(domain: &DomainSpec) -> Room {
    let memory = domain.memory.as_ref();
    let cpu = domain.cpu.as_ref();
    Room {
        guest: memory.and_then(|memory| bytes(memory.guest.as_ref())),
        most: memory.and_then(|memory| bytes(memory.max_guest.as_ref())),
        hugepages: memory.is_some_and(|memory| memory.hugepages.is_some()),
        realtime: cpu.is_some_and(|cpu| cpu.realtime.is_some()),
        mapped: cpu.is_some_and(Cpu::maps_nodes),
        encrypted: domain.launch_security.is_some(),
    }
}

/// Room that the cluster's settings give guests which name none.
pub(crate) fn of_cluster(settings: Option<&KubeVirt>) -> ClusterRoom {
    let configuration = settings.and_then(|kubevirt| kubevirt.spec.configuration.as_ref());
    let Some(live) = configuration.and_then(|configuration| configuration.live_update_configuration.as_ref()) else {
        return ClusterRoom::default();
    };
    ClusterRoom {
        max_sockets: live.max_cpu_sockets.map(i64::from),
        max_guest: bytes(live.max_guest.as_ref()),
        ratio: live.max_hotplug_ratio.map(i64::from),
    }
}

/// A quantity in bytes, where it is one.
pub(crate) fn bytes(amount: Option<&Quantity>) -> Option<i64> {
    amount.and_then(|amount| quantity::units(amount).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guest_says_what_its_memory_is_and_may_become() {
        let room = |domain: serde_json::Value| of(&serde_json::from_value(domain).unwrap());
        let sized = json!({"devices": {}, "memory": {"guest": "1Gi", "maxGuest": "2Gi"}});
        assert_eq!(room(sized), Room { guest: Some(1 << 30), most: Some(2 << 30), ..Room::default() });
        assert_eq!(room(json!({"devices": {}})), Room::default());
        let huge = json!({"devices": {}, "memory": {"hugepages": {"pageSize": "2Mi"}}, "cpu": {"realtime": {}}});
        assert_eq!(room(huge), Room { hugepages: true, realtime: true, ..Room::default() });
        assert!(room(json!({"devices": {}, "cpu": {"numa": {"guestMappingPassthrough": {}}}})).mapped);
    }

    #[test]
    fn the_cluster_says_what_guests_may_become() {
        let room = |live: serde_json::Value| {
            let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
                "spec": {"configuration": {"liveUpdateConfiguration": live}}});
            of_cluster(Some(&serde_json::from_value(object).unwrap()))
        };
        let all = ClusterRoom { max_sockets: Some(8), max_guest: Some(4 << 30), ratio: Some(2) };
        assert_eq!(room(json!({"maxCpuSockets": 8, "maxGuest": "4Gi", "maxHotplugRatio": 2})), all);
        assert_eq!(room(json!({})), ClusterRoom::default());
        assert_eq!(of_cluster(None), ClusterRoom::default());
    }
}
