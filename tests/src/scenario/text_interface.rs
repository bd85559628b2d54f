//! The installation by hand: a person at the serial console of a whole machine, who has arrow keys, goes back, mistypes,
//! and seals a secret by the machine's TPM in the medium's shell. And its end: the node is reset, over a power cut, and the
//! machine asks again as if it were new.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Checks;
use super::journey::{self, Journey};
use crate::host;
use crate::layout::Layout;
use crate::terminal::Terminal;

/// A question follows the last answer within this.
const ANSWER_S: u64 = 30;
const ENTER: &str = "Enter";
/// The password that is sealed.
const SEALED: &str = "sealed words";

pub(crate) fn run(source: &Path, checks: &mut Checks) -> Result<()> {
    let layout = Layout::new(source, "test/text-interface")?;
    let medium = journey::medium(&layout.source)?;
    let mut journey = journey::prepare(&layout, &medium, "")?;
    journey.machine.attach_tpm();
    journey.machine.start("furrow.by-hand")?;
    // After the boot menu, whose countdown any key would stop.
    journey.machine.wait_for("Linux version", 0, 300)?;
    let terminal = Terminal::open(&journey.machine.serial(), &layout.dir)?;
    let ask = |keys: &[&str], question: &str| {
        terminal.press(keys)?;
        terminal.expect(question, ANSWER_S)
    };
    checks.require("the medium asks on the serial console", || terminal.expect("Furrow: This machine", 400))?;
    let mut sealed = String::new();
    checks.require("in the shell below, the TPM seals a password, and an installation opens it", || {
        ask(&["Escape"], "A shell on the medium")?;
        sealed = seal(&journey, &terminal)?;
        terminal.type_text("clear; exit")?;
        terminal.press(&[ENTER])?;
        terminal.expect("Furrow: This machine", 120)
    })?;
    checks.require("disks are named, and Escape goes back", || {
        ask(&["Enter"], "Which disk does the system go to?")?;
        let screen = terminal.screen()?;
        ensure!(screen.contains("SYSTEM") && screen.contains("DATA"), "it shows {screen}");
        ask(&["Down"], "> /dev/vdb")?;
        ask(&["Up"], "> /dev/vda")?;
        ask(&["Escape"], "Furrow: This machine")?;
        ask(&["Enter"], "Which disk does the system go to?")
    })?;
    checks.require("storage, card and address are asked, with what the machine has offered", || {
        ask(&["Enter"], "Which disks does Ceph get?")?;
        ensure!(terminal.screen()?.contains("[x] /dev/vdb"), "the second disk is not offered: {}", terminal.screen()?);
        ask(&["Enter"], "Which card is the management network on?")?;
        ask(&["Enter"], "Its address")?;
        terminal.expect("10.0.2.15/24", ANSWER_S)
    })?;
    checks.require("names are typed, and kept when one goes back", || {
        ask(&[ENTER; 9], "host name")?;
        terminal.press(&["BSpace"])?;
        terminal.type_text("7")?;
        terminal.press(&["Enter"])?;
        terminal.type_text("a long secret")?;
        terminal.press(&["Enter"])?;
        terminal.type_text("a long secret")?;
        terminal.press(&["Enter"])?;
        terminal.type_text(std::fs::read_to_string(journey.key.with_extension("pub"))?.trim())?;
        ask(&["Escape"], "Its address")?;
        ask(&[ENTER; 9], "node-7")
    })?;
    checks.require("the summary wants the word, and says what is wrong", || {
        ask(&[ENTER; 7], "Type `install` to install")?;
        ensure!(!terminal.screen()?.contains("secret"), "the password is shown: {}", terminal.screen()?);
        terminal.type_text("yes")?;
        ask(&["Enter"], "type `install` and press Enter")?;
        terminal.press(&["BSpace", "BSpace", "BSpace"])?;
        terminal.type_text("install")?;
        ask(&["Enter"], "Furrow: Installing")
    })?;
    checks.require("it installs, with bytes and time left", || {
        terminal.expect("s left", 120)?;
        terminal.expect("Installed.", 400)
    })?;
    let from = journey.machine.console_end();
    checks.require("the machine boots from its disk as that node", || {
        terminal.press(&["Enter"])?;
        journey.machine.wait_for("writable layers on /dev/", from, 400)?;
        host::until("ssh", Duration::from_secs(300), || {
            let name = journey.shell("hostname; systemctl show -P ActiveState furrow-bootstrap")?;
            ensure!(name.starts_with("node-7\nactivat"), "it says {name}");
            Ok(())
        })
    })?;
    checks.check("the installed system opens what the medium has sealed, and makes it root's password", || {
        unseal(&journey, &sealed)
    });
    // The machine has one serial line.
    drop(terminal);
    reset(&journey, &layout, from, checks)?;
    journey.machine.power_cut();
    let _ = std::fs::remove_dir_all(&layout.dir);
    Ok(())
}

/// The node is made blank again. `booted`: where the console was when it began to boot from its disk.
fn reset(journey: &Journey, layout: &Layout, booted: usize, checks: &mut Checks) -> Result<()> {
    let machine = &journey.machine;
    checks.require("a reset names what it erases, and wants the node's name", || {
        machine.wait_for("ceph-osds: done", booted, 1500)?;
        let plan = journey.shell("furrow reset --dry-run")?;
        ensure!(plan.contains("serial SYSTEM): the system") && plan.contains("serial DATA): osd.0"), "it plans {plan}");
        let said = journey.shell("echo node-8 | furrow reset 2>&1 || true")?;
        ensure!(said.contains("that is not the node's name"), "it says {said}");
        Ok(())
    })?;
    checks.require("one that a power cut ends goes on, and leaves blank disks to the medium", || {
        let from = machine.console_end();
        journey.shell("furrow reset --yes")?;
        machine.wait_for("services: stop", from, 300)?;
        machine.power_cut();
        let from = machine.console_end();
        machine.start("furrow.by-hand")?;
        let at = machine.wait_for("partition-table: done", from, 900)?;
        machine.wait_for("Linux version", at, 300)?;
        let terminal = Terminal::open(&machine.serial(), &layout.dir)?;
        terminal.expect("Furrow: This machine", 400)?;
        terminal.press(&[ENTER])?;
        terminal.expect("Which disk does the system go to?", ANSWER_S)?;
        terminal.expect("SYSTEM: empty", ANSWER_S)?;
        terminal.press(&[ENTER])?;
        terminal.expect("DATA: empty", ANSWER_S)?;
        Ok(())
    })
}

/// Seals a password in the medium's shell, and plans an installation by a node.yaml that refers to it. Returns what was
/// printed.
fn seal(journey: &Journey, terminal: &Terminal) -> Result<String> {
    let enter = |line: &str, expected: &str, seconds| {
        terminal.type_text(line)?;
        terminal.press(&[ENTER])?;
        terminal.expect(expected, seconds)
    };
    // What a line is to print is written so that the line itself does not show it.
    enter("furrow-install seal admin.passwordHash >/tmp/sealed; echo code=$?", "root's password:", ANSWER_S)?;
    enter(SEALED, "again:", ANSWER_S)?;
    enter(SEALED, "code=0", 120)?;
    ensure!(!terminal.screen()?.contains(SEALED), "the password is shown: {}", terminal.screen()?);
    enter("clear; mount /dev/disk/by-label/FURROW-CONFIG /mnt; echo mounted=$?", "mounted=0", ANSWER_S)?;
    let edit = r#"sed "s|^admin:|&\n  passwordHash: {sealed: $(cat /tmp/sealed)}|" /mnt/node.yaml >/tmp/node.yaml"#;
    enter(&format!("{edit}; umount /mnt; echo edited=$?"), "edited=0", ANSWER_S)?;
    let plan = "furrow-install install --dry-run --file /tmp/node.yaml";
    enter(&format!("{plan} | grep -c \"root's password\"; echo code=${{PIPESTATUS[0]}},$?"), "code=0,0", 240)?;
    // A busy serial line loses letters now and then.
    for _ in 0..5 {
        let from = journey.machine.console_end();
        enter("clear; echo BEGIN=$((1)); sha256sum </tmp/sealed; cat /tmp/sealed; echo END=$((1))", "END=1", ANSWER_S)?;
        let said = journey.machine.console_from(from);
        let text =
            said.split("BEGIN=1").nth(1).and_then(|rest| rest.split("END=1").next()).context("no sealed text")?;
        let (sum, sealed) = text.trim().split_once("  -").context("no sum of the sealed text")?;
        let sealed = format!("{}\n", sealed.trim());
        let ours = host::run_with(&["sha256sum"], &sealed, Duration::from_secs(10))?.ok("sha256sum")?;
        if ours.starts_with(sum) {
            return Ok(sealed);
        }
    }
    bail!("the sealed text does not come over the serial line")
}

/// Gives the installed node's node.yaml what was sealed, and looks at root's password.
fn unseal(journey: &Journey, sealed: &str) -> Result<()> {
    let file = journey.dir.join("sealed");
    std::fs::write(&file, sealed)?;
    journey.machine.upload(&journey.key, &file, "/root/sealed")?;
    let line = "systemctl stop furrow-bootstrap; \
                sed -i \"s|passwordHash:.*|passwordHash: {sealed: $(cat /root/sealed)}|\" /etc/furrow/node.yaml && \
                furrow-install bootstrap --until settings >/dev/null && getent shadow root | cut -d: -f2; \
                systemctl start --no-block furrow-bootstrap";
    let hash = journey.machine.shell_within(&journey.key, line, 300)?;
    let salt = hash.split('$').nth(2).with_context(|| format!("root has the password {hash}"))?;
    let expected = host::run(&["openssl", "passwd", "-6", "-salt", salt, SEALED])?;
    ensure!(hash.trim() == expected.trim(), "root's password is another one");
    Ok(())
}
