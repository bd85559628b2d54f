//! Whether a guest can be migrated live, as KubeVirt says it: the one list of reasons, in KubeVirt's order
//! (`calculateLiveMigrationCondition`). Reasons that need a field which admission refuses are not here. Refuses to know
//! about NICs: every NIC of Furrow is a port of a switch that spans the nodes, so none stands in the way.

/// A volume, as far as migration is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedVolume<'a> {
    /// Name of its claim.
    pub claim: &'a str,
    /// Whether several nodes may write to it (ReadWriteMany).
    pub shared: bool,
}

/// Why a guest cannot be migrated live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationBlocker {
    /// KubeVirt's reason.
    pub reason: &'static str,
    /// KubeVirt's words.
    pub message: String,
}

/// The first reason against a live migration; `None` when there is none.
pub fn migration_blocker(volumes: &[SharedVolume<'_>]) -> Option<MigrationBlocker> {
    let volume = volumes.iter().find(|volume| !volume.shared)?;
    Some(MigrationBlocker {
        reason: "DisksNotLiveMigratable",
        message: format!(
            "cannot migrate VMI: PVC {} is not shared, live migration requires that all PVCs must be shared (using \
             ReadWriteMany access mode)",
            volume.claim
        ),
    })
}

/// Why a guest with a file of its node as a disk cannot be migrated.
pub fn host_disk_blocker(volume: &str) -> MigrationBlocker {
    let message = format!("cannot migrate VMI with non-shared HostDisk, volume {volume}");
    MigrationBlocker { reason: "DisksNotLiveMigratable", message }
}
