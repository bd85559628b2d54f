//! A guest's port on a node: what it is to be, what its tap is called, and the steps that bring it about. Refuses
//! anything not parsed: a port whose MAC, tag or address could not be understood has no type here.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dhcp_options::DhcpOptions;

/// Bytes of an Ethernet payload below which IPv4 does not work (RFC 791).
const MTU_MIN: i32 = 576;

/// Largest payload that any NIC here carries: the kernel's limit for taps.
const MTU_MAX: i32 = 65_521;

/// A name of a Linux interface is at most this long.
const INTERFACE_NAME_MAX: usize = 15;

/// A unicast hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortMac([u8; 6]);

impl PortMac {
    /// The six bytes in wire order.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for PortMac {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        let refuse = || PortSpecError::Mac(text.to_owned());
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        // A group address as a source is nonsense on the wire, and all zeroes means "none" to libvirt and OVS.
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(refuse());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for PortMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<String> for PortMac {
    type Error = PortSpecError;

    fn try_from(text: String) -> Result<Self, PortSpecError> {
        text.parse()
    }
}

impl From<PortMac> for String {
    fn from(mac: PortMac) -> Self {
        mac.to_string()
    }
}

/// A VLAN id, 1 to 4094, or 0 for untagged frames (IEEE 802.1Q reserves 4095).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct VlanTag(u16);

impl VlanTag {
    /// The id; 0 for untagged.
    #[must_use]
    pub fn id(self) -> u16 {
        self.0
    }
}

impl TryFrom<i32> for VlanTag {
    type Error = PortSpecError;

    fn try_from(id: i32) -> Result<Self, PortSpecError> {
        u16::try_from(id).ok().filter(|id| *id <= 4094).map(Self).ok_or(PortSpecError::Vlan(id))
    }
}

impl From<VlanTag> for i32 {
    fn from(tag: VlanTag) -> Self {
        Self::from(tag.0)
    }
}

/// The name of a guest's tap, which is also the name of its OVS port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TapName(String);

impl TapName {
    /// `fw` and 11 hexadecimal digits of a SHA-256 over the VMI's uid and the NIC's name: 13 characters, the same
    /// every time, and 44 bits apart from any other on the node.
    #[must_use]
    pub fn of(vmi_uid: &str, nic: &str) -> Self {
        let digest = Sha256::new().chain_update(vmi_uid).chain_update(nic).finalize();
        let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("fw{}", &hex[..11]))
    }

    /// Takes back a name that [`TapName::of`] made; `None` for any other.
    #[must_use]
    pub fn recognise(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("fw")?;
        let ours = digits.len() == 11 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ours.then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 44 bits in the name, as a number.
    #[must_use]
    pub fn bits(&self) -> u64 {
        u64::from_str_radix(&self.0[2..], 16).expect("a tap name is fw and 11 hexadecimal digits")
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fixed IPv4 address of a port and what DHCP tells about its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortAddress {
    /// The only source address that may leave the port.
    pub address: Ipv4Addr,
    /// Prefix of its network in bits, 1 to 32.
    pub prefix_len: u8,
    /// Router, if the network has one.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers in order.
    pub dns: Vec<Ipv4Addr>,
}

/// Everything a port is to be. Also what its OVSDB row remembers (`external_ids:furrow-port`), so that flows and DHCP
/// come back after a restart of the agent or of vswitchd without asking anyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSpec {
    /// uid of the VirtualMachineInstance.
    pub vmi_uid: String,
    /// `namespace/name` of it, for people.
    pub vmi: String,
    /// Name of the interface in the VMI's spec.
    pub nic: String,
    /// OVS bridge.
    pub bridge: String,
    /// Access VLAN.
    pub vlan: VlanTag,
    /// The only source hardware address that may leave the port.
    pub mac: PortMac,
    /// Absent: addresses are not managed, and only the hardware address is enforced.
    pub address: Option<PortAddress>,
    /// Bytes, without the Ethernet header.
    pub mtu: u16,
    /// Queue pairs; more than 1 makes the tap multi-queue.
    pub queues: u8,
    /// What DHCP tells the guest to call itself.
    pub hostname: Option<String>,
    /// The only ports that others may open TCP connections to; absent: all. What has none is written as before this
    /// field, so that an older agent can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_ports: Option<Vec<u16>>,
    /// What DHCP tells beside the address; written as `tcp_ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_options: Option<DhcpOptions>,
    /// Name of the IP object, `iface-id` for people who look with ovs-vsctl.
    pub ip_object: String,
}

/// A port as asked for, before anything in it was understood: the fields of a reservation.
#[derive(Debug, Clone, Default)]
pub struct PortRequest {
    /// uid of the VirtualMachineInstance.
    pub vmi_uid: String,
    /// `namespace/name` of it.
    pub vmi: String,
    /// Interface name.
    pub nic: String,
    /// OVS bridge.
    pub bridge: String,
    /// VLAN id, 0 for untagged.
    pub vlan: i32,
    /// Hardware address as text.
    pub mac: String,
    /// IPv4 address as text.
    pub ip: Option<String>,
    /// Prefix of its network in bits.
    pub prefix_len: Option<i32>,
    /// Router as text.
    pub gateway: Option<String>,
    /// Resolvers as text.
    pub dns: Vec<String>,
    /// Bytes.
    pub mtu: i32,
    /// Queue pairs; 0 means 1.
    pub queues: i32,
    /// Hostname for DHCP.
    pub hostname: Option<String>,
    /// The only ports that others may open TCP connections to.
    pub tcp_ports: Option<Vec<i32>>,
    /// What DHCP tells beside the address.
    pub dhcp_options: Option<DhcpOptions>,
    /// Name of the IP object.
    pub ip_object: String,
}

/// What about a requested port cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortSpecError {
    /// Not six bytes of a unicast address.
    #[error("{0:?} is not a unicast MAC address such as 02:00:5e:10:00:01")]
    Mac(String),
    /// Out of range.
    #[error("VLAN id {0} is not between 0 and 4094")]
    Vlan(i32),
    /// Not an IPv4 address.
    #[error("{field} {text:?} is not an IPv4 address")]
    Address {
        /// Which one.
        field: &'static str,
        /// As it was given.
        text: String,
    },
    /// An address needs a prefix, 1 to 32 bits.
    #[error("an address with a prefix of {0:?} bits has no network")]
    Prefix(Option<i32>),
    /// Out of range.
    #[error("an MTU of {0} bytes is not between {MTU_MIN} and {MTU_MAX}")]
    Mtu(i32),
    /// Out of range.
    #[error("{0} queues are not between 1 and 255")]
    Queues(i32),
    /// Out of range.
    #[error("{0} is not a TCP port")]
    TcpPort(i32),
    /// Empty, too long, or with characters that have a meaning elsewhere.
    #[error("{0:?} is not the name of a bridge")]
    Bridge(String),
}

impl PortSpec {
    /// Understands a request.
    ///
    /// # Errors
    /// The first thing that cannot be, see [`PortSpecError`].
    pub fn parse(request: PortRequest) -> Result<Self, PortSpecError> {
        let address = parse_address(&request)?;
        let mtu_in_range = (MTU_MIN..=MTU_MAX).contains(&request.mtu);
        let mtu = u16::try_from(request.mtu).ok().filter(|_| mtu_in_range).ok_or(PortSpecError::Mtu(request.mtu))?;
        let queues = request.queues.max(1);
        let queues = u8::try_from(queues).map_err(|_| PortSpecError::Queues(queues))?;
        if !is_interface_name(&request.bridge) {
            return Err(PortSpecError::Bridge(request.bridge));
        }
        let tcp_port = |port: i32| u16::try_from(port).map_err(|_| PortSpecError::TcpPort(port));
        let tcp_ports = request.tcp_ports.map(|ports| ports.into_iter().map(tcp_port).collect::<Result<_, _>>());
        Ok(Self {
            tcp_ports: tcp_ports.transpose()?,
            dhcp_options: request.dhcp_options,
            vlan: request.vlan.try_into()?,
            mac: request.mac.parse()?,
            address,
            mtu,
            queues,
            vmi_uid: request.vmi_uid,
            vmi: request.vmi,
            nic: request.nic,
            bridge: request.bridge,
            hostname: request.hostname.filter(|name| !name.is_empty()),
            ip_object: request.ip_object,
        })
    }

    /// The name of its tap and OVS port.
    #[must_use]
    pub fn tap(&self) -> TapName {
        TapName::of(&self.vmi_uid, &self.nic)
    }
}

/// Whether the kernel and ovs-ofctl both take `name` as the name of an interface, without quoting.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=INTERFACE_NAME_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.'])
}

fn parse_address(request: &PortRequest) -> Result<Option<PortAddress>, PortSpecError> {
    let Some(ip) = &request.ip else { return Ok(None) };
    let parse = |field, text: &String| {
        text.parse::<Ipv4Addr>().map_err(|_| PortSpecError::Address { field, text: text.clone() })
    };
    let prefix_len = request
        .prefix_len
        .and_then(|bits| u8::try_from(bits).ok())
        .filter(|bits| (1..=32).contains(bits))
        .ok_or(PortSpecError::Prefix(request.prefix_len))?;
    Ok(Some(PortAddress {
        address: parse("address", ip)?,
        prefix_len,
        gateway: request.gateway.as_ref().map(|text| parse("gateway", text)).transpose()?,
        dns: request.dns.iter().map(|text| parse("resolver", text)).collect::<Result<_, _>>()?,
    }))
}

/// The tap as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedTap {
    /// Made for several queues; libvirt can only open it the same way.
    pub multi_queue: bool,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// The port as OVSDB has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPort {
    /// Bridge it is on.
    pub bridge: String,
    /// What it remembers; `None` when that cannot be read.
    pub spec: Option<PortSpec>,
    /// `tag` and `vlan_mode` as [`PortSpec::vlan`] wants them.
    pub tag: Option<u16>,
    /// vswitchd has it open.
    pub open: bool,
}

/// What is there of one port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The tap of that name.
    pub tap: Option<ObservedTap>,
    /// The OVS port of that name.
    pub port: Option<ObservedPort>,
}

/// One thing to do. Removals come first in a [`Plan`]; the first failure ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take the OVS port off a bridge.
    RemovePort {
        /// The bridge it is on now.
        bridge: String,
    },
    /// Remove the tap.
    RemoveTap,
    /// Make the tap.
    CreateTap {
        /// Several queues.
        multi_queue: bool,
    },
    /// Bring the tap up.
    RaiseTap {
        /// Bytes.
        mtu: u16,
    },
    /// Put the OVS port on its bridge and wait until vswitchd has opened the tap.
    AddPort,
    /// Change the tag and what the row remembers, and wait until vswitchd has taken it.
    ChangePort,
    /// Have the flows of the port in the bridge's table.
    Flows,
    /// Answer DHCP on the tap.
    Dhcp,
}

/// The way from what is there to what is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
}

/// Plans one port. A port that is as it should be keeps its tap and its row: guests hang on them.
#[must_use]
pub fn plan(spec: &PortSpec, observed: &Observed) -> Plan {
    let multi_queue = spec.queues > 1;
    let keep_tap = observed.tap.is_some_and(|tap| tap.multi_queue == multi_queue);
    // A row over a tap that is gone or about to go would bind vswitchd to the wrong device: it goes with the tap.
    let keep_port = observed.port.as_ref().filter(|port| keep_tap && port.bridge == spec.bridge && port.open);
    let mut steps = Vec::new();
    if let (Some(port), None) = (&observed.port, keep_port) {
        steps.push(Step::RemovePort { bridge: port.bridge.clone() });
    }
    if observed.tap.is_some() && !keep_tap {
        steps.push(Step::RemoveTap);
    }
    if !keep_tap {
        steps.push(Step::CreateTap { multi_queue });
    }
    if !observed.tap.is_some_and(|tap| keep_tap && tap.up && tap.mtu == u32::from(spec.mtu)) {
        steps.push(Step::RaiseTap { mtu: spec.mtu });
    }
    match keep_port {
        None => steps.push(Step::AddPort),
        Some(port) if port.tag != Some(spec.vlan.id()) || port.spec.as_ref() != Some(spec) => {
            steps.push(Step::ChangePort);
        }
        Some(_) => {}
    }
    steps.extend([Step::Flows, Step::Dhcp]);
    Plan { steps }
}

/// Plans the end of a port.
#[must_use]
pub fn plan_removal(observed: &Observed) -> Plan {
    let mut steps = Vec::new();
    if let Some(port) = &observed.port {
        steps.push(Step::RemovePort { bridge: port.bridge.clone() });
    }
    if observed.tap.is_some() {
        steps.push(Step::RemoveTap);
    }
    Plan { steps }
}

#[cfg(test)]
#[path = "port_tests.rs"]
mod tests;
