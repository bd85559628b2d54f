//! VirtualMachineInstance: a guest that runs, or ran, on a node.

mod access;
mod cpus;
mod devices;
mod domain;
mod features;
mod networks;
mod probes;
mod spec;
mod state;
mod status;
mod volumes;

pub use access::*;
pub use devices::*;
pub use domain::*;
pub use features::*;
pub use networks::*;
pub use probes::*;
pub use spec::*;
pub use status::*;
pub use volumes::*;
