//! Decisions: pure, synchronous, no I/O; time is an argument. Refuses tokio, kube, the file system and commands, so
//! that every rule is tested in milliseconds. What each module decides stands at its head.

pub mod cephconf;
pub mod certificate;
pub mod datavolume;
pub mod dhcp;
pub mod domain;
pub mod flows;
pub mod guest;
pub mod import;
pub mod ipam;
pub mod mac;
pub mod overhead;
pub mod podnet;
pub mod port;
pub mod provider;
pub mod proxy;
pub mod qcow2;
pub mod reach;
pub mod reasons;
pub mod screenshot;
pub mod vm;
pub mod vmi;
