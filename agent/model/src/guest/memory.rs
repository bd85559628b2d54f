//! Memory of a guest that runs: when more is asked of its device, and what is said of a change under way. Owns the order of
//! things: the kubelet grants the reservation pod more first, and only then the guest gets it, so that a node never promises
//! memory twice. Memory is never taken back.

/// KubeVirt's reason and words when memory could not be added (`pkg/virt-handler`).
const FAILED: (&str, &str) = ("Memory Hotplug Failed", "memory hotplug failed, the VM configuration is not supported");

/// Memory that a guest should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedMemory {
    /// All of it, KiB.
    pub kib: u64,
    /// The node's kubelet has granted the reservation pod as much.
    pub granted: bool,
}

/// Memory of a running domain that has room for more, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedMemory {
    /// What it started with.
    pub boot_kib: u64,
    /// What can be plugged in at most.
    pub size_kib: u64,
    /// What is asked of the device.
    pub requested_kib: u64,
    /// It comes in blocks of this size.
    pub block_kib: u64,
}

impl ObservedMemory {
    /// What is to be asked of the device so that the guest has so much; `None` where the domain has no room for it.
    fn request_for(&self, kib: u64) -> Option<u64> {
        let request = kib.checked_sub(self.boot_kib)?;
        (request <= self.size_kib && request.is_multiple_of(self.block_kib.max(1))).then_some(request)
    }

    /// What the guest has been given, whether it has taken it in yet or not.
    #[must_use]
    pub fn given_kib(&self) -> u64 {
        self.boot_kib.saturating_add(self.requested_kib)
    }
}

/// What to ask of the device now, if that is more than before.
pub(super) fn request(wanted: Option<WantedMemory>, observed: Option<ObservedMemory>) -> Option<u64> {
    let (wanted, observed) = (wanted.filter(|wanted| wanted.granted)?, observed?);
    observed.request_for(wanted.kib).filter(|request| *request > observed.requested_kib)
}

/// What the kubelet says of a reservation pod's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSize {
    /// It is granted, or as it was.
    Granted,
    /// Not looked at yet, or put off until there is room. With its words, if it has any.
    Pending(String),
    /// The node is too small for it.
    Infeasible(String),
}

/// What is said of a change of a guest's memory, KubeVirt's condition HotMemoryChange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryChange {
    /// There is none to speak of.
    Done,
    /// It is under way. With what it waits for, if that is known.
    UnderWay(String),
    /// It cannot be carried out: reason and message.
    Failed(&'static str, String),
}

impl MemoryChange {
    /// The domain was asked for it, and did not take it.
    #[must_use]
    pub fn refused() -> Self {
        Self::Failed(FAILED.0, FAILED.1.to_owned())
    }
}

/// What to say of a change that control has announced. `kib`: what the spec asks for.
#[must_use]
pub fn memory_change(kib: Option<u64>, observed: Option<ObservedMemory>, pod: &PodSize) -> MemoryChange {
    let Some(kib) = kib else { return MemoryChange::Done };
    let Some(observed) = observed else { return MemoryChange::refused() };
    if kib <= observed.given_kib() {
        return MemoryChange::Done;
    }
    if observed.request_for(kib).is_none() {
        return MemoryChange::refused();
    }
    match pod {
        PodSize::Granted => MemoryChange::UnderWay(String::new()),
        PodSize::Pending(words) => MemoryChange::UnderWay(words.clone()),
        PodSize::Infeasible(words) => MemoryChange::Failed(FAILED.0, words.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 20;

    /// A guest of one GiB that has room for four, and has got one of the three more.
    const TWO: ObservedMemory =
        ObservedMemory { boot_kib: GIB, size_kib: 3 * GIB, requested_kib: GIB, block_kib: 2048 };

    #[test]
    fn memory_is_asked_for_when_the_node_has_granted_it_and_never_given_back() {
        let check = |kib, granted, expected| {
            assert_eq!(request(Some(WantedMemory { kib, granted }), Some(TWO)), expected, "{kib} {granted}");
        };
        check(3 * GIB, true, Some(2 * GIB));
        check(4 * GIB, true, Some(3 * GIB));
        check(3 * GIB, false, None);
        for settled in [2 * GIB, GIB, GIB / 2, 5 * GIB, 3 * GIB + 1] {
            check(settled, true, None);
        }
        assert_eq!(request(None, Some(TWO)), None);
        assert_eq!(request(Some(WantedMemory { kib: 3 * GIB, granted: true }), None), None);
    }

    #[test]
    fn a_change_is_done_under_way_or_failed() {
        let check = |kib, observed, pod: &PodSize, expected: MemoryChange| {
            assert_eq!(memory_change(kib, observed, pod), expected, "{kib:?} {observed:?} {pod:?}");
        };
        let (granted, pending) = (PodSize::Granted, PodSize::Pending("no room yet".into()));
        check(Some(2 * GIB), Some(TWO), &granted, MemoryChange::Done);
        check(None, None, &granted, MemoryChange::Done);
        check(Some(3 * GIB), Some(TWO), &granted, MemoryChange::UnderWay(String::new()));
        check(Some(3 * GIB), Some(TWO), &pending, MemoryChange::UnderWay("no room yet".into()));
        check(Some(3 * GIB), None, &granted, MemoryChange::refused());
        check(Some(9 * GIB), Some(TWO), &granted, MemoryChange::refused());
        let never = MemoryChange::Failed(FAILED.0, "the node has 2Gi".into());
        check(Some(3 * GIB), Some(TWO), &PodSize::Infeasible("the node has 2Gi".into()), never);
    }
}
