//! What a guest is shown while it runs, on the Debian guest of `agent`: a ConfigMap that it mounts by virtiofs and cannot
//! write to, whose files follow the object, and a disk with metrics of its host that are written anew.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Story;
use super::agent::NAME;
use super::domain::has;
use crate::cluster::text_of;
use crate::host;
use crate::scenario::guests::Ssh;
use crate::scenario::{Checks, guests};

/// The ConfigMap.
const OBJECT: &str = "report-settings";

/// A change of the object is in the guest within this: a minute, and what two busy cores need.
const FOLLOWED: Duration = Duration::from_secs(90);

/// What is put into the manifest, each before the first of these lines.
const ADDED: [(&str, &str); 3] = [
    (
        "          interfaces:\n",
        "            - {name: told, disk: {bus: virtio}}\n          filesystems: [{name: settings, virtiofs: {}}]\n",
    ),
    (
        "        - name: root\n          dataVolume:\n",
        "        - {name: settings, configMap: {name: report-settings}}\n",
    ),
    ("        - name: seed\n          cloudInitNoCloud:\n", "        - {name: told, downwardMetrics: {}}\n"),
];

/// Where nodes keep what guests mount.
const ON_NODE: &str = "/run/furrow/shares";

/// Adds to the guest's manifest what it is shown, and makes the object.
pub(super) fn with(story: &Story<'_>, manifest: &str) -> Result<String> {
    object(story, &json!({"colour": "blue", "size": "1"}))?;
    added(manifest)
}

fn added(manifest: &str) -> Result<String> {
    let mut manifest = manifest.to_owned();
    for (before, more) in ADDED {
        manifest = guests::replaced(&manifest, before, &format!("{more}{before}"))?;
    }
    Ok(manifest)
}

fn object(story: &Story<'_>, data: &serde_json::Value) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": OBJECT, "namespace": "default"}});
    story.cluster.apply(&object.to_string()).map(|_| ())
}

/// `shell`: a way into the guest.
pub(super) fn run(story: &Story<'_>, shell: &dyn Fn() -> Result<Ssh>, checks: &mut Checks) {
    let mounted = story.check(checks, "shares: a ConfigMap is mounted by virtiofs and read", || {
        let shell = shell()?;
        let document = story.domain(NAME)?;
        has("filesystem", &["type='virtiofs'", "dir='settings'", "<readonly/>"]).check(&document)?;
        shell.shell("mkdir -p /mnt/settings && mount -t virtiofs settings /mnt/settings")?;
        shows(&shell, "colour size", "blue")
    });
    if mounted {
        story.check(checks, "shares: the guest cannot change what it mounts", || unchanged(story, &shell()?));
        story.check(checks, "shares: what the ConfigMap says now is in the guest within a minute", || {
            let shell = shell()?;
            object(story, &json!({"colour": "red", "shape": "round"}))?;
            host::until("the change in the guest", FOLLOWED, || shows(&shell, "colour shape", "red"))
        });
    }
    story.check(checks, "shares: a disk tells the guest of its host, and tells it anew", || told(story, &shell()?));
}

/// Which files the guest sees, and what is in the first.
fn shows(shell: &Ssh, files: &str, colour: &str) -> Result<()> {
    let seen = shell.shell("cd /mnt/settings && echo $(ls) && cat colour")?;
    ensure!(seen.lines().map(str::trim).eq([files, colour]), "the guest sees {seen}");
    Ok(())
}

fn unchanged(story: &Story<'_>, shell: &Ssh) -> Result<()> {
    for change in [
        "touch /mnt/settings/new",
        "echo green > /mnt/settings/colour",
        "rm /mnt/settings/colour",
        "chmod 600 /mnt/settings/colour",
        "mv /mnt/settings/..data /mnt/settings/..other",
    ] {
        let said = shell.shell(&format!("if ( {change} ) 2>&1; then echo done; fi"))?;
        ensure!(said.contains("Read-only file system"), "`{change}` said {said}");
    }
    shows(shell, "colour size", "blue")?;
    let uid = story.uid(NAME)?.context("there is no guest")?;
    let on_node =
        story.bed.node().shell(&format!("cat {ON_NODE}/{uid}/settings/colour; stat -c %a {ON_NODE}/{uid}"))?;
    ensure!(on_node.trim() == "blue700", "the node has {on_node:?}");
    Ok(())
}

fn told(story: &Story<'_>, shell: &Ssh) -> Result<()> {
    let disk = shell.shell("for disk in /dev/vd?; do if head -c 4 $disk | grep -q mvbd; then echo $disk; fi; done")?;
    let disk = disk.trim();
    ensure!(disk.lines().count() == 1, "the disks of metrics are {disk:?}");
    let read_only = shell.shell(&format!("blockdev --getro {disk}; blockdev --getsize64 {disk}"))?;
    ensure!(read_only.split_whitespace().eq(["1", "262144"]), "{disk} is {read_only}");
    let node = text_of(&story.cluster.get("vmi", NAME)?["status"]["nodeName"]);
    // Past the guest's own cache, as what reads such disks does.
    let time = || -> Result<u64> {
        let line = format!("dd if={disk} bs=16384 count=1 iflag=direct 2>/dev/null | tail -c +17 | tr -d \"\\000\"");
        let document = shell.shell(&line)?;
        let value = |name: &str| {
            let (_, rest) = document.split_once(&format!("<name>{name}</name>"))?;
            Some(rest.split_once("<value>")?.1.split_once("</value>")?.0.to_owned())
        };
        let host = value("HostName").with_context(|| format!("it holds {document}"))?;
        ensure!(host == node, "its host is {host}");
        value("Time").with_context(|| format!("it holds {document}"))?.parse().context("its time")
    };
    let first = host::until("the first metrics", FOLLOWED, time)?;
    host::until("metrics of a later time", FOLLOWED, || {
        let now = time()?;
        ensure!(now > first, "it is {now} still");
        Ok(())
    })
}

/// Nothing of it stays on the node.
pub(super) fn gone(story: &Story<'_>) -> Result<()> {
    story.cluster.kubectl(&["delete", "configmap", OBJECT])?;
    host::until("the end of what the guest mounted", FOLLOWED, || {
        let left = story.bed.node().shell(&format!("ls {ON_NODE}"))?;
        ensure!(left.trim().is_empty(), "there is {left}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_its_places() {
        let manifest = added(include_str!("../../../manifests/field-report/debian.yaml")).expect("its places");
        for line in ["filesystems: [{name: settings, virtiofs: {}}]", "{name: told, downwardMetrics: {}}"] {
            assert!(manifest.contains(line), "{manifest}");
        }
    }
}
