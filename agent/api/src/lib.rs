//! Wire types of Furrow: the kinds that the cluster serves, and the documents that its parts pass to each other.
//!
//! Owns the shape of kubevirt.io, cdi.kubevirt.io, kubeovn.io and k8s.cni.cncf.io objects, the CRDs made from them
//! ([`crds`]) and the names that all parts share ([`names`]). Decides nothing: what is valid beyond a schema is
//! admission's affair, what follows from an object is the model's.

#![expect(clippy::duplicated_attributes, reason = "kube's printcolumn is a list of attributes with the same keys")]

pub mod cdiconfig;
pub mod channel;
pub mod crds;
pub mod datagrams;
pub mod datavolume;
pub mod import;
pub mod instancetype;
pub mod ip;
pub mod kubeovn;
pub mod kubevirt;
pub mod meta;
pub mod migration;
pub mod nad;
pub mod names;
mod open_enum;
pub mod pool;
pub mod preset;
pub mod providernetwork;
pub mod quantity;
pub mod replicaset;
pub mod reservation;
pub mod storageprofile;
pub mod subnet;
pub mod subresources;
pub mod vlan;
pub mod vm;
pub mod vmi;

pub use cdiconfig::CDIConfig;
pub use datavolume::DataVolume;
pub use instancetype::{
    VirtualMachineClusterInstancetype, VirtualMachineClusterPreference, VirtualMachineInstancetype,
    VirtualMachinePreference,
};
pub use ip::IP;
pub use kubevirt::KubeVirt;
pub use migration::VirtualMachineInstanceMigration;
pub use nad::NetworkAttachmentDefinition;
pub use pool::VirtualMachinePool;
pub use preset::VirtualMachineInstancePreset;
pub use providernetwork::ProviderNetwork;
pub use replicaset::VirtualMachineInstanceReplicaSet;
pub use storageprofile::StorageProfile;
pub use subnet::Subnet;
pub use vlan::Vlan;
pub use vm::VirtualMachine;
pub use vmi::VirtualMachineInstance;
