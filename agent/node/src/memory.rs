//! Gives memory that is free back to the system. A hundred starts in a row leave the C library's heaps full of holes,
//! which it keeps for good: it returns by itself only what is free at a heap's end. Refuses to be in the way of a start:
//! it acts seldom, and takes milliseconds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Between attempts. The memory of a burst is wanted back soon, not at once.
const INTERVAL: Duration = Duration::from_secs(60);

/// Trims the heaps again and again until told to stop.
pub(crate) fn start(stop: &CancellationToken) {
    let stop = stop.clone();
    tokio::spawn(async move {
        // Safe to cancel: waiting has no effect of its own.
        while tokio::time::timeout(INTERVAL, stop.cancelled()).await.is_err() {
            // It waits for the heaps' locks, which the threads of librbd hold as well.
            if let Err(error) = tokio::task::spawn_blocking(trim).await {
                tracing::debug!(error = %error, "free memory could not be given back");
            }
        }
    });
}

fn trim() {
    // SAFETY: it takes the allocator's own locks and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Below the size that the C library maps on its own, and so gives back by itself.
    const BLOCK: usize = 16 << 10;
    const BLOCKS: usize = 4096;

    fn anonymous_kib() -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn holes_in_the_heap_are_given_back() {
        let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; BLOCK]).collect();
        // The last one keeps the heap's end where it is.
        let kept = blocks.pop();
        drop(blocks);
        let before = anonymous_kib();
        trim();
        let after = anonymous_kib();
        assert!(before > after + (BLOCK * BLOCKS / 2 / 1024) as u64, "{before} KiB before, {after} KiB after");
        drop(kept);
    }
}
