//! `furrow-install reset`: the machine becomes blank again. Its OSDs and the disk that it runs from are erased, by name and
//! after the node's name was typed; then it restarts, and firmware finds nothing but the medium or the network.
//!
//! ```text
//!  facts ─> plan, or every reason against it ─> shown, confirmed ─> mark (on the state partition, synced)
//!    ─> furrow-reset.service, now and at each start while the mark is there: services off, OSDs, boot entry, table, restart
//! ```
//! The mark holds what was confirmed, so that a start after a power cut erases that and nothing else. It goes with the disk
//! that it is on. Refuses to take a node out of a cluster: that is `node remove`, on another server. Removes signatures, not
//! content: a disk that leaves the house is to be erased by its own means.

mod erase;
mod execute;
mod observe;
mod plan;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::plan::Mark;
pub(crate) use self::plan::{Plan, Refusal};
use crate::files;
use crate::removal::is_confirmed;
use crate::steps::{self, Node, STATE, StepError};

/// Executes the steps; it runs before what they stop, wherever the mark is there.
const UNIT: &str = "furrow-reset.service";

/// How a node is to be reset.
#[derive(clap::Args)]
pub(crate) struct Reset {
    /// Print what would be erased and stop.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for the node's name.
    #[arg(long)]
    yes: bool,
    /// Erase it also where no server answers whether other nodes count on it: what only this node held is lost, and the
    /// others keep its OSDs, its votes and its Node until one of them runs `furrow node remove NAME --dead`.
    #[arg(long)]
    leave_cluster_behind: bool,
}

/// Plans, asks and begins. Says whether that was possible; why not has been printed.
///
/// # Errors
/// When this node cannot be looked at, the name was not typed, or the mark cannot be written.
pub(crate) async fn run(node: &Node, reset: &Reset) -> Result<bool> {
    let name = &node.config.hostname;
    if has_begun() {
        println!("{name} is being reset already: it goes on by itself (journalctl --unit {UNIT})");
        if !reset.dry_run {
            start().await?;
        }
        return Ok(true);
    }
    let planned = Box::pin(plan(node, reset.leave_cluster_behind)).await;
    let plan = match planned.with_context(|| format!("could not see how {name} is"))? {
        Ok(plan) => plan,
        Err(refusals) => {
            eprintln!("{name} is not reset:");
            refusals.iter().for_each(|refusal| eprintln!("  - {refusal}"));
            return Ok(false);
        }
    };
    plan.lines().iter().for_each(|line| println!("{line}"));
    if reset.dry_run {
        return Ok(true);
    }
    ensure!(reset.yes || is_confirmed(name)?, "that is not the node's name: nothing was done");
    let begun = begin(node, &plan, reset.leave_cluster_behind).await?;
    ensure!(begun, "{name} is not as it was shown any more: nothing was done");
    println!(
        "{name} is being erased and restarts by itself, also after a power cut (journalctl --follow --unit {UNIT})"
    );
    Ok(true)
}

/// The plan for this node, or every reason against it.
///
/// # Errors
/// When its disks or records cannot be read.
pub(crate) async fn plan(node: &Node, leave_cluster_behind: bool) -> Result<Result<Plan, Vec<Refusal>>, StepError> {
    let facts = Box::pin(observe::facts(node)).await?;
    Ok(plan::plan(facts, leave_cluster_behind))
}

/// Notes what was confirmed, on stable storage, and starts to execute it, if the node still is as it was shown. Says whether
/// it is; then there is no way back.
///
/// # Errors
/// When the node cannot be looked at, the mark cannot be written, or systemd does not answer: then nothing was done.
pub(crate) async fn begin(node: &Node, shown: &Plan, leave_cluster_behind: bool) -> Result<bool, StepError> {
    match Box::pin(plan(node, leave_cluster_behind)).await? {
        Ok(now) if now.mark == shown.mark => {}
        _ => return Ok(false),
    }
    let state = Path::new(STATE);
    save(state, &shown.mark)?;
    if let Err(error) = start().await {
        // Who is told that it failed must not find the machine erased at a later start.
        take_back(state)?;
        return Err(error);
    }
    Ok(true)
}

fn take_back(state: &Path) -> Result<(), StepError> {
    let gone = files::remove(&path(state)).and_then(|_| std::fs::File::open(state)?.sync_all());
    gone.map_err(steps::file_error("take back", &path(state)))
}

/// Whether a reset has begun on this node.
pub(crate) fn has_begun() -> bool {
    path(Path::new(STATE)).exists()
}

/// Lets the unit go on, unless it is at it.
async fn start() -> Result<(), StepError> {
    steps::systemctl(&["start", "--no-block", UNIT]).await.map(|_| ())
}

/// Executes what was confirmed, from its first step: what is done already is found to be. The unit's affair.
///
/// # Errors
/// When none has begun, or a step failed; the unit tries again.
pub(crate) async fn go_on() -> Result<()> {
    let state = Path::new(STATE);
    let mark = load(state)?.context("no reset has begun on this node")?;
    let begun = Instant::now();
    let say = |text: &str| {
        println!("reset [{:5.1} s] {text}", begun.elapsed().as_secs_f64());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(text)]);
    };
    for step in plan::steps(&mark) {
        say(&format!("{}: {step}", step.name()));
        let done = Box::pin(execute::step(state, &step, &say)).await;
        done.with_context(|| format!("step {} failed; it is tried again", step.name()))?;
        say(&format!("{}: done", step.name()));
    }
    Ok(())
}

fn path(state: &Path) -> PathBuf {
    state.join("reset")
}

/// The mark; None where no reset has begun.
fn load(state: &Path) -> Result<Option<Mark>, StepError> {
    let path = path(state);
    files::record(&path).map_err(steps::file_error("read", &path))
}

fn save(state: &Path, mark: &Mark) -> Result<(), StepError> {
    let path = path(state);
    let text = serde_json::to_vec_pretty(mark).map_err(|e| steps::file_error("write", &path)(e.into()))?;
    files::replace(&path, &text, 0o600).map_err(steps::file_error("write", &path))
}

#[cfg(test)]
mod tests {
    use super::plan::Osd;
    use super::*;

    #[test]
    fn what_was_confirmed_is_found_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("none yet"), None);
        let osd = |uuid: &str| Osd { uuid: uuid.into(), disk: "/dev/vdb (12 GB): osd.0".into() };
        let mut mark = Mark { node: "n1".into(), system: "/dev/vda".into(), osds: vec![osd("u"), osd("v")] };
        save(dir.path(), &mark).expect("saved");
        mark.osds.remove(0);
        save(dir.path(), &mark).expect("saved again");
        assert_eq!(load(dir.path()).expect("there"), Some(mark));
        std::fs::write(path(dir.path()), "{").expect("written");
        assert!(load(dir.path()).is_err(), "a broken mark erases nothing");
    }
}
