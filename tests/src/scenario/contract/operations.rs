//! Every operation that is carried out, as a table: what is asked, what is answered, and what is seen of it afterwards in
//! libvirt and in the objects. The rows of [`CYCLE`] are one story of one VM, told in each version.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::answer::{NOT_YET, check};
use super::discovery::OPERATIONS;
use super::{GROUP, Of, STOP_S, Story, VERSIONS, path};
use crate::cluster::{condition, text_of};
use crate::host;
use crate::http::Request;
use crate::scenario::Checks;

/// The VM of the cycle; its strategy is Manual.
const NAME: &str = "web";

/// What an operation leads to within this.
const EFFECT: Duration = Duration::from_secs(30);

/// What is seen afterwards.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The same guest in the same state.
    Same,
    /// The domain is in this state, and the objects say the same.
    State(&'static str),
    /// Another guest runs.
    Another,
    /// The same guest has booted anew.
    Booted,
    /// There is no guest.
    Gone,
}

/// A row.
struct Case {
    of: Of,
    method: &'static str,
    tail: &'static str,
    body: &'static str,
    code: u16,
    /// Part of the answer's sentence, or of its body.
    text: &'static str,
    then: Then,
}

const fn put(of: Of, tail: &'static str, body: &'static str) -> Case {
    Case { of, method: "PUT", tail, body, code: 0, text: "", then: Then::Same }
}

const fn vm(tail: &'static str, body: &'static str) -> Case {
    put(Of::Vm, tail, body)
}

const fn vmi(tail: &'static str, body: &'static str) -> Case {
    put(Of::Vmi, tail, body)
}

impl Case {
    const fn get(self) -> Case {
        Case { method: "GET", ..self }
    }

    const fn refused(self, code: u16, text: &'static str) -> Case {
        Case { code, text, ..self }
    }

    const fn does(self, code: u16, then: Then) -> Case {
        Case { code, then, ..self }
    }

    const fn says(self, text: &'static str) -> Case {
        Case { code: 200, text, ..self }
    }
}

const DRY: &str = r#"{"dryRun":["All"]}"#;
const NO_AGENT: &str = "VMI does not have guest agent connected";
const UNREADABLE: &str = "Can not unmarshal Request body to struct, error: ";

const CYCLE: &[Case] = &[
    // Nothing runs.
    vm("restart", "").refused(409, "VM is not running: Halted"),
    vm("stop", "").refused(409, "VM is not running"),
    vmi("pause", "").refused(404, "virtualmachineinstance.kubevirt.io \"web\" not found"),
    vmi("guestosinfo", "").get().refused(404, "virtualmachineinstance.kubevirt.io \"web\" not found"),
    vm("start", "{").refused(400, UNREADABLE),
    vm("start", DRY).does(202, Then::Same),
    // Options are JSON or YAML.
    vm("start", "paused: true\n").does(202, Then::State("paused")),
    // It runs, and does not execute.
    vm("start", "").refused(409, "VM is already running"),
    vmi("pause", "").refused(409, "VMI is already paused"),
    vmi("softreboot", "").refused(409, "VMI is paused"),
    vmi("unpause", DRY).does(200, Then::Same),
    vmi("unpause", "").does(200, Then::State("running")),
    vmi("unpause", "").refused(409, "VMI is not paused"),
    vmi("pause", DRY).does(200, Then::Same),
    vmi("pause", "{}").does(200, Then::State("paused")),
    vmi("unpause", "{}").does(200, Then::State("running")),
    // It has no agent.
    vmi("guestosinfo", "").get().refused(409, NO_AGENT),
    vmi("userlist", "").get().refused(409, NO_AGENT),
    vmi("filesystemlist", "").get().refused(409, NO_AGENT),
    vmi("freeze", r#"{"unfreezeTimeout":"five"}"#).refused(400, "unfreezeTimeout is not a duration"),
    vmi("freeze", "").refused(500, "agent"),
    // It boots anew.
    vmi("softreboot", "").does(200, Then::Booted),
    vmi("reset", "").does(200, Then::Booted),
    vm("expand-spec", "").get().says("\"kind\":\"VirtualMachine\""),
    // Another guest takes its place.
    vm("restart", r#"{"gracePeriodSeconds":5}"#).refused(400, "For force restart, only gracePeriod=0 is supported"),
    vm("restart", DRY).does(202, Then::Same),
    vm("restart", "").does(202, Then::Another),
    vm("restart", r#"{"gracePeriodSeconds":0}"#).does(202, Then::Another),
    // It stops.
    vm("stop", r#"{"gracePeriod":-1}"#).refused(400, "gracePeriod has to be greater or equal to 0"),
    vm("stop", "[1]").refused(400, UNREADABLE),
    vm("stop", DRY).does(202, Then::Same),
    vm("stop", r#"{"gracePeriod":0}"#).does(202, Then::Gone),
    vm("stop", "").refused(409, "VM is not running"),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    for version in VERSIONS {
        nobody(story, version, checks);
    }
    let made = story.check(checks, "operations: a stopped VM is made", || {
        story.make(NAME, "Manual")?;
        story.cluster.wait(("vm", NAME), "/status/printableStatus", &["Stopped"], 120).map(|_| ())
    });
    for version in VERSIONS.iter().filter(|_| made) {
        cycle(story, version, checks);
    }
    story.check(checks, "operations: the VM of the cycle is deleted", || story.delete(NAME));
    expand(story, checks);
    roles(story, checks);
}

/// Every operation on an object that does not exist, and by another method.
fn nobody(story: &Story<'_>, version: &str, checks: &mut Checks) {
    story.check(checks, &format!("operations: {version}: each on an object that is not there says so"), || {
        let mut wrong = Vec::new();
        for (of, name, reads) in OPERATIONS {
            let tail = if *name == "portforward" { "portforward/22" } else { name };
            let (method, other) = if *reads { ("GET", "PUT") } else { ("PUT", "GET") };
            let path = path(version, *of, "nothing", tail);
            let answer = story.proxy.call(method, &path, "")?;
            let result = match answer.code {
                NOT_YET => check(&answer, NOT_YET, "is not supported yet"),
                // Asked for without an upgrade, a stream is not looked for at all.
                400 if *reads => check(&answer, 400, ""),
                _ => check(&answer, 404, "\"nothing\" not found"),
            };
            wrong.extend(result.err().map(|error| format!("{method} {path}: {error:#}")));
            let result = check(&story.proxy.call(other, &path, "")?, 405, "does not allow this method");
            wrong.extend(result.err().map(|error| format!("{other} {path}: {error:#}")));
        }
        for tail in ["dance", "start/now", "portforward", "portforward/0", "portforward/22/sctp"] {
            let path = path(version, Of::Vm, "nothing", tail);
            let result = check(&story.proxy.call("GET", &path, "")?, 404, "could not find the requested resource");
            wrong.extend(result.err().map(|error| format!("GET {path}: {error:#}")));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    });
}

fn cycle(story: &Story<'_>, version: &str, checks: &mut Checks) {
    for case in CYCLE {
        let body = if case.body.is_empty() { String::new() } else { format!(" {}", case.body.trim()) };
        let what = format!("operations: {version}: {} {}{body}: {} {}", case.method, case.tail, case.code, case.text);
        story.check(checks, what.trim_end(), || tell(story, version, case));
    }
}

fn tell(story: &Story<'_>, version: &str, case: &Case) -> Result<()> {
    let boot = match case.then {
        Then::Booted => Some(story.booted(NAME)?),
        _ => None,
    };
    let before = (story.uid(NAME)?, story.state(NAME)?);
    let body = if case.body.starts_with("paused:") {
        [("Content-Type", "application/yaml")]
    } else {
        [("Content-Type", "application/json")]
    };
    let path = path(version, case.of, NAME, case.tail);
    let request = Request { method: case.method, path: &path, headers: &body, body: case.body.as_bytes() };
    check(&story.proxy.send(&request)?, case.code, case.text)?;
    seen(story, case.then, &before, boot)
}

fn seen(story: &Story<'_>, then: Then, before: &(Option<String>, String), boot: Option<String>) -> Result<()> {
    match then {
        Then::Same => {
            // Whatever was begun by mistake shows by then.
            std::thread::sleep(Duration::from_millis(700));
            let now = (story.uid(NAME)?, story.state(NAME)?);
            ensure!(now == *before, "guest and state were {before:?}, now they are {now:?}");
            Ok(())
        }
        Then::State(state) => {
            story.running(NAME)?;
            host::until(&format!("the domain to be {state}"), EFFECT, || {
                let now = story.state(NAME)?;
                ensure!(now == state, "it is {now}");
                Ok(())
            })?;
            host::until("the objects to say so", EFFECT, || shown(story, state == "paused"))
        }
        Then::Another => {
            host::until("another guest to run", Duration::from_secs(STOP_S + 60), || {
                let uid = story.uid(NAME)?;
                ensure!(uid.is_some() && uid != before.0, "the guest is {uid:?}");
                let phase = story.cluster.get("vmi", NAME)?["status"]["phase"].clone();
                ensure!(phase == "Running", "its phase is {phase}");
                Ok(())
            })?;
            host::until("its domain", EFFECT, || {
                let state = story.state(NAME)?;
                ensure!(state == "running", "it is {state}");
                Ok(())
            })
        }
        Then::Booted => {
            let old = boot.context("no boot id from before")?;
            host::until("the guest to boot anew", Duration::from_secs(super::START_S), || {
                let now = story.booted(NAME)?;
                ensure!(now != old, "it runs since before");
                Ok(())
            })?;
            let uid = story.uid(NAME)?;
            ensure!(uid == before.0, "another guest has taken its place: {uid:?}");
            Ok(())
        }
        Then::Gone => {
            story.cluster.wait_gone("vmi", NAME, STOP_S)?;
            let state = story.state(NAME)?;
            ensure!(state == "none", "its domain is still {state}");
            story.cluster.wait(("vm", NAME), "/status/printableStatus", &["Stopped"], 30)?;
            let vm = story.cluster.get("vm", NAME)?;
            let ready = condition(&vm, "Ready").context("the VM has no condition Ready")?;
            ensure!(ready["status"] == "False" && ready["reason"] == "VMINotExists", "Ready is {ready}");
            Ok(())
        }
    }
}

/// The VMI's condition Paused and the VM's word.
fn shown(story: &Story<'_>, paused: bool) -> Result<()> {
    let vmi = story.cluster.get("vmi", NAME)?;
    let told = condition(&vmi, "Paused");
    let word = text_of(&story.cluster.get("vm", NAME)?["status"]["printableStatus"]);
    if !paused {
        ensure!(told.is_none_or(|c| c["status"] != "True") && word == "Running", "the VM is {word}, Paused: {told:?}");
        return Ok(());
    }
    let Some(told) = told else { bail!("the VMI has no condition Paused") };
    ensure!(told["status"] == "True" && told["reason"] == "PausedByUser", "Paused is {told}");
    ensure!(word == "Paused", "the VM is {word}");
    Ok(())
}

fn expand(story: &Story<'_>, checks: &mut Checks) {
    for version in VERSIONS {
        story.check(checks, &format!("operations: {version}: expand-vm-spec gives back the VM that is sent"), || {
            let path = format!("/apis/{GROUP}/{version}/namespaces/default/expand-vm-spec");
            let vm = r#"{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"sent"},
                "spec":{"runStrategy":"Halted","template":{"spec":{"domain":{"devices":{}}}}}}"#;
            let answer = story.proxy.call("PUT", &path, vm)?;
            check(&answer, 200, "")?;
            let back = answer.json()?;
            ensure!(back["metadata"]["name"] == "sent" && back["spec"]["runStrategy"] == "Halted", "it is {back}");
            check(&story.proxy.call("PUT", &path, "")?, 400, "empty request body")?;
            check(&story.proxy.call("PUT", &path, "{")?, 400, "")?;
            check(&story.proxy.call("PUT", &path, r#"{"spec":{"runStrategy":3}}"#)?, 400, "not a valid VirtualMachine")
        });
    }
}

/// Who asks, what for, and whether KubeVirt's roles let them: `view` reads what is harmless, `edit` acts.
const ROLES: &[(&str, &str, Of, &str, bool)] = &[
    ("view", "GET", Of::Vm, "expand-spec", true),
    ("view", "GET", Of::Vmi, "guestosinfo", true),
    ("view", "PUT", Of::Vm, "start", false),
    ("view", "PUT", Of::Vmi, "pause", false),
    ("view", "GET", Of::Vmi, "console", false),
    ("view", "GET", Of::Vmi, "vnc", false),
    ("edit", "PUT", Of::Vm, "start", true),
    ("edit", "PUT", Of::Vmi, "reset", true),
    ("edit", "GET", Of::Vmi, "console", true),
    ("edit", "GET", Of::Vmi, "vnc/screenshot", false),
    ("edit", "PUT", Of::Vm, "migrate", false),
    ("admin", "GET", Of::Vmi, "vnc/screenshot", true),
    ("admin", "PUT", Of::Vm, "migrate", false),
    ("nobody", "GET", Of::Vm, "expand-spec", false),
];

fn roles(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "operations: Kubernetes' roles view, edit and admin reach what KubeVirt grants them", || {
        for role in ["view", "edit", "admin"] {
            let (role, user) = (format!("--clusterrole={role}"), format!("--user=contract-{role}"));
            story.cluster.kubectl(&["create", "rolebinding", &user[7..], &role, &user])?;
        }
        let mut wrong = Vec::new();
        for (role, method, of, tail, may) in ROLES {
            let user = format!("contract-{role}");
            let headers = [("Impersonate-User", user.as_str()), ("Impersonate-Group", "system:authenticated")];
            let path = path("v1", *of, "nothing", tail);
            let request = Request { method, path: &path, headers: &headers, body: b"" };
            // Roles are known a moment after they were bound. What the API server lets pass by the first word of a
            // subresource, control refuses with 401 by the whole of it.
            let asked = host::until("the answer", Duration::from_secs(10), || {
                let answer = story.proxy.send(&request)?;
                let refused = matches!(answer.code, 401 | 403);
                ensure!(refused != *may, "answered {}: {}", answer.code, answer.brief());
                Ok(())
            });
            wrong.extend(asked.err().map(|error| format!("{role}: {method} {tail}: {error:#}")));
        }
        story.cluster.kubectl(&["delete", "rolebinding", "contract-view", "contract-edit", "contract-admin"])?;
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    });
}
