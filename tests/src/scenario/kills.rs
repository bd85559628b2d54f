//! `kill -9` of every daemon of the node, one after another, while guests run: no guest notices, status is right again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::field_report::Story;
use super::guests;
use crate::cluster::{condition, text_of};
use crate::host;
use crate::lan::H100;

/// How long the status may take to be right again.
const RECOVERY: Duration = Duration::from_secs(30);

pub(crate) fn run(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    for unit in ["furrow-agent", "furrow-control", "libvirtd", "k3s"] {
        checks.check(&format!("kill -9 of {unit}: no guest restarts, status is right within 30 s"), || {
            let tiny = guests::address(&story.cluster, "first")?;
            let before = text_of(&guests::facts_now(story.bed, H100, tiny)?["boot_id"]);
            let debian = story.ssh()?.wait(60)?;
            let uid = text_of(&story.cluster.get("vmi", "report")?["metadata"]["uid"]);
            let old = story.bed.node().main_pid(unit)?;
            story.bed.node().shell(&format!("kill -9 {old}"))?;
            host::until("the status to be right again", RECOVERY, || settled(story, unit, &old, &uid))?;
            let after = text_of(&guests::facts_now(story.bed, H100, tiny)?["boot_id"]);
            ensure!(before == after && !after.is_empty(), "the tiny guest's boot id was {before}, now it is {after}");
            ensure!(story.ssh()?.wait(60)? == debian, "the Debian guest has restarted");
            Ok(())
        });
    }
    checks.check("the cluster still acts after the kills: a VM starts and stops", || {
        let source = &story.tiny_source;
        story.cluster.apply(&guests::tiny("after-kills", source, "Always"))?;
        story.cluster.wait(("vmi", "after-kills"), "/status/phase", &["Running"], 90)?;
        let address = guests::address(&story.cluster, "after-kills")?;
        guests::facts(story.bed, H100, address, 90)?;
        story.cluster.kubectl(&["delete", "vm", "after-kills", "--wait=true", "--timeout=90s"]).map(|_| ())
    });
    Ok(())
}

/// The unit runs anew, the node is Ready, and both VMs are Running and Ready with the VMIs they had.
fn settled(story: &Story<'_>, unit: &str, old: &str, uid: &str) -> Result<()> {
    let pid = story.bed.node().main_pid(unit)?;
    ensure!(pid != old, "{unit} has not died yet");
    let node = story.cluster.get("node", story.bed.node().name())?;
    let ready = condition(&node, "Ready").context("the node has no Ready condition")?;
    ensure!(ready["status"] == "True", "the node is not Ready: {}", ready["message"]);
    for name in ["first", "report"] {
        let vm = story.cluster.get("vm", name)?;
        ensure!(vm["status"]["printableStatus"] == "Running", "vm {name} is {}", vm["status"]["printableStatus"]);
        let vmi = story.cluster.get("vmi", name)?;
        let ready = condition(&vmi, "Ready").with_context(|| format!("vmi {name} has no Ready condition"))?;
        ensure!(ready["status"] == "True", "vmi {name} is not Ready: {ready}");
    }
    let now = text_of(&story.cluster.get("vmi", "report")?["metadata"]["uid"]);
    ensure!(now == uid, "vmi report was made anew");
    let domains = story.bed.node().shell("virsh -c qemu:///system list --name")?;
    let count = domains.lines().filter(|line| !line.trim().is_empty()).count();
    ensure!(count == 2, "{count} domains run, expected 2: {domains}");
    Ok(())
}
