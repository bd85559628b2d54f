//! What a trial asks of systemd: the timer that takes it back, networkd, the bootstrap. Decides nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use furrow_host::cmd::Cmd;

use super::{TRIAL, TrialError};
use crate::steps::{StepError, is_active, systemctl};

/// The transient timer and the service that it starts.
const TIMER: &str = "furrow-network-trial";
/// networkd answers at once or not at all.
const NETWORKD_TIMEOUT: Duration = Duration::from_secs(10);
const BOOTSTRAP: &str = "furrow-bootstrap.service";

/// A network card.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) mac: String,
    /// The bond, bridge or switch that it is a port of.
    pub(super) master: Option<String>,
}

/// Cards, and what stands for them in a container.
pub(super) fn nics() -> Vec<Nic> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let path = entry.path();
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
        let is_ethernet = read("type") == "1";
        if !is_ethernet {
            continue;
        }
        let master = std::fs::read_link(path.join("master")).ok();
        let master = master.and_then(|m| Some(m.file_name()?.to_string_lossy().into_owned()));
        // A NIC in a bond shows the bond's address; its own is kept here.
        let own = read("bonding_slave/perm_hwaddr");
        let mac = if own.is_empty() { read("address") } else { own };
        found.push(Nic { name: entry.file_name().to_string_lossy().into_owned(), mac, master });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
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
    for device in gone.iter().filter(|device| Path::new("/sys/class/net").join(device).exists()) {
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
