//! The only code that touches the machine: each module owns one of its interfaces and speaks it in full, so that the
//! agent and the installer work with typed operations. Refuses decisions (`furrow-model`) and Kubernetes (`furrow-api`).

pub mod block;
pub mod ceph;
pub mod cmd;
pub mod http;
pub mod libvirt;
pub mod netlink;
pub mod openflow;
pub mod ovsdb;
pub mod packet;
pub mod rbd;
pub mod renames;
pub mod running;
pub mod sandbox;
pub mod tap;
