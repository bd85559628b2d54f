//! A hundred guests made in one go on one node, and control's leader killed while they start: none is there twice, none is
//! lost, and what they cost the control plane is counted.
//!
//! The count is of writes, by the API server's own metrics. KubeVirt's published figures are of a hundred guests made the
//! same way (`docs/perf-scale-benchmarks.md` of kubevirt/kubevirt, medians of 2026): a guest costs it 1 creation and 2
//! patches of pods, 5 updates and 0.8 patches of guests. Its image is in the launcher's pod, ours a clone, so the writes
//! to claims and addresses are printed and not compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guests::{self, Images};
use super::leftovers::{self, Footprint};
use super::{Checks, field_report};
use crate::cluster::{Cluster, text_of};
use crate::host;
use crate::lan::H100;
use crate::phase_watch::PhaseWatch;
use crate::testbed::Testbed;

const GUESTS: usize = 100;

/// The leader is killed when so many run.
const KILLED_AT: usize = 40;

/// Two emulating cores start all within this, seconds.
const START_S: u64 = 1500;

/// Of the guests, so many are asked who they are.
const ASKED: usize = 5;

/// Those have booted within this, once they have the two cores for themselves.
const BOOTED_S: u64 = 600;

/// All are gone within this, seconds.
const DELETED_S: u64 = 600;

/// Most writes to pods and guests a guest may cost: half of KubeVirt's 8.8.
const WRITES_A_GUEST: f64 = 4.4;

/// Most memory with a hundred guests defined, MiB: design.md's budgets.
const MEMORY_MIB: [(&str, u64); 2] = [("furrow-control", 120), ("furrow-agent", 60)];

const IMAGE: &str = "crowd-image";

/// Writes since the API server's start: (resource, subresource, verb) to their number.
type Writes = BTreeMap<(String, String, String), u64>;

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let tiny = Images::tiny(&bed.layout().source)?;
    checks.require("the node boots as a box and bootstraps", || bed.boot())?;
    let cluster = bed.cluster();
    checks.require("the provider network comes up", || field_report::network_up(bed, &cluster))?;
    checks.require("the image of all guests is imported", || {
        let source = guests::http_source(&bed.publish(&tiny, "tiny.qcow2")?);
        cluster.apply(&guests::data_volume("crowd", IMAGE, &source, "64Mi"))?;
        cluster.wait(("dv", IMAGE), "/status/phase", &["Succeeded"], 120).map(|_| ())
    })?;
    let footprint = Footprint::of(bed, &cluster)?;
    let before = writes(&cluster)?;
    let watch = PhaseWatch::start(&cluster, "vmi")?;
    let mut made = BTreeMap::new();
    let what = format!("{GUESTS} guests are made in one go and run, while control is killed when {KILLED_AT} do");
    checks.require(&what, || {
        made = start_all(bed, &cluster)?;
        Ok(())
    })?;
    let after = writes(&cluster)?;
    checks.check("from creation to Running: the median and the slowest twentieth", || durations(&watch, &made));
    checks.check("nothing twice, nothing lost: guests, domains, pods, addresses, disks", || {
        all_there_once(bed, &cluster, &made)
    });
    let what = format!("a guest costs at most {WRITES_A_GUEST} writes to pods and guests");
    checks.check(&what, || writes_in_bounds(&before, &after));
    checks.check("memory of control and agent is within their budgets", || memory_in_bounds(bed));
    checks.check(&format!("all but {ASKED} are deleted"), || delete(&cluster, &made, GUESTS - ASKED));
    // Two emulating cores would take an hour to boot all of them.
    checks.check("guests of the first, the middle and the last answer, each with its own boot", || {
        answering(bed, &cluster)
    });
    checks.check("the last are deleted, and nothing of any is left", || {
        delete(&cluster, &made, GUESTS)?;
        leftovers::settle_to(bed, &cluster, &footprint)
    });
    Ok(())
}

fn name(number: usize) -> String {
    format!("crowd-{number:03}")
}

fn ours(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut items = cluster.list("vmi")?;
    items.retain(|vmi| text_of(&vmi["metadata"]["name"]).starts_with("crowd-"));
    Ok(items)
}

fn running(cluster: &Cluster) -> Result<usize> {
    Ok(ours(cluster)?.iter().filter(|vmi| vmi["status"]["phase"] == "Running").count())
}

/// Applies what a client would apply again: while control is away, nobody answers for the webhooks.
fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    host::until("the guests to be taken", Duration::from_secs(120), || cluster.apply(manifest).map(|_| ()))
}

/// Makes all guests and returns their UIDs by name when all run.
fn start_all(bed: &Testbed, cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let manifest = include_str!("../../manifests/crowd/vmi.yaml");
    let all: Vec<String> = (0..GUESTS).map(|number| manifest.replace("${NAME}", &name(number))).collect();
    let started = Instant::now();
    let made = std::thread::scope(|scope| -> Result<_> {
        // Few at a time, since kubectl waits for each answer, beside guests that take both processors.
        let applied =
            scope.spawn(|| -> Result<()> { all.chunks(10).try_for_each(|some| apply(cluster, &some.join("\n---\n"))) });
        host::until(&format!("{KILLED_AT} running guests"), Duration::from_secs(START_S / 2), || {
            let count = running(cluster)?;
            ensure!(count >= KILLED_AT, "{count} run");
            Ok(())
        })?;
        host::progress(started, "killing furrow-control");
        bed.node().shell(&format!("kill -9 {}", bed.node().main_pid("furrow-control")?))?;
        applied.join().map_err(|_| anyhow::anyhow!("the thread of kubectl apply panicked"))??;
        let uid = |vmi: &Value| (text_of(&vmi["metadata"]["name"]), text_of(&vmi["metadata"]["uid"]));
        Ok(ours(cluster)?.iter().map(uid).collect::<BTreeMap<_, _>>())
    })?;
    ensure!(made.len() == GUESTS, "{} guests were made", made.len());
    let mut told = Instant::now();
    host::until(&format!("{GUESTS} running guests"), Duration::from_secs(START_S), || {
        let count = running(cluster)?;
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            host::progress(started, &format!("{count} of {GUESTS} guests run"));
        }
        ensure!(count == GUESTS, "{count} run");
        Ok(())
    })?;
    host::progress(started, "all guests run");
    Ok(made)
}

fn durations(watch: &PhaseWatch, made: &BTreeMap<String, String>) -> Result<()> {
    let mut seconds = made
        .keys()
        .map(|name| Ok(watch.between((name, ""), (name, "Running"))? / 1000.0))
        .collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    let at = |percent: usize| seconds.get(seconds.len() * percent / 100).copied().unwrap_or_default();
    println!("         P50 {:.1} s, P95 {:.1} s, the slowest {:.1} s", at(50), at(95), at(99));
    Ok(())
}

fn all_there_once(bed: &Testbed, cluster: &Cluster, made: &BTreeMap<String, String>) -> Result<()> {
    let now = ours(cluster)?;
    ensure!(now.len() == GUESTS, "{} guests are there", now.len());
    for vmi in &now {
        let (name, uid) = (text_of(&vmi["metadata"]["name"]), text_of(&vmi["metadata"]["uid"]));
        ensure!(made.get(&name) == Some(&uid), "{name} was made anew: {uid} instead of {:?}", made.get(&name));
    }
    let expected: Vec<String> = made.keys().map(|name| format!("default_{name}")).collect();
    same("domains", lines(bed, "virsh -q -c qemu:///system list --name")?, &expected)?;
    same(
        "QEMU processes",
        lines(bed, "ps -e -o args= | sed -n 's/^[^ ]*qemu-system-x86_64 .*guest=\\([^,]*\\),.*/\\1/p'")?,
        &expected,
    )?;
    let pods = cluster.list("pods")?;
    let owners = pods.iter().filter_map(|pod| pod.pointer("/metadata/ownerReferences/0/name")).map(text_of);
    let names: Vec<String> = made.keys().cloned().collect();
    same("pods", owners.filter(|owner| owner.starts_with("crowd-")).collect(), &names)?;
    let ips: Vec<Value> = cluster.list("ips.kubeovn.io")?;
    same("IP objects", ips.iter().map(|ip| text_of(&ip["spec"]["podName"])).collect(), &names)?;
    for field in ["v4IpAddress", "macAddress"] {
        let different: BTreeSet<String> = ips.iter().map(|ip| text_of(&ip["spec"][field])).collect();
        ensure!(different.len() == GUESTS, "{} of {GUESTS} {field} differ", different.len());
    }
    // One virsh for all: each takes seconds beside a hundred guests.
    let ask: Vec<String> = expected.iter().map(|domain| format!("dumpxml {domain};")).collect();
    let disks = lines(bed, &format!("virsh -q -c qemu:///system '{}' | grep \"protocol='rbd'\"", ask.concat()))?;
    let disks: BTreeSet<String> = disks.into_iter().collect();
    ensure!(disks.len() == GUESTS, "{} of {GUESTS} disks differ", disks.len());
    Ok(())
}

fn same(what: &str, mut found: Vec<String>, expected: &[String]) -> Result<()> {
    found.sort();
    let missing: Vec<&String> = expected.iter().filter(|name| !found.contains(name)).collect();
    ensure!(found == expected, "{what}: {} are there, missing are {missing:?}", found.len());
    Ok(())
}

fn lines(bed: &Testbed, line: &str) -> Result<Vec<String>> {
    Ok(bed.node().shell(line)?.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

/// Names of those that are asked: the first, the last, and some between.
fn asked() -> impl Iterator<Item = String> {
    (0..ASKED).map(|index| name(index * (GUESTS - 1) / (ASKED - 1)))
}

fn answering(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    let mut boots = BTreeSet::new();
    for name in asked() {
        let facts = guests::facts(bed, H100, guests::address(cluster, &name)?, BOOTED_S).context(name)?;
        boots.insert(text_of(&facts["boot_id"]));
    }
    ensure!(boots.len() == ASKED, "{} of {ASKED} boots differ", boots.len());
    Ok(())
}

/// Reads `apiserver_request_total`.
fn writes(cluster: &Cluster) -> Result<Writes> {
    Ok(parse_writes(&cluster.kubectl(&["get", "--raw", "/metrics"])?))
}

fn parse_writes(text: &str) -> Writes {
    let mut writes = Writes::new();
    for line in text.lines() {
        let Some((labels, count)) =
            line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let label = |wanted: &str| {
            let value = labels.split(',').find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        let verb = label("verb");
        if ["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb.as_str()) {
            let count: f64 = count.trim().parse().unwrap_or_default();
            *writes.entry((label("resource"), label("subresource"), verb)).or_default() += count as u64;
        }
    }
    writes
}

fn writes_in_bounds(before: &Writes, after: &Writes) -> Result<()> {
    let mut compared = 0.0;
    for (key @ (resource, subresource, verb), count) in after {
        let more = (count - before.get(key).unwrap_or(&0).min(count)) as f64 / GUESTS as f64;
        // The kubelet's own reports are in KubeVirt's clusters too, and in none of its figures; kubectl makes the guests.
        let of_pods = resource == "pods" && subresource.is_empty() && verb != "DELETE";
        let of_guests = resource == "virtualmachineinstances" && verb != "POST";
        let counted = of_pods || of_guests;
        if more >= 0.05 {
            let mark = if counted { ", compared" } else { "" };
            println!("         {more:5.2} a guest: {verb} {resource} {subresource}{mark}");
        }
        compared += if counted { more } else { 0.0 };
    }
    println!("         {compared:.2} a guest of those compared (KubeVirt 8.8)");
    ensure!(compared <= WRITES_A_GUEST, "a guest costs {compared:.2}");
    ensure!(compared >= 1.0, "the API server's metrics do not show the pods' creation");
    Ok(())
}

fn memory_in_bounds(bed: &Testbed) -> Result<()> {
    let mut over = Vec::new();
    for (unit, most) in MEMORY_MIB {
        // The proportional share, as the bench measures it: Ceph's library is mapped by every guest's QEMU too.
        let kib = bed.node().memory_kib(unit, ("smaps_rollup", "Pss"))?;
        println!("         {unit}: {} MiB, at most {most}", kib >> 10);
        if kib >> 10 > most {
            over.push(unit);
        }
    }
    ensure!(over.is_empty(), "more than its budget has {}", over.join(" and "));
    Ok(())
}

/// Deletes so many in one go, those that are asked last.
fn delete(cluster: &Cluster, made: &BTreeMap<String, String>, count: usize) -> Result<()> {
    let last: BTreeSet<String> = asked().collect();
    let names = made.keys().filter(|name| !last.contains(*name)).chain(&last).take(count).map(String::as_str);
    let words = ["delete", "vmi", "--ignore-not-found", "--wait=false"].into_iter().chain(names);
    cluster.kubectl(&words.collect::<Vec<_>>())?;
    host::until("the deleted guests to be gone", Duration::from_secs(DELETED_S), || {
        let left = ours(cluster)?.len();
        ensure!(left == GUESTS - count, "{left} are left");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_are_read_and_their_codes_are_summed() {
        let line = |code: u16, verb: &str, count: &str| {
            format!(
                "apiserver_request_total{{code=\"{code}\",dry_run=\"\",group=\"kubevirt.io\",resource=\"virtualmachineinstances\",\
                 scope=\"resource\",subresource=\"\",verb=\"{verb}\",version=\"v1\"}} {count}\n"
            )
        };
        let text = [line(200, "PUT", "5"), line(409, "PUT", "2"), line(200, "LIST", "9")].concat();
        let key = ("virtualmachineinstances".to_owned(), String::new(), "PUT".to_owned());
        assert_eq!(parse_writes(&text), Writes::from([(key, 7)]));
    }
}
