//! USB devices that clients lend a guest, as `virtctl usbredir` uses it: streams that QEMU greets in usbredir's words, four
//! side by side and none more, a place that is free again, and their end with the agent and with the guest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::answer::check;
use super::fields::least;
use super::{Of, STOP_S, Story, VERSIONS, path};
use crate::host;
use crate::scenario::{Checks, guests};
use crate::websocket::{PLAIN, Received, WebSocket};

const NAME: &str = "borrower";

/// Guests that never run, without and with ports for clients' devices.
const UNLENT: &str = "usb-unlent";
const WAITING: &str = "usb-waiting";

/// Devices that a guest can be lent at once: KubeVirt's.
const SLOTS: usize = 4;

/// QEMU greets within this, on two busy cores.
const GREETING: Duration = Duration::from_secs(30);

/// A stream that ends has ended by then, and its place is free.
const END: Duration = Duration::from_secs(20);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "usbredir: refused where there is none, and before the guest runs", || refusals(story));
    let booted = story.check(checks, "usbredir: a guest with ports for clients' devices boots", || {
        let without = "autoattachGraphicsDevice: false\n";
        let with = format!("{without}          clientPassthrough: {{}}\n");
        let manifest = guests::tiny(NAME, &story.tiny_source, "Always");
        story.cluster.apply(&guests::replaced(&manifest, without, &with)?)?;
        story.booted(NAME)?;
        let document = story.domain(NAME)?;
        let ports = document.matches("<redirdev ").count();
        ensure!(ports == SLOTS, "the domain has {ports} of them: {document}");
        Ok(())
    });
    if booted {
        side_by_side(story, checks);
        ending(story, checks);
    }
    story.check(checks, "usbredir: its VM is deleted", || story.delete(NAME));
}

fn open(story: &Story<'_>, version: &str, protocol: Option<&str>) -> Result<WebSocket> {
    let stream = story.proxy.open(&path(version, Of::Vmi, NAME, "usbredir"), protocol)?.stream()?;
    ensure!(stream.protocol() == protocol, "it speaks {:?}", stream.protocol());
    Ok(stream)
}

/// All the streams there can be, each greeted while the others are open.
fn all(story: &Story<'_>) -> Result<Vec<WebSocket>> {
    let mut streams = Vec::new();
    for version in VERSIONS {
        for protocol in [None, Some(PLAIN)] {
            let stream = host::until("a place to be free", END, || open(story, version, protocol))?;
            streams.push(stream);
        }
    }
    ensure!(streams.len() == SLOTS, "{} were opened", streams.len());
    for (number, stream) in streams.iter_mut().enumerate() {
        let told = greeted(stream).with_context(|| format!("stream {number}"))?;
        if number == 0 {
            println!("         {told}");
        }
    }
    Ok(streams)
}

/// A stream that nobody has ended.
fn lives(stream: &mut WebSocket) -> Result<()> {
    match stream.receive(Duration::from_millis(500))? {
        Received::Silence => Ok(()),
        other => anyhow::bail!("it is no longer silent: {other:?}"),
    }
}

fn refused(story: &Story<'_>, name: &str, (code, text): (u16, &str)) -> Result<()> {
    for version in VERSIONS {
        let answer = story.proxy.open(&path(version, Of::Vmi, name, "usbredir"), None)?.refusal()?;
        check(&answer, code, text).with_context(|| format!("{version}: {name}"))?;
    }
    Ok(())
}

fn refusals(story: &Story<'_>) -> Result<()> {
    for (name, lent) in [(UNLENT, false), (WAITING, true)] {
        let mut vmi = least(name);
        vmi["spec"]["nodeSelector"] = json!({"furrow.io/test": "nowhere"});
        if lent {
            vmi["spec"]["domain"]["devices"]["clientPassthrough"] = json!({});
        }
        story.cluster.apply(&vmi.to_string())?;
    }
    refused(story, UNLENT, (409, "Not configured with USB Redirection"))?;
    refused(story, WAITING, (400, "VMI is not running"))?;
    refused(story, "nothing", (404, "virtualmachineinstance.kubevirt.io \"nothing\" not found"))?;
    story.cluster.kubectl(&["delete", "vmi", UNLENT, WAITING, "--wait=true", "--timeout=60s"]).map(|_| ())
}

fn side_by_side(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "usbredir: QEMU greets four at once, a fifth is refused, and a place is free again", || {
        let mut streams = all(story)?;
        refused(story, NAME, (503, "in use"))?;
        for stream in &mut streams {
            lives(stream).context("after a fifth was refused")?;
        }
        let mut gone = streams.remove(1);
        gone.close()?;
        gone.wait_closed(END)?;
        let mut next = host::until("a place to be free", END, || open(story, "v1", None))?;
        greeted(&mut next).context("the next")?;
        refused(story, NAME, (503, "in use"))?;
        streams.iter_mut().try_for_each(lives)
    });
    story.check(checks, "usbredir: streams that are broken off leave their places to the next", || {
        drop(all(story)?);
        all(story).map(|_| ())
    });
}

fn ending(story: &Story<'_>, checks: &mut Checks) {
    story.check(
        checks,
        "usbredir: when the agent starts anew they end, the guest runs on, and all places are free",
        || {
            let boot = story.booted(NAME)?;
            let mut streams = all(story)?;
            story.bed.node().shell("systemctl restart furrow-agent")?;
            for stream in &mut streams {
                stream.wait_closed(END)?;
            }
            host::until("the agent to answer", Duration::from_secs(60), || open(story, "v1", None).map(|_| ()))?;
            all(story)?;
            ensure!(story.booted(NAME)? == boot, "the guest has restarted");
            Ok(())
        },
    );
    story.check(checks, "usbredir: they end cleanly when the guest stops, and none begins after it", || {
        let mut streams = all(story)?;
        let stop = path("v1", Of::Vm, NAME, "stop");
        check(&story.proxy.call("PUT", &stop, r#"{"gracePeriod":0}"#)?, 202, "")?;
        for stream in &mut streams {
            let code = stream.wait_closed(Duration::from_secs(STOP_S))?;
            ensure!(code.is_none_or(|code| (1000..=1001).contains(&code)), "its close frame says {code:?}");
        }
        story.cluster.wait_gone("vmi", NAME, STOP_S)?;
        refused(story, NAME, (404, "not found"))
    });
}

/// Waits for QEMU's first packet; gives the version in it.
fn greeted(stream: &mut WebSocket) -> Result<String> {
    let deadline = Instant::now() + GREETING;
    let mut seen = Vec::new();
    loop {
        if let Some(version) = version(&seen)? {
            ensure!(version.starts_with("qemu usb-redir guest"), "it calls itself `{version}`");
            return Ok(version);
        }
        match stream.receive(deadline.saturating_duration_since(Instant::now()))? {
            Received::Bytes(bytes) => seen.extend_from_slice(&bytes),
            Received::Pong(_) => {}
            other => anyhow::bail!("no greeting, but {other:?} after {} bytes", seen.len()),
        }
    }
}

/// The version in a `usb_redir_hello`; `None` when it is not all there. By usbredir's protocol 0.7: a head of type, length and
/// id, little-endian, then 64 bytes of text that zeros fill up, then capabilities. The id has 32 bits until both sides have
/// said that they take 64; that of this packet is 0.
fn version(bytes: &[u8]) -> Result<Option<String>> {
    const TEXT: usize = 64;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (Some(kind), Some(length), Some(after)) = (word(0), word(4), word(12)) else { return Ok(None) };
    ensure!(kind == 0, "the first packet is of type {kind}");
    let length = usize::try_from(length)?;
    ensure!((TEXT..=TEXT + 64).contains(&length), "a greeting of {length} bytes");
    let head = if after == 0 { 16 } else { 12 };
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let text = body[..TEXT].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(kind: u32, id: &[u8], text: &str) -> Vec<u8> {
        let mut body = text.as_bytes().to_vec();
        body.resize(64, 0);
        [&kind.to_le_bytes(), &68_u32.to_le_bytes(), id, &body, &[0xff, 0, 0, 0]].concat()
    }

    #[test]
    fn a_greeting_is_read_with_either_id_and_only_when_it_is_whole() {
        let text = "qemu usb-redir guest 10.0.2";
        for id in [&[0; 4][..], &[0; 8]] {
            let packet = hello(0, id, text);
            assert_eq!(version(&packet).unwrap().as_deref(), Some(text));
            assert_eq!(version(&[&packet[..], b"more"].concat()).unwrap().as_deref(), Some(text));
            for end in 0..packet.len() {
                assert_eq!(version(&packet[..end]).unwrap(), None, "{end}");
            }
        }
        assert!(version(&hello(1, &[0; 4], text)).is_err(), "another packet");
        assert!(version(b"RFB 003.008\nand so on").is_err());
    }
}
