//! The display as clients use it: an RFB server behind a WebSocket, whose screen shows something; the one who has it, and
//! the one who wants it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::answer::check;
use super::rfb::Display;
use super::{Of, Story, VERSIONS, console, path};
use crate::host;
use crate::scenario::Checks;
use crate::websocket::PLAIN;

const NAME: &str = "screen";

/// A stream that ends has ended by then.
const END: Duration = Duration::from_secs(20);

/// What the first bytes of a PNG are.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let booted = story.check(checks, "vnc: a guest with a display boots", || {
        story.make(NAME, "Always")?;
        story.booted(NAME)?;
        // What firmware has written may be gone by now.
        let mut console = console::open(story, "v1", NAME, None)?;
        console::says(&mut console, "run echo FURROW > /dev/tty0", "EXIT 0")
    });
    if booted {
        for version in VERSIONS {
            for protocol in [None, Some(PLAIN)] {
                let with = protocol.unwrap_or("no subprotocol");
                story.check(
                    checks,
                    &format!("vnc: {version}: RFB's handshake with {with}, and a screen of pixels"),
                    || shows_something(&mut open(story, version, "vnc", protocol)?),
                );
            }
        }
        story.check(checks, "vnc: a second one takes over, and the first ends", || {
            let mut first = open(story, "v1", "vnc", None)?;
            first.colours()?;
            let mut second = open(story, "v1", "vnc?preserveSession=false", None)?;
            first.stream().wait_closed(END).context("the first")?;
            second.colours().map(|_| ())
        });
        story.check(checks, "vnc: with preserveSession whoever is there stays, and the other is refused", || {
            let mut first = open(story, "v1", "vnc", Some(PLAIN))?;
            first.colours()?;
            let path = path("v1", Of::Vmi, NAME, "vnc?preserveSession=true");
            check(&story.proxy.open(&path, None)?.refusal()?, 409, "in use")?;
            first.colours().context("the one that was there")?;
            first.stream().close()?;
            first.stream().wait_closed(END)?;
            let mut next = host::until("the place to be free", Duration::from_secs(20), || {
                open(story, "v1", "vnc?preserveSession=true", None)
            })?;
            next.colours().map(|_| ())
        });
        for version in VERSIONS {
            story.check(checks, &format!("vnc: {version}: a screenshot is a PNG"), || screenshot(story, version));
        }
    }
    story.check(checks, "vnc: its VM is deleted", || story.delete(NAME));
}

fn open(story: &Story<'_>, version: &str, tail: &str, protocol: Option<&str>) -> Result<Display> {
    let stream = story.proxy.open(&path(version, Of::Vmi, NAME, tail), protocol)?.stream()?;
    ensure!(stream.protocol() == protocol, "it speaks {:?}", stream.protocol());
    Display::greet(stream)
}

fn shows_something(display: &mut Display) -> Result<()> {
    host::until("pixels that differ", Duration::from_secs(60), || {
        let colours = display.colours()?;
        ensure!(colours > 1, "all pixels of {:?} are the same", display.size);
        Ok(())
    })?;
    println!("         {} x {}, called {}", display.size.0, display.size.1, display.name);
    Ok(())
}

fn screenshot(story: &Story<'_>, version: &str) -> Result<()> {
    let answer = story.proxy.call("GET", &path(version, Of::Vmi, NAME, "vnc/screenshot"), "")?;
    ensure!(answer.code == 200, "answered {}: {}", answer.code, answer.brief());
    ensure!(answer.body.starts_with(PNG), "it begins with {:?}", answer.body.iter().take(8).collect::<Vec<_>>());
    ensure!(answer.header("content-type") == Some("image/png"), "its type is {:?}", answer.header("content-type"));
    // Width and height of IHDR.
    let sides = answer.body.get(16..24).context("it ends in its head")?;
    ensure!(sides[..4] != [0; 4] && sides[4..] != [0; 4], "its sides are {sides:?}");
    Ok(())
}
