//! What the text interface shows of the machine: checks, disks, NICs. Observes only.

use std::net::IpAddr;
use std::path::Path;

use furrow_host::block::{self, Device};

use crate::checks;
use crate::network::cards::{Card, SYSFS, cards};
use crate::observe::Part;

/// A network card.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) has_link: bool,
    /// Address and prefix length that it has now, by DHCP.
    pub(super) address: Option<(IpAddr, u8)>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) checks: Vec<Part>,
    pub(super) disks: Vec<Device>,
    pub(super) nics: Vec<Nic>,
    /// Default route.
    pub(super) gateway: Option<IpAddr>,
    pub(super) dns: Vec<IpAddr>,
}

impl Facts {
    /// Looks at this machine. `medium`: the disk that is none to install to.
    ///
    /// # Errors
    /// When the disks cannot be listed.
    pub(crate) async fn observe(medium: &str) -> Result<Facts, block::BlockError> {
        let mut disks = block::list().await?;
        disks.retain(|d| d.kind == "disk" && d.path != medium && !d.path.starts_with("/dev/zram"));
        let nics = nics();
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let resolv = std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or_default();
        let dns = resolv.lines().filter_map(|l| l.strip_prefix("nameserver ")?.trim().parse().ok()).collect();
        let linked = nics.iter().filter(|n| n.has_link).count();
        Ok(Facts {
            checks: checks::all(&disks, (nics.len(), linked)).await,
            disks,
            nics,
            gateway: gateway(&routes),
            dns,
        })
    }
}

fn nics() -> Vec<Nic> {
    let nic = |card: Card| Nic { name: card.name, mac: card.mac, has_link: card.has_link, address: None };
    let mut found: Vec<Nic> = cards(Path::new(SYSFS)).into_iter().filter(|c| c.is_hardware).map(nic).collect();
    for address in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(nic) = found.iter_mut().find(|n| n.name == address.interface_name) else { continue };
        let ip = address.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        let mask = address.netmask.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        if let (Some(ip), Some(mask)) = (ip, mask) {
            nic.address = Some((IpAddr::V4(ip), mask.to_bits().count_ones() as u8));
        }
    }
    found.sort_by(|a, b| (!a.has_link, &a.name).cmp(&(!b.has_link, &b.name)));
    found
}

/// The default route of `/proc/net/route`, whose addresses are hexadecimal in the machine's byte order.
fn gateway(routes: &str) -> Option<IpAddr> {
    routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (to, via) = (words.next()?, words.next()?);
        let bits = u32::from_str_radix(via, 16).ok().filter(|_| to == "00000000")?;
        Some(IpAddr::V4(bits.to_ne_bytes().into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let routes =
            "Iface\tDestination\tGateway\tFlags\neth0\t0000000A\t00000000\t0001\neth0\t00000000\t0202000A\t0003\n";
        assert_eq!(gateway(routes), Some("10.0.2.2".parse().expect("an address")));
    }
}
