//! What a specification asks of a node's processors, said once for control, which reserves them, and the agent, which places
//! the guest on them: they must read it alike.

use super::{Cpu, DomainSpec, IoThreadsPolicy};

impl Cpu {
    /// Virtual processors of the topology, each part at least one; `None` where it says nothing.
    #[must_use]
    pub fn vcpus(&self) -> Option<i64> {
        let parts = [self.sockets, self.cores, self.threads];
        let count = |product: i64, part: Option<i32>| product.saturating_mul(i64::from(part.unwrap_or(1).max(1)));
        parts.iter().any(Option::is_some).then(|| parts.into_iter().fold(1, count))
    }

    /// Whether the guest sees the NUMA nodes that its processors are on.
    #[must_use]
    pub fn maps_nodes(&self) -> bool {
        self.numa.as_ref().is_some_and(|numa| numa.guest_mapping_passthrough.is_some())
    }
}

impl DomainSpec {
    /// Whether the guest has processors to itself.
    #[must_use]
    pub fn is_dedicated(&self) -> bool {
        self.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement)
    }

    /// Threads of its pool for input and output; 0 where its policy is another.
    #[must_use]
    pub fn pool_threads(&self) -> u32 {
        let pool = self.io_threads_policy == Some(IoThreadsPolicy::SupplementalPool);
        let count = self.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
        count.filter(|_| pool).and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
    }
}
