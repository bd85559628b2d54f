//! A guest that asks for processors of its own, on a node whose kubelet sets none aside: what the node says of itself, what
//! the guest's pod asks for, and that the guest waits. What follows on a node that does needs cgroup v2 and a processor
//! to spare, which a box has not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Story;
use super::fields::least;
use crate::cluster::{condition, text_of};
use crate::host;
use crate::scenario::{Checks, guests};

const NAME: &str = "dedicated";

/// What agent, control and scheduler say follows within this.
const SAID: Duration = Duration::from_secs(60);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "pinning: the node says that its kubelet sets no CPUs aside", || {
        host::until("the label", SAID, || {
            let nodes = story.cluster.list("nodes")?;
            let labels =
                nodes.iter().map(|node| text_of(&node["metadata"]["labels"]["cpumanager"])).collect::<Vec<_>>();
            ensure!(!labels.is_empty() && labels.iter().all(|label| label == "false"), "cpumanager: {labels:?}");
            Ok(())
        })
    });
    story.check(checks, "pinning: a guest's pod is of whole CPUs, and waits for a node that has them", || waits(story));
    story.check(checks, "pinning: the guest is deleted", || {
        story.cluster.kubectl(&["delete", "vmi", NAME, "--timeout=60s"]).map(|_| ())
    });
}

fn waits(story: &Story<'_>) -> Result<()> {
    let mut vmi = least(NAME);
    let cpu = json!({"sockets": 1, "cores": 2, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true});
    vmi["spec"]["domain"]["cpu"] = cpu;
    story.cluster.apply(&vmi.to_string())?;
    host::until("the guest to wait", SAID, || {
        let vmi = story.cluster.get("vmi", NAME)?;
        let said = condition(&vmi, "PodScheduled").context("it says nothing of its pod")?;
        ensure!(said["status"] == "False" && said["reason"] == "Unschedulable", "it says {said}");
        Ok(())
    })?;
    let pod = guests::pod(&story.cluster, &story.uid(NAME)?.context("there is no guest")?)?;
    let spec = &pod["spec"];
    ensure!(spec["nodeSelector"]["cpumanager"] == "true", "its nodes: {}", spec["nodeSelector"]);
    let resources = &spec["containers"][0]["resources"];
    ensure!(resources["requests"] == resources["limits"], "its resources: {resources}");
    ensure!(resources["requests"]["cpu"] == "3", "its resources: {resources}");
    let class = &pod["status"]["qosClass"];
    ensure!(class == "Guaranteed", "its class is {class}");
    Ok(())
}
