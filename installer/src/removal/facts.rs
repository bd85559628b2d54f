//! What is known of a cluster when a node is to leave it. Data only: [`super::observe`] gathers it, [`super::plan`] decides.

use std::collections::BTreeSet;

/// Everything that the plan is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// The node that is to go.
    pub(crate) name: String,
    /// The node that this runs on.
    pub(crate) own: String,
    /// Its object in Kubernetes; None when there is none (any more).
    pub(crate) node: Option<NodeFacts>,
    /// An earlier run has told the cluster that it is removed: it takes nothing from this node any more.
    pub(crate) is_marked: bool,
    /// That run saw it as a server.
    pub(crate) was_server: bool,
    /// The other nodes.
    pub(crate) others: Vec<NodeFacts>,
    /// Members of etcd.
    pub(crate) members: Vec<Voter>,
    /// Ceph's monitors.
    pub(crate) monitors: Vec<Voter>,
    /// OSDs of the node.
    pub(crate) osds: Vec<Osd>,
    /// The other hosts with OSDs that are up and in.
    pub(crate) hosts: Vec<Host>,
    /// Whether Ceph knows a host of its name, with OSDs or without.
    pub(crate) has_bucket: bool,
    /// Pools.
    pub(crate) pools: Vec<Pool>,
    /// States of placement groups that do not serve, with their number.
    pub(crate) idle_groups: Vec<String>,
    /// Objects of which no copy is known to be anywhere.
    pub(crate) unfound: u64,
    /// Guests on the node.
    pub(crate) guests: Vec<Guest>,
    /// DataVolumes that the node is filling.
    pub(crate) imports: Vec<String>,
}

/// A node of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    /// Its name.
    pub(crate) name: String,
    /// Its kubelet reports, and that all is well.
    pub(crate) is_ready: bool,
    /// Pods are not sent there.
    pub(crate) is_cordoned: bool,
    /// It runs the control plane.
    pub(crate) is_server: bool,
    /// `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
    /// Its address on the management network.
    pub(crate) address: Option<String>,
}

/// A member of etcd, or a monitor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Voter {
    /// The node.
    pub(crate) name: String,
    /// It takes part: it answers, or is in quorum.
    pub(crate) answers: bool,
}

/// An OSD of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Osd {
    /// Its number.
    pub(crate) id: u64,
    /// Its daemon runs.
    pub(crate) is_up: bool,
    /// Bytes on it.
    pub(crate) used: u64,
}

/// A host with OSDs that are up and in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Host {
    /// Its name.
    pub(crate) name: String,
    /// Bytes on its OSDs.
    pub(crate) used: u64,
    /// Bytes that they can hold.
    pub(crate) size: u64,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) name: String,
    /// Copies that it keeps.
    pub(crate) size: u64,
    /// What each copy is to be on another of: `osd`, `host`, `rack` and so on.
    pub(crate) domain: String,
    /// How many such places hold data without the node.
    pub(crate) places: u64,
}

/// A guest on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Guest {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name of the VirtualMachineInstance.
    pub(crate) name: String,
    /// A VirtualMachine owns it, and so makes it anew.
    pub(crate) has_vm: bool,
    /// It starts anew by itself.
    pub(crate) restarts: bool,
    /// It may run on this node only.
    pub(crate) is_pinned: bool,
}

impl Guest {
    /// As people name it.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Facts {
    /// Whether anything in the cluster knows the node.
    pub(crate) fn is_known(&self) -> bool {
        self.node.is_some()
            || self.is_marked
            || self.has_bucket
            || !self.osds.is_empty()
            || self.members.iter().chain(&self.monitors).any(|voter| voter.name == self.name)
    }

    /// Whether the node has, or had, a part of the control plane.
    pub(crate) fn is_server(&self) -> bool {
        self.was_server
            || self.node.as_ref().is_some_and(|node| node.is_server)
            || self.members.iter().chain(&self.monitors).any(|voter| voter.name == self.name)
    }

    /// Whether the node takes part in the cluster: then it is emptied, otherwise it is taken for lost.
    pub(crate) fn is_alive(&self) -> bool {
        !self.is_marked && self.node.as_ref().is_some_and(|node| node.is_ready)
    }

    /// The servers that remain.
    pub(crate) fn other_servers(&self) -> impl Iterator<Item = &NodeFacts> {
        self.others.iter().filter(|node| node.is_server)
    }

    /// The worker that is to become a server: one in a zone that has none before one in a zone that has.
    pub(crate) fn successor(&self) -> Option<&NodeFacts> {
        let zones: BTreeSet<&str> = self.other_servers().filter_map(|node| node.zone.as_deref()).collect();
        let covered = |node: &NodeFacts| node.zone.as_deref().is_none_or(|zone| zones.contains(zone));
        let workers = self.others.iter().filter(|node| !node.is_server && node.is_ready && !node.is_cordoned);
        workers.min_by_key(|node| (covered(node), &node.name))
    }
}
