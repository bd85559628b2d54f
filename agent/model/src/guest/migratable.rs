//! Whether a guest can be migrated live, as KubeVirt says it: the one list of reasons, in KubeVirt's order
//! (`calculateLiveMigrationCondition`), and whether its disks can move instead. Refuses to know about NICs and the CPU
//! model: every NIC of Furrow is a port of a switch that spans the nodes, and `host-model` is written out by libvirt when
//! the guest starts, so that neither stands in the way. Nor does what a guest mounts by virtiofs: KubeVirt 1.9 still has the
//! reason VirtIOFSNotLiveMigratable and gives it to nobody.

/// A volume, as far as migration is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedVolume<'a> {
    /// Name of its claim.
    pub claim: &'a str,
    /// Whether several nodes may write to it (ReadWriteMany).
    pub shared: bool,
}

/// What confidential computing a guest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the vendors' own words")]
pub enum Confidential {
    Sev,
    Tdx,
    SecureExecution,
}

/// What of a guest matters to a migration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationTraits<'a> {
    /// It has a device of the host.
    pub host_device: bool,
    /// Its memory is encrypted by the processor.
    pub confidential: Option<Confidential>,
    /// It reserves a LUN for itself.
    pub persistent_reservation: bool,
    /// It is told when its clock's frequency changes, and no node promises one.
    pub unpinned_clock: bool,
    /// It has whatever Hyper-V features the node has.
    pub hyperv_passthrough: bool,
    /// It has a file of the node as a disk.
    pub host_disk: bool,
    /// Its claims.
    pub volumes: Vec<SharedVolume<'a>>,
}

/// Why a guest cannot be migrated live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationBlocker {
    /// KubeVirt's reason.
    pub reason: &'static str,
    /// KubeVirt's words.
    pub message: String,
}

/// How a guest is migrated (`status.migrationMethod`).
#[must_use]
pub fn migration_method(traits: &MigrationTraits<'_>) -> &'static str {
    let shared = traits.volumes.iter().all(|volume| volume.shared);
    if shared && !traits.host_disk { "LiveMigration" } else { "BlockMigration" }
}

/// The first reason against a live migration; `None` when there is none.
#[must_use]
pub fn migration_blocker(traits: &MigrationTraits<'_>) -> Option<MigrationBlocker> {
    common_blockers(traits).into_iter().next().or_else(|| disk_blocker(traits))
}

/// What stands against moving the guest's disks while it runs (the condition StorageLiveMigratable): every reason, in one
/// message.
#[must_use]
pub fn storage_migration_blocker(traits: &MigrationTraits<'_>) -> Option<MigrationBlocker> {
    let blockers = common_blockers(traits);
    if blockers.is_empty() {
        return None;
    }
    let texts: Vec<_> = blockers.iter().map(|blocker| format!("{}: {}", blocker.reason, blocker.message)).collect();
    Some(MigrationBlocker { reason: "NotMigratable", message: texts.join(", ") })
}

/// What has nothing to do with disks, in KubeVirt's order.
fn common_blockers(traits: &MigrationTraits<'_>) -> Vec<MigrationBlocker> {
    let confidential = |kind| traits.confidential == Some(kind);
    let rows = [
        (traits.host_device, "HostDeviceNotLiveMigratable", "VMI uses a PCI host devices"),
        (confidential(Confidential::Sev), "SEVNotLiveMigratable", "VMI uses SEV"),
        (confidential(Confidential::Tdx), "TDXNotLiveMigratable", "VMI uses TDX"),
        (confidential(Confidential::SecureExecution), "SecureExecutionNotLiveMigratable", "VMI uses Secure Execution"),
        (
            traits.persistent_reservation,
            "PersistentReservationNotLiveMigratable",
            "VMI uses SCSI persistent reservation",
        ),
        (
            traits.unpinned_clock,
            "NoTSCFrequencyNotLiveMigratable",
            "HyperV Reenlightenment VMIs cannot migrate when TSC Frequency is not exposed on the cluster: guest timers \
             might be inconsistent",
        ),
        (traits.hyperv_passthrough, "HypervPassthroughNotLiveMigratable", "VMI uses hyperv passthrough"),
    ];
    let blocker = |reason, message: &str| MigrationBlocker { reason, message: message.to_owned() };
    rows.into_iter().filter(|row| row.0).map(|(_, reason, message)| blocker(reason, message)).collect()
}

fn disk_blocker(traits: &MigrationTraits<'_>) -> Option<MigrationBlocker> {
    let reason = "DisksNotLiveMigratable";
    if let Some(volume) = traits.volumes.iter().find(|volume| !volume.shared) {
        let message = format!(
            "cannot migrate VMI: PVC {} is not shared, live migration requires that all PVCs must be shared (using \
             ReadWriteMany access mode)",
            volume.claim
        );
        return Some(MigrationBlocker { reason, message });
    }
    let message = "cannot migrate VMI with non-shared HostDisk".to_owned();
    traits.host_disk.then_some(MigrationBlocker { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(traits: &MigrationTraits<'_>, expected: Option<&str>) {
        assert_eq!(migration_blocker(traits).map(|blocker| blocker.reason), expected, "{traits:?}");
    }

    fn claim(shared: bool) -> MigrationTraits<'static> {
        MigrationTraits { volumes: vec![SharedVolume { claim: "root", shared }], ..MigrationTraits::default() }
    }

    #[test]
    fn only_claims_that_many_nodes_may_write_can_be_migrated() {
        check(&MigrationTraits::default(), None);
        check(&claim(true), None);
        check(&claim(false), Some("DisksNotLiveMigratable"));
        check(&MigrationTraits { host_disk: true, ..claim(true) }, Some("DisksNotLiveMigratable"));
        let message = migration_blocker(&claim(false)).expect("a blocker").message;
        assert!(message.starts_with("cannot migrate VMI: PVC root is not shared,"), "{message}");
    }

    #[test]
    fn the_first_reason_in_kubevirts_order_is_told() {
        let all = MigrationTraits {
            host_device: true,
            confidential: Some(Confidential::Sev),
            persistent_reservation: true,
            unpinned_clock: true,
            hyperv_passthrough: true,
            ..claim(false)
        };
        check(&all, Some("HostDeviceNotLiveMigratable"));
        check(&MigrationTraits { host_device: false, ..all.clone() }, Some("SEVNotLiveMigratable"));
        let rest = MigrationTraits { host_device: false, confidential: None, ..all.clone() };
        check(&rest, Some("PersistentReservationNotLiveMigratable"));
        check(
            &MigrationTraits { persistent_reservation: false, ..rest.clone() },
            Some("NoTSCFrequencyNotLiveMigratable"),
        );
        let passthrough = MigrationTraits { hyperv_passthrough: true, ..claim(false) };
        check(&passthrough, Some("HypervPassthroughNotLiveMigratable"));
        for (kind, reason) in [
            (Confidential::Tdx, "TDXNotLiveMigratable"),
            (Confidential::SecureExecution, "SecureExecutionNotLiveMigratable"),
        ] {
            check(&MigrationTraits { confidential: Some(kind), ..MigrationTraits::default() }, Some(reason));
        }
    }

    #[test]
    fn disks_can_move_although_their_claims_are_not_shared() {
        assert_eq!(storage_migration_blocker(&claim(false)), None);
        let two = MigrationTraits { host_device: true, hyperv_passthrough: true, ..claim(false) };
        let blocker = storage_migration_blocker(&two).expect("a blocker");
        assert_eq!(blocker.reason, "NotMigratable");
        let expected = "HostDeviceNotLiveMigratable: VMI uses a PCI host devices, \
                        HypervPassthroughNotLiveMigratable: VMI uses hyperv passthrough";
        assert_eq!(blocker.message, expected);
    }

    #[test]
    fn a_disk_that_only_its_node_has_is_copied() {
        assert_eq!(migration_method(&claim(true)), "LiveMigration");
        assert_eq!(migration_method(&claim(false)), "BlockMigration");
        assert_eq!(migration_method(&MigrationTraits { host_disk: true, ..claim(true) }), "BlockMigration");
    }
}
