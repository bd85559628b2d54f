//! `furrow-install status`: what [`crate::observe`] sees, printed; and the wait for all of it to be well.

use std::path::Path;
use std::time::Duration;

use crate::membership;
use crate::observe::{Level, Probe};
use crate::steps::STATE;

/// How long a node may need from its start until all parts are well: Ceph's recovery after a restart included.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(900);

/// Waits until all parts are well, for as long as a new version has to become so.
pub(crate) async fn wait_healthy() -> bool {
    let begun = std::time::Instant::now();
    while begun.elapsed() < HEALTHY_TIMEOUT {
        if print().await {
            return true;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    println!("not healthy within {} s", HEALTHY_TIMEOUT.as_secs());
    false
}

/// Prints a line for each part of the node. Says whether none of them has a fault.
pub(crate) async fn print() -> bool {
    let mut well = true;
    if let Some(reason) = membership::removed(Path::new(STATE)) {
        println!("{:14} FAIL {reason}", "membership");
        return false;
    }
    for probe in Probe::ALL {
        for part in probe.observe().await {
            well &= part.level != Level::Fault;
            println!("{:14} {} {}", part.name, part.level.mark(), part.text);
        }
    }
    well
}
