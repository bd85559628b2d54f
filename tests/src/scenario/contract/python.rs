//! The Python client as the field report uses it, through `kubectl proxy`: a program of its own (`tests/clients/python`),
//! whose cases become checks.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Story;
use crate::host;
use crate::scenario::{Checks, guests};

const PROGRAM: &str = "tests/clients/python/field_report.py";

/// Two guests' lives on two busy cores.
const LIMIT: Duration = Duration::from_secs(1200);

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let mut said = None;
    story.check(checks, "python: the client's program runs to its end", || {
        let out = program(story)?;
        let ended = out.stdout.lines().any(|line| line == "end");
        let whole = format!("{}\n{}", out.stdout, out.stderr);
        said = Some(out.stdout);
        ensure!(ended, "it broke off: {}", host::tail(&whole, 1500));
        Ok(())
    });
    for line in said.unwrap_or_default().lines() {
        let Some((verdict, case)) = line.split_once(' ') else { continue };
        if !["ok", "FAIL", "later"].contains(&verdict) {
            continue;
        }
        let (name, why) = case.split_once(": ").unwrap_or((case, ""));
        story.check(checks, &format!("python: {name}"), || match verdict {
            "ok" => Ok(()),
            "later" => {
                println!("         not carried out yet: {why}");
                Ok(())
            }
            _ => bail!("{why}"),
        });
    }
    story.check(checks, "python: its VM is deleted", || story.delete("by-python"));
}

fn program(story: &Story<'_>) -> Result<host::Output> {
    // Its manifest as the cluster's own kubectl reads it: the client takes JSON.
    let manifest = guests::tiny("by-python", &story.tiny_source, "Halted");
    let json = story.cluster.kubectl_raw(&["create", "--dry-run=client", "-o", "json", "-f", "-"], &manifest)?;
    let json = json.ok("the manifest as JSON")?;
    let program = story.bed.layout().source.join(PROGRAM);
    let address = format!("http://{}", story.proxy.address());
    // Debian's own Python, whose package the client is.
    let argv = ["/usr/bin/python3", &program.display().to_string(), &address];
    host::run_with(&argv, &json, LIMIT).with_context(|| PROGRAM.to_owned())
}
