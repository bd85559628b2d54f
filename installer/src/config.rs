//! `/etc/furrow/node.yaml`: what an administrator says about a node. Strict: an unknown key, a wrong type or a value out
//! of range is refused with line, key and what was expected. Reads nothing but the text it is given.
//!
//! Every key is documented in `installer/node.yaml.md`; a test keeps the two equal. How the node is on its network, and
//! through what it reaches others, is [`network`]'s; how a secret is written, [`secret`]'s.

mod cpus;
mod huge_pages;
mod network;
mod secret;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub(crate) use self::cpus::{DedicatedCpus, TopologyPolicy, kubelet_flags};
pub(crate) use self::huge_pages::{HugePages, PageSize, at_start, total_mib};
pub(crate) use self::network::{Bond, BondMode, Proxy, SecondAddress, is_mac};
pub(crate) use self::secret::{Secret, SecretKey, unwrapped};

use crate::places::line_of;

/// The only version of the document so far.
pub(crate) const API_VERSION: &str = "furrow.io/v1alpha1";

/// The document.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// `furrow.io/v1alpha1`.
    pub(crate) api_version: String,
    /// `Node`.
    pub(crate) kind: String,
    /// Host name, and the node's name in Kubernetes.
    pub(crate) hostname: String,
    /// The management network.
    pub(crate) management: Management,
    /// What the node is. Absent: a server without `join`, with it what the cluster needs.
    pub(crate) role: Option<Role>,
    /// The cluster that the node joins; without it, it makes a new one.
    pub(crate) join: Option<Join>,
    /// Kubernetes.
    #[serde(default)]
    pub(crate) kubernetes: Kubernetes,
    /// Storage.
    pub(crate) ceph: Ceph,
    /// Who may log in.
    #[serde(default)]
    pub(crate) admin: Admin,
    /// Time servers, by name or address. Absent: those of DHCP and Debian's pool.
    #[serde(default)]
    pub(crate) ntp: Vec<String>,
    /// Through what the node reaches servers outside.
    pub(crate) proxy: Option<Proxy>,
    /// Installation to a disk; no other command reads it.
    pub(crate) install: Option<Install>,
}

/// How a node comes into a cluster that is there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Join {
    /// `https://ADDRESS:6443` of a server of the cluster, or of the servers' common address.
    pub(crate) server: String,
    /// One-time token, as `furrow-install token create` prints it on a server.
    pub(crate) token: Option<Secret>,
    /// File that holds the token.
    pub(crate) token_file: Option<String>,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Who may log in, as root.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Admin {
    /// Public keys, as in `authorized_keys`.
    pub(crate) ssh_keys: Vec<String>,
    /// Root's password on consoles, as crypt(5) writes it.
    pub(crate) password_hash: Option<Secret>,
}

/// How the system comes to a disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Install {
    /// The disk; all criteria that are given must hold, for one disk.
    pub(crate) disk: DiskSelector,
    /// Which of several disks.
    pub(crate) pick: Option<Pick>,
    /// Switch off afterwards instead of restarting.
    #[serde(default)]
    pub(crate) power_off: bool,
    /// Who is told of it.
    pub(crate) webhook: Option<Webhook>,
}

/// Where events of the installation go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Webhook {
    /// `https://...` or `http://...`; each event is one POST.
    pub(crate) url: String,
    /// Certificates in PEM, trusted instead of the system's.
    pub(crate) ca: Option<String>,
}

/// Which of several disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Pick {
    /// The one with the most bytes.
    Largest,
    /// The one with the fewest.
    Smallest,
}

/// The network that nodes talk to each other on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Management {
    /// NIC, or the bond's name. It is never given to Open vSwitch.
    pub(crate) interface: String,
    /// Makes `interface` a bond of NICs.
    pub(crate) bond: Option<Bond>,
    /// VLAN tag: addresses are on `interface.TAG` then.
    pub(crate) vlan: Option<u16>,
    /// The node's address on it.
    pub(crate) address: IpAddr,
    /// Bits of the network's prefix; with it the address is static, without it DHCP must give that very address.
    pub(crate) prefix_length: Option<u8>,
    /// Default route.
    pub(crate) gateway: Option<IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub(crate) dns: Vec<IpAddr>,
    /// Domains that short names are looked up in.
    #[serde(default)]
    pub(crate) search_domains: Vec<String>,
    /// An address of the other family beside `address`; the cluster speaks `address`.
    pub(crate) second: Option<SecondAddress>,
    /// An address that one of the servers that live always has, for the API and for what joins.
    pub(crate) vip: Option<IpAddr>,
}

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Role {
    /// Runs the control plane, and guests.
    Server,
    /// Runs guests only.
    Agent,
}

impl Role {
    /// As in the document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// Settings of Kubernetes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Kubernetes {
    /// Addresses of pods.
    pub(crate) cluster_cidr: String,
    /// Addresses of Services.
    pub(crate) service_cidr: String,
    /// Address of the cluster's DNS, inside `serviceCidr`.
    pub(crate) cluster_dns: Ipv4Addr,
    /// More names and addresses for the API server's certificate.
    pub(crate) tls_sans: Vec<String>,
    /// Labels of the node.
    pub(crate) node_labels: BTreeMap<String, String>,
    /// Which processors pods and guests may have to themselves.
    pub(crate) cpu_manager: Option<DedicatedCpus>,
    /// `none`, `best-effort`, `restricted` or `single-numa-node`. Absent: the kubelet's own, `none`.
    pub(crate) topology_manager_policy: Option<TopologyPolicy>,
    /// Memory that is kept in huge pages: how many of each size.
    pub(crate) huge_pages: HugePages,
}

impl Default for Kubernetes {
    fn default() -> Kubernetes {
        Kubernetes {
            cluster_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.43.0.0/16".into(),
            cluster_dns: Ipv4Addr::new(10, 43, 0, 10),
            tls_sans: Vec::new(),
            node_labels: BTreeMap::new(),
            cpu_manager: None,
            topology_manager_policy: None,
            huge_pages: HugePages::new(),
        }
    }
}

/// Settings of Ceph.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Ceph {
    /// Disks for OSDs. Each entry selects one or more; a disk that holds data is refused unless the entry says `wipe: true`.
    pub(crate) disks: Vec<DiskSelector>,
    /// Memory that an OSD aims at, MiB.
    #[serde(default = "default_osd_memory")]
    pub(crate) osd_memory_mib: u32,
}

fn default_osd_memory() -> u32 {
    1024
}

/// Which disks; all criteria that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DiskSelector {
    /// Device path, such as `/dev/nvme0n1` or `/dev/disk/by-id/...`.
    pub(crate) path: Option<String>,
    /// Serial number or WWN.
    pub(crate) id: Option<String>,
    /// Model, as `lsblk` shows it.
    pub(crate) model: Option<String>,
    /// Partition label.
    pub(crate) partition_label: Option<String>,
    /// Least size, such as `500G` or `2T` (powers of 1000) or `1Ti` (of 1024).
    pub(crate) min_size: Option<String>,
    /// Allows erasing, once, what the disk holds. Only where `path`, `id` or `partitionLabel` names the disk.
    pub(crate) wipe: bool,
}

impl DiskSelector {
    /// Whether it can only mean one certain disk, rather than describe some.
    pub(crate) fn names_a_disk(&self) -> bool {
        self.path.is_some() || self.id.is_some() || self.partition_label.is_some()
    }
}

/// The criteria, for people and for the record of what a selector has been used for.
impl std::fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let criteria = [
            ("path", &self.path),
            ("id", &self.id),
            ("model", &self.model),
            ("partitionLabel", &self.partition_label),
            ("minSize", &self.min_size),
        ];
        let said: Vec<String> =
            criteria.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?))).collect();
        f.write_str(&said.join(" "))
    }
}

/// Why a document is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// Not YAML, an unknown key, a wrong type; the parser names line and column.
    #[error("{0}")]
    Syntax(String),
    /// A value that the type allows and the meaning does not.
    #[error("{}{key}: {found} is not allowed, expected {expected}", .line.map(|n| format!("line {n}: ")).unwrap_or_default())]
    Value {
        /// Where the value stands; None for one that the document does not give.
        line: Option<u64>,
        key: String,
        found: String,
        expected: String,
    },
}

/// Parses and validates a document.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    let config: NodeConfig = serde_saphyr::from_str(text)
        .map_err(|error| ConfigError::Syntax(shown(&error, SECRET_KEYS.iter().any(|key| text.contains(key)))))?;
    check(&config).map_err(|refusal| ConfigError::Value {
        line: line_of(text, &refusal.key),
        key: refusal.key,
        found: refusal.found,
        expected: refusal.expected,
    })?;
    Ok(config)
}

/// Keys whose values are shown to nobody: a token, a password's hash, a proxy's login.
const SECRET_KEYS: [&str; 3] = ["token", "passwordHash", "proxy"];

/// The parser's refusal. It shows the lines around the fault, which are left out where they could hold a secret, and what
/// it found there, of which a secret is hidden.
fn shown(error: &serde_saphyr::Error, has_secret: bool) -> String {
    if !has_secret {
        return error.to_string();
    }
    let message = error.without_snippet().to_string();
    let is_secret = |word: &str| word.contains("K10") || word.contains('$') || word.contains("://");
    let hide = |word: &str| if is_secret(word) { "(hidden)".to_owned() } else { word.to_owned() };
    message.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

/// A value that is not allowed, by its key.
struct Refusal {
    key: String,
    found: String,
    expected: String,
}

fn refuse(key: impl Into<String>, found: impl ToString, expected: &str) -> Result<(), Refusal> {
    Err(Refusal { key: key.into(), found: format!("`{}`", found.to_string()), expected: expected.into() })
}

fn check(config: &NodeConfig) -> Result<(), Refusal> {
    if config.api_version != API_VERSION {
        return refuse("apiVersion", &config.api_version, API_VERSION);
    }
    if config.kind != "Node" {
        return refuse("kind", &config.kind, "Node");
    }
    if !is_dns_label(&config.hostname) {
        return refuse("hostname", &config.hostname, "a DNS label: 1-63 of a-z, 0-9 and -, not at the ends");
    }
    network::check_management(&config.management)?;
    network::check_ntp(&config.ntp)?;
    if let Some(proxy) = &config.proxy {
        network::check_proxy(proxy)?;
    }
    match &config.join {
        Some(join) => check_join(join)?,
        None if config.role == Some(Role::Agent) => {
            return refuse("role", "agent", "server, or a section `join`: a cluster begins with a server");
        }
        None => {}
    }
    for (key, cidr) in [
        ("kubernetes.clusterCidr", &config.kubernetes.cluster_cidr),
        ("kubernetes.serviceCidr", &config.kubernetes.service_cidr),
    ] {
        if !is_cidr(cidr) {
            return refuse(key, cidr, "an IPv4 network such as 10.42.0.0/16");
        }
    }
    cpus::check(&config.kubernetes)?;
    huge_pages::check(&config.kubernetes.huge_pages)?;
    if config.ceph.disks.is_empty() {
        return refuse("ceph.disks", "[]", "at least one selector");
    }
    if config.ceph.osd_memory_mib < 896 {
        return refuse("ceph.osdMemoryMib", config.ceph.osd_memory_mib, "at least 896 MiB, Ceph's own minimum");
    }
    if let Some(key) = config.admin.ssh_keys.iter().find(|key| !is_ssh_key(key)) {
        return refuse("admin.sshKeys", key, "public keys such as `ssh-ed25519 AAAA... name`");
    }
    secret::check_secrets(config)?;
    if let Some(install) = &config.install {
        check_selector("install.disk", &install.disk)?;
        check_webhook(install.webhook.as_ref())?;
    }
    let mut disks = config.ceph.disks.iter().enumerate();
    disks.try_for_each(|(n, disk)| check_selector(&format!("ceph.disks[{n}]"), disk))
}

fn check_join(join: &Join) -> Result<(), Refusal> {
    let host = join.server.strip_prefix("https://").and_then(|rest| rest.strip_suffix(":6443"));
    let plain = |host: &str| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    if !(host.is_some_and(plain) && join.server.parse::<http::Uri>().is_ok()) {
        return refuse("join.server", &join.server, "a server's address as https://ADDRESS:6443");
    }
    match (&join.token, &join.token_file) {
        (None, Some(path)) if !path.starts_with('/') => refuse("join.tokenFile", path, "an absolute path"),
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (Some(_), Some(path)) => refuse("join.tokenFile", path, "either token or tokenFile"),
        (None, None) => refuse("join", "no token", "token or tokenFile beside server"),
    }
}

/// One line of a kind, base64 and maybe a comment.
fn is_ssh_key(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let kind = words.next().is_some_and(|k| k.starts_with("ssh-") || k.starts_with("ecdsa-") || k.starts_with("sk-"));
    kind && words.next().is_some_and(|data| data.starts_with("AAAA")) && !text.contains('\n')
}

/// `$METHOD$...$...` of a method that is not broken, in crypt(5)'s letters only.
pub(crate) fn is_password_hash(text: &str) -> bool {
    let of_crypt = |c: char| c.is_ascii_alphanumeric() || "./$,=".contains(c);
    let method = ["$y$", "$6$", "$5$"].iter().find_map(|method| text.strip_prefix(method));
    let parts = method.map(|rest| rest.split('$').filter(|part| !part.is_empty()).count());
    parts.is_some_and(|parts| parts >= 2) && (40..=300).contains(&text.len()) && text.chars().all(of_crypt)
}

fn check_selector(key: &str, disk: &DiskSelector) -> Result<(), Refusal> {
    let criteria = [&disk.path, &disk.id, &disk.model, &disk.partition_label, &disk.min_size];
    if criteria.iter().all(|c| c.is_none()) {
        return refuse(key, "no criterion", "at least one of path, id, model, partitionLabel, minSize");
    }
    if disk.wipe && !disk.names_a_disk() {
        return refuse(
            format!("{key}.wipe"),
            "true",
            "path, id or partitionLabel beside it: erasing needs a disk's name",
        );
    }
    if let Some(size) = &disk.min_size
        && size_bytes(size).is_none()
    {
        return refuse(format!("{key}.minSize"), size, "a size such as 500G, 2T or 1Ti");
    }
    match &disk.path {
        Some(path) if !path.starts_with("/dev/") => refuse(format!("{key}.path"), path, "a path below /dev/"),
        _ => Ok(()),
    }
}

fn check_webhook(webhook: Option<&Webhook>) -> Result<(), Refusal> {
    let Some(webhook) = webhook else { return Ok(()) };
    if !is_http_url(&webhook.url) {
        return refuse("install.webhook.url", &webhook.url, "a URL such as https://server/path");
    }
    match &webhook.ca {
        Some(ca) if x509_parser::pem::parse_x509_pem(ca.as_bytes()).is_err() => {
            refuse("install.webhook.ca", "(text)", "certificates in PEM")
        }
        _ => Ok(()),
    }
}

/// Whether this names a server by http or https.
fn is_http_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.host().is_some_and(|host| !host.is_empty()) && matches!(uri.scheme_str(), Some("http" | "https"))
    })
}

fn is_dns_label(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    inner && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    address.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= 28)
}

/// Bytes of a size such as `500G` or `1Ti`.
pub(crate) fn size_bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match &text[end..] {
        "" => 1,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    text[..end].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement:\n  interface: eth0\n  address: 10.0.0.1\nceph:\n  disks:\n    - path: /dev/vdb\n";

    fn check_refused(from: &str, to: &str, expected: &str) {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "the test changes nothing");
        let error = parse(&text).expect_err("it was accepted").to_string();
        assert!(error.contains(expected), "`{error}` does not contain `{expected}`");
    }

    #[test]
    fn a_minimal_document_is_accepted_and_has_defaults() {
        let config = parse(GOOD).expect("good");
        assert_eq!(config.kubernetes.cluster_cidr, "10.42.0.0/16");
        assert_eq!((config.role, config.join), (None, None));
        assert_eq!(config.ceph.osd_memory_mib, 1024);
    }

    #[test]
    fn refusals_name_the_key_and_what_was_expected() {
        check_refused(
            "v1alpha1",
            "v2",
            "line 1: apiVersion: `furrow.io/v2` is not allowed, expected furrow.io/v1alpha1",
        );
        check_refused("hostname: n1", "hostname: N_1", "line 3: hostname: `N_1` is not allowed, expected a DNS label");
        check_refused(
            "path: /dev/vdb",
            "path: vdb",
            "line 9: ceph.disks[0].path: `vdb` is not allowed, expected a path below /dev/",
        );
        check_refused("path: /dev/vdb", "wipe: true", "line 9: ceph.disks[0]: `no criterion`");
        check_refused(
            "path: /dev/vdb",
            "model: BIG\n      wipe: true",
            "line 10: ceph.disks[0].wipe: `true` is not allowed",
        );
        check_refused("path: /dev/vdb", "minSize: big", "line 9: ceph.disks[0].minSize");
        check_refused("kind: Node", "kind: Node\ninstall: {disk: {}}", "line 3: install.disk: `no criterion`");
        let install = |webhook: &str| format!("kind: Node\ninstall: {{disk: {{id: A}}, webhook: {webhook}}}");
        check_refused("kind: Node", &install("{url: server}"), "line 3: install.webhook.url: `server` is not allowed");
        check_refused("kind: Node", &install("{url: 'https://a/b', ca: x}"), "install.webhook.ca: `(text)`");
        check_refused("kind: Node", &install("{urls: a}"), "urls");
        check_refused("kind: Node", "kind: Node\nadmin: {sshKeys: [secret]}", "line 3: admin.sshKeys: `secret`");
        check_refused("10.0.0.1", "10.0.0.1\n  gateway: 10.0.0.2", "management.prefixLength: `nothing`");
        check_refused("10.0.0.1", "10.0.0.1\n  prefixLength: 33", "line 7: management.prefixLength: `33`");
        check_refused(
            "kind: Node",
            "kind: Node\nrole: agent",
            "line 3: role: `agent` is not allowed, expected server, or",
        );
        check_refused("10.0.0.1", "10.0.0.1\n  vip: fd00::1", "line 7: management.vip: `fd00::1` is not allowed");
        check_refused("10.0.0.1", "10.0.0.1\n  vip: 10.0.0.1", "an address that is no node's own");
    }

    const TOKEN: &str = "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::abcdef.0123456789abcdef";

    fn check_join_refused(section: &str, expected: &str) {
        check_refused("kind: Node", &format!("kind: Node\njoin: {section}"), expected);
    }

    #[test]
    fn what_cannot_be_joined_is_refused() {
        check_join_refused("{server: 'https://10.0.0.1:6443'}", "line 3: join: `no token` is not allowed");
        let with = |server: &str| format!("{{server: '{server}', token: '{TOKEN}'}}");
        check_join_refused(&with("10.0.0.1"), "line 3: join.server: `10.0.0.1` is not allowed");
        check_join_refused(&with("https://a/b:6443"), "line 3: join.server");
        check_join_refused(&with("http://10.0.0.1:6443"), "line 3: join.server");
        let both = format!("{{server: 'https://a:6443', token: '{TOKEN}', tokenFile: /a}}");
        check_join_refused(&both, "line 3: join.tokenFile: `/a` is not allowed, expected either token or tokenFile");
        check_join_refused("{server: 'https://a:6443', tokenFile: a}", "expected an absolute path");
    }

    #[test]
    fn a_token_is_never_shown() {
        check_join_refused("{server: 'https://a:6443', token: abcdef.0123456789abcde}", "join.token: `(hidden)`");
        for text in [
            format!("join:\n  server: https://a:6443\n  token: {TOKEN}\n  tokens: 1\n{GOOD}"),
            format!("join: {{server: 'https://a:6443', token: '{TOKEN}', more: 1}}\n{GOOD}"),
            format!("join:\n  server: https://a:6443\n  token:\n    {TOKEN}\n  more: 1\n{GOOD}"),
            format!("join: {TOKEN}\nadmin: {{token: 1}}\n{GOOD}"),
        ] {
            let error = parse(&text).expect_err("it was accepted").to_string();
            assert!(!error.contains("0123456789"), "{error}");
        }
        let good = format!("join:\n  server: https://a:6443\n  token: {TOKEN}\n{GOOD}");
        let shown = format!("{:?}", parse(&good).expect("good"));
        assert!(!shown.contains("0123456789"), "{shown}");
    }

    #[test]
    fn syntax_errors_name_line_and_key() {
        check_refused("hostname: n1", "hostnam: n1", "hostnam");
        check_refused("hostname: n1", "hostnam: n1", "line 3");
        check_refused("address: 10.0.0.1", "address: somewhere", "line 6");
    }

    #[test]
    fn every_key_is_in_the_reference() {
        let reference = include_str!("../node.yaml.md");
        let source = [include_str!("config.rs"), include_str!("config/cpus.rs"), include_str!("config/network.rs")];
        let source = source.map(|text| text.split("#[cfg(test)]").next().unwrap_or("")).concat();
        let fields =
            source.lines().filter_map(|l| l.trim().strip_prefix("pub(crate) ")?.split_once(": ").map(|(f, _)| f));
        for field in fields.filter(|f| !f.contains([' ', '('])) {
            let mut key = String::new();
            let mut upper = false;
            for c in field.chars() {
                match c {
                    '_' => upper = true,
                    c if upper => {
                        key.extend(c.to_uppercase());
                        upper = false;
                    }
                    c => key.push(c),
                }
            }
            assert!(reference.contains(&format!("`{key}`")), "node.yaml.md does not document `{key}`");
        }
    }
}
