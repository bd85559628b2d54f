//! Clients as people use them, each a program of its own below `tests/clients` whose cases become checks: the Python client
//! with the field report's calls, through `kubectl proxy`, and kube-rs with the administrator's kubeconfig. A program reads
//! a VM that is stopped, as JSON, and prints `ok NAME`, `FAIL NAME: why` or `later NAME: what`, then `end`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Story;
use crate::host;
use crate::scenario::{Checks, guests};

/// Two guests' lives on two busy cores.
const LIMIT: Duration = Duration::from_secs(1200);

/// The Python client.
pub(super) fn python(story: &Story<'_>, checks: &mut Checks) {
    let program = story.bed.layout().source.join("tests/clients/python/field_report.py");
    let address = format!("http://{}", story.proxy.address());
    // Debian's own Python, whose package the client is.
    run(story, checks, "python", &["/usr/bin/python3", &text(&program), &address]);
}

/// kube-rs, in the program that `tests/testbed` builds.
pub(super) fn kube_rs(story: &Story<'_>, checks: &mut Checks) {
    let program = story.bed.layout().source.join("build/kube-client");
    let kubeconfig = format!("KUBECONFIG={}", story.cluster.kubeconfig().display());
    run(story, checks, "kube-rs", &["/usr/bin/env", &kubeconfig, &text(&program)]);
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(story: &Story<'_>, checks: &mut Checks, client: &str, argv: &[&str]) {
    let vm = format!("by-{client}");
    let mut said = None;
    story.check(checks, &format!("{client}: the client's program runs to its end"), || {
        let out = program(story, &vm, argv)?;
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
        story.check(checks, &format!("{client}: {name}"), || match verdict {
            "ok" => Ok(()),
            "later" => {
                println!("         not carried out yet: {why}");
                Ok(())
            }
            _ => bail!("{why}"),
        });
    }
    story.check(checks, &format!("{client}: its VM is deleted"), || story.delete(&vm));
}

fn program(story: &Story<'_>, vm: &str, argv: &[&str]) -> Result<host::Output> {
    // The manifest as the cluster's own kubectl reads it: the clients take JSON.
    let manifest = guests::tiny(vm, &story.tiny_source, "Halted");
    let json = story.cluster.kubectl_raw(&["create", "--dry-run=client", "-o", "json", "-f", "-"], &manifest)?;
    let json = json.ok("the manifest as JSON")?;
    host::run_with(argv, &json, LIMIT).with_context(|| argv.join(" "))
}
