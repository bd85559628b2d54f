//! Guests with processors of their own, on a machine whose kubelet sets some aside: where their threads may run, and where all
//! others may not; and one in real time, with memory in huge pages of its processor's NUMA node. On a whole machine only: a
//! box has neither control groups of version 2 nor a processor to spare.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::guests;
use super::journey::{Journey, booted};
use crate::cluster::{Cluster, condition, text_of};
use crate::host;

/// What node.yaml says for them. Half of the huge pages is on each NUMA node, and one half is enough for the guest.
pub(super) const NODE: &str =
    "kubernetes:\n  cpuManager: {policy: static, reservedCpus: \"0\"}\n  hugePages: {2Mi: 128}\n";

/// One for the system, and of those that can be given away two for the guest in real time and its emulator; pods without their
/// own ask for parts of the last.
pub(super) const CPUS: u32 = 4;

/// The machine's NUMA nodes.
pub(super) const NUMA: &[&str] = &["0-1", "2-3"];

const NAME: &str = "pinned";
const REALTIME: &str = "realtime";

/// Memory of a tiny guest, and of a huge page.
const GUEST_MIB: u32 = 96;
const PAGE_KIB: u32 = 2048;

/// After a restart of Kubernetes, of which an emulated machine takes minutes.
const RESTARTED: Duration = Duration::from_secs(600);

/// Starts one beside an `ordinary` guest that runs, from the same image, and stops it.
pub(super) fn run(journey: &Journey, cluster: &Cluster, (ordinary, image): (&str, &str), checks: &mut Checks) {
    checks.check("a guest has a processor to itself, and all others are kept off it", || {
        ensure!(text_of(&cluster.get("node", "m1")?["metadata"]["labels"]["cpumanager"]) == "true", "no cpumanager");
        cluster.apply(&manifest(NAME, image, "", "")?)?;
        cluster.wait(("vmi", NAME), "/status/phase", &["Running"], 600)?;
        let own = own(journey)?;
        ensure!(own.parse::<u32>().is_ok(), "the guest has CPUs {own}");
        let (vcpu, others) = (allowed(journey, NAME, "CPU 0/")?, allowed(journey, ordinary, "CPU 0/")?);
        ensure!(vcpu == own, "the kubelet gave the pod CPU {own}, and the guest's vCPU may run on {vcpu}");
        ensure!(!has(&others, &own), "{ordinary} may run on CPUs {others}, and {own} is {NAME}'s");
        let limit = journey.shell("cat /sys/fs/cgroup/machine.slice/cpuset.cpus.effective")?;
        ensure!(!has(limit.trim(), &own), "guests may run on CPUs {limit}");
        Ok(())
    });
    checks.check("its processor is the others' again when it has ended", || {
        cluster.kubectl(&["delete", "vm", NAME, "--timeout=120s"])?;
        host::until("the limit to be gone", Duration::from_secs(90), || {
            let others = allowed(journey, ordinary, "CPU 0/")?;
            ensure!(others == format!("0-{}", CPUS - 1), "{ordinary} may run on CPUs {others}");
            Ok(())
        })?;
        let vmi = cluster.get("vmi", ordinary)?;
        ensure!(condition(&vmi, "Ready").is_some_and(|c| c["status"] == "True"), "{ordinary} is not ready");
        Ok(())
    });
}

/// A tiny guest with dedicated CPUs, of whose `cpu` and `memory` more is asked.
fn manifest(name: &str, image: &str, cpu: &str, memory: &str) -> Result<String> {
    let section = "        memory:\n";
    let manifest = guests::tiny(name, &guests::http_source(image), "Always");
    let cpu = format!("        cpu:\n          cores: 1\n          dedicatedCpuPlacement: true\n{cpu}");
    guests::replaced(&manifest, section, &format!("{cpu}{section}{memory}"))
}

/// Starts one in real time once `pinned` has gone, and changes the node's huge pages under it.
pub(super) fn run_realtime(journey: &Journey, cluster: &Cluster, image: &str, checks: &mut Checks) {
    checks.check("the node has huge pages of both NUMA nodes", || {
        huge_pages(cluster, "256Mi")?;
        let of_nodes =
            journey.shell("cat /sys/devices/system/node/node[01]/hugepages/hugepages-2048kB/nr_hugepages")?;
        ensure!(of_nodes.split_whitespace().eq(["64", "64"]), "they have {of_nodes:?}");
        Ok(())
    });
    checks.check("a guest runs in real time, its emulator apart from it, in huge pages of its NUMA node", || {
        // A node offers it only where nothing takes time away from such processes.
        journey.shell("sysctl -w kernel.sched_rt_runtime_us=-1")?;
        let cpu = "          isolateEmulatorThread: true\n          numa: {guestMappingPassthrough: {}}\n          realtime: {}\n";
        let memory = "          hugepages: {pageSize: 2Mi}\n";
        cluster.apply(&manifest(REALTIME, image, cpu, memory)?)?;
        cluster.wait(("vmi", REALTIME), "/status/phase", &["Running"], 600)?;
        placed(journey)?;
        booted(journey, cluster, REALTIME)
    });
    checks.check("more huge pages are there after a bootstrap, and guests live on", || {
        let before = cluster.get("vmi", REALTIME)?;
        journey.shell("sed -i 's/2Mi: 128/2Mi: 192/' /etc/furrow/node.yaml")?;
        let bootstrap = "furrow-install bootstrap 2>&1";
        let said = journey.machine.shell_within(&journey.key, bootstrap, RESTARTED.as_secs())?;
        ensure!(said.contains("192 huge pages of 2Mi (there were 128)"), "the bootstrap said {said}");
        host::until("the node's huge pages", RESTARTED, || huge_pages(cluster, "384Mi"))?;
        placed(journey)?;
        let after = cluster.get("vmi", REALTIME)?;
        ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it is another guest");
        cluster.kubectl(&["delete", "vm", REALTIME, "--timeout=120s"]).map(drop)
    });
}

/// Whether so much memory is in huge pages, as Kubernetes sees it.
fn huge_pages(cluster: &Cluster, expected: &str) -> Result<()> {
    let node = cluster.get("node", "m1")?;
    let found = text_of(&node["status"]["allocatable"]["hugepages-2Mi"]);
    ensure!(found == expected, "the node has {found} in huge pages");
    Ok(())
}

/// Whether the guest in real time is as it asked to be, by the kernel's word.
fn placed(journey: &Journey) -> Result<()> {
    let pid = journey.shell(&format!("cat /run/libvirt/qemu/default_{REALTIME}.pid"))?.trim().to_owned();
    let (own, vcpu) = (own(journey)?, allowed(journey, REALTIME, "CPU 0/")?);
    let emulator = journey.shell(&format!("awk '/^Cpus_allowed_list/ {{print $2}}' /proc/{pid}/status"))?;
    let emulator = emulator.trim();
    for cpu in [vcpu.as_str(), emulator] {
        ensure!(cpu.parse::<u32>().is_ok() && has(&own, cpu), "of the CPUs {own} a thread has {cpu}");
    }
    ensure!(vcpu != emulator, "vCPU and emulator both run on CPU {vcpu}");
    // Real-time priority and policy (1: SCHED_FIFO) of proc(5)'s stat, after the name, which may have spaces.
    let of_vcpu =
        format!("for t in /proc/{pid}/task/*; do grep -q '^CPU 0/' $t/comm && sed 's/.*) //' $t/stat; done; true");
    let stat = journey.shell(&of_vcpu)?;
    let fields: Vec<&str> = stat.split_whitespace().collect();
    ensure!(fields.get(37..39) == Some(&["1", "1"][..]), "its vCPU is scheduled as {:?}", fields.get(37..39));
    let node = journey.shell(&format!("basename /sys/devices/system/cpu/cpu{vcpu}/node*"))?;
    let node = node.trim().trim_start_matches("node");
    let maps = journey.shell(&format!("grep -F huge /proc/{pid}/numa_maps; true"))?;
    let on_node = format!(" N{node}={} ", GUEST_MIB * 1024 / PAGE_KIB);
    ensure!(maps.contains(&on_node), "not all of its memory is on node {node}: {maps:?}");
    Ok(())
}

/// The processors that the kubelet has set aside.
fn own(journey: &Journey) -> Result<String> {
    let record = journey.shell("cat /var/lib/kubelet/cpu_manager_state")?;
    let record: serde_json::Value = serde_json::from_str(&record).context("the kubelet's record of CPUs")?;
    let pods = record["entries"].as_object().context("no pod has a CPU of its own")?;
    let sets: Vec<String> =
        pods.values().filter_map(|pod| pod.as_object()).flat_map(|pod| pod.values().map(text_of)).collect();
    let [own] = sets.as_slice() else { anyhow::bail!("CPUs of their own have {pods:?}") };
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
