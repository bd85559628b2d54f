//! Which exclusive processor runs what of a guest. A core of the guest gets the threads of one core of the node where they
//! are free; then threads of one NUMA node; across nodes only where the guest is not promised otherwise. The order and
//! the I/O threads' share are KubeVirt's (`pkg/virt-launcher/virtwrap/converter/vcpu`), except that with an isolated
//! emulator every I/O thread runs beside it, where KubeVirt pins the first alone. Refuses to know libvirt's elements.

use super::{CpuNeed, CpuSet, HostTopology};

/// What is to be placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinWish {
    /// Cores of the guest, of all sockets.
    pub cores: u32,
    /// Threads of each.
    pub threads: u32,
    /// I/O threads that the guest has.
    pub io_threads: u32,
    /// What it needs beside them; its vCPUs are cores times threads.
    pub need: CpuNeed,
    /// No core of the guest may have threads on two NUMA nodes.
    pub within_nodes: bool,
}

/// Where the parts of a guest run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// The processor of each vCPU.
    pub vcpus: Vec<u32>,
    /// Those of the emulator: its own, or all of the guest's.
    pub emulator: CpuSet,
    /// Those of each I/O thread, from the first.
    pub io_threads: Vec<CpuSet>,
}

/// Why the parts of a guest cannot be placed. The node or the guest must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The kubelet set aside fewer than the guest needs.
    #[error("the guest needs {needed} dedicated CPUs and its pod has {found}: {assigned}")]
    TooFew {
        /// Asked for.
        needed: u32,
        /// How many there are.
        found: usize,
        /// Which.
        assigned: String,
    },
    /// The kubelet set some aside that are not there.
    #[error("CPUs {missing} are dedicated to the guest's pod and not online")]
    Offline {
        /// Which.
        missing: String,
    },
    /// KubeVirt's words.
    #[error("could not fit {cores} core(s) without crossing numa cell boundaries for individual cores")]
    Crosses {
        /// Cores of the guest that are left over.
        cores: usize,
    },
}

/// The free processors of a NUMA node.
struct Free {
    /// Cores of the node that still hold a whole core of the guest.
    whole: Vec<Vec<u32>>,
    /// What is left of others.
    broken: Vec<u32>,
}

impl Free {
    /// A whole core of the guest, of a whole core of the node.
    fn core(&mut self, threads: usize) -> Option<Vec<u32>> {
        let first = self.whole.first_mut()?;
        let rest = first.split_off(threads.min(first.len()));
        let taken = std::mem::replace(first, rest);
        if first.len() < threads {
            let rest = self.whole.remove(0);
            self.broken.extend(rest);
        }
        Some(taken)
    }

    /// A whole core of the guest, of what is left of the node's.
    fn pieces(&mut self, threads: usize) -> Option<Vec<u32>> {
        (self.broken.len() >= threads).then(|| self.broken.drain(..threads).collect())
    }

    /// One processor: what is left of a core before one that is whole.
    fn single(&mut self) -> Option<u32> {
        if self.broken.is_empty() && !self.whole.is_empty() {
            let core = self.whole.remove(0);
            self.broken.extend(core);
        }
        (!self.broken.is_empty()).then(|| self.broken.remove(0))
    }
}

/// Places the parts of a guest on the processors that the kubelet has set aside for it.
///
/// # Errors
/// When they are too few, not there, or not near enough to each other.
pub fn choose(wish: PinWish, assigned: &CpuSet, topology: &HostTopology) -> Result<Pins, PinError> {
    let missing = assigned.difference(&topology.all());
    if !missing.is_empty() {
        return Err(PinError::Offline { missing: missing.to_string() });
    }
    let needed = wish.need.total();
    if assigned.len() < needed as usize {
        return Err(PinError::TooFew { needed, found: assigned.len(), assigned: assigned.to_string() });
    }
    let threads = wish.threads.max(1) as usize;
    let mut free = free(assigned, topology, threads);
    let vcpus = cores(&mut free, wish.cores as usize, threads, wish.within_nodes)?;
    let mut singles = || free.iter_mut().find_map(Free::single);
    let pool: Vec<_> = std::iter::from_fn(&mut singles).take(wish.need.pool_threads as usize).collect();
    let own: CpuSet = std::iter::from_fn(&mut singles).take(wish.need.emulator() as usize).collect();
    let io_threads = if pool.is_empty() {
        io_threads(wish.io_threads as usize, &vcpus, &own)
    } else {
        pool.iter().map(|cpu| CpuSet::from_iter([*cpu])).collect()
    };
    let emulator = if own.is_empty() { assigned.clone() } else { own };
    Ok(Pins { vcpus, emulator, io_threads })
}

fn free(assigned: &CpuSet, topology: &HostTopology, threads: usize) -> Vec<Free> {
    let cell = |cores: &[CpuSet]| {
        let mine = cores.iter().map(|core| core.intersection(assigned).iter().collect::<Vec<_>>());
        let (whole, broken): (Vec<_>, Vec<_>) = mine.partition(|core| core.len() >= threads);
        Free { whole, broken: broken.into_iter().flatten().collect() }
    };
    topology.cells().iter().map(|host| cell(&host.cores)).collect()
}

/// The processors of so many cores of the guest, thread after thread.
fn cores(free: &mut [Free], count: usize, threads: usize, within_nodes: bool) -> Result<Vec<u32>, PinError> {
    let wanted = count * threads;
    let mut taken = Vec::with_capacity(wanted);
    for take in [Free::core, Free::pieces] {
        for cell in &mut *free {
            while taken.len() < wanted
                && let Some(core) = take(cell, threads)
            {
                taken.extend(core);
            }
        }
    }
    if taken.len() < wanted && within_nodes {
        return Err(PinError::Crosses { cores: (wanted - taken.len()).div_ceil(threads) });
    }
    while taken.len() < wanted
        && let Some(single) = free.iter_mut().find_map(Free::single)
    {
        taken.push(single);
    }
    Ok(taken)
}

/// The processors of each I/O thread that is no thread of a pool: the emulator's own, or a fair part of the vCPUs'.
fn io_threads(count: usize, vcpus: &[u32], own: &CpuSet) -> Vec<CpuSet> {
    if !own.is_empty() || vcpus.is_empty() {
        return vec![own.clone(); count];
    }
    if count >= vcpus.len() {
        return (1..=count).map(|thread| CpuSet::from_iter([vcpus[thread % vcpus.len()]])).collect();
    }
    let mut rest = vcpus;
    (0..count)
        .map(|thread| {
            let (part, others) = rest.split_at(rest.len().div_ceil(count - thread));
            rest = others;
            part.iter().copied().collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::cpus;
    use super::super::topology::two_nodes;
    use super::*;

    /// A guest without I/O threads.
    fn wish(cores: u32, threads: u32, isolate_emulator: bool) -> PinWish {
        let need = CpuNeed { vcpus: cores * threads, isolate_emulator, ..CpuNeed::default() };
        PinWish { cores, threads, need, ..PinWish::default() }
    }

    fn check(wish: PinWish, assigned: &str, vcpus: &[u32], emulator: &str) -> Pins {
        let pins = choose(wish, &cpus(assigned), &two_nodes()).expect("they fit");
        assert_eq!((pins.vcpus.as_slice(), pins.emulator.to_string().as_str()), (vcpus, emulator), "{assigned}");
        pins
    }

    #[test]
    fn each_vcpu_has_a_processor_of_its_own() {
        check(wish(1, 1, false), "3", &[3], "3");
        check(wish(3, 1, false), "1,5-6", &[1, 5, 6], "1,5-6");
        // By node, then by core.
        check(wish(4, 1, false), "0-2,4", &[0, 4, 1, 2], "0-2,4");
    }

    #[test]
    fn threads_of_a_core_stay_together_where_they_can() {
        check(wish(2, 2, false), "0-1,4-5", &[0, 4, 1, 5], "0-1,4-5");
        // One whole core; the other from two that are broken, of one node.
        check(wish(2, 2, false), "0-1,2,6", &[2, 6, 0, 1], "0-2,6");
        // The last one crosses the nodes.
        check(wish(2, 2, false), "0-1,2,5", &[1, 5, 0, 2], "0-2,5");
    }

    #[test]
    fn a_guest_that_sees_the_nodes_has_no_core_on_two_of_them() {
        let strict = PinWish { within_nodes: true, ..wish(2, 2, false) };
        check(strict, "0-1,2,6", &[2, 6, 0, 1], "0-2,6");
        let crossing = choose(strict, &cpus("0-1,2,5"), &two_nodes());
        assert_eq!(crossing, Err(PinError::Crosses { cores: 1 }));
        check(PinWish { within_nodes: true, ..wish(4, 1, false) }, "0-1,2,5", &[0, 1, 5, 2], "0-2,5");
    }

    #[test]
    fn an_isolated_emulator_has_a_processor_that_no_vcpu_has() {
        check(wish(2, 1, true), "0-1,4", &[0, 4], "1");
        check(wish(1, 2, true), "0,4,7", &[0, 4], "7");
        // What is broken goes first, so that whole cores stay whole.
        check(wish(1, 2, true), "0,2,4,6,7", &[0, 4], "7");
        let even = CpuNeed { vcpus: 2, isolate_emulator: true, even: true, pool_threads: 0 };
        check(PinWish { need: even, ..wish(2, 1, true) }, "0-1,4-5", &[0, 4], "1,5");
    }

    #[test]
    fn io_threads_share_what_the_vcpus_have_or_have_their_own() {
        let shown = |pins: Pins| pins.io_threads.iter().map(CpuSet::to_string).collect::<Vec<_>>();
        let with = |count, wish: PinWish| PinWish { io_threads: count, ..wish };
        assert_eq!(
            shown(check(with(3, wish(8, 1, false)), "0-7", &[0, 4, 1, 5, 2, 6, 3, 7], "0-7")),
            ["0-1,4", "2,5-6", "3,7"]
        );
        assert_eq!(shown(check(with(1, wish(2, 1, false)), "0-1", &[0, 1], "0-1")), ["0-1"]);
        assert_eq!(shown(check(with(3, wish(2, 1, false)), "0-1", &[0, 1], "0-1")), ["1", "0", "1"]);
        assert_eq!(shown(check(with(2, wish(1, 1, true)), "0-1", &[0], "1")), ["1", "1"]);
        let pool = |isolate_emulator| {
            let need = CpuNeed { vcpus: 1, pool_threads: 2, isolate_emulator, even: false };
            PinWish { io_threads: 2, need, ..wish(1, 1, false) }
        };
        assert_eq!(shown(check(pool(false), "0-2", &[0], "0-2")), ["1", "2"]);
        assert_eq!(shown(check(pool(true), "0-3", &[0], "3")), ["1", "2"]);
    }

    #[test]
    fn what_cannot_be_placed_is_said() {
        let refused = |wish, assigned: &str| choose(wish, &cpus(assigned), &two_nodes()).expect_err("it is refused");
        let few = PinError::TooFew { needed: 3, found: 2, assigned: "0-1".into() };
        assert_eq!(refused(wish(2, 1, true), "0-1"), few);
        assert_eq!(refused(wish(1, 1, false), "7-8"), PinError::Offline { missing: "8".into() });
    }
}
