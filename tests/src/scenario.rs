//! Scenarios: stories told against a running appliance, check by check.
//!
//! A check says what must be seen; a failed one says what was seen instead and where the logs are. Checks of a
//! scenario build on each other, so a failed *required* one ends it; others only count.

mod bad_input;
mod bootstrap;
pub(crate) mod field_report;
pub(crate) mod guests;
mod journey;
mod kills;
mod leftovers;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::appliance::Appliance;

/// Counts and prints the checks of a run.
pub(crate) struct Checks {
    started: Instant,
    passed: u32,
    failed: u32,
}

impl Checks {
    fn new() -> Checks {
        Checks { started: Instant::now(), passed: 0, failed: 0 }
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
                self.failed += 1;
                println!("[{at:6.1} s] FAIL  {what} ({spent:.1} s): {error:#}");
            }
        }
        result.is_ok()
    }

    /// Runs one check that the rest depends on.
    pub(crate) fn require(&mut self, what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.check(what, body) { Ok(()) } else { Err(anyhow!("the rest of the scenario needs `{what}`")) }
    }
}

/// Runs the named scenarios, all of them when none is named, and closes with the counts.
pub(crate) fn run(source: &Path, names: &[String], image: Option<&Path>, keep: bool) -> Result<()> {
    let all = ["node", "first-guest", "bootstrap", "field-report", "journey"];
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("no scenario `{unknown}`; there are: {}", all.join(", "));
    }
    let chosen: Vec<&str> = all.into_iter().filter(|n| names.is_empty() || names.iter().any(|m| m == n)).collect();
    let mut checks = Checks::new();
    for name in chosen {
        println!("scenario {name}");
        if name == "journey" {
            if let Err(error) = journey::run_all(source, &mut checks) {
                println!("scenario {name} ended early: {error:#}");
                checks.failed = checks.failed.max(1);
            }
            continue;
        }
        let bed = format!("test/{name}");
        // One that was left on would be taken as it is, on the image that it was started with.
        if let Ok(left) = Appliance::existing(source, &bed) {
            left.down(false)?;
        }
        let appliance = Appliance::new(source, &bed, image)?;
        let before = checks.failed;
        let result = match name {
            "node" => field_report::node(&appliance, &mut checks),
            "first-guest" => field_report::first_guest(&appliance, &mut checks),
            "bootstrap" => bootstrap::run(&appliance, &mut checks),
            _ => field_report::run(&appliance, &mut checks),
        };
        if let Err(error) = &result {
            println!("scenario {name} ended early: {error:#}");
            // An error outside a check is a failure too.
            checks.failed = checks.failed.max(before + 1);
        }
        if checks.failed > before {
            match appliance.node().save_journal() {
                Ok(path) => println!("the node's journal: {}", path.display()),
                Err(error) => println!("the node's journal could not be read: {error:#}"),
            }
            if keep {
                println!("the box is left on: tests/testbed --name test/{name} exec bash -c ...");
                continue;
            }
            let _ = std::fs::copy(
                appliance.layout().dir.join("n1/journal.log"),
                appliance.layout().source.join(format!("build/{name}.journal")),
            );
        }
        appliance.down(false).context("could not remove the scenario's boxes")?;
    }
    println!("{} passed, {} failed", checks.passed, checks.failed);
    if checks.failed > 0 {
        bail!("{} checks failed", checks.failed);
    }
    Ok(())
}
