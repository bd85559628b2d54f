//! The test LAN: what is outside the servers. A management network, a VLAN-aware switch, hosts on its VLANs.
//!
//! ```text
//!            namespace <id>-lan                                namespaces <id>-n1, -n2, -n3 (boxes)
//!   10.77.0.1 mgmt (Linux bridge) ------------------------------ eth0 10.77.0.11, .12, .13
//!   trunk     switch (OVS, userspace) -------------------------- eth1 (provider NIC)
//!                |tag 100             |tag 200
//!         <id>-h100 eth0        <id>-h200 eth0
//!         192.168.10.1/23       192.168.10.3/23
//! ```
//! The switch runs from the node image's own Open vSwitch, in a private mount namespace, because the build host's
//! kernel has neither 802.1Q devices nor VLAN-aware bridges. Nothing here touches the build host's own namespace.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::{self, run, run_quietly, run_with};
use crate::layout::{Layout, living_pid};

/// A host on one VLAN of the test LAN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VlanHost {
    pub(crate) name: &'static str,
    pub(crate) tag: u16,
    pub(crate) address: Ipv4Addr,
}

/// The physical network's gateway on the VLAN of the field report's subnet.
pub(crate) const H100: VlanHost = VlanHost { name: "h100", tag: 100, address: Ipv4Addr::new(192, 168, 10, 1) };
/// A host with an address of the same subnet on another VLAN: it must reach nobody.
pub(crate) const H200: VlanHost = VlanHost { name: "h200", tag: 200, address: Ipv4Addr::new(192, 168, 10, 3) };

/// The running test LAN.
pub(crate) struct Lan {
    layout: Layout,
    state: PathBuf,
    /// The image's base root, for its Open vSwitch.
    base: PathBuf,
}

impl Lan {
    /// The LAN of a testbed, whether it runs or not.
    pub(crate) fn new(layout: &Layout, base: &Path) -> Result<Lan> {
        Ok(Lan { layout: layout.clone(), state: layout.part("lan")?, base: base.to_owned() })
    }

    /// Name of the LAN's namespace.
    pub(crate) fn netns(&self) -> String {
        self.layout.global("lan")
    }

    /// Starts what does not run yet.
    pub(crate) fn up(&self) -> Result<()> {
        if living_pid(&self.state.join("switch.pid")).is_some() {
            return Ok(());
        }
        self.down();
        let lan = self.netns();
        run(&["ip", "netns", "add", &lan])?;
        self.ip(&["link", "set", "lo", "up"])?;
        self.ip(&["link", "add", "mgmt", "type", "bridge"])?;
        self.ip(&["addr", "add", &format!("{}/24", Layout::lan_address()), "dev", "mgmt"])?;
        self.ip(&["link", "set", "mgmt", "up"])?;
        self.start_switch()?;
        self.add_host(H100)?;
        self.add_host(H200)
    }

    /// Stops everything; safe to call at any time.
    pub(crate) fn down(&self) {
        for file in ["switch.pid", "switch-db.pid"] {
            if let Some(pid) = living_pid(&self.state.join(file)) {
                host::kill(pid, libc::SIGKILL);
                let _ = host::ended("the switch", pid, Duration::from_secs(10));
            }
        }
        for name in [H100.name, H200.name, "lan"] {
            run_quietly(&["ip", "netns", "del", &self.layout.global(name)]);
        }
        let _ = std::fs::remove_dir_all(&self.state);
        let _ = std::fs::create_dir_all(&self.state);
    }

    /// Connects box `number`: `eth0` on the management network, `eth1` on a trunk of the switch, each with the MAC that
    /// it always has, as a server's NICs do.
    pub(crate) fn connect_box(&self, netns: &str, name: &str, number: u8) -> Result<()> {
        let (m, t) = (format!("m-{name}"), format!("t-{name}"));
        let mac = |nic: u8| format!("02:f0:77:00:{nic:02x}:{number:02x}");
        let veth = |end: &str, nic: &str, mac: &str| {
            self.ip(&["link", "add", end, "type", "veth", "peer", "name", nic, "address", mac, "netns", netns])
        };
        veth(&m, "eth0", &mac(0))?;
        self.ip(&["link", "set", &m, "master", "mgmt", "up"])?;
        veth(&t, "eth1", &mac(1))?;
        self.ip(&["link", "set", &t, "up"])?;
        self.without_offload(&self.netns(), &t)?;
        self.without_offload(netns, "eth1")?;
        self.switch(&["--may-exist", "add-port", "switch", &t])?;
        Ok(())
    }

    /// Removes a box's links; the namespace's end of them goes with them.
    pub(crate) fn disconnect_box(&self, name: &str) {
        let _ = self.switch(&["--if-exists", "del-port", "switch", &format!("t-{name}")]);
        let _ = self.ip(&["link", "del", &format!("m-{name}")]);
        let _ = self.ip(&["link", "del", &format!("t-{name}")]);
    }

    fn add_host(&self, host: VlanHost) -> Result<()> {
        let netns = self.layout.global(host.name);
        run(&["ip", "netns", "add", &netns])?;
        self.ip(&["link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", &netns])?;
        self.ip(&["link", "set", host.name, "up"])?;
        run(&["ip", "-n", &netns, "addr", "add", &format!("{}/23", host.address), "dev", "eth0"])?;
        run(&["ip", "-n", &netns, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &netns, "link", "set", "lo", "up"])?;
        self.without_offload(&netns, "eth0")?;
        self.switch(&["add-port", "switch", host.name, &format!("tag={}", host.tag)])?;
        Ok(())
    }

    /// The userspace datapath takes frames as they are: a checksum left to the hardware would never be filled in.
    fn without_offload(&self, netns: &str, device: &str) -> Result<()> {
        let args = ["ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        let mut argv = vec!["nsenter".to_owned(), format!("--net=/run/netns/{netns}"), "chroot".into()];
        argv.push(self.base.display().to_string());
        argv.extend(args.iter().map(|a| (*a).to_owned()));
        run(&argv.iter().map(String::as_str).collect::<Vec<_>>()).map(|_| ())
    }

    fn ip(&self, args: &[&str]) -> Result<String> {
        let lan = self.netns();
        run(&[&["ip", "-n", lan.as_str()], args].concat())
    }

    /// `ovs-vsctl` against the LAN's switch, from within the mount namespace that its daemons live in.
    pub(crate) fn switch(&self, args: &[&str]) -> Result<String> {
        let pid = living_pid(&self.state.join("switch.pid")).context("the test LAN's switch does not run")?.to_string();
        let base = self.base.display().to_string();
        let head =
            ["nsenter", "--mount", "-t", &pid, "chroot", &base, "ovs-vsctl", "-t", "10", "--db=unix:/mnt/db.sock"];
        run_with(&[&head, args].concat(), "", Duration::from_secs(30))?.ok("ovs-vsctl of the test LAN")
    }

    fn start_switch(&self) -> Result<()> {
        let started = Instant::now();
        let script = include_str!("lan_switch.sh");
        let (base, state) = (self.base.display().to_string(), self.state.display().to_string());
        let net = format!("--net=/run/netns/{}", self.netns());
        let argv = ["nsenter", net.as_str(), "unshare", "--mount", "--propagation", "private", "bash", "-c", script];
        let out = run_with(&[argv.as_slice(), &["switch", &base, &state]].concat(), "", Duration::from_secs(60))?;
        out.ok("the test LAN's switch").context("could not start Open vSwitch")?;
        self.switch(&["add-br", "switch", "--", "set", "bridge", "switch", "datapath_type=netdev"])?;
        host::progress(started, "test LAN is up");
        Ok(())
    }
}
