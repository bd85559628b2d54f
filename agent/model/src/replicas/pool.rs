//! What a pool does next.

use std::collections::BTreeSet;

use super::BURST;

/// A virtual machine of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// It is being deleted.
    pub deleting: bool,
    /// When it was made, in milliseconds since 1970.
    pub born_ms: i64,
    /// The policy for scaling in may take it.
    pub removable: bool,
    /// The policy for updates may take it.
    pub updatable: bool,
    /// It was made from the template as it is now.
    pub current: bool,
    /// Its disks are made from templates that have changed: it can only be made anew.
    pub disks_changed: bool,
    /// It does not start, and is to be replaced: see [`is_lost`].
    pub lost: bool,
    /// Its guest, if there is one.
    pub guest: Option<Guest>,
}

/// How a member starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Starts {
    /// Starts that failed in a row.
    pub failures: i32,
    /// Its status says that it cannot start as it is.
    pub failing: bool,
    /// Since when it has not been ready, in milliseconds since 1970.
    pub down_since_ms: Option<i64>,
}

/// When a member that does not start is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// Failed starts in a row.
    pub failures: i32,
    /// How long its status has said so, in milliseconds.
    pub after_ms: i64,
}

/// Whether a member that does not start is to be replaced. `now_ms`: milliseconds since 1970.
#[must_use]
pub fn is_lost(starts: &Starts, healing: &Healing, now_ms: i64) -> bool {
    let long_enough = starts.down_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= healing.after_ms);
    starts.failures >= healing.failures || starts.failing && long_enough
}

/// The guest of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// It is being deleted.
    pub deleting: bool,
    /// It runs and is ready.
    pub ready: bool,
    /// It was made from another template than its virtual machine has now.
    pub outdated: bool,
}

/// In which order members are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "KubeVirt's own words")]
pub enum Order {
    Random,
    Ascending,
    Descending,
    Newest,
    Oldest,
}

/// Who removes members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleIn {
    /// The pool, in this order.
    Proactive(Order),
    /// Users.
    Manual,
}

/// How a changed template reaches members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Not at all.
    Unmanaged,
    /// The virtual machine at once, its guest at its next start.
    Opportunistic,
    /// The guest too, by a restart, in this order.
    Proactive(Order),
}

/// What a pool wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpec {
    /// How many.
    pub replicas: usize,
    /// Who removes members.
    pub scale_in: ScaleIn,
    /// How a changed template reaches members.
    pub update: Update,
    /// How many may be down at once for an update.
    pub max_unavailable: usize,
    /// A random number, for the order [`Order::Random`].
    pub seed: u64,
}

/// What a pass does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolPlan {
    /// Indices of members to make.
    pub create: Vec<usize>,
    /// Members to delete.
    pub delete: Vec<String>,
    /// Members to write the template to.
    pub update: Vec<String>,
    /// Members whose guest is to be deleted, so that it is made from the template as it is.
    pub restart: Vec<String>,
    /// An update waits until more members are ready.
    pub waiting: bool,
}

/// The index at the end of a member's name.
#[must_use]
pub fn name_index(name: &str) -> Option<usize> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// How many may be down: a number, or percent of the replicas; at least one, or nothing would ever be updated.
///
/// # Errors
/// What is wrong with the text.
pub fn max_unavailable(said: Option<&str>, replicas: usize) -> Result<usize, String> {
    let said = said.unwrap_or("100%");
    let wrong = || format!("must be a number of virtual machines or a percentage such as 50%, is {said:?}");
    let count = match said.strip_suffix('%') {
        Some(percent) => {
            let percent: usize = percent.parse().map_err(|_| wrong())?;
            if percent > 100 {
                return Err(wrong());
            }
            replicas.saturating_mul(percent) / 100
        }
        None => said.parse().map_err(|_| wrong())?,
    };
    Ok(count.max(1))
}

/// Decides for a pool that is neither paused nor being deleted. `taken`: names of virtual machines in its namespace,
/// whoever they belong to; `prefix`: the pool's name.
#[must_use]
pub fn pool(spec: &PoolSpec, prefix: &str, members: &[Member], taken: &BTreeSet<String>) -> PoolPlan {
    let mut plan = PoolPlan::default();
    let lost = members.iter().filter(|member| member.lost && !member.deleting && member.removable);
    plan.delete = lost.take(BURST).map(|member| member.name.clone()).collect();
    if !plan.delete.is_empty() {
        // Whoever takes their place is made when they are gone.
        return plan;
    }
    if members.len() < spec.replicas {
        let missing = (spec.replicas - members.len()).min(BURST);
        let free = (0..).filter(|index| !taken.contains(&format!("{prefix}-{index}")));
        plan.create = free.take(missing).collect();
    } else if members.len() > spec.replicas {
        plan.delete = removed(spec, members);
    } else {
        update(spec, members, &mut plan);
    }
    plan
}

/// Members that go: those on their way already count.
fn removed(spec: &PoolSpec, members: &[Member]) -> Vec<String> {
    let ScaleIn::Proactive(order) = spec.scale_in else { return Vec::new() };
    let going = members.iter().filter(|member| member.deleting).count();
    let excess = (members.len() - spec.replicas).saturating_sub(going).min(BURST);
    let candidates = members.iter().filter(|member| !member.deleting && member.removable);
    let chosen = sorted(candidates, order, spec.seed).into_iter().take(excess);
    chosen.map(|member| member.name.clone()).collect()
}

fn update(spec: &PoolSpec, members: &[Member], plan: &mut PoolPlan) {
    if spec.update == Update::Unmanaged {
        return;
    }
    let stays = |member: &&Member| !member.deleting && member.updatable;
    let outdated = members.iter().filter(stays).filter(|member| !member.current && !member.disks_changed);
    plan.update = outdated.take(BURST).map(|member| member.name.clone()).collect();
    let Update::Proactive(order) = spec.update else { return };
    let standing = members.iter().filter(|member| !member.deleting && (member.current || member.disks_changed));
    let down = standing.filter(|member| !member.guest.is_some_and(|guest| guest.ready && !guest.deleting)).count();
    let mut budget = spec.max_unavailable.saturating_sub(down);
    let stale = members.iter().filter(stays).filter(|member| {
        member.disks_changed || member.current && member.guest.is_some_and(|guest| guest.outdated && !guest.deleting)
    });
    for member in sorted(stale, order, spec.seed) {
        // Whoever serves nobody can be restarted at any time: it may be the old template that keeps it down.
        let serves = member.guest.is_some_and(|guest| guest.ready);
        if serves && budget == 0 {
            plan.waiting = true;
            continue;
        }
        budget -= usize::from(serves);
        if member.disks_changed {
            plan.delete.push(member.name.clone());
        } else {
            plan.restart.push(member.name.clone());
        }
    }
}

fn sorted<'a>(members: impl Iterator<Item = &'a Member>, order: Order, seed: u64) -> Vec<&'a Member> {
    let mut members: Vec<_> = members.collect();
    let index = |member: &Member| name_index(&member.name).unwrap_or_default();
    match order {
        Order::Ascending => members.sort_by_key(|member| index(member)),
        Order::Descending => members.sort_by_key(|member| std::cmp::Reverse(index(member))),
        Order::Newest => members.sort_by_key(|member| std::cmp::Reverse(member.born_ms)),
        Order::Oldest => members.sort_by_key(|member| member.born_ms),
        Order::Random => members.sort_by_key(|member| scattered(seed, index(member))),
    }
    members
}

/// A number that looks random and is the same for the same seed (the mixing function of SplitMix64).
fn scattered(seed: u64, index: usize) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index as u64 + 1));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
