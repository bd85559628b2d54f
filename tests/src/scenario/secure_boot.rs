//! What a whole machine trusts. A BIOS is told that UEFI is needed; firmware in setup mode takes our keys by the medium's
//! boot menu; with them it starts the medium, the unattended installation (its node.yaml from a server, by HTTPS) and the
//! installed disk by an entry of its own, and refuses an altered boot image. The installed node refuses an update that is
//! not signed by the key it trusts.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Checks;
use super::journey::{self, Journey};
use crate::host;
use crate::layout::Layout;
use crate::machine::{Disk, Firmware, Machine, SERVER};
use crate::server::{Collector, Server};
use crate::terminal::Terminal;

const NODE: &str = include_str!("../../manifests/journey/node.yaml");
/// From power-on to the loader's menu, emulated.
const MENU_S: u64 = 90;
/// From the firmware to a system that runs, emulated, on two busy cores.
const BOOT_S: u64 = 400;

pub(crate) fn run(source: &Path, checks: &mut Checks) -> Result<()> {
    let layout = Layout::new(source, "test/secure-boot")?;
    let medium = journey::medium(&layout.source)?;
    let iso = journey::file_ending(&medium, ".iso")?;
    for (from, stick) in [("CD", false), ("USB stick", true)] {
        checks.check(&format!("a BIOS that starts the medium from a {from} says what is needed"), || {
            let mut machine = Machine::new(&layout.dir.join("bios"), &[])?;
            machine.set_firmware(Firmware::Bios);
            if stick {
                machine.attach_stick(&iso)
            } else {
                machine.insert(&iso, "medium")
            }
            machine.start("")?;
            machine.wait_for("Furrow needs UEFI", 0, 60).map(|_| ())
        });
    }
    let server = Server::start(&layout.part("www")?)?;
    let collector = Collector::start()?;
    let journey = prepare(&layout, &iso, (&server, &collector))?;
    enrol(&journey, checks, &words(&server)?)?;
    install(&journey, checks, &collector)?;
    disk(&journey, checks)?;
    altered(&layout, &journey, checks, &iso)?;
    memory_test(&layout, &journey, checks, &iso);
    updates(&journey, checks, &iso, &server)?;
    fallback(&journey, checks);
    journey.machine.power_cut();
    let _ = std::fs::remove_dir_all(&layout.dir);
    Ok(())
}

/// A blank machine with the medium, whose node.yaml is on the server.
fn prepare(layout: &Layout, iso: &Path, (server, collector): (&Server, &Collector)) -> Result<Journey> {
    let dir = layout.dir.clone();
    let disks = [Disk { serial: "SYSTEM", gib: 16 }, Disk { serial: "DATA", gib: 12 }];
    let mut machine = Machine::new(&dir.join("m1"), &disks)?;
    machine.set_firmware(Firmware::SecureBoot);
    machine.insert(iso, "medium");
    machine.reach(443, server.tls_port);
    machine.reach(8080, collector.port);
    let key = journey::login_key(&dir)?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    let webhook = format!("  webhook:\n    url: http://{SERVER}:8080/events\n");
    let document = NODE.replace("${SSH_KEY}", public.trim()) + &webhook;
    std::fs::write(server.directory.join("node.yaml"), document)?;
    Ok(Journey { machine, dir, key, started: Instant::now() })
}

/// What the kernel is told: where node.yaml is, by which CA, and a key that is laid over it.
fn words(server: &Server) -> Result<String> {
    let ca = host::run(&["openssl", "x509", "-in", &server.ca.display().to_string(), "-outform", "PEM"])?;
    let base64: String = ca.lines().filter(|line| !line.starts_with('-')).collect();
    Ok(format!(
        "furrow.unattended furrow.config=https://{SERVER}/node.yaml furrow.config-ca={base64} furrow.hostname=m7"
    ))
}

/// Starts a machine and chooses an entry of the medium's boot menu, so many below the one that stands marked. Returns the
/// console's length at that time.
fn choose(machine: &Machine, dir: &Path, words: &str, (entry, below): (&str, usize)) -> Result<usize> {
    machine.start(words)?;
    let terminal = Terminal::open(&machine.serial(), dir)?;
    terminal.expect(entry, MENU_S)?;
    // The first key stops the countdown; below the last entry is nothing.
    terminal.press(&vec!["j"; below])?;
    let from = machine.console_end();
    terminal.press(&["Enter"])?;
    Ok(from)
}

/// Chooses the last entry of the boot menu, which enrols the keys; the loader restarts the machine.
fn enrol(journey: &Journey, checks: &mut Checks, words: &str) -> Result<()> {
    checks.require("firmware in setup mode takes the keys by the medium's menu", || {
        let from = choose(&journey.machine, &journey.dir, words, ("Enroll Secure Boot keys", 8))?;
        journey.machine.wait_for("keys successfully enrolled", from, 30).map(|_| ())
    })
}

/// The other entry of the menu that is signed: with the keys, the memory test starts.
fn memory_test(layout: &Layout, journey: &Journey, checks: &mut Checks, iso: &Path) {
    checks.check("the memory test of the menu starts with Secure Boot on", || {
        let mut machine = Machine::new(&layout.dir.join("m3"), &[])?;
        machine.set_firmware(Firmware::SecureBoot);
        machine.take_variables(&journey.machine)?;
        machine.insert(iso, "medium");
        let from = choose(&machine, &layout.part("m3")?, "", ("Memory test", 3))?;
        machine.wait_for("emtest86+", from, 60).map(|_| ())
    });
}

fn install(journey: &Journey, checks: &mut Checks, collector: &Collector) -> Result<()> {
    let machine = &journey.machine;
    let mut at = 0;
    checks.require("the medium boots and installs unattended, by the node.yaml of an HTTPS server", || {
        for (text, seconds) in [
            ("node.yaml comes from https://", BOOT_S),
            ("with furrow.hostname laid over it", 120),
            ("step 1 of 5", 60),
            ("step 5 of 5", BOOT_S),
            ("installed", 60),
        ] {
            at = machine.wait_for(text, at, seconds)?;
        }
        Ok(())
    })?;
    checks.check(
        "the medium's kernel says that Secure Boot is on, and the disk has the firmware's first entry",
        || {
            machine.wait_for("Secure boot enabled", 0, 1)?;
            machine.wait_for("the firmware starts this disk first (Boot", 0, 1).map(|_| ())
        },
    );
    checks.check("its events came in their order", || {
        let steps = ["partitions", "system", "configuration", "boot files", "finishing"];
        let mut wanted = vec!["started".to_owned()];
        wanted.extend(steps.iter().map(|step| format!("step {step}")));
        wanted.push("finished".to_owned());
        host::until("the last event", Duration::from_secs(10), || {
            let told = collector.told()?;
            ensure!(told == wanted, "the collector has {told:?}");
            Ok(())
        })
    });
    Ok(())
}

fn disk(journey: &Journey, checks: &mut Checks) -> Result<()> {
    checks.require("the disk boots with Secure Boot on, under the name of the command line", || {
        let from = journey.machine.console_end();
        journey.machine.wait_for("writable layers on /dev/", from, BOOT_S)?;
        let status = host::until("ssh", Duration::from_secs(BOOT_S), || {
            journey.shell("hostname; bootctl status --no-pager 2>&1 || true")
        })?;
        ensure!(status.starts_with("m7\n"), "the host name is {}", status.lines().next().unwrap_or(""));
        ensure!(status.contains("Secure Boot: enabled"), "bootctl says: {status}");
        Ok(())
    })?;
    checks.check("a machine without a TPM says so when a secret is to be sealed", || {
        let said = journey.shell("furrow-install seal join.token </dev/null 2>&1; echo code $?")?;
        ensure!(said.contains("join.token: this machine has no TPM 2.0") && said.contains("code 1"), "{said}");
        Ok(())
    });
    checks.check("the firmware's entry is Furrow's, once, first, and the one that was started", || {
        let dump = "cd /sys/firmware/efi/efivars; for v in BootOrder-* BootCurrent-*; do echo $v $(od -An -tx2 -j4 $v); done; \
                    grep -laP 'F\\x00u\\x00r\\x00r\\x00o\\x00w\\x00\\x00' Boot0*; bootctl status --no-pager | grep -A5 'Title: Furrow'";
        let said = journey.shell(dump)?;
        let number = |name: &str| {
            let line = said.lines().find(|l| l.starts_with(name)).with_context(|| format!("no {name}: {said}"))?;
            Ok::<String, anyhow::Error>(line.split(' ').nth(1).unwrap_or("").to_owned())
        };
        let (first, current) = (number("BootOrder-")?, number("BootCurrent-")?);
        let entries: Vec<&str> = said.lines().filter(|l| l.starts_with("Boot0")).collect();
        let own = format!("Boot{}", current.to_uppercase());
        ensure!(entries.len() == 1 && entries[0].starts_with(&own) && first == current, "it has {said}");
        ensure!(said.contains("/EFI/systemd/systemd-bootx64.efi"), "bootctl says {said}");
        Ok(())
    });
    Ok(())
}

/// The medium with one byte of its boot image changed, on firmware that has the keys.
fn altered(layout: &Layout, journey: &Journey, checks: &mut Checks, iso: &Path) -> Result<()> {
    // Beside the medium is the boot loader as well.
    let image = iso.with_extension("efi");
    let changed = layout.dir.join("altered.iso");
    let mut machine = Machine::new(&layout.dir.join("m2"), &[])?;
    machine.set_firmware(Firmware::SecureBoot);
    machine.take_variables(&journey.machine)?;
    machine.insert(&changed, "altered");
    checks.check("an altered boot image does not start, and the firmware says why", || {
        std::fs::copy(iso, &changed)?;
        change_byte(&changed, &image)?;
        machine.start("")?;
        let at = machine.wait_for("Error loading", 0, 2 * MENU_S)?;
        // Denied, or a security violation: firmware may say either.
        let refused = ["enied", "iolation"].iter().any(|word| machine.wait_for(word, at, 3).is_ok());
        ensure!(refused, "no reason is given");
        ensure!(machine.wait_for("Linux version", 0, 5).is_err(), "a kernel was started");
        Ok(())
    });
    machine.power_cut();
    Ok(())
}

/// Changes a byte in the middle of a file that a medium holds in whole blocks.
fn change_byte(iso: &Path, part: &Path) -> Result<()> {
    const BLOCK: usize = 512;
    let content = std::fs::read(part)?;
    let middle = content.len() / 2 / BLOCK * BLOCK;
    let wanted = &content[middle..middle + BLOCK];
    let mut file = std::fs::File::options().read(true).write(true).open(iso)?;
    let mut buffer = vec![0; BLOCK << 12];
    let mut offset = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            bail!("{} does not hold {}", iso.display(), part.display());
        }
        if let Some(at) = buffer[..n].chunks(BLOCK).position(|block| block == wanted) {
            offset += (at * BLOCK) as u64;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(&[wanted[0] ^ 1])?;
            return Ok(());
        }
        offset += n as u64;
    }
}

/// Media from the server: one whose list of digests is signed by nobody we trust, and the one that runs already.
fn updates(journey: &Journey, checks: &mut Checks, iso: &Path, server: &Server) -> Result<()> {
    let ca = "/root/ca.pem";
    journey.machine.upload(&journey.key, &server.ca, ca)?;
    let update = |name: &str| {
        let line = format!("furrow-install update --no-reboot --ca {ca} https://{SERVER}/{name} 2>&1; echo code $?");
        journey.machine.shell_within(&journey.key, &line, 900)
    };
    let entries = || {
        let esp = "cd $(bootctl -p) && find . -type f -exec sha256sum {} + | sort -k2";
        journey.shell(&format!("{esp} && sha256sum < /dev/disk/by-partlabel/furrow-verity-b"))
    };
    checks.check("an update signed by another key is refused by name, with nothing written", || {
        let before = entries()?;
        foreign(iso, &server.directory.join("foreign.iso"))?;
        let said = update("foreign.iso")?;
        ensure!(said.contains(" MB fetched, ") && said.contains(" s left"), "no progress: {said}");
        ensure!(
            said.contains("not signed by the key that this system trusts (CN=") && said.contains("code 1"),
            "{said}"
        );
        ensure!(entries()? == before, "something was written");
        Ok(())
    });
    checks.check("an update by HTTPS is fetched and its signature taken", || {
        std::os::unix::fs::symlink(iso, server.directory.join("same.iso"))?;
        let said = update("same.iso")?;
        ensure!(said.contains("runs already"), "{said}");
        let left = journey.shell("ls -A /var/lib/furrow/update")?;
        ensure!(left.trim().is_empty(), "it leaves {left}");
        Ok(())
    });
    Ok(())
}

/// Firmware that has forgotten its variables, the entry and the keys with them.
fn fallback(journey: &Journey, checks: &mut Checks) {
    checks.check("without the firmware's entry the disk boots by the fallback path", || {
        journey.machine.power_cut();
        journey.machine.forget_variables()?;
        let from = journey.machine.console_end();
        journey.machine.start("")?;
        let at = journey.machine.wait_for("Linux version", from, 2 * MENU_S)?;
        let entry = journey.machine.wait_for("starting Boot", from, 1)?;
        ensure!(journey.machine.wait_for("\"Furrow\"", entry, 1).map_or(true, |other| other > at), "it has the entry");
        journey.machine.wait_for("writable layers on /dev/", at, BOOT_S).map(|_| ())
    });
}

/// A copy of a medium with another signature of the list of digests.
fn foreign(iso: &Path, copy: &Path) -> Result<()> {
    std::fs::copy(iso, copy)?;
    let find =
        ["xorriso", "-indev", &iso.display().to_string(), "-find", "/furrow/SHA256SUMS.sig", "-exec", "report_lba"];
    let report = host::run(&find)?;
    // Columns: extent, start block, blocks, size; blocks have 2048 bytes.
    let line = report.lines().find(|l| l.starts_with("File data lba:")).context("no signature on the medium")?;
    let block: u64 = line.split(',').nth(1).unwrap_or("").trim().parse().context("its place")?;
    let mut file = std::fs::File::options().write(true).open(copy)?;
    file.seek(SeekFrom::Start(block * 2048))?;
    file.write_all(&[0; 64])?;
    Ok(())
}
