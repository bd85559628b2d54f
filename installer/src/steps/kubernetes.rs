//! k3s: its files, its start, its answer. Knows k3s by its contract only, so that an official binary does as well.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::{Node, StepError, cpus, file_error, huge_pages, is_active, now, systemctl, update};
use crate::config::{NodeConfig, Role, kubelet_flags};
use crate::files::{differs, replace};
use crate::join::Joined;
use crate::pki;
use crate::promotion;

/// Where the image keeps manifests and container images.
const SHARE: &str = "/usr/share/furrow";
/// k3s's data.
const K3S: &str = "/var/lib/rancher/k3s";
/// The administrator's kubeconfig that k3s writes on servers.
pub(crate) const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// The kubelet's, which is all that a node has on which no server runs.
const KUBELET_KUBECONFIG: &str = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig";
/// From start to an API server that answers: 20 s on a loaded test machine, seven minutes on an emulated one.
const API_TIMEOUT: Duration = Duration::from_secs(900);
/// k3s renews at its start what ends within 90 days (120 days in later releases); it must be started before that is over.
const RENEW_AHEAD: Duration = Duration::from_secs(60 * 86400);

/// Writes configuration, manifests and images, and reserves what the kubelet counts at its start. Files that are as they
/// should be are not touched.
pub(crate) fn files(node: &Node) -> Result<(), StepError> {
    huge_pages::ensure(node)?;
    let joined = node.joined()?;
    if let Some(joined) = &joined {
        let tokens = &joined.material.k3s;
        let token = if joined.role == Role::Server { &tokens.server } else { &tokens.agent };
        let token = token.as_ref().ok_or_else(|| StepError::Answer("the join record", "no token of k3s".into()))?;
        update(&token_file(node), token, 0o600)?;
    }
    let (file, wanted) =
        (Path::new("/etc/rancher/k3s/config.yaml"), config(&node.config, joined.as_ref(), &token_file(node)));
    if differs(file, &wanted) {
        mark_changed(node)?;
        replace(file, wanted.as_bytes(), 0o600).map_err(file_error("write", file))?;
    }
    if node.role()? == Role::Server {
        manifests(node)?;
    }
    images()
}

fn token_file(node: &Node) -> PathBuf {
    node.state.join("join/k3s-token")
}

/// What k3s applies to the cluster; every server has the same.
fn manifests(node: &Node) -> Result<(), StepError> {
    let ca = node.state.join("ca/ca.crt");
    let pem = std::fs::read(&ca).map_err(file_error("read", &ca))?;
    let dns = node.config.kubernetes.cluster_dns.to_string();
    let bundle = BASE64_STANDARD.encode(&pem);
    for (name, path) in entries(&Path::new(SHARE).join("manifests"))? {
        let text = std::fs::read_to_string(&path).map_err(file_error("read", &path))?;
        let text = text.replace("${FURROW_CA_BUNDLE}", &bundle).replace("${CLUSTER_DNS}", &dns);
        let text = text.replace("${DNS_FORWARD}", dns_forward());
        // The prefix keeps them apart from k3s's own addons, which config.yaml disables by name.
        update(&Path::new(K3S).join("server/manifests").join(format!("furrow-{name}")), &text, 0o600)?;
    }
    Ok(())
}

/// Pods of the image's own, wherever they are scheduled.
fn images() -> Result<(), StepError> {
    for (name, path) in entries(&Path::new(SHARE).join("images"))? {
        let target = Path::new(K3S).join("agent/images").join(name);
        let size = |p: &Path| std::fs::metadata(p).map(|m| m.len()).ok();
        if size(&target) != size(&path) {
            let content = std::fs::read(&path).map_err(file_error("read", &path))?;
            replace(&target, &content, 0o644).map_err(file_error("write", &target))?;
        }
    }
    Ok(())
}

/// CoreDNS refuses to forward to nobody, so a node without an upstream resolver has a DNS for the cluster alone.
fn dns_forward() -> &'static str {
    let upstreams = std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or_default();
    let any = upstreams.lines().any(|l| l.starts_with("nameserver "));
    if any { "forward . /etc/resolv.conf" } else { "# no upstream resolver" }
}

/// k3s's configuration. A server that has joined keeps the address that it joined at: k3s asks there only while it has no
/// data of its own. An agent asks at the servers' common address, where there is one.
fn config(config: &NodeConfig, joined: Option<&Joined>, token_file: &Path) -> String {
    let mut keys = json!({
        "node-name": config.hostname,
        "node-ip": config.management.address.to_string(),
    });
    match joined {
        None => keys["cluster-init"] = json!(true),
        Some(joined) => {
            keys["server"] = json!(api_server(config, joined));
            keys["token-file"] = json!(token_file);
        }
    }
    if joined.is_none_or(|joined| joined.role == Role::Server) {
        let vip = config.management.vip.iter().map(ToString::to_string);
        let sans: Vec<String> = vip.chain(config.kubernetes.tls_sans.iter().cloned()).collect();
        keys["tls-san"] = json!(sans);
        keys["cluster-cidr"] = json!(config.kubernetes.cluster_cidr);
        keys["service-cidr"] = json!(config.kubernetes.service_cidr);
        keys["cluster-dns"] = json!(config.kubernetes.cluster_dns.to_string());
        keys["flannel-backend"] = json!("none");
        keys["disable-network-policy"] = json!(true);
        keys["disable"] = json!(["traefik", "servicelb", "local-storage", "metrics-server", "coredns"]);
        keys["write-kubeconfig-mode"] = json!("0600");
    }
    let labels: Vec<String> = config.kubernetes.node_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !labels.is_empty() {
        keys["node-label"] = json!(labels);
    }
    let flags = kubelet_flags(&config.kubernetes);
    if !flags.is_empty() {
        keys["kubelet-arg"] = json!(flags);
    }
    // JSON is YAML, one key a line.
    let object: BTreeMap<String, serde_json::Value> = serde_json::from_value(keys).unwrap_or_default();
    let lines: Vec<String> = object.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!(
        "# Written by furrow-install from /etc/furrow/node.yaml; additions go to config.yaml.d/.\n{}\n",
        lines.join("\n")
    )
}

/// Where a node that has joined finds the API.
fn api_server(config: &NodeConfig, joined: &Joined) -> String {
    match config.management.vip {
        Some(vip) if joined.role == Role::Agent => server_url(vip),
        _ => joined.server.clone(),
    }
}

/// Where the API server of an address is.
pub(crate) fn server_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, 6443))
}

fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>, StepError> {
    let read = std::fs::read_dir(dir).map_err(file_error("read", dir))?;
    let mut found: Vec<_> = read.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect();
    found.sort();
    Ok(found)
}

/// The unit of k3s on a node of this role.
pub(crate) fn unit(role: Role) -> &'static str {
    match role {
        Role::Server => "k3s.service",
        Role::Agent => "k3s-agent.service",
    }
}

/// Starts k3s, or restarts one that runs with an older configuration; guests and pods live on. Does not wait: k3s reports
/// ready when its API server, or its kubelet, does.
pub(crate) async fn start(node: &Node) -> Result<(), StepError> {
    let role = node.role()?;
    if role == Role::Server {
        promotion::leave_worker_behind(node).await?;
    }
    let unit = unit(role);
    systemctl(&["enable", unit]).await?;
    let changed = is_marked_changed(node);
    if changed {
        stop(node, "its configuration changed").await?;
    }
    if !is_active(unit).await? {
        cpus::forget_unusable(node, changed)?;
        systemctl(&["start", "--no-block", unit]).await?;
    }
    unmark_changed(node)
}

/// Stands from before the configuration changes until k3s has been started with it.
fn changed_mark(node: &Node) -> PathBuf {
    node.state.join("bootstrap/k3s-config-changed")
}

/// Notes that k3s must be started anew; before its configuration changes, so that a kill in between loses nothing.
pub(crate) fn mark_changed(node: &Node) -> Result<(), StepError> {
    let mark = changed_mark(node);
    replace(&mark, b"", 0o600).map_err(file_error("write", &mark))
}

/// Whether k3s must be started anew.
pub(super) fn is_marked_changed(node: &Node) -> bool {
    changed_mark(node).exists()
}

/// Notes that k3s has been started with what changed, or that nothing has.
pub(super) fn unmark_changed(node: &Node) -> Result<(), StepError> {
    let mark = changed_mark(node);
    crate::files::remove(&mark).map_err(file_error("remove", &mark))
}

async fn stop(node: &Node, why: &str) -> Result<(), StepError> {
    let unit = unit(node.role()?);
    if is_active(unit).await? {
        node.say(&format!("restarting k3s: {why}"));
        systemctl(&["stop", unit]).await?;
    }
    Ok(())
}

/// Restarts k3s, which then renews its certificates, when they end soon.
pub(crate) async fn renew(node: &Node) -> Result<(), StepError> {
    if pki::lives_for(&Path::new(K3S).join("server/tls/serving-kube-apiserver.crt"), now() as i64, RENEW_AHEAD) {
        return Ok(());
    }
    stop(node, "its certificates end soon").await?;
    start(node).await
}

/// The kubeconfig that a node of this role has: the administrator's, or its kubelet's.
pub(crate) fn kubeconfig(role: Role) -> &'static str {
    match role {
        Role::Server => KUBECONFIG,
        Role::Agent => KUBELET_KUBECONFIG,
    }
}

/// A client with what a node of this role has.
pub(crate) async fn client(role: Role) -> Result<Client, StepError> {
    let path = kubeconfig(role);
    let unusable = |reason: String| StepError::Kubeconfig { path: path.into(), reason };
    let document = Kubeconfig::read_from(path).map_err(|e| unusable(e.to_string()))?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(document, &options).await.map_err(|e| unusable(e.to_string()))?;
    Client::try_from(config).map_err(|e| unusable(e.to_string()))
}

/// The checks that fail, of the list that `/readyz` answers; the first line of anything else.
fn not_ready(answer: &str) -> String {
    let failing: Vec<&str> = answer.lines().filter_map(|l| l.strip_prefix("[-]")?.split(' ').next()).collect();
    if failing.is_empty() { answer.lines().next().unwrap_or_default().to_owned() } else { failing.join(", ") }
}

/// Waits until the API server answers that it is ready.
pub(crate) async fn ready(node: &Node) -> Result<(), StepError> {
    let role = node.role()?;
    node.wait("the API server", API_TIMEOUT, async || {
        let client = client(role).await.map_err(|e| e.to_string())?;
        let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
        match tokio::time::timeout(Duration::from_secs(3), client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(not_ready(&error.to_string())),
            Err(_) => Err("no answer within 3 s".to_owned()),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::Material;

    fn lines(joined: Option<Role>) -> String {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n2\nmanagement: {interface: e, address: 10.0.0.2, vip: 10.0.0.9}\nceph: {disks: [{path: /dev/b}]}\n";
        let joined = joined.map(|role| Joined {
            role,
            server: "https://10.0.0.1:6443".into(),
            token_id: "abcdef".into(),
            material: Material::default(),
            consumed: true,
        });
        config(&crate::config::parse(text).expect("good"), joined.as_ref(), Path::new("/t"))
    }

    #[test]
    fn a_new_clusters_server_has_nobody_to_ask() {
        let text = lines(None);
        assert!(text.contains("cluster-init: true\n") && !text.contains("\nserver:"), "{text}");
        assert!(text.contains("tls-san: [\"10.0.0.9\"]\n"), "{text}");
    }

    #[test]
    fn a_server_that_joins_asks_the_one_it_was_told() {
        let text = lines(Some(Role::Server));
        for line in ["server: \"https://10.0.0.1:6443\"\n", "tls-san: [\"10.0.0.9\"]\n", "token-file: \"/t\"\n"] {
            assert!(text.contains(line), "`{line}` is not in {text}");
        }
        assert!(!text.contains("cluster-init"), "{text}");
    }

    #[test]
    fn an_agent_asks_at_the_common_address_and_has_no_servers_keys() {
        let text = lines(Some(Role::Agent));
        assert!(text.contains("\nserver: \"https://10.0.0.9:6443\"\ntoken-file: \"/t\"\n"), "{text}");
        assert!(!text.contains("cidr") && !text.contains("tls-san"), "{text}");
    }

    #[test]
    fn the_kubelets_flags_are_there_where_node_yaml_says_something_of_them() {
        assert!(!lines(None).contains("kubelet-arg"), "{}", lines(None));
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n2\nmanagement: {interface: e, address: 10.0.0.2}\nkubernetes: {cpuManager: {policy: static, reservedCpus: '0-1'}}\nceph: {disks: [{path: /dev/b}]}\n";
        let text = config(&crate::config::parse(text).expect("good"), None, Path::new("/t"));
        assert!(text.contains("\nkubelet-arg: [\"cpu-manager-policy=static\",\"reserved-cpus=0-1\"]\n"), "{text}");
    }

    #[test]
    fn only_what_is_not_ready_is_told() {
        assert_eq!(
            not_ready("ApiError: [+]ping ok\n[-]rbac/bootstrap-roles failed: reason withheld\nreadyz"),
            "rbac/bootstrap-roles"
        );
        assert_eq!(not_ready("connection refused"), "connection refused");
    }
}
