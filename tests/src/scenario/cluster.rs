//! Three nodes: one makes the cluster, two join it with one-time tokens, a VM runs on each; then the first loses power.
//!
//! What the cluster is made of is asked where an administrator would ask: Kubernetes' nodes, etcd's members, Ceph's own
//! commands on a node. The outage is told in `outage`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::guests::{self, Images};
use super::{Checks, field_report, outage};
use crate::cluster::{Cluster, condition, text_of};
use crate::host;
use crate::inject::Join;
use crate::lan::{H100, H200};
use crate::layout::Layout;
use crate::node_box::NodeBox;
use crate::testbed::Testbed;

/// The pool of the guests' disks.
const POOL: &str = "volumes";

/// What the checks share.
pub(super) struct Story<'a> {
    pub(super) bed: &'a Testbed,
    pub(super) cluster: Cluster,
    /// The DataVolume source of the tiny guest's image.
    pub(super) tiny_source: String,
}

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let tiny = Images::tiny(&bed.layout().source)?;
    let started = Instant::now();
    checks.require("n1 makes a cluster, and the servers' common address leads to it", || {
        bed.power_on()?;
        bed.wait_ready(started)?;
        host::until("the API on the common address", Duration::from_secs(30), || bed.cluster().list("nodes"))?;
        let holders = vip_holders(bed)?;
        ensure!(holders == ["n1"], "{} is on {holders:?}", Layout::virtual_address());
        println!("         n1 ready {:.0} s after power-on", started.elapsed().as_secs_f64());
        Ok(())
    })?;
    let tiny_source = guests::http_source(&bed.publish(&tiny, "tiny.qcow2")?);
    let story = Story { bed, cluster: bed.cluster(), tiny_source };
    checks.require("the provider network comes up on one node", || field_report::network_up(bed, &story.cluster))?;
    joining(&story, checks)?;
    members(&story, checks)?;
    virtual_machines(&story, checks)?;
    checks.check("pods of all nodes reach a pod and a Service on another", || pod_network(&story));
    checks.check("ceph.conf of all nodes names all monitors", || {
        host::until("the nodes' look at the monitors", Duration::from_secs(150), || monitors_known(bed))
    });
    outage::run(&story, checks)
}

fn joining(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    let [_, n2, n3] = story.bed.nodes() else { bail!("the scenario needs three nodes") };
    let token = story.bed.token()?;
    let id = token_id(&token)?.to_owned();
    checks.require("n2 joins with a one-time token", || {
        let started = Instant::now();
        n2.start(story.bed.lan(), Some(&story.bed.join_with(token.clone())))?;
        joined(story, n2, started)
    })?;
    checks.check("nothing of its token is left in the cluster", || {
        for name in [format!("kube-system/bootstrap-token-{id}"), format!("furrow-system/join-{id}")] {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            let out = story.cluster.kubectl_raw(&["-n", namespace, "get", "secret", name], "")?;
            ensure!(
                out.code != 0 && out.stderr.contains("NotFound"),
                "{namespace}/{name}: {}{}",
                out.stdout,
                out.stderr
            );
        }
        let list = story.bed.node().shell("furrow-install token list")?;
        ensure!(!list.contains(&id), "it is still listed: {list}");
        Ok(())
    });
    checks.require("the same token is refused to n3, which says which one and keeps its secret", || {
        n3.start(story.bed.lan(), Some(&story.bed.join_with(token.clone())))?;
        let secret = token.rsplit('.').next().unwrap_or_default();
        host::until("the refusal", Duration::from_secs(120), || {
            let log = n3.shell("journalctl -u furrow-bootstrap -o cat --no-pager")?;
            ensure!(!log.contains(secret), "the token's secret is in the journal");
            let refusal =
                log.lines().find(|line| line.contains("failed") && line.contains("token") && line.contains(&id));
            let refusal = refusal.with_context(|| format!("no line names token {id}: {}", last_lines(&log)))?;
            println!("         {refusal}");
            Ok(())
        })
    })?;
    checks.check("what is no token is refused by `plan`, with the key's name", || {
        let garbage = Join { token: "garbage".into(), ..story.bed.join_with(String::new()) };
        let text = crate::inject::with_join(&n3.shell("cat /etc/furrow/node.yaml")?, &garbage);
        let argv = ["sh", "-c", "cat > /run/garbage.yaml && furrow-install plan --file /run/garbage.yaml"];
        let out = n3.exec_with(&argv, &text, Duration::from_secs(30))?;
        ensure!(out.code != 0, "it was accepted: {}", out.stdout);
        ensure!(out.stderr.contains("join.token"), "it says: {}", out.stderr.trim());
        Ok(())
    });
    checks.require("n3 joins with a token of its own", || {
        let started = Instant::now();
        n3.rejoin(&story.bed.join_with(story.bed.token()?))?;
        joined(story, n3, started)
    })
}

fn joined(story: &Story<'_>, node: &NodeBox, started: Instant) -> Result<()> {
    story.bed.wait_node(node, started)?;
    println!("         {} joined in {:.0} s", node.name(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The part of a join token that may be shown.
fn token_id(token: &str) -> Result<&str> {
    let id = token.split_once("::").and_then(|(hash, rest)| Some((hash, rest.split_once('.')?.0)));
    match id {
        Some((hash, id)) if hash.starts_with("K10") && !id.is_empty() && !token.contains(char::is_whitespace) => Ok(id),
        _ => bail!("`token create` printed no token but {} characters", token.len()),
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// The nodes that have the servers' common address.
pub(super) fn vip_holders(bed: &Testbed) -> Result<Vec<String>> {
    let vip = format!(" {}/", Layout::virtual_address());
    let mut holders = Vec::new();
    for node in bed.nodes().iter().filter(|node| node.leader().is_some()) {
        if node.shell("ip -4 -o addr show dev eth0")?.contains(&vip) {
            holders.push(node.name().to_owned());
        }
    }
    Ok(holders)
}

fn members(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    checks.require("three nodes are Ready, each with the control plane's label", || {
        nodes_ready(&story.cluster)?;
        for node in story.cluster.list("nodes")? {
            let label = &node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"];
            ensure!(label == "true", "{} has the label {label}", node["metadata"]["name"]);
        }
        Ok(())
    })?;
    checks.require("three members of etcd have started and vote", || {
        host::until("etcd's members", Duration::from_secs(60), || etcd_members(story.bed.node()).and_then(all_vote))
    })?;
    checks.check("three monitors of Ceph are in quorum", || {
        host::until("the monitors", Duration::from_secs(60), || monitors(story.bed.node(), 3))
    });
    checks.require("OSDs of three hosts, three copies, each on a host of its own, all clean", || {
        host::until("three OSDs", Duration::from_secs(60), || osds(story.bed.node()))?;
        host::until("three copies", Duration::from_secs(150), || copies(story.bed.node()))?;
        host::until("the placement groups", Duration::from_secs(240), || clean(story.bed.node()))
    })?;
    checks.check("Ceph's health is without errors", || {
        let health = ceph(story.bed.node(), "health detail")?;
        let names: Vec<&String> = health["checks"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
        println!("         {} {names:?}", text_of(&health["status"]));
        ensure!(health["status"] != "HEALTH_ERR", "{health}");
        Ok(())
    });
    checks.check("the provider network is up on all nodes", || {
        host::until("the bridges", Duration::from_secs(60), || {
            story.bed.nodes().iter().try_for_each(field_report::bridge_up)
        })
    });
    Ok(())
}

/// All three nodes are Ready.
pub(super) fn nodes_ready(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.list("nodes")?;
    let ready = |node: &&Value| condition(node, "Ready").is_some_and(|c| c["status"] == "True");
    let names: Vec<String> = nodes.iter().filter(ready).map(|node| text_of(&node["metadata"]["name"])).collect();
    ensure!(names == ["n1", "n2", "n3"], "Ready: {names:?} of {} nodes", nodes.len());
    Ok(())
}

/// etcd's members as the one on this node knows them.
pub(super) fn etcd_members(node: &NodeBox) -> Result<Vec<Value>> {
    let argv = ["python3", "-c", include_str!("etcd_members.py"), &node.address().to_string()];
    let text = node.exec(&argv, Duration::from_secs(30))?.ok(&format!("etcd's members on {}", node.name()))?;
    serde_json::from_str(&text).with_context(|| format!("etcd's members: {text}"))
}

/// A member that has started tells where it serves clients; a learner does not vote.
pub(super) fn all_vote(members: Vec<Value>) -> Result<()> {
    let votes = |m: &Value| m["clientURLs"].as_array().is_some_and(|urls| !urls.is_empty()) && m["isLearner"] != true;
    let voting = members.iter().filter(|m| votes(m)).count();
    ensure!(members.len() == 3 && voting == 3, "{voting} of {} members vote: {}", members.len(), Value::from(members));
    Ok(())
}

/// A command of Ceph on a node, which answers in JSON.
pub(super) fn ceph(node: &NodeBox, command: &str) -> Result<Value> {
    let text = node.shell(&format!("ceph --connect-timeout 10 {command} -f json"))?;
    serde_json::from_str(&text).with_context(|| format!("ceph {command}: {text}"))
}

/// So many monitors are in quorum.
pub(super) fn monitors(node: &NodeBox, wanted: usize) -> Result<()> {
    let names = ceph(node, "quorum_status")?["quorum_names"].clone();
    ensure!(names.as_array().is_some_and(|names| names.len() == wanted), "in quorum: {names}");
    Ok(())
}

/// Every node's ceph.conf names the monitors of all.
fn monitors_known(bed: &Testbed) -> Result<()> {
    for node in bed.nodes() {
        let line = node.shell("grep mon_host /etc/ceph/ceph.conf")?;
        let unknown = bed.nodes().iter().find(|other| !line.contains(&other.address().to_string()));
        ensure!(unknown.is_none(), "on {}: {}", node.name(), line.trim());
    }
    Ok(())
}

/// Three OSDs are up and in, each below a host of its own.
pub(super) fn osds(node: &NodeBox) -> Result<()> {
    let tree = ceph(node, "osd tree")?;
    let items: Vec<&Value> = tree["nodes"].as_array().into_iter().flatten().collect();
    let serving = |id: &Value| {
        items.iter().any(|o| o["id"] == *id && o["status"] == "up" && o["reweight"].as_f64().is_some_and(|w| w > 0.0))
    };
    let is_host = |item: &&&Value| item["type"] == "host";
    let mut hosts: Vec<String> = items
        .iter()
        .filter(is_host)
        .filter(|host| host["children"].as_array().is_some_and(|osds| osds.len() == 1 && osds.iter().all(serving)))
        .map(|host| text_of(&host["name"]))
        .collect();
    hosts.sort();
    ensure!(hosts == ["n1", "n2", "n3"], "hosts with one OSD that is up and in: {hosts:?}: {tree}");
    Ok(())
}

/// The pool keeps three copies, and its rule puts each on another host.
fn copies(node: &NodeBox) -> Result<()> {
    let size = ceph(node, &format!("osd pool get {POOL} size"))?["size"].clone();
    ensure!(size == 3, "the pool's size is {size}");
    let rule = text_of(&ceph(node, &format!("osd pool get {POOL} crush_rule"))?["crush_rule"]);
    let steps = ceph(node, &format!("osd crush rule dump {rule}"))?["steps"].clone();
    let places = steps.as_array().into_iter().flatten().filter(|step| step["type"] == "host").count();
    ensure!(places == 1, "its rule {rule} is {steps}");
    Ok(())
}

/// Every placement group is active and has all its copies.
pub(super) fn clean(node: &NodeBox) -> Result<()> {
    let states = ceph(node, "pg stat")?["pg_summary"]["num_pg_by_state"].clone();
    let all = states.as_array().is_some_and(|s| !s.is_empty() && s.iter().all(|s| s["name"] == "active+clean"));
    ensure!(all, "placement groups: {states}");
    Ok(())
}

/// The name of the tiny VM of a node.
pub(super) fn vm_of(node: &NodeBox) -> String {
    format!("on-{}", node.name())
}

fn virtual_machines(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    let nodes = story.bed.nodes();
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    checks.require("a tiny VM runs on each node, with an address of its own", || {
        let manifests = nodes.iter().map(|node| guests::tiny_at(node.name(), &vm_of(node), &story.tiny_source));
        story.cluster.apply(&manifests.collect::<Vec<_>>().join("\n---\n"))?;
        for node in nodes {
            let vmi = story.cluster.wait(("vmi", &vm_of(node)), "/status/phase", &["Running"], 180)?;
            ensure!(vmi["status"]["nodeName"] == node.name(), "{} is on {}", vm_of(node), vmi["status"]["nodeName"]);
            addresses.push(guests::address(&story.cluster, &vm_of(node))?);
        }
        ensure!(addresses[0] != addresses[1] && addresses[1] != addresses[2], "addresses: {addresses:?}");
        Ok(())
    })?;
    checks.require("a host on their VLAN reaches each of them, and one on another VLAN none", || {
        for (node, address) in nodes.iter().zip(&addresses) {
            let facts = guests::facts(story.bed, H100, *address, 180)?;
            ensure!(text_of(&facts["hostname"]) == vm_of(node), "{address} is {}", facts["hostname"]);
            if let Ok(answer) = guests::ask(story.bed, H200, *address, "facts") {
                bail!("VLAN 200 reaches {address}: {answer}");
            }
        }
        Ok(())
    })?;
    checks.check("VMs of different nodes reach each other", || {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let command = format!("run ping -c 2 -W 3 {} >/dev/null && echo reached", addresses[to]);
            let answer = guests::ask(story.bed, H100, addresses[from], &command)?;
            ensure!(answer == "reached", "{} to {}: {answer}", nodes[from].name(), nodes[to].name());
        }
        Ok(())
    });
    Ok(())
}

/// CoreDNS's pod and the Service in front of it, over TCP: from the nodes and from their pods' own namespaces.
fn pod_network(story: &Story<'_>) -> Result<()> {
    let pods = story.cluster.kubectl(&["get", "pods", "-A", "-l", "k8s-app=kube-dns", "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let pod = pods["items"].as_array().and_then(|p| p.first()).context("no pod of CoreDNS")?;
    let (address, home) = (text_of(&pod["status"]["podIP"]), text_of(&pod["spec"]["nodeName"]));
    ensure!(!address.is_empty(), "CoreDNS's pod has no address: {}", pod["status"]);
    let service = text_of(&story.cluster.get("node", &home)?["spec"]["podCIDR"]);
    println!("         CoreDNS is on {home}, {address} of {service}");
    let others = story.bed.nodes().iter().filter(|node| node.name() != home);
    for node in others {
        for target in [address.as_str(), "10.43.0.10"] {
            let dial = format!("timeout 5 bash -c '</dev/tcp/{target}/53'");
            let from_pods = format!(
                "n=0; for p in /run/netns/cni-*; do nsenter --net=$p {dial} || exit 1; n=$((n+1)); done; [ $n -gt 0 ]"
            );
            host::until(&format!("{target} from {}", node.name()), Duration::from_secs(60), || {
                node.shell(&dial).context("from the node")?;
                node.shell(&from_pods).context("from its pods")
            })?;
        }
    }
    Ok(())
}
