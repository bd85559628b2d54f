//! The bootstrap killed after each of its steps: the next start goes on, and the node comes out the same.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Checks;
use crate::host;
use crate::inject::ALLOW_LOOPS;
use crate::node_box::NodeBox;
use crate::testbed::Testbed;

/// One step of the bootstrap on two busy cores, the slowest (Ceph's OSD, k3s) included.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(240);

/// Waits until a box has booted.
pub(super) fn booted(node: &NodeBox) -> Result<()> {
    host::until("the box to have booted", Duration::from_secs(60), || {
        let state = node.exec(&["systemctl", "is-system-running"], Duration::from_secs(10))?.stdout;
        ensure!(["running", "degraded"].contains(&state.trim()), "it is {}", state.trim());
        Ok(())
    })
}

/// Runs the bootstrap until it kills itself after this step, before the step is recorded.
pub(super) fn killed_after(node: &NodeBox, step: &str) -> Result<()> {
    let crash = format!("FURROW_CRASH_AFTER={step}");
    let out = node.exec(&["env", &crash, ALLOW_LOOPS, "furrow-install", "bootstrap"], STEP_TIMEOUT)?;
    ensure!(out.code == 137, "it exited with {} instead: {} {}", out.code, out.stdout, out.stderr);
    Ok(())
}

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let node = bed.node();
    checks.require("a box with the bootstrap held back is on", || {
        bed.hold_bootstrap()?;
        bed.power_on()?;
        booted(node)
    })?;
    let plan = node.shell(&format!("{ALLOW_LOOPS} furrow-install plan --names"))?;
    let steps: Vec<String> = plan.lines().map(str::to_owned).collect();
    checks.require("the plan names its steps", || {
        ensure!(steps.len() >= 5, "the plan has {} steps: {plan}", steps.len());
        Ok(())
    })?;
    for step in &steps {
        checks
            .require(&format!("killed right after step {step}, before it is recorded"), || killed_after(node, step))?;
    }
    checks.require("the last start finds everything done and the node ready", || {
        let started = Instant::now();
        node.shell("systemctl start --no-block furrow-bootstrap")?;
        bed.wait_ready(started).context("after the kills")?;
        let nodes = bed.cluster().list("nodes")?;
        ensure!(nodes.len() == 1, "{} nodes", nodes.len());
        let osds = node.shell("ceph osd ls")?;
        ensure!(osds.trim() == "0", "OSDs: {osds}");
        Ok(())
    })?;
    checks.check("a second run changes nothing and is quick", || {
        let started = Instant::now();
        node.shell(&format!("{ALLOW_LOOPS} furrow-install bootstrap"))?;
        ensure!(started.elapsed() < Duration::from_secs(20), "it took {} s", started.elapsed().as_secs());
        Ok(())
    });
    let k3s_pid = || node.shell("systemctl show --value -p MainPID k3s");
    checks.check("the daily renewal leaves certificates alone that live long", || {
        let before = (k3s_pid()?, node.shell("cat /var/lib/furrow/pki/agent.crt")?);
        node.shell("systemctl start furrow-renew.service")?;
        ensure!(before == (k3s_pid()?, node.shell("cat /var/lib/furrow/pki/agent.crt")?), "something was renewed");
        Ok(())
    });
    checks.check("a configuration that changed restarts Kubernetes, once", || {
        let before = k3s_pid()?;
        node.shell("echo 'kubernetes: {tlsSans: [api.furrow.test]}' >> /etc/furrow/node.yaml")?;
        node.shell(&format!("{ALLOW_LOOPS} furrow-install bootstrap"))?;
        let after = k3s_pid()?;
        ensure!(after != before, "k3s runs as process {before} still");
        node.shell(&format!("{ALLOW_LOOPS} furrow-install bootstrap"))?;
        ensure!(k3s_pid()? == after, "a second run restarted k3s again");
        Ok(())
    });
    Ok(())
}
