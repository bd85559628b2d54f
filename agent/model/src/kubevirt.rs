//! What the KubeVirt object says and asks: how virtualization in the cluster is, judged by its nodes, and which of
//! KubeVirt's feature gates mean something here. Pure; refuses to know what a Node looks like.

/// A node, as far as guests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// Its name.
    pub name: String,
    /// Its kubelet says that it is ready.
    pub ready: bool,
}

/// A condition of the KubeVirt object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCondition {
    /// Its type.
    pub kind: &'static str,
    /// Its status.
    pub holds: bool,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// Names of nodes that a message tells; the rest is counted.
const TOLD: usize = 8;

/// The conditions of the KubeVirt object. There is nothing to deploy, so that it is available as soon as one node can run
/// guests, and degraded while another cannot.
#[must_use]
pub fn health(nodes: &[NodeHealth]) -> Vec<HealthCondition> {
    let down: Vec<&str> = nodes.iter().filter(|node| !node.ready).map(|node| node.name.as_str()).collect();
    let condition =
        |kind, holds, reason, message: &str| HealthCondition { kind, holds, reason, message: message.into() };
    let well = |kind, holds| condition(kind, holds, "AllComponentsReady", "All components are ready.");
    let created = condition("Created", true, "AllResourcesCreated", "All resources were created.");
    if down.len() == nodes.len() {
        let (reason, message) = ("NoNodeReady", "No node is ready to run virtual machines.");
        return vec![
            condition("Available", false, reason, message),
            condition("Progressing", true, reason, message),
            condition("Degraded", true, reason, message),
            created,
        ];
    }
    let degraded = if down.is_empty() {
        well("Degraded", false)
    } else {
        let more = down.len().saturating_sub(TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = down.iter().take(TOLD).copied().collect::<Vec<_>>().join(", ");
        condition("Degraded", true, "NodesNotReady", &format!("Not ready to run virtual machines: {names}{more}."))
    };
    vec![well("Available", true), well("Progressing", false), degraded, created]
}

/// What a feature gate of KubeVirt (v1.9, `pkg/virt-config/featuregate`) is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// What it opens is there, always.
    Open,
    /// What it opens is not there.
    Closed,
    /// KubeVirt has no gate of that name.
    Unknown,
}

/// Gates whose feature is there without being asked for. A gate moves here with its feature.
const OPEN: &[&str] = &[
    "CPUManager",
    "CPUNodeDiscovery",
    "DownwardMetrics",
    "DynamicPodInterfaceNaming",
    "EnableVirtioFsConfigVolumes",
    "NUMA",
    "NodeRestriction",
    "NonRoot",
    "ObjectGraph",
    "PSA",
];

/// Gates whose feature is not there.
const CLOSED: &[&str] = &[
    "AlignCPUs",
    "AutoResourceLimitsGate",
    "BochsDisplayForEFIGuests",
    "ClusterProfiler",
    "CommonInstancetypesDeploymentGate",
    "DecentralizedLiveMigration",
    "DeclarativeHotplugVolumes",
    "DisableCustomSELinuxPolicy",
    "DisableMDEVConfiguration",
    "DockerSELinuxMCSWorkaround",
    "EnableVirtioFsStorageVolumes",
    "ExpandDisks",
    "ExperimentalIgnitionSupport",
    "ExperimentalVirtiofsSupport",
    "GPU",
    "GPUsWithDRA",
    "HostDevices",
    "HostDevicesWithDRA",
    "HostDisk",
    "HotplugNICs",
    "HotplugVolumes",
    "HypervStrictCheck",
    "ImageVolume",
    "IncrementalBackup",
    "InstancetypeReferencePolicy",
    "KubevirtSeccompProfile",
    "LiveMigration",
    "LiveUpdateNADRef",
    "Macvtap",
    "MigrationPriorityQueue",
    "MultiArchitecture",
    "NetworkBindingPlugins",
    "PanicDevices",
    "Passt",
    "PasstIPStackMigration",
    "PersistentReservation",
    "Plugins",
    "RebootPolicy",
    "Root",
    "SRIOVLiveMigration",
    "SecureExecution",
    "Sidecar",
    "Snapshot",
    "UtilityVolumes",
    "VMExport",
    "VMLiveUpdateFeatures",
    "VMPersistentState",
    "VSOCK",
    "VideoConfig",
    "VolumeMigration",
    "VolumesUpdateStrategy",
    "WorkloadEncryptionSEV",
    "WorkloadEncryptionTDX",
];

/// Judges a feature gate by its name.
#[must_use]
pub fn gate(name: &str) -> Gate {
    if OPEN.contains(&name) {
        Gate::Open
    } else if CLOSED.contains(&name) {
        Gate::Closed
    } else {
        Gate::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes as `name+` (ready) or `name-`; conditions as `Type=status/Reason`.
    fn check(nodes: &[&str], expected: &[&str]) -> Vec<HealthCondition> {
        let node = |text: &&str| NodeHealth { name: text[..text.len() - 1].to_owned(), ready: text.ends_with('+') };
        let found = health(&nodes.iter().map(node).collect::<Vec<_>>());
        let shown: Vec<_> = found.iter().map(|c| format!("{}={}/{}", c.kind, c.holds, c.reason)).collect();
        assert_eq!(shown[..3], *expected, "{nodes:?}");
        found
    }

    #[test]
    fn virtualization_is_as_well_as_its_nodes() {
        let well = ["Available=true/AllComponentsReady", "Progressing=false/AllComponentsReady"];
        check(&["a+", "b+"], &[well[0], well[1], "Degraded=false/AllComponentsReady"]);
        let found = check(&["a+", "b-", "c-"], &[well[0], well[1], "Degraded=true/NodesNotReady"]);
        assert_eq!(found[2].message, "Not ready to run virtual machines: b, c.");
        let none = ["Available=false/NoNodeReady", "Progressing=true/NoNodeReady", "Degraded=true/NoNodeReady"];
        check(&[], &none);
        check(&["a-"], &none);
    }

    #[test]
    fn a_message_about_many_nodes_stays_short() {
        let mut nodes = vec![NodeHealth { name: "up".into(), ready: true }];
        nodes.extend((0..20).map(|number| NodeHealth { name: format!("n{number}"), ready: false }));
        assert!(health(&nodes)[2].message.ends_with("n7 and 12 more."), "{:?}", health(&nodes)[2]);
    }

    #[test]
    fn a_gate_is_open_or_closed_and_never_both() {
        assert_eq!((gate("NonRoot"), gate("Sidecar"), gate("Sidecars")), (Gate::Open, Gate::Closed, Gate::Unknown));
        assert!(OPEN.iter().all(|name| !CLOSED.contains(name)));
        assert!(OPEN.is_sorted() && CLOSED.is_sorted());
    }
}
