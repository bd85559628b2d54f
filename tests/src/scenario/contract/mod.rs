//! KubeVirt's contract, checked as its clients use it: through the API server, by plain HTTP and WebSockets, by the clients
//! for Python and Rust; what an operation did is read back from libvirt and from the objects. Cases are tables, one row a case.
//!
//! Parts (`PARTS`) do not depend on each other, but for `words`: one that fails leaves the others to say what they have to
//! say. What the API answers with 501 is no failure; it is listed (`beyond`). Refuses to look into control or the agent, but
//! for their memory.

mod agent;
mod answer;
mod beyond;
mod clients;
mod conditions;
mod console;
mod container_disk;
mod discovery;
mod domain;
mod fields;
mod hostile;
mod intruder;
mod io_error;
mod lifecycle;
mod operations;
mod pinning;
mod random_guests;
mod refused;
mod registry;
mod rfb;
mod settings;
mod shaped;
mod shares;
mod state;
mod tpm;
mod usbredir;
mod vnc;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::guests::{self, Images};
use super::{Checks, field_report};
use crate::cluster::{Cluster, text_of};
use crate::host;
use crate::lan::H100;
use crate::proxy::Proxy;
use crate::testbed::Testbed;

/// The group and its two versions, which are the same but for their name.
const GROUP: &str = "subresources.kubevirt.io";
const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// A guest's start on two busy cores, import of its disk included, seconds.
const START_S: u64 = 180;

/// What a guest's stop may take, its grace period of 20 s included, seconds.
const STOP_S: u64 = 90;

/// Where a failure's reasons are.
const LOGS: &str = "journal of the node: build/contract-n1.journal, units furrow-control, furrow-agent, k3s, libvirtd";

/// What the checks share.
struct Story<'a> {
    bed: &'a Testbed,
    cluster: Cluster,
    proxy: Proxy,
    /// The tiny guest's image.
    tiny: PathBuf,
    /// The DataVolume source of that image.
    tiny_source: String,
    /// What is seen of every VM.
    words: words::Words,
}

/// A part of the suite.
type Part = (&'static str, fn(&Story<'_>, &mut Checks));

/// The parts, in their order; `words` looks back on those before it. `FURROW_PARTS=NAME,...` runs some alone.
const PARTS: &[Part] = &[
    ("discovery", discovery::run),
    ("operations", operations::run),
    ("console", console::run),
    ("vnc", vnc::run),
    ("usbredir", usbredir::run),
    ("beyond", beyond::run),
    ("lifecycle", lifecycle::run),
    ("state", state::run),
    ("tpm", tpm::run),
    ("words", words::run),
    ("container-disk", container_disk::run),
    ("conditions", conditions::run),
    ("io-error", io_error::run),
    ("shaped", shaped::run),
    ("settings", settings::run),
    ("pinning", pinning::run),
    ("python", clients::python),
    ("kube-rs", clients::kube_rs),
    ("hostile", hostile::run),
    ("random", random_guests::run),
];

/// The last part. Its guest begins before all others.
const AGENT: &str = "agent";

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let source = &bed.layout().source;
    let (tiny, debian) = (Images::tiny(source)?, Images::debian(source)?);
    let need = source.join("image/need").display().to_string();
    host::run_with(&[&need, "curl", "mtools", "openssl", "python3-kubernetes"], "", Duration::from_secs(600))?
        .ok("image/need")?;
    checks.require("the node boots as a box and bootstraps", || bed.boot())?;
    let cluster = bed.cluster();
    checks.require("the provider network comes up", || field_report::network_up(bed, &cluster))?;
    let tiny_source = guests::http_source(&bed.publish(&tiny, "tiny.qcow2")?);
    let words = words::Words::start(&cluster)?;
    let story = Story { bed, proxy: Proxy::start(&cluster)?, cluster, tiny, tiny_source, words };
    let wanted = std::env::var("FURROW_PARTS").unwrap_or_default();
    let wanted = |part: &str| wanted.is_empty() || wanted.split(',').any(|name| name == part);
    // Imported and booted while the rest is checked: it takes minutes.
    let debian = wanted(AGENT).then(|| agent::begin(&story, &debian)).transpose()?;
    for (_, run) in PARTS.iter().filter(|(name, _)| wanted(name)) {
        run(&story, checks);
    }
    if let Some(debian) = debian {
        agent::run(&story, debian, checks);
    }
    Ok(())
}

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Vm,
    Vmi,
}

impl Of {
    fn plural(self) -> &'static str {
        match self {
            Of::Vm => "virtualmachines",
            Of::Vmi => "virtualmachineinstances",
        }
    }
}

/// The path of an operation on an object of the namespace `default`.
fn path(version: &str, of: Of, name: &str, tail: &str) -> String {
    format!("/apis/{GROUP}/{version}/namespaces/default/{}/{name}/{tail}", of.plural())
}

impl Story<'_> {
    /// Runs a check; a failure also says where the logs are.
    fn check(&self, checks: &mut Checks, what: &str, body: impl FnOnce() -> Result<()>) -> bool {
        checks.check(what, || body().map_err(|error| anyhow!("{error:#} ({LOGS})")))
    }

    /// Makes a tiny VM with a display; it starts as its strategy says.
    fn make(&self, name: &str, strategy: &str) -> Result<()> {
        let shown = "autoattachGraphicsDevice: true";
        let manifest = guests::tiny(name, &self.tiny_source, strategy);
        self.cluster.apply(&manifest.replace("autoattachGraphicsDevice: false", shown)).map(|_| ())
    }

    /// Deletes a VM and waits until it and its guest are gone.
    fn delete(&self, name: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "vm", name, "--ignore-not-found", "--wait=true", "--timeout=80s"])?;
        self.cluster.wait_gone("vmi", name, STOP_S)
    }

    /// Waits until a guest runs.
    fn running(&self, name: &str) -> Result<Value> {
        self.cluster.wait(("vmi", name), "/status/phase", &["Running"], START_S)
    }

    /// Waits until a guest has booted, and returns the id of this boot.
    fn booted(&self, name: &str) -> Result<String> {
        self.running(name)?;
        let address = host::until(&format!("the address of {name}"), Duration::from_secs(30), || {
            guests::address(&self.cluster, name)
        })?;
        let facts = guests::facts(self.bed, H100, address, START_S)?;
        ensure!(text_of(&facts["hostname"]) == name, "{address} is {}", facts["hostname"]);
        Ok(text_of(&facts["boot_id"]))
    }

    /// Has a guest do what its port takes as a command.
    fn ask(&self, name: &str, command: &str) -> Result<String> {
        guests::ask(self.bed, H100, guests::address(&self.cluster, name)?, command)
    }

    /// The UID of a guest; `None` when there is none.
    fn uid(&self, name: &str) -> Result<Option<String>> {
        let out = self.cluster.kubectl_raw(&["get", "vmi", name, "--ignore-not-found", "-o", "json"], "")?;
        let text = out.ok(&format!("kubectl get vmi {name}"))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let vmi: Value = serde_json::from_str(&text).with_context(|| format!("kubectl's JSON of vmi {name}"))?;
        Ok(Some(text_of(&vmi["metadata"]["uid"])))
    }

    /// The label, with its value, of the pod that reserves for a guest.
    fn pod_label(&self, name: &str) -> Result<String> {
        let uid = self.uid(name)?.with_context(|| format!("there is no guest {name}"))?;
        Ok(guests::pod_label(&uid))
    }

    /// Waits until a guest is there that is not the one `before`.
    fn another(&self, name: &str, before: Option<&str>, limit: Duration) -> Result<()> {
        host::until("another guest", limit, || {
            let now = self.uid(name)?;
            ensure!(now.is_some() && now.as_deref() != before, "the guest is {now:?}");
            Ok(())
        })
    }

    /// `pool/image` behind a claim.
    fn image(&self, claim: &Value) -> Result<String> {
        let volume = self.cluster.get("pv", &text_of(&claim["spec"]["volumeName"]))?;
        Ok(text_of(&volume["spec"]["csi"]["volumeHandle"]))
    }

    /// An error as long as Ceph has an image, given as `pool/image`.
    fn image_gone(&self, image: &str) -> Result<()> {
        let left = self.bed.node().shell("rbd --id furrow-agent ls volumes")?;
        let name = image.rsplit('/').next().unwrap_or(image);
        ensure!(!left.lines().any(|line| line == name), "{image} is still there");
        Ok(())
    }

    /// libvirt's word for a guest's domain: `running`, `paused`, ...; `none` when there is no domain.
    fn state(&self, name: &str) -> Result<String> {
        let argv = ["virsh", "-c", "qemu:///system", "domstate", &format!("default_{name}")];
        let out = self.bed.node().exec(&argv, Duration::from_secs(30))?;
        match out.code {
            0 => Ok(out.stdout.trim().to_owned()),
            _ if out.stderr.contains("failed to get domain") => Ok("none".to_owned()),
            _ => Err(anyhow!("virsh domstate: {}", out.stderr.trim())),
        }
    }

    /// libvirt's document of a guest's domain.
    fn domain(&self, name: &str) -> Result<String> {
        self.bed.node().shell(&format!("virsh -q -c qemu:///system dumpxml default_{name}"))
    }

    /// Memory of a unit's process that is in RAM, KiB.
    fn resident_kib(&self, unit: &str) -> Result<u64> {
        self.bed.node().memory_kib(unit, ("status", "VmRSS"))
    }
}
