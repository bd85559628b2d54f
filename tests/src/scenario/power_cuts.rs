//! Power cuts of a whole machine: in each part of the installation, of the first boot and of an update. After each of them
//! the machine can be installed, or boots.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Checks;
use super::journey::{self, Journey};
use super::updates;
use crate::host;
use crate::layout::Layout;

/// What the console shows when the installation is at a point. After the last one the disk boots, and is no longer
/// installed to.
const INSTALLATION: [(&str, &str); 7] = [
    ("when the partitions are being made", "step 1 of 5"),
    ("when the system begins to be copied", "step 2 of 5"),
    ("amid the copying", "MB written"),
    ("amid the comparison", "MB compared"),
    ("before the configuration", "step 3 of 5"),
    ("before the boot files", "step 4 of 5"),
    ("before the last step", "step 5 of 5"),
];

/// The same for the bootstrap of the first boot.
const FIRST_BOOT: [(&str, &str); 3] = [
    ("when the first boot has its layers", "writable layers on /dev/"),
    ("amid the bootstrap", "kubernetes-files: done"),
    ("when Ceph's monitor is there", "ceph-monitor: done"),
];

/// Phases of `furrow-install update`, by the names that its tests know.
const UPDATE: [&str; 4] = ["forgotten", "written", "named", "ready"];

/// Between two cuts of an update the node boots without its cluster, which takes minutes and is no part of it.
const WITHOUT_CLUSTER: &str = "systemd.mask=furrow-bootstrap.service systemd.mask=furrow-healthy.service \
     systemd.mask=k3s.service systemd.mask=furrow-agent.service systemd.mask=furrow-control.service";

const TIMEOUT_S: u64 = 900;

pub(crate) fn run(source: &Path, checks: &mut Checks) -> Result<()> {
    let layout = Layout::new(source, "test/power-cuts")?;
    let medium = journey::medium(&layout.source)?;
    // Before the machine is on: it takes both processors for minutes.
    let media = updates::media(&layout.source)?;
    let journey = journey::prepare(&layout, &medium, "")?;
    for (when, text) in INSTALLATION {
        checks.require(&format!("power cut {when}: the machine had taken up the installation"), || {
            cut_at(&journey, text)
        })?;
    }
    for (when, text) in FIRST_BOOT {
        checks
            .require(&format!("power cut {when}: the machine had booted from its disk"), || cut_at(&journey, text))?;
    }
    power_on(&journey, WITHOUT_CLUSTER)?;
    let old = running(&journey)?;
    for phase in UPDATE {
        checks.require(&format!("power cut in an update, phase `{phase}`: a whole version boots"), || {
            updates::write(&journey, &media.join("newer.iso"), phase, Some(phase))?;
            journey.machine.power_cut();
            power_on(&journey, WITHOUT_CLUSTER)?;
            let now = running(&journey)?;
            // Only the last step lets the new version boot.
            let expected = if phase == "ready" { format!("{old}.1") } else { old.clone() };
            ensure!(now == expected, "version {now} runs, not {expected}");
            Ok(())
        })?;
    }
    checks.require("power cut amid the trial: the new version becomes ready by its last try, and stays", || {
        journey.machine.power_cut();
        let from = power_on(&journey, "")?;
        journey.machine.wait_for("node-ready: done", from, 1500)?;
        let now = updates::version(&journey)?;
        ensure!(now == format!("{old}.1"), "version {now} runs");
        updates::blessed(&journey, &now)
    })?;
    journey.machine.power_cut();
    let _ = std::fs::remove_dir_all(&layout.dir);
    Ok(())
}

/// Switches on with these words for the kernel. Returns the console's length at that time.
fn power_on(journey: &Journey, words: &str) -> Result<usize> {
    let from = journey.machine.console_end();
    journey.machine.start(&format!("furrow.unattended {words}"))?;
    Ok(from)
}

/// The version that has booted.
fn running(journey: &Journey) -> Result<String> {
    host::until("ssh", Duration::from_secs(TIMEOUT_S), || updates::version(journey))
}

/// Switches on, waits for what the console shows at a point, and cuts the power.
fn cut_at(journey: &Journey, text: &str) -> Result<()> {
    let from = power_on(journey, "")?;
    journey.machine.wait_for(text, from, TIMEOUT_S)?;
    journey.machine.power_cut();
    Ok(())
}
