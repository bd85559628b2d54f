//! Provider networks on this node: a bridge each, over the NIC that the ProviderNetwork names. Observes kernel and
//! OVSDB, plans in `furrow_model::provider`, executes, and reports in the object's status and the node's labels
//! (`provider_status`). Refuses finalizers: a node that is gone cannot hold up a deletion; what a deleted network left
//! is taken down when this node sees that nobody wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use furrow_api::providernetwork::ProviderNetwork;
use furrow_host::netlink::{self, Link, Netlink, NetlinkError};
use furrow_host::ovsdb::vswitch::{self, Bridge};
use furrow_host::ovsdb::{Ovsdb, OvsdbError};
use furrow_model::provider::{self, Nic, OwnBridge, Step, Verdict, Wanted};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::core::{Selector, SelectorExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::provider_status::{self, StatusError};
use super::retry::Retry;
use super::rows::{self, Owner};
use super::watched::Watched;

/// How often everything is compared again without a reason.
const RESYNC: Duration = Duration::from_secs(300);

/// How long changes are gathered before a pass: the start of twenty guests changes OVSDB twenty times.
const GATHER: Duration = Duration::from_millis(200);

/// A ProviderNetwork, reduced to what a pass needs.
#[derive(Debug, Clone, PartialEq)]
struct Network {
    default_interface: String,
    custom: Vec<(String, Vec<String>)>,
    excluded: Vec<String>,
    selector: Option<Selector>,
    unsupported: Option<&'static str>,
}

/// What a pass could not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderError {
    #[error("could not read the links of this node")]
    Links(#[source] NetlinkError),
    #[error("could not read node {node}")]
    ReadNode {
        node: String,
        #[source]
        source: kube::Error,
    },
    #[error("could not change the bridge of provider network {network}")]
    Bridge {
        network: String,
        #[source]
        source: OvsdbError,
    },
    #[error("could not bring up the interface of provider network {network}")]
    Interface {
        network: String,
        #[source]
        source: NetlinkError,
    },
    #[error("could not report provider network {network}")]
    Status {
        network: String,
        #[source]
        source: StatusError,
    },
}

struct Provider {
    client: Client,
    node: String,
    ovsdb: Ovsdb,
    netlink: Netlink,
    /// What was last told of each network: the start of a guest changes OVSDB, but nothing that anybody must hear.
    published: BTreeMap<String, Verdict>,
}

/// Keeps the bridges of provider networks, until `stop`.
pub(super) async fn run(client: Client, node: String, ovsdb: Ovsdb, netlink: Netlink, stop: CancellationToken) {
    let networks = Api::<ProviderNetwork>::all(client.clone());
    let own_node = Api::<Node>::all(client.clone());
    let mut events = std::pin::pin!(watcher(networks, watcher::Config::default()).default_backoff());
    let only_me = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut node_events = std::pin::pin!(watcher(own_node, only_me).default_backoff());
    let mut links = link_changes();
    let mut state = ovsdb.state();
    let mut known = Watched::new();
    let mut labels = Watched::new();
    let mut retry = Retry::new(RESYNC);
    let mut gathered: Option<Instant> = None;
    let mut provider = Provider { client, node, ovsdb, netlink, published: BTreeMap::new() };
    loop {
        let due = gathered.unwrap_or_else(|| Instant::now() + RESYNC);
        // Every arm is safe to drop: streams keep their place, deadlines have no state.
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => note(&mut known, event, reduce),
            event = node_events.next() => {
                let changed = note(&mut labels, event, |node: &Node| node.labels().clone());
                // Somebody may have taken our labels away.
                if changed { provider.published.clear() }
                changed
            }
            Some(()) = links.next() => true,
            changed = state.changed() => if changed.is_ok() { true } else { return },
            () = retry.due() => {
                provider.published.clear();
                true
            }
            () = tokio::time::sleep_until(due) => {
                gathered = None;
                let Some(known) = known.objects() else { continue };
                // Before OVSDB is there, nothing can be judged; its coming is a change.
                if provider.ovsdb.tables().is_err() { continue }
                if provider.pass(known).await { retry.succeeded() } else { retry.failed() }
                continue;
            }
        };
        if changed {
            gathered.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }
}

/// Takes a watch event in; a broken watch is logged and comes back by itself.
fn note<K: ResourceExt, T: PartialEq>(
    watched: &mut Watched<T>,
    event: Option<Result<watcher::Event<K>, watcher::Error>>,
    reduce: impl Fn(&K) -> T,
) -> bool {
    match event {
        Some(Ok(event)) => watched.apply(event, reduce),
        Some(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "watch for provider networks broke and is retried"
            );
            false
        }
        None => false,
    }
}

/// Changes of links; without them the periodic comparison has to do.
fn link_changes() -> std::pin::Pin<Box<dyn Stream<Item = ()> + Send>> {
    match netlink::changes() {
        Ok(changes) => Box::pin(changes),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "links are not watched");
            Box::pin(futures::stream::pending())
        }
    }
}

impl Provider {
    /// One pass over all networks; tells whether everything was done. One network's failure does not stop the others.
    async fn pass(&mut self, networks: &BTreeMap<String, Network>) -> bool {
        let node = match self.read_node().await {
            Ok(node) => node,
            Err(error) => return report(&error),
        };
        let addresses = addresses_of(&node);
        let labels = node.labels();
        let wanted: Vec<Wanted> =
            networks.iter().map(|(name, network)| wanted(name, network, &self.node, labels)).collect();
        self.published.retain(|name, _| networks.contains_key(name));
        let mut complete = match self.facts(&addresses).await {
            Ok(facts) => self.remove_leftovers(&wanted, &facts).await,
            Err(error) => return report(&error),
        };
        let forgotten =
            provider_status::forget(&self.client, &self.node, labels, |network| networks.contains_key(network)).await;
        if let Err(source) = forgotten {
            complete &= report(&ProviderError::Status { network: "that is gone".into(), source });
        }
        for network in &wanted {
            complete &= match self.one(network, &addresses).await {
                Ok(verdict) => verdict != Verdict::Pending,
                Err(error) => report(&error),
            };
        }
        complete
    }

    async fn remove_leftovers(&self, wanted: &[Wanted], facts: &provider::Node) -> bool {
        let mut complete = true;
        for step in provider::plan_leftovers(wanted, facts) {
            complete &= self.execute("no longer wanted", &step).await.map_or_else(|error| report(&error), |()| true);
        }
        complete
    }

    /// One network; tells how it stands afterwards.
    async fn one(&mut self, wanted: &Wanted, addresses: &BTreeSet<IpAddr>) -> Result<Verdict, ProviderError> {
        let mut plan = provider::plan(wanted, &self.facts(addresses).await?);
        if !plan.steps.is_empty() {
            for step in &plan.steps {
                self.execute(&wanted.name, step).await?;
            }
            plan = provider::plan(wanted, &self.facts(addresses).await?);
        }
        if self.published.get(&wanted.name) != Some(&plan.verdict) {
            let status = provider_status::publish(&self.client, &self.node, &wanted.name, &plan.verdict).await;
            status.map_err(|source| ProviderError::Status { network: wanted.name.clone(), source })?;
            self.published.insert(wanted.name.clone(), plan.verdict.clone());
        }
        Ok(plan.verdict)
    }

    async fn execute(&self, network: &str, step: &Step) -> Result<(), ProviderError> {
        let failed = |source| ProviderError::Bridge { network: network.to_owned(), source };
        let bridges = vswitch::bridges(&self.ovsdb.tables().map_err(failed)?);
        let operations = match step {
            Step::AddBridge { bridge, datapath } => vswitch::add_bridge(bridge, datapath, rows::BRIDGE),
            Step::RemoveBridge { bridge } => bridges.get(bridge).map(vswitch::remove_bridge).unwrap_or_default(),
            Step::AddNic { bridge, nic } => bridges.get(bridge).map(|on| rows::nic_port(nic, on)).unwrap_or_default(),
            Step::RemoveNic { bridge, nic } => {
                let port =
                    bridges.get(bridge).and_then(|on| Some(vswitch::remove_port(on.uuid, on.ports.get(nic)?.uuid)));
                port.unwrap_or_default()
            }
            Step::RaiseNic { nic } => return self.raise(network, nic).await,
        };
        if !operations.is_empty() {
            self.ovsdb.apply(operations).await.map_err(failed)?;
            tracing::info!(network, step = ?step, "provider network changed");
        }
        Ok(())
    }

    async fn raise(&self, network: &str, nic: &str) -> Result<(), ProviderError> {
        let failed = |source| ProviderError::Interface { network: network.to_owned(), source };
        match self.netlink.link(nic).await.map_err(failed)? {
            Some(link) => self.netlink.set_up(link.index, None).await.map_err(failed),
            None => Ok(()),
        }
    }

    async fn read_node(&self) -> Result<Node, ProviderError> {
        let read = Api::<Node>::all(self.client.clone());
        read.get(&self.node).await.map_err(|source| ProviderError::ReadNode { node: self.node.clone(), source })
    }

    async fn facts(&self, addresses: &BTreeSet<IpAddr>) -> Result<provider::Node, ProviderError> {
        let nics = observe_nics(&self.netlink, addresses).await.map_err(ProviderError::Links)?;
        let tables = self.ovsdb.tables().map_err(|source| ProviderError::Bridge { network: "all".into(), source })?;
        let (own, foreign): (BTreeMap<_, _>, BTreeMap<_, _>) = vswitch::bridges(&tables)
            .into_iter()
            .partition(|(_, bridge)| bridge.owner.as_deref() == Some(rows::BRIDGE));
        Ok(provider::Node {
            nics,
            bridges: own.into_iter().map(|(name, bridge)| (name, own_bridge(&bridge))).collect(),
            foreign_ports: foreign.values().flat_map(|bridge| bridge.ports.keys().cloned()).collect(),
            foreign_bridges: foreign.into_keys().collect(),
            datapath: vswitch::setting(&tables, "furrow-datapath-type").unwrap_or_default().to_owned(),
        })
    }
}

fn addresses_of(node: &Node) -> BTreeSet<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    addresses.iter().filter_map(|address| address.address.parse().ok()).collect()
}

fn report(error: &ProviderError) -> bool {
    tracing::error!(error = error as &dyn std::error::Error, "provider network is not as it should be");
    false
}

fn own_bridge(bridge: &Bridge) -> OwnBridge {
    let mut own = OwnBridge::default();
    for (name, port) in &bridge.ports {
        match rows::owner_of(port) {
            Some(Owner::Nic) => {
                let state = match (&port.error, port.ofport) {
                    (Some(error), _) => Err(error.clone()),
                    (None, number) => Ok(number.is_some_and(|number| number > 0)),
                };
                own.nics.insert(name.clone(), state);
            }
            // A guest's port that cannot be read any more is a guest all the same.
            _ => own.guests += usize::from(rows::vmi_of(port).is_some()),
        }
    }
    own
}

/// Every link with what the plan asks about it. `own` are the addresses of the node object.
async fn observe_nics(netlink: &Netlink, own: &BTreeSet<IpAddr>) -> Result<BTreeMap<String, Nic>, NetlinkError> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routes = netlink.routes().await?;
    let default_links: BTreeSet<u32> =
        routes.iter().filter(|route| route.prefix_len == 0).filter_map(|route| route.link).collect();
    let names: BTreeMap<u32, String> = links.iter().map(|link| (link.index, link.name.clone())).collect();
    let nic = |link: Link| {
        let addresses = addresses.get(&link.index).map(Vec::as_slice).unwrap_or_default();
        let management = default_links.contains(&link.index) || addresses.iter().any(|address| own.contains(address));
        let nic = Nic {
            controller: link.controller.map(|index| names.get(&index).cloned().unwrap_or_else(|| index.to_string())),
            mtu: link.mtu,
            up: link.up,
            has_address: addresses.iter().any(|address| !is_link_local(address)),
            management,
        };
        (link.name, nic)
    };
    Ok(links.into_iter().map(nic).collect())
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn reduce(network: &ProviderNetwork) -> Network {
    let spec = &network.spec;
    let selector = spec.node_selector.clone().map(Selector::try_from);
    let unsupported = if spec.exchange_link_name {
        Some("exchangeLinkName")
    } else if spec.auto_create_vlan_subinterfaces || !spec.vlan_interfaces.is_empty() {
        Some("vlanInterfaces")
    } else if matches!(selector, Some(Err(_))) {
        Some("this nodeSelector")
    } else {
        None
    };
    Network {
        default_interface: spec.default_interface.clone(),
        custom: spec.custom_interfaces.iter().map(|custom| (custom.interface.clone(), custom.nodes.clone())).collect(),
        excluded: spec.exclude_nodes.clone(),
        selector: selector.and_then(Result::ok),
        unsupported,
    }
}

/// Kube-OVN's rules: a selector wins over `excludeNodes`, an entry for the node over the default interface.
fn wanted(name: &str, network: &Network, node: &str, labels: &BTreeMap<String, String>) -> Wanted {
    let concerned = match &network.selector {
        Some(selector) => selector.matches(labels),
        None => !network.excluded.iter().any(|excluded| excluded == node),
    };
    let custom = network.custom.iter().find(|(_, nodes)| nodes.iter().any(|named| named == node));
    let nic = custom.map_or(&network.default_interface, |(interface, _)| interface);
    Wanted {
        name: name.to_owned(),
        nic: Some(nic.clone()).filter(|nic| !nic.is_empty()),
        concerned,
        unsupported: network.unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(spec: serde_json::Value) -> Network {
        let object = serde_json::json!({"apiVersion": "kubeovn.io/v1", "kind": "ProviderNetwork",
            "metadata": {"name": "prod"}, "spec": spec});
        reduce(&serde_json::from_value(object).expect("a valid ProviderNetwork"))
    }

    #[test]
    fn a_node_s_own_entry_wins_over_the_default() {
        let network = network(serde_json::json!({"defaultInterface": "eth1",
            "customInterfaces": [{"interface": "ens5", "nodes": ["n2"]}], "excludeNodes": ["n3"]}));
        let labels = BTreeMap::new();
        let nic = |node| wanted("prod", &network, node, &labels);
        assert_eq!((nic("n1").nic.as_deref(), nic("n1").concerned), (Some("eth1"), true));
        assert_eq!(nic("n2").nic.as_deref(), Some("ens5"));
        assert!(!nic("n3").concerned);
    }

    #[test]
    fn a_selector_decides_alone() {
        let network = network(serde_json::json!({"defaultInterface": "eth1", "excludeNodes": ["n1"],
            "nodeSelector": {"matchLabels": {"rack": "a"}}}));
        let labels = |rack: &str| BTreeMap::from([("rack".to_owned(), rack.to_owned())]);
        assert!(wanted("prod", &network, "n1", &labels("a")).concerned);
        assert!(!wanted("prod", &network, "n1", &labels("b")).concerned);
    }

    #[test]
    fn what_is_not_realised_is_named() {
        let network = network(serde_json::json!({"defaultInterface": "eth1", "exchangeLinkName": true}));
        assert_eq!(network.unsupported, Some("exchangeLinkName"));
    }
}
