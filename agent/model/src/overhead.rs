//! What a guest costs beside its own memory, and what its reservation asks of the scheduler.
//!
//! The numbers are KubeVirt's per-process figures (`GetMemoryOverhead`, v1.9) without those that exist only because
//! KubeVirt runs a launcher, a monitor, a libvirt and a log daemon a guest (190 MiB): here one of each serves a node and
//! is part of the system's reserve.

/// One mebibyte, in bytes.
const MIB: i64 = 1 << 20;

/// QEMU's own heap, code and caches, with librbd's.
const QEMU: i64 = 50 * MIB;

/// Stack and state of one virtual processor.
const PER_VCPU: i64 = 8 * MIB;

/// The thread for input and output.
const IO_THREAD: i64 = 8 * MIB;

/// Video memory and the VNC server.
const GRAPHICS: i64 = 32 * MIB;

/// A software TPM.
const TPM: i64 = 53 * MIB;

/// The process that serves a shared file system: 5 MiB when nothing is asked of it (virtiofsd 1.13), and page tables over
/// the guest's memory, which it maps. KubeVirt requests 1 MB for it and lets it have 80 MB.
const SHARE: i64 = 16 * MIB;

/// Guest memory over this is what page tables take: 8 bytes for each 4 KiB.
const PAGE_TABLE_SHARE: i64 = 512;

/// A guest as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestSize {
    /// Memory that the guest sees, bytes.
    pub memory_bytes: i64,
    /// Virtual processors.
    pub vcpus: i64,
    /// It has a screen.
    pub graphics: bool,
    /// It has a TPM.
    pub tpm: bool,
    /// File systems that are shared with it.
    pub shares: i64,
    /// `memory.reservedOverhead.addedOverhead`, bytes.
    pub added_bytes: i64,
}

/// Memory to account beside the guest's, bytes.
#[must_use]
pub fn memory_overhead(size: GuestSize) -> i64 {
    let optional = |present: bool, bytes: i64| if present { bytes } else { 0 };
    [
        size.memory_bytes.max(0) / PAGE_TABLE_SHARE,
        QEMU,
        IO_THREAD,
        size.vcpus.max(1).saturating_mul(PER_VCPU),
        optional(size.graphics, GRAPHICS),
        optional(size.tpm, TPM),
        size.shares.max(0).saturating_mul(SHARE),
        size.added_bytes.max(0),
    ]
    .into_iter()
    .fold(0, i64::saturating_add)
}

/// CPU to request for a guest that names none: its processors shared by `ratio`, in thousandths, at least one.
#[must_use]
pub fn cpu_request_millis(vcpus: i64, ratio: i64) -> i64 {
    (vcpus.max(1).saturating_mul(1000) / ratio.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: GuestSize =
        GuestSize { memory_bytes: 0, vcpus: 1, graphics: false, tpm: false, shares: 0, added_bytes: 0 };

    fn check(memory_mib: i64, vcpus: i64, graphics: bool, expected_mib: i64) {
        let size = GuestSize { memory_bytes: memory_mib * MIB, vcpus, graphics, ..NOTHING };
        assert_eq!(memory_overhead(size) / MIB, expected_mib, "{memory_mib} MiB, {vcpus} vCPUs");
    }

    #[test]
    fn the_worked_examples_of_kubevirt_less_the_launcher() {
        check(1024, 1, true, 290 - 190);
        check(4 * 1024, 2, true, 304 - 190);
        check(8 * 1024, 4, true, 328 - 190);
        check(128 * 1024, 32, true, 792 - 190);
        check(1024, 1, false, 258 - 190);
    }

    #[test]
    fn a_guest_too_large_to_count_does_not_wrap() {
        let size = GuestSize {
            memory_bytes: i64::MAX,
            vcpus: i64::MAX,
            graphics: true,
            tpm: true,
            shares: i64::MAX,
            added_bytes: i64::MAX,
        };
        assert_eq!(memory_overhead(size), i64::MAX);
    }

    #[test]
    fn each_shared_file_system_has_a_process() {
        let shares = |shares| memory_overhead(GuestSize { shares, ..NOTHING }) - memory_overhead(NOTHING);
        assert_eq!((shares(0), shares(1), shares(3)), (0, SHARE, 3 * SHARE));
    }

    #[test]
    fn a_request_is_never_nothing() {
        assert_eq!(cpu_request_millis(1, 10), 100);
        assert_eq!(cpu_request_millis(4, 10), 400);
        assert_eq!(cpu_request_millis(1, 10_000), 1);
        assert_eq!(cpu_request_millis(0, 0), 1000);
    }
}
