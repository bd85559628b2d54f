//! A box: the node image booted by systemd-nspawn, with the state of a machine of its own.
//!
//! ```text
//! absent --create--> off --start--> on --(halt | power cut)--> off --remove--> absent
//! ```
//! What persists over a power cut is what persists on a server: `/etc` (an overlay's upper directory), `/var`
//! (a directory) and the disk for Ceph (a loop device on a sparse file). What only a box needs is put in by
//! [`crate::inject`]; the image itself knows nothing of boxes.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{self, Output, run, run_quietly, run_with, spawn_detached};
use crate::inject::{self, Join, NodeConfig};
use crate::lan::Lan;
use crate::layout::{Layout, living_pid};

/// Size of the sparse file behind a box's OSD. Large enough for the scenarios' images, replicas one.
const DISK_SIZE: &str = "24G";

/// Control groups that runc and libvirt write to; nspawn makes each box a group of its own in every one of them.
const CONTROLLERS: [&str; 9] = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "systemd"];

/// One node of a testbed.
#[derive(Clone)]
pub(crate) struct NodeBox {
    layout: Layout,
    number: u8,
    name: String,
    dir: PathBuf,
    lower: String,
    vip: Option<Ipv4Addr>,
}

impl NodeBox {
    /// Node `number` (from 1) of a testbed on the image whose overlay layers are `lower`. `vip`: the servers' common
    /// address, if there are several.
    pub(crate) fn new(layout: &Layout, number: u8, lower: &str, vip: Option<Ipv4Addr>) -> Result<NodeBox> {
        let (name, lower) = (format!("n{number}"), lower.to_owned());
        Ok(NodeBox { dir: layout.part(&name)?, layout: layout.clone(), number, name, lower, vip })
    }

    /// Whether it has ever been switched on.
    pub(crate) fn is_made(&self) -> bool {
        self.file("created").exists()
    }

    /// Its address on the management network.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Layout::node_address(self.number)
    }

    /// Host name of the node, and its name in Kubernetes.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Name of its network namespace.
    pub(crate) fn netns(&self) -> String {
        self.layout.global(&self.name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What the box writes to its console.
    pub(crate) fn console(&self) -> PathBuf {
        self.file("console.log")
    }

    /// Pid of the box's init as the build host sees it, if the box is on.
    pub(crate) fn leader(&self) -> Option<i32> {
        let supervisor = living_pid(&self.file("nspawn.pid"))?;
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Switches the box on, making what is missing; `join` counts at the first time only. A box that is on stays as it is.
    pub(crate) fn start(&self, lan: &Lan, join: Option<&Join>) -> Result<()> {
        if self.leader().is_some() {
            return Ok(());
        }
        let started = Instant::now();
        self.clean_up(lan);
        self.mount_root()?;
        let disk = self.attach_disk()?;
        if !self.is_made() {
            inject::all(&NodeConfig {
                root: &self.file("root"),
                var: &self.file("var"),
                number: self.number,
                disk: &disk,
                vip: self.vip,
                join,
            })?;
            std::fs::write(self.file("created"), "")?;
        }
        inject::disk(&self.file("root"), &disk)?;
        self.disable_held()?;
        let netns = self.netns();
        run(&["ip", "netns", "add", &netns])?;
        run(&["ip", "-n", &netns, "link", "set", "lo", "up"])?;
        lan.connect_box(&netns, &self.name, self.number)?;
        self.spawn(&disk)?;
        host::until("the box's init", Duration::from_secs(20), || self.leader().context("no init yet"))?;
        host::progress(started, &format!("box {} is on", self.name));
        Ok(())
    }

    /// Gives a running box another token, as an administrator edits node.yaml whose token was refused.
    pub(crate) fn rejoin(&self, join: &Join) -> Result<()> {
        let text = inject::with_join(&self.shell("cat /etc/furrow/node.yaml")?, join);
        let write = ["sh", "-c", "cat > /etc/furrow/node.yaml"];
        self.exec_with(&write, &text, Duration::from_secs(10))?.ok(&format!("node.yaml of {}", self.name))?;
        self.shell("systemctl restart --no-block furrow-bootstrap").map(|_| ())
    }

    /// Makes the next start boot without this unit; it can be started by hand.
    pub(crate) fn hold(&self, unit: &str) -> Result<()> {
        std::fs::write(self.file("held"), unit).context("could not hold a unit back")
    }

    fn disable_held(&self) -> Result<()> {
        let Ok(unit) = std::fs::read_to_string(self.file("held")) else { return Ok(()) };
        for target in ["multi-user.target.wants", "basic.target.wants", "sysinit.target.wants"] {
            let _ = std::fs::remove_file(self.file("root").join("etc/systemd/system").join(target).join(&unit));
        }
        Ok(())
    }

    fn mount_root(&self) -> Result<()> {
        let [upper, work, root] = ["upper", "work", "root"].map(|d| self.file(d));
        for dir in [&upper, &work, &root] {
            std::fs::create_dir_all(dir)?;
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", self.lower, upper.display(), work.display());
        run(&["mount", "-t", "overlay", "overlay", "-o", &options, &root.display().to_string()])?;
        let var = self.file("var");
        if !var.exists() {
            run(&["cp", "-a", &root.join("var").display().to_string(), &var.display().to_string()])?;
        }
        Ok(())
    }

    fn attach_disk(&self) -> Result<String> {
        let image = self.file("osd.img").display().to_string();
        run(&["truncate", "-s", DISK_SIZE, &image])?;
        Ok(run(&["losetup", "--find", "--show", &image])?.trim().to_owned())
    }

    /// nspawn is started within the node's network namespace instead of being told its path: only then is the `/sys`
    /// that it mounts the one of that namespace, and udev and networkd see the node's own links.
    fn spawn(&self, disk: &str) -> Result<()> {
        let group = self.netns();
        let script = format!(
            "for c in {controllers}; do d=/sys/fs/cgroup/$c; [ -d $d ] || continue; mkdir -p $d/{group}; \
             if [ $c = cpuset ]; then for f in cpus mems; do cat $d/cpuset.$f > $d/{group}/cpuset.$f; done; fi; \
             echo $$ > $d/{group}/cgroup.procs; done; exec nsenter --net=/run/netns/{group} systemd-nspawn \"$@\"",
            controllers = CONTROLLERS.join(" "),
        );
        let args = [
            "--boot".to_owned(),
            "--keep-unit".into(),
            "--register=no".into(),
            "--quiet".into(),
            format!("--directory={}", self.file("root").display()),
            format!("--bind={}:/var", self.file("var").display()),
            "--capability=all".into(),
            // runc gives each container a session keyring; nspawn refuses keyrings unless told.
            "--system-call-filter=@keyring".into(),
            "--console=pipe".into(),
            "--bind=/dev/net/tun".into(),
            "--bind=/dev/fuse".into(),
            "--bind=/dev/loop-control".into(),
            format!("--bind={disk}"),
            "--resolv-conf=off".into(),
            "--timezone=off".into(),
            "--link-journal=no".into(),
            "--kill-signal=SIGRTMIN+3".into(),
            "--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1".into(),
            format!("--machine={}", self.name),
        ];
        let mut argv = vec!["bash", "-c", &script, "box"];
        argv.extend(args.iter().map(String::as_str));
        let env = [("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "0"), ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")];
        let pid = spawn_detached(&argv, &env, &self.console())?;
        std::fs::write(self.file("nspawn.pid"), pid.to_string())?;
        Ok(())
    }

    /// Runs a command in the box, as its root.
    pub(crate) fn exec(&self, argv: &[&str], timeout: Duration) -> Result<Output> {
        self.exec_with(argv, "", timeout)
    }

    /// Runs a command in the box with something on its standard input.
    pub(crate) fn exec_with(&self, argv: &[&str], stdin: &str, timeout: Duration) -> Result<Output> {
        let entry = self.entry()?;
        let entry: Vec<&str> = entry.iter().map(String::as_str).collect();
        run_with(&[entry.as_slice(), argv].concat(), stdin, timeout)
    }

    /// What stands before a command that is to run in the box.
    pub(crate) fn entry(&self) -> Result<Vec<String>> {
        let leader = self.leader().with_context(|| format!("box {} is off", self.name))?.to_string();
        let head = ["nsenter", "-t", &leader, "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w"];
        let env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"];
        Ok([head.as_slice(), &env].concat().into_iter().map(str::to_owned).collect())
    }

    /// Runs a shell line in the box and returns its output; a failure is an error.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        self.exec(&["sh", "-c", line], Duration::from_secs(60))?.ok(&format!("`{line}` on {}", self.name))
    }

    /// The process of a unit, which changes when it dies.
    pub(crate) fn main_pid(&self, unit: &str) -> Result<String> {
        let pid = self.shell(&format!("systemctl show -P MainPID {unit}"))?.trim().to_owned();
        ensure!(!pid.is_empty() && pid != "0", "{unit} does not run");
        Ok(pid)
    }

    /// Memory of a unit's process, KiB: the line `field` of its file `file` in /proc.
    pub(crate) fn memory_kib(&self, unit: &str, (file, field): (&str, &str)) -> Result<u64> {
        let pid = self.main_pid(unit)?;
        let text = self.shell(&format!("awk '/^{field}:/ {{print $2}}' /proc/{pid}/{file}"))?;
        text.trim().parse().with_context(|| format!("{field} of {unit}: {text:?}"))
    }

    /// Shuts the box down as its power button would.
    pub(crate) fn halt(&self, lan: &Lan) {
        if let (Some(supervisor), Some(leader)) = (living_pid(&self.file("nspawn.pid")), self.leader()) {
            // SIGRTMIN+4 is systemd's poweroff.target.
            host::kill(leader, libc::SIGRTMIN() + 4);
            let _ = host::ended("the box", supervisor, Duration::from_secs(60));
        }
        self.power_cut(lan);
    }

    /// Ends every process of the box at once, as a power cut does, and frees what the build host held for it. Off the
    /// LAN first: a machine without power says goodbye to no peer.
    pub(crate) fn power_cut(&self, lan: &Lan) {
        lan.disconnect_box(&self.name);
        if let Some(leader) = self.leader() {
            host::kill(leader, libc::SIGKILL);
        }
        if let Some(supervisor) = living_pid(&self.file("nspawn.pid"))
            && host::ended("nspawn", supervisor, Duration::from_secs(20)).is_err()
        {
            host::kill(supervisor, libc::SIGKILL);
        }
        self.clean_up(lan);
    }

    fn clean_up(&self, lan: &Lan) {
        let _ = std::fs::remove_file(self.file("nspawn.pid"));
        lan.disconnect_box(&self.name);
        run_quietly(&["ip", "netns", "del", &self.netns()]);
        run_quietly(&["umount", "--recursive", &self.file("root").display().to_string()]);
        let image = self.file("osd.img");
        if let Ok(list) = run(&["losetup", "--noheadings", "--output", "NAME", "-j", &image.display().to_string()]) {
            for device in list.split_whitespace() {
                run_quietly(&["losetup", "-d", device]);
            }
        }
        for controller in CONTROLLERS {
            let group = format!("/sys/fs/cgroup/{controller}/{}", self.netns());
            run_quietly(&["find", &group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        }
    }

    /// Switches the box off and removes its state.
    pub(crate) fn remove(&self, lan: &Lan) -> Result<()> {
        self.power_cut(lan);
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("could not remove {}", self.dir.display()))?;
        std::fs::create_dir_all(&self.dir)?;
        Ok(())
    }

    /// Saves the node's journal beside the testbed's state and returns where.
    pub(crate) fn save_journal(&self) -> Result<PathBuf> {
        let path = self.file("journal.log");
        let text = self.exec(&["journalctl", "--no-pager", "-o", "short-precise"], Duration::from_secs(60))?.stdout;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// A file of the node, as the build host sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        match inside.strip_prefix("/var/") {
            Some(rest) => self.file("var").join(rest),
            None => self.file("root").join(inside.trim_start_matches('/')),
        }
    }
}

/// Makes `link` point to `target`, replacing what is there.
pub(crate) fn relink(target: &str, link: &Path) -> Result<()> {
    let _ = std::fs::remove_file(link);
    symlink(target, link).with_context(|| format!("could not link {}", link.display()))
}
