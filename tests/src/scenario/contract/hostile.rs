//! Clients that mean harm or are broken: too many, too slow, too large, talking nonsense. None of them may keep others out,
//! end a process, or make it grow.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::answer::check;
use super::{Of, Story, VERSIONS, console, intruder, path};
use crate::http::Request;
use crate::netns;
use crate::random::Random;
use crate::scenario::Checks;

pub(super) const NAME: &str = "victim";

/// Port of the subresource API on every server.
pub(super) const PORT: u16 = 8444;

/// Clients at once.
const CLIENTS: usize = 200;

/// How much a process may be larger afterwards, KiB: what an allocator keeps after hundreds of connections at once.
const GROWTH_KIB: u64 = 24 << 10;

/// What is broken has ended by then.
const END: Duration = Duration::from_secs(30);

/// A guest under emulation answers within this, also beside all that.
const ANSWER: Duration = Duration::from_secs(60);

/// Four times what etcd takes of an object.
const LARGE_BYTES: usize = 4 << 20;

const UNITS: [&str; 2] = ["furrow-control", "furrow-agent"];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let booted = story.check(checks, "hostile: a guest boots", || {
        story.make(NAME, "Always")?;
        story.booted(NAME)?;
        // The first stream of all has its costs.
        works(story)
    });
    if booted {
        attack(story, checks);
    }
    story.check(checks, "hostile: its VM is deleted", || story.delete(NAME));
}

fn attack(story: &Story<'_>, checks: &mut Checks) {
    let figures = || -> Result<Vec<(u64, String)>> {
        UNITS.iter().map(|unit| Ok((story.resident_kib(unit)?, story.bed.node().main_pid(unit)?))).collect()
    };
    let before = figures();
    let uid = story.uid(NAME);
    story.check(checks, "hostile: of 200 consoles that are left open one lives, and it works", || many(story));
    story.check(checks, "hostile: a client that never reads keeps nobody out, and nothing grows", || deaf(story));
    for (what, bytes) in nonsense() {
        story.check(checks, &format!("hostile: {what} on a WebSocket ends it, and the next one works"), || {
            for tail in ["console", "vnc"] {
                let mut stream = story.proxy.open(&path("v1", Of::Vmi, NAME, tail), None)?.stream()?;
                // The other side may end it before all is sent.
                let _ = stream.send_raw(&bytes);
                stream.wait_closed(END).with_context(|| tail.to_owned())?;
            }
            works(story)
        });
    }
    for version in VERSIONS {
        story.check(checks, &format!("hostile: {version}: bodies of 4 MiB are refused with 413"), || {
            too_large(story, version)
        });
    }
    story.check(checks, "hostile: bodies that are no options are refused with 400", || unreadable(story));
    story.check(checks, "hostile: 200 connections to port 8444 that say nothing, or nonsense, are closed", || {
        silent(story)
    });
    intruder::run(story, checks);
    story.check(checks, "hostile: afterwards the same processes run, no larger, and the guest noticed nothing", || {
        let (before, after) = (before?, figures()?);
        for ((unit, (old, old_pid)), (new, new_pid)) in UNITS.iter().zip(&before).zip(&after) {
            println!("         {unit}: {old} KiB before, {new} KiB after");
            ensure!(old_pid == new_pid, "{unit} was process {old_pid}, now it is {new_pid}");
            ensure!(*new <= old + GROWTH_KIB, "{unit} had {old} KiB, now it has {new} KiB");
        }
        let (uid, now) = (uid?, story.uid(NAME)?);
        ensure!(uid == now, "the guest was {uid:?}, now it is {now:?}");
        works(story)
    });
}

/// A console works.
fn works(story: &Story<'_>) -> Result<()> {
    let mut console = console::open(story, "v1", NAME, None)?;
    console.send(b"\nrun echo works $((50 + 5))\n")?;
    console.read_until("works 55", ANSWER).map(|_| ())
}

fn many(story: &Story<'_>) -> Result<()> {
    let mut consoles = Vec::new();
    for index in 0..CLIENTS {
        let version = VERSIONS[index % 2];
        consoles.push(console::open(story, version, NAME, None).with_context(|| format!("console {index}"))?);
    }
    println!("         furrow-control with {CLIENTS} clients: {} KiB", story.resident_kib("furrow-control")?);
    let mut last = consoles.pop().context("none was opened")?;
    last.send(b"\nrun echo last $((60 + 6))\n")?;
    last.read_until("last 66", ANSWER)?;
    for (index, console) in consoles.iter_mut().enumerate() {
        console.wait_closed(END).with_context(|| format!("console {index}, which others took over"))?;
    }
    Ok(())
}

fn deaf(story: &Story<'_>) -> Result<()> {
    let before = UNITS.map(|unit| story.resident_kib(unit));
    let mut deaf = console::open(story, "v1", NAME, None)?;
    deaf.send(b"\nrun timeout 40 yes 0123456789012345678901234567890123456789\n")?;
    std::thread::sleep(Duration::from_secs(25));
    for (unit, before) in UNITS.iter().zip(before) {
        let (before, now) = (before?, story.resident_kib(unit)?);
        ensure!(now <= before + GROWTH_KIB, "{unit} had {before} KiB, now it has {now} KiB");
    }
    let mut next = console::open(story, "v1", NAME, None).context("the next one")?;
    next.read_until("0123456789", ANSWER).context("the next one")?;
    next.read_until("EXIT ", Duration::from_secs(120)).context("the end of what was printed")?;
    drop(deaf);
    works(story)
}

/// Bytes that are no frames of a client.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let masked = [0x80, 0, 0, 0, 0];
    let head = |first: u8| [&[first][..], &masked].concat();
    let mut random = Random::new(8444);
    let mut noise: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
    // Bits that mean nothing, so that it is none by accident.
    noise[0] = 0xff;
    let mut long_ping = vec![0x89, 0xfe, 1, 0, 0, 0, 0, 0];
    long_ping.resize(8 + 256, 0);
    let mut large = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0];
    large.resize(14 + (2 << 20), 0);
    vec![
        ("noise", noise),
        ("a frame without a mask", vec![0x82, 3, b'a', b'b', b'c']),
        ("a frame of an unknown kind", head(0x83)),
        ("a frame with reserved bits", head(0xf2)),
        ("a frame that is said to have 2^62 bytes", vec![0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a ping in pieces", head(0x09)),
        ("a ping of 256 bytes", long_ping),
        ("the continuation of nothing", head(0x80)),
        ("a message of 2 MiB", large),
    ]
}

fn too_large(story: &Story<'_>, version: &str) -> Result<()> {
    let body = vec![b' '; LARGE_BYTES];
    for (of, tail) in [(Of::Vm, "stop"), (Of::Vm, "start"), (Of::Vmi, "pause"), (Of::Vmi, "freeze")] {
        let path = path(version, of, NAME, tail);
        let answer = story.proxy.send(&Request { method: "PUT", path: &path, headers: &[], body: &body })?;
        check(&answer, 413, "too large").with_context(|| tail.to_owned())?;
    }
    Ok(())
}

fn unreadable(story: &Story<'_>) -> Result<()> {
    for body in ["{", "[1]", "\u{0}", "{\"dryRun\": 7}", "\"word\"", "dryRun: [", "{\"dryRun\":[\"All\"]} more"] {
        let answer = story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "stop"), body)?;
        check(&answer, 400, "Can not unmarshal Request body").with_context(|| format!("{body:?}"))?;
    }
    Ok(())
}

/// From a host of the management network, as one that is no part of the cluster.
fn silent(story: &Story<'_>) -> Result<()> {
    let address = SocketAddr::from((story.bed.node().address(), PORT));
    let netns = story.bed.lan().netns();
    let mut streams: Vec<TcpStream> = Vec::new();
    for index in 0..CLIENTS {
        let mut stream =
            netns::connect(&netns, address, Duration::from_secs(5)).with_context(|| format!("connection {index}"))?;
        if index % 2 == 0 {
            let _ = stream.write_all(&[0xff; 600]);
        }
        streams.push(stream);
    }
    let told = story.proxy.call("GET", "/apis/subresources.kubevirt.io/v1/version", "")?;
    ensure!(told.code == 200, "meanwhile the version is answered with {}", told.code);
    let deadline = Instant::now() + END;
    for (index, stream) in streams.iter_mut().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        closed(stream, left).with_context(|| format!("connection {index}"))?;
    }
    Ok(())
}

/// Waits until the other side has closed; an alert may come first.
fn closed(stream: &mut TcpStream, limit: Duration) -> Result<()> {
    stream.set_read_timeout(Some(limit))?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("it is still open")
            }
            // Reset: closed as well.
            Err(_) => return Ok(()),
        }
    }
}
