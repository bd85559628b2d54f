//! Scenarios: stories told against a running appliance, check by check.
//!
//! A check says what must be seen; a failed one says what was seen instead and where the logs are. Checks of a
//! scenario build on each other, so a failed *required* one ends it; others only count.

mod bad_input;
mod bootstrap;
mod cluster;
mod console;
mod contract;
mod crowd;
pub(crate) mod field_report;
mod growth;
pub(crate) mod guests;
mod joining;
mod journey;
mod kills;
mod leftovers;
mod outage;
mod pinned;
mod power_cuts;
mod pxe;
mod removal;
mod secure_boot;
mod text_interface;
mod updates;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::testbed::Testbed;

/// Counts and prints the checks of a run.
pub(crate) struct Checks {
    started: Instant,
    passed: u32,
    /// The line of each failure, told again at the end: what keeps only the end of a long output still says what failed.
    failures: Vec<String>,
}

impl Checks {
    fn new() -> Checks {
        Checks { started: Instant::now(), passed: 0, failures: Vec::new() }
    }

    /// Runs one check; a failure is printed and counted, and the scenario goes on.
    pub(crate) fn check(&mut self, what: &str, body: impl FnOnce() -> Result<()>) -> bool {
        let from = Instant::now();
        let result = body();
        let spent = from.elapsed().as_secs_f64();
        let at = self.started.elapsed().as_secs_f64();
        match &result {
            Ok(()) => {
                self.passed += 1;
                println!("[{at:6.1} s] ok    {what} ({spent:.1} s)");
            }
            Err(error) => {
                let failure = format!("[{at:6.1} s] FAIL  {what} ({spent:.1} s): {error:#}");
                println!("{failure}");
                self.failures.push(failure);
            }
        }
        result.is_ok()
    }

    /// Runs one check that the rest depends on.
    pub(crate) fn require(&mut self, what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.check(what, body) { Ok(()) } else { Err(anyhow!("the rest of the scenario needs `{what}`")) }
    }
}

/// Where a scenario plays, and its story.
enum Stage {
    /// So many boxes on a test LAN, made anew; the story switches them on.
    Boxes(u8, fn(&Testbed, &mut Checks) -> Result<()>),
    /// A whole machine, which the story makes.
    Machine(fn(&Path, &mut Checks) -> Result<()>),
}

const SCENARIOS: [(&str, Stage); 16] = [
    ("node", Stage::Boxes(1, field_report::node)),
    ("first-guest", Stage::Boxes(1, field_report::first_guest)),
    ("bootstrap", Stage::Boxes(1, bootstrap::run)),
    ("field-report", Stage::Boxes(1, field_report::run)),
    ("cluster", Stage::Boxes(3, cluster::run)),
    ("console", Stage::Boxes(1, console::run)),
    ("contract", Stage::Boxes(1, contract::run)),
    ("crowd", Stage::Boxes(1, crowd::run)),
    ("joining", Stage::Boxes(3, joining::run)),
    ("removal", Stage::Boxes(4, removal::run)),
    ("journey", Stage::Machine(|source, checks| journey::run_all(source, checks, false))),
    ("updates", Stage::Machine(|source, checks| journey::run_all(source, checks, true))),
    ("power-cuts", Stage::Machine(power_cuts::run)),
    ("secure-boot", Stage::Machine(secure_boot::run)),
    ("pxe", Stage::Machine(pxe::run_all)),
    ("text-interface", Stage::Machine(text_interface::run)),
];

/// Runs the named scenarios, all of them when none is named, and closes with the counts.
pub(crate) fn run(source: &Path, names: &[String], image: Option<&Path>, keep: bool) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        bail!("no scenario `{unknown}`; there are: {}", known.join(", "));
    }
    let mut checks = Checks::new();
    for (name, stage) in &SCENARIOS {
        if !names.is_empty() && !names.iter().any(|n| n == name) {
            continue;
        }
        println!("scenario {name}");
        let before = checks.failures.len();
        let (bed, result) = match stage {
            Stage::Machine(story) => (None, story(source, &mut checks)),
            Stage::Boxes(nodes, story) => {
                let bed = fresh(source, name, image, *nodes)?;
                let result = story(&bed, &mut checks);
                (Some(bed), result)
            }
        };
        if let Err(error) = &result {
            let failure = format!("scenario {name} ended early: {error:#}");
            println!("{failure}");
            // An error outside a check is a failure too.
            if checks.failures.len() == before {
                checks.failures.push(failure);
            }
        }
        if let Some(bed) = bed {
            clear(&bed, name, checks.failures.len() > before, keep)?;
        }
    }
    for failure in &checks.failures {
        println!("{failure}");
    }
    println!("{} passed, {} failed", checks.passed, checks.failures.len());
    if !checks.failures.is_empty() {
        bail!("{} checks failed", checks.failures.len());
    }
    Ok(())
}

/// New boxes for a scenario. Those that were left on would be taken as they are, on the image that they were started with.
fn fresh(source: &Path, scenario: &str, image: Option<&Path>, nodes: u8) -> Result<Testbed> {
    let name = format!("test/{scenario}");
    if let Ok(left) = Testbed::existing(source, &name) {
        left.down(false)?;
    }
    Testbed::new(source, &name, image, Some(nodes))
}

/// Removes a scenario's boxes. After a failure their journals are kept, and the boxes too if asked.
fn clear(bed: &Testbed, scenario: &str, failed: bool, keep: bool) -> Result<()> {
    for node in bed.nodes().iter().filter(|node| failed && node.leader().is_some()) {
        let path = bed.layout().source.join(format!("build/{scenario}-{}.journal", node.name()));
        match node.save_journal().and_then(|saved| Ok(std::fs::copy(saved, &path)?)) {
            Ok(_) => println!("the journal of {}: {}", node.name(), path.display()),
            Err(error) => println!("the journal of {} could not be read: {error:#}", node.name()),
        }
    }
    if failed && keep {
        println!("the boxes are left on: tests/testbed --name test/{scenario} exec bash -c ...");
        return Ok(());
    }
    bed.down(false).context("could not remove the scenario's boxes")
}
