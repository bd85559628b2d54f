//! Conditions of guests: each reason that a guest's specification alone brings about, the eviction of its pod by every
//! strategy, and a change of processors that cannot be carried out at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::answer::check;
use super::domain::has;
use super::fields::least;
use super::{Of, Story, path};
use crate::cluster::{condition, text_of};
use crate::host;
use crate::http::Answer;
use crate::scenario::Checks;

/// What control and agent say follows within this.
const SAID: Duration = Duration::from_secs(60);

/// A claim that one node may use at a time, and one that is never bound.
const CLAIMS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: said-single, namespace: default}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: said-unbound, namespace: default}
spec: {accessModes: [ReadWriteMany], volumeMode: Block, storageClassName: none-such, resources: {requests: {storage: 16Mi}}}
";

/// Conditions that follow from a specification: (name, claim of a disk, rest of the spec, type, status, reason).
const SAID_OF: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("said-plain", "", "{}", "Ready", "True", ""),
    ("said-plain", "", "{}", "LiveMigratable", "True", ""),
    ("said-plain", "", "{}", "StorageLiveMigratable", "True", ""),
    ("said-single", "said-single", "{}", "LiveMigratable", "False", "DisksNotLiveMigratable"),
    ("said-single", "said-single", "{}", "StorageLiveMigratable", "True", ""),
    ("said-unbound", "said-unbound", "{}", "Ready", "False", "PodNotExists"),
    ("said-unbound", "said-unbound", "{}", "Synchronized", "False", "PvcNotBound"),
    ("said-nowhere", "", r#"{"nodeSelector":{"furrow.io/test":"nowhere"}}"#, "PodScheduled", "False", "Unschedulable"),
    ("said-paused", "", r#"{"startStrategy":"Paused"}"#, "Paused", "True", "PausedByUser"),
    ("said-paused", "", r#"{"startStrategy":"Paused"}"#, "Ready", "False", "ReadinessGatesNotReady"),
];

/// What an eviction of a guest's pod is answered, by the strategy of a guest that can migrate or cannot.
const EVICTIONS: &[(&str, bool, u16, &str)] = &[
    ("LiveMigrate", false, 429, "is configured with an eviction strategy but is not live-migratable"),
    ("External", true, 429, "Eviction triggered evacuation of VMI"),
    ("LiveMigrateIfPossible", false, 201, ""),
    ("None", true, 201, ""),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let ready = story.check(checks, "conditions: guests of every kind are made", || make_all(story));
    for (name, _, _, kind, status, reason) in SAID_OF.iter().filter(|_| ready) {
        story.check(checks, &format!("conditions: {name}: {kind} is {status} {reason}"), || {
            says(story, name, (kind, status, reason))
        });
    }
    story.check(checks, "conditions: the guests are deleted", || {
        let mut names: Vec<&str> = SAID_OF.iter().map(|row| row.0).collect();
        names.dedup();
        story.cluster.kubectl(&[&["delete", "vmi", "--timeout=80s"], names.as_slice()].concat()).map(|_| ())
    });
    for row in EVICTIONS {
        let (strategy, migratable, code, _) = row;
        let what = format!("conditions: eviction: {strategy}, can migrate: {migratable}: {code}");
        story.check(checks, &what, || evicted(story, row));
    }
    story.check(checks, "conditions: the claims are deleted", || {
        story.cluster.kubectl(&["delete", "pvc", "said-single", "said-unbound", "--timeout=60s"]).map(|_| ())
    });
    story.check(checks, "conditions: fewer processors wait for a restart, and too many are refused", || sockets(story));
}

/// A guest without disks, but for one of this claim, with the rest of a spec.
fn guest(name: &str, claim: &str, rest: &str) -> Result<Value> {
    let mut vmi = least(name);
    let rest: Value = serde_json::from_str(rest)?;
    let spec = vmi["spec"].as_object_mut().context("there is no spec")?;
    spec.extend(rest.as_object().cloned().unwrap_or_default());
    if !claim.is_empty() {
        vmi["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        vmi["spec"]["domain"]["devices"]["disks"] = json!([{"name": "data", "disk": {"bus": "virtio"}}]);
    }
    Ok(vmi)
}

fn make_all(story: &Story<'_>) -> Result<()> {
    story.cluster.apply(CLAIMS)?;
    SAID_OF
        .iter()
        .try_for_each(|(name, claim, rest, ..)| story.cluster.apply(&guest(name, claim, rest)?.to_string()).map(|_| ()))
}

fn says(story: &Story<'_>, name: &str, (kind, status, reason): (&str, &str, &str)) -> Result<()> {
    host::until(&format!("{kind} of {name}"), SAID, || {
        let vmi = story.cluster.get("vmi", name)?;
        let said = condition(&vmi, kind).with_context(|| format!("its conditions: {}", vmi["status"]["conditions"]))?;
        ensure!(said["status"] == status && text_of(&said["reason"]) == reason, "it says {said}");
        Ok(())
    })
}

/// Asks for the eviction of a guest's pod, as a drain does.
fn evict(story: &Story<'_>, name: &str) -> Result<Answer> {
    let pod = story.cluster.kubectl(&["get", "pod", "-l", &story.pod_label(name)?, "-o", "name"])?;
    let pod = pod.trim().trim_start_matches("pod/");
    let body =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    story.proxy.call("POST", &format!("/api/v1/namespaces/default/pods/{pod}/eviction"), &body.to_string())
}

fn evicted(story: &Story<'_>, (strategy, migratable, code, text): &(&str, bool, u16, &str)) -> Result<()> {
    let name = format!("evicted-{}", strategy.to_ascii_lowercase());
    let claim = if *migratable { "" } else { "said-single" };
    let vmi = guest(&name, claim, &json!({"evictionStrategy": strategy}).to_string())?;
    story.cluster.apply(&vmi.to_string())?;
    story.running(&name)?;
    says(story, &name, ("LiveMigratable", if *migratable { "True" } else { "False" }, reason_of(*migratable)))?;
    let answer = evict(story, &name)?;
    let told = answer.code == *code && answer.text().contains(text);
    ensure!(told, "the eviction was answered {}: {}", answer.code, answer.brief());
    let marked = text.contains("triggered");
    if marked {
        says(story, &name, ("EvictionRequested", "True", "EvictionRequested"))?;
        let vmi = story.cluster.get("vmi", &name)?;
        ensure!(vmi["status"]["evacuationNodeName"] == vmi["status"]["nodeName"], "its status: {}", vmi["status"]);
        check(&story.proxy.call("PUT", &path("v1", Of::Vmi, &name, "evacuate/cancel"), "{}")?, 200, "")?;
        host::until("the mark to be gone", SAID, || {
            let vmi = story.cluster.get("vmi", &name)?;
            ensure!(vmi["status"]["evacuationNodeName"].is_null(), "it is to leave {}", vmi["status"]);
            Ok(())
        })?;
    }
    if *code == 201 {
        story.cluster.wait(("vmi", &name), "/status/phase", &["Succeeded", "Failed"], 60)?;
    } else {
        let phase = story.cluster.get("vmi", &name)?["status"]["phase"].clone();
        ensure!(phase == "Running", "the guest is {phase}");
    }
    story.cluster.kubectl(&["delete", "vmi", &name, "--timeout=60s"]).map(|_| ())
}

fn reason_of(migratable: bool) -> &'static str {
    if migratable { "" } else { "DisksNotLiveMigratable" }
}

/// Adding processors is not among it: a box's kubelet keeps no groups of pods, and ends when a pod is resized.
fn sockets(story: &Story<'_>) -> Result<()> {
    let name = "said-sockets";
    let mut vmi = least(name);
    vmi["spec"]["domain"]["cpu"] = json!({"sockets": 2, "maxSockets": 3});
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "namespace": "default"},
        "spec": {"runStrategy": "Always", "template": {"spec": vmi["spec"]}},
    });
    story.cluster.apply(&vm.to_string())?;
    story.running(name)?;
    let uid = story.uid(name)?;
    let set = |sockets: u8| {
        let patch = json!({"spec": {"template": {"spec": {"domain": {"cpu": {"sockets": sockets}}}}}}).to_string();
        story.cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", &patch]).map(|_| ())
    };
    let waits = |wanted: &str| {
        host::until(&format!("RestartRequired: {wanted:?}"), SAID, || {
            let vm = story.cluster.get("vm", name)?;
            let told = condition(&vm, "RestartRequired").map(|told| text_of(&told["message"])).unwrap_or_default();
            ensure!(told == wanted, "it is {told:?}");
            Ok(())
        })
    };
    set(1)?;
    waits("Reduction of CPU socket count requires a restart")?;
    has("vcpu", &["current='2'", ">3<"]).check(&story.domain(name)?)?;
    set(2)?;
    waits("")?;
    let refusal = set(4).err().context("more processors than there is room for were let in")?;
    ensure!(format!("{refusal:#}").contains("greater than the maximum sockets allowed"), "it says {refusal:#}");
    ensure!(story.uid(name)? == uid, "it is another guest");
    story.delete(name)
}
