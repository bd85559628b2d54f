//! Guests up to the node that takes them, and after it is done with them; see `furrow_model::vmi` for the stages. Refuses
//! to write a phase once a node is named in the status: that is its agent's.
//!
//! From a guest's creation to its pod there is one pass, which waits for nothing but the API server.

mod account;
mod container_disk;
mod pull;
mod recall;
mod scratch;
mod state;
mod state_key;
mod status;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use furrow_api::reservation::{Reservation, ReservedImage, ReservedNic, VmiRef};
use furrow_api::vmi::VmiPhase;
use furrow_api::{VirtualMachine, VirtualMachineInstance, names};
use furrow_model::ipam::{Assigned, Owner, Request};
use furrow_model::vmi::{Observed, Phase, Stage, stage};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, controller, find, find_cluster, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::ipam::{self, AssignError, Ipam};
use crate::network::{self, Attachment, NetworkError, Networks};
use crate::pod::{self, RenderError};

pub(crate) use self::pull::Pulls;
use self::recall::Recall;
use self::scratch::ScratchError;
pub(crate) use self::scratch::copies as copies_claim;
use self::status::HeldUp;
pub(crate) use self::status::{condition, pending};
pub(crate) use self::volumes::{capacity_bytes, claim_phase, rbd_image};

/// Why a pass over a guest failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmiError {
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The guest is held up, and says so in its status.
    #[error("guest is held up: {0}")]
    HeldUp(HeldUp),
}

/// The controller of guests.
pub(crate) struct Guests {
    cluster: Cluster,
    /// Addresses.
    ipam: Arc<Ipam>,
    recall: Recall,
    /// Questions about images.
    pulls: Pulls,
}

impl Reconcile for Guests {
    type Error = VmiError;

    const NAME: &'static str = "vmi";

    fn keys(&self) -> Vec<Key> {
        self.cluster.vmis.state().iter().map(|vmi| key_of(vmi.as_ref())).collect()
    }

    /// Observe: the guest and its pod. Validate and plan: `furrow_model::vmi`. Execute and report: one step of its life.
    async fn reconcile(&self, key: &Key) -> Result<Next, VmiError> {
        let Some(vmi) = find(&self.cluster.vmis, &key.namespace, &key.name) else {
            self.recall.forget(key);
            return Ok(Next::OnChange);
        };
        // The watch is about to tell of our own write, and a pass follows then.
        if self.recall.is_behind(&vmi, Instant::now()) {
            return Ok(Next::OnChange);
        }
        let pod = self.pod(&vmi);
        match stage(&observe(&vmi, pod.as_deref())) {
            Stage::Accept => {
                let accepted = self.write(&vmi, status::accept(&vmi)).await?;
                Box::pin(self.reserve(&accepted)).await
            }
            Stage::Reserve => match self.recall.binds(key, Instant::now()) {
                // The cache is about to tell of the pod.
                Some(rest) => Ok(Next::After(rest)),
                None => Box::pin(self.reserve(&vmi)).await,
            },
            Stage::Schedule => match pod {
                Some(pod) => self.schedule(&vmi, &pod).await,
                None => Ok(Next::OnChange),
            },
            Stage::Fail => Box::pin(self.fail(&vmi)).await,
            Stage::DropPod => self.drop_pod(&vmi).await,
            Stage::Release => Box::pin(self.release(&vmi)).await,
            Stage::Wait => match pod {
                Some(pod) => Box::pin(self.reserve_plugged(&vmi, &pod)).await,
                None => Ok(Next::OnChange),
            },
        }
    }

    fn disposition(error: &VmiError) -> Disposition {
        match error {
            VmiError::Call(error) => Disposition::of_call(error),
            VmiError::HeldUp(held_up) if held_up.passing => Disposition::Retry,
            VmiError::HeldUp(_) => Disposition::OnChange,
        }
    }
}

/// What the model needs to know.
fn observe(vmi: &VirtualMachineInstance, pod: Option<&Pod>) -> Observed {
    let status = vmi.status.as_ref();
    Observed {
        deleting: vmi.metadata.deletion_timestamp.is_some(),
        finalizer: vmi.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_VMI),
        phase: status.map_or(Phase::Unset, |status| phase(&status.phase)),
        taken: status.is_some_and(|status| status.node_name.as_ref().is_some_and(|node| !node.is_empty())),
        pod: pod.map(|pod| furrow_model::vmi::Pod {
            deleting: pod.metadata.deletion_timestamp.is_some(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ended: pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Failed" | "Succeeded")),
        }),
    }
}

/// Whether a claim has its volume.
pub(crate) fn claim_bound(claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none() && claim_phase(claim) == "Bound"
}

/// The model's word for a phase. One that a later version wrote is somebody else's affair, as is Unknown.
pub(crate) fn phase(phase: &VmiPhase) -> Phase {
    match phase {
        VmiPhase::Unset => Phase::Unset,
        VmiPhase::Pending => Phase::Pending,
        VmiPhase::Scheduling => Phase::Scheduling,
        VmiPhase::Scheduled => Phase::Scheduled,
        VmiPhase::Running => Phase::Running,
        VmiPhase::Succeeded => Phase::Succeeded,
        VmiPhase::Failed => Phase::Failed,
        VmiPhase::WaitingForSync | VmiPhase::Unknown | VmiPhase::Other(_) => Phase::Unknown,
    }
}

impl Guests {
    /// A controller that remembers nothing yet.
    pub(crate) fn new(cluster: Cluster, ipam: Arc<Ipam>, pulls: Pulls) -> Self {
        Self { cluster, ipam, recall: Recall::default(), pulls }
    }

    /// The pod, from the cache. One of its name that another guest owns is not it.
    fn pod(&self, vmi: &VirtualMachineInstance) -> Option<Arc<Pod>> {
        let pod = find(&self.cluster.pods, &vmi.namespace().unwrap_or_default(), &pod::name(vmi))?;
        belongs(&pod, vmi).then_some(pod)
    }

    /// The pod, from the API server: for what must not be decided on a cache that is a moment old.
    async fn pod_now(&self, vmi: &VirtualMachineInstance) -> Result<Option<Pod>, CallError> {
        let api = self.cluster.api::<Pod>(&vmi.namespace().unwrap_or_default());
        let pod = calls::get(&api, &pod::name(vmi)).await?;
        Ok(pod.filter(|pod| belongs(pod, vmi)))
    }

    /// In a box: a guest has thousands of bytes, which the future of each caller would hold twice.
    fn write<'a>(
        &'a self,
        old: &'a VirtualMachineInstance,
        new: VirtualMachineInstance,
    ) -> BoxFuture<'a, Result<VirtualMachineInstance, CallError>> {
        let api = self.cluster.api::<VirtualMachineInstance>(&old.namespace().unwrap_or_default());
        async move {
            let Some(written) = calls::update(&api, old, &new).await? else { return Ok(new) };
            self.recall.wrote(&written, Instant::now());
            Ok(written)
        }
        .boxed()
    }

    /// Volumes, addresses, pod, phase Scheduling.
    async fn reserve(&self, vmi: &VirtualMachineInstance) -> Result<Next, VmiError> {
        let begun = Instant::now();
        let kernel = match Box::pin(self.made(vmi)).await {
            Ok(kernel) => kernel,
            Err(ScratchError::Call(error)) => return Err(error.into()),
            Err(ScratchError::HeldUp(held_up)) => return self.hold_up(vmi, held_up).await,
        };
        let volumes = match volumes::reserved(&self.cluster, vmi) {
            Ok(volumes) => volumes,
            Err(held_up) => return self.hold_up(vmi, held_up).await,
        };
        self.recall.goes_on(&key_of(vmi));
        let networks = match Networks::of(&self.cluster).attachments(vmi, &vmi.name_any()) {
            Ok(networks) => networks,
            Err(error) => return self.hold_up(vmi, HeldUp::of_network(&error)).await,
        };
        let mut nics = Vec::with_capacity(networks.len());
        let mut annotations = BTreeMap::new();
        for network in &networks {
            match self.nic(vmi, network, &mut annotations).await {
                Ok(nic) => nics.push(nic),
                Err(AssignError::Call(error)) => return Err(error.into()),
                Err(error) => return self.hold_up(vmi, HeldUp::of_address(&error)).await,
            }
        }
        let addresses_ms = begun.elapsed().as_millis();
        let mut provider_networks: Vec<_> = networks.into_iter().map(|network| network.provider_network).collect();
        provider_networks.sort_unstable();
        provider_networks.dedup();
        let reservation = Reservation { vmi: reference(vmi), nics, volumes, kernel };
        let settings = crate::kubevirt::settings(&self.cluster.kubevirts);
        let rendered = pod::render(vmi, &reservation, &provider_networks, annotations, settings.as_deref());
        let pod = match rendered {
            Ok(pod) => Box::pin(self.create_pod(vmi, pod)).await?,
            Err(error) => return self.hold_up(vmi, HeldUp::of_size(&error)).await,
        };
        let elapsed_ms = begun.elapsed().as_millis();
        tracing::info!(vm = %key_of(vmi), pod = pod.name_any(), addresses_ms, elapsed_ms, "reservation made");
        self.schedule(vmi, &pod).await
    }

    /// The guest's own disks are made, and it is known which image its kernel is in.
    async fn made(&self, vmi: &VirtualMachineInstance) -> Result<Option<ReservedImage>, ScratchError> {
        container_disk::ensure(&self.cluster, &self.pulls, vmi).await?;
        scratch::ensure(&self.cluster, vmi).await.and(state::ensure(&self.cluster, vmi).await)?;
        container_disk::kernel(&self.cluster, &self.pulls, vmi).await
    }

    /// The address of one interface.
    async fn nic(
        &self,
        vmi: &VirtualMachineInstance,
        network: &Attachment,
        annotations: &mut BTreeMap<String, String>,
    ) -> Result<ReservedNic, AssignError> {
        let request = Request {
            object: network.ip_object.clone(),
            subnet: network.subnet.clone(),
            owner: address_owner(vmi),
            ip: network.ip,
            mac: network.mac,
        };
        let Assigned { ip, mac } = self.ipam.assign(&self.cluster, request).await?;
        let subnet = find_cluster(&self.cluster.subnets, &network.subnet);
        let range = subnet.as_deref().and_then(|subnet| ipam::range_of(subnet).ok());
        let gateway = range.as_ref().and_then(furrow_model::ipam::Range::gateway);
        annotations.extend(network::annotations(network, ip, mac, gateway));
        Ok(ReservedNic {
            name: network.interface.clone(),
            network: network.network.clone(),
            subnet: network.subnet.clone(),
            bridge: format!("br-{}", network.provider_network),
            vlan: network.vlan,
            mac: mac.to_string(),
            ip: Some(ip.to_string()),
            prefix_len: range.map(|range| i32::from(range.prefix())),
            gateway: gateway.map(|gateway| gateway.to_string()),
            dns: network.dns.clone(),
            mtu: network.mtu,
            ip_object: network.ip_object.clone(),
        })
    }

    /// The agent learns which images are behind the volumes that are to be plugged into a running guest.
    async fn reserve_plugged(&self, vmi: &VirtualMachineInstance, pod: &Pod) -> Result<Next, VmiError> {
        let text = pod.annotations().get(names::ANNOTATION_RESERVATION);
        let Some(old) = text.and_then(|text| serde_json::from_str::<Reservation>(text).ok()) else {
            return Ok(Next::OnChange);
        };
        let (reservation, held_up) = volumes::plugged(&self.cluster, vmi, &old);
        if reservation != old {
            let mut new = pod.clone();
            let text = serde_json::to_string(&reservation).map_err(|source| CallError::Json {
                what: format!("write the reservation of {}", key_of(vmi)),
                source,
            })?;
            new.annotations_mut().insert(names::ANNOTATION_RESERVATION.to_owned(), text);
            let api = self.cluster.api::<Pod>(&vmi.namespace().unwrap_or_default());
            calls::update(&api, pod, &new).await?;
            tracing::info!(vm = %key_of(vmi), volumes = reservation.volumes.len(), "reservation changed");
        }
        if let Some(held_up) = held_up {
            // The status is the agent's by now; it shows the volume as pending.
            let why = held_up.message.as_str();
            tracing::debug!(vm = %key_of(vmi), reason = held_up.reason, why, "a volume is not plugged yet");
        }
        Ok(Next::OnChange)
    }

    async fn create_pod(&self, vmi: &VirtualMachineInstance, pod: Pod) -> Result<Pod, VmiError> {
        let api = self.cluster.api::<Pod>(&vmi.namespace().unwrap_or_default());
        match calls::create(&api, &pod).await {
            Ok(Some(created)) => {
                self.recall.reserved(&key_of(vmi), Instant::now());
                self.cluster.events.normal(
                    vmi,
                    "SuccessfulCreate",
                    format!("Created virtual machine pod {}", created.name_any()),
                );
                Ok(created)
            }
            // An earlier pass made it and was interrupted.
            Ok(None) => match self.pod_now(vmi).await? {
                Some(pod) => Ok(pod),
                None => {
                    let message = format!("could not create Pod {}: one of its name exists", pod.name_any());
                    self.refused(vmi, message).await
                }
            },
            // A quota that is used up, or a policy: both may change without an event of ours.
            Err(error) if error.is_refusal() => self.refused(vmi, error.message()).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn refused<T>(&self, vmi: &VirtualMachineInstance, message: String) -> Result<T, VmiError> {
        let held_up = HeldUp::passing("FailedCreate", message);
        self.hold_up(vmi, held_up.clone()).await?;
        Err(VmiError::HeldUp(held_up))
    }

    /// Says in the status what the guest waits for. A wait that only a change can end is no error of the pass.
    /// The usual one, for claims of the guest's own, is said when it takes long: it would cost each guest a write.
    async fn hold_up(&self, vmi: &VirtualMachineInstance, held_up: HeldUp) -> Result<Next, VmiError> {
        if status::may_wait_unsaid(vmi, &held_up)
            && let Some(rest) = self.recall.waits(&key_of(vmi), Instant::now())
        {
            return Ok(Next::After(rest));
        }
        let mut new = status::held_up(vmi, &held_up);
        status::show_volumes(&mut new, volumes::shown(&self.cluster, vmi));
        self.write(vmi, new).await?;
        // After the write: one that is refused is made again, and would be told again.
        if status::says_something_new(vmi, &held_up) && held_up.warn {
            self.cluster.events.warning(vmi, held_up.reason, held_up.message.clone());
        }
        if held_up.passing {
            return Err(VmiError::HeldUp(held_up));
        }
        Ok(held_up.again.map_or(Next::OnChange, Next::After))
    }

    /// Phase Scheduling, and what the scheduler says. Where a node is found at once, its agent says so.
    async fn schedule(&self, vmi: &VirtualMachineInstance, pod: &Pod) -> Result<Next, VmiError> {
        if status::may_bind_unsaid(vmi, pod)
            && let Some(rest) = self.recall.binds(&key_of(vmi), Instant::now())
        {
            return Ok(Next::After(rest));
        }
        let mut new = status::scheduling(vmi, pod);
        status::show_volumes(&mut new, volumes::shown(&self.cluster, vmi));
        self.write(vmi, new).await?;
        Ok(Next::OnChange)
    }

    async fn fail(&self, vmi: &VirtualMachineInstance) -> Result<Next, VmiError> {
        let pod = self.pod_now(vmi).await?;
        if let Some(pod) = &pod
            && stage(&observe(vmi, Some(pod))) != Stage::Fail
        {
            return self.schedule(vmi, pod).await;
        }
        tracing::warn!(vm = %key_of(vmi), "guest failed: its pod was taken away before a node took it");
        self.write(vmi, status::failed(vmi, pod.is_some())).await?;
        Ok(Next::OnChange)
    }

    async fn drop_pod(&self, vmi: &VirtualMachineInstance) -> Result<Next, VmiError> {
        // One that is on its way out was deleted by a pass before, which the cache has not seen; that was told then.
        if let Some(pod) = self.pod_now(vmi).await?.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let api = self.cluster.api::<Pod>(&vmi.namespace().unwrap_or_default());
            calls::delete(&api, &pod).await?;
            let note = format!("Deleted virtual machine pod {}", pod.name_any());
            self.cluster.events.normal(vmi, "SuccessfulDelete", note);
        }
        // The cache tells when it is on its way, and then that it is gone.
        Ok(Next::OnChange)
    }

    async fn release(&self, vmi: &VirtualMachineInstance) -> Result<Next, VmiError> {
        let phase = vmi.status.as_ref().map(|status| status.phase.clone()).unwrap_or_default();
        // Before its end was published, a pod that the cache does not know yet could still be bound.
        if !phase.is_final() && self.pod_now(vmi).await?.is_some() {
            return self.drop_pod(vmi).await;
        }
        let mut new = vmi.clone();
        new.finalizers_mut().retain(|finalizer| finalizer != names::FINALIZER_VMI);
        self.write(vmi, new).await?;
        tracing::info!(vm = %key_of(vmi), phase = %phase, "guest released");
        Ok(Next::OnChange)
    }
}

fn belongs(pod: &Pod, vmi: &VirtualMachineInstance) -> bool {
    controller::<VirtualMachineInstance>(pod).is_some_and(|owner| Some(&owner.uid) == vmi.metadata.uid.as_ref())
}

fn reference(vmi: &VirtualMachineInstance) -> VmiRef {
    VmiRef { namespace: vmi.namespace().unwrap_or_default(), name: vmi.name_any(), uid: vmi.uid().unwrap_or_default() }
}

/// Addresses belong to the VM, which outlives its guests; a guest without VM has its own.
fn address_owner(vmi: &VirtualMachineInstance) -> Owner {
    let namespace = vmi.namespace().unwrap_or_default();
    match controller::<VirtualMachine>(vmi) {
        Some(vm) => Owner { kind: vm.kind.clone(), namespace, name: vm.name.clone(), uid: vm.uid.clone() },
        None => Owner {
            kind: VirtualMachineInstance::kind(&()).into_owned(),
            namespace,
            name: vmi.name_any(),
            uid: vmi.uid().unwrap_or_default(),
        },
    }
}

impl HeldUp {
    fn of_network(error: &NetworkError) -> Self {
        Self::until_change(error.reason(), furrow_model::reasons::chain(error))
    }

    fn of_address(error: &AssignError) -> Self {
        use furrow_model::ipam::AllocationError as Allocation;
        let message = furrow_model::reasons::chain(error);
        match error {
            AssignError::Allocation(Allocation::Exhausted { .. }) => Self::until_change("SubnetExhausted", message),
            AssignError::Allocation(Allocation::Subnet { .. }) => Self::until_change("SubnetInvalid", message),
            AssignError::Allocation(Allocation::NotOpen { .. }) => Self::until_change("AddressInvalid", message),
            AssignError::Allocation(Allocation::IpTaken { .. } | Allocation::MacTaken { .. }) => {
                Self::until_change("AddressInUse", message)
            }
            AssignError::NoSubnet(_) => Self::until_change("SubnetNotFound", message),
            AssignError::Allocation(Allocation::ForeignOwner { .. }) => Self::passing("AddressInUse", message),
            AssignError::Allocation(Allocation::Contended { .. } | Allocation::Confused { .. })
            | AssignError::Claim { .. }
            | AssignError::Call(_) => Self::passing("AddressNotAssigned", message),
        }
    }

    fn of_size(error: &RenderError) -> Self {
        Self::until_change("InvalidSpec", furrow_model::reasons::chain(error))
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
