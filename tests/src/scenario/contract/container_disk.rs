//! Disks and kernels in images of a registry: the tiny guest's. How often the layer was fetched, the server's log says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::super::{Checks, guests};
use super::registry::{Published, allow, publish};
use super::{START_S, Story};
use crate::cluster::{condition, text_of};
use crate::host;

const REPOSITORY: &str = "disks/tiny";
/// Furrow's own namespace, where the cluster's copies are.
const SYSTEM: &str = "furrow-system";
/// A failure is shown after one question to the registry.
const REFUSED_S: u64 = 60;

/// Words for an image that cannot be had, of a guest's condition and of its VM.
const PULL_FAILED: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let tiny = story.tiny.as_path();
    let mut published = None;
    let ready = story.check(checks, "an image with the tiny guest's disk is in a registry without TLS", || {
        published = Some(publish(story, REPOSITORY, "disk", &[(tiny, "tiny.qcow2")])?);
        allow(story)
    });
    let Some(published) = published.filter(|_| ready) else { return };
    story.check(checks, "a containerDisk is fetched once, and its guest boots", || first(story, &published));
    story.check(checks, "a second guest starts from the cluster's copy", || second(story, &published));
    story.check(checks, "an image by a digest that is not there is refused by name", || wrong(story, &published));
    story.check(checks, "a DataVolume is filled from a registry", || imported(story, &published));
    story.check(checks, "a guest boots a kernel out of an image, with its own arguments", || kernel(story, tiny));
}

/// What a guest is: the tiny one, from an image.
fn spec(name: &str, image: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "domain": {
            "memory": {"guest": "96Mi"},
            "devices": {
                "autoattachGraphicsDevice": false,
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "seed", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "vlan100", "bridge": {}}],
            },
        },
        "networks": [{"name": "vlan100", "multus": {"networkName": "default/vlan100"}}],
        "volumes": [
            {"name": "root", "containerDisk": {"image": image}},
            {"name": "seed", "cloudInitNoCloud": {"userData": format!("#cloud-config\nhostname: {name}\n")}},
        ],
    })
}

fn make(story: &Story<'_>, name: &str, image: &str) -> Result<()> {
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec(name, image),
    });
    story.cluster.apply(&vmi.to_string()).map(drop)
}

/// `POOL/IMAGE` of a claim.
fn image_of(story: &Story<'_>, namespace: &str, claim: &str) -> Result<String> {
    let claim = story.cluster.kubectl(&["get", "pvc", "-n", namespace, claim, "-o", "json"])?;
    story.image(&serde_json::from_str(&claim)?)
}

/// The guest's disk is a clone of the cluster's copy: Ceph says so.
fn is_clone(story: &Story<'_>, guest: &str) -> Result<()> {
    let volumes = story.cluster.list("datavolumes")?;
    let mut names = volumes.iter().map(|volume| text_of(&volume["metadata"]["name"]));
    let own = names.find(|name| name.starts_with(&format!("{guest}-")));
    let own = own.with_context(|| format!("{guest} has no DataVolume of its own"))?;
    let copies = copies(story)?;
    let copy = copies.first().context("there is no copy of the image")?;
    let golden = image_of(story, SYSTEM, &text_of(&copy["metadata"]["name"]))?;
    let disk = image_of(story, "default", &own)?;
    let text = story.bed.node().shell(&format!("rbd --id furrow-agent info {disk} --format json"))?;
    let info: Value = serde_json::from_str(&text).with_context(|| format!("rbd's JSON of {disk}"))?;
    let parent = format!("{}/{}", text_of(&info["parent"]["pool"]), text_of(&info["parent"]["image"]));
    ensure!(parent == golden, "{disk} is a clone of {parent}, not of {golden}");
    Ok(())
}

fn remove(story: &Story<'_>, name: &str) -> Result<()> {
    story.cluster.kubectl(&["delete", "vmi", name, "--ignore-not-found", "--wait=true", "--timeout=80s"]).map(drop)
}

/// How often the layer was asked for.
fn fetched(story: &Story<'_>, published: &Published) -> Result<usize> {
    let log: PathBuf = story.bed.layout().dir.join("httpd.log");
    let text = fs::read_to_string(&log).with_context(|| format!("could not read {}", log.display()))?;
    let wanted = format!("GET /v2/{REPOSITORY}/blobs/{} ", published.layer);
    Ok(text.lines().filter(|line| line.starts_with(&wanted)).count())
}

fn copies(story: &Story<'_>) -> Result<Vec<Value>> {
    let argv = ["get", "datavolumes", "-n", SYSTEM, "-l", "furrow.io/container-disk", "-o", "json"];
    let list: Value = serde_json::from_str(&story.cluster.kubectl(&argv)?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn first(story: &Story<'_>, published: &Published) -> Result<()> {
    make(story, "disk-one", &format!("{}:1", published.repository))?;
    story.booted("disk-one")?;
    let copies = copies(story)?;
    let [copy] = copies.as_slice() else { bail!("{} copies of the image, one was expected", copies.len()) };
    let name = text_of(&copy["metadata"]["name"]);
    let digest = published.digest.trim_start_matches("sha256:");
    ensure!(name.contains(&digest[..32]), "the copy of {} is called {name}", published.digest);
    let times = fetched(story, published)?;
    // Once for the disk's size, of which the head is read, and once for the disk.
    ensure!(times <= 2, "the layer was asked for {times} times");
    Ok(())
}

fn second(story: &Story<'_>, published: &Published) -> Result<()> {
    let before = fetched(story, published)?;
    ensure!(before > 0, "the layer was never fetched");
    make(story, "disk-two", &format!("{}@{}", published.repository, published.digest))?;
    story.booted("disk-two")?;
    let after = fetched(story, published)?;
    ensure!(after == before, "the layer was fetched {} times more", after - before);
    ensure!(copies(story)?.len() == 1, "the image was copied again");
    is_clone(story, "disk-two")?;
    remove(story, "disk-one")?;
    remove(story, "disk-two")?;
    host::until("the guests' own disks to be gone", Duration::from_secs(REFUSED_S), || {
        let left = story.cluster.list("datavolumes")?;
        let left = left.iter().map(|volume| text_of(&volume["metadata"]["name"]));
        match left.filter(|name| name.starts_with("disk-one-") || name.starts_with("disk-two-")).count() {
            0 => Ok(()),
            count => bail!("{count} are left"),
        }
    })
}

fn wrong(story: &Story<'_>, published: &Published) -> Result<()> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = format!("{}@{digest}", published.repository);
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "disk-wrong", "namespace": "default"},
        "spec": {"runStrategy": "Always", "template": {"spec": spec("disk-wrong", &image)}},
    });
    story.cluster.apply(&vm.to_string())?;
    host::until("the guest to say what is wrong", Duration::from_secs(REFUSED_S), || {
        let vmi = story.cluster.get("vmi", "disk-wrong")?;
        let said = condition(&vmi, "Synchronized").context("no condition Synchronized")?;
        let (reason, message) = (text_of(&said["reason"]), text_of(&said["message"]));
        ensure!(PULL_FAILED.contains(&reason.as_str()), "it says {reason}: {message}");
        ensure!(message.contains(&digest) && message.contains("404"), "{message} does not say which digest, or why");
        Ok(())
    })?;
    story.cluster.wait(("vm", "disk-wrong"), "/status/printableStatus", &PULL_FAILED, REFUSED_S)?;
    story.delete("disk-wrong")
}

fn imported(story: &Story<'_>, published: &Published) -> Result<()> {
    let source = format!("registry: {{url: \"docker://{}:1\"}}", published.repository);
    story.cluster.apply(&guests::data_volume("container-disk", "from-registry", &source, "64Mi"))?;
    story.cluster.wait(("datavolume", "from-registry"), "/status/phase", &["Succeeded"], START_S)?;
    story.cluster.kubectl(&["delete", "datavolume", "from-registry"]).map(drop)
}

/// The tiny guest's kernel and initrd, from the boot partition of its disk, which begins at the first MiB.
fn kernel(story: &Story<'_>, tiny: &Path) -> Result<()> {
    let name = "kernel-boot";
    let work = story.bed.layout().part("kernel")?;
    let partition = format!("{}@@1M", tiny.with_extension("raw").display());
    let files = ["vmlinuz", "initrd"].map(|file| (work.join(file), file));
    for (path, file) in &files {
        host::run(&["mcopy", "-n", "-i", &partition, &format!("::/{file}"), &path.display().to_string()])?;
    }
    let files = files.each_ref().map(|(path, file)| (path.as_path(), *file));
    let published = publish(story, "kernels/tiny", "boot", &files)?;
    let mut spec = spec(name, "");
    spec["volumes"] = json!([spec["volumes"][1]]);
    spec["domain"]["devices"]["disks"] = json!([spec["domain"]["devices"]["disks"][1]]);
    spec["domain"]["memory"]["guest"] = json!("128Mi");
    spec["domain"]["firmware"] = json!({"kernelBoot": {
        "kernelArgs": "console=ttyS0 quiet loglevel=3 random.trust_cpu=on panic=1 furrow.test=kernel-boot",
        "container": {"image": format!("{}:1", published.repository),
            "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"},
    }});
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    story.cluster.apply(&vmi.to_string())?;
    story.booted(name)?;
    let document = story.domain(name)?;
    ensure!(document.contains("furrow.test=kernel-boot"), "its domain has other arguments");
    remove(story, name)
}
