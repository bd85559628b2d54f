//! `/etc/ceph/ceph.conf`: rendered from node.yaml and from what the cluster is by now. Pure. The file itself keeps the
//! latter between runs: a boot must not forget the monitors that came since.

use std::net::IpAddr;

use serde_json::Value;

use crate::config::{NodeConfig, Role};

/// Modules that a hypervisor's node does not need; several cannot load on Debian 13 (PyO3 in sub-interpreters). The mgr is
/// the largest daemon of the node: this takes 130 MB off it.
const DISABLED_MODULES: &str = "restful zabbix influx telegraf alerts insights test_orchestrator selftest localpool mirroring snap_schedule stats osd_perf_query osd_support";

/// What the cluster is, as far as clients and daemons read it from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The cluster's identity.
    pub(super) fsid: String,
    /// Addresses of all monitors.
    pub(super) mon_host: String,
    /// Hosts with OSDs; more than three are counted as three.
    pub(super) hosts: u64,
}

/// What this node runs of Ceph beside OSDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The cluster's first monitor.
    FirstMonitor,
    /// A monitor that came later.
    Monitor,
    /// None.
    Client,
}

impl Part {
    /// Of a node.
    pub(super) fn of(role: Role, has_joined: bool) -> Part {
        match (role, has_joined) {
            (Role::Server, false) => Part::FirstMonitor,
            (Role::Server, true) => Part::Monitor,
            (Role::Agent, _) => Part::Client,
        }
    }
}

impl Facts {
    /// What a file holds; None when it is none of ours.
    pub(super) fn read(text: &str) -> Option<Facts> {
        let value = |key: &str| {
            text.lines().find_map(|l| l.split_once('=').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim()))
        };
        let by_host = value("osd_crush_chooseleaf_type") == Some("1");
        let size = value("osd_pool_default_size").and_then(|size| size.parse().ok());
        Some(Facts {
            fsid: value("fsid")?.to_owned(),
            mon_host: value("mon_host")?.to_owned(),
            hosts: size.filter(|_| by_host).unwrap_or(1),
        })
    }
}

/// `mon_host` of one monitor.
pub(super) fn monitor_address(address: IpAddr) -> String {
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    format!("[v2:{host}:3300,v1:{host}:6789]")
}

/// `mon_host` of all monitors, from the answer of `ceph mon dump`; by name, so that equal maps give equal files.
pub(super) fn monitor_addresses(dump: &Value) -> Option<String> {
    let mut all = Vec::new();
    for monitor in dump["mons"].as_array()? {
        let addresses = monitor["public_addrs"]["addrvec"].as_array()?.iter();
        let texts = addresses.map(|a| Some(format!("{}:{}", a["type"].as_str()?, a["addr"].as_str()?)));
        all.push((monitor["name"].as_str()?, format!("[{}]", texts.collect::<Option<Vec<_>>>()?.join(","))));
    }
    all.sort_unstable();
    let all: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
    if all.is_empty() { None } else { Some(all.join(" ")) }
}

/// Copies of everything, and how many of them must be there to write, with OSDs on so many hosts.
pub(crate) fn copies(hosts: u64) -> (u64, u64) {
    let size = hosts.clamp(1, 3);
    (size, size.div_ceil(2))
}

/// The file.
pub(super) fn render(config: &NodeConfig, facts: &Facts, part: Part) -> String {
    let (name, address) = (&config.hostname, config.management.address);
    let labels = &config.kubernetes.node_labels;
    let place = |key: &str, bucket: &str| labels.get(key).map(|v| format!(" {bucket}={v}")).unwrap_or_default();
    let zone = place("topology.kubernetes.io/zone", "datacenter");
    let rack = place("topology.kubernetes.io/rack", "rack");
    let memory = u64::from(config.ceph.osd_memory_mib) << 20;
    let Facts { fsid, mon_host, hosts } = facts;
    let initial = match part {
        Part::FirstMonitor => format!("mon_initial_members = {name}\n"),
        // It would take the others for strangers.
        Part::Monitor | Part::Client => String::new(),
    };
    let (size, min_size) = copies(*hosts);
    let replication = if size == 1 {
        "# One host: a copy on another host is impossible, and OSDs are told apart instead. `ceph health` says so.\n\
         osd_pool_default_size = 1\nosd_pool_default_min_size = 1\nmon_allow_pool_size_one = true\nosd_crush_chooseleaf_type = 0\n"
            .to_owned()
    } else {
        format!(
            "osd_pool_default_size = {size}\nosd_pool_default_min_size = {min_size}\nosd_crush_chooseleaf_type = 1\n"
        )
    };
    let daemons = match part {
        Part::Client => String::new(),
        // A monitor takes this address when it joins; later the map says it.
        Part::Monitor => format!("[mon]\npublic_addr = {address}\nmgr_initial_modules = iostat\n"),
        Part::FirstMonitor => "[mon]\nmgr_initial_modules = iostat\n".to_owned(),
    };
    let manager = match part {
        Part::Client => String::new(),
        Part::FirstMonitor | Part::Monitor => format!("[mgr]\nmgr_disabled_modules = {DISABLED_MODULES}\n"),
    };
    format!(
        "# Written by furrow-install from /etc/furrow/node.yaml.\n\
         [global]\nfsid = {fsid}\n{initial}\
         mon_host = {mon_host}\n\
         {replication}\
         auth_allow_insecure_global_id_reclaim = false\n\
         {daemons}{manager}\
         [osd]\nosd_memory_target = {memory}\ncrush_location = root=default{zone}{rack} host={name}\n\
         [client]\nrbd_default_clone_format = 2\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n2\nmanagement: {interface: e, address: 10.0.0.2}\nkubernetes: {nodeLabels: {topology.kubernetes.io/rack: r1}}\nceph: {disks: [{path: /dev/b}]}\n";
        crate::config::parse(text).expect("good")
    }

    fn facts(hosts: u64) -> Facts {
        Facts { fsid: "f".into(), mon_host: "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]".into(), hosts }
    }

    #[test]
    fn what_the_cluster_is_reads_back() {
        for hosts in 1..=3 {
            for part in [Part::FirstMonitor, Part::Monitor, Part::Client] {
                assert_eq!(Facts::read(&render(&config(), &facts(hosts), part)), Some(facts(hosts)), "{part:?}");
            }
        }
        assert_eq!(Facts::read("[global]\n"), None);
    }

    #[test]
    fn a_monitor_that_joins_has_its_address_and_no_initial_members() {
        let text = render(&config(), &facts(1), Part::Monitor);
        assert!(text.contains("[mon]\npublic_addr = 10.0.0.2\n") && !text.contains("mon_initial_members"), "{text}");
        let text = render(&config(), &facts(1), Part::FirstMonitor);
        assert!(text.contains("mon_initial_members = n2\n") && !text.contains("public_addr"), "{text}");
        assert!(!render(&config(), &facts(1), Part::Client).contains("[mon]"));
    }

    #[test]
    fn copies_follow_the_hosts() {
        assert_eq!([0, 1, 2, 3, 9].map(copies), [(1, 1), (1, 1), (2, 1), (3, 2), (3, 2)]);
        let text = render(&config(), &facts(3), Part::Client);
        assert!(text.contains("osd_pool_default_size = 3\nosd_pool_default_min_size = 2\n"), "{text}");
        assert!(text.contains("crush_location = root=default rack=r1 host=n2\n"), "{text}");
    }

    #[test]
    fn all_monitors_are_named_in_order() {
        let monitor = |name: &str, host: &str| {
            let address =
                |kind: &str, port: u16| serde_json::json!({"type": kind, "addr": format!("{host}:{port}"), "nonce": 0});
            serde_json::json!({"name": name, "public_addrs": {"addrvec": [address("v2", 3300), address("v1", 6789)]}})
        };
        let dump = serde_json::json!({"mons": [monitor("n2", "[fd00::2]"), monitor("n1", "10.0.0.1")]});
        let expected = "[v2:10.0.0.1:3300,v1:10.0.0.1:6789] [v2:[fd00::2]:3300,v1:[fd00::2]:6789]";
        assert_eq!(monitor_addresses(&dump).as_deref(), Some(expected));
        assert_eq!(monitor_address("10.0.0.1".parse().expect("an address")), "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]");
        assert_eq!(monitor_addresses(&serde_json::json!({"mons": []})), None);
    }
}
