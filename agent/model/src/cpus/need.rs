//! How many processors a guest with dedicated ones needs: the size of its reservation pod, and what the kubelet must have
//! set aside before it starts. The rules are KubeVirt's (`WithCPUPinning` of `pkg/virt-controller/services`). Refuses to
//! know where they come from.

/// Annotation of a VirtualMachineInstance: a guest with an even number of processors gets two for its emulator, so that
/// whole cores are taken where a core has two threads.
pub const PARITY_ANNOTATION: &str = "alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity";

/// What of a guest costs processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuNeed {
    /// Virtual processors.
    pub vcpus: u32,
    /// I/O threads of a pool of its own.
    pub pool_threads: u32,
    /// The emulator has one to itself.
    pub isolate_emulator: bool,
    /// See [`PARITY_ANNOTATION`].
    pub even: bool,
}

impl CpuNeed {
    /// Processors for the emulator alone.
    #[must_use]
    pub fn emulator(self) -> u32 {
        match (self.isolate_emulator, self.even && (self.vcpus + self.pool_threads).is_multiple_of(2)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(self) -> u32 {
        self.vcpus.saturating_add(self.pool_threads).saturating_add(self.emulator())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_pool_threads_and_the_emulator_add_up() {
        let check = |vcpus, pool_threads, isolate_emulator, even, expected| {
            let need = CpuNeed { vcpus, pool_threads, isolate_emulator, even };
            assert_eq!((need.emulator(), need.total()), expected, "{need:?}");
        };
        check(4, 0, false, false, (0, 4));
        check(4, 2, false, true, (0, 6));
        check(4, 0, true, false, (1, 5));
        check(4, 0, true, true, (2, 6));
        check(3, 0, true, true, (1, 4));
        check(3, 1, true, true, (2, 6));
        check(4, 1, true, true, (1, 6));
    }
}
