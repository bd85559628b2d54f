//! The state of a machine that outlives its guests: the claim that keeps the variables of its firmware is the VM's, is a
//! flash chip of the firmware's size, is written to by one domain, keeps what was written over a stop, and goes with the VM.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{START_S, STOP_S, Story};
use crate::cluster::text_of;
use crate::host;
use crate::scenario::field_report::run_strategy;
use crate::scenario::{Checks, guests};

const NAME: &str = "keeps";

/// Of OVMF's variables, bytes.
const FLASH_BYTES: &str = "540672";

/// Where a mark of ours stays: at the end of the spare area, which the firmware uses only when its store is full.
const MARK_AT: &str = "540656";

/// What they begin as.
const TEMPLATE: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let made = story.check(checks, "state: a VM that keeps its variables starts under Secure Boot", || start(story));
    if made {
        story.check(checks, "state: they are in an image of the VM's own, as libvirt has it", || in_an_image(story));
        story.check(checks, "state: what is written to it is there after a stop and a start", || kept(story));
    }
    story.check(checks, "state: claim and image go with the VM", || gone(story));
}

fn start(story: &Story<'_>) -> Result<()> {
    let manifest = guests::tiny(NAME, &story.tiny_source, "Always");
    let firmware = "        firmware: {bootloader: {efi: {secureBoot: true, persistent: true}}}\n        features: {smm: {enabled: true}, acpi: {}}\n";
    let memory = "        memory:\n          guest: 96Mi\n";
    // The firmware needs more than the tiny guest. Its boot loader is unsigned: it does not boot, and need not.
    let memory_now = memory.replace("96Mi", "256Mi");
    story.cluster.apply(&guests::replaced(&manifest, memory, &format!("{memory_now}{firmware}"))?)?;
    story.running(NAME).map(|_| ())
}

/// The one claim that keeps the machine's state.
fn claim(story: &Story<'_>) -> Result<Value> {
    let claims = story.cluster.list("pvc")?;
    let of_vm = |claim: &&Value| text_of(&claim["metadata"]["labels"]["persistent-state-for"]) == NAME;
    let mut found = claims.iter().filter(of_vm);
    let claim = found.next().context("no claim is labelled persistent-state-for")?;
    ensure!(found.next().is_none(), "there are several");
    Ok(claim.clone())
}

/// `pool/image` behind it.
fn image(story: &Story<'_>) -> Result<String> {
    story.image(&claim(story)?)
}

fn in_an_image(story: &Story<'_>) -> Result<()> {
    let owner = &claim(story)?["metadata"]["ownerReferences"][0];
    ensure!(text_of(&owner["kind"]) == "VirtualMachine" && text_of(&owner["name"]) == NAME, "its owner is {owner}");
    let image = image(story)?;
    let domain = story.domain(NAME)?;
    let (_, nvram) = domain.split_once("<nvram").context("the domain has no nvram")?;
    let nvram = nvram.split_once("</nvram>").map_or(nvram, |(inside, _)| inside);
    ensure!(nvram.contains("type='network'") && nvram.contains(&format!("name='{image}'")), "nvram is {nvram}");
    let info = story.bed.node().shell(&format!("rbd --id furrow-agent info --format json {image}"))?;
    let info: Value = serde_json::from_str(&info).context("rbd info")?;
    ensure!(text_of(&info["size"]) == FLASH_BYTES, "the image has {} bytes", info["size"]);
    host::until("the firmware's first variables", Duration::from_secs(START_S), || written(story, &image))
}

/// The firmware has written variables of its own.
fn written(story: &Story<'_>, image: &str) -> Result<()> {
    let same =
        format!("rbd --id furrow-agent export --no-progress {image} - | cmp -s - {TEMPLATE} && echo same || true");
    let same = story.bed.node().shell(&same)?;
    ensure!(same.trim().is_empty(), "{image} is still the template");
    Ok(())
}

fn kept(story: &Story<'_>) -> Result<()> {
    let image = image(story)?;
    let before = story.uid(NAME)?;
    run_strategy(&story.cluster, NAME, "Halted")?;
    story.cluster.wait_gone("vmi", NAME, STOP_S)?;
    written(story, &image).context("after the stop")?;
    qemu_io(story, &image, &format!("write -P 0x5a {MARK_AT} 16"))?;
    run_strategy(&story.cluster, NAME, "Always")?;
    story.another(NAME, before.as_deref(), Duration::from_secs(START_S))?;
    story.running(NAME)?;
    // Read past QEMU, which has it open: a reader takes no lock.
    // 0x5a is `Z`.
    let tail = format!("rbd --id furrow-agent export --no-progress {image} - | tail -c 16");
    let found = story.bed.node().shell(&tail)?;
    ensure!(found == "Z".repeat(16), "the mark is gone: the variables were made anew");
    written(story, &image).context("after the start")
}

fn qemu_io(story: &Story<'_>, image: &str, command: &str) -> Result<()> {
    let keyring = "/etc/ceph/ceph.client.furrow-agent.keyring";
    let line = format!("qemu-io -f raw -c '{command}' 'rbd:{image}:id=furrow-agent:keyring={keyring}'");
    story.bed.node().shell(&line).map(|_| ())
}

fn gone(story: &Story<'_>) -> Result<()> {
    let image = image(story)?;
    story.delete(NAME)?;
    host::until("the end of claim and image", Duration::from_secs(STOP_S), || {
        ensure!(claim(story).is_err(), "the claim is still there");
        story.image_gone(&image)
    })
}
