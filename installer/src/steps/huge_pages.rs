//! Huge pages of the node: reserved at once and at each start. A kubelet counts them when it starts, so that k3s is started
//! anew when there are others than before. Refuses a size that the processor lacks, and to leave the node too little memory.
//! Fewer than wanted is no failure: what is in use, or in pieces, is not waited for, and Kubernetes knows what there is.

use std::path::{Path, PathBuf};

use super::kubernetes::{is_marked_changed, mark_changed, unmark_changed};
use super::{Node, StepError, file_error};
use crate::checks::{LEAST_MEMORY_MIB, total_memory_mib};
use crate::config::{HugePages, PageSize, at_start, total_mib};
use crate::files;

/// Read by systemd-tmpfiles-setup.service, long before a kubelet runs.
const AT_START: &str = "/etc/tmpfiles.d/furrow-huge-pages.conf";

/// Why huge pages cannot be reserved.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum HugePagesError {
    #[error("kubernetes.hugePages.{0}: the processor has no pages of that size")]
    Size(&'static str),
    #[error("kubernetes.hugePages: {wanted_mib} MiB are wanted of {total_mib} MiB, and {left_mib} MiB must be left")]
    Memory { wanted_mib: u64, total_mib: u64, left_mib: u64 },
}

/// Brings the node to what node.yaml says. Where that says nothing, and never has, the kernel's command line may: nothing
/// is touched then.
pub(super) fn ensure(node: &Node) -> Result<(), StepError> {
    let wanted = &node.config.kubernetes.huge_pages;
    let file = Path::new(AT_START);
    let before = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(file_error("read", file))?,
    };
    let meminfo = Path::new("/proc/meminfo");
    let memory = std::fs::read_to_string(meminfo).map_err(file_error("read", meminfo))?;
    check(wanted, total_memory_mib(&memory), |size| Path::new(&size.pool()).exists())?;
    for (size, count) in targets(wanted, &before) {
        reserve(node, size, count)?;
    }
    match wanted.is_empty() {
        true => files::remove(file).map_err(file_error("remove", file)),
        false => files::update(file, &at_start(wanted), 0o644).map_err(file_error("write", file)),
    }
}

/// Sizes that node.yaml speaks of, or did `before`, and how many there are to be.
fn targets(wanted: &HugePages, before: &str) -> Vec<(PageSize, u64)> {
    let said = |size: &PageSize| wanted.contains_key(size) || before.contains(&size.pool());
    let target = |size| (size, wanted.get(&size).copied().unwrap_or(0));
    PageSize::ALL.into_iter().filter(said).map(target).collect()
}

fn check(wanted: &HugePages, total: u64, has: impl Fn(PageSize) -> bool) -> Result<(), HugePagesError> {
    if let Some(size) = wanted.keys().find(|size| !has(**size)) {
        return Err(HugePagesError::Size(size.name()));
    }
    let wanted_mib = total_mib(wanted);
    match wanted_mib > 0 && wanted_mib.saturating_add(LEAST_MEMORY_MIB) > total {
        true => Err(HugePagesError::Memory { wanted_mib, total_mib: total, left_mib: LEAST_MEMORY_MIB }),
        false => Ok(()),
    }
}

/// Asks the kernel for so many, and says what it could do.
fn reserve(node: &Node, size: PageSize, wanted: u64) -> Result<(), StepError> {
    let pool = PathBuf::from(size.pool());
    let count = || -> Result<u64, StepError> {
        let text = std::fs::read_to_string(&pool).map_err(file_error("read", &pool))?;
        text.trim().parse().map_err(|_| StepError::Answer("the kernel's number of huge pages", text))
    };
    let before = count()?;
    if before == wanted {
        return Ok(());
    }
    // The mark comes first: a kill in between must not leave a kubelet that counts wrong.
    let marked = is_marked_changed(node);
    mark_changed(node)?;
    std::fs::write(&pool, wanted.to_string()).map_err(file_error("write", &pool))?;
    let after = count()?;
    node.say(&said(size, wanted, before, after));
    if after == before && !marked { unmark_changed(node) } else { Ok(()) }
}

fn said(size: PageSize, wanted: u64, before: u64, after: u64) -> String {
    let size = size.name();
    match after == wanted {
        true => format!("{after} huge pages of {size} (there were {before})"),
        false => format!(
            "{after} huge pages of {size} of the {wanted} that are wanted: memory is in use, or in pieces; a restart of the node \
             has more"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL_MIB: u64 = 8192;

    #[test]
    fn a_size_that_is_not_spoken_of_any_more_is_given_back() {
        let check = |wanted: &[(PageSize, u64)], before: &[(PageSize, u64)], expected: &[(PageSize, u64)]| {
            let pages = |list: &[(PageSize, u64)]| list.iter().copied().collect::<HugePages>();
            assert_eq!(targets(&pages(wanted), &at_start(&pages(before))), expected, "{wanted:?} after {before:?}");
        };
        let (small, large) = (PageSize::Mi2, PageSize::Gi1);
        check(&[], &[], &[]);
        check(&[(small, 8)], &[], &[(small, 8)]);
        check(&[(small, 8)], &[(small, 4)], &[(small, 8)]);
        check(&[], &[(small, 4)], &[(small, 0)]);
        check(&[(large, 1)], &[(small, 4)], &[(small, 0), (large, 1)]);
    }

    #[test]
    fn the_node_keeps_what_it_needs() {
        let pages = |size, count| HugePages::from([(size, count)]);
        assert_eq!(check(&pages(PageSize::Gi1, 4), TOTAL_MIB, |_| true), Ok(()));
        let (wanted_mib, left_mib) = (5120, LEAST_MEMORY_MIB);
        let refused = Err(HugePagesError::Memory { wanted_mib, total_mib: TOTAL_MIB, left_mib });
        assert_eq!(check(&pages(PageSize::Gi1, 5), TOTAL_MIB, |_| true), refused);
        assert_eq!(check(&pages(PageSize::Gi1, 1), TOTAL_MIB, |_| false), Err(HugePagesError::Size("1Gi")));
        // Small machines that want none.
        assert_eq!(check(&HugePages::new(), 0, |_| false), Ok(()));
    }

    #[test]
    fn what_the_kernel_could_not_do_is_said() {
        assert_eq!(said(PageSize::Mi2, 8, 0, 8), "8 huge pages of 2Mi (there were 0)");
        let less = said(PageSize::Gi1, 8, 0, 3);
        assert!(less.contains("3 huge pages of 1Gi of the 8 that are wanted"), "{less}");
        assert_eq!(total_memory_mib("MemTotal:        8388608 kB\nMemFree: 1 kB\n"), TOTAL_MIB);
    }
}
