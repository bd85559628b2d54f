//! From the interfaces of a guest to the networks of the cluster: NetworkAttachmentDefinition, Subnet, Vlan,
//! ProviderNetwork, and what annotations ask for. Reads caches only; refuses to allocate.
//!
//! A network that names a provider gets the Subnet of that provider and no other: falling back to the default Subnet on
//! a misspelt name would put a guest on somebody else's layer 2.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::Store;

use furrow_api::vmi::{Interface, InterfaceState, Network};
use furrow_api::{NetworkAttachmentDefinition, ProviderNetwork, Subnet, VirtualMachineInstance, Vlan};
use furrow_model::mac::{Mac, MacError};

use crate::cluster::{Cluster, find, find_cluster};

/// Provider of the default Subnet.
const DEFAULT_PROVIDER: &str = "ovn";

/// Ethernet's own, for Subnets that name none.
const DEFAULT_MTU: i32 = 1500;

/// Prefix of Kube-OVN's annotations on the default network.
const DEFAULT_PREFIX: &str = "ovn.kubernetes.io";

/// A network that a guest cannot be attached to, as things stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("interface {interface} has no network of the same name")]
    NoNetwork { interface: String },
    #[error("NetworkAttachmentDefinition {name} does not exist")]
    NoDefinition { name: String },
    #[error("NetworkAttachmentDefinition {name} cannot be used: its config is not JSON: {cause}")]
    Malformed { name: String, cause: String },
    #[error("NetworkAttachmentDefinition {name} cannot be used: its type is {found:?}, not \"kube-ovn\"")]
    NotOurs { name: String, found: String },
    #[error("network {network} has no Subnet: none has the provider {provider}")]
    NoSubnet { network: String, provider: String },
    #[error("Subnet {name} does not exist")]
    SubnetMissing { name: String },
    #[error("network {network} has no Subnet: none has default: true")]
    NoDefault { network: String },
    #[error("Subnet {subnet} cannot be used: it names no Vlan, and furrow has no overlay")]
    NotUnderlay { subnet: String },
    #[error("Subnet {subnet} cannot be used: Vlan {vlan} does not exist")]
    VlanMissing { subnet: String, vlan: String },
    #[error("Vlan {vlan} cannot be used: ProviderNetwork {provider} does not exist")]
    ProviderMissing { vlan: String, provider: String },
    #[error("annotation {key} cannot be used: {value:?} is not an IPv4 address")]
    Address { key: String, value: String },
    #[error("the hardware address of interface {interface} cannot be used")]
    HardwareAddress {
        interface: String,
        #[source]
        source: MacError,
    },
}

impl NetworkError {
    /// The condition's reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoNetwork { .. } => "NetworkNotFound",
            Self::NoDefinition { .. } => "NetworkAttachmentDefinitionNotFound",
            Self::Malformed { .. } | Self::NotOurs { .. } => "NetworkAttachmentDefinitionInvalid",
            Self::NoSubnet { .. } | Self::SubnetMissing { .. } | Self::NoDefault { .. } => "SubnetNotFound",
            Self::NotUnderlay { .. } => "SubnetNotSupported",
            Self::VlanMissing { .. } => "VlanNotFound",
            Self::ProviderMissing { .. } => "ProviderNetworkNotFound",
            Self::Address { .. } | Self::HardwareAddress { .. } => "AddressInvalid",
        }
    }
}

/// One interface of a guest and the network behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Name of the interface.
    pub(crate) interface: String,
    /// `namespace/name` of the definition, or `pod`.
    pub(crate) network: String,
    /// Name of the Subnet.
    pub(crate) subnet: String,
    /// Prefix of Kube-OVN's annotations for it.
    pub(crate) prefix: String,
    /// Name of the ProviderNetwork.
    pub(crate) provider_network: String,
    /// Tag; 0: none.
    pub(crate) vlan: i32,
    /// MTU of the guest.
    pub(crate) mtu: i32,
    /// Servers to tell the guest.
    pub(crate) dns: Vec<String>,
    /// As the Subnet has it.
    pub(crate) cidr: String,
    /// Name of the IP object.
    pub(crate) ip_object: String,
    /// A particular address.
    pub(crate) ip: Option<Ipv4Addr>,
    /// A particular hardware address.
    pub(crate) mac: Option<Mac>,
}

/// Kinds that networks are looked up in.
pub(crate) struct Networks<'a> {
    nads: &'a Store<NetworkAttachmentDefinition>,
    subnets: Vec<Arc<Subnet>>,
    vlans: &'a Store<Vlan>,
    provider_networks: &'a Store<ProviderNetwork>,
}

impl<'a> Networks<'a> {
    /// As the caches have them.
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        let mut subnets = cluster.subnets.state();
        subnets.retain(|subnet| subnet.metadata.deletion_timestamp.is_none());
        subnets.sort_by_key(|subnet| subnet.name_any());
        Self { nads: &cluster.nads, subnets, vlans: &cluster.vlans, provider_networks: &cluster.provider_networks }
    }

    /// The networks of a guest, in the order of its interfaces. `owner`: the VM that its addresses belong to.
    ///
    /// # Errors
    /// When one of them cannot be used; a change of the cluster may cure it.
    pub(crate) fn attachments(
        &self,
        vmi: &VirtualMachineInstance,
        owner: &str,
    ) -> Result<Vec<Attachment>, NetworkError> {
        let interfaces = vmi.spec.domain.devices.interfaces.iter();
        let mut attachments: Vec<Attachment> = Vec::new();
        for interface in interfaces.filter(|interface| interface.state != Some(InterfaceState::Absent)) {
            let network = vmi.spec.networks.iter().find(|network| network.name == interface.name);
            let network = network.ok_or_else(|| NetworkError::NoNetwork { interface: interface.name.clone() })?;
            let mut attachment = self.attachment(vmi, owner, interface, network)?;
            // The second NIC on one network cannot share the record of the first, nor what annotations ask for it.
            if attachments.iter().any(|other| other.ip_object == attachment.ip_object) {
                attachment.ip_object = format!("{}.{}", attachment.ip_object, interface.name);
                attachment.ip = None;
                attachment.mac = hardware_address(interface, None)?;
            }
            attachments.push(attachment);
        }
        Ok(attachments)
    }

    fn attachment(
        &self,
        vmi: &VirtualMachineInstance,
        owner: &str,
        interface: &Interface,
        network: &Network,
    ) -> Result<Attachment, NetworkError> {
        let namespace = vmi.namespace().unwrap_or_default();
        let (label, provider) = self.provider(&namespace, network)?;
        let prefix = match provider.as_str() {
            DEFAULT_PROVIDER => DEFAULT_PREFIX.to_owned(),
            other => format!("{other}.kubernetes.io"),
        };
        let annotation =
            |key: &str| vmi.annotations().get(&format!("{prefix}/{key}")).filter(|value| !value.is_empty());
        let subnet = self.subnet(&label, &provider, annotation("logical_switch"))?;
        let (vlan, provider_network) = self.underlay(subnet)?;
        let ip = annotation("ip_address").map(|value| {
            let refuse = |_| NetworkError::Address { key: format!("{prefix}/ip_address"), value: value.clone() };
            value.trim().parse::<Ipv4Addr>().map_err(refuse)
        });
        let base = format!("{owner}.{namespace}");
        Ok(Attachment {
            interface: interface.name.clone(),
            ip_object: if provider == DEFAULT_PROVIDER { base } else { format!("{base}.{provider}") },
            ip: ip.transpose()?,
            mac: hardware_address(interface, annotation("mac_address"))?,
            network: label,
            subnet: subnet.name_any(),
            provider_network: provider_network.name_any(),
            vlan: vlan.spec.id,
            mtu: subnet.spec.mtu.unwrap_or(DEFAULT_MTU),
            dns: dns_servers(subnet.spec.dhcp_v4_options.as_deref().unwrap_or_default()),
            cidr: subnet.spec.cidr_block.clone(),
            prefix,
        })
    }

    /// How the network is called, and the provider whose Subnet it has.
    fn provider(&self, namespace: &str, network: &Network) -> Result<(String, String), NetworkError> {
        let Some(multus) = &network.multus else { return Ok(("pod".to_owned(), DEFAULT_PROVIDER.to_owned())) };
        let (space, name) = multus.network_name.split_once('/').unwrap_or((namespace, &multus.network_name));
        let label = format!("{space}/{name}");
        let definition =
            find(self.nads, space, name).ok_or_else(|| NetworkError::NoDefinition { name: label.clone() })?;
        let config = definition
            .spec
            .parse_config()
            .map_err(|error| NetworkError::Malformed { name: label.clone(), cause: error.to_string() })?;
        let found = config.type_.unwrap_or_default();
        if found != "kube-ovn" {
            return Err(NetworkError::NotOurs { name: label, found });
        }
        let provider = config.provider.filter(|provider| !provider.is_empty());
        Ok((label, provider.unwrap_or_else(|| DEFAULT_PROVIDER.to_owned())))
    }

    fn subnet(&self, network: &str, provider: &str, named: Option<&String>) -> Result<&Subnet, NetworkError> {
        let subnets = || self.subnets.iter().map(Arc::as_ref);
        if let Some(name) = named {
            let subnet = subnets().find(|subnet| subnet.name_any() == *name);
            return subnet.ok_or_else(|| NetworkError::SubnetMissing { name: name.clone() });
        }
        if provider == DEFAULT_PROVIDER {
            let subnet = subnets().find(|subnet| subnet.spec.default);
            return subnet.ok_or_else(|| NetworkError::NoDefault { network: network.to_owned() });
        }
        let subnet = subnets().find(|subnet| subnet.spec.provider.as_deref() == Some(provider));
        subnet.ok_or_else(|| NetworkError::NoSubnet { network: network.to_owned(), provider: provider.to_owned() })
    }

    fn underlay(&self, subnet: &Subnet) -> Result<(Arc<Vlan>, Arc<ProviderNetwork>), NetworkError> {
        let name = subnet.name_any();
        let vlan_name = subnet.spec.vlan.as_deref().filter(|vlan| !vlan.is_empty());
        let vlan_name = vlan_name.ok_or_else(|| NetworkError::NotUnderlay { subnet: name.clone() })?;
        let vlan = find_cluster(self.vlans, vlan_name)
            .ok_or_else(|| NetworkError::VlanMissing { subnet: name, vlan: vlan_name.to_owned() })?;
        let provider = vlan.spec.provider.clone().unwrap_or_default();
        let provider_network = find_cluster(self.provider_networks, &provider)
            .ok_or_else(|| NetworkError::ProviderMissing { vlan: vlan_name.to_owned(), provider })?;
        Ok((vlan, provider_network))
    }
}

/// The spec's word counts before the annotation's.
fn hardware_address(interface: &Interface, annotation: Option<&String>) -> Result<Option<Mac>, NetworkError> {
    let wanted = interface.mac_address.as_ref().or(annotation);
    let parsed = wanted.map(|text| text.trim().parse::<Mac>()).transpose();
    parsed.map_err(|source| NetworkError::HardwareAddress { interface: interface.name.clone(), source })
}

/// `dns_server` of OVN's DHCP options: `lease_time=3600,dns_server={1.1.1.1,8.8.8.8}`. What is no IPv4 address is
/// left out.
fn dns_servers(options: &str) -> Vec<String> {
    let Some((_, rest)) = options.split_once("dns_server=") else { return Vec::new() };
    let list = match rest.strip_prefix('{') {
        Some(braced) => braced.split('}').next().unwrap_or_default(),
        None => rest.split(',').next().unwrap_or_default(),
    };
    let addresses = list.split([',', ';']).filter_map(|part| part.trim().parse::<Ipv4Addr>().ok());
    addresses.map(|address| address.to_string()).collect()
}

/// What Kube-OVN writes on a pod, for people and tools that read it there.
pub(crate) fn annotations(
    attachment: &Attachment,
    ip: Ipv4Addr,
    mac: Mac,
    gateway: Option<Ipv4Addr>,
) -> BTreeMap<String, String> {
    let mut values = vec![
        ("allocated", "true".to_owned()),
        ("ip_address", ip.to_string()),
        ("mac_address", mac.to_string()),
        ("cidr", attachment.cidr.clone()),
        ("logical_switch", attachment.subnet.clone()),
        ("vlan_id", attachment.vlan.to_string()),
        ("provider_network", attachment.provider_network.clone()),
    ];
    values.extend(gateway.map(|gateway| ("gateway", gateway.to_string())));
    values.into_iter().map(|(key, value)| (format!("{}/{key}", attachment.prefix), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: &[&str]) {
        assert_eq!(dns_servers(options), expected, "{options}");
    }

    #[test]
    fn reads_name_servers_from_ovns_options() {
        check("", &[]);
        check("lease_time=3600,router=10.0.0.1", &[]);
        check("lease_time=3600,dns_server=10.0.0.2,mtu=1500", &["10.0.0.2"]);
        check("dns_server={10.0.0.2,10.0.0.3},mtu=1500", &["10.0.0.2", "10.0.0.3"]);
        check("dns_server=nowhere", &[]);
    }
}
