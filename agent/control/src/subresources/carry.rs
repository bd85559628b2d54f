//! Carries out what the pure parts decided: reads the objects as the API server has them now, writes what is to change on
//! condition that they are still the same, and asks agents. A change that comes in between is read again, so that a client
//! never sees a conflict that it did not cause.

use std::sync::Arc;

use bytes::Bytes;
use furrow_api::channel::{
    self, Forward, ForwardProtocol, Freeze, GuestAddress, GuestOperation, GuestStream, Screenshot,
};
use furrow_api::names::CONTROL_FIELD_MANAGER;
use furrow_api::subresources::{FreezeUnfreezeTimeout, PauseOptions, StartOptions, StopOptions, is_dry_run};
use furrow_api::{VirtualMachine, VirtualMachineInstance};
use furrow_model::reasons::chain;
use hyper::upgrade::Upgraded;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::agent::{AgentError, Agents, Place};
use super::failure::Failure;
use super::machine::Change;
use super::options::{decode, go_duration_ms, is_true};
use super::route::{Resource, Target, Work};
use super::{endpoints, guest, machine, volumes};
use crate::calls::{self, CallError, Object};
use crate::cluster::{Cluster, find_cluster};

/// Times that objects are read again because somebody wrote in between.
const ATTEMPTS: u32 = 5;

/// What a client gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// 202: it is under way.
    Accepted,
    /// 200, with nothing to say.
    Done,
    /// 200, with a JSON document.
    Document(Bytes),
    /// 200, with a PNG.
    Picture(Bytes),
}

/// What requests are carried out with.
pub(super) struct Carrier {
    pub(super) cluster: Cluster,
    pub(super) agents: Arc<Agents>,
}

/// Why a change was not written.
enum Written {
    /// Somebody else was faster.
    Outdated,
    Failed(Failure),
}

impl Carrier {
    /// Carries out an operation on an object.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) async fn carry(&self, target: &Target, query: Option<&str>, body: &[u8]) -> Result<Answer, Failure> {
        match target.subresource.work {
            Work::Start => {
                let options: StartOptions = decode(body)?;
                let plan = |vm: &_, vmi: Option<&_>| machine::start(vm, vmi, &options);
                self.change(target, is_dry_run(&options.dry_run), plan).await
            }
            Work::Stop => {
                let options: StopOptions = decode(body)?;
                let plan = |vm: &_, vmi: Option<&_>| machine::stop(vm, vmi, &options);
                self.change(target, is_dry_run(&options.dry_run), plan).await
            }
            Work::Restart => {
                let options = decode::<furrow_api::subresources::RestartOptions>(body)?;
                let plan = |vm: &_, vmi: Option<&_>| machine::restart(vm, vmi, &options);
                self.change(target, is_dry_run(&options.dry_run), plan).await
            }
            Work::Migrate => self.migrate(target, body).await,
            Work::Rename => self.rename(target, body).await,
            Work::EvacuateCancel => Box::pin(self.cancel_evacuation(target, body)).await,
            Work::ObjectGraph => self.graph(target, body).await,
            Work::AddVolume | Work::RemoveVolume => Box::pin(self.plug(target, body)).await,
            Work::ExpandSpec => Box::pin(self.expand(target)).await,
            Work::Guest(GuestOperation::Screenshot) => {
                let options = Screenshot { move_cursor: is_true(query, "moveCursor") };
                let options = serde_json::to_vec(&options).map_err(|error| Failure::internal(&error.to_string()))?;
                self.guest(target, GuestOperation::Screenshot, &options).await
            }
            Work::Guest(operation) => self.guest(target, operation, body).await,
            Work::Stream(_) | Work::Forward => {
                Err(Failure::bad_request("this is a stream: ask for it with an upgrade to websocket"))
            }
            Work::Later => {
                let subresource = target.subresource;
                Err(Failure::not_implemented(&format!("{}/{}", subresource.resource.plural(), subresource.name)))
            }
        }
    }

    /// Whether the API server can be reached, as KubeVirt says it.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) async fn health(&self) -> Result<Answer, Failure> {
        let version = calls::within(|| "read the version".to_owned(), self.cluster.client.apiserver_version()).await;
        let version = version.map_err(|error| Failure::internal(&chain(&error)))?;
        let health = json!({"apiserver": {"connectivity": "ok", "version": {
            "major": version.major, "minor": version.minor, "gitVersion": version.git_version}}});
        Ok(document(&health))
    }

    pub(super) async fn machine(&self, target: &Target) -> Result<Option<VirtualMachine>, Failure> {
        let api = self.cluster.api::<VirtualMachine>(&target.namespace);
        let prefix = || format!("unable to retrieve vm [{}]", target.name);
        calls::get(&api, &target.name).await.map_err(|error| Failure::of_call(&prefix(), &error))
    }

    pub(super) async fn instance(&self, target: &Target) -> Result<Option<VirtualMachineInstance>, Failure> {
        let api = self.cluster.api::<VirtualMachineInstance>(&target.namespace);
        let prefix = || format!("unable to retrieve vmi [{}]", target.name);
        calls::get(&api, &target.name).await.map_err(|error| Failure::of_call(&prefix(), &error))
    }

    /// Plugs a volume in or out: of a machine, whose guest follows, or of a guest alone.
    async fn plug(&self, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let adds = target.subresource.work == Work::AddVolume;
        let asked = if adds { volumes::read_add(body) } else { volumes::read_remove(body) };
        let of_guest = target.subresource.resource == Resource::VirtualMachineInstances;
        // virtctl goes on to the guest when there is no machine, whatever else is wrong.
        if asked.is_err() {
            let there =
                if of_guest { self.instance(target).await?.is_some() } else { self.machine(target).await?.is_some() };
            there.then_some(()).ok_or_else(|| missing(target))?;
        }
        let asked = asked?;
        if !of_guest {
            let plan = |vm: &_, vmi: Option<&_>| volumes::change(vm, vmi, &asked);
            return self.change(target, asked.is_dry_run(), plan).await;
        }
        let plan = |vmi: &_| volumes::change_guest(vmi, &asked).map(Some);
        self.change_guest(target, asked.is_dry_run(), plan).await?;
        Ok(Answer::Accepted)
    }

    /// Writes to a guest what a plan says; nothing where it says nothing.
    pub(super) async fn change_guest(
        &self,
        target: &Target,
        dry_run: bool,
        plan: impl Fn(&VirtualMachineInstance) -> Result<Option<Value>, Failure>,
    ) -> Result<(), Failure> {
        let api = self.cluster.api::<VirtualMachineInstance>(&target.namespace);
        for _ in 0..ATTEMPTS {
            let vmi = self.guest_of(target).await?;
            let Some(patch) = plan(&vmi)? else { return Ok(()) };
            match merge(&api, "VMI", &vmi, &patch, dry_run).await {
                Ok(()) => return Ok(()),
                Err(Written::Outdated) => {}
                Err(Written::Failed(failure)) => return Err(failure),
            }
        }
        Err(outdated(Resource::VirtualMachineInstances, target))
    }

    pub(super) async fn change(
        &self,
        target: &Target,
        dry_run: bool,
        plan: impl Fn(&VirtualMachine, Option<&VirtualMachineInstance>) -> Result<Change, Failure>,
    ) -> Result<Answer, Failure> {
        for _ in 0..ATTEMPTS {
            let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
            let vmi = self.instance(target).await?;
            let change = plan(&vm, vmi.as_ref())?;
            match self.write(&vm, vmi.as_ref(), &change, dry_run).await {
                Ok(()) => {
                    tracing::info!(
                        vm = %crate::cluster::key_of(&vm), operation = target.subresource.name, dry_run, "accepted"
                    );
                    return Ok(Answer::Accepted);
                }
                Err(Written::Outdated) => {}
                Err(Written::Failed(failure)) => return Err(failure),
            }
        }
        Err(outdated(Resource::VirtualMachines, target))
    }

    async fn write(
        &self,
        vm: &VirtualMachine,
        vmi: Option<&VirtualMachineInstance>,
        change: &Change,
        dry_run: bool,
    ) -> Result<(), Written> {
        let namespace = vm.namespace().unwrap_or_default();
        let grace = change.grace_s.map(|seconds| json!({"spec": {"terminationGracePeriodSeconds": seconds}}));
        if let (Some(patch), Some(vmi)) = (grace, vmi) {
            let api = self.cluster.api::<VirtualMachineInstance>(&namespace);
            merge(&api, "VMI", vmi, &patch, dry_run).await?;
        }
        let (api, name) = (self.cluster.api::<VirtualMachine>(&namespace), vm.name_any());
        if let Some(patch) = &change.machine {
            merge(&api, "VM", vm, patch, dry_run).await?;
        }
        if let Some(patch) = &change.status {
            let (params, patch) = conditional(vm, patch, dry_run);
            let patch = Patch::Merge(&patch);
            let call = api.patch_status(&name, &params, &patch);
            called(calls::within(|| format!("patch VM status {name}"), call).await)?;
        }
        Ok(())
    }

    async fn guest(&self, target: &Target, operation: GuestOperation, body: &[u8]) -> Result<Answer, Failure> {
        let mut dry_run = false;
        let mut request = Bytes::new();
        match operation {
            GuestOperation::Pause | GuestOperation::Unpause => {
                dry_run = is_dry_run(&decode::<PauseOptions>(body)?.dry_run);
            }
            GuestOperation::Freeze => request = freeze(body)?,
            GuestOperation::Screenshot => request = Bytes::copy_from_slice(body),
            _ => {}
        }
        let vm = match operation {
            GuestOperation::Unpause => self.machine(target).await?,
            _ => None,
        };
        let vmi = self.instance(target).await?.ok_or_else(|| missing(target))?;
        guest::check(operation, &vmi, vm.as_ref())?;
        if dry_run {
            return Ok(Answer::Done);
        }
        let place = self.place(&vmi).await?;
        let address = address(target, &vmi);
        let answer = self.agents.ask(&place, &address, operation, request).await;
        let answer = answer.map_err(|error| refused(target, &error))?;
        tracing::info!(guest = %crate::cluster::key_of(&vmi), node = place.node, operation = operation.name(), "carried out");
        Ok(match operation {
            GuestOperation::Screenshot => Answer::Picture(answer),
            _ if operation.only_asks() => Answer::Document(answer),
            _ => Answer::Done,
        })
    }

    /// Opens a stream to a guest. `preserve`: not if that ends the one there is.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) async fn open(&self, target: &Target, stream: GuestStream, preserve: bool) -> Result<Upgraded, Failure> {
        let vmi = self.instance(target).await?.ok_or_else(|| missing(target))?;
        guest::check_stream(stream, &vmi)?;
        let place = self.place(&vmi).await?;
        let query = if preserve { format!("?{}", channel::PRESERVE) } else { String::new() };
        let path = format!("{}{query}", channel::stream_path(&address(target, &vmi), stream));
        self.agents.open(&place, &path).await.map_err(|error| refused(target, &error))
    }

    /// Opens a stream to a port of a guest.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) async fn forward(
        &self,
        target: &Target,
        (port, protocol): (u16, ForwardProtocol),
    ) -> Result<Upgraded, Failure> {
        let vmi = self.guest_of(target).await?;
        let (nic, to) = guest::check_forward(&vmi)?;
        let place = self.place(&vmi).await?;
        let path = channel::forward_path(&address(target, &vmi), &Forward { protocol, port, nic, address: to });
        self.agents.open(&place, &path).await.map_err(|error| refused(target, &error))
    }

    /// The guest that is meant, or that of the machine that is meant.
    pub(super) async fn guest_of(&self, target: &Target) -> Result<VirtualMachineInstance, Failure> {
        if target.subresource.resource == Resource::VirtualMachineInstances {
            return self.instance(target).await?.ok_or_else(|| missing(target));
        }
        let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
        let not_started = || Failure::conflict(Resource::VirtualMachines, &vm.name_any(), "VMI is not started");
        self.instance(target).await?.ok_or_else(not_started)
    }

    /// The node of a guest; from the cache, or from the API server while that has nothing.
    async fn place(&self, vmi: &VirtualMachineInstance) -> Result<Place, Failure> {
        let name = vmi.status.as_ref().and_then(|status| status.node_name.clone()).unwrap_or_default();
        let node = match find_cluster(&self.cluster.nodes, &name) {
            Some(node) => Some(node.as_ref().clone()),
            None => {
                let node = calls::get(&self.cluster.api_all::<Node>(), &name).await;
                node.map_err(|error| Failure::of_call(&format!("unable to retrieve node [{name}]"), &error))?
            }
        };
        let address = node.as_ref().and_then(endpoints::address);
        let address = address.ok_or_else(|| Failure::internal(&format!("node {name} has no address")))?;
        Ok(Place { node: name, address })
    }
}

fn address(target: &Target, vmi: &VirtualMachineInstance) -> GuestAddress {
    let uid = vmi.uid().unwrap_or_default();
    GuestAddress { namespace: target.namespace.clone(), name: target.name.clone(), uid }
}

pub(super) fn missing(target: &Target) -> Failure {
    Failure::not_found(target.subresource.resource, &target.name)
}

pub(super) fn document(value: &Value) -> Answer {
    Answer::Document(Bytes::from(value.to_string()))
}

/// The agent's options from the client's.
fn freeze(body: &[u8]) -> Result<Bytes, Failure> {
    let options: FreezeUnfreezeTimeout = decode(body)?;
    let unreadable = |text: &String| Failure::bad_request(format!("unfreezeTimeout is not a duration: {text:?}"));
    let read = |text: String| go_duration_ms(&text).ok_or_else(|| unreadable(&text));
    let options = Freeze { thaw_after_ms: options.unfreeze_timeout.map(read).transpose()? };
    serde_json::to_vec(&options).map(Bytes::from).map_err(|error| Failure::internal(&error.to_string()))
}

fn refused(target: &Target, error: &AgentError) -> Failure {
    match error {
        AgentError::Refused { code: 404 | 409, message } => {
            Failure::conflict(target.subresource.resource, &target.name, message)
        }
        AgentError::Refused { code: 400, message } => Failure::bad_request(message.clone()),
        AgentError::Refused { code: 502, message } => Failure::internal(&format!("dialing VM: {message}")),
        AgentError::Refused { code: 503, message } => Failure::unavailable(message),
        _ => Failure::internal(&chain(error)),
    }
}

/// Every time somebody was faster.
fn outdated(resource: Resource, target: &Target) -> Failure {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Failure::conflict(resource, &target.name, why)
}

/// Merges a patch into an object that is still as it was read. `word`: what the object is in an error.
async fn merge<K: Object>(api: &Api<K>, word: &str, object: &K, patch: &Value, dry_run: bool) -> Result<(), Written> {
    let (params, patch) = conditional(object, patch, dry_run);
    let (name, patch) = (object.name_any(), Patch::Merge(&patch));
    called(calls::within(|| format!("patch {word} {name}"), api.patch(&name, &params, &patch)).await)
}

fn called<K>(call: Result<K, CallError>) -> Result<(), Written> {
    match call {
        Ok(_) => Ok(()),
        // Gone in between is a change too: the next look tells.
        Err(error) if error.is_conflict() || error.is_gone() => Err(Written::Outdated),
        Err(error) => Err(Written::Failed(Failure::of_call("unable to complete request", &error))),
    }
}

/// Parameters and body of a patch that holds only while the object is as it was read.
fn conditional<K: Object>(object: &K, patch: &Value, dry_run: bool) -> (PatchParams, Value) {
    let mut patch = patch.clone();
    patch["metadata"]["resourceVersion"] = json!(object.resource_version());
    patch["metadata"]["uid"] = json!(object.uid());
    let field_manager = Some(CONTROL_FIELD_MANAGER.to_owned());
    (PatchParams { dry_run, field_manager, ..PatchParams::default() }, patch)
}
