//! Addresses of guests: which one a NIC gets, and the order of reads and writes by which no address is ever given twice.
//!
//! An address belongs to an `IP` object, which belongs to a virtual machine. Allocators may run in several processes
//! and may die between any two calls. What keeps them apart is the Subnet's resourceVersion:
//!
//! ```text
//!  find own IP ──there──> done                                  (a restart of the VM ends here)
//!      │ not there
//!  read Subnet (version, pending claim) ──> list all IPs ──> pending claim without its IP, owner alive?
//!      ^                                        ^                 │ yes: create that IP for it
//!      │ 409                                    └─────────────────┘
//!  replace Subnet (version) with own claim  <── choose
//!      │ accepted: nobody else can choose before this claim has its IP
//!  create own IP ──> done
//! ```
//!
//! [`Allocation`] is that picture without the calls: it says which call is next and is told the answer, so that a test
//! can interleave and kill it at every arrow. Refuses to talk to anything, and IPv6, for now.

mod allocation;
mod memory;
mod range;
#[cfg(test)]
mod tests;

pub use allocation::{Allocation, AllocationError, Answer, Assigned, Call, Claim, Holding, Owner, Request};
pub use memory::Memory;
pub use range::{Range, RangeError};
