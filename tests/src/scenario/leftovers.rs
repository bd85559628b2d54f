//! What a node holds for guests: images, ports, domains, addresses, pods, files. Whatever outlives its owner is a bug.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::host;
use crate::testbed::Testbed;

/// Names of everything that is held, by kind.
#[derive(Debug, PartialEq)]
pub(crate) struct Footprint(BTreeMap<&'static str, Vec<String>>);

/// Each is a shell line on the node that prints one name a line.
const ON_NODE: [(&str, &str); 6] = [
    ("rbd images", "rbd --id furrow-agent ls volumes"),
    ("rbd images in the trash", "rbd --id furrow-agent trash ls volumes"),
    ("ovs ports", "ovs-vsctl --columns=name --bare find interface | grep ^fw || true"),
    ("taps", "ls /sys/class/net | grep ^fw || true"),
    ("domains", "virsh -c qemu:///system list --all --name | grep . || true"),
    ("guest directories", "ls /var/lib/furrow/guests 2>/dev/null || true"),
];

/// Kubernetes kinds that belong to a guest.
const IN_CLUSTER: [&str; 5] = ["ips.kubeovn.io", "datavolumes", "persistentvolumeclaims", "persistentvolumes", "vmi"];

impl Footprint {
    pub(crate) fn of(bed: &Testbed, cluster: &Cluster) -> Result<Footprint> {
        let mut found = BTreeMap::new();
        for (kind, line) in ON_NODE {
            let mut names: Vec<String> = bed.node().shell(line)?.lines().map(str::to_owned).collect();
            names.sort();
            found.insert(kind, names);
        }
        for kind in IN_CLUSTER {
            let items = cluster.list(kind)?;
            let mut names: Vec<String> = items.iter().map(|o| o["metadata"]["name"].to_string()).collect();
            names.sort();
            found.insert(kind, names);
        }
        let pods = cluster.kubectl(&["get", "pods", "-A", "-l", "kubevirt.io=virt-launcher", "-o", "name"])?;
        found.insert("reservation pods", pods.lines().map(str::to_owned).collect());
        Ok(Footprint(found))
    }
}

/// Waits until the node holds what it held before.
pub(crate) fn settle_to(bed: &Testbed, cluster: &Cluster, before: &Footprint) -> Result<()> {
    host::until("the leftovers to go", Duration::from_secs(60), || {
        let now = Footprint::of(bed, cluster)?;
        for (kind, names) in &now.0 {
            ensure!(Some(names) == before.0.get(kind), "{kind} were {:?}, now {names:?}", before.0.get(kind));
        }
        Ok(())
    })
}

/// Deletes every VM, DataVolume and claim and waits until the node holds nothing.
pub(crate) fn after_deleting_all(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    for kind in ["vm", "vmi", "dv", "pvc"] {
        cluster.kubectl(&["delete", kind, "--all", "--wait=true", "--timeout=80s"])?;
    }
    let nothing = ON_NODE.iter().map(|(kind, _)| *kind).chain(IN_CLUSTER).chain(["reservation pods"]);
    settle_to(bed, cluster, &Footprint(nothing.map(|kind| (kind, Vec::new())).collect()))
}
