//! A node joins as an agent and another as a server, each killed after each of its steps; what must not join is refused.
//!
//! What a cluster of servers does when one of them fails is told in `cluster`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bootstrap::{STEP_TIMEOUT, booted, killed_after};
use super::{Checks, cluster};
use crate::host;
use crate::inject::{ALLOW_LOOPS, with_join};
use crate::node_box::NodeBox;
use crate::testbed::Testbed;

/// What only servers have.
const OF_SERVERS: [&str; 5] = [
    "/etc/ceph/ceph.client.admin.keyring",
    "/etc/rancher/k3s/k3s.yaml",
    "/var/lib/furrow/ca/ca.key",
    "/var/lib/furrow/control/pki/control.kubeconfig",
    "/var/lib/rancher/k3s/server/db",
];

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let [n1, n2, n3] = bed.nodes() else { bail!("the scenario needs three nodes") };
    checks.require("n1 makes a cluster", || bed.boot())?;
    let token = n1.shell("furrow-install token create --role agent --ttl 30m")?.trim().to_owned();
    checks.require("n2 boots with the bootstrap held back", || boot_held(bed, n2, token.clone()))?;
    refusals(bed, n2, &token, checks)?;
    killed_after_each(n2, checks)?;
    checks.require("n2 is ready after all that", || finish(bed, n2))?;
    agent(n2, checks);
    checks.check("pools keep a copy on each of the two hosts", || {
        host::until("two copies", Duration::from_secs(170), || {
            let pools = cluster::ceph(n1, "osd pool ls detail")?;
            let by_host = |p: &serde_json::Value| p["size"] == 2 && p["crush_rule"] != 0;
            ensure!(pools.as_array().is_some_and(|pools| pools.iter().all(by_host)), "{pools}");
            Ok(())
        })
    });
    let token = bed.token()?;
    checks.require("n3 boots with the bootstrap held back", || boot_held(bed, n3, token))?;
    // The cluster decides what it becomes, so that the plan ends with that question at first.
    for _ in 0..2 {
        killed_after_each(n3, checks)?;
    }
    checks.require("n3 is a server after all that", || {
        finish(bed, n3)?;
        cluster::monitors(n1, 2)
    })?;
    checks.check("an address that node.yaml does not name any more is given up", || {
        n1.shell("sed -i '/^  vip:/d' /etc/furrow/node.yaml")?;
        n1.exec(&["env", ALLOW_LOOPS, "furrow-install", "bootstrap"], STEP_TIMEOUT)?.ok("bootstrap")?;
        host::until("the address on n3", Duration::from_secs(30), || {
            let holders = cluster::vip_holders(bed)?;
            ensure!(holders == ["n3"], "it is on {holders:?}");
            Ok(())
        })
    });
    Ok(())
}

fn refusals(bed: &Testbed, node: &NodeBox, token: &str, checks: &mut Checks) -> Result<()> {
    let secret = token.rsplit('.').next().unwrap_or_default();
    checks.check("another cluster's token is refused before its secret is sent", || {
        let other = format!("K10{}{}", "0".repeat(64), token.get(67..).unwrap_or_default());
        let text = with_join(&node.shell("cat /etc/furrow/node.yaml")?, &bed.join_with(other));
        node.exec_with(&["sh", "-c", "cat > /run/other.yaml"], &text, Duration::from_secs(10))?;
        let argv = ["env", ALLOW_LOOPS, "furrow-install", "bootstrap", "--file", "/run/other.yaml"];
        let out = node.exec(&argv, STEP_TIMEOUT)?;
        ensure!(out.code != 0 && out.stderr.contains("not the one that the join token names"), "{}", out.stderr);
        Ok(())
    });
    checks.require("a token for agents makes no server", || {
        node.shell("sed -i '1i role: server' /etc/furrow/node.yaml")?;
        let out = node.exec(&["env", ALLOW_LOOPS, "furrow-install", "bootstrap"], STEP_TIMEOUT)?;
        ensure!(out.code != 0 && out.stderr.contains("make one with `--role server`"), "{} {}", out.code, out.stderr);
        node.shell("sed -i '1s/.*/role: agent/' /etc/furrow/node.yaml").map(|_| ())
    })?;
    checks.check("the plan says what the node becomes, and not the token", || {
        let plan = node.shell(&format!("{ALLOW_LOOPS} furrow-install plan"))?;
        ensure!(
            plan.contains("The node becomes: agent") && !plan.contains(secret),
            "{}",
            plan.replace(secret, "SECRET")
        );
        Ok(())
    });
    Ok(())
}

fn agent(node: &NodeBox, checks: &mut Checks) {
    checks.check("an agent holds nothing of the control plane", || {
        for path in OF_SERVERS {
            let out = node.exec(&["test", "-e", path], Duration::from_secs(10))?;
            ensure!(out.code == 1, "{path} is there");
        }
        ensure!(
            !node.shell("cat /var/lib/furrow/join/joined.json")?.contains("::server:"),
            "a server's token is there"
        );
        Ok(())
    });
    checks.check("its status is well", || {
        let status = node.exec(&["furrow-install", "status"], Duration::from_secs(60))?;
        ensure!(status.code == 0 && status.stdout.contains("n2 (agent) is Ready"), "{}", status.stdout);
        Ok(())
    });
    checks.check("a renewal leaves its certificate alone, and a lost one is made anew", || {
        let read = || node.shell("cat /var/lib/furrow/pki/agent.crt");
        let before = read()?;
        node.shell("systemctl start furrow-renew.service")?;
        ensure!(before == read()?, "it was renewed");
        node.shell("rm /var/lib/furrow/pki/agent.crt && furrow-install renew")?;
        ensure!(before != read()?, "it is the same");
        Ok(())
    });
}

fn boot_held(bed: &Testbed, node: &NodeBox, token: String) -> Result<()> {
    node.hold("furrow-bootstrap.service")?;
    node.start(bed.lan(), Some(&bed.join_with(token)))?;
    booted(node)
}

fn finish(bed: &Testbed, node: &NodeBox) -> Result<()> {
    let started = Instant::now();
    node.shell("systemctl start --no-block furrow-bootstrap")?;
    bed.wait_node(node, started).context("after the kills")
}

/// Runs the bootstrap once for each step that the plan names now, and kills it there.
fn killed_after_each(node: &NodeBox, checks: &mut Checks) -> Result<()> {
    let plan = node.shell(&format!("{ALLOW_LOOPS} furrow-install plan --names"))?;
    for step in plan.lines() {
        checks.require(&format!("{} killed right after step {step}, before it is recorded", node.name()), || {
            killed_after(node, step)
        })?;
    }
    Ok(())
}
