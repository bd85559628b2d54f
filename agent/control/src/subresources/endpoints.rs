//! Where the API server finds the subresource API: EndpointSlices of its Service, which has no selector since control is no
//! pod. One entry a server node. Refuses nodes that Kubernetes has given up, as long as there are others: the API server
//! chooses at random and does not try a second one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use furrow_api::names::{SUBRESOURCES_PORT, SUBRESOURCES_SERVICE, SYSTEM_NAMESPACE};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::calls::{self, CallError};
use crate::cluster::Cluster;
use crate::dispatch::{Disposition, Key, Next, Reconcile};

/// Nodes with this label run an API server and control.
const SERVER_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// The name of the Service's port, which the API server looks for.
const PORT_NAME: &str = "https";

/// Families that a slice can be of.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// The controller of the EndpointSlices.
pub(crate) struct Endpoints {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

/// The only key: the Service.
pub(crate) fn key() -> Key {
    Key::new(SYSTEM_NAMESPACE, SUBRESOURCES_SERVICE)
}

impl Reconcile for Endpoints {
    type Error = CallError;

    const NAME: &'static str = "endpoints";

    fn keys(&self) -> Vec<Key> {
        vec![key()]
    }

    /// Observe: the nodes. Plan: a slice a family. Execute: written where it differs. Report: nothing.
    async fn reconcile(&self, _: &Key) -> Result<Next, CallError> {
        let nodes = self.cluster.nodes.state();
        let api = self.cluster.api::<EndpointSlice>(SYSTEM_NAMESPACE);
        for wanted in FAMILIES.map(|family| slice(family, nodes.iter().map(AsRef::as_ref))) {
            let name = wanted.name_any();
            match calls::get(&api, &name).await? {
                Some(there) if same(&there, &wanted) => {}
                Some(there) => {
                    let mut new = wanted;
                    new.metadata.resource_version = there.metadata.resource_version;
                    calls::replace(&api, &new).await?;
                    tracing::info!(slice = name, servers = entries(&new).len(), "endpoints written");
                }
                None if entries(&wanted).is_empty() => {}
                None => drop(calls::create(&api, &wanted).await?),
            }
        }
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        Disposition::of_call(error)
    }
}

fn entries(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn same(there: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let labelled = |slice: &EndpointSlice| slice.labels().clone();
    entries(there) == entries(wanted) && there.ports == wanted.ports && labelled(there) == labelled(wanted)
}

/// The slice of a family.
fn slice<'a>(family: &str, nodes: impl Iterator<Item = &'a Node>) -> EndpointSlice {
    let of_family = |address: &IpAddr| address.is_ipv4() == (family == FAMILIES[0]);
    let mut servers: Vec<_> = nodes
        .filter(|node| node.labels().contains_key(SERVER_LABEL) && node.metadata.deletion_timestamp.is_none())
        .filter_map(|node| Some((node.name_any(), address(node).filter(of_family)?, is_ready(node))))
        .collect();
    servers.sort();
    let any_ready = servers.iter().any(|(_, _, ready)| *ready);
    let endpoints = servers.into_iter().map(|(name, address, ready)| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready || !any_ready), ..EndpointConditions::default() }),
        node_name: Some(name),
        ..Endpoint::default()
    });
    let port = EndpointPort {
        name: Some(PORT_NAME.to_owned()),
        port: Some(i32::from(SUBRESOURCES_PORT)),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let labels = [
        ("kubernetes.io/service-name", SUBRESOURCES_SERVICE),
        ("endpointslice.kubernetes.io/managed-by", SUBRESOURCES_SERVICE),
    ];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{SUBRESOURCES_SERVICE}-{}", family.to_ascii_lowercase())),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            labels: Some(
                labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect::<BTreeMap<_, _>>(),
            ),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints.collect()),
        ports: Some(vec![port]),
    }
}

/// The address of a node inside the cluster.
pub(crate) fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

/// Whether a node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, server: bool, address: &str, ready: &str) -> Node {
        let labels = if server { json!({SERVER_LABEL: "true"}) } else { json!({}) };
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "status": {
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    }

    fn check(family: &str, nodes: &[Node], expected: &[(&str, &str, bool)]) {
        let slice = slice(family, nodes.iter());
        let found: Vec<_> = entries(&slice)
            .iter()
            .map(|e| {
                let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap();
                (e.node_name.as_deref().unwrap(), e.addresses[0].as_str(), ready)
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn servers_are_endpoints_and_dead_ones_are_not_ready() {
        let nodes = [
            node("n2", true, "10.0.0.2", "True"),
            node("n1", true, "10.0.0.1", "Unknown"),
            node("n4", false, "10.0.0.4", "True"),
            node("n3", true, "fd00::3", "True"),
        ];
        check("IPv4", &nodes, &[("n1", "10.0.0.1", false), ("n2", "10.0.0.2", true)]);
        check("IPv6", &nodes, &[("n3", "fd00::3", true)]);
    }

    #[test]
    fn all_are_tried_where_none_is_known_to_live() {
        let nodes = [node("n1", true, "10.0.0.1", "False"), node("n2", true, "10.0.0.2", "Unknown")];
        check("IPv4", &nodes, &[("n1", "10.0.0.1", true), ("n2", "10.0.0.2", true)]);
        check("IPv6", &nodes, &[]);
    }

    #[test]
    fn a_slice_says_whose_it_is_and_is_written_once() {
        let wanted = slice("IPv4", [node("n1", true, "10.0.0.1", "True")].iter());
        assert_eq!(wanted.labels()["kubernetes.io/service-name"], "furrow-control");
        assert_eq!(wanted.ports.as_ref().unwrap()[0].port, Some(8444));
        let mut there = wanted.clone();
        there.metadata.resource_version = Some("7".into());
        assert!(same(&there, &wanted));
        there.endpoints = None;
        assert!(!same(&there, &wanted));
    }
}
