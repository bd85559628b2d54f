//! What only a box needs, put into its `/etc` and `/var` before the first boot. The image stays free of it.
//!
//! Each entry names the limit of the build machines that makes it necessary; on a server none of them holds.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::node_box::relink;

/// What tells one box from another.
pub(crate) struct NodeConfig<'a> {
    pub(crate) root: &'a Path,
    pub(crate) var: &'a Path,
    /// Number of the node, from 1.
    pub(crate) number: u8,
    /// Block device for the OSD, as seen in the box.
    pub(crate) disk: &'a str,
    /// The servers' common address.
    pub(crate) vip: Option<Ipv4Addr>,
    /// The cluster that it joins; without one it makes a new one.
    pub(crate) join: Option<&'a Join>,
}

/// How a node joins a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Host and port of an API server.
    pub(crate) server: String,
    /// A one-time token.
    pub(crate) token: String,
}

/// Everything a box needs at its first boot.
pub(crate) fn all(node: &NodeConfig<'_>) -> Result<()> {
    identity(node)?;
    network(node)?;
    control_groups(node)?;
    kubernetes(node)?;
    libvirt(node)?;
    open_vswitch(node)?;
    ceph(node)
}

/// `/etc/furrow/node.yaml`. Written at every start: the loop device's name may differ from the last one.
pub(crate) fn disk(root: &Path, disk: &str) -> Result<()> {
    let path = root.join("etc/furrow/node.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let lines = text.lines().map(|line| match line.trim_start().strip_prefix("- path: ") {
        Some(_) => format!("{}- path: {disk}", &line[..line.len() - line.trim_start().len()]),
        None => line.to_owned(),
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    Ok(())
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Machine id and node.yaml: what the installer writes on a server.
fn identity(node: &NodeConfig<'_>) -> Result<()> {
    let name = format!("n{}", node.number);
    write(node.root, "etc/hostname", &format!("{name}\n"))?;
    write(node.root, "etc/machine-id", &format!("{:032x}\n", 0x00f0_0f00_u128 << 64 | u128::from(node.number)))?;
    let _ = std::fs::remove_file(node.var.join("lib/dbus/machine-id"));
    let vip = node.vip.map(|vip| format!("\n  vip: {vip}")).unwrap_or_default();
    let text = include_str!("inject/node.yaml")
        .replace("@HOSTNAME@", &name)
        .replace("@ADDRESS@", &Layout::node_address(node.number).to_string())
        .replace("@VIP@", &vip)
        .replace("@DISK@", node.disk);
    let text = node.join.map_or_else(|| text.clone(), |join| with_join(&text, join));
    write(node.root, "etc/furrow/node.yaml", &text)?;
    // It may hold a token.
    let path = node.root.join("etc/furrow/node.yaml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).context("could not protect node.yaml")
}

/// node.yaml with this section `join`, which comes last, instead of the one that it had.
pub(crate) fn with_join(text: &str, join: &Join) -> String {
    let rest = text.split("\njoin:").next().unwrap_or(text).trim_end();
    format!("{rest}\njoin:\n  server: {}\n  token: {}\n", join.server, join.token)
}

/// A veth has no DHCP server to ask on this LAN.
fn network(node: &NodeConfig<'_>) -> Result<()> {
    let address = Layout::node_address(node.number);
    let gateway = Layout::lan_address();
    let text = format!("[Match]\nName=eth0\n\n[Network]\nAddress={address}/24\nGateway={gateway}\nIPv6AcceptRA=no\n");
    write(node.root, "etc/systemd/network/10-box.network", &text)?;
    // The provider NIC belongs to Open vSwitch: networkd leaves it alone, but someone must set it up.
    write(node.root, "etc/systemd/network/11-box-provider.network", "[Match]\nName=eth1\n\n[Link]\nUnmanaged=yes\n")
}

/// The build machines have cgroup v1, which nspawn mounts read-only in part; runc needs to write there.
fn control_groups(node: &NodeConfig<'_>) -> Result<()> {
    write(node.root, "etc/systemd/system/furrow-box.service", include_str!("inject/furrow-box.service"))?;
    let wants = node.root.join("etc/systemd/system/sysinit.target.wants");
    std::fs::create_dir_all(&wants)?;
    relink("/etc/systemd/system/furrow-box.service", &wants.join("furrow-box.service"))?;
    relink("/dev/null", &node.root.join("etc/systemd/system/nvmf-autoconnect.service"))
}

/// cgroup v1 for the kubelet; no CAP_SYS_RESOURCE, so runc cannot lower a process's OOM score.
fn kubernetes(node: &NodeConfig<'_>) -> Result<()> {
    write(node.root, "etc/rancher/k3s/config.yaml.d/50-box.yaml", include_str!("inject/k3s.yaml"))?;
    let dir = node.var.join("lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("50-box.toml"), include_str!("inject/containerd.toml"))?;
    Ok(())
}

/// No raised limits, no security module and no user switching without CAP_SYS_RESOURCE, one host UUID a box. Guests have groups
/// of their own for the processors alone: systemd gives no slice a weight under cgroup v1, and a guest is not to weigh what a
/// daemon does.
fn libvirt(node: &NodeConfig<'_>) -> Result<()> {
    let path = node.root.join("etc/libvirt/qemu.conf");
    let own = include_str!("inject/qemu.conf");
    let keys: Vec<&str> = own.lines().filter_map(|l| l.split_once(" = ").map(|(key, _)| key)).collect();
    // libvirt takes the first of two equal keys, so the image's must go.
    let image = std::fs::read_to_string(&path).unwrap_or_default();
    let kept = image.lines().filter(|l| !keys.iter().any(|k| l.trim_start().starts_with(k)));
    let text = kept.collect::<Vec<_>>().join("\n");
    write(node.root, "etc/libvirt/qemu.conf", &format!("{text}\n{own}"))?;
    let path = node.root.join("etc/libvirt/libvirtd.conf");
    let image = std::fs::read_to_string(&path).unwrap_or_default();
    let uuid = format!("host_uuid = \"f0000000-0000-4000-8000-0000000000{:02x}\"\n", node.number);
    write(node.root, "etc/libvirt/libvirtd.conf", &format!("{image}\n{uuid}"))
}

/// The build machines' kernel has no Open vSwitch module. In the userspace datapath a guest's frames come with
/// checksums and segmentation left to the NIC; only with `userspace-tso-enable`, read at the start, are they filled in.
fn open_vswitch(node: &NodeConfig<'_>) -> Result<()> {
    let path = "etc/systemd/system/ovs-vswitchd.service.d/50-box.conf";
    let settings = "external_ids:furrow-datapath-type=netdev other_config:userspace-tso-enable=true";
    let command = format!("/usr/bin/ovs-vsctl --no-wait set Open_vSwitch . {settings}");
    write(node.root, path, &format!("[Service]\nExecStartPre={command}\n"))
}

/// Environment of `furrow-install` in a box: the OSD's disk is a loop device, which it refuses unless told otherwise.
pub(crate) const ALLOW_LOOPS: &str = "CEPH_VOLUME_ALLOW_LOOP_DEVICES=true";

fn ceph(node: &NodeConfig<'_>) -> Result<()> {
    let text = format!("[Service]\nEnvironment={ALLOW_LOOPS}\n");
    write(node.root, "etc/systemd/system/furrow-bootstrap.service.d/50-box.conf", &text)
}
