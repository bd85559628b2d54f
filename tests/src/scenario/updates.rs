//! Updates of a whole machine: another version stays and keeps what a guest has written; one that cannot start is given up
//! by the machine itself. Goes on where the journey ends.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::guests;
use super::journey::Journey;
use crate::cluster::{Cluster, text_of};
use crate::host;

/// From the start of the firmware to a node that is ready; emulated, on two busy cores.
const BOOT_TIMEOUT_S: u64 = 900;

pub(crate) fn run(journey: &Journey, cluster: &Cluster, media: &Path, checks: &mut Checks) -> Result<()> {
    let old = version(journey)?;
    checks.require("another version is written, boots and stays", || {
        let from = start_update(journey, &media.join("newer.iso"), "newer")?;
        wait_ready(journey, from)?;
        let new = version(journey)?;
        ensure!(new == format!("{old}.1"), "the version is {new}, it was {old}");
        blessed(journey, &new)
    })?;
    checks.check("the guest runs again, and its disk is what it was", || guest_started(journey, cluster, 2));
    checks.require("a version that cannot start is given up by itself", || {
        let from = start_update(journey, &media.join("broken.iso"), "broken")?;
        let begun = Instant::now();
        let mut at = from;
        for _ in 0..2 {
            at = journey.machine.wait_for("this version did not start", at, BOOT_TIMEOUT_S)?;
        }
        wait_ready(journey, at)?;
        println!("         the older version ready {:.0} s after the restart", begun.elapsed().as_secs_f64());
        let now = version(journey)?;
        ensure!(now == format!("{old}.1"), "the version is {now}");
        let status = journey.shell("furrow-install status || true")?;
        ensure!(status.contains(&format!("{old}.2 was tried")), "the status does not say so: {status}");
        Ok(())
    })?;
    checks.check("and the guest runs again", || guest_started(journey, cluster, 3));
    Ok(())
}

/// The media of two newer versions, made from this checkout's.
pub(super) fn media(source: &Path) -> Result<PathBuf> {
    host::built(&source.join("tests/newer-media"), &[], Duration::from_secs(3600))
}

/// The version's trial has ended well.
pub(super) fn blessed(journey: &Journey, version: &str) -> Result<()> {
    host::until("the new version to be blessed", Duration::from_secs(BOOT_TIMEOUT_S), || {
        let entries = journey.shell("ls $(bootctl -p)/loader/entries")?;
        let own = entries.lines().find(|l| l.contains(version)).context("no entry of the new version")?;
        ensure!(!own.contains('+'), "it is on trial: {own}");
        Ok(())
    })
}

pub(super) fn version(journey: &Journey) -> Result<String> {
    let line = journey.shell("grep ^IMAGE_VERSION= /usr/lib/os-release")?;
    Ok(line.trim().trim_start_matches("IMAGE_VERSION=").to_owned())
}

/// Writes the version on a stick to the free slot and restarts. Returns the console's length at that time.
fn start_update(journey: &Journey, iso: &Path, id: &str) -> Result<usize> {
    let begun = Instant::now();
    write(journey, iso, id, None)?;
    println!("         written in {:.0} s", begun.elapsed().as_secs_f64());
    let from = journey.machine.console_end();
    // A moment later: the answer comes before the network ends.
    journey.shell("systemd-run --quiet --collect --on-active=2 systemctl reboot")?;
    Ok(from)
}

/// Writes the version on a stick to the free slot; with `crash`, dies after that phase.
pub(super) fn write(journey: &Journey, iso: &Path, id: &str, crash: Option<&str>) -> Result<()> {
    journey.machine.plug(iso, id)?;
    let stick = format!("/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_{id}-0:0");
    host::until("the stick", Duration::from_secs(60), || journey.shell(&format!("test -b {stick}")))?;
    let crash = crash.map(|phase| format!("--crash-after {phase}")).unwrap_or_default();
    let line = format!("furrow-install update --no-reboot {crash} {stick}; exit $?");
    let done = journey.machine.shell_within(&journey.key, &line, 900);
    journey.machine.unplug(id)?;
    match done {
        Ok(_) => Ok(()),
        // A shell says 128 and the signal's number, 9.
        Err(error) if !crash.is_empty() && format!("{error:#}").contains("exited with 137") => Ok(()),
        Err(error) => Err(error),
    }
}

fn wait_ready(journey: &Journey, from: usize) -> Result<()> {
    let begun = Instant::now();
    let at = journey.machine.wait_for("writable layers on /dev/", from, BOOT_TIMEOUT_S)?;
    println!("         root mounted {:.0} s after the restart", begun.elapsed().as_secs_f64());
    journey.machine.wait_for("node-ready: done", at, BOOT_TIMEOUT_S)?;
    println!("         node ready {:.0} s after the restart", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The guest counts its starts on its own disk: one that was made anew would begin again.
fn guest_started(journey: &Journey, cluster: &Cluster, times: u64) -> Result<()> {
    host::until("the guest's facts", Duration::from_secs(BOOT_TIMEOUT_S), || {
        let address = guests::address(cluster, "first")?.to_string();
        let uid = text_of(&cluster.get("vmi", "first")?["metadata"]["uid"]);
        let log = journey.shell(&format!("cat /var/lib/furrow/guests/{uid}/console.log"))?;
        let (_, facts) = log.lines().rev().find_map(|l| l.split_once("FACTS ")).context("no facts yet")?;
        let facts: serde_json::Value = serde_json::from_str(facts.trim()).context("the guest's facts")?;
        let counted = facts["boots"].as_u64().is_some_and(|boots| boots >= times);
        ensure!(text_of(&facts["ip"]) == address && counted, "not {address} with {times} starts: {facts}");
        Ok(())
    })
}
