//! Guests that other objects shape or make: instancetypes and preferences, presets, replica sets, pools. Each is made, seen in
//! the guest's domain or in the number of guests, changed, and taken away with all that it made.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Story;
use super::answer::check;
use super::domain::has;
use super::fields::least;
use crate::cluster::text_of;
use crate::host;
use crate::scenario::{Checks, guests};

/// A label of every object here.
const LABEL: &str = "furrow.io/test=shaped";

/// Small guests without disks start and end within this.
const FOLLOWED: Duration = Duration::from_secs(120);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "shaped: a VM has its instancetype's size and its preference's devices", || sized(story));
    story.check(checks, "shaped: an instancetype that is not there is refused by name", || unknown_size(story));
    story.check(checks, "shaped: a preset gives a guest what it does not say itself", || preset(story));
    story.check(checks, "shaped: a replica set makes, replaces and removes guests", || replica_set(story));
    story.check(checks, "shaped: a pool makes and removes VMs with disks of their own", || pool(story));
}

/// A machine without disks, of a size and a preference.
fn sized(story: &Story<'_>) -> Result<()> {
    let name = "shaped-size";
    let spec = json!({"terminationGracePeriodSeconds": 0, "domain": {"devices": {"autoattachPodInterface": false}}});
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "default", "labels": {"furrow.io/test": "shaped"}},
        "spec": {"runStrategy": "Always", "instancetype": {"name": "u1.nano"}, "preference": {"name": "debian"},
            "template": {"spec": spec}},
    });
    story.cluster.apply(&vm.to_string())?;
    let vmi = story.running(name)?;
    let annotations = &vmi["metadata"]["annotations"];
    ensure!(annotations["kubevirt.io/cluster-instancetype-name"] == "u1.nano", "its annotations are {annotations}");
    ensure!(annotations["kubevirt.io/cluster-preference-name"] == "debian", "its annotations are {annotations}");
    let document = story.domain(name)?;
    has("memory", &["unit='KiB'", &format!(">{}<", 512 * 1024)]).check(&document)?;
    let vm = story.cluster.get("vm", name)?;
    for which in ["instancetypeRef", "preferenceRef"] {
        let revision = &vm["status"][which]["controllerRevisionRef"]["name"];
        let kept = revision.as_str().with_context(|| format!("the VM has no revision: {}", vm["status"]))?;
        story.cluster.get("controllerrevision", kept)?;
    }
    let path = super::path("v1", super::Of::Vm, name, "expand-spec");
    let expanded = story.proxy.call("GET", &path, "")?;
    check(&expanded, 200, "512Mi")?;
    ensure!(expanded.json()?["spec"]["instancetype"].is_null(), "the expanded VM still refers to its size");
    story.delete(name)
}

fn unknown_size(story: &Story<'_>) -> Result<()> {
    let vm = guests::tiny("shaped-none", &story.tiny_source, "Halted")
        .replace("  runStrategy: Halted", "  runStrategy: Halted\n  instancetype: {name: no-such-size}");
    let told = story.cluster.refused(&vm)?;
    ensure!(told.contains("no-such-size"), "it says {told}");
    Ok(())
}

fn preset(story: &Story<'_>) -> Result<()> {
    let preset = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstancePreset",
        "metadata": {"name": "shaped-preset", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"shaped": "preset"}}, "domain": {"cpu": {"sockets": 2}, "devices": {}}},
    });
    story.cluster.apply(&preset.to_string())?;
    // The webhook goes by a cache, which learns of the preset a moment later.
    let made = host::until("a guest that has the preset", Duration::from_secs(30), || {
        let mut vmi = least("shaped-by-preset");
        vmi["metadata"]["labels"]["shaped"] = json!("preset");
        vmi["spec"]["domain"].as_object_mut().context("there is no domain")?.remove("cpu");
        let path = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances";
        let answer = story.proxy.call("POST", &format!("{path}?dryRun=All"), &vmi.to_string())?;
        check(&answer, 201, "virtualmachinepreset.kubevirt.io/shaped-preset")?;
        let answer = story.proxy.call("POST", path, &vmi.to_string())?;
        check(&answer, 201, "")?;
        answer.json()
    })?;
    ensure!(made["spec"]["domain"]["cpu"]["sockets"] == 2, "its processors are {}", made["spec"]["domain"]["cpu"]);
    story.running("shaped-by-preset")?;
    has("topology", &["sockets='2'"])
        .check(&story.domain("shaped-by-preset")?)
        .or_else(|_| has("vcpu", &["current='2'"]).check(&story.domain("shaped-by-preset")?))?;
    story.cluster.kubectl(&["delete", "vmi", "shaped-by-preset", "--timeout=60s"])?;
    story.cluster.kubectl(&["delete", "vmipreset", "shaped-preset"]).map(|_| ())
}

/// Names of the objects of a kind with this label that are not on their way out.
fn living(story: &Story<'_>, kind: &str) -> Result<BTreeSet<String>> {
    let text = story.cluster.kubectl(&["get", kind, "-l", LABEL, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("kubectl's JSON")?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let alive = items.iter().filter(|item| item["metadata"]["deletionTimestamp"].is_null());
    Ok(alive.map(|item| text_of(&item["metadata"]["name"])).collect())
}

/// Waits until an owner tells so many replicas, all of them ready, and so many live.
fn replicas(story: &Story<'_>, owner: (&str, &str), kind: &str, wanted: usize) -> Result<BTreeSet<String>> {
    host::until(&format!("{wanted} of {} {}", owner.0, owner.1), FOLLOWED, || {
        let status = story.cluster.get(owner.0, owner.1)?["status"].clone();
        let told = |field: &str| status[field].as_u64().unwrap_or_default() as usize;
        ensure!(told("replicas") == wanted && told("readyReplicas") == wanted, "its status is {status}");
        let names = living(story, kind)?;
        ensure!(names.len() == wanted, "there are {names:?}");
        Ok(names)
    })
}

fn replica_set(story: &Story<'_>) -> Result<()> {
    let owner = ("vmirs", "shaped-set");
    let mut template = least("unused");
    template["metadata"] = json!({"labels": {"furrow.io/test": "shaped"}});
    let set = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
        "metadata": {"name": owner.1, "namespace": "default"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"furrow.io/test": "shaped"}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]}},
    });
    story.cluster.apply(&set.to_string())?;
    let first = replicas(story, owner, "vmi", 2)?;
    let lost = first.first().context("there is none")?.clone();
    story.cluster.kubectl(&["delete", "vmi", &lost, "--timeout=60s"])?;
    let second = replicas(story, owner, "vmi", 2)?;
    ensure!(!second.contains(&lost) && second.intersection(&first).count() == 1, "{first:?} became {second:?}");
    story.cluster.kubectl(&["scale", "vmirs", owner.1, "--replicas=1"])?;
    let third = replicas(story, owner, "vmi", 1)?;
    ensure!(third.is_subset(&second), "{second:?} became {third:?}");
    story.cluster.kubectl(&["delete", "vmirs", owner.1, "--timeout=60s"])?;
    host::until("no guest of the set", FOLLOWED, || {
        let left = living(story, "vmi")?;
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })
}

fn pool(story: &Story<'_>) -> Result<()> {
    let owner = ("vmpool", "shaped-pool");
    let manifest = guests::tiny("shaped-pool", &story.tiny_source, "Always");
    let (_, spec) = manifest.split_once("\nspec:\n").context("the tiny manifest has no spec")?;
    let spec: String = spec.lines().map(|line| format!("      {line}\n")).collect();
    let pool = format!(
        "apiVersion: pool.kubevirt.io/v1beta1\nkind: VirtualMachinePool\nmetadata: {{name: {}, namespace: default}}\n\
         spec:\n  replicas: 2\n  selector:\n    matchLabels: {{furrow.io/test: shaped}}\n  virtualMachineTemplate:\n    \
         metadata:\n      labels: {{furrow.io/test: shaped}}\n    spec:\n{spec}",
        owner.1
    );
    story.cluster.apply(&pool)?;
    let machines = replicas(story, owner, "vm", 2)?;
    let expected: BTreeSet<String> = ["shaped-pool-0", "shaped-pool-1"].map(str::to_owned).into();
    ensure!(machines == expected, "its machines are {machines:?}");
    let mut disks = BTreeSet::new();
    for name in &machines {
        let vm = story.cluster.get("vm", name)?;
        disks.insert(text_of(&vm["spec"]["template"]["spec"]["volumes"][0]["dataVolume"]["name"]));
    }
    ensure!(disks.len() == 2, "their disks are {disks:?}");
    story.cluster.kubectl(&["scale", "vmpool", owner.1, "--replicas=1"])?;
    replicas(story, owner, "vm", 1)?;
    story.cluster.kubectl(&["delete", "vmpool", owner.1, "--timeout=60s"])?;
    host::until("no machine of the pool", FOLLOWED, || {
        let left = living(story, "vm")?;
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })
}
