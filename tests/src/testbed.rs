//! A testbed: image, LAN, one box or several on it, and the way in from the build host. A testbed of one node is the
//! appliance of `make run`. Of several, the first makes the cluster and the others join it with tokens, and the way in goes
//! to the address that follows the servers that live.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::host::{self, spawn_detached};
use crate::inject::Join;
use crate::lan::Lan;
use crate::layout::{Layout, living_pid};
use crate::node_box::NodeBox;

/// A cold bootstrap on two busy cores takes about a minute; beyond this something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(420);

/// A testbed: one node, or several that make a cluster on one LAN.
pub(crate) struct Testbed {
    layout: Layout,
    lan: Lan,
    nodes: Vec<NodeBox>,
    base: PathBuf,
}

impl Testbed {
    /// The testbed of this name, on `image` or else on the image built from the checkout as it is now. One that is on
    /// keeps the image it was started with. `nodes`: how many, as before or else one when not said.
    pub(crate) fn new(source: &Path, name: &str, image: Option<&Path>, nodes: Option<u8>) -> Result<Testbed> {
        let layout = Layout::new(source, name)?;
        let before = node_count(&layout);
        if let (Some(wanted), Some(before)) = (nodes, before)
            && wanted != before
        {
            bail!("testbed `{name}` has nodes: {before}; remove it with `tests/testbed --name {name} down` first");
        }
        if let Ok(running) = Testbed::existing(source, name)
            && running.node().leader().is_some()
        {
            return Ok(running);
        }
        let lower = match image {
            Some(root) => root.canonicalize().context("no such image")?.display().to_string(),
            None => build_image(&layout.source)?,
        };
        std::fs::write(layout.dir.join("lower"), &lower)?;
        let count = nodes.or(before).unwrap_or(1);
        std::fs::write(layout.dir.join("nodes"), count.to_string())?;
        Testbed::on(layout, &lower, count)
    }

    /// The testbed of this name as it was started, on the image that it was started with.
    pub(crate) fn existing(source: &Path, name: &str) -> Result<Testbed> {
        let layout = Layout::new(source, name)?;
        let lower = std::fs::read_to_string(layout.dir.join("lower"))
            .with_context(|| format!("there is no testbed `{name}`; start it with `make run`"))?;
        let count = node_count(&layout).unwrap_or(1);
        Testbed::on(layout, &lower, count)
    }

    fn on(layout: Layout, lower: &str, count: u8) -> Result<Testbed> {
        let base = PathBuf::from(lower.rsplit(':').next().unwrap_or(lower));
        let vip = (count > 1).then(Layout::virtual_address);
        let nodes = (1..=count).map(|number| NodeBox::new(&layout, number, lower, vip)).collect::<Result<_>>()?;
        Ok(Testbed { lan: Lan::new(&layout, &base)?, nodes, base, layout })
    }

    /// Node 1, which makes the cluster.
    pub(crate) fn node(&self) -> &NodeBox {
        &self.nodes[0]
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &[NodeBox] {
        &self.nodes
    }

    /// The node of this name.
    pub(crate) fn node_named(&self, name: &str) -> Result<&NodeBox> {
        let names = || self.nodes.iter().map(NodeBox::name).collect::<Vec<_>>().join(", ");
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node {name}, but {}", names()))
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

    /// Starts what does not run, makes new nodes join one after another, and returns when all are ready.
    pub(crate) fn up(self) -> Result<Testbed> {
        let started = Instant::now();
        self.power_on()?;
        self.wait_ready(started)?;
        for node in &self.nodes[1..] {
            if node.leader().is_none() {
                node.start(&self.lan, Some(&self.join_with(self.token()?)))?;
            }
            self.wait_node(node, started)?;
        }
        Ok(self)
    }

    /// Starts the LAN, the way in and the boxes, without waiting for the nodes. Boxes that have not joined yet stay off:
    /// their token is made by a cluster that is ready.
    pub(crate) fn power_on(&self) -> Result<()> {
        self.lan.up()?;
        self.start_httpd()?;
        self.node().start(&self.lan, None)?;
        for node in self.nodes[1..].iter().filter(|node| node.is_made()) {
            node.start(&self.lan, None)?;
        }
        self.start_forwarder()
    }

    /// Switches the boxes on and waits until node 1 is ready.
    pub(crate) fn boot(&self) -> Result<()> {
        let started = Instant::now();
        self.power_on()?;
        self.wait_ready(started)
    }

    /// Makes a one-time token on node 1.
    pub(crate) fn token(&self) -> Result<String> {
        self.token_of(self.node())
    }

    /// The same, made on this server.
    pub(crate) fn token_of(&self, server: &NodeBox) -> Result<String> {
        let argv = ["furrow-install", "token", "create", "--ttl", "1h"];
        let token = server.exec(&argv, Duration::from_secs(60))?.ok("furrow-install token create")?;
        Ok(token.trim().to_owned())
    }

    /// How a node joins this cluster by that token.
    pub(crate) fn join_with(&self, token: String) -> Join {
        Join { server: format!("https://{}:6443", self.api_address()), token }
    }

    /// The address of the API servers on the management network.
    fn api_address(&self) -> Ipv4Addr {
        if self.nodes.len() > 1 { Layout::virtual_address() } else { self.node().address() }
    }

    /// Keeps the bootstrap from starting at boot, for scenarios that run it by hand.
    pub(crate) fn hold_bootstrap(&self) -> Result<()> {
        self.node().hold("furrow-bootstrap.service")
    }

    /// Waits until the bootstrap of node 1 has finished, showing what it does.
    pub(crate) fn wait_ready(&self, started: Instant) -> Result<()> {
        self.wait_node(self.node(), started)?;
        self.write_kubeconfig()
    }

    /// Waits until the bootstrap of a node has finished, showing what it does.
    pub(crate) fn wait_node(&self, node: &NodeBox, started: Instant) -> Result<()> {
        let mut shown = String::new();
        let name = node.name();
        host::until(&format!("node {name} to be ready"), READY_TIMEOUT, || {
            let line = node.shell("journalctl -u furrow-bootstrap -o cat -n 1 --no-pager").unwrap_or_default();
            if !line.trim().is_empty() && line != shown {
                host::progress(started, &format!("{name}: {}", line.trim()));
                shown = line;
            }
            let state = node.shell("systemctl show furrow-bootstrap -p ActiveState -p Result")?;
            match state {
                s if s.contains("ActiveState=active") => Ok(()),
                s if s.contains("ActiveState=failed") => bail!("the bootstrap failed, restarting: {}", s.trim()),
                s => bail!("the bootstrap is still at work: {}", s.trim()),
            }
        })
        .map_err(|error| match node.save_journal() {
            Ok(path) => error.context(format!("the node's journal is in {}", path.display())),
            Err(_) => error.context(format!("the box's console is in {}", node.console().display())),
        })?;
        host::progress(started, &format!("node {name} is ready"));
        Ok(())
    }

    /// Prints the nodes' state and how to use the cluster.
    pub(crate) fn announce(&self) -> Result<()> {
        for node in &self.nodes {
            if node.leader().is_none() {
                println!("node {} is off", node.name());
                continue;
            }
            if self.nodes.len() > 1 {
                println!("node {}", node.name());
            }
            let status = node.exec(&["furrow-install", "status"], Duration::from_secs(60))?;
            print!("{}{}", status.stdout, status.stderr);
        }
        if self.nodes.iter().all(|node| node.leader().is_none()) {
            return Ok(());
        }
        println!("console   not served yet (its place: https://{}/)", self.forward_address()?);
        println!("export KUBECONFIG={}", self.layout.kubeconfig().display());
        Ok(())
    }

    /// Switches everything off; `keep` leaves the nodes' state for the next start.
    pub(crate) fn down(&self, keep: bool) -> Result<()> {
        if keep {
            // All at once: the last servers of a cluster could not end in order without the others.
            std::thread::scope(|scope| {
                for node in &self.nodes {
                    scope.spawn(move || node.halt(&self.lan));
                }
            });
        } else {
            for node in &self.nodes {
                node.remove(&self.lan)?;
            }
            let _ = std::fs::remove_file(self.layout.dir.join("nodes"));
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
        let target = format!("{}:6443", self.api_address());
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
        let text = self.node().shell("cat /etc/rancher/k3s/k3s.yaml")?;
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

/// How many nodes a testbed with any state has.
fn node_count(layout: &Layout) -> Option<u8> {
    let count = std::fs::read_to_string(layout.dir.join("nodes")).ok().and_then(|text| text.trim().parse().ok());
    count.or_else(|| layout.dir.join("n1/created").exists().then_some(1))
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
