//! `furrow-install node`: a node leaves the cluster, or a worker becomes a server. On a server, with the administrator's
//! kubeconfig and Ceph's.
//!
//! ```text
//!  observe ──> plan (steps, or every reason against it) ──> shown, confirmed ──> executed step by step
//! ```
//! Nothing is kept between runs: one that was stopped is run again, observes what is left, and goes on there. Refuses to
//! reach into the node itself: that learns from its mark in the cluster (`membership`) that it is to stop.

mod drain;
mod etcd;
mod execute;
mod facts;
mod guests;
mod observe;
mod plan;
#[cfg(test)]
mod plan_tests;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::execute::Run;
use self::plan::{Allowed, Plan, Step};
use crate::steps::{Node, crash};
use crate::tokens;

/// How a node is to be removed.
#[derive(clap::Args)]
pub(crate) struct Removal {
    /// The node's name.
    name: String,
    /// Print the plan and stop.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for the node's name again.
    #[arg(long)]
    yes: bool,
    /// Stop its guests; their VMs start them anew on other nodes.
    #[arg(long)]
    stop_guests: bool,
    /// The node is switched off and does not come back: its data is copied anew from the other copies.
    #[arg(long)]
    dead: bool,
    /// Keep fewer copies, two at least, where the hosts that remain are too few for as many as now.
    #[arg(long)]
    fewer_copies: bool,
    /// How long its OSDs may take to be emptied, such as 90m, 12h or 2d.
    #[arg(long, default_value = "7d", value_parser = tokens::parse_life)]
    timeout: Duration,
    /// Die by SIGKILL after this step: for tests.
    #[arg(long, hide = true)]
    crash_after: Option<String>,
}

/// Removes a node. Says whether that was possible; why not has been printed.
pub(crate) async fn remove(node: &Node, removal: &Removal) -> Result<bool> {
    let client = tokens::administrator().await?;
    let name = &removal.name;
    let observed = observe::facts(&client, node, name).await;
    let facts = observed.with_context(|| format!("could not see how {name} is"))?;
    let allowed = Allowed { stop_guests: removal.stop_guests, dead: removal.dead, fewer_copies: removal.fewer_copies };
    let plan = match plan::plan(&facts, allowed) {
        Ok(plan) => plan,
        Err(refusals) => {
            eprintln!("{name} is not removed:");
            refusals.iter().for_each(|refusal| eprintln!("  - {refusal}"));
            return Ok(false);
        }
    };
    show(name, &plan);
    if removal.dry_run {
        return Ok(true);
    }
    ensure!(removal.yes || is_confirmed(name)?, "that is not the node's name: nothing was done");
    let run = Run { node, client: &client, facts: &facts, drain_limit: removal.timeout };
    for step in &plan.steps {
        let begun = Instant::now();
        node.say(&format!("{}: {step}", step.name()));
        let done = Box::pin(run.execute(step)).await;
        done.with_context(|| format!("step {} failed; run it again to go on there", step.name()))?;
        node.say(&format!("{}: done in {:.1} s", step.name(), begun.elapsed().as_secs_f64()));
        crash(removal.crash_after.as_deref(), step.name());
    }
    println!("{name} is removed. Its disks still hold what they held: erase them before they go to others.");
    Ok(true)
}

fn show(name: &str, plan: &Plan) {
    println!("{name} leaves the cluster:");
    for (number, step) in plan.steps.iter().enumerate() {
        println!("{:2}. {:14} {step}", number + 1, step.name());
    }
    plan.warnings.iter().for_each(|warning| println!("warning: {warning}"));
}

/// Asks for the node's name once more.
pub(crate) fn is_confirmed(name: &str) -> Result<bool> {
    print!("Type the node's name to go on: ");
    std::io::stdout().flush()?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    Ok(typed.trim() == name)
}

/// Makes a worker a server.
pub(crate) async fn promote(node: &Node, name: &str) -> Result<()> {
    let client = tokens::administrator().await?;
    let nodes = observe::nodes(&client).await?;
    let worker = nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))?;
    ensure!(worker.is_ready, "{name} is not Ready: it could not become a server");
    let members = etcd::members(node.config.management.address).await?;
    let silent: Vec<&str> = members.iter().filter(|m| !m.answers && m.name != name).map(|m| m.name.as_str()).collect();
    ensure!(
        silent.is_empty(),
        "etcd takes no further member while one of its own does not answer: {}; remove that one first",
        silent.join(", ")
    );
    node.say(&format!("promote: {}", Step::Promote(name.to_owned())));
    execute::promote(node, &client, name).await.with_context(|| format!("{name} has not become a server"))?;
    println!("{name} is a server");
    Ok(())
}
