//! The one-node appliance as a box: image, LAN, node, and the way in from the build host.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::host::{self, spawn_detached};
use crate::lan::Lan;
use crate::layout::{Layout, living_pid};
use crate::node_box::NodeBox;

/// A cold bootstrap on two busy cores takes about a minute; beyond this something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(420);

/// A testbed with one node.
pub(crate) struct Appliance {
    layout: Layout,
    lan: Lan,
    node: NodeBox,
    base: PathBuf,
}

impl Appliance {
    /// The appliance of this name, on `image` or else on the image built from the checkout as it is now.
    /// An appliance that is on keeps the image it was started with.
    pub(crate) fn new(source: &Path, name: &str, image: Option<&Path>) -> Result<Appliance> {
        let layout = Layout::new(source, name)?;
        if let Ok(running) = Appliance::existing(source, name)
            && running.node.leader().is_some()
        {
            return Ok(running);
        }
        let lower = match image {
            Some(root) => root.canonicalize().context("no such image")?.display().to_string(),
            None => build_image(&layout.source)?,
        };
        std::fs::write(layout.dir.join("lower"), &lower)?;
        Appliance::on(layout, &lower)
    }

    /// The appliance of this name as it was started, on the image that it was started with.
    pub(crate) fn existing(source: &Path, name: &str) -> Result<Appliance> {
        let layout = Layout::new(source, name)?;
        let lower = std::fs::read_to_string(layout.dir.join("lower"))
            .with_context(|| format!("there is no appliance `{name}`; start it with `make run`"))?;
        Appliance::on(layout, &lower)
    }

    fn on(layout: Layout, lower: &str) -> Result<Appliance> {
        let base = PathBuf::from(lower.rsplit(':').next().unwrap_or(lower));
        Ok(Appliance { lan: Lan::new(&layout, &base)?, node: NodeBox::new(&layout, 1, lower)?, base, layout })
    }

    /// Node 1.
    pub(crate) fn node(&self) -> &NodeBox {
        &self.node
    }

    /// The test LAN.
    pub(crate) fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Names and directories of this testbed.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// kubectl from the build host.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.k3s(), &self.layout.kubeconfig())
    }

    fn k3s(&self) -> PathBuf {
        let lower = std::fs::read_to_string(self.layout.dir.join("lower")).unwrap_or_default();
        let layers = lower.split(':').map(|layer| Path::new(layer).join("usr/bin/k3s"));
        layers.into_iter().find(|p| p.exists()).unwrap_or_else(|| self.base.join("usr/bin/k3s"))
    }

    /// Starts what does not run, and returns when the node is ready.
    pub(crate) fn up(self) -> Result<Appliance> {
        let started = Instant::now();
        self.power_on()?;
        self.wait_ready(started)?;
        Ok(self)
    }

    /// Starts the LAN, the way in and the box, without waiting for the node.
    pub(crate) fn power_on(&self) -> Result<()> {
        self.lan.up()?;
        self.start_httpd()?;
        self.node.start(&self.lan)?;
        self.start_forwarder()
    }

    /// Keeps the bootstrap from starting at boot, for scenarios that run it by hand.
    pub(crate) fn hold_bootstrap(&self) -> Result<()> {
        self.node.hold("furrow-bootstrap.service")
    }

    /// Waits until the bootstrap has finished, showing what it does.
    pub(crate) fn wait_ready(&self, started: Instant) -> Result<()> {
        let mut shown = String::new();
        host::until("the node to be ready", READY_TIMEOUT, || {
            let line = self.node.shell("journalctl -u furrow-bootstrap -o cat -n 1 --no-pager").unwrap_or_default();
            if !line.trim().is_empty() && line != shown {
                host::progress(started, line.trim());
                shown = line;
            }
            let state = self.node.shell("systemctl show furrow-bootstrap -p ActiveState -p Result")?;
            match state {
                s if s.contains("ActiveState=active") => Ok(()),
                s if s.contains("ActiveState=failed") => bail!("the bootstrap failed, restarting: {}", s.trim()),
                s => bail!("the bootstrap is still at work: {}", s.trim()),
            }
        })
        .map_err(|error| match self.node.save_journal() {
            Ok(path) => error.context(format!("the node's journal is in {}", path.display())),
            Err(_) => {
                error.context(format!("the box's console is in {}/console.log", self.layout.dir.join("n1").display()))
            }
        })?;
        self.write_kubeconfig()?;
        host::progress(started, "the node is ready");
        Ok(())
    }

    /// Prints the node's state and how to use the cluster.
    pub(crate) fn announce(&self) -> Result<()> {
        if self.node.leader().is_none() {
            println!("node {} is off", self.node.name());
            return Ok(());
        }
        let status = self.node.exec(&["furrow-install", "status"], Duration::from_secs(60))?;
        print!("{}{}", status.stdout, status.stderr);
        println!("console   not served yet (its place: https://{}/)", self.forward_address()?);
        println!("export KUBECONFIG={}", self.layout.kubeconfig().display());
        Ok(())
    }

    /// Switches everything off; `keep` leaves the node's state for the next start.
    pub(crate) fn down(&self, keep: bool) -> Result<()> {
        if keep {
            self.node.halt(&self.lan);
        } else {
            self.node.remove(&self.lan)?;
        }
        for name in ["httpd.pid", "forward.pid"] {
            if let Some(pid) = living_pid(&self.layout.dir.join(name)) {
                host::kill(pid, libc::SIGTERM);
            }
        }
        self.lan.down();
        Ok(())
    }

    fn forward_address(&self) -> Result<SocketAddr> {
        let file = self.layout.dir.join("forward.addr");
        if let Some(address) = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(address);
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::write(&file, address.to_string())?;
        Ok(address)
    }

    fn start_forwarder(&self) -> Result<()> {
        let target = format!("{}:6443", Layout::node_address(1));
        let listen = self.forward_address()?.to_string();
        self.start_own("forward", &["forward", &listen, &self.lan.netns(), &target])
    }

    fn start_httpd(&self) -> Result<()> {
        let files = self.layout.part("http")?.display().to_string();
        let listen = Layout::http_address().to_string();
        self.start_own("httpd", &["httpd", &listen, &self.lan.netns(), &files])
    }

    /// A process of this very program, in the background, known by its pid file.
    fn start_own(&self, name: &str, args: &[&str]) -> Result<()> {
        let pid_file = self.layout.dir.join(format!("{name}.pid"));
        if living_pid(&pid_file).is_some() {
            return Ok(());
        }
        let exe = std::env::current_exe()?.display().to_string();
        let argv = [&[exe.as_str()], args].concat();
        let pid = spawn_detached(&argv, &[], &self.layout.dir.join(format!("{name}.log")))?;
        std::fs::write(pid_file, pid.to_string())?;
        Ok(())
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let text = self.node.shell("cat /etc/rancher/k3s/k3s.yaml")?;
        let address = self.forward_address()?;
        let lines = text.lines().map(|line| match line.split_once("server: ") {
            Some((indent, _)) => format!("{indent}server: https://{address}"),
            None => line.to_owned(),
        });
        let path = self.layout.kubeconfig();
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n")?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Puts a copy of a file on the LAN's file server and returns its URL. A copy: what a test may change or cut
    /// short must not be the cache's own file.
    pub(crate) fn publish(&self, file: &Path, name: &str) -> Result<String> {
        let target = self.layout.part("http")?.join(name);
        let _ = std::fs::remove_file(&target);
        std::fs::copy(file, &target).with_context(|| format!("could not publish {}", file.display()))?;
        Ok(format!("http://{}/{name}", Layout::http_address()))
    }
}

/// Builds the node image, or finds it built, and returns its overlay layers. Progress goes to our standard error.
fn build_image(source: &Path) -> Result<String> {
    let out = Command::new(source.join("image/build")).stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        bail!("image/build failed");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let built = text.lines().last().context("image/build printed no directory")?;
    Ok(format!("{built}/root"))
}
