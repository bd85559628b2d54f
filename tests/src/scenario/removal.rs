//! Nodes leave a cluster: the server that made it, emptied and replaced by a worker, then one that lost power for good.
//!
//! A guest whose disk holds a text runs on the first that leaves; what it says afterwards is what was to be kept. The
//! refusals come first: they must change nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::{ceph, clean, etcd_members};
use super::guests::{self, Images};
use super::{Checks, field_report};
use crate::cluster::{Cluster, condition, text_of};
use crate::host::{self, Output};
use crate::lan::H100;
use crate::node_box::NodeBox;
use crate::testbed::Testbed;

/// The guest.
const GUEST: &str = "kept";
/// A removal: the worker looks for its promotion every two minutes, and the node for its mark.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(1500);
/// What a refusal may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

struct Story<'a> {
    bed: &'a Testbed,
    cluster: Cluster,
}

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let [n1, n2, n3, n4] = bed.nodes() else { bail!("the scenario needs four nodes") };
    let tiny = Images::tiny(&bed.layout().source)?;
    let story = Story { bed, cluster: bed.cluster() };
    checks.require("three servers and a worker make a cluster", || assemble(&story))?;
    let source = guests::http_source(&bed.publish(&tiny, "tiny.qcow2")?);
    checks.require("the provider network comes up on all nodes", || {
        host::until("the bridges", Duration::from_secs(90), || {
            field_report::network_up(bed, &story.cluster)?;
            bed.nodes().iter().try_for_each(field_report::bridge_up)
        })
    })?;
    checks.require("a guest runs on n1 and writes to its disk", || guest_on_first(&story, &source))?;
    checks.require("the pool holds enough for its move to be seen", || {
        let fill = "rbd create volumes/ballast --size 256M && rbd bench volumes/ballast --io-type write --io-size 4M --io-total 256M";
        n2.exec(&["sh", "-c", fill], Duration::from_secs(180))?.ok("rbd bench").map(|_| ())
    })?;
    refusals(&story, (n2, n3), checks)?;
    checks.require("a removal that was stopped in the middle", || {
        let out = remove(n2, "n1", &["--stop-guests", "--yes", "--crash-after", "evict-pods"])?;
        ensure!(out.code == 128 + 9, "it ended with {}: {} {}", out.code, out.stdout, out.stderr);
        show(&out);
        Ok(())
    })?;
    checks.require("goes on when it is run again, and n1 is removed", || {
        let out = remove(n2, "n1", &["--stop-guests", "--yes"])?;
        show(&out);
        ensure!(out.code == 0, "{}", out.stderr);
        ensure!(out.stdout.contains(" placement groups and "), "no progress of the OSDs was shown");
        Ok(())
    })?;
    // The kubeconfig was n1's; it holds for every server.
    checks.require("n4 was promoted: etcd and the monitors are n2, n3 and n4", || {
        host::until("the servers", Duration::from_secs(60), || servers(n2, &["n2", "n3", "n4"]))
    })?;
    checks.check("Kubernetes and Ceph know n1 no more", || unknown(&story, n2, "n1"));
    checks.check("three copies of everything, all clean", || {
        ensure!(ceph(n2, "osd pool get volumes size")?["size"] == 3, "the pool's size changed");
        host::until("the placement groups", Duration::from_secs(240), || clean(n2))
    });
    checks.check("the promoted node is well, in its own words", || {
        host::until("its words", Duration::from_secs(180), || well(n4, "n4 (server) is Ready"))
    });
    checks.check("the guest runs elsewhere, with its address and its text", || guest_kept(&story));
    checks.check("n1 says that it was removed, and nothing of the cluster runs there", || retired(n1));
    checks.check("n1 stays out when it is switched on again", || {
        n1.power_cut(bed.lan());
        n1.start(bed.lan(), None)?;
        stays_out(&story, n2, n1)
    });
    n1.halt(bed.lan());
    lost(&story, (n2, n3, n4), checks)?;
    checks.require("n1, installed anew with a token, is a server again", || {
        n1.remove(bed.lan())?;
        let started = Instant::now();
        n1.start(bed.lan(), Some(&bed.join_with(bed.token_of(n2)?)))?;
        bed.wait_node(n1, started)?;
        host::until("the servers", Duration::from_secs(120), || servers(n2, &["n1", "n2", "n4"]))
    })?;
    Ok(())
}

fn assemble(story: &Story<'_>) -> Result<()> {
    let (bed, started) = (story.bed, Instant::now());
    bed.power_on()?;
    bed.wait_ready(started)?;
    for node in &bed.nodes()[1..] {
        node.start(bed.lan(), Some(&bed.join_with(bed.token()?)))?;
        bed.wait_node(node, started)?;
    }
    host::until("the servers", Duration::from_secs(60), || servers(bed.node(), &["n1", "n2", "n3"]))?;
    host::until("three copies", Duration::from_secs(180), || {
        let size = ceph(bed.node(), "osd pool get volumes size")?["size"].clone();
        ensure!(size == 3, "the pool's size is {size}");
        clean(bed.node())
    })
}

/// Starts the guest on this node; the others are closed to it meanwhile, so that it is not pinned.
fn guest_on(story: &Story<'_>, home: &str, others: &[&str], begin: impl FnOnce() -> Result<String>) -> Result<()> {
    let close = |verb: &str| story.cluster.kubectl(&[&[verb], others].concat());
    close("cordon")?;
    let begun = begin();
    let started = host::until("the guest", Duration::from_secs(240), || {
        let vmi = story.cluster.get("vmi", GUEST)?;
        ensure!(vmi["status"]["phase"] == "Running" && vmi["status"]["nodeName"] == home, "{}", vmi["status"]);
        Ok(())
    });
    close("uncordon")?;
    begun?;
    started
}

fn guest_on_first(story: &Story<'_>, source: &str) -> Result<()> {
    let begin = || story.cluster.apply(&guests::tiny(GUEST, source, "Always"));
    guest_on(story, "n1", &["n2", "n3", "n4"], begin)?;
    let address = guests::address(&story.cluster, GUEST)?;
    guests::facts(story.bed, H100, address, 180)?;
    let answer = guests::ask(story.bed, H100, address, "write a-text-that-stays")?;
    ensure!(answer == "OK", "the answer is `{answer}`");
    Ok(())
}

fn guest_kept(story: &Story<'_>) -> Result<()> {
    let before = guests::ip_object(&story.cluster, GUEST)?;
    let vmi = story.cluster.wait(("vmi", GUEST), "/status/phase", &["Running"], 240)?;
    let home = text_of(&vmi["status"]["nodeName"]);
    ensure!(home != "n1", "it is on n1");
    let facts = guests::facts(story.bed, H100, before, 240)?;
    println!("         on {home}, {before}, its disk says `{}`", text_of(&facts["marker"]));
    ensure!(text_of(&facts["marker"]) == "a-text-that-stays", "{facts}");
    Ok(())
}

fn remove(server: &NodeBox, name: &str, options: &[&str]) -> Result<Output> {
    server.exec(&[&["furrow", "node", "remove", name], options].concat(), REMOVE_TIMEOUT)
}

fn show(out: &Output) {
    out.stdout.lines().for_each(|line| println!("         | {line}"));
}

fn refusals(story: &Story<'_>, (n2, n3): (&NodeBox, &NodeBox), checks: &mut Checks) -> Result<()> {
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("a node that is not there", "n9", &[], "there is no node n9"),
        ("the node that is asked", "n2", &[], "run it on another server"),
        ("a node with a guest", "n1", &[], "--stop-guests to stop them and start them anew elsewhere: default/kept"),
        ("a node that lives, as a dead one", "n1", &["--dead", "--stop-guests"], "n1 lives"),
        ("a name that is typed wrongly", "n1", &["--stop-guests"], "nothing was done"),
    ];
    for (what, name, options, expected) in cases {
        checks.check(&format!("{what} is refused with the reason"), || {
            let out = remove(n2, name, options)?;
            ensure!(out.code == 1 && out.stderr.contains(expected), "{}: {} {}", out.code, out.stdout, out.stderr);
            println!("         {}", out.stderr.trim().lines().last().unwrap_or_default());
            Ok(())
        });
    }
    checks.check("the plan is shown and nothing is done", || {
        let out = remove(n2, "n1", &["--stop-guests", "--dry-run"])?;
        show(&out);
        ensure!(out.code == 0 && out.stdout.contains("make n4 a server"), "{} {}", out.stdout, out.stderr);
        let node = story.cluster.get("node", "n1")?;
        ensure!(node["spec"]["unschedulable"] != true, "n1 is cordoned");
        servers(n2, &["n1", "n2", "n3"])
    });
    checks.require("while another server is off, the quorum refuses", || {
        n3.power_cut(story.bed.lan());
        let out = remove(n2, "n1", &["--stop-guests", "--yes"])?;
        let expected = "etcd would lose the quorum: 1 of the 2 that remain do not answer (n3)";
        ensure!(out.code == 1 && out.stderr.contains(expected), "{}: {} {}", out.code, out.stdout, out.stderr);
        println!("         {}", out.stderr.trim().replace('\n', "\n         "));
        let started = Instant::now();
        n3.start(story.bed.lan(), None)?;
        story.bed.wait_node(n3, started)?;
        host::until("the servers", Duration::from_secs(120), || servers(n2, &["n1", "n2", "n3"]))?;
        host::until("the placement groups", Duration::from_secs(240), || clean(n2))
    })
}

/// etcd's voters, the monitors in quorum and the Ready servers of Kubernetes are these.
fn servers(node: &NodeBox, wanted: &[&str]) -> Result<()> {
    let mut voters: Vec<String> = Vec::new();
    for member in etcd_members(node)? {
        ensure!(member["isLearner"] != true, "a learner: {member}");
        voters.push(text_of(&member["name"]));
    }
    voters.sort();
    ensure!(voters == wanted, "etcd: {voters:?}");
    let quorum = ceph(node, "quorum_status")?;
    let names = |list: &Value| {
        let mut names: Vec<String> = list.as_array().into_iter().flatten().map(text_of).collect();
        names.sort();
        names
    };
    ensure!(names(&quorum["quorum_names"]) == wanted, "monitors in quorum: {}", quorum["quorum_names"]);
    let list = node.shell("kubectl get nodes -l node-role.kubernetes.io/control-plane -o json")?;
    let list: Value = serde_json::from_str(&list).context("kubectl's JSON of nodes")?;
    let nodes = list["items"].as_array().into_iter().flatten();
    let ready = nodes.filter(|node| condition(node, "Ready").is_some_and(|ready| ready["status"] == "True"));
    let mut ready: Vec<String> = ready.map(|node| text_of(&node["metadata"]["name"])).collect();
    ready.sort();
    ensure!(ready == wanted, "Ready servers: {ready:?}");
    Ok(())
}

/// Nothing in the cluster names the node any more, but for its mark.
fn unknown(story: &Story<'_>, server: &NodeBox, name: &str) -> Result<()> {
    let nodes = story.cluster.list("nodes")?;
    ensure!(nodes.iter().all(|node| node["metadata"]["name"] != name), "the Node is there");
    let tree = ceph(server, "osd tree")?;
    ensure!(!tree.to_string().contains(&format!("\"{name}\"")), "{tree}");
    let keys = server.shell("ceph auth ls")?;
    ensure!(!keys.contains(&format!("mgr.{name}\n")), "the manager's key is there");
    let requests = story.cluster.kubectl(&["get", "csr", "-o", "jsonpath={.items[*].spec.username}"])?;
    let user = format!("system:node:{name}");
    ensure!(!requests.split_whitespace().any(|known| known == user), "requests: {requests}");
    Ok(())
}

fn well(node: &NodeBox, words: &str) -> Result<()> {
    let out = node.exec(&["furrow", "status"], ASK_TIMEOUT)?;
    ensure!(out.code == 0 && out.stdout.contains(words), "{}", out.stdout);
    Ok(())
}

/// The node knows that it was removed, and holds nothing that would let it come back.
fn retired(node: &NodeBox) -> Result<()> {
    host::until("the node to notice", Duration::from_secs(180), || {
        let out = node.exec(&["furrow", "status"], ASK_TIMEOUT)?;
        let said = out.stdout.contains("this node was removed from the cluster");
        ensure!(out.code == 1 && said, "{}: {}", out.code, out.stdout);
        println!("         {}", out.stdout.trim());
        Ok(())
    })?;
    host::until("its services to end", Duration::from_secs(120), || {
        for unit in ["k3s", "k3s-agent", "furrow-agent", "furrow-control", "keepalived", "ceph-mon@*", "ceph-osd@*"] {
            let list =
                node.shell(&format!("systemctl list-units --plain --no-legend --state=active '{unit}.service'"))?;
            ensure!(list.trim().is_empty(), "{}", list.trim());
        }
        let keys = "ls /etc/ceph/*.keyring /var/lib/furrow/ca /var/lib/rancher/k3s/server/tls 2>/dev/null | wc -l";
        ensure!(node.shell(keys)?.trim() == "0", "it still has keys");
        Ok(())
    })
}

/// For longer than a bootstrap takes, and the two minutes between two looks.
fn stays_out(story: &Story<'_>, server: &NodeBox, node: &NodeBox) -> Result<()> {
    let from = Instant::now();
    retired(node)?;
    while from.elapsed() < Duration::from_secs(150) {
        let members = etcd_members(server)?;
        ensure!(members.iter().all(|member| member["name"] != node.name()), "etcd: {members:?}");
        let nodes = story.cluster.list("nodes")?;
        ensure!(nodes.iter().all(|known| known["metadata"]["name"] != node.name()), "its Node is there");
        ensure!(!server.shell("ceph mon dump")?.contains(&format!("mon.{}\n", node.name())), "its monitor is there");
        std::thread::sleep(Duration::from_secs(10));
    }
    retired(node)
}

/// A server that loses power for good, and is switched on after all.
fn lost(story: &Story<'_>, (n2, n3, n4): (&NodeBox, &NodeBox, &NodeBox), checks: &mut Checks) -> Result<()> {
    checks.require("the guest moves to n3, by a stop and a start", || {
        let vmi = story.cluster.get("vmi", GUEST)?;
        if vmi["status"]["nodeName"] == "n3" {
            return Ok(());
        }
        let begin = || story.cluster.kubectl(&["delete", "vmi", GUEST, "--wait=true", "--timeout=80s"]);
        guest_on(story, "n3", &["n2", "n4"], begin)?;
        guest_kept(story)
    })?;
    checks.require("a server without power is not taken for dead by itself", || {
        n3.power_cut(story.bed.lan());
        // It may have held the controllers' lease.
        host::until("n3 to be NotReady", Duration::from_secs(240), || {
            let node = story.cluster.get("node", "n3")?;
            let ready = condition(&node, "Ready").context("no condition Ready")?;
            ensure!(ready["status"] != "True", "it is Ready");
            Ok(())
        })?;
        let out = remove(n2, "n3", &["--yes"])?;
        ensure!(out.code == 1 && out.stderr.contains("--dead"), "{}: {} {}", out.code, out.stdout, out.stderr);
        println!("         {}", out.stderr.trim().lines().last().unwrap_or_default());
        Ok(())
    })?;
    checks.require("with --dead it is removed, with a word about what is worse", || {
        // Until the monitors have noticed, its groups do not serve and keep it.
        host::until("Ceph to go on without it", Duration::from_secs(120), || {
            let out = remove(n2, "n3", &["--dead", "--dry-run"])?;
            ensure!(out.code == 0, "{}", out.stderr);
            Ok(())
        })?;
        let out = remove(n2, "n3", &["--dead", "--yes"])?;
        show(&out);
        ensure!(out.code == 0, "{}", out.stderr);
        ensure!(out.stdout.contains("has places for 2 until another node is there"), "no warning of copies");
        host::until("the servers", Duration::from_secs(60), || servers(n4, &["n2", "n4"]))
    })?;
    checks.check("its guest runs on another, with its address and its text", || {
        host::until("the guest to leave n3", Duration::from_secs(120), || {
            let vmi = story.cluster.get("vmi", GUEST)?;
            ensure!(vmi["status"]["nodeName"] != "n3", "it is still there: {}", vmi["status"]["phase"]);
            Ok(())
        })?;
        guest_kept(story)
    });
    checks.check("switched on, it finds out that it was removed, and stays out", || {
        n3.start(story.bed.lan(), None)?;
        stays_out(story, n2, n3)
    });
    n3.halt(story.bed.lan());
    Ok(())
}
