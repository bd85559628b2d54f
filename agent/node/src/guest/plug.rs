//! Processors and memory of a guest that runs: how much of them it should have by its spec, how much it has, and the word
//! that a change is done. Refuses to decide whether more is plugged in: that is the model's.

use std::sync::Arc;

use furrow_api::meta::Condition;
use furrow_api::{VirtualMachineInstance, names, quantity};
use furrow_host::libvirt::{DomainRecord, LibvirtError};
use furrow_model::domain::DomainSpec;
use furrow_model::guest::{MemoryChange, ObservedMemory, PodSize, WantedMemory, memory_change};
use furrow_model::reasons::chain;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::bound::BoundPod;
use super::conditions::{apply, wanted};
use super::execute::{Failure, Pass, now};
use super::owner::Known;
use super::publish::publish;

/// KubeVirt's conditions for a change under way. Control sets them with the wish; they go with the fulfilment.
const HOT_VCPU_CHANGE: &str = "HotVCPUChange";
const HOT_MEMORY_CHANGE: &str = "HotMemoryChange";

impl Pass<'_> {
    /// A domain that does not take it is asked once: the guest stays as it is, and its virtual machine says that it has to be
    /// restarted.
    pub(super) async fn plug_memory(&self, known: &mut Known, requested_kib: u64) -> Result<(), Failure> {
        let error = match self.context.domains.plug_memory(&self.key.domain_name(), requested_kib).await {
            Ok(()) => {
                tracing::info!(vm = %self.key, requested_kib, "memory plugged in");
                return Ok(());
            }
            Err(error) if is_final(&error) => error,
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(vm = %self.key, requested_kib, error = %chain(&error), "memory cannot be plugged in");
        let Some(vmi) = &self.subject.vmi else { return Ok(()) };
        let written = publish(&self.context.client, vmi, |vmi| refuse_memory(vmi, &now())).await?;
        self.context.events.warning(&written, "SyncFailed", &chain(&error));
        known.latest = Some(Arc::new(written));
        Ok(())
    }
}

/// vCPUs that a guest should have; `None` where its spec does not count sockets, and they cannot be changed.
pub(super) fn vcpus(vmi: &VirtualMachineInstance) -> Option<u32> {
    let cpu = vmi.spec.domain.cpu.as_ref()?;
    let count = |count: Option<i32>| count.map_or(Some(1), |count| u32::try_from(count).ok().filter(|c| *c > 0));
    cpu.sockets?;
    count(cpu.sockets)?.checked_mul(count(cpu.cores)?)?.checked_mul(count(cpu.threads)?)
}

/// Memory that a guest should have; `None` where its spec names none, and after it could not be given.
pub(super) fn memory(vmi: &VirtualMachineInstance, pod: &BoundPod) -> Option<WantedMemory> {
    let refused = change(vmi, HOT_MEMORY_CHANGE).is_some_and(|change| change.status == "False");
    let kib = guest_kib(vmi).filter(|_| !refused)?;
    Some(WantedMemory { kib, granted: size(vmi, pod) == PodSize::Granted })
}

/// A domain's memory in the model's words, if it has room for more.
pub(super) fn observed_memory(domain: &DomainRecord) -> Option<ObservedMemory> {
    domain.memory.map(|memory| ObservedMemory {
        boot_kib: memory.boot_kib,
        size_kib: memory.size_kib,
        requested_kib: memory.requested_kib,
        block_kib: memory.block_kib,
    })
}

/// Puts what the domain has in place of what its spec asks for.
pub(super) fn in_force(spec: &mut DomainSpec, domain: &DomainRecord) {
    let each = spec.cpu.cores * spec.cpu.threads;
    if let Some((now, _)) = domain.vcpus.filter(|(now, _)| each > 0 && now.is_multiple_of(each)) {
        spec.cpu.sockets = now / each;
    }
    if let Some(memory) = observed_memory(domain) {
        spec.memory_kib = memory.given_kib();
    }
}

/// Takes the condition away once the guest has the processors that its spec asks for. `spec`: as it is in force.
pub(super) fn settle(vmi: &mut VirtualMachineInstance, spec: &DomainSpec) {
    let wanted = vmi.spec.domain.cpu.as_ref().and_then(|cpu| cpu.sockets);
    let arrived = wanted.is_none_or(|wanted| u32::try_from(wanted).is_ok_and(|wanted| wanted <= spec.cpu.sockets));
    if arrived && let Some(status) = &mut vmi.status {
        status.conditions.retain(|condition| condition.type_ != HOT_VCPU_CHANGE);
    }
}

/// Says how far a change of memory is that control has announced. One that failed stays so until the guest ends.
pub(super) fn settle_memory(
    vmi: &mut VirtualMachineInstance,
    memory: Option<ObservedMemory>,
    pod: &BoundPod,
    now: &Time,
) {
    let Some(announced) = change(vmi, HOT_MEMORY_CHANGE) else { return };
    let failed = announced.status == "False";
    match memory_change(guest_kib(vmi), memory, &size(vmi, pod)) {
        MemoryChange::Done => say(vmi, &MemoryChange::Done, now),
        _ if failed => {}
        said => say(vmi, &said, now),
    }
}

/// Says that the domain did not take the memory that its guest should have.
pub(super) fn refuse_memory(vmi: &mut VirtualMachineInstance, now: &Time) {
    say(vmi, &MemoryChange::refused(), now);
}

/// Whether libvirt has looked at a request and does not fulfil it, so that asking again is of no use.
pub(super) fn is_final(error: &LibvirtError) -> bool {
    matches!(error, LibvirtError::Refused { .. } | LibvirtError::Failed { .. })
}

fn say(vmi: &mut VirtualMachineInstance, said: &MemoryChange, now: &Time) {
    let condition = match said {
        MemoryChange::Done => None,
        MemoryChange::UnderWay(message) => Some(wanted("True", "", message)),
        MemoryChange::Failed(reason, message) => Some(wanted("False", reason, message)),
    };
    apply(&mut vmi.status.get_or_insert_default().conditions, HOT_MEMORY_CHANGE, condition, now);
}

fn change<'a>(vmi: &'a VirtualMachineInstance, type_: &str) -> Option<&'a Condition> {
    vmi.status.as_ref().and_then(|status| Condition::find(&status.conditions, type_))
}

/// What the kubelet says of the size that control has given the guest's pod.
fn size(vmi: &VirtualMachineInstance, pod: &BoundPod) -> PodSize {
    let generation = vmi.annotations().get(names::ANNOTATION_RESERVED_GENERATION);
    pod.size(generation.and_then(|generation| generation.parse().ok()).unwrap_or_default())
}

fn guest_kib(vmi: &VirtualMachineInstance) -> Option<u64> {
    let guest = vmi.spec.domain.memory.as_ref()?.guest.as_ref()?;
    quantity::units(guest).ok().and_then(|bytes| u64::try_from(bytes).ok()).map(|bytes| bytes / 1024)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn processors_are_counted_only_where_sockets_are() {
        let check = |cpu: serde_json::Value, expected| {
            let vmi: VirtualMachineInstance = serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"},
                "spec": {"domain": {"cpu": cpu, "devices": {}}},
            }))
            .expect("a guest");
            assert_eq!(vcpus(&vmi), expected, "{:?}", vmi.spec.domain.cpu);
        };
        check(json!({"sockets": 2, "cores": 3, "threads": 2}), Some(12));
        check(json!({"sockets": 2}), Some(2));
        check(json!({"cores": 2}), None);
    }
}
