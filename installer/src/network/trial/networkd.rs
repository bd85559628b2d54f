//! What a trial asks of systemd: the timer that takes it back, networkd, the bootstrap. Decides nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use furrow_host::cmd::Cmd;

use super::super::cards::{Card, SYSFS, cards};
use super::{TRIAL, TrialError};
use crate::steps::{StepError, is_active, systemctl};

/// The transient timer and the service that it starts.
const TIMER: &str = "furrow-network-trial";
/// networkd answers at once or not at all.
const NETWORKD_TIMEOUT: Duration = Duration::from_secs(10);
const BOOTSTRAP: &str = "furrow-bootstrap.service";

/// Cards, and what stands for them in a container.
pub(super) fn nics() -> Vec<Card> {
    cards(Path::new(SYSFS)).into_iter().filter(|card| card.is_ethernet).collect()
}

/// Arms the way back: it needs this process no more.
pub(super) async fn arm_timer() -> Result<(), TrialError> {
    stop_timer().await;
    let after = format!("--on-active={}", TRIAL.as_secs());
    let run = Cmd::new("/usr/bin/systemd-run").args(["--quiet", "--collect", "--unit", TIMER, &after]);
    let run = run.args(["--timer-property=AccuracySec=100ms", "/usr/bin/furrow-install", "network", "rollback"]);
    run.run().await.map_err(StepError::from)?;
    Ok(())
}

/// Its service is left alone: it may be the one that calls.
pub(super) async fn stop_timer() {
    let _ = systemctl(&["stop", &format!("{TIMER}.timer")]).await;
}

/// Makes networkd follow the units. `gone`: devices that no unit makes any more, which networkd would leave; `nics` by name
/// or MAC address. Before networkd has started there is nothing to tell.
pub(super) async fn apply(gone: &[String], nics: &BTreeSet<String>) -> Result<(), TrialError> {
    if !is_active("systemd-networkd.service").await? {
        return Ok(());
    }
    let networkctl = |args: &[&str]| Cmd::new("/usr/bin/networkctl").args(args).timeout(NETWORKD_TIMEOUT).run();
    for device in gone.iter().filter(|device| Path::new(SYSFS).join(device).exists()) {
        networkctl(&["delete", device]).await.map_err(StepError::from)?;
    }
    networkctl(&["reload"]).await.map_err(StepError::from)?;
    for nic in self::nics().iter().filter(|n| nics.contains(&n.name) || nics.contains(&n.mac.to_lowercase())) {
        networkctl(&["reconfigure", &nic.name]).await.map_err(StepError::from)?;
    }
    Ok(())
}

/// Stops a bootstrap that is at work: it would build on an address that may go again. Says whether it was.
pub(super) async fn stop_bootstrap() -> Result<bool, TrialError> {
    let state = systemctl(&["show", "--value", "--property=ActiveState", BOOTSTRAP]).await?;
    let at_work = state.trim() == "activating";
    if at_work {
        systemctl(&["stop", BOOTSTRAP]).await?;
    }
    Ok(at_work)
}

/// Lets the bootstrap bring the rest of the node to what node.yaml says now. `start`: also where it does not run.
pub(super) async fn follow(start: bool) {
    let verb = if start { "restart" } else { "try-restart" };
    // It tells its own failures; the network is as wanted.
    let _ = systemctl(&["--no-block", verb, BOOTSTRAP]).await;
}
