//! Gathers the facts about a node that is to leave: from Kubernetes, from etcd's members and from Ceph. Reads only.

use std::collections::BTreeMap;

use furrow_host::ceph::{Monitor, commands};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::facts::{Facts, Host, NodeFacts, Osd, Pool, Voter};
use super::{etcd, guests};
use crate::membership;
use crate::steps::{self, Node, StepError};

/// What makes a node a server.
pub(crate) const SERVER_LABEL: &str = "node-role.kubernetes.io/control-plane";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Everything about the node of this name, as this server sees it.
pub(super) async fn facts(client: &Client, this: &Node, name: &str) -> Result<Facts, StepError> {
    let ceph = this.ceph()?;
    let mut nodes = nodes(client).await?;
    let node = nodes.iter().position(|node| node.name == name).map(|at| nodes.remove(at));
    let mark = membership::mark_of(client, name).await?;
    let mut facts = Facts {
        name: name.to_owned(),
        own: this.config.hostname.clone(),
        node,
        is_marked: mark.is_some(),
        was_server: mark.is_some_and(|mark| mark.was_server),
        others: nodes,
        members: etcd::members(this.config.management.address).await?,
        monitors: monitors(ceph).await?,
        guests: guests::on_node(client, name).await?,
        imports: guests::imports(client, name).await?,
        ..Facts::default()
    };
    storage(ceph, &mut facts).await?;
    Ok(facts)
}

/// All nodes of Kubernetes.
pub(super) async fn nodes(client: &Client) -> Result<Vec<NodeFacts>, StepError> {
    let list = Api::<KubeNode>::all(client.clone()).list(&ListParams::default()).await;
    Ok(list.map_err(steps::refused("list the nodes"))?.items.into_iter().map(node_facts).collect())
}

fn node_facts(node: KubeNode) -> NodeFacts {
    let labels = node.labels();
    let (is_server, zone) = (labels.contains_key(SERVER_LABEL), labels.get(ZONE_LABEL).cloned());
    let (name, is_ready) = (node.name_any(), steps::readiness(&node).is_ok());
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    NodeFacts {
        name,
        is_ready,
        is_cordoned: node.spec.unwrap_or_default().unschedulable.unwrap_or(false),
        is_server,
        zone,
        address: addresses.into_iter().find(|a| a.type_ == "InternalIP").map(|a| a.address),
    }
}

/// The monitors of Ceph.
pub(super) async fn monitors(ceph: &Monitor) -> Result<Vec<Voter>, StepError> {
    let status: Value = ceph.query(commands::quorum_status()).await?;
    let names = |list: &Value, key: Option<&str>| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(|item| key.map_or(item, |key| &item[key]).as_str().map(str::to_owned)).collect()
    };
    let quorum = names(&status["quorum_names"], None);
    let all = names(&status["monmap"]["mons"], Some("name"));
    Ok(all.into_iter().map(|name| Voter { answers: quorum.contains(&name), name }).collect())
}

/// What Ceph says.
async fn storage(ceph: &Monitor, facts: &mut Facts) -> Result<(), StepError> {
    let tree: Value = ceph.query(commands::osd_tree()).await?;
    let usage: Value = ceph.query(commands::osd_df()).await?;
    let pools: Value = ceph.query(commands::pools()).await?;
    let rules: Value = ceph.query(commands::crush_rules()).await?;
    let status: Value = ceph.query(commands::status()).await?;
    let tree = Tree::new(&tree, &usage);
    facts.has_bucket = tree.bucket(&facts.name).is_some();
    facts.osds = tree.osds_of(&facts.name);
    facts.hosts = tree.hosts_without(&facts.name);
    facts.pools = pools.as_array().into_iter().flatten().map(|pool| tree.pool(pool, &rules, &facts.name)).collect();
    facts.idle_groups = idle_groups(&status);
    facts.unfound = unfound(&status);
    Ok(())
}

/// States of groups that do not serve, from the answer of `ceph status`.
pub(super) fn idle_groups(status: &Value) -> Vec<String> {
    let states = status["pgmap"]["pgs_by_state"].as_array().into_iter().flatten();
    let idle = states.filter(|state| {
        let name = state["state_name"].as_str().unwrap_or_default();
        !name.split('+').any(|word| word == "active") || name.split('+').any(|word| word == "stale")
    });
    idle.map(|s| format!("{} {}", s["count"], s["state_name"].as_str().unwrap_or_default())).collect()
}

/// Objects of which no copy is known, from the answer of `ceph status`.
pub(super) fn unfound(status: &Value) -> u64 {
    status["pgmap"]["unfound_objects"].as_u64().unwrap_or(0)
}

/// Whether an item of `ceph osd tree` is the host of this name.
pub(super) fn is_host(item: &Value, name: &str) -> bool {
    item["type"] == "host" && item["name"] == name
}

/// The answer of `ceph osd tree`, with that of `ceph osd df` beside it.
struct Tree<'a> {
    items: Vec<&'a Value>,
    usage: BTreeMap<u64, &'a Value>,
}

impl<'a> Tree<'a> {
    fn new(tree: &'a Value, usage: &'a Value) -> Tree<'a> {
        let usage = usage["nodes"].as_array().into_iter().flatten();
        Tree {
            items: tree["nodes"].as_array().into_iter().flatten().collect(),
            usage: usage.filter_map(|osd| Some((osd["id"].as_u64()?, osd))).collect(),
        }
    }

    fn bucket(&self, host: &str) -> Option<&'a Value> {
        self.items.iter().copied().find(|item| is_host(item, host))
    }

    /// OSDs below an item, at any depth.
    fn below(&self, item: &Value) -> Vec<&'a Value> {
        let mut found = Vec::new();
        for child in item["children"].as_array().into_iter().flatten() {
            let Some(child) = self.items.iter().copied().find(|item| item["id"] == *child) else { continue };
            if child["type"] == "osd" { found.push(child) } else { found.extend(self.below(child)) }
        }
        found
    }

    fn bytes(&self, osd: &Value, key: &str) -> u64 {
        let usage = osd["id"].as_u64().and_then(|id| self.usage.get(&id));
        usage.and_then(|usage| usage[key].as_u64()).unwrap_or(0) * 1024
    }

    fn osds_of(&self, host: &str) -> Vec<Osd> {
        let osds = self.bucket(host).map(|bucket| self.below(bucket)).unwrap_or_default();
        let facts = |osd: &Value| Osd {
            id: osd["id"].as_u64().unwrap_or_default(),
            is_up: osd["status"] == "up",
            used: self.bytes(osd, "kb_used_data"),
        };
        osds.into_iter().map(facts).collect()
    }

    /// OSDs that hold data and are not the host's.
    fn serving_below(&self, item: &Value, without: &str) -> Vec<&'a Value> {
        let gone = self.bucket(without).map(|bucket| self.below(bucket)).unwrap_or_default();
        let gone: Vec<&Value> = gone.into_iter().map(|osd| &osd["id"]).collect();
        let serves = |osd: &&Value| {
            osd["status"] == "up" && osd["reweight"].as_f64() != Some(0.0) && !gone.contains(&&osd["id"])
        };
        self.below(item).into_iter().filter(serves).collect()
    }

    fn hosts_without(&self, without: &str) -> Vec<Host> {
        let hosts = self.items.iter().copied().filter(|item| item["type"] == "host" && item["name"] != without);
        let host = |item: &Value| {
            let osds = self.serving_below(item, without);
            let sum = |key: &str| osds.iter().map(|osd| self.bytes(osd, key)).sum();
            let name = item["name"].as_str().unwrap_or_default().to_owned();
            (!osds.is_empty()).then(|| Host { name, used: sum("kb_used_data"), size: sum("kb") })
        };
        hosts.filter_map(host).collect()
    }

    fn pool(&self, pool: &Value, rules: &Value, without: &str) -> Pool {
        let rule = rules.as_array().into_iter().flatten().find(|rule| rule["rule_id"] == pool["crush_rule"]);
        let steps = rule.and_then(|rule| rule["steps"].as_array()).into_iter().flatten();
        let domain = steps.filter_map(|step| step["type"].as_str()).next_back().unwrap_or("host").to_owned();
        let of_domain = self.items.iter().copied().filter(|item| item["type"] == domain.as_str());
        let places = if domain == "osd" {
            let roots = self.items.iter().copied().filter(|item| item["type"] == "root");
            roots.map(|root| self.serving_below(root, without).len()).sum()
        } else {
            of_domain.filter(|item| !self.serving_below(item, without).is_empty()).count()
        };
        Pool {
            name: pool["pool_name"].as_str().unwrap_or_default().to_owned(),
            size: pool["size"].as_u64().unwrap_or(0),
            domain,
            places: places as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree() -> Value {
        let osd =
            |id: u64, status: &str, weight: f64| json!({"id": id, "type": "osd", "status": status, "reweight": weight});
        let host =
            |id: i64, name: &str, osds: &[u64]| json!({"id": id, "type": "host", "name": name, "children": osds});
        json!({"nodes": [
            {"id": -1, "type": "root", "name": "default", "children": [-2, -3, -4, -5]},
            host(-2, "n1", &[0]), osd(0, "up", 1.0),
            host(-3, "n2", &[1, 2]), osd(1, "up", 1.0), osd(2, "down", 1.0),
            host(-4, "n3", &[3]), osd(3, "up", 0.0),
            host(-5, "n4", &[]),
        ]})
    }

    fn usage() -> Value {
        json!({"nodes": [{"id": 0, "kb": 100, "kb_used_data": 10}, {"id": 1, "kb": 200, "kb_used_data": 20}]})
    }

    #[test]
    fn only_what_is_up_and_in_holds_data() {
        let (tree, usage) = (tree(), usage());
        let tree = Tree::new(&tree, &usage);
        let host = |name: &str, used: u64, size: u64| Host { name: name.into(), used, size };
        assert_eq!(tree.hosts_without("n1"), [host("n2", 20 << 10, 200 << 10)]);
        assert_eq!(tree.hosts_without("n2"), [host("n1", 10 << 10, 100 << 10)]);
        assert_eq!(tree.osds_of("n1"), [Osd { id: 0, is_up: true, used: 10 << 10 }]);
        assert!(tree.bucket("n4").is_some() && tree.bucket("n5").is_none());
    }

    #[test]
    fn places_are_counted_in_the_rules_own_kind() {
        let rules = json!([
            {"rule_id": 0, "steps": [{"op": "take"}, {"op": "chooseleaf_firstn", "type": "osd"}, {"op": "emit"}]},
            {"rule_id": 1, "steps": [{"op": "take"}, {"op": "chooseleaf_firstn", "type": "host"}, {"op": "emit"}]},
        ]);
        let (tree, usage) = (tree(), usage());
        let tree = Tree::new(&tree, &usage);
        let pool = |rule: u64| json!({"pool_name": "p", "size": 3, "crush_rule": rule});
        let places = |rule, without| {
            let pool = tree.pool(&pool(rule), &rules, without);
            (pool.domain, pool.places)
        };
        assert_eq!(places(0, "n1"), ("osd".to_owned(), 1));
        assert_eq!(places(1, "n1"), ("host".to_owned(), 1));
        assert_eq!(places(1, "n3"), ("host".to_owned(), 2));
    }

    #[test]
    fn groups_that_serve_are_told_from_those_that_do_not() {
        let state = |name: &str| json!({"state_name": name, "count": 2});
        let status = json!({"pgmap": {"pgs_by_state": [
            state("active+undersized+degraded"), state("active+clean"), state("peering"), state("stale+active+clean"),
            state("inactive"),
        ]}});
        assert_eq!(idle_groups(&status), ["2 peering", "2 stale+active+clean", "2 inactive"]);
    }
}
