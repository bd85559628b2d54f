//! The field report's VM on one node, from `kubectl apply` to a node that lost power.
//!
//! Manifests are in `tests/manifests/field-report`. Checks follow issue order: the VM runs, the guest is what was
//! asked for, data and address stay, daemons die, addresses are never given twice, bad input leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::guests::{self, Images, Ssh};
use super::{Checks, bad_input, kills, leftovers};
use crate::cluster::{Cluster, condition, text_of};
use crate::host;
use crate::lan::{H100, H200};
use crate::layout::Layout;
use crate::node_box::NodeBox;
use crate::testbed::Testbed;

const NETWORK: &str = include_str!("../../manifests/field-report/network.yaml");
const DEBIAN: &str = include_str!("../../manifests/field-report/debian.yaml");

/// What the checks share.
pub(crate) struct Story<'a> {
    pub(crate) bed: &'a Testbed,
    pub(crate) cluster: Cluster,
    /// `http: {url: ...}` of the tiny guest's image on the LAN's file server.
    pub(crate) tiny_source: String,
    debian_url: String,
    ssh_key: std::path::PathBuf,
    ssh_public: String,
}

/// The beginning alone: a node that boots, bootstraps, and runs a small guest on its VLAN.
pub(crate) fn first_guest(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    begin(bed, checks).map(|_| ())
}

/// The node alone: it boots, bootstraps, and realises the provider network.
pub(crate) fn node(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    node_up(bed, checks).map(|_| ())
}

fn begin<'a>(bed: &'a Testbed, checks: &mut Checks) -> Result<Story<'a>> {
    let story = node_up(bed, checks)?;
    before_guests(&story, checks);
    Ok(story)
}

fn node_up<'a>(bed: &'a Testbed, checks: &mut Checks) -> Result<Story<'a>> {
    let tiny = Images::tiny(&bed.layout().source)?;
    checks.require("the node image boots as a box and bootstraps", || bed.boot())?;
    let story = prepare(bed, &tiny)?;
    checks.require("the provider network, VLAN and subnet come up", || network_up(bed, &story.cluster))?;
    Ok(story)
}

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let debian = Images::debian(&bed.layout().source)?;
    let mut story = begin(bed, checks)?;
    // At a link's speed: from loopback the import is over before its progress, told once a second, can be seen.
    story.debian_url = bed.publish(&debian, "debian.qcow2")?.replace("/debian.qcow2", "/slow/debian.qcow2");
    the_vm(&story, checks)?;
    the_guest(&story, checks)?;
    data_and_address_stay(&story, checks)?;
    kills::run(&story, checks)?;
    power_cut(&story, checks)?;
    checks.check("fifty VMIs at once on a /26 get fifty addresses, and its end is a clear condition", || {
        addresses_are_given_once(&story)
    });
    checks.check("a write with a stale resourceVersion gets 409", || stale_write(&story));
    bad_input::run(&story, checks);
    checks.check("deleting everything leaves nothing behind", || leftovers::after_deleting_all(bed, &story.cluster));
    Ok(())
}

fn prepare<'a>(bed: &'a Testbed, tiny: &std::path::Path) -> Result<Story<'a>> {
    let tiny_url = bed.publish(tiny, "tiny.qcow2")?;
    let (ssh_key, ssh_public) = Ssh::key(bed)?;
    let tiny_source = guests::http_source(&tiny_url);
    Ok(Story { bed, cluster: bed.cluster(), tiny_source, debian_url: String::new(), ssh_key, ssh_public })
}

/// Applies the report's provider network, VLAN and subnet, and waits until the node has them.
pub(crate) fn network_up(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    cluster.apply(NETWORK)?;
    cluster.wait(("provider-networks", "provider"), "/status/ready", &["true"], 30)?;
    bridge_up(bed.node())
}

/// The provider network's bridge of a node has the NIC.
pub(crate) fn bridge_up(node: &NodeBox) -> Result<()> {
    let ports = node.shell("ovs-vsctl list-ports br-provider")?;
    ensure!(ports.lines().any(|p| p == "eth1"), "br-provider of {} has no port eth1, but: {ports}", node.name());
    Ok(())
}

/// A small guest first: what it shows in seconds need not wait for a large one.
fn before_guests(story: &Story<'_>, checks: &mut Checks) {
    checks.check("a tiny VM boots from an imported image and answers on its VLAN", || {
        story.cluster.apply(&guests::tiny("first", &story.tiny_source, "Always"))?;
        story.cluster.wait(("vmi", "first"), "/status/phase", &["Running"], 60)?;
        let address = guests::address(&story.cluster, "first")?;
        let facts = guests::facts(story.bed, H100, address, 90)?;
        ensure!(text_of(&facts["hostname"]) == "first", "its host name is {}", facts["hostname"]);
        ensure!(text_of(&facts["ip"]) == address.to_string(), "it took {} for itself", facts["ip"]);
        Ok(())
    });
    checks.check("an image of a server that only the proxy reaches is imported", || proxied_import(story));
    checks.check("a clone of its disk by source pvc boots with what was written to the original", || {
        let address = guests::address(&story.cluster, "first")?;
        let answer = guests::ask(story.bed, H100, address, "write cloned-text")?;
        ensure!(answer == "OK", "write answered `{answer}`");
        story.cluster.apply(&guests::tiny("second", "pvc: {namespace: default, name: first-root}", "Always"))?;
        story.cluster.wait(("vmi", "second"), "/status/phase", &["Running"], 60)?;
        let second = guests::address(&story.cluster, "second")?;
        guests::facts(story.bed, H100, second, 90)?;
        let answer = guests::ask(story.bed, H100, second, "read")?;
        ensure!(answer == "cloned-text", "the clone has `{answer}`");
        story.cluster.kubectl(&["delete", "vm", "second", "--wait=true", "--timeout=60s"])?;
        Ok(())
    });
}

/// Imports from a host whose name nothing resolves, by the LAN's file server as the node's proxy.
fn proxied_import(story: &Story<'_>) -> Result<()> {
    let proxy = Layout::http_address();
    let file = "/etc/furrow/proxy.env";
    story.bed.node().shell(&format!(
        "! test -e {file} && printf 'HTTP_PROXY=\"http://{proxy}\"\\nNO_PROXY=\"localhost,10.0.0.0/8\"\\n' > {file}"
    ))?;
    let source = guests::http_source("http://images.invalid/tiny.qcow2");
    story.cluster.apply(&guests::data_volume("proxied", "proxied", &source, "64Mi"))?;
    let done = story.cluster.wait(("dv", "proxied"), "/status/phase", &["Succeeded"], 60);
    story.bed.node().shell(&format!("rm {file}"))?;
    story.cluster.kubectl(&["delete", "dv", "proxied", "--wait=true", "--timeout=60s"])?;
    done.map(|_| ())
}

fn the_vm(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    checks.require("the DataVolume goes through its phases with progress to Succeeded", || {
        let manifest = DEBIAN.replace("${URL}", &story.debian_url).replace("${SSH_KEY}", &story.ssh_public);
        story.cluster.apply(&manifest)?;
        let mut phases: Vec<String> = Vec::new();
        let mut progress = Vec::new();
        host::until("datavolume report-root to be Succeeded", Duration::from_secs(240), || {
            let dv = story.cluster.get("dv", "report-root")?;
            let phase = text_of(&dv["status"]["phase"]);
            progress.push(text_of(&dv["status"]["progress"]));
            if phases.last() != Some(&phase) {
                phases.push(phase.clone());
            }
            if phase == "Succeeded" { Ok(()) } else { bail!("its phase is `{phase}`") }
        })?;
        ensure!(phases.iter().any(|p| p == "ImportInProgress"), "phases seen: {phases:?}");
        let between =
            progress.iter().filter(|p| p.ends_with('%') && !p.starts_with("0.") && !p.starts_with("100")).count();
        ensure!(between > 0, "no progress between 0 and 100 % was seen: {progress:?}");
        Ok(())
    })?;
    checks.require("the VM runs; `kubectl get vmi -o wide` shows phase, IP, node and live-migratable", || {
        story.cluster.wait(("vmi", "report"), "/status/phase", &["Running"], 60)?;
        let wide = story.cluster.kubectl(&["get", "vmi", "report", "-o", "wide"])?;
        let address = guests::address(&story.cluster, "report")?.to_string();
        for wanted in
            ["PHASE", "IP", "NODENAME", "LIVE-MIGRATABLE", "Running", &address, story.bed.node().name(), "True"]
        {
            ensure!(wide.contains(wanted), "`{wanted}` is not in:\n{wide}");
        }
        story.cluster.wait(("vm", "report"), "/status/printableStatus", &["Running"], 10)?;
        let vm = story.cluster.get("vm", "report")?;
        let ready = condition(&vm, "Ready").context("the VM has no Ready condition")?;
        ensure!(ready["status"] == "True", "Ready is {ready}");
        Ok(())
    })
}

impl Story<'_> {
    /// The Debian guest, reached from its VLAN.
    pub(crate) fn ssh(&self) -> Result<Ssh> {
        Ok(Ssh::new(self.bed, &self.ssh_key, H100, guests::address(&self.cluster, "report")?))
    }
}

fn the_guest(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    checks.require("cloud-init ran in the Debian guest: host name and marker on the serial console", || {
        host::until("cloud-init's marker on the serial console", Duration::from_secs(420), || {
            let log = guests::serial(story.bed, &story.cluster, "report")?;
            let tail: Vec<&str> = log.lines().rev().take(3).collect();
            ensure!(log.contains("FURROW-MARKER report made-by-cloud-init"), "the console's last lines: {tail:?}");
            Ok(())
        })
    })?;
    checks.require("the guest has its second small disk and the address in the IP object", || {
        let ssh = story.ssh()?;
        ssh.wait(120)?;
        let disks = ssh.shell("lsblk -dn -o NAME,LABEL,RO")?;
        ensure!(disks.lines().any(|l| l.starts_with("vdb") && l.contains("cidata")), "its disks: {disks}");
        let seen = ssh.shell("hostname -I")?;
        let ours = guests::ip_object(&story.cluster, "report")?.to_string();
        ensure!(seen.split_whitespace().any(|a| a == ours), "the IP object says {ours}, the guest {seen}");
        Ok(())
    })?;
    checks.check("a host on VLAN 200 does not reach it", || {
        let address = guests::address(&story.cluster, "first")?;
        guests::ask(story.bed, H100, address, "facts").context("not even VLAN 100 does")?;
        match guests::ask(story.bed, H200, address, "facts") {
            Ok(answer) => bail!("it answered {answer}"),
            Err(_) => Ok(()),
        }
    });
    checks.check("a frame with a forged source address does not leave it", || forged_frames(story));
    checks.check("the guest agent is connected and tells the guest's system", || {
        host::until("AgentConnected", Duration::from_secs(60), || {
            let vmi = story.cluster.get("vmi", "report")?;
            let agent = condition(&vmi, "AgentConnected").context("no AgentConnected condition")?;
            ensure!(agent["status"] == "True", "{agent}");
            ensure!(
                text_of(&vmi["status"]["guestOSInfo"]["id"]) == "debian",
                "guestOSInfo: {}",
                vmi["status"]["guestOSInfo"]
            );
            Ok(())
        })
    });
    Ok(())
}

/// Pings from the guest's own and from a foreign address while a host on the VLAN listens.
fn forged_frames(story: &Story<'_>) -> Result<()> {
    let ssh = story.ssh()?;
    let own = guests::ip_object(&story.cluster, "report")?;
    let link = ssh.shell("ip -o route get 192.168.10.1 | sed \"s/.* dev \\([^ ]*\\).*/\\1/\"")?;
    let forged = std::net::Ipv4Addr::new(192, 168, 11, 77);
    let seen = crate::host_sniff::sources(&story.bed.layout().global(H100.name), Duration::from_secs(6), || {
        ssh.shell(&format!("ip addr add {forged}/23 dev {0}; ping -c 2 -W 1 -I {forged} 192.168.10.1; ping -c 2 -W 1 -I {own} 192.168.10.1; ip addr del {forged}/23 dev {0}", link.trim()))
    })?;
    ensure!(seen.contains(&own), "the guest's own frames were not seen either: {seen:?}");
    ensure!(!seen.contains(&forged), "frames from {forged} arrived");
    Ok(())
}

/// The three ways a VM stops and starts: its VMI deleted, stop and start, its node losing power.
fn data_and_address_stay(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    let before = guests::address(&story.cluster, "report")?;
    checks.require("a file written in the guest survives deleting the VMI; the address stays", || {
        let ssh = story.ssh()?;
        ssh.shell("echo kept > /root/kept && sync")?;
        let boot_id = ssh.wait(30)?;
        let uid = text_of(&story.cluster.get("vmi", "report")?["metadata"]["uid"]);
        story.cluster.kubectl(&["delete", "vmi", "report", "--wait=false"])?;
        story.cluster.wait(("vm", "report"), "/status/printableStatus", &["Stopping", "Starting", "Stopped"], 30)?;
        wait_for_another_vmi(&story.cluster, "report", &uid, 180)?;
        same_data_and_address(story, before, &boot_id)
    })?;
    checks.require("the same over stop and start", || {
        let boot_id = story.ssh()?.wait(30)?;
        run_strategy(&story.cluster, "report", "Halted")?;
        story.cluster.wait_gone("vmi", "report", 180)?;
        story.cluster.wait(("vm", "report"), "/status/printableStatus", &["Stopped"], 20)?;
        ensure!(guests::ip_object(&story.cluster, "report")? == before, "the stopped VM's IP object has changed");
        run_strategy(&story.cluster, "report", "Always")?;
        story.cluster.wait(("vmi", "report"), "/status/phase", &["Running"], 60)?;
        same_data_and_address(story, before, &boot_id)
    })
}

fn power_cut(story: &Story<'_>, checks: &mut Checks) -> Result<()> {
    let before = guests::ip_object(&story.cluster, "report")?;
    checks.require("the same after the node lost power", || {
        let boot_id = story.ssh()?.wait(30)?;
        let uid = text_of(&story.cluster.get("vmi", "report")?["metadata"]["uid"]);
        let started = Instant::now();
        story.bed.node().power_cut(story.bed.lan());
        story.bed.power_on()?;
        story.bed.wait_ready(started)?;
        wait_for_another_vmi(&story.cluster, "report", &uid, 120)?;
        same_data_and_address(story, before, &boot_id)
    })
}

fn wait_for_another_vmi(cluster: &Cluster, name: &str, old_uid: &str, seconds: u64) -> Result<()> {
    host::until(&format!("another vmi {name} to run"), Duration::from_secs(seconds), || {
        let vmi = cluster.get("vmi", name)?;
        ensure!(text_of(&vmi["metadata"]["uid"]) != old_uid, "the old one is still there");
        ensure!(vmi["status"]["phase"] == "Running", "its phase is {}", vmi["status"]["phase"]);
        Ok(())
    })
}

fn same_data_and_address(story: &Story<'_>, before: std::net::Ipv4Addr, old_boot: &str) -> Result<()> {
    let now = guests::address(&story.cluster, "report")?;
    ensure!(now == before, "the address was {before}, now it is {now}");
    let ssh = story.ssh()?;
    let boot_id = ssh.wait(300)?;
    ensure!(boot_id != old_boot, "the guest did not restart");
    let text = ssh.shell("cat /root/kept")?;
    ensure!(text.trim() == "kept", "the file holds `{}`", text.trim());
    Ok(())
}

/// Starts or stops a VM the declarative way.
pub(crate) fn run_strategy(cluster: &Cluster, name: &str, strategy: &str) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"runStrategy\":\"{strategy}\"}}}}");
    cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", &patch]).map(|_| ())
}

const SMALL: &str = include_str!("../../manifests/field-report/small-subnet.yaml");

/// 50 addresses are free in the /26: 62 hosts less the gateway and eleven excluded ones.
fn addresses_are_given_once(story: &Story<'_>) -> Result<()> {
    let cluster = &story.cluster;
    cluster.apply(SMALL)?;
    let vmi = include_str!("../../manifests/field-report/diskless-vmi.yaml");
    let all: Vec<String> = (0..51).map(|n| vmi.replace("${NAME}", &format!("many-{n}"))).collect();
    cluster.apply(&all.join("\n---\n"))?;
    host::until("fifty addresses", Duration::from_secs(120), || {
        let ips = small_subnet_ips(cluster)?;
        ensure!(ips.len() == 50, "{} addresses were given", ips.len());
        let mut unique: Vec<String> = ips.iter().map(|ip| text_of(&ip["spec"]["v4IpAddress"])).collect();
        unique.sort();
        unique.dedup();
        ensure!(unique.len() == 50, "only {} of 50 addresses differ", unique.len());
        Ok(())
    })?;
    host::until("the 51st VMI to say why it has none", Duration::from_secs(30), || {
        let items = cluster.list("vmi")?;
        let waiting = items.iter().filter_map(|v| condition(v, "Synchronized"));
        let found: Vec<String> = waiting.map(|c| text_of(&c["reason"])).collect();
        ensure!(found.iter().any(|r| r == "SubnetExhausted"), "reasons: {found:?}");
        Ok(())
    })?;
    let out = cluster.kubectl_raw(&["delete", "subnet/small-subnet"], "")?;
    ensure!(out.code != 0 && out.stderr.contains("while it is used"), "deleting the Subnet said: {}", out.stderr);
    cluster.kubectl(&["delete", "vmi", "-l", "furrow.io/test=many", "--wait=true", "--timeout=120s"])?;
    host::until("the addresses to be free again", Duration::from_secs(60), || {
        let left = small_subnet_ips(cluster)?.len();
        ensure!(left == 0, "{left} are still taken");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "net-attach-def/small", "subnet/small-subnet"]).map(|_| ())
}

fn small_subnet_ips(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut ips = cluster.list("ips.kubeovn.io")?;
    ips.retain(|ip| ip["spec"]["subnet"] == "small-subnet");
    Ok(ips)
}

fn stale_write(story: &Story<'_>) -> Result<()> {
    let mut vm = story.cluster.get("vm", "first")?;
    let label = |value: &str| {
        story.cluster.kubectl(&["label", "vm", "first", "--overwrite", &format!("furrow.io/test={value}")])
    };
    label("newer")?;
    vm["metadata"]["labels"]["furrow.io/test"] = "older".into();
    let out = story.cluster.kubectl_raw(&["replace", "-f", "-"], &vm.to_string())?;
    ensure!(out.code != 0 && out.stderr.contains("Conflict"), "kubectl replace said: {} {}", out.stdout, out.stderr);
    Ok(())
}
