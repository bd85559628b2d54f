//! Operations beyond a guest's running and stopping: ports, volumes plugged in and out, the graph of objects, evacuation,
//! migration, renaming.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::answer::check;
use super::{Of, Story, VERSIONS, path};
use crate::cluster::text_of;
use crate::host;
use crate::scenario::{Checks, guests};
use crate::websocket::PLAIN;

const NAME: &str = "porter";
const RENAMED: &str = "porter-renamed";

/// The guest answers within this.
const ANSWER: Duration = Duration::from_secs(30);

/// A volume is plugged within this.
const PLUGGED: Duration = Duration::from_secs(60);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let booted = story.check(checks, "beyond: a guest boots", || {
        story.make(NAME, "Manual")?;
        check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "start"), "")?, 202, "")?;
        story.booted(NAME).map(|_| ())
    });
    if booted {
        while_it_runs(story, checks);
        while_it_is_stopped(story, checks);
    }
    story.check(checks, "beyond: its VM is deleted", || {
        story.delete(RENAMED)?;
        story.delete(NAME)
    });
}

fn while_it_runs(story: &Story<'_>, checks: &mut Checks) {
    for version in VERSIONS {
        for (of, tail) in [(Of::Vmi, "portforward/7777"), (Of::Vm, "portforward/7777/tcp")] {
            story.check(checks, &format!("beyond: {version}: {tail} of a {of:?} reaches the guest's port"), || {
                forwarded(story, version, of, tail)
            });
        }
        for of in [Of::Vm, Of::Vmi] {
            story.check(
                checks,
                &format!("beyond: {version}: a volume is plugged in and out through the {of:?}"),
                || plugged(story, version, of),
            );
            story.check(checks, &format!("beyond: {version}: objectgraph of a {of:?} names its volume"), || {
                let answer = story.proxy.call("GET", &path(version, of, NAME, "objectgraph"), "")?;
                check(&answer, 200, &format!("{NAME}-root"))
            });
            story.check(
                checks,
                &format!("beyond: {version}: evacuate/cancel of a {of:?} that nobody evacuates"),
                || {
                    let answer = story.proxy.call("PUT", &path(version, of, NAME, "evacuate/cancel"), "{}")?;
                    // Upstream does nothing, or says that there is nothing to cancel.
                    check(&answer, if answer.code == 409 { 409 } else { 200 }, "")
                },
            );
        }
        story.check(checks, &format!("beyond: {version}: rename refuses a VM that runs, and says so"), || {
            let answer = story.proxy.call("PUT", &path(version, Of::Vm, NAME, "rename"), r#"{"newName":"other"}"#)?;
            check(&answer, if answer.code == 400 { 400 } else { 409 }, "")
        });
        story.check(
            checks,
            &format!("beyond: {version}: migrate is accepted, and ends as failed with a reason"),
            || {
                for body in [r#"{"dryRun":["All"]}"#, "{}"] {
                    check(&story.proxy.call("PUT", &path(version, Of::Vm, NAME, "migrate"), body)?, 202, "")?;
                }
                migrations_end(story)
            },
        );
    }
}

/// No tool that waits for a migration waits for ever.
fn migrations_end(story: &Story<'_>) -> Result<()> {
    let of = format!("--selector=kubevirt.io/vmi-name={NAME}");
    host::until("the migration to end", ANSWER, || {
        let list = story.cluster.kubectl(&["get", "vmim", &of, "-o", "json"])?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let items = list["items"].as_array().context("there is no list")?;
        ensure!(!items.is_empty(), "none was made");
        for status in items.iter().map(|item| &item["status"]) {
            ensure!(status["phase"] == "Failed", "its status is {status}");
            ensure!(status["migrationState"]["failureReason"].is_string(), "it does not say why: {status}");
        }
        Ok(())
    })
}

/// A blank disk is plugged into the running guest and out of it again.
fn plugged(story: &Story<'_>, version: &str, of: Of) -> Result<()> {
    let disk = format!("plugged-{version}-{}", if of == Of::Vm { "vm" } else { "vmi" });
    story.cluster.apply(&guests::data_volume("beyond", &disk, "blank: {}", "16Mi"))?;
    let add = json!({
        "name": disk, "disk": {"name": disk, "disk": {"bus": "scsi"}, "serial": disk},
        "volumeSource": {"dataVolume": {"name": disk, "hotpluggable": true}},
    });
    check(&story.proxy.call("PUT", &path(version, of, NAME, "addvolume"), &add.to_string())?, 202, "")?;
    let alias = format!("ua-{disk}");
    let there = |wanted: bool| {
        crate::host::until(&format!("disk {disk} in the domain: {wanted}"), PLUGGED, || {
            ensure!(story.domain(NAME)?.contains(&alias) == wanted, "it is as before");
            Ok(())
        })
    };
    there(true)?;
    crate::host::until("the volume to be Ready", PLUGGED, || {
        let vmi = story.cluster.get("vmi", NAME)?;
        let volumes = vmi["status"]["volumeStatus"].as_array().cloned().unwrap_or_default();
        let told = volumes.iter().find(|volume| volume["name"] == disk.as_str()).context("it has no status")?;
        ensure!(told["phase"] == "Ready" && told["hotplugVolume"].is_object(), "its status is {told}");
        Ok(())
    })?;
    let remove = json!({"name": disk}).to_string();
    check(&story.proxy.call("PUT", &path(version, of, NAME, "removevolume"), &remove)?, 202, "")?;
    there(false)?;
    story.cluster.kubectl(&["delete", "dv", &disk, "--wait=true", "--timeout=60s"]).map(|_| ())
}

fn forwarded(story: &Story<'_>, version: &str, of: Of, tail: &str) -> Result<()> {
    for protocol in [None, Some(PLAIN)] {
        let mut stream = story.proxy.open(&path(version, of, NAME, tail), protocol)?.stream()?;
        ensure!(stream.protocol() == protocol, "it speaks {:?}", stream.protocol());
        let facts = stream.read_until("\n", ANSWER)?;
        ensure!(facts.contains(&format!("\"hostname\":\"{NAME}\"")), "it greets with {facts}");
        stream.send(b"run echo forwarded $((11 * 11))\n")?;
        stream.read_until("forwarded 121", ANSWER)?;
        stream.close()?;
        stream.wait_closed(ANSWER)?;
    }
    Ok(())
}

fn while_it_is_stopped(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "beyond: rename keeps disk and data of a stopped VM", || {
        ensure!(story.ask(NAME, "write kept-over-rename")? == "OK", "the guest did not write");
        check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "stop"), "")?, 202, "")?;
        story.cluster.wait_gone("vmi", NAME, super::STOP_S)?;
        let rename = path("v1alpha3", Of::Vm, NAME, "rename");
        let answer = story.proxy.call("PUT", &rename, &format!(r#"{{"newName":"{RENAMED}"}}"#))?;
        check(&answer, 202, "")?;
        story.cluster.wait_gone("vm", NAME, 60)?;
        let start = path("v1", Of::Vm, RENAMED, "start");
        crate::host::until("the renamed VM to start", Duration::from_secs(60), || {
            check(&story.proxy.call("PUT", &start, "")?, 202, "")
        })?;
        let vmi = story.running(RENAMED)?;
        let address = vmi.pointer("/status/interfaces/0/ipAddress").map(text_of);
        println!("         its address is {}", address.unwrap_or_default());
        crate::host::until("what was written", Duration::from_secs(super::START_S), || {
            let kept = story.ask(RENAMED, "read")?;
            ensure!(kept == "kept-over-rename", "it reads {kept}");
            Ok(())
        })
        .context("after the rename")
    });
    story.check(checks, "beyond: portforward to a VM that does not run is refused", || {
        let answer = story.proxy.open(&path("v1", Of::Vm, NAME, "portforward/7777"), None)?.refusal()?;
        check(&answer, if answer.code == 404 { 404 } else { 409 }, "")
    });
}
