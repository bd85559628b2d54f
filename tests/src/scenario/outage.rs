//! The node that made the cluster loses power while a VM runs on each node, and comes back.
//!
//! Two watchers run through it all: each asks the VM of a node that stays whether it answers, once a second, so that what
//! its users would notice is a number.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::Checks;
use super::cluster::{self, Story, vm_of};
use super::guests;
use crate::cluster::{condition, text_of};
use crate::host;
use crate::lan::H100;
use crate::layout::Layout;
use crate::netns;
use crate::node_box::NodeBox;

/// Until the API answers on another server: the common address moves after three seconds of silence, etcd elects anew.
const API_TIMEOUT: Duration = Duration::from_secs(30);
/// Until Ceph takes writes again: a dead OSD is reported after 20 s, then its groups peer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(90);
/// A VM that is silent for so long has been noticed to be.
const SILENCE: Duration = Duration::from_secs(8);

/// What must not change of a guest whose node stays.
#[derive(Debug, PartialEq)]
struct Identity {
    address: Ipv4Addr,
    qemu_pid: String,
    boot_id: String,
    boots: String,
}

impl Identity {
    fn of(story: &Story<'_>, node: &NodeBox) -> Result<Identity> {
        let address = guests::address(&story.cluster, &vm_of(node))?;
        let facts = guests::facts(story.bed, H100, address, 60)?;
        let qemu_pid = node.shell(&format!("cat /run/libvirt/qemu/default_{}.pid", vm_of(node)))?;
        let qemu_pid = qemu_pid.trim().to_owned();
        let (boot_id, boots) = (text_of(&facts["boot_id"]), text_of(&facts["boots"]));
        ensure!(!boot_id.is_empty() && !boots.is_empty() && !qemu_pid.is_empty(), "{}: {facts}", vm_of(node));
        Ok(Identity { address, qemu_pid, boot_id, boots })
    }
}

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    let [n1, n2, n3] = story.bed.nodes() else { bail!("the scenario needs three nodes") };
    let first = Identity::of(story, n1)?;
    ensure!(guests::ask(story.bed, H100, first.address, "write kept")? == "OK", "the VM of n1 cannot write");
    let stay = [(n2, Identity::of(story, n2)?), (n3, Identity::of(story, n3)?)];
    let stop = AtomicBool::new(false);
    let (result, silences) = std::thread::scope(|scope| {
        let watch = |address| {
            scope.spawn({
                let stop = &stop;
                move || watch(story, address, stop)
            })
        };
        let watchers: Vec<_> = stay.iter().map(|(_, guest)| watch(guest.address)).collect();
        let result = cut(story, (n1, n2, n3), &stay, checks).and_then(|()| back(story, n1, &first, checks));
        stop.store(true, Ordering::Relaxed);
        let silences: Vec<_> =
            watchers.into_iter().map(|w| w.join().map_err(|_| anyhow!("a watcher panicked"))).collect();
        (result, silences)
    });
    for ((node, before), silence) in stay.iter().zip(silences) {
        checks.check(
            &format!("the VM of {} never noticed: same process, same boot, it answered all along", node.name()),
            || {
                let silence = silence?;
                println!(
                    "         {} answers, the longest silence {:.1} s",
                    silence.answers,
                    silence.longest.as_secs_f64()
                );
                ensure!(
                    Identity::of(story, node)? == *before,
                    "it was {before:?}, now {:?}",
                    Identity::of(story, node)?
                );
                ensure!(silence.longest < SILENCE, "it was silent for {:.1} s", silence.longest.as_secs_f64());
                Ok(())
            },
        );
    }
    result
}

/// How a guest answered.
struct Silence {
    answers: u32,
    longest: Duration,
}

/// Asks the guest's kernel for a TCP answer once a second. A refusal on a port that nobody listens on is one, and costs
/// an emulated guest next to nothing.
fn watch(story: &Story<'_>, guest: Ipv4Addr, stop: &AtomicBool) -> Silence {
    let target = SocketAddr::from((guest, guests::TINY_PORT + 1));
    let host = story.bed.layout().global(H100.name);
    let mut silence = Silence { answers: 0, longest: Duration::ZERO };
    let mut last = Instant::now();
    loop {
        let asked = Instant::now();
        let refused = netns::connect(&host, target, Duration::from_secs(3)).err().is_some_and(|error| {
            let cause = error.root_cause().downcast_ref::<std::io::Error>();
            cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        silence.longest = silence.longest.max(last.elapsed());
        if refused {
            silence.answers += 1;
            last = Instant::now();
        }
        if stop.load(Ordering::Relaxed) {
            return silence;
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
    }
}

/// The first node loses power; the others serve.
fn cut(
    story: &Story<'_>,
    (n1, n2, n3): (&NodeBox, &NodeBox, &NodeBox),
    stay: &[(&NodeBox, Identity)],
    checks: &mut Checks,
) -> Result<()> {
    let holder = cluster::vip_holders(story.bed)?;
    let cut = Instant::now();
    let since = |what: &str| println!("         {what} {:.1} s after the cut", cut.elapsed().as_secs_f64());
    checks.require("n1 loses power: the API answers on the common address, which moves", || {
        n1.power_cut(story.bed.lan());
        host::until("the API on the common address", API_TIMEOUT, || {
            story.cluster.kubectl(&["get", "nodes", "--request-timeout=5s"])
        })?;
        since(&format!("{} was on {holder:?}; the API answers", Layout::virtual_address()));
        let now = cluster::vip_holders(story.bed)?;
        ensure!(now == ["n2"] || now == ["n3"], "the address is on {now:?}");
        Ok(())
    })?;
    checks.require("the API takes writes", || {
        host::until("a write", API_TIMEOUT, || {
            story
                .cluster
                .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: during-the-outage, namespace: default}\n")
        })?;
        since("a write is taken");
        Ok(())
    })?;
    checks.check("etcd and Ceph's monitors keep quorum", || {
        // The API server's own check is a read that a majority of etcd's members must confirm.
        let etcd = story.cluster.kubectl(&["get", "--raw=/readyz/etcd"])?;
        ensure!(etcd.trim() == "ok", "the API server says of etcd: {etcd}");
        host::until("the monitors", Duration::from_secs(60), || cluster::monitors(n2, 2))
    });
    checks.check("the VMs that stay write to their disks", || {
        for (_, guest) in stay {
            host::until("a guest's write", WRITE_TIMEOUT, || {
                let answer = guests::ask(story.bed, H100, guest.address, "write in-the-outage")?;
                ensure!(answer == "OK", "the answer is `{answer}`");
                Ok(())
            })?;
        }
        since("both have written");
        Ok(())
    });
    checks.check("n1 is told to be NotReady", || {
        host::until("n1 to be NotReady", Duration::from_secs(120), || {
            let node = story.cluster.get("node", n1.name())?;
            let ready = condition(&node, "Ready").context("no condition Ready")?;
            ensure!(ready["status"] != "True", "it is Ready");
            Ok(())
        })?;
        since("NotReady");
        Ok(())
    });
    checks.check("a new VM starts on a node that stays", || {
        story.cluster.apply(&guests::tiny_at(n3.name(), "new", &story.tiny_source))?;
        story.cluster.wait(("vmi", "new"), "/status/phase", &["Running"], 180)?;
        guests::facts(story.bed, H100, guests::address(&story.cluster, "new")?, 120)?;
        since("it answers");
        story.cluster.kubectl(&["delete", "vm", "new", "--wait=true", "--timeout=90s"]).map(|_| ())
    });
    Ok(())
}

/// The node has power again.
fn back(story: &Story<'_>, n1: &NodeBox, first: &Identity, checks: &mut Checks) -> Result<()> {
    let started = Instant::now();
    let since = |what: &str| println!("         {what} {:.0} s after power-on", started.elapsed().as_secs_f64());
    checks.require("n1 comes back and is Ready", || {
        n1.start(story.bed.lan(), None)?;
        story.bed.wait_node(n1, started)?;
        host::until("three Ready nodes", Duration::from_secs(120), || cluster::nodes_ready(&story.cluster))?;
        since("Ready");
        Ok(())
    })?;
    checks.check("its members of etcd and Ceph are in again, and Ceph is clean", || {
        host::until("etcd's members", Duration::from_secs(60), || {
            cluster::etcd_members(n1).and_then(cluster::all_vote)
        })?;
        host::until("the monitors", Duration::from_secs(60), || cluster::monitors(n1, 3))?;
        host::until("the OSDs", Duration::from_secs(90), || cluster::osds(n1))?;
        host::until("the placement groups", Duration::from_secs(240), || cluster::clean(n1))?;
        since("clean");
        Ok(())
    });
    checks.check("its VM runs again, with its address and its data", || {
        let name = vm_of(n1);
        let facts = host::until(&format!("vm {name} to be well"), Duration::from_secs(240), || {
            let vmi = story.cluster.get("vmi", &name)?;
            let ready = condition(&vmi, "Ready").context("no condition Ready")?;
            ensure!(vmi["status"]["phase"] == "Running" && ready["status"] == "True", "{}", vmi["status"]);
            let facts = guests::facts_now(story.bed, H100, guests::address(&story.cluster, &name)?)?;
            ensure!(text_of(&facts["boot_id"]) != first.boot_id, "it has not started anew");
            Ok(facts)
        })?;
        since("its VM answers");
        let now = guests::address(&story.cluster, &name)?;
        ensure!(now == first.address, "the address was {}, now it is {now}", first.address);
        ensure!(text_of(&facts["marker"]) == "kept", "its disk says `{}`", text_of(&facts["marker"]));
        Ok(())
    });
    checks.check("the common address is on one node", || {
        let holders = cluster::vip_holders(story.bed)?;
        ensure!(holders.len() == 1, "it is on {holders:?}");
        Ok(())
    });
    Ok(())
}
