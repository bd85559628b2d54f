//! Executes the steps of a removal or of a promotion. One `match`, no decisions; each step finds what an earlier run left.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Event, Node as KubeNode};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};

use super::facts::Facts;
use super::plan::Step;
use super::{drain, etcd, guests, observe};
use crate::membership::{self, Mark};
use crate::promotion;
use crate::steps::{self, Node, StepError};

/// A worker looks every two minutes; from there it does what a server that joins does.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(1500);
/// The other servers take its member out of etcd within seconds.
const DELETE_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What the steps work with.
pub(super) struct Run<'a> {
    /// The server that this runs on.
    pub(super) node: &'a Node,
    /// The administrator's.
    pub(super) client: &'a Client,
    /// As they were at the start.
    pub(super) facts: &'a Facts,
    /// How long OSDs may take to be emptied.
    pub(super) drain_limit: Duration,
}

impl Run<'_> {
    /// Executes one step.
    pub(super) async fn execute(&self, step: &Step) -> Result<(), StepError> {
        let (node, client, name) = (self.node, self.client, self.facts.name.as_str());
        match step {
            Step::Cordon => self.cordon().await,
            Step::LowerCopies { pool, size } => drain::lower(node, pool, *size).await,
            Step::Promote(worker) => promote(node, client, worker).await,
            Step::StopGuests(all) => guests::stop(node, client, name, all).await,
            Step::ReleaseGuests(all) => {
                let address = self.facts.node.as_ref().and_then(|node| node.address.as_deref());
                let unknown = || StepError::Answer("the Node", format!("no address of {name} in it"));
                guests::release(node, client, (name, address.ok_or_else(unknown)?), all).await
            }
            Step::EvictPods => guests::evict(node, client, name).await,
            Step::Drain { osds, whole } => drain::drain(node, osds, *whole, self.drain_limit).await,
            Step::Mark => self.mark().await,
            Step::AwaitStop(osds) => drain::await_stop(node, osds).await,
            Step::PurgeOsds(osds) => drain::purge(node, osds, name).await,
            Step::RemoveMonitor => drain::remove_daemons(node, name).await,
            Step::DeleteNode => self.delete_node().await,
        }
    }

    async fn cordon(&self) -> Result<(), StepError> {
        let nodes: Api<KubeNode> = Api::all(self.client.clone());
        let name = &self.facts.name;
        nodes.cordon(name).await.map_err(steps::refused(format!("cordon {name}")))?;
        Ok(())
    }

    async fn mark(&self) -> Result<(), StepError> {
        let name = &self.facts.name;
        // From here on its agent could not report their end.
        if self.facts.is_alive() {
            let left = guests::on_node(self.client, name).await?;
            if !left.is_empty() {
                let names: Vec<String> = left.iter().map(super::facts::Guest::label).collect();
                let reason = format!("these guests came to it meanwhile, run it again: {}", names.join(", "));
                return Err(StepError::Answer("the node", reason));
            }
        }
        membership::mark(self.client, name, Mark { was_server: self.facts.is_server() }).await
    }

    async fn delete_node(&self) -> Result<(), StepError> {
        let name = &self.facts.name;
        let nodes: Api<KubeNode> = Api::all(self.client.clone());
        let deleted = steps::gone(nodes.delete(name, &DeleteParams::default()).await);
        deleted.map_err(steps::refused(format!("delete the Node {name}")))?;
        self.node
            .wait(&format!("the Node {name} and its member of etcd to go"), DELETE_TIMEOUT, async || {
                tokio::time::sleep(PAUSE).await;
                if nodes.get_metadata_opt(name).await.map_err(|e| e.to_string())?.is_some() {
                    return Err(self.reason().await.unwrap_or_else(|| "the servers are at it".to_owned()));
                }
                let members = etcd::members(self.node.config.management.address).await.map_err(|e| e.to_string())?;
                let is_member = members.iter().any(|member| member.name == *name);
                if is_member { Err("it is still a member".to_owned()) } else { Ok(()) }
            })
            .await?;
        self.forget_requests().await?;
        promotion::withdraw(self.client, name).await
    }

    /// Why the Node stays, as the servers tell in events.
    async fn reason(&self) -> Option<String> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let selector =
            format!("involvedObject.kind=Node,involvedObject.name={},reason=EtcdMemberStays", self.facts.name);
        let list = events.list(&ListParams::default().fields(&selector)).await.ok()?;
        list.items.into_iter().next_back()?.message
    }

    /// Removes its requests for certificates.
    async fn forget_requests(&self) -> Result<(), StepError> {
        let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let users = [format!("system:node:{}", self.facts.name), format!("furrow:agent:{}", self.facts.name)];
        let all =
            requests.list(&ListParams::default()).await.map_err(steps::refused("list the certificate requests"))?;
        let own = |request: &&CertificateSigningRequest| {
            request.spec.username.as_ref().is_some_and(|user| users.contains(user))
        };
        for request in all.items.iter().filter(own) {
            let name = request.name_any();
            let deleted = steps::gone(requests.delete(&name, &DeleteParams::default()).await);
            deleted.map_err(steps::refused(format!("delete certificate request {name}")))?;
        }
        Ok(())
    }
}

/// Makes a worker a server, and waits until etcd and the monitors count it.
pub(super) async fn promote(node: &Node, client: &Client, name: &str) -> Result<(), StepError> {
    let management = &node.config.management;
    if missing(node, client, name).await.is_ok() {
        node.say(&format!("{name} is a server already"));
        return promotion::withdraw(client, name).await;
    }
    let server = steps::server_url(management.vip.unwrap_or(management.address));
    promotion::offer(client, &server, name).await?;
    node.wait(&format!("{name} to become a server"), PROMOTE_TIMEOUT, async || {
        tokio::time::sleep(PAUSE).await;
        missing(node, client, name).await
    })
    .await?;
    promotion::withdraw(client, name).await
}

/// What a node lacks of a server.
async fn missing(node: &Node, client: &Client, name: &str) -> Result<(), String> {
    let text = |error: StepError| error.to_string();
    let nodes = observe::nodes(client).await.map_err(text)?;
    let found = nodes.iter().find(|node| node.name == name).ok_or_else(|| format!("there is no node {name}"))?;
    if !found.is_server {
        return Err("it has not begun".to_owned());
    }
    let counts = |voters: &[super::facts::Voter]| voters.iter().any(|voter| voter.name == name && voter.answers);
    if !counts(&etcd::members(node.config.management.address).await.map_err(text)?) {
        return Err("it does not vote in etcd yet".to_owned());
    }
    if !counts(&observe::monitors(node.ceph().map_err(text)?).await.map_err(text)?) {
        return Err("its monitor is not in quorum yet".to_owned());
    }
    if found.is_ready { Ok(()) } else { Err("it is not Ready".to_owned()) }
}
