//! Observation of one guest: its VMI and pod as Kubernetes has them, its domain and what is left of it on the node,
//! turned into the model's `Wanted` and `Observed`. Refuses to conclude from absence in a cache: that a VMI or its pod
//! is gone is asked of the API server before a running guest is stopped for it.

use std::sync::Arc;

use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachineInstance, names};
use furrow_host::libvirt::{DomainRecord, DomainState, LiveDisk, OffReason};
use furrow_model::domain::ALIAS_PREFIX;
use furrow_model::guest::{self, Intent, Observed, ObservedDisk, ObservedDomain, Phase, Wanted};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::Key;
use super::bound::BoundPod;
use super::convert::{ConvertError, GuestRequest};
use super::dispatch::Snapshot;
use super::plug;
use super::publish::{PublishError, answered};

/// Seconds between the request to shut down and the kill, when the spec names none (KubeVirt's default).
const DEFAULT_GRACE_S: i64 = 30;

/// Where to look: the cluster, and which node of it this is.
pub(super) struct Place<'a> {
    pub(super) client: &'a Client,
    pub(super) node: &'a str,
}

/// A guest as Kubernetes has it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// The VMI.
    pub(super) vmi: Option<Arc<VirtualMachineInstance>>,
    /// The reservation pod of that very VMI on this node.
    pub(super) pod: Option<Arc<BoundPod>>,
}

impl Subject {
    /// Looks at the caches, and asks the API server where they have nothing.
    pub(super) async fn observe(
        place: &Place<'_>,
        key: &Key,
        snapshot: &Snapshot,
        latest: Option<&Arc<VirtualMachineInstance>>,
    ) -> Result<Self, PublishError> {
        let api: Api<VirtualMachineInstance> = Api::namespaced(place.client.clone(), &key.namespace);
        let vmi = match newest(snapshot.vmi.as_ref(), latest) {
            Some(vmi) => Some(Arc::clone(vmi)),
            None => answered(api.get_opt(&key.name)).await?.map(Arc::new),
        };
        let uid = vmi.as_ref().and_then(|vmi| vmi.uid());
        let mut pod = uid.as_deref().and_then(|uid| best_pod(&snapshot.pods, uid));
        if let (Some(vmi), None) = (&vmi, &pod)
            && is_claimed(vmi, place.node)
        {
            pod = live_pod(place, key, &vmi.uid().unwrap_or_default()).await?;
        }
        Ok(Self { vmi, pod })
    }

    /// The VMI's UID.
    pub(super) fn uid(&self) -> Option<String> {
        self.vmi.as_ref().and_then(|vmi| vmi.uid())
    }

    /// The VMI with its reservation, ready to be turned into a domain.
    pub(super) fn request(&self) -> Option<Result<GuestRequest, ConvertError>> {
        let (vmi, pod) = (self.vmi.as_ref()?, self.pod.as_ref()?);
        let reservation = pod.reservation.clone().ok()?;
        Some(GuestRequest::new(vmi.as_ref().clone(), reservation))
    }

    /// What is wanted of this node. `stop_since_ms` is when the wish to stop was first seen.
    pub(super) fn wanted(&self, node: &str, stop_since_ms: i64) -> Wanted {
        let Some(vmi) = &self.vmi else { return nothing(None) };
        let uid = vmi.uid();
        let status = vmi.status.clone().unwrap_or_default();
        let elsewhere = status.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node);
        if elsewhere {
            return nothing(None);
        }
        let claimed = is_claimed(vmi, node);
        let phase = match status.phase {
            phase if phase.is_final() => return nothing(uid),
            VmiPhase::Running => Phase::Running,
            _ if claimed => Phase::Scheduled,
            _ => Phase::Unclaimed,
        };
        let stopping = vmi.metadata.deletion_timestamp.is_some() || self.pod.as_ref().is_none_or(|pod| pod.ending);
        let deadline_ms = stop_since_ms.saturating_add(self.grace_ms());
        let intent = if stopping { Intent::Stop { deadline_ms } } else { Intent::Run };
        Wanted { intent, ..nothing_of(uid, phase) }
    }

    /// Milliseconds between the request to shut down and the kill.
    pub(super) fn grace_ms(&self) -> i64 {
        let grace_s = self.vmi.as_ref().and_then(|vmi| vmi.spec.termination_grace_period_seconds);
        grace_s.unwrap_or(DEFAULT_GRACE_S).max(0).saturating_mul(1000)
    }

    /// When the wish to stop was expressed, if the objects say; it survives a restart of the agent.
    pub(super) fn deletion_ms(&self) -> Option<i64> {
        let deleted = self.vmi.as_ref()?.metadata.deletion_timestamp.as_ref()?;
        Some(deleted.0.as_millisecond())
    }
}

fn nothing(uid: Option<String>) -> Wanted {
    let phase = if uid.is_some() { Phase::Final } else { Phase::Unclaimed };
    nothing_of(uid, phase)
}

/// Nothing at all, until more is known.
fn nothing_of(uid: Option<String>, phase: Phase) -> Wanted {
    let (taps, images) = (Vec::new(), Vec::new());
    Wanted { uid, phase, intent: Intent::Clear, taps, volumes: 0, images, vcpus: None, memory: None, disks: None }
}

fn is_claimed(vmi: &VirtualMachineInstance, node: &str) -> bool {
    let status = vmi.status.as_ref();
    status.is_some_and(|status| status.node_name.as_deref() == Some(node) && !status.phase.is_final())
}

/// The newer of the watched object and what this agent last wrote. resourceVersions of one object are comparable
/// numbers (Kubernetes enhancement 5504).
fn newest<'a>(
    watched: Option<&'a Arc<VirtualMachineInstance>>,
    written: Option<&'a Arc<VirtualMachineInstance>>,
) -> Option<&'a Arc<VirtualMachineInstance>> {
    let watched = watched?;
    let version = |vmi: &VirtualMachineInstance| vmi.resource_version().and_then(|version| version.parse::<u64>().ok());
    match written {
        Some(written) if written.uid() == watched.uid() && version(written) > version(watched) => Some(written),
        _ => Some(watched),
    }
}

fn best_pod(pods: &[Arc<BoundPod>], vmi_uid: &str) -> Option<Arc<BoundPod>> {
    let own = || pods.iter().filter(|pod| pod.vmi_uid == vmi_uid);
    own().find(|pod| !pod.ending).or_else(|| own().next()).cloned()
}

async fn live_pod(place: &Place<'_>, key: &Key, vmi_uid: &str) -> Result<Option<Arc<BoundPod>>, PublishError> {
    let api: Api<Pod> = Api::namespaced(place.client.clone(), &key.namespace);
    let params = ListParams::default()
        .labels(&format!("{}={vmi_uid}", names::LABEL_CREATED_BY))
        .fields(&format!("spec.nodeName={}", place.node));
    let pods = answered(api.list(&params)).await?;
    let bound: Vec<_> = pods.items.iter().filter_map(BoundPod::read).map(Arc::new).collect();
    Ok(best_pod(&bound, vmi_uid))
}

/// The domain in the model's words.
pub(super) fn observed_domain(record: &DomainRecord) -> ObservedDomain {
    let state = match record.state {
        DomainState::Running | DomainState::Paused(_) | DomainState::ShuttingDown => guest::DomainState::Active,
        DomainState::Crashed => guest::DomainState::Panicked,
        DomainState::Off(reason) => guest::DomainState::Off(match reason {
            OffReason::Shutdown => guest::OffReason::Shutdown,
            OffReason::Destroyed => guest::OffReason::Destroyed,
            OffReason::Crashed | OffReason::Daemon => guest::OffReason::Crashed,
            OffReason::Unknown => guest::OffReason::Unknown,
            OffReason::Failed => guest::OffReason::StartFailed,
            OffReason::Migrated => guest::OffReason::Migrated,
            OffReason::Saved => guest::OffReason::Saved,
        }),
    };
    ObservedDomain { uid: record.owner.as_ref().map(|owner| owner.uid.clone()), state }
}

/// Everything of the guest on the node, as far as the owner knows.
pub(super) fn observed(domain: Option<&DomainRecord>, known: &super::owner::Known) -> Observed {
    Observed {
        domain: domain.map(observed_domain),
        ports: known.artefacts.ports.iter().map(|(tap, uid)| (tap.clone(), uid.clone())).collect(),
        files: known.artefacts.files.iter().cloned().collect(),
        states: known.artefacts.states.iter().cloned().collect(),
        foreign_images: Vec::new(),
        ports_ensured: known.ports_ensured,
        asked_ms: known.asked_ms,
        vcpus: domain.and_then(|domain| domain.vcpus),
        memory: domain.and_then(plug::observed_memory),
        disks: domain.into_iter().flat_map(|domain| &domain.disks).filter_map(observed_disk).collect(),
    }
}

/// A disk that Furrow made: its name in the spec is in its alias.
fn observed_disk(disk: &LiveDisk) -> Option<ObservedDisk> {
    let name = disk.alias.strip_prefix(ALIAS_PREFIX)?.to_owned();
    Some(ObservedDisk { name, image: disk.image.clone() })
}
