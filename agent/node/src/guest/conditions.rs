//! The conditions that a node knows of a guest, with KubeVirt's reasons and words (`pkg/virt-handler/vm.go` and, for what
//! KubeVirt copies from a launcher's pod, the kubelet's). Pure. Refuses the conditions of others (PodScheduled,
//! DataVolumesReady).

use furrow_api::VirtualMachineInstance;
use furrow_api::meta::Condition;
use furrow_api::vmi::{DomainSpec as WireDomain, FeatureState};
use furrow_host::libvirt::{DomainState, PauseReason};
use furrow_model::domain::Virtualization;
use furrow_model::guest::{
    AgentNeeds, Confidential, MigrationBlocker, MigrationTraits, SharedVolume, agent_lacks, migration_blocker,
    storage_migration_blocker,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::convert::GuestRequest;
use super::status::RunningGuest;

/// A condition as it should be, without times.
pub(super) struct WantedCondition {
    status: &'static str,
    reason: Option<String>,
    message: Option<String>,
}

/// A condition as it should be; an empty text is none.
pub(super) fn wanted(status: &'static str, reason: &str, message: &str) -> WantedCondition {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    WantedCondition { status, reason: text(reason), message: text(message) }
}

/// Brings one condition to what it should be; `None` takes it away.
pub(super) fn apply(conditions: &mut Vec<Condition>, type_: &str, wanted: Option<WantedCondition>, now: &Time) {
    match wanted {
        None => conditions.retain(|condition| condition.type_ != type_),
        Some(WantedCondition { status, reason, message }) => {
            let condition = Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason,
                message,
                ..Condition::default()
            };
            condition.set(conditions, now.clone());
        }
    }
}

/// The conditions of a guest that runs.
pub(super) fn running(guest: &RunningGuest<'_>, evacuate: bool) -> Vec<(&'static str, Option<WantedCondition>)> {
    let traits = migration_traits(guest.request);
    let paused = pause(guest.state);
    let emulated = guest.virtualization == Virtualization::Tcg;
    vec![
        ("Ready", Some(ready(guest, paused.is_some()))),
        ("LiveMigratable", Some(unless(migration_blocker(&traits)))),
        ("StorageLiveMigratable", Some(unless(storage_migration_blocker(&traits)))),
        ("AgentConnected", guest.agent_connected.then(|| wanted("True", "", ""))),
        ("AgentVersionNotSupported", unsupported_agent(guest).map(|words| wanted("True", words, ""))),
        ("Paused", paused.map(|(reason, message)| wanted("True", reason, message))),
        (
            "SoftwareEmulation",
            emulated.then(|| wanted("True", "KVMUnavailable", "the guest runs in software emulation, without KVM")),
        ),
        ("EvictionRequested", evacuate.then(|| wanted("True", "EvictionRequested", "the guest is to leave its node"))),
        ("Synchronized", None),
    ]
}

/// KubeVirt's launcher pod is not ready while its guest is paused (a readiness gate) or fails its readiness probe.
fn ready(guest: &RunningGuest<'_>, paused: bool) -> WantedCondition {
    if paused {
        let gate =
            "the status of pod readiness gate \"kubevirt.io/virtual-machine-unpaused\" is not \"True\", but False";
        return wanted("False", "ReadinessGatesNotReady", gate);
    }
    if !guest.answers {
        return wanted("False", "ContainersNotReady", "containers with unready status: [compute]");
    }
    wanted("True", "", "")
}

fn pause(state: DomainState) -> Option<(&'static str, &'static str)> {
    match state {
        DomainState::Paused(PauseReason::User) => Some(("PausedByUser", "VMI was paused by user")),
        DomainState::Paused(PauseReason::IoError) => {
            Some(("PausedIOError", "VMI was paused, low-level IO error detected"))
        }
        _ => None,
    }
}

fn unless(blocker: Option<MigrationBlocker>) -> WantedCondition {
    match blocker {
        None => wanted("True", "", ""),
        Some(blocker) => wanted("False", blocker.reason, &blocker.message),
    }
}

fn unsupported_agent(guest: &RunningGuest<'_>) -> Option<&'static str> {
    let report = guest.report.filter(|_| guest.agent_connected)?;
    agent_lacks(agent_needs(&guest.request.vmi), report.commands.as_deref()?)
}

/// What a guest asks of its agent.
fn agent_needs(vmi: &VirtualMachineInstance) -> AgentNeeds {
    let credentials = &vmi.spec.access_credentials;
    let by_agent = |credential: &furrow_api::vmi::AccessCredential| {
        credential.ssh_public_key.as_ref().is_some_and(|key| key.propagation_method.qemu_guest_agent.is_some())
    };
    let probes = [&vmi.spec.readiness_probe, &vmi.spec.liveness_probe];
    AgentNeeds {
        ssh_keys: credentials.iter().any(by_agent),
        passwords: credentials.iter().any(|credential| credential.user_password.is_some()),
        exec: probes.into_iter().flatten().any(|probe| probe.exec.is_some()),
    }
}

/// What of a guest matters to a migration.
pub(super) fn migration_traits(request: &GuestRequest) -> MigrationTraits<'_> {
    let spec = &request.vmi.spec;
    let domain = &spec.domain;
    let on = |state: &FeatureState| state.enabled != Some(false);
    let hyperv = domain.features.as_ref().and_then(|features| features.hyperv.as_ref());
    let volumes = request.volumes().map(|volume| SharedVolume {
        claim: &volume.claim,
        shared: volume.access_modes.iter().any(|mode| mode == "ReadWriteMany"),
    });
    let passthrough = domain.features.as_ref().and_then(|features| features.hyperv_passthrough.as_ref());
    MigrationTraits {
        host_device: !domain.devices.host_devices.is_empty() || !domain.devices.gpus.is_empty(),
        confidential: confidential(domain),
        persistent_reservation: domain
            .devices
            .disks
            .iter()
            .any(|disk| disk.lun.as_ref().is_some_and(|lun| lun.reservation)),
        unpinned_clock: hyperv.and_then(|hyperv| hyperv.reenlightenment.as_ref()).is_some_and(on),
        hyperv_passthrough: passthrough.is_some_and(|passthrough| passthrough.enabled != Some(false)),
        host_disk: spec.volumes.iter().any(|volume| volume.host_disk.is_some()),
        // Scratch volumes are claims too. Files (seeds) are shown read-only and made anew where the guest goes.
        volumes: volumes.collect(),
    }
}

fn confidential(domain: &WireDomain) -> Option<Confidential> {
    let security = domain.launch_security.as_ref()?;
    if security.tdx.is_some() {
        return Some(Confidential::Tdx);
    }
    let sev = security.sev.is_some() || security.snp.is_some();
    Some(if sev { Confidential::Sev } else { Confidential::SecureExecution })
}
