//! Decisions: pure, synchronous, no I/O; time is an argument. Refuses tokio, kube, the file system and commands, so
//! that every rule is tested in milliseconds. What each module decides stands at its head.

pub mod cephconf;
pub mod certificate;
pub mod datavolume;
pub mod dhcp;
pub mod dhcp_options;
pub mod dns;
pub mod domain;
pub mod downward;
pub mod eviction;
pub mod flash;
pub mod flows;
pub mod guest;
pub mod host_disk;
pub mod import;
pub mod instancetype;
pub mod ipam;
pub mod kubevirt;
pub mod mac;
pub mod metrics;
pub mod oci;
pub mod overhead;
pub mod podnet;
pub mod port;
pub mod port_ranges;
pub mod preset;
pub mod provider;
pub mod proxy;
pub mod qcow2;
pub mod reach;
pub mod reasons;
pub mod replicas;
pub mod ssh_keys;
pub mod vhostmd;
pub mod vm;
pub mod vmi;
