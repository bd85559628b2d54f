//! A LAN to install machines on, in a network namespace of its own, and on it `furrow-install pxe serve` of the node image,
//! in the image's own root with its own dnsmasq and iPXE.
//!
//! ```text
//!  namespace <id>-pxe:  br0 10.79.0.1/24 ─┬─ tap1 ── machine
//!                       (pxe serve)       └─ tap2 ── machine
//! ```
//! The root lies below a throw-away overlay in a private mount namespace. Nothing here touches the build host's own network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::{self, Output, run, run_quietly, run_with, spawn_detached};
use crate::layout::{Layout, living_pid};
use crate::machine::SSH_OPTIONS;

/// The bridge.
pub(crate) const BRIDGE: &str = "br0";
/// The server's address on it.
pub(crate) const ADDRESS: &str = "10.79.0.1";
/// Enters the image's root: root, directory for what is written, directory with the medium, program and arguments.
const ENTER: &str = r#"
set -eu
root=$1 dir=$2 medium=$3
shift 3
mkdir -p "$dir/upper" "$dir/work" "$dir/merged"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$dir/merged"
cd "$dir/merged"
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mkdir run/medium run/answers
mount --bind "$medium" run/medium
mount --bind "$dir/answers" run/answers
exec chroot . "$@"
"#;

/// The LAN, and the server on it.
pub(crate) struct Provisioning {
    netns: String,
    dir: PathBuf,
    root: PathBuf,
    medium: PathBuf,
}

impl Provisioning {
    /// Makes the LAN, with `taps` taps. `root`: the node image's; `medium`: the directory with the ISO file.
    pub(crate) fn up(layout: &Layout, root: &Path, medium: &Path, taps: u8) -> Result<Provisioning> {
        let lan = Provisioning {
            netns: layout.global("pxe"),
            dir: layout.part("server")?,
            root: root.to_owned(),
            medium: medium.to_owned(),
        };
        lan.down();
        std::fs::create_dir_all(lan.dir.join("answers"))?;
        run(&["ip", "netns", "add", &lan.netns])?;
        lan.ip(&["link", "set", "lo", "up"])?;
        lan.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        lan.ip(&["addr", "add", &format!("{ADDRESS}/24"), "dev", BRIDGE])?;
        lan.ip(&["link", "set", BRIDGE, "up"])?;
        for tap in (1..=taps).map(|n| format!("tap{n}")) {
            lan.ip(&["tuntap", "add", &tap, "mode", "tap"])?;
            lan.ip(&["link", "set", &tap, "master", BRIDGE, "up"])?;
        }
        Ok(lan)
    }

    /// Name of its namespace.
    pub(crate) fn netns(&self) -> &str {
        &self.netns
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        run(&[&["ip", "-n", &self.netns], args].concat()).map(|_| ())
    }

    /// Leaves a file where the server sees it, and returns its path there.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<String> {
        std::fs::write(self.dir.join("answers").join(name), text)?;
        Ok(format!("/run/answers/{name}"))
    }

    fn argv(&self, args: &[&str]) -> Vec<String> {
        let net = format!("--net=/run/netns/{}", self.netns);
        let [root, dir, medium] = [&self.root, &self.dir, &self.medium].map(|path| path.display().to_string());
        let head = ["nsenter", &net, "unshare", "--mount", "--propagation", "private", "bash", "-c", ENTER, "enter"];
        let own = [root.as_str(), &dir, &medium, "/usr/bin/furrow-install", "pxe"];
        [&head, own.as_slice(), args].concat().iter().map(|word| (*word).to_owned()).collect()
    }

    /// `furrow-install pxe ...` that ends by itself, while no server runs.
    pub(crate) fn alone(&self, args: &[&str]) -> Result<Output> {
        let argv = self.argv(args);
        run_with(&argv.iter().map(String::as_str).collect::<Vec<_>>(), "", Duration::from_secs(60))
    }

    /// Starts `furrow-install pxe serve ...`.
    pub(crate) fn serve(&self, args: &[&str]) -> Result<()> {
        let argv = self.argv(&[&["serve"], args].concat());
        let pid = spawn_detached(&argv.iter().map(String::as_str).collect::<Vec<_>>(), &[], &self.log_file())?;
        std::fs::write(self.dir.join("pid"), pid.to_string())?;
        self.wait_for("serving", 60)
    }

    /// `furrow-install pxe ...` beside the server.
    pub(crate) fn beside(&self, args: &[&str]) -> Result<Output> {
        let pid = self.pid().context("the server does not run")?.to_string();
        let head = ["nsenter", "-t", &pid, "--mount", "--net", "--root", "--wd", "/usr/bin/furrow-install", "pxe"];
        run_with(&[&head, args].concat(), "", Duration::from_secs(30))
    }

    fn pid(&self) -> Option<i32> {
        living_pid(&self.dir.join("pid"))
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("serve.log")
    }

    /// What the server has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until the server says so.
    pub(crate) fn wait_for(&self, wanted: &str, seconds: u64) -> Result<()> {
        host::until("the server's word", Duration::from_secs(seconds), || {
            let log = self.log();
            ensure!(log.contains(wanted), "it has not said `{wanted}`: {}", host::tail(&log, 800));
            Ok(())
        })
    }

    /// Asks the server to end, and says which processes are left on its LAN.
    pub(crate) fn end(&self) -> Result<String> {
        let pid = self.pid().context("the server does not run")?;
        host::kill(pid, libc::SIGTERM);
        host::ended("the server", pid, Duration::from_secs(20))?;
        run(&["ip", "netns", "pids", &self.netns])
    }

    /// Runs a shell line as root on a machine of the LAN.
    pub(crate) fn shell(&self, key: &Path, address: &str, line: &str) -> Result<String> {
        let (net, key) = (format!("--net=/run/netns/{}", self.netns), key.display().to_string());
        let target = format!("root@{address}");
        let argv = [&["nsenter", &net, "ssh", "-i", &key], SSH_OPTIONS.as_slice(), &[&target, line]].concat();
        run_with(&argv, "", Duration::from_secs(60))?.ok(&format!("`{line}` on {address}"))
    }

    /// Removes server and LAN.
    pub(crate) fn down(&self) {
        if let Some(pid) = self.pid() {
            host::kill(pid, libc::SIGTERM);
            if host::ended("the server", pid, Duration::from_secs(10)).is_err() {
                host::kill(pid, libc::SIGKILL);
            }
        }
        run_quietly(&["ip", "netns", "del", &self.netns]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Provisioning {
    fn drop(&mut self) {
        self.down();
    }
}
