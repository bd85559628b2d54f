//! What node.yaml says about the system itself: time servers, proxy, root's password. Written by the installer to the disk
//! and by the bootstrap on the node. Root's password is set once for each value that node.yaml gets, so that one which an
//! administrator changed on the node stays. Secrets that node.yaml refers to are opened before anything is written.

use std::net::IpAddr;
use std::path::Path;

use furrow_host::cmd::Cmd;
use furrow_model::proxy::{self, Proxies};

use crate::config::{NodeConfig, Proxy, Secret, SecretKey};
use crate::device::hex;
use crate::files::{differs, update};
use crate::secrets;
use crate::steps::{Node, StepError, file_error, mark_kubernetes_changed, systemctl};

/// chrony's servers; the image's own file has the pool.
pub(crate) const TIME_SOURCES: &str = "/etc/chrony/sources.d/furrow.sources";
/// What is this machine itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.0/8", "::1"];
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

/// Through what servers outside are reached. The cluster itself is always reached directly.
pub(crate) fn proxies(config: &NodeConfig) -> Proxies {
    config.proxy.as_ref().map(|proxy| through(proxy, direct(config, proxy))).unwrap_or_default()
}

/// The same where the section `proxy` is all that is known of a node.yaml that is still to come.
pub(crate) fn early_proxies(proxy: &Proxy) -> Proxies {
    let all: Vec<&str> = LOOPBACK.into_iter().chain(proxy.no_proxy.iter().map(String::as_str)).collect();
    through(proxy, all.join(","))
}

fn through(proxy: &Proxy, direct: String) -> Proxies {
    let url = |secret: Option<&Secret>| secret.and_then(Secret::value).map(str::to_owned);
    Proxies { http: url(proxy.http.as_ref()), https: url(proxy.https.as_ref()), direct }
}

fn direct(config: &NodeConfig, proxy: &Proxy) -> String {
    let management = &config.management;
    let mut all: Vec<String> = LOOPBACK.map(str::to_owned).into();
    all.extend([".svc".to_owned(), ".cluster.local".to_owned()]);
    all.extend([config.kubernetes.cluster_cidr.clone(), config.kubernetes.service_cidr.clone()]);
    all.push(network_of(management.address, management.prefix_length));
    all.extend(management.second.as_ref().map(|second| network_of(second.address, Some(second.prefix_length))));
    all.extend(management.vip.map(|vip| vip.to_string()));
    // The first server that a new node speaks to may be on another network.
    all.extend(config.join.as_ref().and_then(|join| server_host(&join.server)));
    all.extend(proxy.no_proxy.iter().cloned());
    all.join(",")
}

/// The management network, on which the other nodes are. By DHCP its prefix is what the machine has got with the address;
/// only the address where the machine does not have it yet, as on the medium: the bootstrap comes back to it.
fn network_of(address: IpAddr, prefix: Option<u8>) -> String {
    match prefix.or_else(|| prefix_here(address)) {
        Some(prefix) => format!("{address}/{prefix}"),
        None => address.to_string(),
    }
}

/// Bits of the prefix of an address that this machine has.
fn prefix_here(address: IpAddr) -> Option<u8> {
    let of = |found: nix::ifaddrs::InterfaceAddress| {
        let (own, mask) = (found.address?, found.netmask?);
        let bits = match address {
            IpAddr::V4(v4) if own.as_sockaddr_in()?.ip() == v4 => mask.as_sockaddr_in()?.ip().to_bits().count_ones(),
            IpAddr::V6(v6) if own.as_sockaddr_in6()?.ip() == v6 => mask.as_sockaddr_in6()?.ip().to_bits().count_ones(),
            _ => return None,
        };
        u8::try_from(bits).ok()
    };
    nix::ifaddrs::getifaddrs().ok()?.find_map(of)
}

/// The host of `https://HOST:6443`, without the brackets of IPv6.
fn server_host(server: &str) -> Option<String> {
    let uri: http::Uri = server.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
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
    let keys = [SecretKey::PasswordHash, SecretKey::ProxyHttp, SecretKey::ProxyHttps];
    let config = match secrets::opened(&node.config, &keys).await {
        Ok(config) => config,
        // A TPM that was cleared must not keep the node's disks off: what it has stays as it is.
        Err(error) if crate::steps::any_made(&node.state)? => {
            node.say(&format!(
                "warning: time, proxy and password stay as they are: {}",
                furrow_model::reasons::chain(&error)
            ));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let (path, text) = (Path::new(TIME_SOURCES), time_sources(&config));
    if differs(path, &text) {
        write(path, &text, 0o644)?;
        let _ = systemctl(&["try-restart", "chrony.service"]).await;
    }
    let (path, text) = (Path::new(proxy::FILE), proxies(&config).environment());
    // While the address is not on a card yet, nobody knows which others are of its network.
    let is_known = config.management.prefix_length.is_some() || prefix_here(config.management.address).is_some();
    if differs(path, &text) && (path.exists() || !text.is_empty()) && (is_known || !path.exists()) {
        mark_kubernetes_changed(node)?;
        write(path, &text, 0o600)?;
    }
    match config.secret(SecretKey::PasswordHash).and_then(Secret::value) {
        Some(hash) => password(node, hash).await,
        None => Ok(()),
    }
}

/// Root's password, where it is not the one that was set last.
async fn password(node: &Node, hash: &str) -> Result<(), StepError> {
    use sha2::{Digest, Sha256};
    let mark = node.state.join("bootstrap/password-set");
    let digest = hex(&Sha256::digest(hash.as_bytes()));
    if !differs(&mark, &digest) {
        return Ok(());
    }
    let line = format!("root:{hash}\n");
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
        assert_eq!(proxies(&config("")).environment(), "");
        let text = proxies(&config("proxy: {https: 'http://u:p@proxy:3128', noProxy: [.example.com]}")).environment();
        assert!(text.contains("HTTPS_PROXY=\"http://u:p@proxy:3128\"\nhttps_proxy=") && !text.contains("HTTP_PROXY"));
        let direct =
            "127.0.0.0/8,::1,.svc,.cluster.local,10.42.0.0/16,10.43.0.0/16,10.0.0.1/24,10.0.0.9,.example.com\"\n";
        assert!(text.ends_with(direct), "{text}");
    }

    #[test]
    fn who_is_reached_through_the_proxy() {
        let more = "proxy: {http: 'http://p:1', https: 'http://p:2', noProxy: [.example.com, 192.168.0.0/16]}";
        let Proxies { http, https, direct } = proxies(&config(more));
        let matcher = hyper_util::client::proxy::matcher::Matcher::builder()
            .http(http.expect("there"))
            .https(https.expect("there"))
            .no(direct)
            .build();
        for (host, through) in [
            ("images.example.org", true),
            ("203.0.113.7", true),
            ("[2001:db8::1]", true),
            ("example.community", true),
            ("10.0.1.1", true),
            ("localhost", false),
            ("127.0.0.53", false),
            ("[::1]", false),
            // A node, the common address, a pod, a Service by address and by name.
            ("10.0.0.77", false),
            ("10.0.0.9", false),
            ("10.42.3.4", false),
            ("10.43.0.1", false),
            ("images.default.svc", false),
            ("images.default.svc.cluster.local", false),
            ("mirror.example.com", false),
            ("192.168.200.1", false),
        ] {
            for (scheme, port) in [("http", Some(1)), ("https", Some(2))] {
                let uri: http::Uri = format!("{scheme}://{host}:8443/image").parse().expect("a URL");
                let proxy = matcher.intercept(&uri).and_then(|proxy| proxy.uri().port_u16());
                assert_eq!(proxy, port.filter(|_| through), "{uri}");
            }
        }
    }

    #[test]
    fn servers_that_node_yaml_names_are_reached_without_the_proxy() {
        let token = format!("K10{}::abcdef.0123456789abcdef", "a".repeat(64));
        for (server, expected) in
            [("https://192.168.7.1:6443", ",10.0.0.9,192.168.7.1,"), ("https://[fd00::7]:6443", ",10.0.0.9,fd00::7,")]
        {
            let join = format!("join: {{server: '{server}', token: '{token}'}}\n");
            let config = config(&format!("{join}proxy: {{http: 'http://proxy', noProxy: [a]}}"));
            let direct = proxies(&config).direct;
            assert!(direct.contains(expected) && direct.ends_with(",a"), "{direct}");
        }
    }

    #[test]
    fn a_network_by_dhcp_is_the_one_that_the_machine_is_on() {
        let address = |text: &str| text.parse().expect("an address");
        assert_eq!(network_of(address("127.0.0.1"), None), "127.0.0.1/8");
        assert_eq!(network_of(address("192.0.2.1"), None), "192.0.2.1");
        assert_eq!(network_of(address("fd00::1"), Some(64)), "fd00::1/64");
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
