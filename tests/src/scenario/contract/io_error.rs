//! A guest whose disk fails: Ceph shuts out the client of its QEMU, the guest's next write fails, and QEMU stops the guest
//! instead of letting it see the error. Its VM says so, and a restart, with another client, heals it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::answer::check;
use super::{Of, START_S, Story, path};
use crate::cluster::{condition, text_of};
use crate::host;
use crate::scenario::Checks;

const NAME: &str = "disk-fails";

/// libvirt tells at once, a retry of the client's request comes first.
const NOTICED: Duration = Duration::from_secs(120);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let made = story.check(checks, "io-error: a guest that writes to its disk", || {
        story.make(NAME, "Always")?;
        story.booted(NAME)?;
        ensure!(story.ask(NAME, "write before")? == "OK", "the guest did not write");
        Ok(())
    });
    if made {
        let mut shut_out = None;
        let paused = story.check(checks, "io-error: the guest is paused by the error, and its VM says so", || {
            shut_out = Some(client(story)?);
            paused(story, shut_out.as_deref().unwrap_or_default())
        });
        if paused {
            story.check(checks, "io-error: a restart of its VM heals it", || healed(story));
        }
        if let Some(client) = shut_out {
            story.check(checks, "io-error: the client is let in again", || {
                story.bed.node().shell(&format!("ceph osd blocklist rm {client}")).map(|_| ())
            });
        }
    }
    story.check(checks, "io-error: its VM is deleted", || story.delete(NAME));
}

/// The address of the one client that has the guest's disk open.
fn client(story: &Story<'_>) -> Result<String> {
    let claim = story.cluster.get("pvc", &format!("{NAME}-root"))?;
    let image = story.image(&claim)?;
    let status = story.bed.node().shell(&format!("rbd --id furrow-agent status --format json {image}"))?;
    let status: Value = serde_json::from_str(&status).context("rbd status")?;
    let watchers = status["watchers"].as_array().cloned().unwrap_or_default();
    let [watcher] = watchers.as_slice() else {
        anyhow::bail!("{image} has the watchers {}", status["watchers"]);
    };
    let address = text_of(&watcher["address"]);
    ensure!(address.contains(":0/"), "a watcher's address is {address}");
    Ok(address)
}

fn paused(story: &Story<'_>, client: &str) -> Result<()> {
    story.bed.node().shell(&format!("ceph osd blocklist add {client} 600"))?;
    // It answers when its write is done, which it never is.
    let written = story.ask(NAME, "write after");
    ensure!(!written.as_ref().is_ok_and(|said| said == "OK"), "the guest wrote all the same");
    host::until("the guest to be paused by the error", NOTICED, || {
        let vmi = story.cluster.get("vmi", NAME)?;
        let said = condition(&vmi, "Paused").with_context(|| format!("it is {}", vmi["status"]["conditions"]))?;
        ensure!(said["status"] == "True" && said["reason"] == "PausedIOError", "it says {said}");
        let ready = condition(&vmi, "Ready").context("no condition Ready")?;
        ensure!(ready["status"] == "False", "it says {ready}");
        let vm = story.cluster.get("vm", NAME)?;
        let said = condition(&vm, "Paused").with_context(|| format!("the VM is {}", vm["status"]["conditions"]))?;
        ensure!(said["status"] == "True" && said["reason"] == "PausedIOError", "the VM says {said}");
        // KubeVirt has one word for every pause.
        ensure!(vm["status"]["printableStatus"] == "Paused", "it is {}", vm["status"]["printableStatus"]);
        Ok(())
    })?;
    let state = story.state(NAME)?;
    ensure!(state == "paused", "libvirt says {state}");
    Ok(())
}

fn healed(story: &Story<'_>) -> Result<()> {
    let before = story.uid(NAME)?;
    check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "restart"), "{}")?, 202, "")?;
    story.another(NAME, before.as_deref(), Duration::from_secs(START_S))?;
    story.booted(NAME)?;
    let kept = story.ask(NAME, "read")?;
    ensure!(kept == "before", "its disk holds {kept:?}");
    ensure!(story.ask(NAME, "write healed")? == "OK", "the guest does not write");
    let vmi = story.cluster.get("vmi", NAME)?;
    ensure!(condition(&vmi, "Paused").is_none(), "it is {}", vmi["status"]["conditions"]);
    ensure!(client(story).is_ok(), "more than one client has its disk open");
    Ok(())
}
