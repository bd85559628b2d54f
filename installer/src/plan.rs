//! The bootstrap's plan: which steps bring a node to what its configuration says. Data with every name and path already
//! chosen; executing is [`crate::steps`]'s. Pure.
//!
//! The order is that of dependencies, with one liberty: Kubernetes is started first and waited for late, so that Ceph is
//! made while the API server comes up.

use std::fmt;

use crate::config::NodeConfig;
use crate::disks::Chosen;

/// One step. Each can be executed again at any time: it looks first and does what is missing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// The host name.
    Hostname,
    /// The cluster's own CA, on this node's disk.
    FurrowCa,
    /// k3s's configuration, manifests and images.
    KubernetesFiles,
    /// k3s is started, not waited for.
    KubernetesStart,
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
    /// Open vSwitch answers. Bridges are made by the agent from ProviderNetworks.
    OpenVSwitch,
    /// The API server answers.
    KubernetesReady,
    /// Identity and kubeconfig of the agent.
    AgentIdentity,
    /// Identity, kubeconfig and serving certificate of control.
    ControlIdentity,
    /// The agent and control run.
    Services,
    /// The node is Ready, the webhooks answer, the storage class is there.
    NodeReady,
}

impl Step {
    /// The step's name, in `plan --names`, the record and `FURROW_CRASH_AFTER`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Hostname => "hostname",
            Step::FurrowCa => "furrow-ca",
            Step::KubernetesFiles => "kubernetes-files",
            Step::KubernetesStart => "kubernetes-start",
            Step::KubernetesCertificates => "kubernetes-certificates",
            Step::CephMonitor => "ceph-monitor",
            Step::CephManager => "ceph-manager",
            Step::CephOsds(_) => "ceph-osds",
            Step::CephPool => "ceph-pool",
            Step::CephUsers => "ceph-users",
            Step::OpenVSwitch => "open-vswitch",
            Step::KubernetesReady => "kubernetes-ready",
            Step::AgentIdentity => "agent-identity",
            Step::ControlIdentity => "control-identity",
            Step::Services => "services",
            Step::NodeReady => "node-ready",
        }
    }
}

/// What would be done, for people.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Step::Hostname => "set the host name",
            Step::FurrowCa => "make the cluster's CA in /var/lib/furrow/ca, if there is none",
            Step::KubernetesFiles => "write /etc/rancher/k3s/config.yaml, manifests and images for k3s",
            Step::KubernetesStart => "enable and start k3s.service; restart it if its configuration changed",
            Step::KubernetesCertificates => "restart k3s.service if its certificates end within 60 days",
            Step::CephMonitor => "make /etc/ceph/ceph.conf, keyrings and a monitor, and start it",
            Step::CephManager => "make and start the manager",
            Step::CephOsds(disks) => return write_disks(f, disks),
            Step::CephPool => "make the pool `volumes` for RBD",
            Step::CephUsers => "make client.furrow-qemu and client.furrow-agent",
            Step::OpenVSwitch => "check that Open vSwitch answers",
            Step::KubernetesReady => "wait for the API server",
            Step::AgentIdentity => "request and approve the agent's certificate",
            Step::ControlIdentity => "request and approve control's certificates",
            Step::Services => "enable and start furrow-agent and furrow-control",
            Step::NodeReady => "wait until the node is Ready and admission answers",
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

/// The steps for a node that makes a new cluster.
pub(crate) fn plan(_config: &NodeConfig, disks: Vec<Chosen>) -> Vec<Step> {
    vec![
        Step::Hostname,
        Step::FurrowCa,
        Step::KubernetesFiles,
        Step::KubernetesStart,
        Step::CephMonitor,
        Step::CephManager,
        Step::CephOsds(disks),
        Step::CephPool,
        Step::CephUsers,
        Step::OpenVSwitch,
        Step::KubernetesReady,
        Step::AgentIdentity,
        Step::ControlIdentity,
        Step::Services,
        Step::NodeReady,
    ]
}

/// The steps that renew what ends with time, on a node that has been bootstrapped.
pub(crate) fn renewal() -> Vec<Step> {
    vec![Step::KubernetesCertificates, Step::KubernetesReady, Step::AgentIdentity, Step::ControlIdentity]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {interface: e, address: 10.0.0.1}\nceph: {disks: [{path: /dev/b}]}\n";
        plan(&crate::config::parse(text).expect("good"), Vec::new())
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = steps().iter().map(Step::name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn identities_come_before_services_and_after_the_api_server() {
        let at = |name: &str| steps().iter().position(|s| s.name() == name).expect("there");
        assert!(at("kubernetes-ready") < at("agent-identity"));
        assert!(at("furrow-ca") < at("kubernetes-files"), "manifests carry the CA");
        assert!(at("control-identity") < at("services") && at("ceph-users") < at("services"));
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
