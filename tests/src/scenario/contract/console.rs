//! The serial console as clients use it: with and without the subprotocol, taken over by a second one, over the end of the
//! guest and of the agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::answer::check;
use super::{Of, STOP_S, Story, VERSIONS, path};
use crate::scenario::Checks;
use crate::websocket::{PLAIN, Received, WebSocket};

const NAME: &str = "talker";

/// A guest under emulation answers a line within this.
const ANSWER: Duration = Duration::from_secs(30);

/// A stream that ends has ended by then.
const END: Duration = Duration::from_secs(20);

/// A guest without a console and a display, and one with both, on a node that does not exist.
const WAITING: &str = include_str!("../../../manifests/contract/waiting.yaml");

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "console: refused where there is none, and before the guest runs", || refusals(story));
    let booted = story.check(checks, "console: a guest to talk to boots", || {
        story.make(NAME, "Always")?;
        story.booted(NAME).map(|_| ())
    });
    if booted {
        talking(story, checks);
        ending(story, checks);
    }
    story.check(checks, "console: its VM is deleted", || story.delete(NAME));
}

/// Opens a guest's console.
pub(super) fn open(story: &Story<'_>, version: &str, name: &str, protocol: Option<&str>) -> Result<WebSocket> {
    story.proxy.open(&path(version, Of::Vmi, name, "console"), protocol)?.stream().context("the console")
}

/// Types a line and waits for what the guest answers.
pub(super) fn says(console: &mut WebSocket, line: &str, answer: &str) -> Result<()> {
    console.send(format!("{line}\n").as_bytes())?;
    console.read_until(answer, ANSWER).with_context(|| format!("after `{line}`")).map(|_| ())
}

fn talking(story: &Story<'_>, checks: &mut Checks) {
    for version in VERSIONS {
        story.check(checks, &format!("console: {version}: without a subprotocol the guest answers commands"), || {
            let mut console = open(story, version, NAME, None)?;
            ensure!(console.protocol().is_none(), "it speaks {:?}", console.protocol());
            says(&mut console, "facts", &format!("\"hostname\":\"{NAME}\""))?;
            // What the shell counts cannot be the echo of what was typed.
            says(&mut console, "run echo sum $((40 + 2))", "sum 42")
        });
        story.check(
            checks,
            &format!("console: {version}: with plain.kubevirt.io it is spoken, and a disk written"),
            || {
                let mut console = open(story, version, NAME, Some(PLAIN))?;
                ensure!(console.protocol() == Some(PLAIN), "it speaks {:?}", console.protocol());
                says(&mut console, &format!("write by-console-{version}"), "OK")?;
                let kept = story.ask(NAME, "read")?;
                ensure!(kept == format!("by-console-{version}"), "the disk has `{kept}`");
                Ok(())
            },
        );
    }
    story.check(checks, "console: a text frame reaches nobody", || {
        let mut console = open(story, "v1", NAME, None)?;
        console.send_text("run echo text $((20 + 2))\n")?;
        console.send(b"run echo bytes $((30 + 3))\n")?;
        let seen = console.read_until("bytes 33", ANSWER)?;
        ensure!(!seen.contains("text 22"), "the text was typed: {seen}");
        Ok(())
    });
    story.check(checks, "console: a message in pieces with pings between is one, and pings are answered", || {
        let mut console = open(story, "v1", NAME, None)?;
        console.send_in_pieces(&[b"run echo ", b"pieces ", b"$((7 * 3))\n"])?;
        let mut pongs = 0;
        let mut seen = String::new();
        while pongs < 2 || !seen.contains("pieces 21") {
            match console.receive(ANSWER)? {
                Received::Pong(payload) if payload == b"between" => pongs += 1,
                Received::Bytes(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                other => anyhow::bail!("{pongs} pongs, then {other:?} after: {seen}"),
            }
        }
        Ok(())
    });
}

fn ending(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "console: a second one takes over, and the first ends", || {
        let mut first = open(story, "v1", NAME, Some(PLAIN))?;
        says(&mut first, "run echo first $((1 + 1))", "first 2")?;
        let mut second = open(story, "v1alpha3", NAME, None)?;
        first.wait_closed(END).context("the first")?;
        says(&mut second, "run echo second $((2 + 2))", "second 4")?;
        second.close()?;
        second.wait_closed(END).context("the second, which said goodbye").map(|_| ())
    });
    story.check(checks, "console: one that is broken off leaves the place to the next", || {
        let mut broken = open(story, "v1", NAME, None)?;
        says(&mut broken, "run echo broken $((3 + 3))", "broken 6")?;
        drop(broken);
        let mut next = open(story, "v1", NAME, None)?;
        says(&mut next, "run echo next $((4 + 4))", "next 8")
    });
    story.check(
        checks,
        "console: when the agent starts anew it ends, the guest runs on, and the next one works",
        || {
            let boot = story.booted(NAME)?;
            let mut console = open(story, "v1", NAME, None)?;
            says(&mut console, "run echo before $((5 + 5))", "before 10")?;
            story.bed.node().shell("systemctl restart furrow-agent")?;
            console.wait_closed(END)?;
            let mut next =
                crate::host::until("the agent to answer", Duration::from_secs(60), || open(story, "v1", NAME, None))?;
            says(&mut next, "run echo after $((6 + 6))", "after 12")?;
            ensure!(story.booted(NAME)? == boot, "the guest has restarted");
            Ok(())
        },
    );
    story.check(checks, "console: it ends cleanly when the guest stops", || {
        let mut console = open(story, "v1", NAME, Some(PLAIN))?;
        says(&mut console, "run echo last $((8 + 8))", "last 16")?;
        let stop = path("v1", Of::Vm, NAME, "stop");
        check(&story.proxy.call("PUT", &stop, r#"{"gracePeriod":0}"#)?, 202, "")?;
        let code = console.wait_closed(Duration::from_secs(STOP_S))?;
        ensure!(code.is_none_or(|code| (1000..=1001).contains(&code)), "its close frame says {code:?}");
        story.cluster.wait_gone("vmi", NAME, STOP_S)?;
        let refused = story.proxy.open(&path("v1", Of::Vmi, NAME, "console"), None)?.refusal()?;
        check(&refused, 404, "not found")
    });
}

/// Codes and sentences for guests that cannot be talked to.
const REFUSALS: [(&str, &str, u16, &str); 5] = [
    ("nothing", "console", 404, "virtualmachineinstance.kubevirt.io \"nothing\" not found"),
    ("mute", "console", 400, "No serial consoles are present."),
    ("mute", "vnc", 400, "No graphics devices are present."),
    ("waiting", "console", 400, "Unable to connect to VirtualMachineInstance because phase is "),
    ("waiting", "vnc", 400, "VMI is not running"),
];

fn refusals(story: &Story<'_>) -> Result<()> {
    story.cluster.apply(WAITING)?;
    for (name, tail, code, text) in REFUSALS {
        for version in VERSIONS {
            for protocol in [None, Some(PLAIN)] {
                let opened = story.proxy.open(&path(version, Of::Vmi, name, tail), protocol)?;
                let refused = opened.refusal().with_context(|| format!("{tail} of {name}"))?;
                check(&refused, code, text).with_context(|| format!("{version} {tail} of {name}"))?;
            }
        }
    }
    story.cluster.kubectl(&["delete", "vmi", "mute", "waiting", "--wait=true", "--timeout=60s"]).map(|_| ())
}
