//! Which processors of a node are threads of one core, and which cores are near the same memory. Owns the order in which
//! they are given away: by NUMA node, then by the core's first thread. Refuses to read sysfs.

use super::CpuSet;

/// The processors of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostTopology {
    cells: Vec<HostCell>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostCell {
    /// The kernel's number of it.
    pub(super) id: u32,
    /// Its cores, each with its threads.
    pub(super) cores: Vec<CpuSet>,
}

impl HostTopology {
    /// From what sysfs says: `nodes` with their processors (`node*/cpulist`), which are none on a kernel without NUMA, and
    /// for each processor those of its core (`cpu*/topology/thread_siblings_list`). A processor of which nothing is said
    /// is a core of its own, on node 0.
    #[must_use]
    pub fn new(online: &CpuSet, nodes: &[(u32, CpuSet)], siblings: &[CpuSet]) -> Self {
        let core_of = |cpu: u32| siblings.iter().find(|core| core.contains(cpu)).cloned().unwrap_or_default();
        let named = nodes.iter().fold(CpuSet::default(), |all, (_, cpus)| all.union(cpus));
        let mut nodes = nodes.to_vec();
        let rest = online.difference(&named);
        match nodes.iter_mut().find(|(id, _)| *id == 0) {
            Some((_, first)) => *first = first.union(&rest),
            None if !rest.is_empty() => nodes.push((0, rest)),
            None => {}
        }
        nodes.sort_by_key(|(id, _)| *id);
        let cell = |(id, cpus): (u32, CpuSet)| {
            let mut left = cpus.intersection(online);
            let mut cores = Vec::new();
            while let Some(first) = left.first() {
                let core = core_of(first).intersection(&left).union(&CpuSet::from_iter([first]));
                left = left.difference(&core);
                cores.push(core);
            }
            HostCell { id, cores }
        };
        let cells = nodes.into_iter().map(cell).filter(|cell| !cell.cores.is_empty()).collect();
        Self { cells }
    }

    /// Its NUMA nodes that have processors, lowest number first.
    pub(super) fn cells(&self) -> &[HostCell] {
        &self.cells
    }

    /// The NUMA node that a processor is on.
    #[must_use]
    pub fn cell_of(&self, cpu: u32) -> Option<u32> {
        let found = self.cells.iter().find(|cell| cell.cores.iter().any(|core| core.contains(cpu)));
        found.map(|cell| cell.id)
    }

    /// All of its processors.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.cells.iter().flat_map(|cell| &cell.cores).flat_map(CpuSet::iter).collect()
    }
}

/// Two NUMA nodes with two cores each of two threads, numbered as firmware does: 0-1 and 4-5 on the first, 2-3 and 6-7 on
/// the second, where `n` and `n + 4` are one core.
#[cfg(test)]
pub(super) fn two_nodes() -> HostTopology {
    let siblings: Vec<_> = (0..4).map(|cpu| CpuSet::from_iter([cpu, cpu + 4])).collect();
    HostTopology::new(&super::cpus("0-7"), &[(0, super::cpus("0-1,4-5")), (1, super::cpus("2-3,6-7"))], &siblings)
}

#[cfg(test)]
mod tests {
    use super::super::cpus;
    use super::*;

    /// Cells as `id: core core`.
    fn check(topology: &HostTopology, expected: &[&str]) {
        let core = |core: &CpuSet| format!(" {core}");
        let cell = |cell: &HostCell| format!("{}:{}", cell.id, cell.cores.iter().map(core).collect::<String>());
        assert_eq!(topology.cells.iter().map(cell).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn processors_are_grouped_by_node_and_core() {
        check(&two_nodes(), &["0: 0,4 1,5", "1: 2,6 3,7"]);
        assert_eq!((two_nodes().cell_of(6), two_nodes().cell_of(8)), (Some(1), None));
        assert_eq!(two_nodes().all(), cpus("0-7"));
    }

    #[test]
    fn what_is_not_said_is_one_node_of_single_threads() {
        check(&HostTopology::new(&cpus("0-2"), &[], &[]), &["0: 0 1 2"]);
        check(&HostTopology::new(&cpus("0-2"), &[(0, cpus("0"))], &[]), &["0: 0 1 2"]);
        check(&HostTopology::new(&cpus("0-2"), &[(1, cpus("0"))], &[]), &["0: 1 2", "1: 0"]);
    }

    #[test]
    fn what_is_offline_or_has_no_processors_is_left_out() {
        let siblings = [cpus("0,2"), cpus("1,3")];
        check(
            &HostTopology::new(&cpus("0-1,3"), &[(2, CpuSet::default()), (0, cpus("0-3"))], &siblings),
            &["0: 0 1,3"],
        );
    }
}
