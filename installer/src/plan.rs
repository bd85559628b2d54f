//! The bootstrap's plan: which steps bring a node to what its configuration says. Data with every name and path already
//! chosen; executing is [`crate::steps`]'s. Pure.
//!
//! The order is that of dependencies, with one liberty: Kubernetes is started first and waited for late, so that Ceph is
//! made while the API server comes up. A server that joins does what the first one did, from what it has fetched; an agent
//! leaves out the control plane.

use std::fmt;
use std::net::IpAddr;

use crate::config::{NodeConfig, Role};
use crate::disks::Chosen;

/// How the node comes to its cluster, as far as is known before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It makes the cluster, or has made it.
    Founder,
    /// It joins one; the role is None where the cluster has to be asked which it needs.
    Joiner(Option<Role>),
    /// It has joined one.
    Joined(Role),
}

/// One step. Each can be executed again at any time: it looks first and does what is missing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// The host name.
    Hostname,
    /// Time servers, proxy, root's password; in words.
    Settings(String),
    /// What a node needs is fetched from the cluster and kept.
    Join {
        /// Who is asked; None when that has been done.
        server: Option<String>,
        /// What the node becomes.
        role: Option<Role>,
    },
    /// The cluster's own CA, on this node's disk.
    FurrowCa {
        /// It is the one of a cluster that was there before.
        joins: bool,
    },
    /// k3s's configuration, manifests and images.
    KubernetesFiles,
    /// k3s is started, not waited for.
    KubernetesStart(Role),
    /// k3s is restarted if its certificates end soon.
    KubernetesCertificates,
    /// Monitor: keyrings, map, data, daemon.
    CephMonitor,
    /// Manager daemon.
    CephManager,
    /// An OSD on each disk.
    CephOsds(Vec<Chosen>),
    /// The pool for volumes.
    CephPool,
    /// The users of QEMU and of the agent, and their keyrings.
    CephUsers,
    /// Configuration and keyrings of a node without a monitor.
    CephClient,
    /// Open vSwitch answers. Bridges are made by the agent from ProviderNetworks.
    OpenVSwitch,
    /// The API server answers.
    KubernetesReady,
    /// Identity and kubeconfig of the agent.
    AgentIdentity,
    /// Identity, kubeconfig and serving certificate of control.
    ControlIdentity,
    /// The agent runs, and control on servers.
    Services(Role),
    /// The node is Ready; on servers the webhooks answer and the storage class is there.
    NodeReady,
    /// keepalived has its part in the servers' common address.
    VirtualAddress(IpAddr),
}

impl Step {
    /// The step's name, in `plan --names`, the record and `FURROW_CRASH_AFTER`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Hostname => "hostname",
            Step::Settings(_) => "settings",
            Step::Join { .. } => "join",
            Step::FurrowCa { .. } => "furrow-ca",
            Step::KubernetesFiles => "kubernetes-files",
            Step::KubernetesStart(_) => "kubernetes-start",
            Step::KubernetesCertificates => "kubernetes-certificates",
            Step::CephMonitor => "ceph-monitor",
            Step::CephManager => "ceph-manager",
            Step::CephOsds(_) => "ceph-osds",
            Step::CephPool => "ceph-pool",
            Step::CephUsers => "ceph-users",
            Step::CephClient => "ceph-client",
            Step::OpenVSwitch => "open-vswitch",
            Step::KubernetesReady => "kubernetes-ready",
            Step::AgentIdentity => "agent-identity",
            Step::ControlIdentity => "control-identity",
            Step::Services(_) => "services",
            Step::NodeReady => "node-ready",
            Step::VirtualAddress(_) => "virtual-address",
        }
    }
}

/// What would be done, for people.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Step::Hostname => "set the host name",
            Step::Settings(what) => return write!(f, "set {what}"),
            Step::Join { server: None, .. } => "nothing to ask: the node has joined",
            Step::Join { server: Some(server), role } => return write_join(f, server, *role),
            Step::FurrowCa { joins: false } => "make the cluster's CA in /var/lib/furrow/ca, if there is none",
            Step::FurrowCa { joins: true } => "put the cluster's CA in /var/lib/furrow/ca",
            Step::KubernetesFiles => "write /etc/rancher/k3s/config.yaml, manifests and images for k3s",
            Step::KubernetesStart(Role::Server) => {
                "enable and start k3s.service; restart it if its configuration changed"
            }
            Step::KubernetesStart(Role::Agent) => {
                "enable and start k3s-agent.service; restart it if its configuration changed"
            }
            Step::KubernetesCertificates => "restart k3s.service if its certificates end within 60 days",
            Step::CephMonitor => "make /etc/ceph/ceph.conf, keyrings and a monitor, and start it",
            Step::CephManager => "make and start the manager",
            Step::CephOsds(disks) => return write_disks(f, disks),
            Step::CephPool => "make the pool `volumes` for RBD",
            Step::CephUsers => "make client.furrow-qemu and client.furrow-agent",
            Step::CephClient => {
                "write /etc/ceph/ceph.conf and the keyrings of client.furrow-qemu and client.furrow-agent"
            }
            Step::OpenVSwitch => "check that Open vSwitch answers",
            Step::KubernetesReady => "wait for the API server",
            Step::AgentIdentity => "request and approve the agent's certificate",
            Step::ControlIdentity => "request and approve control's certificates",
            Step::Services(Role::Server) => "enable and start furrow-agent and furrow-control",
            Step::Services(Role::Agent) => "enable and start furrow-agent",
            Step::NodeReady => "wait until the node is Ready and its services answer",
            Step::VirtualAddress(vip) => return write!(f, "enable and start keepalived for {vip}"),
        };
        f.write_str(text)
    }
}

fn write_disks(f: &mut fmt::Formatter<'_>, disks: &[Chosen]) -> fmt::Result {
    f.write_str("make and start an OSD on")?;
    for disk in disks {
        let gb = disk.size / 1_000_000_000;
        let what = match (disk.is_osd, disk.wipe) {
            (true, _) => "is one already; kept if it is of this cluster",
            (false, true) => "ITS DATA, IF ANY, IS ERASED",
            (false, false) => "empty",
        };
        write!(f, " {} ({gb} GB, {what})", disk.path)?;
    }
    Ok(())
}

fn write_join(f: &mut fmt::Formatter<'_>, server: &str, role: Option<Role>) -> fmt::Result {
    write!(
        f,
        "ask {server}, if its CA is the one that the token names, for what a node needs; the token is used up. "
    )?;
    match role {
        Some(role) => write!(f, "The node becomes: {}", role.name()),
        None => f.write_str(
            "The node becomes a server while the cluster has fewer than three, otherwise an agent; the rest of the plan \
             follows then",
        ),
    }
}

/// The steps for a node. Where the cluster has to be asked first, those up to that question.
pub(crate) fn plan(config: &NodeConfig, membership: Membership, disks: Vec<Chosen>) -> Vec<Step> {
    let mut steps = vec![Step::Hostname, Step::Settings(crate::settings::describe(config))];
    let role = match membership {
        Membership::Founder => Some(Role::Server),
        Membership::Joiner(role) => {
            let server = config.join.as_ref().map(|join| join.server.clone());
            steps.push(Step::Join { server, role });
            role
        }
        Membership::Joined(role) => {
            steps.push(Step::Join { server: None, role: Some(role) });
            Some(role)
        }
    };
    match role {
        Some(Role::Server) => steps.extend(server(config, membership != Membership::Founder, disks)),
        Some(Role::Agent) => steps.extend(agent(disks)),
        None => {}
    }
    steps
}

fn server(config: &NodeConfig, joins: bool, disks: Vec<Chosen>) -> Vec<Step> {
    let mut steps = vec![
        Step::FurrowCa { joins },
        Step::KubernetesFiles,
        Step::KubernetesStart(Role::Server),
        Step::CephMonitor,
        Step::CephManager,
        Step::CephOsds(disks),
        Step::CephPool,
        Step::CephUsers,
        Step::OpenVSwitch,
        Step::KubernetesReady,
        Step::AgentIdentity,
        Step::ControlIdentity,
        Step::Services(Role::Server),
        Step::NodeReady,
    ];
    steps.extend(config.management.vip.map(Step::VirtualAddress));
    steps
}

fn agent(disks: Vec<Chosen>) -> Vec<Step> {
    vec![
        Step::KubernetesFiles,
        Step::KubernetesStart(Role::Agent),
        Step::CephClient,
        Step::CephOsds(disks),
        Step::OpenVSwitch,
        Step::KubernetesReady,
        Step::AgentIdentity,
        Step::Services(Role::Agent),
        Step::NodeReady,
    ]
}

/// The steps that renew what ends with time, on a node that has been bootstrapped. An agent's kubelet renews its own.
pub(crate) fn renewal(role: Role) -> Vec<Step> {
    match role {
        Role::Server => {
            vec![Step::KubernetesCertificates, Step::KubernetesReady, Step::AgentIdentity, Step::ControlIdentity]
        }
        Role::Agent => vec![Step::KubernetesReady, Step::AgentIdentity],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUNDER: &str = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {interface: e, address: 10.0.0.1}\nceph: {disks: [{path: /dev/b}]}\n";

    fn steps(text: &str, membership: Membership) -> Vec<Step> {
        plan(&crate::config::parse(text).expect("good"), membership, Vec::new())
    }

    fn joiner(role: Option<Role>) -> Vec<Step> {
        let join = "join: {server: 'https://10.0.0.1:6443', tokenFile: /t}";
        steps(&format!("{join}\n{FOUNDER}"), Membership::Joiner(role))
    }

    fn names(steps: &[Step]) -> Vec<&'static str> {
        steps.iter().map(Step::name).collect()
    }

    #[test]
    fn names_are_unique() {
        for steps in [steps(FOUNDER, Membership::Founder), joiner(Some(Role::Server)), joiner(Some(Role::Agent))] {
            let mut names = names(&steps);
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }

    #[test]
    fn identities_come_before_services_and_after_the_api_server() {
        for steps in [steps(FOUNDER, Membership::Founder), joiner(Some(Role::Server))] {
            let at = |name: &str| steps.iter().position(|s| s.name() == name).expect("there");
            assert!(at("kubernetes-ready") < at("agent-identity"));
            assert!(at("furrow-ca") < at("kubernetes-files"), "manifests carry the CA");
            assert!(at("control-identity") < at("services") && at("ceph-users") < at("services"));
        }
    }

    #[test]
    fn a_server_that_joins_asks_first_and_then_does_what_the_first_one_did() {
        let mut expected = names(&steps(FOUNDER, Membership::Founder));
        expected.insert(2, "join");
        assert_eq!(names(&joiner(Some(Role::Server))), expected);
        // Also when node.yaml does not say so any more.
        assert_eq!(names(&steps(FOUNDER, Membership::Joined(Role::Server))), expected);
    }

    #[test]
    fn an_agent_has_no_part_of_the_control_plane() {
        let names = names(&joiner(Some(Role::Agent)));
        assert_eq!(names[..3], ["hostname", "settings", "join"]);
        for part in ["furrow-ca", "ceph-monitor", "ceph-manager", "ceph-pool", "ceph-users", "control-identity"] {
            assert!(!names.contains(&part), "{part}");
        }
        assert!(names.contains(&"ceph-client") && names.contains(&"ceph-osds"));
    }

    #[test]
    fn where_the_cluster_decides_the_plan_ends_with_the_question() {
        let steps = joiner(None);
        assert_eq!(names(&steps), ["hostname", "settings", "join"]);
        assert!(steps[2].to_string().ends_with("the rest of the plan follows then"), "{}", steps[2]);
    }

    #[test]
    fn the_common_address_comes_last_and_for_servers_only() {
        let text = FOUNDER.replace("address: 10.0.0.1", "address: 10.0.0.1, vip: 10.0.0.9");
        let last = |membership| steps(&text, membership).last().map(ToString::to_string);
        assert_eq!(last(Membership::Founder).as_deref(), Some("enable and start keepalived for 10.0.0.9"));
        assert_eq!(steps(&text, Membership::Joiner(Some(Role::Agent))).last(), Some(&Step::NodeReady));
    }

    #[test]
    fn erasing_is_said_in_capitals() {
        let disk = Chosen {
            path: "/dev/b".into(),
            size: 5_000_000_000,
            wipe: true,
            is_osd: false,
            selector: "path=/dev/b".into(),
        };
        assert!(Step::CephOsds(vec![disk]).to_string().contains("/dev/b (5 GB, ITS DATA, IF ANY, IS ERASED)"));
    }
}
