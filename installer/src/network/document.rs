//! systemd-networkd's units as typed documents: systemd.network(5) and systemd.netdev(5). Writes them; decides nothing and
//! never reads one back.

use std::fmt;
use std::net::IpAddr;

use crate::config::BondMode;

/// Who wrote a unit, as its first line says.
const HEAD: &str = "# Written by furrow-install from node.yaml.\n";

/// Which device a unit is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Device {
    Name(String),
    /// The address that the hardware has: a NIC in a bond shows the bond's.
    Mac(String),
}

/// A `.network` unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Network {
    pub(super) device: Device,
    pub(super) role: Role,
}

/// What a device is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// A NIC of this bond.
    Member(String),
    /// Carries this VLAN's device and has no address itself.
    Carrier(String),
    /// Has the node's addresses.
    Addresses(Addresses),
}

/// What is on the device that has the node's addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Addresses {
    pub(super) dhcp: bool,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) dns: Vec<IpAddr>,
    pub(super) domains: Vec<String>,
}

/// A `.netdev` unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Netdev {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What kind of device is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Bond(BondMode),
    Vlan(u16),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Device::Name(name) => write!(f, "{HEAD}[Match]\nName={name}\n\n[Network]\n")?,
            Device::Mac(mac) => write!(f, "{HEAD}[Match]\nPermanentMACAddress={mac}\n\n[Network]\n")?,
        }
        match &self.role {
            Role::Member(bond) => writeln!(f, "Bond={bond}"),
            Role::Carrier(vlan) => write!(f, "VLAN={vlan}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"),
            Role::Addresses(addresses) => addresses.fmt(f),
        }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dhcp {
            writeln!(f, "DHCP=yes")?;
        }
        for (address, prefix) in &self.addresses {
            writeln!(f, "Address={address}/{prefix}")?;
        }
        for (key, values) in [("Gateway", &self.gateways), ("DNS", &self.dns)] {
            values.iter().try_for_each(|value| writeln!(f, "{key}={value}"))?;
        }
        if !self.domains.is_empty() {
            writeln!(f, "Domains={}", self.domains.join(" "))?;
        }
        writeln!(f, "LinkLocalAddressing=ipv6")?;
        if self.dhcp {
            // A reservation is by MAC address; networkd's own kind of identifier changes when the machine is installed anew.
            write!(f, "\n[DHCPv4]\nClientIdentifier=mac\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Bond(_) => "bond",
            Kind::Vlan(_) => "vlan",
        };
        write!(f, "{HEAD}[NetDev]\nName={}\nKind={kind}\n\n", self.name)?;
        match self.kind {
            Kind::Vlan(tag) => write!(f, "[VLAN]\nId={tag}\n"),
            Kind::Bond(mode) => {
                // A link is looked at ten times a second: the kernel's default is never.
                write!(f, "[Bond]\nMode={}\nMIIMonitorSec=100ms\n", mode.name())?;
                match mode {
                    BondMode::Lacp => f.write_str("LACPTransmitRate=fast\nTransmitHashPolicy=layer3+4\n"),
                    BondMode::BalanceXor => f.write_str("TransmitHashPolicy=layer3+4\n"),
                    _ => Ok(()),
                }
            }
        }
    }
}
