//! Replicas: how many guests or virtual machines a set has, which are made and which go, and how a changed template
//! reaches them. Rules are KubeVirt's (`pkg/virt-controller/watch/replicaset`, `.../pool`):
//!
//! ```text
//!  ReplicaSet  too few: make     too many: delete, the least useful first     over: clear away
//!  Pool        too few: make     too many: delete by the policy               as many as wanted: update
//! ```
//!
//! A step is bounded by [`BURST`]. Refuses to know how a replica is made.

mod indexed;
mod pool;
#[cfg(test)]
mod tests;

pub use indexed::{Suffixes, digests, indexed};
pub use pool::{
    Guest, Healing, Member, Order, PoolPlan, PoolSpec, ScaleIn, Starts, Update, is_lost, max_unavailable, name_index,
    pool,
};

/// Replicas that one pass makes or deletes: those after it are made when these are seen. KubeVirt's.
pub const BURST: usize = 250;

/// A guest of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub name: String,
    /// It is being deleted.
    pub deleting: bool,
    /// Its phase is a final one.
    pub over: bool,
    /// It is ready.
    pub ready: bool,
    /// When it was made, in milliseconds since 1970.
    pub born_ms: i64,
}

impl Replica {
    /// Whether it counts.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.deleting && !self.over
    }
}

/// What a pass does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Guests to delete, by name.
    pub delete: Vec<String>,
    /// How many to make.
    pub create: usize,
}

/// Decides for a ReplicaSet that is neither paused nor being deleted.
#[must_use]
pub fn replica_set(wanted: usize, replicas: &[Replica]) -> Plan {
    let mut active: Vec<_> = replicas.iter().filter(|replica| replica.is_active()).collect();
    let over = replicas.iter().filter(|replica| replica.over && !replica.deleting).map(|replica| replica.name.clone());
    let mut plan = Plan { create: wanted.saturating_sub(active.len()).min(BURST), delete: over.take(BURST).collect() };
    let excess = active.len().saturating_sub(wanted).min(BURST - plan.delete.len());
    // What does not serve yet goes first, and of the others the youngest.
    active.sort_by_key(|replica| (replica.ready, -replica.born_ms, replica.name.clone()));
    plan.delete.extend(active.into_iter().take(excess).map(|replica| replica.name.clone()));
    plan
}
