//! Operations that may not be carried out yet: then they answer 501 with a Status, which is noted; once they are, their
//! effect is checked as that of all others. What is still noted here is what the product still lacks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::answer::{NOT_YET, check};
use super::{Of, Story, VERSIONS, path};
use crate::cluster::text_of;
use crate::http::Answer;
use crate::scenario::Checks;
use crate::websocket::{Opened, PLAIN};

const NAME: &str = "porter";
const RENAMED: &str = "porter-renamed";

/// The guest answers within this.
const ANSWER: Duration = Duration::from_secs(30);

/// An answer that says that something is not carried out yet.
pub(super) fn noted(answer: &Answer, what: &str) -> Result<()> {
    check(answer, NOT_YET, "is not supported yet")?;
    println!("         not carried out yet: {what}");
    Ok(())
}

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let booted = story.check(checks, "later: a guest boots", || {
        story.make(NAME, "Manual")?;
        check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "start"), "")?, 202, "")?;
        story.booted(NAME).map(|_| ())
    });
    if booted {
        while_it_runs(story, checks);
        while_it_is_stopped(story, checks);
    }
    story.check(checks, "later: its VM is deleted", || {
        story.delete(RENAMED)?;
        story.delete(NAME)
    });
}

fn while_it_runs(story: &Story<'_>, checks: &mut Checks) {
    for version in VERSIONS {
        for (of, tail) in [(Of::Vmi, "portforward/7777"), (Of::Vm, "portforward/7777/tcp")] {
            story.check(checks, &format!("later: {version}: {tail} of a {of:?} reaches the guest's port"), || {
                forwarded(story, version, of, tail)
            });
        }
        for of in [Of::Vm, Of::Vmi] {
            story.check(checks, &format!("later: {version}: objectgraph of a {of:?} names its volume"), || {
                let answer = story.proxy.call("GET", &path(version, of, NAME, "objectgraph"), "")?;
                match answer.code {
                    NOT_YET => noted(&answer, "objectgraph"),
                    _ => check(&answer, 200, &format!("{NAME}-root")),
                }
            });
            story.check(
                checks,
                &format!("later: {version}: evacuate/cancel of a {of:?} that nobody evacuates"),
                || {
                    let answer = story.proxy.call("PUT", &path(version, of, NAME, "evacuate/cancel"), "{}")?;
                    match answer.code {
                        NOT_YET => noted(&answer, "evacuate/cancel"),
                        // Upstream does nothing, or says that there is nothing to cancel.
                        409 => check(&answer, 409, ""),
                        _ => check(&answer, 200, ""),
                    }
                },
            );
        }
        story.check(checks, &format!("later: {version}: rename refuses a VM that runs, and says so"), || {
            let answer = story.proxy.call("PUT", &path(version, Of::Vm, NAME, "rename"), r#"{"newName":"other"}"#)?;
            match answer.code {
                NOT_YET => noted(&answer, "rename"),
                400 => check(&answer, 400, ""),
                _ => check(&answer, 409, ""),
            }
        });
        story.check(
            checks,
            &format!("later: {version}: migrate with nowhere to go is accepted or refused, clearly"),
            || {
                let answer =
                    story.proxy.call("PUT", &path(version, Of::Vm, NAME, "migrate"), r#"{"dryRun":["All"]}"#)?;
                match answer.code {
                    NOT_YET => noted(&answer, "migrate"),
                    409 => check(&answer, 409, ""),
                    403 => check(&answer, 403, ""),
                    _ => check(&answer, 202, ""),
                }
            },
        );
    }
}

fn forwarded(story: &Story<'_>, version: &str, of: Of, tail: &str) -> Result<()> {
    for protocol in [None, Some(PLAIN)] {
        let mut stream = match story.proxy.open(&path(version, of, NAME, tail), protocol)? {
            Opened::Refused(answer) if answer.code == NOT_YET => return noted(&answer, "portforward"),
            opened => opened.stream()?,
        };
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
    story.check(checks, "later: rename keeps disk and data of a stopped VM", || {
        ensure!(story.ask(NAME, "write kept-over-rename")? == "OK", "the guest did not write");
        check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "stop"), "")?, 202, "")?;
        story.cluster.wait_gone("vmi", NAME, super::STOP_S)?;
        let rename = path("v1alpha3", Of::Vm, NAME, "rename");
        let answer = story.proxy.call("PUT", &rename, &format!(r#"{{"newName":"{RENAMED}"}}"#))?;
        if answer.code == NOT_YET {
            return noted(&answer, "rename");
        }
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
    story.check(checks, "later: portforward to a VM that does not run is refused", || {
        let answer = story.proxy.open(&path("v1", Of::Vm, NAME, "portforward/7777"), None)?.refusal()?;
        match answer.code {
            NOT_YET => noted(&answer, "portforward"),
            404 => check(&answer, 404, ""),
            _ => check(&answer, 409, ""),
        }
    });
}
