//! A TPM that keeps its state: the claim and its key, that the key is nowhere else, that the image has what the TPM keeps,
//! that it is the same TPM after a stop and a start though nothing of it stays on the node, and that all goes with the VM.
//! In the Debian guest (`agent`) a value written to the TPM's own memory is read back, over the death of the agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{START_S, STOP_S, Story};
use crate::cluster::text_of;
use crate::host;
use crate::scenario::field_report::run_strategy;
use crate::scenario::guests::Ssh;
use crate::scenario::{Checks, guests};

const NAME: &str = "seals";

/// Where swtpm's states are on the node.
const STATES: &str = "/run/furrow/tpm";

/// TPM2_NV_DefineSpace, TPM2_NV_Write and TPM2_NV_Read of 16 bytes at index 0x01500016, by the owner, who has no password
/// (TCG TPM 2.0 library, part 3); and what every answer that is no error has after its length.
const DEFINE: &str = "80020000002d0000012a40000001000000094000000900000000000000000e01500016000b0206000600000010";
const WRITE: &str =
    "800200000033000001374000000101500016000000094000000900000000000010667572726f772d74706d2d73746174650000";
const READ: &str = "8002000000230000014e40000001015000160000000940000009000000000000100000";
const SUCCESS: &str = "00000000";
/// What is written.
const VALUE: &str = "667572726f772d74706d2d7374617465";

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let made =
        story.check(checks, "tpm: a VM whose TPM keeps its state starts, with a claim and a key", || start(story));
    if made {
        story.check(checks, "tpm: libvirt encrypts it, and its key is in no argument and no log", || sealed(story));
        story.check(checks, "tpm: the image has what the TPM keeps", || host_and_image_agree(story));
        story.check(checks, "tpm: it is the same after a stop and a start, and the node keeps nothing", || same(story));
    }
    story.check(checks, "tpm: claim, key and image go with the VM", || gone(story));
}

fn start(story: &Story<'_>) -> Result<()> {
    let manifest = guests::tiny(NAME, &story.tiny_source, "Always");
    let place = "        devices:\n";
    let tpm = format!("{place}          tpm: {{persistent: true}}\n");
    story.cluster.apply(&guests::replaced(&manifest, place, &tpm)?)?;
    story.running(NAME)?;
    let claim = claim(story, NAME)?;
    let name = text_of(&claim["metadata"]["name"]);
    ensure!(claim["metadata"]["annotations"]["furrow.io/state-key"] == name.as_str(), "the claim is {claim}");
    let secret = story.cluster.get("secret", &name)?;
    ensure!(secret["type"] == "furrow.io/state-key" && secret["immutable"] == true, "its type is {}", secret["type"]);
    let owner = &secret["metadata"]["ownerReferences"][0];
    ensure!(owner["uid"] == claim["metadata"]["uid"], "its owner is {owner}");
    Ok(())
}

/// The claim that keeps the TPM's state.
fn claim(story: &Story<'_>, vm: &str) -> Result<Value> {
    let claims = story.cluster.list("pvc")?;
    let of_tpm = |claim: &&Value| {
        let labels = &claim["metadata"]["labels"];
        text_of(&labels["persistent-state-for"]) == vm && text_of(&labels["furrow.io/state"]) == "tpm"
    };
    claims.iter().find(of_tpm).cloned().context("no claim keeps the state of a TPM")
}

/// `pool/image` behind it.
fn image(story: &Story<'_>) -> Result<String> {
    story.image(&claim(story, NAME)?)
}

fn sealed(story: &Story<'_>) -> Result<()> {
    let domain = story.domain(NAME)?;
    for part in ["model='tpm-crb'", "persistent_state='yes'", "<encryption secret="] {
        ensure!(domain.contains(part), "the domain has no {part}");
    }
    let node = story.bed.node();
    let lent = node.shell("virsh -q -c qemu:///system secret-list")?;
    ensure!(!lent.contains("vtpm"), "libvirt still has the key: {lent}");
    let secret = text_of(&claim(story, NAME)?["metadata"]["name"]);
    // By a file, since the search itself has arguments too.
    let file = "/run/furrow-test-key";
    node.shell(&format!("kubectl get secret {secret} -o jsonpath={{.data.passphrase}} | base64 -d > {file}"))?;
    let bytes = node.shell(&format!("wc -c < {file}"))?;
    ensure!(bytes.trim() == "64", "the passphrase has {} bytes", bytes.trim());
    let places = "/proc/[0-9]*/cmdline /var/log/libvirt /var/log/swtpm /etc/libvirt";
    let found = node.shell(&format!(
        "grep -rlFf {file} {places} 2>/dev/null; journalctl -b -o cat | grep -cFf {file} | grep -vx 0; rm {file}"
    ))?;
    ensure!(found.trim().is_empty(), "the key is in {found}");
    Ok(())
}

/// The state on the node, by its digest and length.
fn on_node(story: &Story<'_>) -> Result<(String, u64)> {
    let uid = story.uid(NAME)?.context("there is no guest")?;
    let told = story.bed.node().shell(&format!(
        "cp {STATES}/{uid}/tpm2/tpm2-00.permall /run/furrow-test-tpm && sha256sum < /run/furrow-test-tpm | cut -c1-64 && \
         wc -c < /run/furrow-test-tpm && rm /run/furrow-test-tpm"
    ))?;
    let (digest, bytes) = told.trim().split_once('\n').context("two lines")?;
    Ok((digest.to_owned(), bytes.trim().parse()?))
}

fn host_and_image_agree(story: &Story<'_>) -> Result<()> {
    let image = image(story)?;
    host::until("the image to have the node's state", Duration::from_secs(60), || {
        let (digest, bytes) = on_node(story)?;
        // After the header of one of the two slots.
        let slots = [4097, (512 << 10) + 4097].map(|first: u64| {
            let cut = format!("tail -c +{first} | head -c {bytes}");
            let read = format!("rbd --id furrow-agent export --no-progress {image} - | {cut} | sha256sum | cut -c1-64");
            story.bed.node().shell(&read)
        });
        let slots = slots.into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(slots.iter().any(|slot| slot.trim() == digest), "the node has {digest}, the image {slots:?}");
        Ok(())
    })
}

/// How often a TPM was made for the guest.
fn manufactured(story: &Story<'_>) -> Result<u64> {
    let log = format!("/var/log/swtpm/libvirt/qemu/default_{NAME}-swtpm.log");
    let told = story.bed.node().shell(&format!("grep -c \"Ending vTPM manufacturing\" {log} || true"))?;
    told.trim().parse().with_context(|| format!("grep said {told:?}"))
}

fn same(story: &Story<'_>) -> Result<()> {
    ensure!(manufactured(story)? == 1, "it was made {} times", manufactured(story)?);
    restart(story, NAME)?;
    ensure!(manufactured(story)? == 1, "it was made anew");
    host_and_image_agree(story)
}

/// Stops a VM, sees that nothing of its TPM is left on the node, and starts it.
fn restart(story: &Story<'_>, vm: &str) -> Result<()> {
    let before = story.uid(vm)?;
    run_strategy(&story.cluster, vm, "Halted")?;
    story.cluster.wait_gone("vmi", vm, STOP_S + 120)?;
    let uid = before.clone().unwrap_or_default();
    let left = story.bed.node().shell(&format!("ls {STATES} | grep -x {uid} || true"))?;
    ensure!(left.trim().is_empty(), "{STATES}/{uid} is left on the node");
    run_strategy(&story.cluster, vm, "Always")?;
    story.another(vm, before.as_deref(), Duration::from_secs(START_S))?;
    story.running(vm).map(|_| ())
}

/// What a TPM answers to a command, as hexadecimal digits.
fn command(ssh: &Ssh, command: &str) -> Result<String> {
    let program = format!(
        "f=open(\\\"/dev/tpmrm0\\\",\\\"r+b\\\",0);f.write(bytes.fromhex(\\\"{command}\\\"));print(f.read(4096).hex())"
    );
    let answer = ssh.shell(&format!("python3 -c \"{program}\""))?;
    let answer = answer.trim().to_owned();
    ensure!(answer.get(12..20) == Some(SUCCESS), "the TPM answers {answer}");
    Ok(answer)
}

/// In a guest that has a driver: what was written to the TPM is there after a stop and a start, though the agent was killed
/// before the stop. `ssh` leads to the guest, before and after.
pub(super) fn remembers(story: &Story<'_>, vm: &str, ssh: impl Fn() -> Result<Ssh>) -> Result<()> {
    command(&ssh()?, DEFINE)?;
    command(&ssh()?, WRITE)?;
    story.bed.node().shell("systemctl kill -s KILL furrow-agent")?;
    restart(story, vm)?;
    host::until("ssh after the start", Duration::from_secs(900), || ssh()?.wait(60))?;
    let answer = command(&ssh()?, READ)?;
    ensure!(answer.contains(VALUE), "the TPM has forgotten: {answer}");
    Ok(())
}

fn gone(story: &Story<'_>) -> Result<()> {
    let image = image(story)?;
    let secret = text_of(&claim(story, NAME)?["metadata"]["name"]);
    story.delete(NAME)?;
    host::until("the end of claim, key and image", Duration::from_secs(STOP_S), || {
        ensure!(claim(story, NAME).is_err(), "the claim is still there");
        let left = story.cluster.kubectl(&["get", "secret", &secret, "--ignore-not-found", "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left} is still there");
        story.image_gone(&image)
    })
}
