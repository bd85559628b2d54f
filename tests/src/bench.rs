//! The bench: what design.md budgets, measured in one run on the running appliance, as ratios where speed matters.
//!
//! Guests are `tiny` clones, started one after another, so that two cores measure the path and not their own queue, and
//! then all at once. Every figure is printed with its budget and goes into a JSON file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, text_of};
use crate::phase_watch::PhaseWatch;
use crate::scenario::field_report::network_up;
use crate::scenario::guests::{self, Images, http_source};
use crate::testbed::Testbed;

/// Proportional set size of every process of the node except its guests: `KiB command line`, one a line.
const PROCESSES: &str = r#"for p in /proc/[0-9]*; do
  c=$(tr '\0' ' ' < $p/cmdline 2>/dev/null) || continue; [ -n "$c" ] || continue
  m=$(awk '/^Pss:/ {print $2}' $p/smaps_rollup 2>/dev/null); echo "${m:-0} $c"
done"#;

/// Processor time of every process and of its children that have ended: `hundredths-of-a-second name`, one a line. The
/// fields are those of proc_pid_stat(5), counted from the state, which follows the name.
const PROCESSOR_TIME: &str = r#"awk '{ name = rest = $0; sub(/^[0-9]+ \(/, "", name); sub(/\) [A-Za-z] .*/, "", name)
  sub(/.*\) /, "", rest); split(rest, f, " "); print f[12] + f[13] + f[14] + f[15], name }' /proc/[0-9]*/stat 2>/dev/null || true"#;

/// What this bench itself and the login shell of its commands run.
const NOT_DAEMONS: [&str; 4] = ["bash", "sh", "awk", "tr"];

/// Processes below this are listed as one sum.
const SMALL_MIB: f64 = 2.0;

/// Fields of the agent's `guest started` entry: what a start's time goes to. The first four run at the same time.
const STAGES: [&str; 8] =
    ["CLAIM_MS", "VOLUMES_MS", "PORTS_MS", "SEED_MS", "OBSERVE_MS", "QUEUE_MS", "LIBVIRT_MS", "TOTAL_MS"];

struct Bench<'a> {
    bed: &'a Testbed,
    cluster: Cluster,
    report: Map<String, Value>,
}

/// Measures with `guests` guests and writes the JSON to `json`.
pub(crate) fn run(bed: &Testbed, guests: u32, json: &Path) -> Result<()> {
    ensure!(bed.node().leader().is_some(), "the appliance is off; start it with `make run`");
    let source = &bed.layout().source;
    let (tiny, debian) = (Images::tiny(source)?, Images::debian(source)?);
    let mut bench = Bench { bed, cluster: bed.cluster(), report: Map::new() };
    network_up(bed, &bench.cluster)?;
    let result = bench.measure((&tiny, &debian), guests);
    bench.clean_up();
    result?;
    let path = bed.layout().source.join(json);
    std::fs::write(&path, serde_json::to_string_pretty(&bench.report)? + "\n")?;
    println!("written to {}", path.display());
    Ok(())
}

impl Bench<'_> {
    fn measure(&mut self, (tiny, debian): (&Path, &Path), guests: u32) -> Result<()> {
        self.idle_memory()?;
        self.import(debian)?;
        self.golden(tiny)?;
        self.clones(guests)?;
        self.starts(guests)?;
        self.starts_at_once(guests)?;
        self.loaded_memory(guests)
    }

    fn record(&mut self, name: &str, value: Value, line: &str) {
        println!("{name:34} {line}");
        self.report.insert(name.to_owned(), value);
    }

    /// MiB of each daemon by its program's name, guests left out.
    fn memory(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for line in self.bed.node().shell(PROCESSES)?.lines() {
            let Some((kib, command)) = line.split_once(' ') else { continue };
            let program = command.split(' ').next().unwrap_or("");
            let name = program.rsplit('/').next().unwrap_or("").trim_matches(|c| "():".contains(c));
            if name.starts_with("qemu-system") || NOT_DAEMONS.contains(&name) {
                continue;
            }
            *sums.entry(name.to_owned()).or_default() += kib.parse::<f64>().unwrap_or(0.0) / 1024.0;
        }
        ensure!(sums.contains_key("furrow-agent"), "the agent is not among the node's processes: {sums:?}");
        Ok(sums)
    }

    /// Seconds of processor time by process name, since each process began.
    fn processor_time(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for line in self.bed.node().shell(PROCESSOR_TIME)?.lines() {
            let Some((ticks, name)) = line.split_once(' ') else { continue };
            *sums.entry(name.to_owned()).or_default() += ticks.parse::<f64>().unwrap_or(0.0) / 100.0;
        }
        ensure!(sums.contains_key("furrow-agent"), "the agent is not among the node's processes: {sums:?}");
        Ok(sums)
    }

    fn print_memory(&mut self, when: &str) -> Result<f64> {
        let daemons = self.memory()?;
        let total: f64 = daemons.values().sum();
        let (large, small): (Vec<_>, Vec<_>) = daemons.iter().partition(|(_, mib)| **mib >= SMALL_MIB);
        for (name, mib) in large {
            println!("  {when:8} {name:26} {mib:8.1} MiB");
        }
        let rest: f64 = small.iter().map(|(_, mib)| **mib).sum();
        println!("  {when:8} {:26} {rest:8.1} MiB", "all others");
        let object: Map<String, Value> = daemons.iter().map(|(n, m)| (n.clone(), json!(tenths(*m)))).collect();
        self.record(&format!("memory_{when}_mib"), Value::Object(object), &format!("{total:.0} MiB (PSS, no guests)"));
        Ok(total)
    }

    fn idle_memory(&mut self) -> Result<()> {
        let total = self.print_memory("idle")?;
        let holds = total <= 1280.0;
        self.record(
            "node_idle_mib",
            json!({"value": total, "budget": 1280, "holds": holds}),
            &verdict(holds, "at most 1280 MiB"),
        );
        Ok(())
    }

    /// Import of the Debian image over HTTP beside `qemu-img convert` of a local copy to the same pool.
    fn import(&mut self, debian: &Path) -> Result<()> {
        let url = self.bed.publish(debian, "debian.qcow2")?;
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        let watch = PhaseWatch::start(&self.cluster, "dv")?;
        let local = self.bed.node().path("/var/tmp/bench.qcow2");
        std::fs::copy(debian, &local)?;
        for round in 0..3 {
            let name = format!("bench-import-{round}");
            self.cluster.apply(&data_volume(&name, &http_source(&url), "3Gi"))?;
            self.cluster.wait(("dv", &name), "/status/phase", &["Succeeded"], 300)?;
            ours.push(watch.between((&name, "ImportScheduled"), (&name, "Succeeded"))?);
            self.cluster.kubectl(&["delete", "dv", &name, "--wait=true", "--timeout=60s"])?;
            let script = include_str!("bench_convert.sh");
            let took =
                self.bed.node().exec(&["bash", "-c", script], Duration::from_secs(300))?.ok("qemu-img convert")?;
            theirs.push(took.trim().parse().with_context(|| format!("qemu-img's time: {took}"))?);
        }
        let _ = std::fs::remove_file(local);
        let ratio = median(&ours) / median(&theirs);
        let line = format!(
            "{:.0} ms, qemu-img convert {:.0} ms: ratio {ratio:.2}, {}",
            median(&ours),
            median(&theirs),
            verdict(ratio <= 1.1, "at most 1.1")
        );
        self.record(
            "import",
            json!({"ms": ours, "qemu_img_ms": theirs, "ratio": ratio, "budget": 1.1, "holds": ratio <= 1.1}),
            &line,
        );
        Ok(())
    }

    fn golden(&mut self, tiny: &Path) -> Result<()> {
        let url = self.bed.publish(tiny, "tiny.qcow2")?;
        self.cluster.apply(&data_volume("bench-golden", &http_source(&url), "64Mi"))?;
        self.cluster.wait(("dv", "bench-golden"), "/status/phase", &["Succeeded"], 120)?;
        Ok(())
    }

    fn clones(&mut self, guests: u32) -> Result<()> {
        for n in 0..guests {
            self.cluster.apply(&data_volume(&disk(n), "pvc: {namespace: default, name: bench-golden}", "64Mi"))?;
        }
        for n in 0..guests {
            self.cluster.wait(("dv", &disk(n)), "/status/phase", &["Succeeded"], 120)?;
        }
        let mut made = journal(self.bed, "volume made")?;
        made.retain(|entry| entry.get("FROM").is_some());
        let times = numbers(&made, "ELAPSED_MS");
        ensure!(times.len() >= guests as usize, "the journal tells of {} clones", times.len());
        let (line, mut value) = spread(&times);
        let holds = median(&times) <= 200.0;
        value["budget_ms"] = json!(200);
        value["holds"] = json!(holds);
        self.record("clone", value, &format!("{line}, {}", verdict(holds, "at most 200 ms")));
        Ok(())
    }

    /// VMI created -> domain running, one after another, each beside `virsh create` of the same XML.
    fn starts(&mut self, guests: u32) -> Result<()> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let watch = PhaseWatch::start(&self.cluster, "vmi")?;
        for n in 0..guests {
            let name = guest(n);
            self.cluster.apply(&vmi(&name, &disk(n)))?;
            self.cluster.wait(("vmi", &name), "/status/phase", &["Running"], 60)?;
            ours.push(watch.between((&name, ""), (&name, "Running"))?);
            theirs.extend(self.virsh_create(&[name])?);
        }
        self.beside_virsh("start", (&ours, &theirs), 50, 1000.0);
        self.stages(&ours)
    }

    /// What the time of those starts went to, by the agent's journal.
    fn stages(&mut self, ours: &[f64]) -> Result<()> {
        let mut started = journal(self.bed, "guest started")?;
        started.retain(|entry| entry.get("VM").is_some_and(|vm| text_of(vm).contains("bench-")));
        ensure!(started.len() >= ours.len(), "the journal tells of {} starts", started.len());
        let started = &started[started.len() - ours.len()..];
        let agent = numbers(started, "TOTAL_MS");
        let before: Vec<f64> = ours.iter().zip(&agent).map(|(all, agent)| (all - agent).max(0.0)).collect();
        let (line, value) = spread(&before);
        self.record("stage_created_to_bound_and_seen", value, &line);
        for stage in STAGES {
            let (line, value) = spread(&numbers(started, stage));
            self.record(&format!("stage_{}", stage.to_lowercase()), value, &line);
        }
        Ok(())
    }

    /// All guests created by one `kubectl apply`, each timed from the sight of the first, beside as many `virsh create`
    /// at the same time.
    fn starts_at_once(&mut self, guests: u32) -> Result<()> {
        self.cluster.kubectl(&["delete", "vmi", "-l", "furrow.io/test=bench", "--wait=true", "--timeout=120s"])?;
        let names: Vec<String> = (0..guests).map(guest).collect();
        let manifests: Vec<String> = names.iter().zip(0..).map(|(name, n)| vmi(name, &disk(n))).collect();
        let watch = PhaseWatch::start(&self.cluster, "vmi")?;
        let before = self.processor_time()?;
        self.cluster.apply(&manifests.join("\n---\n"))?;
        let mut ours = Vec::new();
        for name in &names {
            self.cluster.wait(("vmi", name), "/status/phase", &["Running"], 120)?;
        }
        let mut spent = self.processor_time()?;
        for (name, seconds) in &mut spent {
            *seconds = tenths(*seconds - before.get(name).copied().unwrap_or(0.0));
        }
        spent.retain(|_, seconds| *seconds >= 0.3);
        let line = spent.iter().map(|(name, seconds)| format!("{name} {seconds:.1}")).collect::<Vec<_>>().join(", ");
        self.record("start_at_once_processor_s", json!(spent), &line);
        for name in &names {
            ours.push(watch.between((&names[0], ""), (name, "Running"))?);
        }
        let theirs = self.virsh_create(&names)?;
        self.beside_virsh("start_at_once", (&ours, &theirs), 95, 2000.0);
        Ok(())
    }

    /// Records times of starts beside those of `virsh create`; the budget is how many milliseconds the percentile `p` of
    /// ours may be over theirs.
    fn beside_virsh(&mut self, name: &str, (ours, theirs): (&[f64], &[f64]), p: usize, budget: f64) {
        let ((line, mut value), (base_line, _)) = (spread(ours), spread(theirs));
        let (time, base) = (percentile(ours, p), percentile(theirs, p));
        let over = time - base;
        let holds = over <= budget;
        value["created_to_running_ms"] = json!(ours);
        value["virsh_create_ms"] = json!(theirs);
        value["over_ms"] = json!(over);
        value["budget_over_ms"] = json!(budget);
        value["holds"] = json!(holds);
        let line = format!(
            "{line}; virsh create {base_line}; ratio {:.2} and difference {over:.0} ms at p{p}, {}",
            time / base,
            verdict(holds, &format!("at most {budget:.0} ms over")),
        );
        self.record(name, value, &line);
    }

    /// Starts second domains from the XML of these guests, all at the same time, and destroys them again.
    fn virsh_create(&self, names: &[String]) -> Result<Vec<f64>> {
        let mut words = vec!["bash", "-c", include_str!("bench_virsh.sh"), "bench"];
        words.extend(names.iter().map(String::as_str));
        let text = self.bed.node().exec(&words, Duration::from_secs(300))?.ok("virsh create")?;
        let times: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ensure!(
            times.len() == names.len(),
            "virsh create told {} times for {} guests: {text}",
            times.len(),
            names.len()
        );
        Ok(times)
    }

    fn loaded_memory(&mut self, guests: u32) -> Result<()> {
        self.print_memory("loaded")?;
        let text = self.report["memory_loaded_mib"].clone();
        let idle = self.report["memory_idle_mib"].clone();
        let sum = |v: &Value| {
            ["furrow-agent", "furrow-control", "libvirtd", "ovs-vswitchd", "ovsdb-server"]
                .iter()
                .map(|k| v[*k].as_f64().unwrap_or(0.0))
                .sum::<f64>()
        };
        let each = (sum(&text) - sum(&idle)) / f64::from(guests);
        let line = format!("{each:.1} MiB, {}", verdict(each <= 5.0, "at most 5 MiB"));
        self.record("memory_per_vm_beside_qemu_mib", json!({"value": each, "budget": 5, "holds": each <= 5.0}), &line);
        for (name, budget) in [("furrow-agent", 60.0), ("furrow-control", 120.0)] {
            let mib = idle[name].as_f64().unwrap_or(0.0);
            self.record(
                &format!("{name}_idle"),
                json!({"value": mib, "budget": budget, "holds": mib <= budget}),
                &format!("{mib:.0} MiB, {}", verdict(mib <= budget, &format!("at most {budget:.0} MiB"))),
            );
        }
        Ok(())
    }

    fn clean_up(&self) {
        for kind in ["vmi", "dv"] {
            let _ =
                self.cluster.kubectl(&["delete", kind, "-l", "furrow.io/test=bench", "--wait=true", "--timeout=80s"]);
        }
    }
}

fn verdict(holds: bool, budget: &str) -> String {
    format!("budget {budget}: {}", if holds { "holds" } else { "DOES NOT HOLD" })
}

fn guest(n: u32) -> String {
    format!("bench-{n}")
}

fn disk(n: u32) -> String {
    format!("bench-disk-{n}")
}

fn data_volume(name: &str, source: &str, size: &str) -> String {
    guests::data_volume("bench", name, source, size)
}

fn vmi(name: &str, disk: &str) -> String {
    include_str!("../manifests/bench/vmi.yaml").replace("${NAME}", name).replace("${DISK}", disk)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The agent's journal entries with this message since the node's boot, oldest first.
fn journal(bed: &Testbed, message: &str) -> Result<Vec<Value>> {
    let line = format!("journalctl -b -u furrow-agent -o json --no-pager MESSAGE='{message}'");
    let text = bed.node().shell(&line)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Values of a field, of the entries that have it.
fn numbers(entries: &[Value], field: &str) -> Vec<f64> {
    entries.iter().filter_map(|entry| text_of(entry.get(field)?).parse().ok()).collect()
}

/// Median and 95th percentile, for a line and for the JSON.
fn spread(times: &[f64]) -> (String, Value) {
    let (mid, high) = (median(times), percentile(times, 95));
    (format!("median {mid:.0} ms, p95 {high:.0} ms"), json!({"median_ms": mid, "p95_ms": high, "n": times.len()}))
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// Nearest-rank percentile; 0 of nothing.
fn percentile(values: &[f64], p: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * p).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}
