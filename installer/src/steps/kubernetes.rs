//! k3s: its files, its start, its answer. Knows k3s by its contract only, so that an official binary does as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::{Node, StepError, file_error, is_active, now, systemctl, update};
use crate::files::{differs, replace};
use crate::pki;

/// Where the image keeps manifests and container images.
const SHARE: &str = "/usr/share/furrow";
/// k3s's data.
const K3S: &str = "/var/lib/rancher/k3s";
/// The administrator's kubeconfig that k3s writes.
pub(crate) const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// From start to an API server that answers: 20 s on a loaded test machine, seven minutes on an emulated one.
const API_TIMEOUT: Duration = Duration::from_secs(900);
/// k3s renews at its start what ends within 90 days (120 days in later releases); it must be started before that is over.
const RENEW_AHEAD: Duration = Duration::from_secs(60 * 86400);

/// Writes configuration, manifests and images. Files that are as they should be are not touched.
pub(crate) fn files(node: &Node) -> Result<(), StepError> {
    let (file, wanted) = (Path::new("/etc/rancher/k3s/config.yaml"), config(node));
    if differs(file, &wanted) {
        let mark = changed_mark(node);
        replace(&mark, b"", 0o600).map_err(file_error("write", &mark))?;
        replace(file, wanted.as_bytes(), 0o600).map_err(file_error("write", file))?;
    }
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

fn config(node: &Node) -> String {
    let config = &node.config;
    let mut keys = json!({
        "cluster-init": true,
        "node-name": config.hostname,
        "node-ip": config.management.address.to_string(),
        "tls-san": config.kubernetes.tls_sans,
        "cluster-cidr": config.kubernetes.cluster_cidr,
        "service-cidr": config.kubernetes.service_cidr,
        "cluster-dns": config.kubernetes.cluster_dns.to_string(),
        "flannel-backend": "none",
        "disable-network-policy": true,
        "disable": ["traefik", "servicelb", "local-storage", "metrics-server", "coredns"],
        "write-kubeconfig-mode": "0600",
    });
    let labels: Vec<String> = config.kubernetes.node_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !labels.is_empty() {
        keys["node-label"] = json!(labels);
    }
    // JSON is YAML, one key a line.
    let object: BTreeMap<String, serde_json::Value> = serde_json::from_value(keys).unwrap_or_default();
    let lines: Vec<String> = object.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!(
        "# Written by furrow-install from /etc/furrow/node.yaml; additions go to config.yaml.d/.\n{}\n",
        lines.join("\n")
    )
}

fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>, StepError> {
    let read = std::fs::read_dir(dir).map_err(file_error("read", dir))?;
    let mut found: Vec<_> = read.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect();
    found.sort();
    Ok(found)
}

/// Starts k3s, or restarts one that runs with an older configuration; guests and pods live on. Does not wait: k3s reports
/// ready when its API server does.
pub(crate) async fn start(node: &Node) -> Result<(), StepError> {
    systemctl(&["enable", "k3s.service"]).await?;
    let changed = changed_mark(node);
    if changed.exists() {
        stop(node, "its configuration changed").await?;
    }
    if !is_active("k3s.service").await? {
        systemctl(&["start", "--no-block", "k3s.service"]).await?;
    }
    match std::fs::remove_file(&changed) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", &changed)(error)),
        _ => Ok(()),
    }
}

/// Stands from before the configuration changes until k3s has been started with it.
fn changed_mark(node: &Node) -> PathBuf {
    node.state.join("bootstrap/k3s-config-changed")
}

async fn stop(node: &Node, why: &str) -> Result<(), StepError> {
    if is_active("k3s.service").await? {
        node.say(&format!("restarting k3s: {why}"));
        systemctl(&["stop", "k3s.service"]).await?;
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

/// A client with the administrator's kubeconfig.
pub(crate) async fn client() -> Result<Client, StepError> {
    let unusable = |reason: String| StepError::Kubeconfig { path: KUBECONFIG.into(), reason };
    let document = Kubeconfig::read_from(KUBECONFIG).map_err(|e| unusable(e.to_string()))?;
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
    node.wait("the API server", API_TIMEOUT, async || {
        let client = client().await.map_err(|e| e.to_string())?;
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
    use super::not_ready;

    #[test]
    fn only_what_is_not_ready_is_told() {
        assert_eq!(
            not_ready("ApiError: [+]ping ok\n[-]rbac/bootstrap-roles failed: reason withheld\nreadyz"),
            "rbac/bootstrap-roles"
        );
        assert_eq!(not_ready("connection refused"), "connection refused");
    }
}
