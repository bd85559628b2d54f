//! Every run strategy: what start, stop and restart do to it, what follows when the guest shuts itself down or its process
//! dies, and what the objects say meanwhile. A story a strategy, a row a step.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::answer::check;
use super::{Of, STOP_S, Story, VERSIONS, path};
use crate::cluster::{condition, text_of};
use crate::host;
use crate::scenario::Checks;

/// What is done.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// The VM is made.
    Make,
    /// An operation is called; what is answered, and a part of its sentence.
    Call(&'static str, u16, &'static str),
    /// The guest shuts itself down.
    PowerOff,
    /// The guest restarts itself.
    Reboot,
    /// Its process is killed.
    Kill,
}

/// What is seen then.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// The guest of before runs.
    Runs,
    /// A guest runs that was not there before.
    Another,
    /// There is no guest, and the VM is stopped.
    Stopped,
    /// The guest is over in this phase and kept, and the VM is stopped.
    Over(&'static str),
}

/// A step: what is done, what is seen then, and the strategy in force.
type Step = (Act, Seen, &'static str);

use Act::{Call, Kill, Make, PowerOff, Reboot};
use Seen::{Another, Over, Runs, Stopped};

const RUNNING: &str = "VM is already running";

const STORIES: &[(&str, &[Step])] = &[
    (
        "Always",
        &[
            (Make, Another, "Always"),
            (Call("start", 409, RUNNING), Runs, "Always"),
            (Reboot, Runs, "Always"),
            (PowerOff, Another, "Always"),
            (Kill, Another, "Always"),
            (Call("restart", 202, ""), Another, "Always"),
            (Call("stop", 202, ""), Stopped, "Halted"),
            (Call("stop", 409, "VM is not running"), Stopped, "Halted"),
            (Call("start", 202, ""), Another, "Always"),
        ],
    ),
    (
        "RerunOnFailure",
        &[
            (Make, Another, "RerunOnFailure"),
            (Kill, Another, "RerunOnFailure"),
            (PowerOff, Stopped, "RerunOnFailure"),
            (Call("restart", 409, "VM is not running"), Stopped, "RerunOnFailure"),
            (Call("start", 202, ""), Another, "RerunOnFailure"),
            (Call("restart", 202, ""), Another, "RerunOnFailure"),
            (Call("stop", 202, ""), Stopped, "RerunOnFailure"),
        ],
    ),
    (
        "Manual",
        &[
            (Make, Stopped, "Manual"),
            (Call("stop", 409, "VM is not running"), Stopped, "Manual"),
            (Call("start", 202, ""), Another, "Manual"),
            (PowerOff, Over("Succeeded"), "Manual"),
            (Call("start", 202, ""), Another, "Manual"),
            (Kill, Over("Failed"), "Manual"),
            (Call("restart", 202, ""), Another, "Manual"),
            (Call("stop", 202, ""), Stopped, "Manual"),
        ],
    ),
    (
        "Once",
        &[
            (Make, Another, "Once"),
            (Call("start", 409, RUNNING), Runs, "Once"),
            (Call("restart", 409, "RunStategy Once does not support manual restart requests"), Runs, "Once"),
            (PowerOff, Over("Succeeded"), "Once"),
            (Call("start", 409, "Once does not support manual start requests"), Over("Succeeded"), "Once"),
            (Call("stop", 202, ""), Stopped, "Halted"),
        ],
    ),
    (
        "Halted",
        &[
            (Make, Stopped, "Halted"),
            (Call("restart", 409, "RunStategy Halted does not support manual restart requests"), Stopped, "Halted"),
            (Call("stop", 409, "VM is not running"), Stopped, "Halted"),
            (Call("start", 202, ""), Another, "Always"),
        ],
    ),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    for (strategy, steps) in STORIES {
        let name = format!("life-{}", strategy.to_ascii_lowercase());
        let mut before = None;
        let mut boot = String::new();
        for (index, step) in steps.iter().enumerate() {
            let (act, seen, now) = step;
            let what = format!("lifecycle: {strategy}: {act:?}: {seen:?}, {now}");
            let passed = story.check(checks, &what, || {
                take(story, (&name, strategy), (*act, VERSIONS[index % 2]), &mut boot)?;
                host::until("what follows", Duration::from_secs(super::START_S), || {
                    follows(story, &name, *seen, &before)
                })?;
                if matches!(act, Reboot) {
                    let now = story.booted(&name)?;
                    ensure!(now != boot, "it has not booted anew");
                }
                in_force(story, &name, now)
            });
            before = story.uid(&name).ok().flatten();
            if !passed && matches!(act, Make) {
                break;
            }
        }
        story.check(checks, &format!("lifecycle: {strategy}: its VM is deleted"), || story.delete(&name));
    }
    story.check(checks, "lifecycle: the older field `running` is the one that start and stop write", || older(story));
    story.check(checks, "lifecycle: a change that waits for a restart says so until then", || restart_required(story));
}

/// `name` and `strategy` of the VM; `boot` takes the id of the boot that a guest ends by itself.
fn take(
    story: &Story<'_>,
    (name, strategy): (&str, &str),
    (act, version): (Act, &str),
    boot: &mut String,
) -> Result<()> {
    match act {
        Make => story.make(name, strategy),
        Call(operation, code, text) => {
            check(&story.proxy.call("PUT", &path(version, Of::Vm, name, operation), "")?, code, text)
        }
        PowerOff | Reboot => {
            *boot = story.booted(name)?;
            let command = if matches!(act, PowerOff) { "poweroff" } else { "reboot" };
            let said = story.ask(name, command)?;
            ensure!(said == "OK", "the guest said `{said}`");
            if matches!(act, Reboot) {
                return host::until("the guest to go down", Duration::from_secs(60), || {
                    match story.ask(name, "facts") {
                        Ok(facts) if facts.contains(boot.as_str()) => bail!("it is still up"),
                        _ => Ok(()),
                    }
                });
            }
            Ok(())
        }
        Kill => story.bed.node().shell(&format!("kill -9 $(cat /run/libvirt/qemu/default_{name}.pid)")).map(|_| ()),
    }
}

fn follows(story: &Story<'_>, name: &str, seen: Seen, before: &Option<String>) -> Result<()> {
    let uid = story.uid(name)?;
    let vm = story.cluster.get("vm", name)?;
    let word = text_of(&vm["status"]["printableStatus"]);
    let ready = condition(&vm, "Ready").context("the VM has no condition Ready")?;
    let created = vm["status"]["created"] == true;
    if let Some(phase) = match seen {
        Runs | Another => Some("Running"),
        Over(phase) => Some(phase),
        Stopped => None,
    } {
        ensure!(uid.is_some(), "there is no guest; the VM is {word}");
        let vmi = story.cluster.get("vmi", name)?;
        ensure!(vmi["status"]["phase"] == phase, "the guest is {}, the VM {word}", vmi["status"]["phase"]);
    }
    match seen {
        Runs | Another => {
            ensure!((uid == *before) == matches!(seen, Runs), "the guest was {before:?}, now it is {uid:?}");
            ensure!(word == "Running" && created, "the VM is {word}, created: {created}");
            ensure!(ready["status"] == "True" && vm["status"]["ready"] == true, "Ready is {ready}");
            let state = story.state(name)?;
            ensure!(state == "running", "its domain is {state}");
        }
        Stopped => {
            ensure!(uid.is_none(), "there is still the guest {uid:?}");
            ensure!(word == "Stopped" && !created, "the VM is {word}, created: {created}");
            let told = ready["status"] == "False" && ready["reason"] == "VMINotExists";
            ensure!(told, "Ready is {ready}");
            let state = story.state(name)?;
            ensure!(state == "none", "its domain is {state}");
        }
        Over(_) => {
            ensure!(uid == *before, "the guest was {before:?}, now it is {uid:?}");
            ensure!(word == "Stopped", "the VM is {word}");
            ensure!(ready["status"] == "False", "Ready is {ready}");
        }
    }
    Ok(())
}

fn in_force(story: &Story<'_>, name: &str, strategy: &str) -> Result<()> {
    let vm = story.cluster.get("vm", name)?;
    ensure!(vm["spec"]["runStrategy"] == strategy, "the strategy is {}", vm["spec"]["runStrategy"]);
    let left = vm["status"]["stateChangeRequests"].as_array().map_or(0, Vec::len);
    ensure!(left == 0, "requests are left: {}", vm["status"]["stateChangeRequests"]);
    Ok(())
}

fn older(story: &Story<'_>) -> Result<()> {
    let name = "life-older";
    let manifest = crate::scenario::guests::tiny(name, &story.tiny_source, "Always");
    story.cluster.apply(&manifest.replace("runStrategy: Always", "running: false"))?;
    for (operation, running) in [("start", true), ("stop", false)] {
        check(&story.proxy.call("PUT", &path("v1alpha3", Of::Vm, name, operation), "")?, 202, "")?;
        let vm = story.cluster.get("vm", name)?;
        ensure!(vm["spec"]["running"] == running, "after {operation} running is {}", vm["spec"]["running"]);
        ensure!(vm["spec"]["runStrategy"].is_null(), "after {operation} there is a strategy as well");
        match running {
            true => drop(story.running(name)?),
            false => story.cluster.wait_gone("vmi", name, STOP_S)?,
        }
    }
    story.delete(name)
}

fn restart_required(story: &Story<'_>) -> Result<()> {
    let name = "life-changed";
    story.make(name, "Always")?;
    story.running(name)?;
    let uid = story.uid(name)?;
    let told = |wanted: bool| {
        host::until(&format!("RestartRequired to be {wanted}"), Duration::from_secs(30), || {
            let vm = story.cluster.get("vm", name)?;
            let now = condition(&vm, "RestartRequired").is_some_and(|c| c["status"] == "True");
            ensure!(now == wanted, "it is {now}");
            Ok(())
        })
    };
    told(false)?;
    let patch = r#"{"spec":{"template":{"spec":{"domain":{"firmware":{"serial":"changed-1"}}}}}}"#;
    story.cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", patch])?;
    told(true)?;
    ensure!(!story.domain(name)?.contains("changed-1"), "the running domain has changed");
    check(&story.proxy.call("PUT", &path("v1", Of::Vm, name, "restart"), "")?, 202, "")?;
    host::until("the guest after the restart", Duration::from_secs(super::START_S), || {
        follows(story, name, Another, &uid)
    })?;
    told(false)?;
    ensure!(story.domain(name)?.contains("changed-1"), "the new domain lacks the change");
    story.delete(name)
}
