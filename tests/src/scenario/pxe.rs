//! Installing machines over the network: one that is expected and boots by HTTP, one that nobody knows and boots by PXE and
//! TFTP. Blank disks, real firmware, and the image's own server.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Checks, journey};
use crate::host;
use crate::layout::Layout;
use crate::machine::{Disk, Machine, NetworkBoot, Wire};
use crate::netns;
use crate::provisioning::{ADDRESS, BRIDGE, Provisioning};

const NODE: &str = include_str!("../../manifests/pxe/node.yaml");
const DISKS: [Disk; 2] = [Disk { serial: "SYSTEM", gib: 16 }, Disk { serial: "DATA", gib: 12 }];
/// A small node. A network boot of a medium of 560 MiB alone takes half of it.
const MEMORY_MIB: u32 = 4096;
/// Firmware, iPXE and half a gigabyte; emulated, on two busy cores.
const DOWNLOAD_S: u64 = 300;
/// From the kernel's start to the installed disk.
const INSTALL_S: u64 = 600;

/// A machine of this scenario.
struct Subject {
    number: u8,
    hostname: &'static str,
    boot: NetworkBoot,
}

const EXPECTED: Subject = Subject { number: 1, hostname: "pxe-1", boot: NetworkBoot::Http };
const UNKNOWN: Subject = Subject { number: 2, hostname: "pxe-2", boot: NetworkBoot::Pxe };

impl Subject {
    fn mac(&self) -> String {
        format!("52:54:00:79:00:{:02x}", self.number)
    }

    fn address(&self) -> String {
        format!("10.79.0.{}", 10 + self.number)
    }

    fn node_yaml(&self, key: &str) -> String {
        let text = NODE.replace("${HOSTNAME}", self.hostname).replace("${ADDRESS}", &self.address());
        text.replace("${SSH_KEY}", key)
    }

    /// A machine with blank disks on the LAN.
    fn machine(&self, stage: &Stage, name: &str) -> Result<Machine> {
        let mut machine = Machine::new(&stage.dir.join(name), &DISKS)?;
        machine.plug_into(Wire {
            netns: stage.lan.netns().to_owned(),
            tap: format!("tap{}", self.number),
            mac: self.mac(),
            serial: format!("SN-{}", self.number),
            memory_mib: MEMORY_MIB,
            boot: self.boot,
        });
        Ok(machine)
    }
}

/// What the scenario plays on.
struct Stage {
    dir: PathBuf,
    lan: Provisioning,
    iso: String,
    key: PathBuf,
    public: String,
}

pub(crate) fn run_all(source: &Path, checks: &mut Checks) -> Result<()> {
    let layout = Layout::new(source, "test/pxe")?;
    let stage = prepare(&layout)?;
    refusals(&stage, checks);
    checks.require("the server starts", || {
        let words = "module_blacklist=sha256_ssse3";
        let range = "10.79.0.100-10.79.0.150";
        stage.lan.serve(&["--interface", BRIDGE, "--range", range, "--medium", &stage.iso, "--words", words])
    })?;
    checks.check("a second one is refused", || {
        let out = stage.lan.beside(&["serve", "--interface", BRIDGE, "--medium", &stage.iso, "--port", "8068"])?;
        ensure!(out.code == 1 && out.stderr.contains("is served already"), "{}: {}", out.code, out.stderr);
        Ok(())
    });
    expected(&stage, checks)?;
    unknown(&stage, checks)?;
    checks.check("the server ends and leaves no process", || {
        let left = stage.lan.end()?;
        ensure!(left.trim().is_empty(), "processes {left}");
        Ok(())
    });
    println!("{}", stage.lan.log());
    drop(stage);
    let _ = std::fs::remove_dir_all(&layout.dir);
    Ok(())
}

fn prepare(layout: &Layout) -> Result<Stage> {
    let medium = journey::medium(&layout.source)?;
    let image = host::built(&layout.source.join("image/build"), &[], Duration::from_secs(3600))?;
    let lan = Provisioning::up(layout, &image.join("root"), &medium, 2)?;
    let iso = journey::file_ending(&medium, ".iso")?;
    let name = iso.file_name().context("a name")?.to_string_lossy().into_owned();
    let key = journey::login_key(&layout.dir)?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?.trim().to_owned();
    Ok(Stage { dir: layout.dir.clone(), lan, iso: format!("/run/medium/{name}"), key, public })
}

/// What is refused before anything is served, and the dry run.
fn refusals(stage: &Stage, checks: &mut Checks) {
    let serve = |args: &[&str]| stage.lan.alone(&[&["serve", "--medium", &stage.iso], args].concat());
    checks.check("a dry run prints configuration and URLs and serves nothing", || {
        let text = serve(&["--interface", BRIDGE, "--range", "10.79.0.100-10.79.0.150", "--print"])?.ok("--print")?;
        for wanted in ["dhcp-range=10.79.0.100,10.79.0.150", &format!("http://{ADDRESS}:8067/ipxe.efi"), "no machine"] {
            ensure!(text.contains(wanted), "it lacks `{wanted}`: {text}");
        }
        Ok(())
    });
    checks.check("what cannot be served is refused with its reason", || {
        for (args, reason) in [
            (["lo0", "10.79.0.100-10.79.0.150"], "there is no interface lo0"),
            (["tap1", "10.79.0.100-10.79.0.150"], "interface tap1 has no IPv4 address"),
            ([BRIDGE, "10.78.0.9-10.78.0.10"], "10.78.0.9 is not in 10.79.0.0/24"),
        ] {
            let out = serve(&["--interface", args[0], "--range", args[1]])?;
            ensure!(out.code == 1 && out.stderr.contains(reason), "`{reason}` is not in {}", out.stderr);
        }
        let out = stage.lan.alone(&["serve", "--interface", BRIDGE, "--medium", "/usr/bin/env"])?;
        ensure!(out.code == 1 && out.stderr.contains("/usr/bin/env"), "no medium: {}", out.stderr);
        let taken = netns::inside(stage.lan.netns(), || Ok(UdpSocket::bind("0.0.0.0:67")?))?;
        let out = serve(&["--interface", BRIDGE])?;
        ensure!(out.code == 1 && out.stderr.contains("UDP port 67 (DHCP) is taken"), "the port: {}", out.stderr);
        drop(taken);
        Ok(())
    });
}

/// Approved before it comes, by its MAC; firmware that boots by HTTP.
fn expected(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let subject = EXPECTED;
    checks.require("a machine is expected by its MAC", || {
        let file = stage.lan.put("expected.yaml", &subject.node_yaml(&stage.public))?;
        stage.lan.beside(&["approve", &format!("mac={}", subject.mac()), "--config", &file])?.ok("pxe approve")?;
        Ok(())
    })?;
    let machine = subject.machine(stage, "http")?;
    let started = Instant::now();
    checks.require("its firmware loads iPXE by HTTP, and the machine gets everything", || {
        machine.start("")?;
        stage.lan.wait_for("ipxe.efi sent", 120)?;
        stage.lan.wait_for(&format!("{}: has everything", subject.mac()), DOWNLOAD_S)?;
        println!("         everything sent {:.0} s after power-on", started.elapsed().as_secs_f64());
        let log = stage.lan.log();
        ensure!(!log.contains("sent by TFTP"), "it was TFTP: {log}");
        Ok(())
    })?;
    installs(stage, &subject, &machine, checks, started)
}

/// Not known to anybody; firmware that boots by PXE.
fn unknown(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let subject = UNKNOWN;
    let machine = subject.machine(stage, "tftp")?;
    let started = Instant::now();
    let mut name = String::new();
    checks.require("an unknown machine loads iPXE by TFTP, waits, and shows a fingerprint", || {
        machine.start("")?;
        let at = machine.wait_for("fingerprint ", 0, 180)?;
        machine.wait_for("\n", at, 10)?;
        name = machine.console_from(at).lines().next().unwrap_or_default().trim().to_owned();
        ensure!(stage.lan.log().contains("ipxe.efi sent by TFTP"), "it was not TFTP");
        let list = stage.lan.beside(&["hosts"])?.ok("pxe hosts")?;
        let line = list.lines().find(|line| line.contains(&subject.mac())).context("it is not listed")?;
        ensure!(line.contains(&name) && line.contains("pending") && line.contains("SN-2"), "`{name}`: {line}");
        Ok(())
    })?;
    let file = stage.lan.put("unknown.yaml", &subject.node_yaml(&stage.public))?;
    checks.check("nobody is approved by another fingerprint, or with a file that names no disk", || {
        let out = stage.lan.beside(&["approve", "0000-0000-0000", "--config", &file])?;
        ensure!(out.code == 1 && out.stderr.contains("there is no machine"), "{}", out.stderr);
        let whole = subject.node_yaml(&stage.public);
        let bad = stage.lan.put("bad.yaml", whole.split("install:").next().unwrap_or_default())?;
        let out = stage.lan.beside(&["approve", &name, "--config", &bad])?;
        ensure!(out.code == 1 && out.stderr.contains("has no section `install`"), "{}", out.stderr);
        Ok(())
    });
    checks.require("approved, it gets everything", || {
        stage.lan.beside(&["approve", &name, "--config", &file])?.ok("pxe approve")?;
        stage.lan.wait_for(&format!("{}: has everything", subject.mac()), DOWNLOAD_S)
    })?;
    installs(stage, &subject, &machine, checks, started)?;
    drop(machine);
    let again = subject.machine(stage, "again")?;
    checks.check("when it boots from the network again, it is sent to its disk", || {
        again.start("")?;
        again.wait_for("got its system from here already", 0, 180).map(|_| ())
    });
    Ok(())
}

/// The installation, and the first boot from the disk.
fn installs(stage: &Stage, subject: &Subject, machine: &Machine, checks: &mut Checks, started: Instant) -> Result<()> {
    let name = subject.hostname;
    let since = || format!("{:.0} s after power-on", started.elapsed().as_secs_f64());
    let mut at = 0;
    checks.require(&format!("{name} is installed unattended"), || {
        at = machine.wait_for("step 1 of 5", at, INSTALL_S)?;
        println!("         the installation begins {}", since());
        at = machine.wait_for("installed", at, INSTALL_S)?;
        println!("         installed {}", since());
        Ok(())
    })?;
    checks.require(&format!("{name} boots from its disk and is who its node.yaml says"), || {
        machine.wait_for("writable layers on /dev/", at, 300)?;
        let facts = host::until("ssh", Duration::from_secs(300), || {
            let line = "hostname; stat -c %a /etc/furrow/node.yaml; findmnt -no SOURCE,FSTYPE /";
            stage.lan.shell(&stage.key, &subject.address(), line)
        })?;
        println!("         reached by SSH {}", since());
        ensure!(facts.starts_with(&format!("{name}\n600\n/dev/mapper/root erofs")), "it says {facts}");
        Ok(())
    })?;
    machine.power_cut();
    Ok(())
}
