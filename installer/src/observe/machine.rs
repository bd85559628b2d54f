//! The parts that are the machine's: version, addresses, links, disks. Reads files of the kernel; starts nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Level, Part};
use crate::config::NodeConfig;
use crate::network;
use crate::network::cards::{Card, SYSFS, cards};

/// Where the state partition, /var, has so little left that it is worth a look, percent used.
const FULL_PERCENT: u64 = 85;
/// Where the web console listens, when there is one.
const CONSOLE_PORT: u16 = 443;

/// Where systemd mounts the ESP: on the first of these that is a directory.
const ESP_MOUNTS: [&str; 2] = ["/boot", "/efi"];

/// The running version, since when it is here, and those that were tried and did not become healthy.
pub(super) fn version() -> Part {
    let release = std::fs::read_to_string("/usr/lib/os-release").unwrap_or_default();
    let running = release.lines().find_map(|l| l.strip_prefix("IMAGE_VERSION=")).unwrap_or("unknown");
    let esp =
        ESP_MOUNTS.map(Path::new).into_iter().find(|esp| esp.join("loader").is_dir()).unwrap_or(Path::new("/boot"));
    let since = crate::update::installed_at(esp, running).and_then(|at| jiff::Timestamp::try_from(at).ok());
    let mut text = running.to_owned();
    if let Some(since) = since {
        text += &format!(", here since {}", since.strftime("%Y-%m-%d %H:%M UTC"));
    }
    let failed = crate::update::failed_versions(esp);
    let level = if failed.is_empty() { Level::Well } else { Level::Warning };
    text += &failed.iter().map(|v| format!("; {v} was tried and did not become healthy")).collect::<String>();
    Part::new("version", level, text)
}

/// The node's addresses.
pub(super) fn network(config: &NodeConfig) -> Part {
    let management = &config.management;
    let device = management.device();
    let here = addresses(&device);
    let address = management.address;
    let mut part = if here.contains(&address) {
        Part::new("addresses", Level::Well, format!("{} on {device}", list(&here)))
    } else if here.is_empty() {
        Part::new("addresses", Level::Fault, format!("{device} has no address; node.yaml says {address}"))
    } else {
        Part::new("addresses", Level::Fault, format!("node.yaml says {address}; on {device} are {}", list(&here)))
    };
    if part.level == Level::Well && !is_applied(config) {
        part.level = Level::Warning;
        part.text += "; node.yaml says another network: `furrow-install network apply` makes it so";
    }
    part
}

/// Where the API is, and the web console if there is one.
pub(super) fn api(config: &NodeConfig) -> Part {
    let at = config.management.vip.unwrap_or(config.management.address);
    let host = if at.is_ipv6() { format!("[{at}]") } else { at.to_string() };
    let mut urls = format!("https://{host}:6443");
    if listens(CONSOLE_PORT) {
        urls += &format!(", console https://{host}/");
    }
    Part::new("api", Level::Well, urls)
}

/// Whether networkd's units are those of node.yaml. A node that has none of them has its network from elsewhere.
fn is_applied(config: &NodeConfig) -> bool {
    let present = network::present(Path::new(network::DIR)).unwrap_or_default();
    present.is_empty() || present == network::files(&config.management)
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The addresses of a device but the link-local ones, which every device has.
fn addresses(device: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten().filter(|i| i.interface_name == device) {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().filter(|a| !a.ip().is_unicast_link_local()).map(|a| IpAddr::V6(a.ip()));
        found.extend(v4.or(v6));
    }
    found
}

/// Whether something listens on a TCP port of this machine.
fn listens(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| std::fs::read_to_string(t).unwrap_or_default());
    tables.iter().any(|table| has_listener(table, port))
}

/// Whether the kernel's table has a listener (state 0A) on the port, which stands in hexadecimal behind the address.
fn has_listener(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&end)) && words.nth(1) == Some("0A")
    })
}

/// Links and disks.
pub(super) fn hardware(config: Option<&NodeConfig>) -> Vec<Part> {
    let own: BTreeSet<String> = config.map(own_devices).unwrap_or_default();
    vec![links_part(&links(Path::new(SYSFS), &own), &own), disks_part(&disks(), used_percent("/var"))]
}

/// The devices that the management network needs.
fn own_devices(config: &NodeConfig) -> BTreeSet<String> {
    let management = &config.management;
    let members = management.bond.iter().flat_map(|b| b.members.iter().cloned());
    members.chain([management.interface.clone()]).collect()
}

/// The cards below sysfs's directory, and whatever the management network needs.
fn links(sysfs: &Path, own: &BTreeSet<String>) -> Vec<Card> {
    cards(sysfs).into_iter().filter(|card| card.is_hardware || own.contains(&card.name)).collect()
}

fn links_part(links: &[Card], own: &BTreeSet<String>) -> Part {
    let is_own = |link: &Card| own.contains(&link.name) || own.contains(&link.mac);
    let mut level = Level::Well;
    let mut said = Vec::new();
    for link in links {
        said.push(match (link.has_link, link.speed) {
            (true, Some(speed)) => format!("{} up {speed} Mbit/s", link.name),
            (true, None) => format!("{} up", link.name),
            (false, _) if is_own(link) => {
                level = Level::Warning;
                format!("{} HAS NO LINK", link.name)
            }
            (false, _) => format!("{} no link", link.name),
        });
    }
    Part::new("links", level, if said.is_empty() { "no network card".to_owned() } else { said.join(", ") })
}

/// A whole disk.
#[derive(Clone, Debug, PartialEq)]
struct Disk {
    name: String,
    /// Bytes.
    size: u64,
    /// What the driver says of it; None where it says nothing.
    state: Option<String>,
}

/// The disks that have a device node here; in a container sysfs shows the host's too.
fn disks() -> Vec<Disk> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_disk = path.join("device").exists() && !name.starts_with("sr");
        if !is_disk || !PathBuf::from("/dev").join(&name).exists() {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(path.join(file)).ok().map(|t| t.trim().to_owned());
        let sectors = read("size").and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        found.push(Disk { name, size: sectors * 512, state: read("device/state") });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn used_percent(path: &str) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let (all, free) = (stat.blocks() as u64, stat.blocks_available() as u64);
    (all > 0).then(|| (all - free.min(all)) * 100 / all)
}

fn disks_part(disks: &[Disk], used: Option<u64>) -> Part {
    let mut level = Level::Well;
    let mut said = Vec::new();
    for disk in disks {
        let mut text = format!("{} {} GB", disk.name, disk.size / 1_000_000_000);
        // "running" is SCSI's word, "live" NVMe's.
        if let Some(state) = disk.state.as_ref().filter(|s| !["running", "live"].contains(&s.as_str())) {
            level = Level::Warning;
            text += &format!(" IS {}", state.to_uppercase());
        }
        said.push(text);
    }
    if let Some(used) = used {
        if used >= FULL_PERCENT {
            level = Level::Warning;
        }
        said.push(format!("/var is {used} % full"));
    }
    Part::new("disks", level, said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_its_port() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:192B 00000000:0000 0A 0\n   1: 0B00A8C0:01BB 0200A8C0:C001 01 0\n";
        assert!(has_listener(table, 6443));
        assert!(!has_listener(table, 443), "a connection is no listener");
        assert!(!has_listener("", 443));
    }

    #[test]
    fn a_cable_of_the_management_network_is_missed() {
        let link = |name: &str, has_link, speed| Card {
            name: name.into(),
            mac: format!("mac-{name}"),
            has_link,
            speed,
            ..Card::default()
        };
        let links = [link("eno1", true, Some(10_000)), link("eno2", false, None), link("eno3", true, None)];
        let own = |name: &str| BTreeSet::from([name.to_owned()]);
        let part = links_part(&links, &own("eno1"));
        assert_eq!(part, Part::new("links", Level::Well, "eno1 up 10000 Mbit/s, eno2 no link, eno3 up"));
        for name in ["eno2", "mac-eno2"] {
            let part = links_part(&links, &own(name));
            assert!(part.level == Level::Warning && part.text.contains("eno2 HAS NO LINK"), "{part:?}");
        }
    }

    #[test]
    fn links_are_read_as_the_kernel_shows_them() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, file, text) in [
            ("eno1", "carrier", "1\n"),
            ("eno1", "speed", "1000\n"),
            ("eno1", "device/x", ""),
            ("eno2", "speed", "-1\n"),
            ("eno2", "device/x", ""),
            ("veth0", "carrier", "1\n"),
            ("bond0", "carrier", "0\n"),
        ] {
            let path = dir.path().join(name).join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let found = links(dir.path(), &BTreeSet::from(["bond0".to_owned()]));
        let told: Vec<_> = found.iter().map(|l| (l.name.as_str(), l.has_link, l.speed)).collect();
        assert_eq!(told, [("bond0", false, None), ("eno1", true, Some(1000)), ("eno2", false, None)]);
    }

    #[test]
    fn a_disk_that_went_offline_and_a_full_partition_are_told() {
        let disk =
            |state: Option<&str>| Disk { name: "sda".into(), size: 21_000_000_000, state: state.map(str::to_owned) };
        for (state, used, level, text) in [
            (Some("running"), Some(20), Level::Well, "sda 21 GB, /var is 20 % full"),
            (None, None, Level::Well, "sda 21 GB"),
            (Some("offline"), None, Level::Warning, "sda 21 GB IS OFFLINE"),
            (Some("live"), Some(85), Level::Warning, "sda 21 GB, /var is 85 % full"),
        ] {
            assert_eq!(disks_part(&[disk(state)], used), Part::new("disks", level, text));
        }
    }
}
