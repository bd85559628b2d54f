//! `status.printableStatus`, the word that people and their portals read: each that can be brought about here is, and the
//! words of a VM's life are seen in KubeVirt's order. Seen by a watch, since some last for a moment only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Story, answer};
use crate::cluster::{Cluster, condition};
use crate::host;
use crate::scenario::{Checks, guests};
use crate::watch::Watch;

/// A word is seen within this.
const SEEN: Duration = Duration::from_secs(90);

/// The words of each VM, in the order in which they were seen.
type Seen = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// What is seen while it is kept.
pub(super) struct Words {
    _watch: Watch,
    seen: Seen,
}

impl Words {
    /// Starts to watch all VMs.
    pub(super) fn start(cluster: &Cluster) -> Result<Words> {
        let seen = Seen::default();
        let into = Arc::clone(&seen);
        let watch = Watch::start(cluster, "vm", ".status.printableStatus", move |name, word| {
            let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
            let words = seen.entry(name.to_owned()).or_default();
            if !word.is_empty() && words.last().map(String::as_str) != Some(word) {
                words.push(word.to_owned());
            }
        })?;
        Ok(Words { _watch: watch, seen })
    }

    fn of(&self, name: &str) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// Waits until a VM has had a word.
    fn wait(&self, name: &str, word: &str) -> Result<()> {
        self.wait_times(name, word, 1)
    }

    /// Waits until a VM has come to a word so many times.
    fn wait_times(&self, name: &str, word: &str, times: usize) -> Result<()> {
        host::until(&format!("the word {word}"), SEEN, || {
            let seen = self.of(name);
            let count = seen.iter().filter(|s| s.as_str() == word).count();
            ensure!(count >= times, "it went through {}", seen.join(", "));
            Ok(())
        })
    }
}

/// What the VMs of other parts went through: these words, in this order, others between.
const LIVES: &[(&str, &[&str])] = &[
    (
        "life-always",
        &["Provisioning", "Starting", "Running", "Stopping", "Stopped", "Starting", "Running", "Terminating"],
    ),
    ("life-manual", &["Stopped", "Starting", "Running", "Stopped", "Starting", "Running", "Stopping", "Stopped"]),
    // Deleted when it has no guest any more, it is gone at once.
    ("life-once", &["Starting", "Running", "Stopped"]),
    ("web", &["Stopped", "Paused", "Running", "Paused", "Running", "Stopping", "Running", "Stopping", "Stopped"]),
];

/// VMs that get no further, by what of a good manifest is replaced: (name, what, by, word).
const STUCK: &[(&str, &str, &str, &str)] = &[
    (
        "stuck-claim",
        "dataVolume:\n            name: stuck-claim-root",
        "persistentVolumeClaim:\n            claimName: no-such-claim",
        "ErrorPvcNotFound",
    ),
    (
        "stuck-node",
        "      terminationGracePeriodSeconds: 20\n",
        "      nodeSelector: {furrow.io/test: nowhere}\n",
        "ErrorUnschedulable",
    ),
    ("stuck-image", "tiny.qcow2", "missing.qcow2", "DataVolumeError"),
    ("stuck-import", "/tiny.qcow2", "/slow/tiny.qcow2", "Provisioning"),
];

/// Brings a word about.
type Bring = fn(&Story<'_>, &Words) -> Result<()>;

/// Words that take more than a manifest.
const OTHERS: &[(&str, Bring)] = &[("WaitingForVolumeBinding", unbound), ("CrashLoopBackOff", crashing)];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let words = &story.words;
    for (name, expected) in LIVES {
        story.check(checks, &format!("words: {name} went through {}", expected.join(", ")), || {
            let seen = words.of(name);
            ensure!(in_order(&seen, expected), "it went through {}", seen.join(", "));
            Ok(())
        });
    }
    for (name, what, by, word) in STUCK {
        story.check(checks, &format!("words: {name} is {word}"), || {
            let good = guests::tiny(name, &story.tiny_source, "Always");
            ensure!(good.contains(what), "the manifest has no `{what}`");
            let mut manifest = good.replace(what, by);
            if manifest.contains("no-such-claim") {
                manifest = without_template(&manifest);
            }
            story.cluster.apply(&manifest)?;
            let seen = words.wait(name, word);
            let vm = story.cluster.get("vm", name)?;
            story.delete(name)?;
            seen.with_context(|| format!("it is {}: {}", vm["status"]["printableStatus"], vm["status"]["conditions"]))
        });
    }
    for (word, body) in OTHERS {
        story.check(checks, &format!("words: a VM is {word}"), || body(story, words));
    }
    story.check(checks, "words: what waits for a disk says so in a condition, and which it is", || {
        story.cluster.apply(&without_template(&guests::tiny("stuck-why", "http: {url: http://x/}", "Always")))?;
        let said = host::until("the reason", Duration::from_secs(60), || {
            let vmi = story.cluster.get("vmi", "stuck-why")?;
            let ready = condition(&vmi, "DataVolumesReady").context("no condition DataVolumesReady")?;
            ensure!(ready["status"] == "False" && ready["reason"] == "NotAllDVsReady", "it says {ready}");
            let volumes = vmi["status"]["volumeStatus"].as_array().cloned().unwrap_or_default();
            let root =
                volumes.iter().find(|volume| volume["name"] == "root").context("no status of the volume root")?;
            ensure!(root["phase"] == "Pending" && root["reason"] == "NotAllDVsReady", "it says {root}");
            Ok(())
        });
        let path = super::path("v1", super::Of::Vm, "stuck-why", "stop");
        answer::check(&story.proxy.call("PUT", &path, "")?, 202, "")?;
        story.cluster.wait_gone("vmi", "stuck-why", 60)?;
        story.delete("stuck-why")?;
        said
    });
}

/// A VM whose claim is there and is never bound.
fn unbound(story: &Story<'_>, words: &Words) -> Result<()> {
    let name = "stuck-binding";
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: stuck-binding-root, namespace: default}\n\
                 spec: {accessModes: [ReadWriteMany], volumeMode: Block, storageClassName: none-such, \
                 resources: {requests: {storage: 64Mi}}}\n";
    story.cluster.apply(claim)?;
    let by_claim = "persistentVolumeClaim:\n            claimName: stuck-binding-root";
    let by_volume = "dataVolume:\n            name: stuck-binding-root";
    let manifest = without_template(&guests::tiny(name, "http: {url: http://x/}", "Always"));
    story.cluster.apply(&manifest.replace(by_volume, by_claim))?;
    let seen = words.wait(name, "WaitingForVolumeBinding");
    story.delete(name)?;
    story.cluster.kubectl(&["delete", "pvc", "stuck-binding-root", "--timeout=60s"])?;
    seen
}

/// A VM whose guests end before they run: its reservation is taken away each time.
fn crashing(story: &Story<'_>, words: &Words) -> Result<()> {
    let name = "stuck-crash";
    let nowhere = "      nodeSelector: {furrow.io/test: nowhere}\n";
    let good = guests::tiny(name, &story.tiny_source, "Always");
    story.cluster.apply(&good.replace("      terminationGracePeriodSeconds: 20\n", nowhere))?;
    let result = words.wait(name, "ErrorUnschedulable").and_then(|()| {
        story.cluster.kubectl(&["delete", "pod", "-l", &story.pod_label(name)?, "--timeout=60s"])?;
        words.wait(name, "CrashLoopBackOff")?;
        let failure = story.cluster.get("vm", name)?["status"]["startFailure"].clone();
        ensure!(failure["consecutiveFailCount"] == 1, "its failure is {failure}");
        ensure!(failure["retryAfterTimestamp"].is_string(), "its failure is {failure}");
        // It is tried again when its time has come.
        words.wait_times(name, "ErrorUnschedulable", 2)
    });
    story.delete(name)?;
    result
}

/// A manifest without its DataVolume.
fn without_template(manifest: &str) -> String {
    let (Some(from), Some(to)) = (manifest.find("  dataVolumeTemplates:"), manifest.find("  template:")) else {
        return manifest.to_owned();
    };
    format!("{}{}", &manifest[..from], &manifest[to..])
}

/// Whether these words come in this order, whatever is between.
fn in_order(seen: &[String], expected: &[&str]) -> bool {
    let mut rest = seen.iter();
    expected.iter().all(|word| rest.any(|seen| seen == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_in_order_with_others_between() {
        let seen = ["Provisioning", "Starting", "Running", "Stopping"].map(str::to_owned);
        assert!(in_order(&seen, &["Provisioning", "Running"]) && in_order(&seen, &[]));
        assert!(!in_order(&seen, &["Running", "Starting"]) && !in_order(&seen, &["Running", "Running"]));
    }

    #[test]
    fn a_manifest_loses_its_data_volume_alone() {
        let without = without_template(&guests::tiny("x", "http: {url: http://y/}", "Always"));
        assert!(!without.contains("dataVolumeTemplates") && !without.contains("http://y/"));
        assert!(
            without.contains("  template:\n") && without.contains("name: x-root") && without.contains("runStrategy")
        );
    }

    #[test]
    fn every_replacement_finds_its_place() {
        for (name, what, _, _) in STUCK {
            let source = guests::http_source("http://y/tiny.qcow2");
            assert!(guests::tiny(name, &source, "Always").contains(what), "{name}");
        }
    }
}
