//! What control tells the agent of a node in a reservation pod's annotation: all that a guest needs besides its spec.
//!
//! The agent believes it because a ValidatingAdmissionPolicy lets nobody but control write it.

use serde::{Deserialize, Serialize};

use crate::import::PullSecret;

/// Name of the reserved volume that keeps the variables of a guest's UEFI firmware. A volume of a spec is named by a DNS
/// label, which has no slash.
pub const STATE_NVRAM: &str = "state/nvram";
/// Name of the reserved volume that keeps the state of a guest's TPM.
pub const STATE_TPM: &str = "state/tpm";

/// Value of [`crate::names::ANNOTATION_RESERVATION`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// The VMI that the pod reserves for.
    pub vmi: VmiRef,
    /// NICs in the order of `spec.domain.devices.interfaces`.
    #[serde(default)]
    pub nics: Vec<ReservedNic>,
    /// Volumes that are claims, by volume name; and those of the machine's own state, see [`ReservedVolume::is_state`].
    #[serde(default)]
    pub volumes: Vec<ReservedVolume>,
    /// The image that the guest's kernel is in, where its spec names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<ReservedImage>,
}

/// An image of a registry, as control found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservedImage {
    /// Repository and digest: what the reference of the spec meant when the guest was made.
    pub image: String,
    /// The registry may be asked without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// The login for the registry, where the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<PullSecret>,
}

/// One VMI object, of this very creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmiRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// A NIC with the address that its VM owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservedNic {
    /// Name of the interface in the spec.
    pub name: String,
    /// `namespace/name` of the NetworkAttachmentDefinition, or `pod`.
    pub network: String,
    /// Subnet that the address is from.
    pub subnet: String,
    /// OVS bridge: `br-` and the ProviderNetwork's name.
    pub bridge: String,
    /// 802.1Q VLAN id; 0: untagged.
    pub vlan: i32,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Length of the subnet's prefix, bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_len: Option<i32>,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// DNS servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// MTU, bytes.
    pub mtu: i32,
    /// Name of the IP object.
    pub ip_object: String,
}

/// A claim's RBD image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservedVolume {
    /// Name of the volume in the spec.
    pub name: String,
    /// PersistentVolumeClaim.
    pub claim: String,
    /// Ceph pool.
    pub pool: String,
    /// RBD image.
    pub image: String,
    /// Access modes of the claim.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// `Block` or `Filesystem`.
    pub volume_mode: String,
    /// The spec asks for it read-only.
    pub read_only: bool,
    /// Capacity of the claim, bytes.
    pub capacity_bytes: i64,
}

impl ReservedVolume {
    /// Whether it keeps a part of the machine itself, which no disk shows.
    #[must_use]
    pub fn is_state(&self) -> bool {
        matches!(self.name.as_str(), STATE_NVRAM | STATE_TPM)
    }
}
