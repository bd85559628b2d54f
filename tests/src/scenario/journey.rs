//! From the medium to a running guest on a whole machine: UEFI, kernel, dm-verity, cgroup v2, KVM, kernel datapath. What
//! boxes cannot show.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::growth;
use super::guests::{self, Images};
use super::pinned;
use crate::cluster::{Cluster, text_of};
use crate::figures::Figures;
use crate::host::{self, run};
use crate::layout::Layout;
use crate::machine::{Disk, Machine};

const NODE: &str = include_str!("../../manifests/journey/node.yaml");
const NETWORK: &str = include_str!("../../manifests/field-report/network.yaml");
/// Where the machine has the guests' image.
const IMAGE: &str = "http://10.0.2.15:8081/tiny.qcow2";
/// Slots 0x10 and 0x11 of QEMU's PCI bus, as udev names them.
const PROVIDER_NIC: &str = "enp0s17";

/// The machine with the medium, and what reaches it.
pub(super) struct Journey {
    pub(super) machine: Machine,
    pub(super) dir: PathBuf,
    pub(super) key: PathBuf,
    pub(super) started: Instant,
}

impl Journey {
    /// Seconds since power-on.
    fn spent_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Runs a shell line on the installed node.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        self.machine.shell(&self.key, line)
    }
}

/// From the medium to a guest; with `updates`, goes on to other versions of the system.
pub(crate) fn run_all(source: &Path, checks: &mut Checks, updates: bool) -> Result<()> {
    let layout = Layout::new(source, if updates { "test/updates" } else { "test/journey" })?;
    let medium = medium(&layout.source)?;
    // Before the machine is on: it takes both processors for minutes.
    let media = if updates { Some(super::updates::media(&layout.source)?) } else { None };
    let mut journey = prepare(&layout, &medium, pinned::NODE)?;
    journey.machine.cpus = pinned::CPUS;
    journey.machine.numa = pinned::NUMA;
    let mut figures = Figures::new(&layout.source, if updates { "updates" } else { "journey" })?;
    let iso = file_ending(&medium, ".iso")?;
    figures.record_size("iso_bytes", &iso)?;
    figures.record_size("root_bytes", &medium.join("root.erofs"))?;
    figures.record_size("boot_image_bytes", &iso.with_extension("efi"))?;
    install(&mut journey, checks, &mut figures)?;
    let cluster = first_boot(&journey, checks, &medium, &mut figures)?;
    the_system(&journey, checks);
    // What is in use and could not be given back at once, page cache left out.
    let used = journey.shell("awk '/^MemTotal/ {t = $2} /^MemAvailable/ {a = $2} END {print t - a}' /proc/meminfo")?;
    figures.record("idle_memory_kib", used.trim().parse().context("the memory in use")?)?;
    guest(&journey, &cluster, &layout.source, checks, &mut figures)?;
    if let Some(media) = media {
        super::updates::run(&journey, &cluster, &media, checks)?;
    }
    journey.machine.power_cut();
    let _ = std::fs::remove_dir_all(&layout.dir);
    Ok(())
}

/// The directory of the medium built from this checkout.
pub(super) fn medium(source: &Path) -> Result<PathBuf> {
    host::built(&source.join("image/medium"), &[], Duration::from_secs(3600))
}

/// The file in a directory whose name ends so.
pub(super) fn file_ending(dir: &Path, ending: &str) -> Result<PathBuf> {
    let found = std::fs::read_dir(dir)?.flatten().map(|e| e.path());
    found
        .into_iter()
        .find(|p| p.to_string_lossy().ends_with(ending))
        .with_context(|| format!("no *{ending} in {}", dir.display()))
}

/// A blank machine with the medium and its node.yaml, which says `more` besides.
pub(super) fn prepare(layout: &Layout, medium: &Path, more: &str) -> Result<Journey> {
    let dir = layout.dir.clone();
    let mut machine =
        Machine::new(&dir.join("m1"), &[Disk { serial: "SYSTEM", gib: 16 }, Disk { serial: "DATA", gib: 12 }])?;
    let key = login_key(&dir)?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    let answers = dir.join("answers");
    std::fs::create_dir_all(&answers)?;
    std::fs::write(answers.join("node.yaml"), NODE.replace("${SSH_KEY}", public.trim()) + more)?;
    let iso = dir.join("answers.iso").display().to_string();
    let tree = answers.display().to_string();
    run(&["xorriso", "-report_about", "WARNING", "-as", "mkisofs", "-V", "FURROW-CONFIG", "-r", "-o", &iso, &tree])?;
    machine.insert(&file_ending(medium, ".iso")?, "medium");
    machine.insert(Path::new(&iso), "answers");
    Ok(Journey { machine, dir, key, started: Instant::now() })
}

/// A new key to log in with, its public half beside it.
pub(super) fn login_key(dir: &Path) -> Result<PathBuf> {
    let key = dir.join("key");
    let _ = std::fs::remove_file(&key);
    run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "journey", "-f", &key.display().to_string()])?;
    Ok(key)
}

/// The unattended installation; the machine restarts from its disk by itself.
fn install(journey: &mut Journey, checks: &mut Checks, figures: &mut Figures) -> Result<()> {
    journey.started = Instant::now();
    let machine = &journey.machine;
    let mut at = 0;
    checks.require("the medium boots by UEFI to the installer", || {
        machine.start("furrow.unattended")?;
        at = machine.wait_for("step 1 of 5", at, 300)?;
        figures.record("medium_booted_s", journey.spent_s())
    })?;
    checks.require("it installs unattended", || {
        at = machine.wait_for("installed", at, 300)?;
        figures.record("installed_s", journey.spent_s())
    })
}

fn first_boot(journey: &Journey, checks: &mut Checks, medium: &Path, figures: &mut Figures) -> Result<Cluster> {
    let machine = &journey.machine;
    let from = machine.console_end();
    let mut at = from;
    checks.require("the disk boots", || {
        at = machine.wait_for("writable layers on /dev/", at, 240)?;
        figures.record("disk_booted_s", journey.spent_s())?;
        at = machine.wait_for("login:", at, 240)?;
        figures.record("login_s", journey.spent_s())
    })?;
    checks.require("the node bootstraps and is Ready", || {
        for (step, name) in [
            ("kubernetes-ready: done", "kubernetes_ready_s"),
            ("ceph-pool: done", "ceph_ready_s"),
            ("node-ready: done", "node_ready_s"),
        ] {
            machine.wait_for(step, from, 1200)?;
            figures.record(name, journey.spent_s())?;
        }
        Ok(())
    })?;
    let kubeconfig = journey.dir.join("kubeconfig");
    let text =
        host::until("ssh", Duration::from_secs(60), || machine.shell(&journey.key, "cat /etc/rancher/k3s/k3s.yaml"))?;
    std::fs::write(&kubeconfig, text.replace("https://127.0.0.1:6443", &machine.api()))?;
    let root = medium.parent().context("no cache")?.join("current/root/usr/bin/k3s");
    Ok(Cluster::new(&root, &kubeconfig))
}

/// What an installed machine has and a box has not.
fn the_system(journey: &Journey, checks: &mut Checks) {
    let shell = |line: &str| journey.shell(line);
    checks.check("the root is dm-verity's, read-only, and nothing has failed", || {
        let mounts = shell("findmnt -no SOURCE,FSTYPE,OPTIONS /")?;
        ensure!(mounts.starts_with("/dev/mapper/root") && mounts.contains("erofs"), "the root is {mounts}");
        let failed = shell("systemctl --failed --no-legend --plain")?;
        ensure!(failed.trim().is_empty(), "failed units: {failed}");
        Ok(())
    });
    checks.check("the console stands on the screen, and has not been started again", || {
        let console = shell("systemctl show -p ActiveState -p NRestarts furrow-console@tty1")?;
        let says = |line: &str| console.lines().any(|l| l.trim() == line);
        ensure!(says("ActiveState=active") && says("NRestarts=0"), "{console}");
        Ok(())
    });
    checks.check("control groups are v2 and the boot image is the installed one", || {
        let kind = shell("stat -fc %T /sys/fs/cgroup")?;
        ensure!(kind.trim() == "cgroup2fs", "/sys/fs/cgroup is {kind}");
        let entry = shell("bootctl status --no-pager | grep -i 'current stub\\|furrow-' | head -3")?;
        ensure!(entry.contains("furrow-") || !entry.is_empty(), "bootctl says: {entry}");
        Ok(())
    });
}

/// A tiny guest on RBD, under KVM, on the kernel's datapath with a VLAN tag.
fn guest(
    journey: &Journey,
    cluster: &Cluster,
    source: &Path,
    checks: &mut Checks,
    figures: &mut Figures,
) -> Result<()> {
    let shell = |line: &str| journey.shell(line);
    checks.require("the provider network is up on the kernel's datapath", || {
        cluster.apply(&NETWORK.replace("eth1", PROVIDER_NIC))?;
        cluster.wait(("provider-networks", "provider"), "/status/ready", &["true"], 60)?;
        let datapath = shell("ovs-vsctl get bridge br-provider datapath_type && ovs-appctl dpctl/show")?;
        ensure!(datapath.contains("system@ovs-system"), "the datapath is {datapath}");
        Ok(())
    })?;
    checks.require("a tiny VM runs under KVM on RBD and has its address", || {
        let image = Images::tiny(source)?;
        serve(journey, &image)?;
        cluster.apply(&growth::with_room("first", &guests::http_source(IMAGE))?)?;
        // An emulator's KVM may end the node's kernel, which comes back by itself.
        cluster.wait(("vmi", "first"), "/status/phase", &["Running"], 900)?;
        figures.record("vm_running_s", journey.spent_s())?;
        let domain = shell("virsh -q dumpxml default_first")?;
        ensure!(domain.contains("<domain type='kvm'"), "the domain is {}", domain.lines().next().unwrap_or(""));
        ensure!(domain.contains("protocol='rbd'"), "its disk is not on RBD");
        Ok(())
    })?;
    checks.check("the guest has booted and tells its address", || {
        booted(journey, cluster, "first")?;
        figures.record("guest_booted_s", journey.spent_s())?;
        println!("         the node's kernel has started {} times since", kernels(journey));
        Ok(())
    });
    growth::run(journey, cluster, "first", checks);
    pinned::run(journey, cluster, ("first", IMAGE), checks);
    pinned::run_realtime(journey, cluster, IMAGE, checks);
    Ok(())
}

/// Waits until a tiny guest has told its address on its console.
pub(super) fn booted(journey: &Journey, cluster: &Cluster, name: &str) -> Result<()> {
    host::until("the guest's facts", Duration::from_secs(900), || {
        let address = guests::address(cluster, name)?.to_string();
        let uid = text_of(&cluster.get("vmi", name)?["metadata"]["uid"]);
        let log = journey.shell(&format!("cat /var/lib/furrow/guests/{uid}/console.log"))?;
        ensure!(log.contains("FACTS"), "its console has {} bytes", log.len());
        ensure!(log.contains(&address), "its facts lack {address}");
        Ok(())
    })
}

/// How often the node's kernel has started since the medium was left.
fn kernels(journey: &Journey) -> usize {
    journey.machine.console_from(0).matches("] Linux version ").count().saturating_sub(1)
}

/// Serves the guest's image on the node itself: the machine's network reaches nothing else.
fn serve(journey: &Journey, image: &Path) -> Result<()> {
    journey.shell("mkdir -p /var/tmp/www")?;
    journey.machine.upload(&journey.key, image, "/var/tmp/www/tiny.qcow2")?;
    let server = "systemd-run --quiet --collect --working-directory=/var/tmp/www python3 -m http.server 8081";
    journey.shell(server).map(|_| ())
}
