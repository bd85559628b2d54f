//! `kubernetes.hugePages`: memory that the node keeps in huge pages for guests and pods that ask for them. Owns the key, the
//! sizes, and what the system is told at its start. Refuses to reserve any, which is `crate::steps`' affair. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Refusal, refuse};

/// Of each size so many.
pub(crate) type HugePages = BTreeMap<PageSize, u64>;

/// Sizes of huge pages on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum PageSize {
    /// 2 MiB.
    #[serde(rename = "2Mi")]
    Mi2,
    /// 1 GiB, where the processor has it (`pdpe1gb`).
    #[serde(rename = "1Gi")]
    Gi1,
}

impl PageSize {
    /// All there are.
    pub(crate) const ALL: [PageSize; 2] = [PageSize::Mi2, PageSize::Gi1];

    /// As node.yaml, Kubernetes and KubeVirt write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            PageSize::Mi2 => "2Mi",
            PageSize::Gi1 => "1Gi",
        }
    }

    /// MiB of one.
    pub(crate) fn mib(self) -> u64 {
        match self {
            PageSize::Mi2 => 2,
            PageSize::Gi1 => 1024,
        }
    }

    /// The file with their number, shared out over the NUMA nodes by the kernel
    /// (`Documentation/admin-guide/mm/hugetlbpage.rst` of Linux).
    pub(crate) fn pool(self) -> String {
        format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", self.mib() * 1024)
    }
}

/// Memory in all of them, MiB.
pub(crate) fn total_mib(pages: &HugePages) -> u64 {
    pages.iter().map(|(size, count)| size.mib().saturating_mul(*count)).fold(0, u64::saturating_add)
}

/// For tmpfiles.d(5), which writes it to the kernel early in the start, while memory is whole.
pub(crate) fn at_start(pages: &HugePages) -> String {
    let lines = pages.iter().map(|(size, count)| format!("w {} - - - - {count}\n", size.pool()));
    std::iter::once("# Written by furrow-install from node.yaml.\n".to_owned()).chain(lines).collect()
}

/// Checks the counts. Whether the node has that much memory is seen on it.
pub(super) fn check(pages: &HugePages) -> Result<(), Refusal> {
    let Some((size, _)) = pages.iter().find(|(_, count)| **count == 0) else { return Ok(()) };
    refuse(format!("kubernetes.hugePages.{}", size.name()), 0, "how many, at least 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn document(pages: &str) -> String {
        format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{interface: e, address: 10.0.0.1}}\n\
             kubernetes:\n  hugePages: {pages}\nceph: {{disks: [{{path: /dev/b}}]}}\n"
        )
    }

    #[test]
    fn sizes_and_counts_are_read() {
        let check = |pages: &str, mib: u64, lines: &[&str]| {
            let found = parse(&document(pages)).expect("good").kubernetes.huge_pages;
            assert_eq!(total_mib(&found), mib, "{pages}");
            let text = at_start(&found);
            assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), lines, "{pages}");
        };
        let pool = "/sys/kernel/mm/hugepages/hugepages";
        check("{}", 0, &[]);
        check("{2Mi: 512}", 1024, &[&format!("w {pool}-2048kB/nr_hugepages - - - - 512")]);
        check(
            "{1Gi: 4, 2Mi: 1}",
            4098,
            &[
                &format!("w {pool}-2048kB/nr_hugepages - - - - 1"),
                &format!("w {pool}-1048576kB/nr_hugepages - - - - 4"),
            ],
        );
        check(
            &format!("{{1Gi: {}}}", u64::MAX),
            u64::MAX,
            &[&format!("w {pool}-1048576kB/nr_hugepages - - - - {}", u64::MAX)],
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        let check = |pages: &str, expected: &str| {
            let error = parse(&document(pages)).expect_err("it was accepted").to_string();
            assert!(error.contains(expected), "{pages}: `{error}` does not contain `{expected}`");
        };
        check("{2Mi: 0}", "kubernetes.hugePages.2Mi: `0` is not allowed, expected how many, at least 1");
        check("{4Mi: 1}", "4Mi");
        check("{2Mi: -1}", "line 6");
        check("{2Mi: some}", "line 6");
        check("512", "line 6");
    }
}
