//! Memory of a guest that can grow while it runs: which guest has room for more, how much the cluster's settings give one
//! that asks for none, and what becomes of a change. The rules and texts are KubeVirt's (`pkg/liveupdate/memory` and
//! `handleMemoryHotplugRequest`): people search for them. Two differ: memory in huge pages cannot grow, since Kubernetes does
//! not change how many huge pages a running pod has, and memory is never taken back, since a guest gives up only what it
//! likes to, and a node must not promise to others what it may not get. Refuses to plug anything.

use std::fmt;

use super::plug::Plug;

/// Memory is plugged in blocks of this many bytes: a transparent huge page of x86-64, as QEMU recommends.
pub const BLOCK_BYTES: i64 = 2 << 20;

/// A guest's kernel needs so much for its own tables and for bounce buffers before it can take more in, bytes.
const LEAST_GUEST_BYTES: i64 = 1 << 30;

/// What stands before the reason where a change of a running guest fails.
const PREFIX: &str = "memory hotplug not supported, ";

/// A guest, as far as it decides whether memory can be added. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// What the guest has.
    pub guest: Option<i64>,
    /// What it may grow to.
    pub most: Option<i64>,
    /// Its memory is in huge pages.
    pub hugepages: bool,
    /// Its processors run in real time.
    pub realtime: bool,
    /// It sees the node's own NUMA cells.
    pub mapped: bool,
    /// Its memory is encrypted.
    pub encrypted: bool,
}

/// Why memory cannot be added to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say it")]
pub enum NoRoom {
    Realtime,
    Mapped,
    Encrypted,
    HugePages,
    GuestUnknown,
    MostUnknown,
    GuestAboveMost,
    GuestNotAligned,
    MostNotAligned,
    GuestTooSmall,
}

impl NoRoom {
    /// The text for a change of a running guest, which waits for a restart then.
    #[must_use]
    pub fn restart(self) -> &'static str {
        match self {
            Self::Realtime => "memory hotplug not supported, Memory hotplug is not compatible with realtime VMs",
            Self::Mapped => {
                "memory hotplug not supported, Memory hotplug is not compatible with guest mapping passthrough"
            }
            Self::Encrypted => "memory hotplug not supported, Memory hotplug is not compatible with encrypted VMs",
            Self::HugePages => {
                "memory hotplug not supported, Memory hotplug is not compatible with huge pages: kubernetes does not \
                 change how many a running pod has"
            }
            Self::GuestUnknown => {
                "memory hotplug not supported, Guest memory must be configured when memory hotplug is enabled"
            }
            Self::MostUnknown => {
                "memory hotplug not supported, Max guest memory must be configured when memory hotplug is enabled"
            }
            Self::GuestAboveMost => {
                "memory hotplug not supported, Guest memory is greater than the configured maxGuest memory"
            }
            Self::GuestNotAligned => "memory hotplug not supported, Guest memory must be 2Mi aligned",
            Self::MostNotAligned => "memory hotplug not supported, MaxGuest must be 2Mi aligned",
            Self::GuestTooSmall => {
                "memory hotplug not supported, Memory hotplug is only available for VMs with at least 1Gi of guest memory"
            }
        }
    }
}

impl fmt::Display for NoRoom {
    /// The reason alone, as admission says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.restart();
        f.write_str(text.strip_prefix(PREFIX).unwrap_or(text))
    }
}

impl std::error::Error for NoRoom {}

/// Whether memory can be added to a guest.
///
/// # Errors
/// The first reason against it, in KubeVirt's order.
pub fn check(room: Room) -> Result<(), NoRoom> {
    let kinds = [
        (room.realtime, NoRoom::Realtime),
        (room.mapped, NoRoom::Mapped),
        (room.encrypted, NoRoom::Encrypted),
        (room.hugepages, NoRoom::HugePages),
    ];
    if let Some((_, reason)) = kinds.into_iter().find(|(is, _)| *is) {
        return Err(reason);
    }
    let guest = room.guest.ok_or(NoRoom::GuestUnknown)?;
    let most = room.most.ok_or(NoRoom::MostUnknown)?;
    let sizes = [
        (guest > most, NoRoom::GuestAboveMost),
        (guest % BLOCK_BYTES != 0, NoRoom::GuestNotAligned),
        (most % BLOCK_BYTES != 0, NoRoom::MostNotAligned),
        (guest < LEAST_GUEST_BYTES, NoRoom::GuestTooSmall),
    ];
    sizes.into_iter().find(|(is, _)| *is).map_or(Ok(()), |(_, reason)| Err(reason))
}

/// What the cluster's settings say of room to grow (`liveUpdateConfiguration`), as far as they say anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterRoom {
    /// Sockets that every guest has room for.
    pub max_sockets: Option<i64>,
    /// Memory that every guest has room for, bytes.
    pub max_guest: Option<i64>,
    /// How many times its size a guest has room for, where the one above is silent.
    pub ratio: Option<i64>,
}

/// The most memory, in bytes, of a guest that names none. `None` unless the cluster's settings ask for room: it costs a guest
/// a device and a NUMA cell, and one whose administrator and owner say nothing is kept free of both.
#[must_use]
pub fn most(room: Room, cluster: ClusterRoom) -> Option<i64> {
    let by_ratio = || Some(room.guest?.saturating_mul(cluster.ratio?.max(1)));
    let most = cluster.max_guest.or_else(by_ratio)?;
    let grows = room.guest.is_some_and(|guest| guest < most);
    (grows && check(Room { most: Some(most), ..room }).is_ok()).then_some(most)
}

/// How much memory a guest has and how much it should have, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// What the template says.
    pub wanted: Option<i64>,
    /// What the guest's spec says.
    pub current: Option<i64>,
    /// What it started with.
    pub at_boot: Option<i64>,
    /// An earlier change is still being carried out.
    pub plugging: bool,
    /// An earlier change could not be carried out.
    pub failed: bool,
    /// The guest is moving to another node.
    pub migrating: bool,
}

/// Judges a change of memory. `room`: the guest's, with what it should have and what its domain has room for.
#[must_use]
pub fn judge(change: Change, room: Room) -> Plug {
    let (Some(wanted), Some(current)) = (change.wanted, change.current) else { return Plug::Nothing };
    if change.failed {
        return Plug::Restart(
            "memory updated in template spec. Memory-hotplug failed and is not available for this VM configuration",
        );
    }
    if wanted == current {
        return Plug::Nothing;
    }
    if room.most.is_none() {
        return Plug::Restart(
            "memory updated in template spec. Memory-hotplug is not available for this VM configuration",
        );
    }
    if change.plugging {
        return Plug::Later("another memory hotplug is in progress");
    }
    if change.migrating {
        return Plug::Later("memory hotplug is not allowed while VMI is migrating");
    }
    if let Err(reason) = check(room) {
        return Plug::Restart(reason.restart());
    }
    if change.at_boot.is_some_and(|at_boot| wanted < at_boot) {
        return Plug::Restart("memory updated in template spec to a value lower than what the VM started with");
    }
    if wanted < current {
        return Plug::Restart("Reduction of guest memory requires a restart");
    }
    Plug::Now
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    const ROOM: Room = Room {
        guest: Some(GIB),
        most: Some(4 * GIB),
        hugepages: false,
        realtime: false,
        mapped: false,
        encrypted: false,
    };

    #[test]
    fn a_guest_has_room_unless_something_speaks_against_it() {
        let refused = |room: Room, expected: &str| assert_eq!(check(room).unwrap_err().to_string(), expected);
        assert_eq!(check(ROOM), Ok(()));
        assert_eq!(check(Room { most: Some(GIB), ..ROOM }), Ok(()), "room for nothing is no contradiction");
        refused(Room { realtime: true, ..ROOM }, "Memory hotplug is not compatible with realtime VMs");
        refused(Room { mapped: true, ..ROOM }, "Memory hotplug is not compatible with guest mapping passthrough");
        refused(Room { encrypted: true, ..ROOM }, "Memory hotplug is not compatible with encrypted VMs");
        assert_eq!(check(Room { hugepages: true, ..ROOM }), Err(NoRoom::HugePages));
        refused(Room { guest: None, ..ROOM }, "Guest memory must be configured when memory hotplug is enabled");
        refused(Room { most: None, ..ROOM }, "Max guest memory must be configured when memory hotplug is enabled");
        let above = Room { guest: Some(5 * GIB), ..ROOM };
        refused(above, "Guest memory is greater than the configured maxGuest memory");
        refused(Room { guest: Some(GIB + 1), ..ROOM }, "Guest memory must be 2Mi aligned");
        refused(Room { most: Some(2 * GIB + 1024), ..ROOM }, "MaxGuest must be 2Mi aligned");
        let small = Room { guest: Some(GIB - BLOCK_BYTES), ..ROOM };
        refused(small, "Memory hotplug is only available for VMs with at least 1Gi of guest memory");
    }

    #[test]
    fn a_guest_that_asks_for_no_room_gets_what_the_cluster_says() {
        let silent = Room { most: None, ..ROOM };
        let check = |room, cluster, expected| assert_eq!(most(room, cluster), expected, "{room:?} {cluster:?}");
        let (ratio, fixed) = (
            ClusterRoom { ratio: Some(4), ..ClusterRoom::default() },
            ClusterRoom { ratio: Some(4), max_guest: Some(2 * GIB), ..ClusterRoom::default() },
        );
        check(silent, ClusterRoom::default(), None);
        check(silent, ratio, Some(4 * GIB));
        check(silent, fixed, Some(2 * GIB));
        check(silent, ClusterRoom { ratio: Some(1), ..ratio }, None);
        // What cannot grow is let in without room, as KubeVirt does.
        check(Room { guest: Some(GIB / 4), ..silent }, ratio, None);
        check(Room { guest: Some(3 * GIB), ..silent }, fixed, None);
        check(Room { hugepages: true, ..silent }, ratio, None);
        check(Room { guest: Some(i64::MAX), ..silent }, ratio, None);
    }

    #[test]
    fn memory_is_added_within_the_room_and_never_taken() {
        let two = Change { wanted: Some(2 * GIB), current: Some(2 * GIB), at_boot: Some(2 * GIB), ..Change::default() };
        let check = |change: Change, expected| {
            assert_eq!(judge(change, Room { guest: change.wanted, ..ROOM }), expected, "{change:?}");
        };
        check(two, Plug::Nothing);
        check(Change { plugging: true, migrating: true, ..two }, Plug::Nothing);
        check(Change { wanted: None, ..two }, Plug::Nothing);
        check(Change { wanted: Some(3 * GIB), ..two }, Plug::Now);
        check(Change { wanted: Some(4 * GIB), ..two }, Plug::Now);
        let above = "memory hotplug not supported, Guest memory is greater than the configured maxGuest memory";
        check(Change { wanted: Some(5 * GIB), ..two }, Plug::Restart(above));
        let odd = "memory hotplug not supported, Guest memory must be 2Mi aligned";
        check(Change { wanted: Some(3 * GIB + 1024), ..two }, Plug::Restart(odd));
        let below = "memory updated in template spec to a value lower than what the VM started with";
        check(Change { wanted: Some(GIB), ..two }, Plug::Restart(below));
        let grown = Change { current: Some(4 * GIB), wanted: Some(3 * GIB), ..two };
        check(grown, Plug::Restart("Reduction of guest memory requires a restart"));
        let under_way = Change { wanted: Some(3 * GIB), plugging: true, ..two };
        check(under_way, Plug::Later("another memory hotplug is in progress"));
        let moving = Change { wanted: Some(3 * GIB), migrating: true, ..two };
        check(moving, Plug::Later("memory hotplug is not allowed while VMI is migrating"));
    }

    #[test]
    fn without_room_and_after_a_failure_a_restart_is_needed() {
        let change = Change { wanted: Some(2 * GIB), current: Some(GIB), ..Change::default() };
        let closed = Room { most: None, ..ROOM };
        assert!(matches!(judge(change, closed), Plug::Restart(text) if text.ends_with("for this VM configuration")));
        // Whatever the template says afterwards.
        let failed = Change { failed: true, wanted: Some(GIB), ..change };
        assert!(matches!(judge(failed, ROOM), Plug::Restart(text) if text.contains("Memory-hotplug failed")));
    }
}
