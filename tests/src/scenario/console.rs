//! The console of a node, on a terminal of 80 columns and 24 lines: its state, a network that is tried and comes back by
//! itself, also over a power cut, one that is kept, logs, and what asks for root's password.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::bootstrap::booted;
use crate::host;
use crate::node_box::NodeBox;
use crate::terminal::Terminal;
use crate::testbed::Testbed;

/// A page follows a key within this, on two busy cores.
const ANSWER_S: u64 = 30;
/// The trial's 60 s, and what two busy cores add.
const BACK: Duration = Duration::from_secs(90);
/// What the console may keep for ever on every node, KiB. Pages of files do not count: of Ceph's library most are those that
/// Ceph's daemons have in memory as well.
const MAX_OWN_KIB: u64 = 8 * 1024;
/// What it may take of one processor, with the programs that it asks.
const MAX_PERCENT: f64 = 5.0;

const OLD: &str = "10.77.0.11";
const NEW: &str = "10.77.0.99";

struct Story<'a> {
    bed: &'a Testbed,
    node: &'a NodeBox,
    dir: PathBuf,
}

pub(crate) fn run(bed: &Testbed, checks: &mut Checks) -> Result<()> {
    let story = Story { bed, node: bed.node(), dir: bed.layout().dir.clone() };
    checks.require("a box with the bootstrap held back is on", || {
        bed.hold_bootstrap()?;
        bed.power_on()?;
        booted(story.node)
    })?;
    checks.require("a network of node.yaml is applied and confirmed from a shell", || story.static_network())?;
    let mut terminal = story.console()?;
    checks.require("the console shows the node's state with reasons", || {
        terminal.expect(&format!("{OLD} on eth0"), ANSWER_S)?;
        terminal.expect("n1 IS NOT WELL", ANSWER_S)?;
        terminal.expect("node-ready is not", ANSWER_S)
    })?;
    checks.require("a network that cannot be is refused, and nothing changes", || story.refused(&terminal))?;
    checks.require("a network that nobody confirms comes back by itself", || story.comes_back(&terminal))?;
    checks.require("after a power cut it is the old one before networkd starts", || story.power_cut(&terminal))?;
    terminal = story.console()?;
    checks.require("a network that is confirmed stays", || story.stays(&terminal))?;
    checks.check("the log of the chosen part follows its units", || story.logs(&terminal));
    checks.check("it needs little memory and processor time", || story.costs());
    checks.check("a reset is refused where the system has no disk of its own", || {
        terminal.press(&["x"])?;
        terminal.expect("does not run from an installed disk", ANSWER_S)?;
        terminal.press(&["Escape"])
    });
    checks.check("without a password of root there is no shell", || {
        terminal.press(&["s"])?;
        terminal.expect("root has no password", ANSWER_S)
    });
    checks.check("with one, it is asked for, and a wrong one is refused", || story.password(&mut terminal));
    Ok(())
}

impl Story<'_> {
    /// As the installer writes it on a server, instead of the testbed's.
    fn static_network(&self) -> Result<()> {
        self.node.shell(&format!(
            "sed -i 's|  address: {OLD}|&\\n  prefixLength: 24\\n  gateway: 10.77.0.1|' /etc/furrow/node.yaml"
        ))?;
        self.node.shell("rm /etc/systemd/network/10-box.network")?;
        let said = self.node.shell("furrow-install network apply && furrow-install network confirm")?;
        ensure!(said.contains("the new network stays"), "it said {said}");
        self.has(OLD)
    }

    /// The console on a terminal.
    fn console(&self) -> Result<Terminal> {
        // On a terminal of the box's own: `login` refuses one that it does not find below its /dev.
        let entry = self.node.entry()?.join(" ");
        Terminal::run(&format!("{entry} script -qc 'exec furrow-install console' /dev/null"), &self.dir)
    }

    fn address(&self) -> Result<String> {
        self.node.shell("ip -4 -brief address show dev eth0")
    }

    fn has(&self, address: &str) -> Result<()> {
        host::until(&format!("eth0 to have {address}"), Duration::from_secs(20), || {
            let now = self.address()?;
            ensure!(now.contains(&format!(" {address}/24")), "it has {now}");
            Ok(())
        })
    }

    fn node_yaml_says(&self, address: &str) -> Result<()> {
        let text = self.node.shell("cat /etc/furrow/node.yaml")?;
        ensure!(text.contains(address), "node.yaml: {text}");
        Ok(())
    }

    /// Fills the form's address and sends it.
    fn try_address(&self, terminal: &Terminal, from: &str, to: &str) -> Result<()> {
        terminal.press(&["n"])?;
        terminal.expect("< static >", ANSWER_S)?;
        terminal.press(&["Down"])?;
        terminal.press(&vec!["BSpace"; from.len() + "/24".len()])?;
        terminal.type_text(&format!("{to}/24"))?;
        terminal.press(&["Down"; 9])?;
        terminal.press(&["Enter"])
    }

    fn refused(&self, terminal: &Terminal) -> Result<()> {
        terminal.press(&["n"])?;
        terminal.expect("< static >", ANSWER_S)?;
        terminal.press(&["Down"; 9])?;
        terminal.type_text("7")?;
        terminal.press(&["Down", "Enter"])?;
        terminal.expect("there is no network card eth07", ANSWER_S)?;
        terminal.press(&["Escape"])?;
        ensure!(!self.is_armed()?, "a trial is armed");
        self.has(OLD)
    }

    fn is_armed(&self) -> Result<bool> {
        let armed = self.node.shell("test -e /var/lib/furrow/network/trial.json && echo yes || echo no")?;
        Ok(armed.trim() == "yes")
    }

    fn comes_back(&self, terminal: &Terminal) -> Result<()> {
        self.try_address(terminal, OLD, NEW)?;
        terminal.expect("the old one comes back by itself", ANSWER_S)?;
        let begun = Instant::now();
        self.has(NEW)?;
        let timer = self.node.shell("systemctl is-active furrow-network-trial.timer")?;
        ensure!(timer.trim() == "active" && self.is_armed()?, "the way back is not armed: {timer}");
        host::until("the old address", BACK, || {
            let now = self.address()?;
            ensure!(now.contains(OLD), "it has {now}");
            Ok(())
        })?;
        println!("         the old network is back after {:.0} s", begun.elapsed().as_secs_f64());
        ensure!(begun.elapsed() > Duration::from_secs(45), "it came back too early");
        terminal.expect("the network is as it was before the change", ANSWER_S)?;
        self.node_yaml_says(OLD)?;
        ensure!(!self.is_armed()?, "the record is still there");
        Ok(())
    }

    fn power_cut(&self, terminal: &Terminal) -> Result<()> {
        self.try_address(terminal, OLD, NEW)?;
        terminal.expect("the old one comes back by itself", ANSWER_S)?;
        self.has(NEW)?;
        self.node.power_cut(self.bed.lan());
        self.bed.power_on()?;
        booted(self.node)?;
        self.has(OLD)?;
        self.node_yaml_says(OLD)?;
        let log = self.node.shell("journalctl --boot --unit furrow-network-rollback --output cat")?;
        ensure!(log.contains("the old network is back"), "its journal: {log}");
        Ok(())
    }

    fn stays(&self, terminal: &Terminal) -> Result<()> {
        self.try_address(terminal, OLD, NEW)?;
        terminal.expect("the old one comes back by itself", ANSWER_S)?;
        terminal.press(&["k"])?;
        terminal.expect("the new network stays", ANSWER_S)?;
        ensure!(!self.is_armed()?, "the way back is still armed");
        // The trial's time, and a little more.
        std::thread::sleep(Duration::from_secs(65));
        self.has(NEW)?;
        self.node_yaml_says(NEW)?;
        terminal.expect(&format!("{NEW} on eth0"), ANSWER_S)
    }

    fn logs(&self, terminal: &Terminal) -> Result<()> {
        terminal.press(&["l"])?;
        terminal.expect("log of furrow ", ANSWER_S)?;
        for name in ["kubernetes", "ceph", "libvirt", "open vswitch", "network", "kernel", "all"] {
            terminal.press(&["Right"])?;
            terminal.expect(&format!("log of {name} "), ANSWER_S)?;
        }
        self.node.shell("logger a-line-of-the-test")?;
        terminal.expect("a-line-of-the-test", ANSWER_S)?;
        terminal.press(&["Escape"])
    }

    fn costs(&self) -> Result<()> {
        // Its own and that of the programs that it has asked and that have ended: clock ticks.
        let read = "cat /proc/$(pgrep -f -x 'furrow-install console')/";
        let ticks = || -> Result<u64> {
            let stat = self.node.shell(&format!("{read}stat"))?;
            let after = stat.rsplit_once(')').context("no stat")?.1;
            Ok(after.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum())
        };
        let (before, begun) = (ticks()?, Instant::now());
        std::thread::sleep(Duration::from_secs(60));
        let percent = (ticks()? - before) as f64 / begun.elapsed().as_secs_f64();
        let status = self.node.shell(&format!("{read}status"))?;
        let kib = |key: &str| -> Option<u64> {
            status.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
        };
        let (all, own) = (kib("VmRSS:").context("no VmRSS")?, kib("RssAnon:").context("no RssAnon")?);
        println!("         {all} KiB resident, {own} of them its own; {percent:.1} % of a processor");
        ensure!(own < MAX_OWN_KIB, "{own} KiB are its own");
        ensure!(percent < MAX_PERCENT, "it takes {percent:.1} % of a processor");
        Ok(())
    }

    fn password(&self, terminal: &mut Terminal) -> Result<()> {
        self.node.shell("echo 'root:a long secret' | chpasswd")?;
        terminal.press(&["q"])?;
        *terminal = self.console()?;
        terminal.expect(&format!("{NEW} on eth0"), ANSWER_S)?;
        terminal.press(&["r"])?;
        terminal.expect("This needs root's password", ANSWER_S)?;
        terminal.type_text("a wrong one")?;
        terminal.press(&["Enter"])?;
        terminal.expect("that is not root's password", ANSWER_S)?;
        terminal.type_text("a long secret")?;
        terminal.press(&["Enter"])?;
        terminal.expect("Type `restart`", ANSWER_S)?;
        terminal.press(&["Escape", "s"])?;
        terminal.expect("Password:", ANSWER_S)?;
        terminal.type_text("a long secret")?;
        terminal.press(&["Enter"])?;
        terminal.expect("root@n1", ANSWER_S)
    }
}
