//! What node.yaml says about the system itself: time servers, proxy, root's password. Written by the installer to the disk
//! and by the bootstrap on the node. Root's password is set once for each value that node.yaml gets, so that one which an
//! administrator changed on the node stays.

use std::path::Path;

use furrow_host::cmd::Cmd;

use crate::config::{Management, NodeConfig, Proxy};
use crate::device::hex;
use crate::files::{differs, update};
use crate::steps::{Node, StepError, file_error, mark_kubernetes_changed, systemctl};

/// chrony's servers; the image's own file has the pool.
pub(crate) const TIME_SOURCES: &str = "/etc/chrony/sources.d/furrow.sources";
/// The environment of Kubernetes and containerd, which k3s.service reads.
pub(crate) const PROXY: &str = "/etc/furrow/proxy.env";
/// As the image has it in [`TIME_SOURCES`].
const DEFAULT_SOURCES: &str = include_str!("../../image/root/etc/chrony/sources.d/furrow.sources");

/// Text of [`TIME_SOURCES`].
pub(crate) fn time_sources(config: &NodeConfig) -> String {
    if config.ntp.is_empty() {
        return DEFAULT_SOURCES.to_owned();
    }
    let lines = config.ntp.iter().map(|server| format!("server {server} iburst\n"));
    std::iter::once("# Written by furrow-install from node.yaml.\n".to_owned()).chain(lines).collect()
}

/// Text of [`PROXY`]; empty without a proxy. The cluster itself is always reached directly.
pub(crate) fn proxy_environment(config: &NodeConfig) -> String {
    let Some(proxy) = &config.proxy else { return String::new() };
    let mut text = "# Written by furrow-install from node.yaml.\n".to_owned();
    for (name, url) in [("HTTP_PROXY", &proxy.http), ("HTTPS_PROXY", &proxy.https)] {
        if let Some(url) = url {
            text += &format!("{name}=\"{0}\"\n{1}=\"{0}\"\n", url.0, name.to_lowercase());
        }
    }
    let direct = direct(config, proxy);
    text + &format!("NO_PROXY=\"{direct}\"\nno_proxy=\"{direct}\"\n")
}

fn direct(config: &NodeConfig, proxy: &Proxy) -> String {
    let management = &config.management;
    let mut all =
        vec!["localhost".to_owned(), "127.0.0.0/8".into(), "::1".into(), ".svc".into(), ".cluster.local".into()];
    all.extend([config.kubernetes.cluster_cidr.clone(), config.kubernetes.service_cidr.clone()]);
    all.push(own_network(management));
    all.extend(management.vip.map(|vip| vip.to_string()));
    all.extend(proxy.no_proxy.iter().cloned());
    all.join(",")
}

/// The management network, on which the other nodes are; only the node's own address where its prefix is not said.
fn own_network(management: &Management) -> String {
    match management.prefix_length {
        Some(prefix) => format!("{}/{prefix}", management.address),
        None => management.address.to_string(),
    }
}

/// Which of these node.yaml sets, for people.
pub(crate) fn describe(config: &NodeConfig) -> String {
    let time = match config.ntp.is_empty() {
        true => "time from DHCP's servers and Debian's pool".to_owned(),
        false => format!("time from {}", config.ntp.join(", ")),
    };
    let proxy = if config.proxy.is_some() { "a proxy" } else { "no proxy" };
    let password = if config.admin.password_hash.is_some() { "root's password" } else { "no password" };
    format!("{time}; {proxy}; {password}")
}

/// `/etc/shadow` with this hash for root, for a system that does not run yet.
pub(crate) fn shadow_with(shadow: &str, hash: &str) -> String {
    let line = |line: &str| match line.strip_prefix("root:").and_then(|rest| rest.split_once(':')) {
        Some((_, rest)) => format!("root:{hash}:{rest}\n"),
        None => format!("{line}\n"),
    };
    shadow.lines().map(line).collect()
}

/// Whether root can log in by a password, from `/etc/shadow`.
pub(crate) fn root_has_password(shadow: &str) -> bool {
    let hash = shadow.lines().find_map(|l| l.strip_prefix("root:")?.split(':').next());
    hash.is_some_and(|hash| !hash.is_empty() && !hash.starts_with(['*', '!']))
}

/// Brings the running node to it. Kubernetes is restarted by its own step when its proxy changed.
pub(crate) async fn ensure(node: &Node) -> Result<(), StepError> {
    let write = |path, text: &str, mode| update(path, text, mode).map_err(file_error("write", path));
    let (path, text) = (Path::new(TIME_SOURCES), time_sources(&node.config));
    if differs(path, &text) {
        write(path, &text, 0o644)?;
        let _ = systemctl(&["try-restart", "chrony.service"]).await;
    }
    let (path, text) = (Path::new(PROXY), proxy_environment(&node.config));
    if differs(path, &text) && (path.exists() || !text.is_empty()) {
        mark_kubernetes_changed(node)?;
        write(path, &text, 0o600)?;
    }
    password(node).await
}

/// Root's password, where it is not the one that was set last.
async fn password(node: &Node) -> Result<(), StepError> {
    use sha2::{Digest, Sha256};
    let Some(hash) = &node.config.admin.password_hash else { return Ok(()) };
    let mark = node.state.join("bootstrap/password-set");
    let digest = hex(&Sha256::digest(hash.0.as_bytes()));
    if !differs(&mark, &digest) {
        return Ok(());
    }
    let line = format!("root:{}\n", hash.0);
    Cmd::new("/usr/sbin/chpasswd").arg("--encrypted").stdin(line).run().await?;
    node.say("root's password is as node.yaml says");
    update(&mark, &digest, 0o600).map_err(file_error("write", &mark))
}

/// A password's hash, by SHA-512 with a salt that openssl chooses. The password goes through standard input.
///
/// # Errors
/// When openssl fails, or answers with no hash.
pub(crate) async fn hash_password(password: &str) -> Result<String, StepError> {
    let run = Cmd::new("/usr/bin/openssl").args(["passwd", "-6", "-stdin"]).stdin(format!("{password}\n"));
    let hash = run.run().await?.text().trim().to_owned();
    let good = crate::config::is_password_hash(&hash);
    if good { Ok(hash) } else { Err(StepError::Answer("openssl passwd", "no hash".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> NodeConfig {
        let text = format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{interface: e, address: 10.0.0.1, prefixLength: 24, vip: 10.0.0.9}}\nceph: {{disks: [{{path: /dev/b}}]}}\n{more}"
        );
        crate::config::parse(&text).expect("good")
    }

    #[test]
    fn time_comes_from_the_named_servers_or_the_images_pool() {
        assert_eq!(time_sources(&config("")), DEFAULT_SOURCES);
        let text = time_sources(&config("ntp: [10.0.0.3, time.example.com]"));
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["server 10.0.0.3 iburst", "server time.example.com iburst"]
        );
    }

    #[test]
    fn the_cluster_is_reached_without_the_proxy() {
        assert_eq!(proxy_environment(&config("")), "");
        let text = proxy_environment(&config("proxy: {https: 'http://u:p@proxy:3128', noProxy: [.example.com]}"));
        assert!(text.contains("HTTPS_PROXY=\"http://u:p@proxy:3128\"\nhttps_proxy=") && !text.contains("HTTP_PROXY"));
        let direct =
            "127.0.0.0/8,::1,.svc,.cluster.local,10.42.0.0/16,10.43.0.0/16,10.0.0.1/24,10.0.0.9,.example.com\"\n";
        assert!(text.ends_with(direct), "{text}");
    }

    #[test]
    fn roots_line_alone_gets_the_hash() {
        let shadow = "root:*:20423:0:99999:7:::\nrooter:!:1::::::\n";
        assert!(!root_has_password(shadow));
        let with = shadow_with(shadow, "$6$a$b");
        assert_eq!(with, "root:$6$a$b:20423:0:99999:7:::\nrooter:!:1::::::\n");
        assert!(root_has_password(&with));
        for none in ["", "root::1\n", "root:!$6$a$b:1\n", "rooter:$6$a$b:1\n"] {
            assert!(!root_has_password(none), "{none}");
        }
    }

    #[test]
    fn nothing_secret_is_described() {
        let hash = format!("$6$saltsalt${}", "a".repeat(86));
        let text =
            describe(&config(&format!("ntp: [a]\nproxy: {{http: 'http://u:p@x'}}\nadmin: {{passwordHash: '{hash}'}}")));
        assert_eq!(text, "time from a; a proxy; root's password");
    }

    #[tokio::test]
    async fn a_password_becomes_a_hash_that_node_yaml_takes() {
        let hash = hash_password("correct horse").await.expect("openssl is part of the image");
        assert!(hash.starts_with("$6$") && crate::config::is_password_hash(&hash), "{hash}");
    }
}
