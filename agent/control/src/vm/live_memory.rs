//! Memory of a guest that runs, as its virtual machine's template has it: what the judge is told, and the guest's spec with
//! more of it. Refuses to judge: that is `furrow_model::vm::memory`.

use furrow_api::VirtualMachineInstance;
use furrow_api::meta::Condition;
use furrow_api::quantity;
use furrow_api::vmi::DomainSpec;
use furrow_model::vm::memory::{self, Change, Room};
use furrow_model::vm::plug::Plug;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::live_update::{grow, is_migrating};
use super::status::conditions_of;
use crate::room;
use crate::vmi::condition;

/// KubeVirt's reason of a virtual machine's condition when memory cannot be added.
pub(super) const ERROR: &str = "HotPlugMemoryError";

/// KubeVirt's condition of a guest whose memory is to change. The agent takes it away when the guest has got it, and sets it
/// to False when it could not be given.
const HOT_MEMORY_CHANGE: &str = "HotMemoryChange";

/// What becomes of a template's memory.
pub(super) fn judge(template: &DomainSpec, vmi: &VirtualMachineInstance) -> Plug {
    let (wanted, own) = (room::of(template), room::of(&vmi.spec.domain));
    let change = Condition::find(conditions_of(Some(vmi)), HOT_MEMORY_CHANGE);
    let status = vmi.status.as_ref().and_then(|status| status.memory.as_ref());
    let change = Change {
        wanted: wanted.guest,
        current: own.guest,
        at_boot: status.and_then(|memory| room::bytes(memory.guest_at_boot.as_ref())),
        plugging: change.is_some_and(Condition::is_true),
        failed: change.is_some_and(|change| change.status == "False"),
        migrating: is_migrating(vmi),
    };
    memory::judge(change, Room { guest: wanted.guest, ..own })
}

/// Memory as the template has it; requests and limits of memory grow by as much where the template names some.
pub(super) fn add(vmi: &mut VirtualMachineInstance, template: &DomainSpec) {
    let Some(guest) = template.memory.as_ref().and_then(|memory| memory.guest.clone()) else { return };
    let current = room::of(&vmi.spec.domain).guest.unwrap_or_default();
    let added = room::bytes(Some(&guest)).unwrap_or_default().saturating_sub(current);
    let domain = &mut vmi.spec.domain;
    domain.memory.get_or_insert_default().guest = Some(guest);
    grow(&mut domain.resources, &template.resources, "memory", |before| {
        Some(written(quantity::units(before).ok()?.saturating_add(added)))
    });
    let conditions = &mut vmi.status.get_or_insert_default().conditions;
    condition(HOT_MEMORY_CHANGE, true, "", "").set(conditions, Time(Timestamp::now()));
}

/// Whole mebibytes are what people read best.
fn written(bytes: i64) -> Quantity {
    const MIB: i64 = 1 << 20;
    Quantity(if bytes % MIB == 0 { format!("{}Mi", bytes / MIB) } else { bytes.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn domain(guest: &str) -> Value {
        json!({"devices": {}, "memory": {"guest": guest, "maxGuest": "4Gi"},
            "resources": {"requests": {"memory": "1536Mi"}, "limits": {"memory": "3Gi"}}})
    }

    fn vmi(status: Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web"}, "spec": {"domain": domain("2Gi")}, "status": status}))
        .unwrap()
    }

    fn template(guest: &str) -> DomainSpec {
        serde_json::from_value(domain(guest)).unwrap()
    }

    #[test]
    fn the_judge_is_told_what_the_guest_is_and_was() {
        let running = || vmi(json!({"memory": {"guestAtBoot": "2Gi"}}));
        assert_eq!(judge(&template("2Gi"), &running()), Plug::Nothing);
        assert_eq!(judge(&template("3Gi"), &running()), Plug::Now);
        assert!(matches!(judge(&template("1Gi"), &running()), Plug::Restart(text) if text.contains("started with")));
        assert!(matches!(judge(&template("8Gi"), &running()), Plug::Restart(_)));
        let told = |status: &str| vmi(json!({"conditions": [{"type": "HotMemoryChange", "status": status}]}));
        assert!(matches!(judge(&template("3Gi"), &told("True")), Plug::Later(_)));
        assert!(matches!(judge(&template("2Gi"), &told("False")), Plug::Restart(text) if text.contains("failed")));
        let moving = vmi(json!({"migrationState": {"startTimestamp": "2026-01-01T00:00:00Z"}}));
        assert!(matches!(judge(&template("3Gi"), &moving), Plug::Later(_)));
    }

    #[test]
    fn what_is_requested_and_limited_grows_by_as_much() {
        let mut vmi = vmi(json!({}));
        add(&mut vmi, &template("3Gi"));
        let domain = &vmi.spec.domain;
        assert_eq!(domain.memory.as_ref().unwrap().guest, Some(Quantity("3Gi".into())));
        assert_eq!(domain.resources.requests["memory"].0, "2560Mi");
        assert_eq!(domain.resources.limits["memory"].0, "4096Mi");
        let mut silent = vmi.clone();
        let mut template = template("4Gi");
        template.resources = serde_json::from_value(json!({})).unwrap();
        add(&mut silent, &template);
        assert_eq!(silent.spec.domain.resources, vmi.spec.domain.resources, "what only the guest has stays");
    }
}
