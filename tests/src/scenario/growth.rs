//! A guest that is given processors and memory while it runs. On a whole machine only: the kubelet of a box keeps no groups
//! of pods, and cannot change what one has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Checks;
use super::guests;
use super::journey::Journey;
use crate::cluster::{Cluster, condition, text_of};
use crate::host;

/// The guest boots under an emulated KVM, and takes memory in block by block.
const GROWN: Duration = Duration::from_secs(300);

/// The manifest of a tiny VM with room for a second processor, and for as much memory again.
pub(super) fn with_room(name: &str, source: &str) -> Result<String> {
    let memory = "        memory:\n          guest: 96Mi\n";
    let room = "        cpu:\n          sockets: 1\n          maxSockets: 2\n        memory:\n          guest: 1Gi\n          maxGuest: 2Gi\n";
    guests::replaced(&guests::tiny(name, source, "Always"), memory, room)
}

/// Makes the guest grow, and looks for it at the API, at libvirt and at the kernel.
pub(super) fn run(journey: &Journey, cluster: &Cluster, name: &str, checks: &mut Checks) {
    checks.check("a processor and memory join the running guest, and its pod reserves them", || {
        let before = cluster.get("vmi", name)?;
        let pod = guests::pod(cluster, &text_of(&before["metadata"]["uid"]))?;
        let lighter = weight(journey, &pod)?;
        let patch = r#"{"spec":{"template":{"spec":{"domain":{"cpu":{"sockets":2},"memory":{"guest":"1536Mi"}}}}}}"#;
        cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", patch])?;
        host::until("the guest to have grown", GROWN, || grown(cluster, name))?;
        let after = cluster.get("vmi", name)?;
        ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it is another guest");
        let domain = journey.shell(&format!("virsh -q dumpxml default_{name}"))?;
        for said in ["<vcpu placement='static'>2</vcpu>", "<current unit='KiB'>524288</current>"] {
            ensure!(domain.contains(said), "its domain lacks {said}");
        }
        // The kubelet says so after it has done it.
        host::until("its pod to have grown", Duration::from_secs(60), || {
            reserved(cluster, &pod)?;
            let heavier = weight(journey, &pod)?;
            ensure!(lighter < heavier, "the weight of its pod's group was {lighter} and is {heavier}");
            Ok(())
        })
    });
}

/// Whether its status says that everything has arrived, and nothing waits for a restart.
fn grown(cluster: &Cluster, name: &str) -> Result<()> {
    let vmi = cluster.get("vmi", name)?;
    let status = &vmi["status"];
    let said = [&status["currentCPUTopology"]["sockets"], &status["memory"]["guestCurrent"]].map(text_of);
    for kind in ["HotVCPUChange", "HotMemoryChange"] {
        ensure!(condition(&vmi, kind).is_none(), "{kind} is {:?}; it has {said:?}", condition(&vmi, kind));
    }
    ensure!(said == ["2", "1536Mi"], "it has {said:?}");
    let vm = cluster.get("vm", name)?;
    ensure!(condition(&vm, "RestartRequired").is_none(), "a restart is required: {}", vm["status"]);
    Ok(())
}

/// Whether the kubelet has granted the pod more than it had.
fn reserved(cluster: &Cluster, before: &Value) -> Result<()> {
    let after = cluster.get("pod", &text_of(&before["metadata"]["name"]))?;
    let requests = |pod: &Value| pod["status"]["containerStatuses"][0]["resources"]["requests"].clone();
    for resource in ["cpu", "memory"] {
        let (had, has) = (&requests(before)[resource].clone(), &requests(&after)[resource].clone());
        ensure!(has.is_string() && had != has, "its {resource} was {had} and is {has}");
    }
    Ok(())
}

/// The weight of the pod's group among those that want the processors.
fn weight(journey: &Journey, pod: &Value) -> Result<u32> {
    let uid = text_of(&pod["metadata"]["uid"]);
    let (plain, slice) = (format!("*pod{uid}*"), format!("*pod{}*", uid.replace('-', "_")));
    let found = format!("find /sys/fs/cgroup -type d -name '{plain}' -o -type d -name '{slice}' | head -n 1");
    let weight = journey.shell(&format!("cat \"$({found})/cpu.weight\""))?;
    weight.trim().parse().with_context(|| format!("the weight of pod {uid}: {weight}"))
}
