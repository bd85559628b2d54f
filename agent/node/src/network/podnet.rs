//! The pod network of this node: the CNI configuration from its own pod range, host routes to the other nodes' ranges,
//! and masquerading of what leaves the cluster. Without the CNI configuration the kubelet never reports Ready, so it
//! comes first. Owns `10-furrow.conflist`, the nftables table `furrow-podnet` and the routes of Furrow's protocol
//! number; refuses to touch other routes, tables or CNI files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::cmd::{Cmd, CmdError};
use furrow_host::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL, Route};
use furrow_model::podnet::{self, NodeRange, PodNetwork, PodRoute};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::retry::Retry;
use super::watched::Watched;

/// File name that sorts before what a distribution or an administrator may leave in the directory.
const CONFLIST: &str = "10-furrow.conflist";

/// How often everything is compared again without a reason: routes and nftables can be flushed by hand.
const RESYNC: Duration = Duration::from_secs(300);

const NFT: &str = "/usr/sbin/nft";

/// What could not be brought about for the pod network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodNetError {
    /// The CNI configuration.
    #[error("could not write {}", path.display())]
    Conflist {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The masquerading rules.
    #[error("could not load the nftables table of the pod network")]
    Ruleset(#[source] CmdError),
    /// A route, or the list of them.
    #[error("could not set up the routes to other nodes' pods")]
    Routes(#[source] NetlinkError),
}

/// The executor: what was last applied on this node.
#[derive(Debug)]
pub(super) struct PodNet {
    netlink: Netlink,
    cni_dir: PathBuf,
    loaded_ruleset: Option<String>,
}

/// Keeps the pod network until `stop`: observe, validate and plan in `furrow_model::podnet`, execute and report here.
pub(super) async fn run(client: Client, node: String, netlink: Netlink, stop: CancellationToken) {
    let mut podnet = PodNet::new(netlink, PathBuf::from("/etc/cni/net.d"));
    let mut nodes = Watched::new();
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut retry = Retry::new(RESYNC);
    check_forwarding().await;
    loop {
        // Both arms are safe to drop: the watcher keeps its place in the stream, and a deadline has no state.
        let due = tokio::select! {
            () = stop.cancelled() => return,
            () = retry.due() => { podnet.loaded_ruleset = None; true }
            event = events.next() => match event {
                Some(Ok(event)) => nodes.apply(event, range_of),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "watch of nodes broke and is retried");
                    false
                }
                None => return,
            },
        };
        let Some(known) = nodes.objects().filter(|_| due) else { continue };
        let ranges: Vec<NodeRange> = known.values().cloned().collect();
        let Some(wanted) = podnet::decide(&node, &ranges) else { continue };
        match podnet.apply(&wanted).await {
            Ok(()) => retry.succeeded(),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "pod network is not as it should be");
                retry.failed();
            }
        }
    }
}

impl PodNet {
    pub(super) fn new(netlink: Netlink, cni_dir: PathBuf) -> Self {
        Self { netlink, cni_dir, loaded_ruleset: None }
    }

    /// Each part is tried even if another failed: a missing route must not keep the node from getting Ready.
    pub(super) async fn apply(&mut self, wanted: &PodNetwork) -> Result<(), PodNetError> {
        let conflist = write_conflist(&self.cni_dir, &wanted.conflist).await;
        let ruleset = self.load_ruleset(&wanted.ruleset).await;
        let routes = self.apply_routes(&wanted.routes).await;
        conflist.and(ruleset).and(routes)
    }

    async fn load_ruleset(&mut self, ruleset: &str) -> Result<(), PodNetError> {
        if self.loaded_ruleset.as_deref() == Some(ruleset) {
            return Ok(());
        }
        Cmd::new(NFT).args(["-f", "-"]).stdin(ruleset).run().await.map_err(PodNetError::Ruleset)?;
        self.loaded_ruleset = Some(ruleset.to_owned());
        Ok(())
    }

    /// Removes before it adds; an addition that fails does not keep the next from being tried.
    async fn apply_routes(&self, wanted: &BTreeSet<PodRoute>) -> Result<(), PodNetError> {
        let all = self.netlink.routes().await.map_err(PodNetError::Routes)?;
        let present: BTreeMap<PodRoute, Route> = all.into_iter().filter_map(own_route).collect();
        let plan = podnet::plan_routes(&present.keys().copied().collect(), wanted);
        for route in plan.remove.iter().filter_map(|route| present.get(route)) {
            self.netlink.delete_route(route).await.map_err(PodNetError::Routes)?;
            tracing::info!(destination = %route.destination, "route to another node's pods removed");
        }
        let mut result = Ok(());
        for PodRoute { to, through } in plan.add {
            match self.netlink.replace_route((to.address(), to.prefix_len()), through).await {
                Ok(()) => tracing::info!(destination = %to, gateway = %through, "route to another node's pods added"),
                Err(error) => result = Err(PodNetError::Routes(error)),
            }
        }
        result
    }
}

fn own_route(route: Route) -> Option<(PodRoute, Route)> {
    let through = route.gateway.filter(|_| route.protocol == ROUTE_PROTOCOL)?;
    let to = format!("{}/{}", route.destination, route.prefix_len).parse().ok()?;
    Some((PodRoute { to, through }, route))
}

fn range_of(node: &Node) -> NodeRange {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    NodeRange {
        name: node.name_any(),
        pods: node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).and_then(|cidr| cidr.parse().ok()),
        address: internal.filter_map(|address| address.address.parse::<Ipv4Addr>().ok()).next(),
    }
}

/// Whole or not at all: the kubelet and containerd read the file at any moment.
async fn write_conflist(dir: &Path, content: &str) -> Result<(), PodNetError> {
    let path = dir.join(CONFLIST);
    if tokio::fs::read_to_string(&path).await.is_ok_and(|present| present == content) {
        return Ok(());
    }
    let replace = async {
        tokio::fs::create_dir_all(dir).await?;
        // The leading dot keeps libcni from reading it.
        let draft = dir.join(format!(".{CONFLIST}"));
        let mut file = tokio::fs::File::create(&draft).await?;
        tokio::io::AsyncWriteExt::write_all(&mut file, content.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&draft, &path).await
    };
    replace.await.map_err(|source| PodNetError::Conflist { path: path.clone(), source })?;
    tracing::info!(path = %path.display(), "CNI configuration written");
    Ok(())
}

/// The image sets it; a node where somebody turned it off has pods that reach nothing, and should say why.
async fn check_forwarding() {
    let setting = tokio::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").await;
    if !setting.is_ok_and(|value| value.trim() == "1") {
        tracing::error!("net.ipv4.ip_forward is not 1: pods reach nothing outside this node");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_conflist_is_replaced_whole_and_only_when_it_differs() {
        let dir = std::env::temp_dir().join(format!("furrow-podnet-{}", std::process::id()));
        write_conflist(&dir, "one").await.expect("the directory is made");
        let path = dir.join(CONFLIST);
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("it is there"));
        let first = inode(&path);
        write_conflist(&dir, "one").await.expect("nothing to do");
        assert_eq!(inode(&path), first);
        write_conflist(&dir, "two").await.expect("it is replaced");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "two");
        std::fs::remove_dir_all(&dir).expect("it can be removed");
    }

    #[test]
    fn a_node_is_reduced_to_range_and_internal_address() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.42.1.0/24"},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
            ]},
        }))
        .expect("a valid node");
        let range = range_of(&node);
        assert_eq!(range.pods.map(|pods| pods.to_string()), Some("10.42.1.0/24".into()));
        assert_eq!(range.address, Some(Ipv4Addr::new(10, 0, 0, 1)));
    }
}
