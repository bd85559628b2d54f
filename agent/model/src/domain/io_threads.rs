//! Which I/O thread a disk's requests are done by. Owns KubeVirt's rules (`pkg/virt-launcher/virtwrap/converter`): what a
//! policy makes of the number of disks and processors. Refuses threads for buses that libvirt has none for: those disks
//! stay with the main loop.

use super::spec::{DiskBus, DiskSpec};

/// Who does the input and output of a guest's disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoThreadPolicy {
    /// QEMU's main loop, except for disks that ask for a thread of their own.
    #[default]
    None,
    /// One thread for all disks without one of their own.
    Shared,
    /// As many as there are disks, at most two a processor.
    Auto,
    /// A pool of this many, each disk using all of them.
    Pool(u32),
}

/// The threads of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskThreads {
    /// The main loop.
    None,
    /// One, counted from 1.
    One(u32),
    /// All from 1 to this.
    All(u32),
}

/// Threads of the guest, and for each disk its own. `processors`: what the guest asks of the node, at least 1.
pub(super) fn assign(policy: IoThreadPolicy, disks: &[DiskSpec], processors: u32) -> (u32, Vec<DiskThreads>) {
    let has_dedicated = disks.iter().any(|disk| disk.tuning.dedicated_io_thread);
    let can = |disk: &DiskSpec| disk.bus == DiskBus::Virtio;
    let limit = match policy {
        IoThreadPolicy::None if !has_dedicated => return (0, vec![DiskThreads::None; disks.len()]),
        IoThreadPolicy::Pool(count) => {
            let all = |disk| if can(disk) { DiskThreads::All(count) } else { DiskThreads::None };
            return (count, disks.iter().map(all).collect());
        }
        IoThreadPolicy::None | IoThreadPolicy::Shared => 1,
        IoThreadPolicy::Auto => processors.max(1).saturating_mul(2),
    };
    let count = |dedicated: bool| {
        let found = disks.iter().filter(|disk| disk.tuning.dedicated_io_thread == dedicated).count();
        u32::try_from(found).unwrap_or(u32::MAX)
    };
    let (dedicated, others) = (count(true), count(false));
    // At least one is shared, even when the dedicated ones are as many as the limit.
    let shared = if dedicated.saturating_add(others) > limit { limit.saturating_sub(dedicated).max(1) } else { others };
    let (mut next_shared, mut next_own) = (0, shared);
    let threads = disks
        .iter()
        .map(|disk| {
            if disk.tuning.dedicated_io_thread {
                next_own += 1;
                if can(disk) { DiskThreads::One(next_own) } else { DiskThreads::None }
            } else if can(disk) && shared > 0 {
                next_shared = next_shared % shared + 1;
                DiskThreads::One(next_shared)
            } else {
                DiskThreads::None
            }
        })
        .collect();
    (shared + dedicated, threads)
}
