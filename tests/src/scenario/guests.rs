//! What the scenarios do with guests: render their manifests, reach them from hosts of the test LAN, read their serial log.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, text_of};
use crate::host::{self, run, run_with};
use crate::lan::VlanHost;
use crate::netns;
use crate::testbed::Testbed;

/// Port on which a tiny guest answers.
pub(crate) const TINY_PORT: u16 = 7777;

/// The two test guests, as built by their recipes.
pub(crate) struct Images;

impl Images {
    /// The qcow2 of the tiny guest; builds it when it is not there.
    pub(crate) fn tiny(source: &Path) -> Result<PathBuf> {
        Images::built(source, "tiny")
    }

    /// The compressed qcow2 of the Debian guest; builds it when it is not there.
    pub(crate) fn debian(source: &Path) -> Result<PathBuf> {
        Images::built(source, "debian")
    }

    fn built(source: &Path, name: &str) -> Result<PathBuf> {
        let dir = host::built(&source.join("recipes/build"), &[name], Duration::from_secs(1800))?;
        Ok(dir.join(format!("{name}.qcow2")))
    }
}

/// A DataVolume's source: an image at a URL, as one line of YAML.
pub(crate) fn http_source(url: &str) -> String {
    format!("http: {{url: \"{url}\"}}")
}

/// A DataVolume's manifest in the namespace `default`, labelled `furrow.io/test: LABEL`. `source` is one line of YAML.
pub(crate) fn data_volume(label: &str, name: &str, source: &str, size: &str) -> String {
    include_str!("../../manifests/datavolume.yaml")
        .replace("${LABEL}", label)
        .replace("${NAME}", name)
        .replace("${SOURCE}", source)
        .replace("${SIZE}", size)
}

/// A tiny VM's manifest. `source` is one line of YAML: the DataVolume's source.
pub(crate) fn tiny(name: &str, source: &str, run_strategy: &str) -> String {
    tiny_on("default/vlan100", name, source, run_strategy)
}

/// A tiny VM's manifest for one node.
pub(crate) fn tiny_at(node: &str, name: &str, source: &str) -> String {
    let grace = "      terminationGracePeriodSeconds: 20\n";
    let there = format!("{grace}      nodeSelector:\n        kubernetes.io/hostname: {node}\n");
    tiny(name, source, "Always").replace(grace, &there)
}

/// A tiny VM's manifest on a network of its own.
pub(crate) fn tiny_on(network: &str, name: &str, source: &str, run_strategy: &str) -> String {
    include_str!("../../manifests/field-report/tiny.yaml")
        .replace("${NAME}", name)
        .replace("${SOURCE}", source)
        .replace("${RUN_STRATEGY}", run_strategy)
        .replace("${NETWORK}", network)
}

/// A manifest with another text in the one place that has this one.
pub(crate) fn replaced(manifest: &str, place: &str, text: &str) -> Result<String> {
    ensure!(manifest.matches(place).count() == 1, "the manifest has no one place `{place}`");
    Ok(manifest.replace(place, text))
}

/// The label, with its value, of the pod that reserves for the guest of this UID.
pub(crate) fn pod_label(uid: &str) -> String {
    format!("kubevirt.io/created-by={uid}")
}

/// The pod that reserves for the guest of this UID.
pub(crate) fn pod(cluster: &Cluster, uid: &str) -> Result<Value> {
    let text = cluster.kubectl(&["get", "pod", "-l", &pod_label(uid), "-o", "json"])?;
    let pods: Value = serde_json::from_str(&text).context("kubectl's JSON of the guest's pod")?;
    Ok(pods["items"][0].clone())
}

/// The address that Kubernetes shows for a VMI.
pub(crate) fn address(cluster: &Cluster, name: &str) -> Result<Ipv4Addr> {
    let vmi = cluster.get("vmi", name)?;
    let text = vmi.pointer("/status/interfaces/0/ipAddress").map(text_of).unwrap_or_default();
    text.parse().with_context(|| format!("vmi {name} has no address yet, but `{text}`"))
}

/// The address in the VM's IP object.
pub(crate) fn ip_object(cluster: &Cluster, name: &str) -> Result<Ipv4Addr> {
    let items = cluster.list("ips.kubeovn.io")?;
    let ours: Vec<&Value> = items.iter().filter(|ip| ip["spec"]["podName"] == name).collect();
    match ours.as_slice() {
        [ip] => text_of(&ip["spec"]["v4IpAddress"]).parse().context("v4IpAddress"),
        _ => bail!("vm {name} has {} IP objects, expected one", ours.len()),
    }
}

/// Sends one command to a tiny guest's port from a host of the LAN and returns its answer, one line. The guest greets with
/// its facts, so `facts` needs no command.
pub(crate) fn ask(bed: &Testbed, from: VlanHost, guest: Ipv4Addr, command: &str) -> Result<String> {
    let address = SocketAddr::from((guest, TINY_PORT));
    let mut stream = netns::connect(&bed.layout().global(from.name), address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    if command != "facts" {
        stream.write_all(format!("{command}\n").as_bytes())?;
        answer.clear();
        reader.read_line(&mut answer)?;
    }
    Ok(answer.trim().to_owned())
}

/// The facts that a tiny guest tells.
pub(crate) fn facts_now(bed: &Testbed, from: VlanHost, guest: Ipv4Addr) -> Result<Value> {
    let answer = ask(bed, from, guest, "facts")?;
    let answer = answer.trim_start_matches("FACTS ");
    serde_json::from_str(answer).with_context(|| format!("the guest greeted with `{answer}`"))
}

/// Waits until a tiny guest answers, and returns its facts.
pub(crate) fn facts(bed: &Testbed, from: VlanHost, guest: Ipv4Addr, seconds: u64) -> Result<Value> {
    host::until(&format!("{guest} to answer"), Duration::from_secs(seconds), || facts_now(bed, from, guest))
}

/// What a guest has written to its serial console.
pub(crate) fn serial(bed: &Testbed, cluster: &Cluster, name: &str) -> Result<String> {
    let uid = text_of(&cluster.get("vmi", name)?["metadata"]["uid"]);
    let path = bed.node().path(&format!("/var/lib/furrow/guests/{uid}/console.log"));
    let bytes = std::fs::read(&path).with_context(|| format!("no serial log {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// SSH from a host of the LAN into a Debian guest.
pub(crate) struct Ssh {
    key: PathBuf,
    netns: String,
    guest: Ipv4Addr,
}

impl Ssh {
    /// A new key pair in the testbed's directory; returns the public half.
    pub(crate) fn key(bed: &Testbed) -> Result<(PathBuf, String)> {
        let key = bed.layout().part("ssh")?.join("id_ed25519");
        if !key.exists() {
            run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", &key.display().to_string()])?;
        }
        let public = std::fs::read_to_string(key.with_extension("pub"))?;
        Ok((key, public.trim().to_owned()))
    }

    /// A way in from `host`.
    pub(crate) fn new(bed: &Testbed, key: &Path, from: VlanHost, guest: Ipv4Addr) -> Ssh {
        Ssh { key: key.to_owned(), netns: bed.layout().global(from.name), guest }
    }

    /// Runs a shell line as root in the guest.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        let net = format!("--net=/run/netns/{}", self.netns);
        Ssh::run(&["nsenter", &net, "ssh"], &self.key, &self.guest.to_string(), line)
    }

    /// Runs a shell line as root in the guest that a port of this machine leads to.
    pub(crate) fn through(key: &Path, port: &str, line: &str) -> Result<String> {
        Ssh::run(&["ssh", "-p", port], key, "127.0.0.1", line)
    }

    fn run(ssh: &[&str], key: &Path, host: &str, line: &str) -> Result<String> {
        let (key, to) = (key.display().to_string(), format!("debian@{host}"));
        let command = format!("sudo sh -c '{line}'");
        let options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"];
        let limits = ["-o", "ConnectTimeout=15", "-o", "BatchMode=yes", "-i", &key, &to, &command];
        run_with(&[ssh, &options, &limits].concat(), "", Duration::from_secs(90))?.ok(&format!("`{line}` in the guest"))
    }

    /// Waits until the guest lets us in.
    pub(crate) fn wait(&self, seconds: u64) -> Result<String> {
        let boot_id = || self.shell("cat /proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned());
        host::until(&format!("ssh to {}", self.guest), Duration::from_secs(seconds), boot_id)
    }
}
