//! Bringing a node to what its node.yaml says: the plan from node.yaml, disks and record, and its execution by one process at a
//! time.

use std::path::Path;

use anyhow::{Context, Result};
use furrow_host::block;

use crate::config::NodeConfig;
use crate::device::resolved;
use crate::join::Joined;
use crate::plan::{self, Membership, Step};
use crate::steps::{self, Node};
use crate::{disks, files, install, membership, network};

/// How to bootstrap.
pub(crate) struct Bootstrap {
    pub(crate) dry_run: bool,
    pub(crate) until: Option<String>,
    pub(crate) crash_after: Option<String>,
    pub(crate) allow_loops: bool,
}

impl Bootstrap {
    /// Plans and executes; twice where the cluster had to be asked what this node becomes.
    pub(crate) async fn execute(&self, config: NodeConfig) -> Result<()> {
        let node = Node::new(config);
        if let Some(reason) = membership::removed(&node.state) {
            anyhow::bail!(reason);
        }
        let mut done = 0;
        loop {
            let mut steps = steps_for(&node.config, self.allow_loops).await?;
            let is_open = matches!(steps.last(), Some(Step::Join { role: None, .. }));
            let end = self.until.as_ref().map(|last| steps.iter().position(|s| s.name() == *last));
            match end {
                Some(Some(end)) => steps.truncate(end + 1),
                Some(None) if !is_open => anyhow::bail!("no step `{}`", self.until.as_deref().unwrap_or_default()),
                Some(None) | None => {}
            }
            let steps = steps.get(done..).unwrap_or_default();
            for step in steps {
                println!("plan: {:17} {step}", step.name());
            }
            if self.dry_run {
                return Ok(());
            }
            network::trial::settled().await;
            install::end_interrupted().await?;
            execute(&node, steps, self.crash_after.as_deref()).await?;
            if !is_open || matches!(end, Some(Some(_))) {
                return Ok(());
            }
            done += steps.len();
        }
    }
}

/// Executes steps, unless another run is at it.
pub(crate) async fn execute(node: &Node, steps: &[Step], crash_after: Option<&str>) -> Result<()> {
    let lock = files::lock(&node.state).context("could not lock this node's steps")?;
    let _lock = lock.context("another furrow-install is at work on this node: see `systemctl status furrow-*`")?;
    let done = steps::run(node, steps, crash_after).await;
    done.map_err(|(step, error)| anyhow::Error::from(error).context(format!("step {step} failed")))
}

/// The whole plan; nothing is written before it is valid.
pub(crate) async fn steps_for(config: &NodeConfig, allow_loops: bool) -> Result<Vec<Step>> {
    let devices = block::list().await.context("could not list the disks")?;
    let selection = disks::choose(&devices, &config.ceph.disks, allow_loops, &resolved);
    // Before the first OSD a wrong selector is a mistake to correct; later a disk may have died, and the others must run.
    let has_osds = steps::any_made(Path::new(steps::STATE))?;
    for fault in selection.faults {
        anyhow::ensure!(has_osds, fault);
        eprintln!("warning: {fault}");
    }
    Ok(plan::plan(config, membership(config)?, selection.chosen))
}

/// How the node comes to its cluster: as it has been recorded, otherwise as node.yaml says.
fn membership(config: &NodeConfig) -> Result<Membership> {
    let joined = Joined::load(Path::new(steps::STATE)).context("could not read the record of joining")?;
    let Some(joined) = joined else {
        return Ok(config.join.as_ref().map_or(Membership::Founder, |_| Membership::Joiner(config.role)));
    };
    if config.role.is_some_and(|role| role != joined.role) {
        eprintln!("warning: this node has joined as {}, whatever node.yaml says now", joined.role.name());
    }
    Ok(Membership::Joined(joined.role))
}
