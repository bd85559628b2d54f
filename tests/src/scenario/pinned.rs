//! A guest with a processor of its own, on a machine whose kubelet sets some aside: where its threads may run, and where all
//! others may not. On a whole machine only: a box has neither control groups of version 2 nor a processor to spare.

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::guests;
use super::journey::Journey;
use crate::cluster::{Cluster, condition, text_of};
use crate::host;

/// What node.yaml says for it.
pub(super) const NODE: &str = "kubernetes:\n  cpuManager: {policy: static, reservedCpus: \"0\"}\n";

/// One for the system, one for the guest, one for all others.
pub(super) const CPUS: u32 = 3;

const NAME: &str = "pinned";

/// Starts one beside an `ordinary` guest that runs, from the same image, and stops it.
pub(super) fn run(journey: &Journey, cluster: &Cluster, (ordinary, image): (&str, &str), checks: &mut Checks) {
    checks.check("a guest has a processor to itself, and all others are kept off it", || {
        ensure!(text_of(&cluster.get("node", "m1")?["metadata"]["labels"]["cpumanager"]) == "true", "no cpumanager");
        let memory = "        memory:\n";
        let manifest = guests::tiny(NAME, &guests::http_source(image), "Always");
        ensure!(manifest.contains(memory), "the manifest has no memory");
        let cpu = format!("        cpu:\n          cores: 1\n          dedicatedCpuPlacement: true\n{memory}");
        cluster.apply(&manifest.replace(memory, &cpu))?;
        cluster.wait(("vmi", NAME), "/status/phase", &["Running"], 600)?;
        let own = own(journey)?;
        let (vcpu, others) = (allowed(journey, NAME, "CPU 0/")?, allowed(journey, ordinary, "CPU 0/")?);
        ensure!(vcpu == own, "the kubelet gave the pod CPU {own}, and the guest's vCPU may run on {vcpu}");
        ensure!(!has(&others, &own), "{ordinary} may run on CPUs {others}, and {own} is {NAME}'s");
        let limit = journey.shell("cat /sys/fs/cgroup/machine.slice/cpuset.cpus.effective")?;
        ensure!(!has(limit.trim(), &own), "guests may run on CPUs {limit}");
        Ok(())
    });
    checks.check("its processor is the others' again when it has ended", || {
        cluster.kubectl(&["delete", "vm", NAME, "--timeout=120s"])?;
        host::until("the limit to be gone", std::time::Duration::from_secs(90), || {
            let others = allowed(journey, ordinary, "CPU 0/")?;
            ensure!(others == format!("0-{}", CPUS - 1), "{ordinary} may run on CPUs {others}");
            Ok(())
        })?;
        let vmi = cluster.get("vmi", ordinary)?;
        ensure!(condition(&vmi, "Ready").is_some_and(|c| c["status"] == "True"), "{ordinary} is not ready");
        Ok(())
    });
}

/// The processor that the kubelet has set aside.
fn own(journey: &Journey) -> Result<String> {
    let record = journey.shell("cat /var/lib/kubelet/cpu_manager_state")?;
    let record: serde_json::Value = serde_json::from_str(&record).context("the kubelet's record of CPUs")?;
    let pods = record["entries"].as_object().context("no pod has a CPU of its own")?;
    let sets: Vec<String> =
        pods.values().filter_map(|pod| pod.as_object()).flat_map(|pod| pod.values().map(text_of)).collect();
    let [own] = sets.as_slice() else { anyhow::bail!("CPUs of their own have {pods:?}") };
    ensure!(own.parse::<u32>().is_ok(), "the guest has CPUs {own}");
    Ok(own.clone())
}

/// On which processors threads of this name of a guest's QEMU may run.
fn allowed(journey: &Journey, vm: &str, thread: &str) -> Result<String> {
    let pid = format!("$(cat /run/libvirt/qemu/default_{vm}.pid)");
    let found = format!(
        "for t in /proc/{pid}/task/*; do grep -q '^{thread}' $t/comm && grep Cpus_allowed_list $t/status; done"
    );
    let lists = journey.shell(&format!("{found}; true"))?;
    let list = lists.lines().next().and_then(|line| line.split_whitespace().last());
    Ok(list.with_context(|| format!("{vm} has no thread {thread}"))?.to_owned())
}

/// Whether a list of processors has one.
fn has(list: &str, cpu: &str) -> bool {
    let within = |part: &str| match (part.split_once('-'), cpu.parse::<u32>()) {
        (Some((first, last)), Ok(cpu)) => {
            first.parse().is_ok_and(|first: u32| first <= cpu) && last.parse().is_ok_and(|last: u32| cpu <= last)
        }
        _ => part == cpu,
    };
    list.split(',').any(|part| within(part.trim()))
}
