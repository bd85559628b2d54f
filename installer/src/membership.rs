//! Whether this node still belongs to its cluster. A node that was removed is marked by a ConfigMap, which an admission
//! policy reads to refuse everything that such a node writes, and which the node itself looks for: before its services
//! start at a boot, and every two minutes. One that finds it stops, gives its keys up and stays off for good; joining with
//! a new token takes the mark away.
//!
//! ```text
//!  member --(mark in the cluster, seen)--> removed: services off, keys gone, `status` says so --(installed anew)--> member
//! ```
//! Nobody who answers is no reason to stop: a cluster that has no power starts node by node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::JoinSet;

use crate::config::{NodeConfig, Role};
use crate::files;
use crate::join::{Joined, Material, NAMESPACE};
use crate::steps::{self, Node, StepError};

/// Label of the marks; the admission policy selects by it.
const LABEL: &str = "furrow.io/removed";
const NODE_KEY: &str = "node";
const SERVER_KEY: &str = "server";
/// A node that boots waits so long for a word about it; a server that runs needs milliseconds.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// The kubelet's identity, which every node has.
const KUBELET: &str = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig";

/// Name of the mark of a node.
pub(crate) fn mark_name(node: &str) -> String {
    format!("removed-{node}")
}

/// That a node has been removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// It was a server.
    pub(crate) was_server: bool,
}

fn marks(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// The mark of a node; None while it belongs to the cluster.
pub(crate) async fn mark_of(client: &Client, node: &str) -> Result<Option<Mark>, StepError> {
    let found = marks(client).get_opt(&mark_name(node)).await;
    let found = found.map_err(steps::refused(format!("show whether {node} was removed")))?;
    let was_server = |map: ConfigMap| map.data.unwrap_or_default().get(SERVER_KEY).is_some_and(|text| text == "true");
    Ok(found.map(|map| Mark { was_server: was_server(map) }))
}

/// Marks a node as removed.
pub(crate) async fn mark(client: &Client, node: &str, mark: Mark) -> Result<(), StepError> {
    let data = [(NODE_KEY, node.to_owned()), (SERVER_KEY, mark.was_server.to_string())];
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(mark_name(node)),
            labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..ConfigMap::default()
    };
    let marked = steps::made(marks(client).create(&PostParams::default(), &map).await);
    marked.map(|_| ()).map_err(steps::refused(format!("mark {node} as removed")))
}

/// Takes a mark away, if there is one: the node joins anew.
pub(crate) async fn unmark(client: &Client, node: &str) -> kube::Result<()> {
    steps::gone(marks(client).delete(&mark_name(node), &DeleteParams::default()).await).map(|_| ())
}

fn own_mark(state: &Path) -> PathBuf {
    state.join("removed")
}

/// What is to be said of this node if it has been removed.
pub(crate) fn removed(state: &Path) -> Option<String> {
    let text = std::fs::read_to_string(own_mark(state)).ok()?;
    Some(text.lines().next().unwrap_or_default().to_owned())
}

/// Asks the cluster, and stops this node's services if it has been removed. Says whether it has.
pub(crate) async fn look(node: &Node) -> Result<bool, StepError> {
    if removed(&node.state).is_none() && word(&node.config).await != Some(true) {
        return Ok(false);
    }
    retire(node).await?;
    Ok(true)
}

/// Addresses of the servers that this node knows of, but this one.
pub(crate) fn other_servers(config: &NodeConfig) -> BTreeSet<IpAddr> {
    servers(&std::fs::read_to_string("/etc/ceph/ceph.conf").unwrap_or_default(), config)
}

/// Whether this node was removed, as another server says; None when none answers. The first that knows decides.
pub(crate) async fn word(config: &NodeConfig) -> Option<bool> {
    let mut asking = JoinSet::new();
    for server in other_servers(config) {
        let name = config.hostname.clone();
        asking.spawn(async move { tokio::time::timeout(ASK_TIMEOUT, Box::pin(ask(server, name))).await });
    }
    while let Some(answer) = asking.join_next().await {
        if let Ok(Ok(Some(marked))) = answer {
            return Some(marked);
        }
    }
    None
}

/// Addresses of servers but this one: where a monitor is, one is, and one has the common address.
fn servers(conf: &str, config: &NodeConfig) -> BTreeSet<IpAddr> {
    let line = conf.lines().find_map(|line| line.strip_prefix("mon_host = ")).unwrap_or_default();
    let all = line.split([' ', ',']).filter_map(|item| {
        let address = item.trim_matches(['[', ']']).strip_prefix("v2:")?;
        let (host, _) = address.rsplit_once(':')?;
        host.trim_matches(['[', ']']).parse().ok()
    });
    all.chain(config.management.vip).filter(|address| *address != config.management.address).collect()
}

/// What one server says; None when it says nothing about it.
async fn ask(server: IpAddr, name: String) -> Option<bool> {
    let mut document = Kubeconfig::read_from(KUBELET).ok()?;
    document.clusters.first_mut()?.cluster.as_mut()?.server = Some(steps::server_url(server));
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await.ok()?;
    let client = Client::try_from(config).ok()?;
    match marks(&client).get_opt(&mark_name(&name)).await {
        Ok(found) => Some(found.is_some()),
        Err(_) => None,
    }
}

/// Stops everything that has a part in the cluster, and erases what could be used to take part in it.
async fn retire(node: &Node) -> Result<(), StepError> {
    let (state, name) = (&node.state, &node.config.hostname);
    let first = !own_mark(state).exists();
    if first {
        let text = format!(
            "this node was removed from the cluster (noticed {}); install it anew with a new token to bring it back",
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")
        );
        node.say(&text);
        keep_off(state, &text)?;
    }
    stop_services(name, &|line| node.say(line)).await;
    if first {
        node.say("the services of the cluster are off");
    }
    give_up_keys(Path::new("/"), state)
}

/// Keeps off what has a part in the cluster, at this start and at each later one: the units look for this file. `reason`: one
/// line, for people.
pub(crate) fn keep_off(state: &Path, reason: &str) -> Result<(), StepError> {
    let mark = own_mark(state);
    files::replace(&mark, format!("{reason}\n").as_bytes(), 0o644).map_err(steps::file_error("write", &mark))
}

/// Stops what has a part in the cluster, in the order in which it depends on each other.
pub(crate) async fn stop_services(name: &str, say: &dyn Fn(&str)) {
    let (monitor, manager) = (format!("ceph-mon@{name}.service"), format!("ceph-mgr@{name}.service"));
    let k3s = [steps::k3s_unit(Role::Server), steps::k3s_unit(Role::Agent)];
    let first_units = ["furrow-agent.service", "furrow-control.service", "keepalived.service", "furrow-renew.timer"];
    for unit in first_units {
        stop(&["disable", "--now", unit], say).await;
    }
    // OSDs take their leave of a monitor, which may be this node's.
    stop(&["stop", "ceph-osd@*.service", "furrow-bootstrap.service"], say).await;
    for unit in [monitor.as_str(), &manager].into_iter().chain(k3s) {
        stop(&["disable", "--now", unit], say).await;
    }
}

/// What does not stop now is stopped by the next look, and starts no more.
pub(crate) async fn stop(verb: &[&str], say: &dyn Fn(&str)) {
    if let Err(error) = steps::systemctl(verb).await {
        say(&format!("{} was not stopped: {error}", verb.last().unwrap_or(&"a unit")));
    }
}

/// What lets its holder act for this node, or for the cluster.
const KEYS: [&str; 17] = [
    "/etc/ceph/ceph.client.admin.keyring",
    "/etc/ceph/ceph.client.furrow-agent.keyring",
    "/etc/ceph/ceph.client.furrow-qemu.keyring",
    "/etc/rancher/k3s/k3s.yaml",
    "/var/lib/ceph/bootstrap-osd/ceph.keyring",
    "/var/lib/rancher/k3s/agent/client-kubelet.crt",
    "/var/lib/rancher/k3s/agent/client-kubelet.key",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/k3s/agent/pki",
    "/var/lib/rancher/k3s/server/agent-token",
    "/var/lib/rancher/k3s/server/cred",
    "/var/lib/rancher/k3s/server/db",
    "/var/lib/rancher/k3s/server/node-token",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/k3s/server/token",
    "/var/lib/furrow/ca",
    "/var/lib/furrow/pki",
];

/// `root` is what the paths above begin at.
fn give_up_keys(root: &Path, state: &Path) -> Result<(), StepError> {
    // The record stays, without what it held: a node without one would make itself a cluster.
    if let Some(mut joined) = Joined::load(state).map_err(steps::file_error("read the join record below", state))? {
        joined.material = Material::default();
        joined.role = Role::Agent;
        joined.save(state).map_err(steps::file_error("write the join record below", state))?;
    }
    let own = [state.join("join/k3s-token"), state.join("control/pki")];
    for path in KEYS.iter().map(|path| root.join(path.trim_start_matches('/'))).chain(own) {
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { files::remove(&path) };
        gone.map_err(steps::file_error("erase", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n2\nmanagement: {interface: e, address: 10.0.0.2}\nceph: {disks: [{path: /dev/b}]}\n";
        crate::config::parse(text).expect("good")
    }

    #[test]
    fn the_other_servers_are_asked() {
        let conf = "[global]\nfsid = f\nmon_host = [v2:10.0.0.1:3300,v1:10.0.0.1:6789] [v2:10.0.0.2:3300,v1:10.0.0.2:6789] [v2:[fd00::3]:3300,v1:[fd00::3]:6789]\n";
        let expected: BTreeSet<IpAddr> = ["10.0.0.1", "fd00::3"].map(|a| a.parse().expect("an address")).into();
        assert_eq!(servers(conf, &config()), expected);
        assert!(servers("", &config()).is_empty());
    }

    #[test]
    fn a_node_without_a_mark_belongs_to_the_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(removed(dir.path()), None);
        std::fs::write(own_mark(dir.path()), "gone\nmore\n").expect("written");
        assert_eq!(removed(dir.path()).as_deref(), Some("gone"));
    }

    #[test]
    fn the_record_loses_its_secrets_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut material = Material::default();
        material.k3s.server = Some("SECRET".into());
        let joined = Joined {
            role: Role::Server,
            server: "https://10.0.0.1:6443".into(),
            token_id: "abcdef".into(),
            material,
            consumed: true,
        };
        joined.save(dir.path()).expect("saved");
        let key = dir.path().join("var/lib/furrow/ca/ca.key");
        files::replace(&key, b"SECRET", 0o600).expect("written");
        give_up_keys(dir.path(), dir.path()).expect("given up");
        assert!(!key.exists());
        let kept = Joined::load(dir.path()).expect("there").expect("a record");
        assert_eq!(kept.material, Material::default());
    }
}
