//! Carries out allocations of `furrow_model::ipam` against the API server. Refuses to choose: it makes the calls that the
//! model asks for, none of them from a cache that somebody else fills.
//!
//! Within this process, allocations of one Subnet wait for each other and hand on what they know. That is for speed only;
//! between processes, and after crashes, the Subnet's resourceVersion keeps them apart.
//!
//! An IP object is cluster-wide and its owner is not, which Kubernetes' garbage collector does not follow. So the owner
//! is an annotation, and [`crate::address`] collects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{ListParams, ObjectMeta};
use kube::{Resource, ResourceExt};
use tokio::sync::{Mutex, OwnedMutexGuard};

use furrow_api::ip::IPSpec;
use furrow_api::{IP, Subnet, VirtualMachine, VirtualMachineInstance, names};
use furrow_model::ipam::{
    Allocation, AllocationError, Answer, Assigned, Call, Claim, Holding, Memory, Owner, Range, RangeError, Request,
};

use crate::calls::{self, CallError};
use crate::cluster::Cluster;

/// JSON of an [`Owner`] on an IP object that control made.
const ANNOTATION_OWNER: &str = "furrow.io/owner";

/// What is remembered of a Subnet is read again after this long: an IP object that somebody makes by hand is seen then.
const MEMORY_MAX: Duration = Duration::from_millis(500);

/// Why a NIC has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// There is none to be had as things stand.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The Subnet is gone.
    #[error("subnet {0} does not exist")]
    NoSubnet(String),
    /// The claim has no JSON form: a defect.
    #[error("claim of IP {object} cannot be written")]
    Claim {
        /// The IP object.
        object: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The API server did not do its part.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Allocates addresses.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    /// One a Subnet; bounded by the number of Subnets.
    turns: Mutex<HashMap<String, Arc<Mutex<Turn>>>>,
}

/// What an allocation leaves to the next of the same Subnet.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    memory: Memory,
    /// As last read or written: the version that a claim is conditioned on.
    subnet: Option<Subnet>,
    /// When the IP objects were listed.
    listed: Option<Instant>,
}

impl Ipam {
    /// The address of a NIC: the one it has, or a new one.
    ///
    /// # Errors
    /// When there is none to be had, or the API server could not be asked.
    pub(crate) async fn assign(&self, cluster: &Cluster, request: Request) -> Result<Assigned, AssignError> {
        let mut session = Session { cluster, request: &request, turn: None };
        let mut result = session.allocate(self).await;
        // An allocation that fails by what is remembered is made once more by what is.
        if matches!(result, Err(AssignError::Allocation(_))) && session.remembered() {
            session.forget();
            result = session.allocate(self).await;
        }
        if result.is_err() {
            session.forget();
        }
        result
    }

    /// Waits for this process's turn on a Subnet. Whoever writes the Subnet without it makes allocations begin again.
    pub(crate) async fn turn(&self, subnet: &str) -> OwnedMutexGuard<Turn> {
        let lock = Arc::clone(self.turns.lock().await.entry(subnet.to_owned()).or_default());
        lock.lock_owned().await
    }
}

/// One allocation under way.
struct Session<'a> {
    cluster: &'a Cluster,
    request: &'a Request,
    turn: Option<OwnedMutexGuard<Turn>>,
}

impl Session<'_> {
    async fn allocate(&mut self, ipam: &Ipam) -> Result<Assigned, AssignError> {
        let mut allocation = Allocation::new(self.request.clone());
        // The model bounds its rounds.
        loop {
            let call = allocation.call();
            if !matches!(call, Call::FindOwn(_) | Call::DropOwn(_)) && self.turn.is_none() {
                let mut turn = ipam.turn(&self.request.subnet).await;
                if turn.listed.is_none_or(|listed| listed.elapsed() > MEMORY_MAX) {
                    turn.memory.forget();
                }
                self.turn = Some(turn);
            }
            let known = self.turn.as_ref().and_then(|turn| turn.memory.recall(&call));
            let answer = match known {
                Some(answer) => answer,
                None => {
                    let answer = self.carry_out(&call).await?;
                    if let Some(turn) = &mut self.turn {
                        turn.memory.learn(&call, &answer, &self.request.subnet);
                    }
                    answer
                }
            };
            if let Some(assigned) = allocation.answer(answer)? {
                return Ok(assigned);
            }
        }
    }

    fn remembered(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.memory.is_there())
    }

    fn forget(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.memory.forget();
        }
    }

    async fn carry_out(&mut self, call: &Call) -> Result<Answer, AssignError> {
        let ips = self.cluster.api_all::<IP>();
        Ok(match call {
            Call::FindOwn(name) => Answer::Own(calls::get(&ips, name).await?.as_ref().map(holding)),
            Call::DropOwn(name) => {
                if let Some(ip) = calls::get(&ips, name).await? {
                    tracing::info!(ip = name, address = ip.spec.ip_address, "address given back: another is asked for");
                    calls::delete(&ips, &ip).await?;
                }
                Answer::Done
            }
            Call::ReadSubnet => self.read_subnet().await?,
            Call::List => {
                let begun = Instant::now();
                let list = calls::within(|| "list IPs".to_owned(), ips.list(&ListParams::default())).await?;
                if let Some(turn) = &mut self.turn {
                    turn.listed = Some(begun);
                }
                Answer::Holdings(list.items.iter().map(holding).collect())
            }
            Call::OwnerAlive(owner) => Answer::Alive(alive(self.cluster, owner).await?),
            Call::Record(claim) => self.record(claim).await?,
            Call::Create(claim) => self.create(claim).await?,
        })
    }

    async fn read_subnet(&mut self) -> Result<Answer, AssignError> {
        let api = self.cluster.api_all::<Subnet>();
        let subnet = calls::get(&api, &self.request.subnet).await?;
        let subnet = subnet.ok_or_else(|| AssignError::NoSubnet(self.request.subnet.clone()))?;
        // A claim that cannot be read was not written by any version of this program: there is nothing to finish.
        let pending = subnet.annotations().get(names::ANNOTATION_PENDING_ALLOCATION);
        let pending = pending.and_then(|text| serde_json::from_str::<Claim>(text).ok());
        let range = range_of(&subnet);
        if let Some(turn) = &mut self.turn {
            turn.subnet = Some(subnet);
        }
        Ok(Answer::Subnet(range, pending))
    }

    async fn record(&mut self, claim: &Claim) -> Result<Answer, AssignError> {
        let Some(turn) = &mut self.turn else { return Ok(Answer::Conflict) };
        let Some(mut subnet) = turn.subnet.take() else { return Ok(Answer::Conflict) };
        let text = serde_json::to_string(claim)
            .map_err(|source| AssignError::Claim { object: claim.object.clone(), source })?;
        subnet.annotations_mut().insert(names::ANNOTATION_PENDING_ALLOCATION.to_owned(), text);
        match calls::replace(&self.cluster.api_all::<Subnet>(), &subnet).await {
            Ok(written) => {
                turn.subnet = Some(written);
                Ok(Answer::Done)
            }
            Err(error) if error.is_conflict() => Ok(Answer::Conflict),
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&mut self, claim: &Claim) -> Result<Answer, AssignError> {
        let object = object(claim, &self.request.subnet)?;
        let created = calls::create(&self.cluster.api_all::<IP>(), &object).await?;
        if created.is_some() {
            tracing::info!(ip = claim.object, address = %claim.ip, mac = claim.mac, "address given");
        }
        Ok(if created.is_some() { Answer::Done } else { Answer::Conflict })
    }
}

/// The record of the same address for another owner. The first one stays until its owner is gone: the address is held in
/// between.
///
/// # Errors
/// When the owner has no JSON form.
pub(crate) fn handed_over(ip: &IP, name: &str, owner: &Owner) -> Result<IP, serde_json::Error> {
    let annotations = BTreeMap::from([(ANNOTATION_OWNER.to_owned(), serde_json::to_string(owner)?)]);
    Ok(IP {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(ip.labels().clone()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: IPSpec { pod_name: owner.name.clone(), ..ip.spec.clone() },
    })
}

/// The addresses of a Subnet.
pub(crate) fn range_of(subnet: &Subnet) -> Result<Range, RangeError> {
    Range::parse(&subnet.spec.cidr_block, subnet.spec.gateway.as_deref(), &subnet.spec.exclude_ips)
}

/// An IP object as the model sees it.
pub(crate) fn holding(ip: &IP) -> Holding {
    let address = ip.spec.v4_ip_address.as_deref().filter(|text| !text.is_empty());
    let address = address.or_else(|| ip.spec.ip_address.split(',').next());
    Holding {
        object: ip.name_any(),
        subnet: ip.spec.subnet.clone(),
        ip: address.and_then(|text| text.trim().parse().ok()),
        mac: ip.spec.mac_address.parse().ok(),
        owner_uid: owner_of(ip).map(|owner| owner.uid),
    }
}

/// Whom an IP object belongs to; `None` for one that somebody made by hand, which control never takes away.
pub(crate) fn owner_of(ip: &IP) -> Option<Owner> {
    ip.annotations().get(ANNOTATION_OWNER).and_then(|text| serde_json::from_str(text).ok())
}

/// Whether an owner exists and is not being deleted, from the API server.
///
/// # Errors
/// When it could not be asked.
pub(crate) async fn alive(cluster: &Cluster, owner: &Owner) -> Result<bool, CallError> {
    fn lives(object: &impl ResourceExt, uid: &str) -> bool {
        object.uid().as_deref() == Some(uid) && object.meta().deletion_timestamp.is_none()
    }
    if owner.kind == VirtualMachine::kind(&()) {
        let vm = calls::get(&cluster.api::<VirtualMachine>(&owner.namespace), &owner.name).await?;
        if vm.is_some_and(|vm| lives(&vm, &owner.uid)) {
            return Ok(true);
        }
    }
    let vmi = calls::get(&cluster.api::<VirtualMachineInstance>(&owner.namespace), &owner.name).await?;
    // A guest that was left behind when its virtual machine was deleted keeps its addresses for as long as it is there.
    let left_behind = |vmi: &VirtualMachineInstance| {
        owner.kind == VirtualMachine::kind(&())
            && !vmi.owner_references().iter().any(|owner| owner.controller == Some(true))
    };
    Ok(vmi.is_some_and(|vmi| lives(&vmi, &owner.uid) || left_behind(&vmi)))
}

/// Gives the addresses of a guest to a virtual machine of its name that takes it over.
///
/// # Errors
/// When one could not be written.
pub(crate) async fn hand_over(cluster: &Cluster, owner: &Owner) -> Result<(), CallError> {
    let Ok(text) = serde_json::to_string(owner) else { return Ok(()) };
    for ip in cluster.ips.state() {
        let is_its = ip.spec.namespace == owner.namespace && ip.spec.pod_name == owner.name;
        let other = owner_of(&ip).is_some_and(|known| known.uid != owner.uid);
        if is_its && other {
            let mut new = ip.as_ref().clone();
            new.annotations_mut().insert(ANNOTATION_OWNER.to_owned(), text.clone());
            calls::update(&cluster.api_all::<IP>(), ip.as_ref(), &new).await?;
        }
    }
    Ok(())
}

/// The IP object of a claim.
fn object(claim: &Claim, subnet: &str) -> Result<IP, AssignError> {
    let owner = serde_json::to_string(&claim.owner)
        .map_err(|source| AssignError::Claim { object: claim.object.clone(), source })?;
    Ok(IP {
        metadata: ObjectMeta {
            name: Some(claim.object.clone()),
            labels: Some(BTreeMap::from([(names::LABEL_SUBNET.to_owned(), subnet.to_owned())])),
            annotations: Some(BTreeMap::from([(ANNOTATION_OWNER.to_owned(), owner)])),
            ..ObjectMeta::default()
        },
        spec: IPSpec {
            pod_name: claim.owner.name.clone(),
            namespace: claim.owner.namespace.clone(),
            subnet: subnet.to_owned(),
            ip_address: claim.ip.to_string(),
            v4_ip_address: Some(claim.ip.to_string()),
            mac_address: claim.mac.clone(),
            pod_type: Some(VirtualMachine::kind(&()).into_owned()),
            ..IPSpec::default()
        },
    })
}
