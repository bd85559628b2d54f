//! Whether a node can leave its cluster, and by which steps. Pure: facts in, steps or reasons out.
//!
//! The order keeps two things at every moment: a majority of etcd's members and of the monitors, and every copy that the
//! pools want. So a node that lives is replaced as a server and emptied before it is told to stop; of one that is lost,
//! which etcd waits for before it takes another, the member goes first.

use std::fmt;

use super::facts::{Facts, Guest, Host, Voter};
use crate::join::WANTED_SERVERS;

/// What an administrator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Guests may be stopped, to start anew elsewhere.
    pub(crate) stop_guests: bool,
    /// The node is switched off and does not come back.
    pub(crate) dead: bool,
    /// Pools may keep fewer copies where the hosts that remain are too few.
    pub(crate) fewer_copies: bool,
}

/// One step of a removal. Each can be executed again at any time: it looks first and does what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Pods and guests are not sent there any more.
    Cordon,
    /// A pool keeps fewer copies.
    LowerCopies {
        /// The pool.
        pool: String,
        /// Copies from now on.
        size: u64,
    },
    /// A worker becomes a server.
    Promote(String),
    /// Guests are stopped; their VMs start them anew on other nodes.
    StopGuests(Vec<Guest>),
    /// Guests of a lost node are given free, after what they may still write has been shut out.
    ReleaseGuests(Vec<Guest>),
    /// Pods are evicted.
    EvictPods,
    /// OSDs are emptied; of a lost node, what they held is copied anew.
    Drain {
        /// Their numbers.
        osds: Vec<u64>,
        /// All copies can be kept, so that it is waited until they are there.
        whole: bool,
    },
    /// The cluster takes nothing from the node any more, and the node, if it runs, stops.
    Mark,
    /// Its OSDs are down.
    AwaitStop(Vec<u64>),
    /// Its OSDs and its host are taken out of Ceph's maps.
    PurgeOsds(Vec<u64>),
    /// Its monitor and its manager are taken out.
    RemoveMonitor,
    /// Its Node, its member of etcd and what was its own are deleted.
    DeleteNode,
}

impl Step {
    /// The step's name, for `--crash-after` and the progress.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Cordon => "cordon",
            Step::LowerCopies { .. } => "lower-copies",
            Step::Promote(_) => "promote",
            Step::StopGuests(_) => "stop-guests",
            Step::ReleaseGuests(_) => "release-guests",
            Step::EvictPods => "evict-pods",
            Step::Drain { .. } => "drain",
            Step::Mark => "mark",
            Step::AwaitStop(_) => "await-stop",
            Step::PurgeOsds(_) => "purge-osds",
            Step::RemoveMonitor => "remove-monitor",
            Step::DeleteNode => "delete-node",
        }
    }
}

fn osd_names(ids: &[u64]) -> String {
    ids.iter().map(|id| format!("osd.{id}")).collect::<Vec<_>>().join(", ")
}

fn guest_names(guests: &[Guest]) -> String {
    guests.iter().map(Guest::label).collect::<Vec<_>>().join(", ")
}

/// What would be done, for people.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Cordon => f.write_str("send no pods and guests there any more"),
            Step::LowerCopies { pool, size } => write!(f, "keep {size} copies in pool {pool} from now on"),
            Step::Promote(name) => {
                write!(f, "make {name} a server; it looks every two minutes whether it is to become one")
            }
            Step::StopGuests(guests) => {
                write!(f, "STOP {}; they start anew on other nodes", guest_names(guests))?;
                let stay: Vec<Guest> = guests.iter().filter(|guest| !guest.restarts).cloned().collect();
                if stay.is_empty() { Ok(()) } else { write!(f, ", but these stay off: {}", guest_names(&stay)) }
            }
            Step::ReleaseGuests(guests) => {
                write!(f, "shut out what the node may still write and release {}", guest_names(guests))
            }
            Step::EvictPods => f.write_str("evict its pods"),
            Step::Drain { osds, whole: true } => write!(f, "move what {} hold to other hosts", osd_names(osds)),
            Step::Drain { osds, whole: false } => {
                write!(f, "take {} out; there is no place for another copy of what they held", osd_names(osds))
            }
            Step::Mark => f.write_str(
                "tell the cluster that it is removed: nothing is taken from it any more, and it stops by itself",
            ),
            Step::AwaitStop(osds) if osds.is_empty() => f.write_str("wait until it has stopped"),
            Step::AwaitStop(osds) => write!(f, "wait until {} have stopped", osd_names(osds)),
            Step::PurgeOsds(osds) if osds.is_empty() => f.write_str("take its host out of Ceph's map"),
            Step::PurgeOsds(osds) => write!(f, "purge {} and take its host out of Ceph's map", osd_names(osds)),
            Step::RemoveMonitor => f.write_str("remove its monitor and its manager"),
            Step::DeleteNode => f.write_str("delete its Node, its member of etcd and its certificate requests"),
        }
    }
}

/// The steps, and what an administrator should know before them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// In this order.
    pub(crate) steps: Vec<Step>,
    /// What will be worse afterwards.
    pub(crate) warnings: Vec<String>,
}

/// Why a node cannot be removed now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is no node {0} in this cluster")]
    Unknown(String),
    #[error("this is {0} itself, which cannot see its own removal to the end: run it on another server")]
    Own(String),
    #[error("{0} is the last server: the cluster is in it")]
    LastServer(String),
    #[error("{0} does not answer; if it is switched off and does not come back, say --dead, otherwise start it")]
    Silent(String),
    #[error("{0} lives: without --dead it is emptied first; if it is to be taken for lost, switch it off before")]
    Alive(String),
    #[error(
        "{of} would lose the quorum: {} of the {remaining} that remain do not answer ({}), and a majority must",
        silent.len(), silent.join(", ")
    )]
    Quorum { of: &'static str, remaining: usize, silent: Vec<String> },
    #[error(
        "pool {pool} keeps {size} copies, each on another {domain}, and without the node there are {places}: add a node \
         first, or say --fewer-copies to keep {places}"
    )]
    Copies { pool: String, size: u64, domain: String, places: u64 },
    #[error("pool {pool} would be left with {places} places of kind {domain}: its data would have no second copy")]
    OnlyCopy { pool: String, domain: String, places: u64 },
    #[error("there is no room: {place} would have to hold {needed} of the {size} that it can take")]
    Room { place: String, needed: String, size: String },
    #[error("placement groups do not serve, their data may be on this node alone: {0}")]
    IdleGroups(String),
    #[error("{0} objects have no copy that Ceph knows of: they may be on this node alone")]
    Unfound(u64),
    #[error("these guests belong to no VirtualMachine and would not start anew, delete them first: {0}")]
    Bare(String),
    #[error(
        "these guests may run on this node only (nodeSelector kubernetes.io/hostname), change their VMs first: {0}"
    )]
    Pinned(String),
    #[error("these guests run on it, say --stop-guests to stop them and start them anew elsewhere: {0}")]
    Guests(String),
    #[error("it is filling these DataVolumes, wait until they are done: {0}")]
    Imports(String),
}

/// The plan, or every reason against it.
pub(crate) fn plan(facts: &Facts, allowed: Allowed) -> Result<Plan, Vec<Refusal>> {
    let name = &facts.name;
    if !facts.is_known() {
        return Err(vec![Refusal::Unknown(name.clone())]);
    }
    if *name == facts.own {
        return Err(vec![Refusal::Own(name.clone())]);
    }
    let mut refusals = Vec::new();
    let is_lost = !facts.is_alive();
    match (&facts.node, facts.is_marked) {
        (Some(node), false) if node.is_ready && allowed.dead => refusals.push(Refusal::Alive(name.clone())),
        (Some(node), false) if !node.is_ready && !allowed.dead => refusals.push(Refusal::Silent(name.clone())),
        _ => {}
    }
    refusals.extend(servers(facts));
    if !is_lost {
        refusals.extend(guests(facts, allowed));
    }
    let (lower, whole) = match copies(facts, allowed, is_lost) {
        Ok(found) => found,
        Err(more) => {
            refusals.extend(more);
            (Vec::new(), false)
        }
    };
    if whole {
        refusals.extend(room(facts));
    }
    if refusals.is_empty() { Ok(order(facts, is_lost, lower, whole)) } else { Err(refusals) }
}

/// What speaks against it on the side of the control plane.
fn servers(facts: &Facts) -> Vec<Refusal> {
    if !facts.is_server() {
        return Vec::new();
    }
    if facts.other_servers().next().is_none() {
        return vec![Refusal::LastServer(facts.name.clone())];
    }
    [("etcd", &facts.members), ("the monitors", &facts.monitors)]
        .into_iter()
        .filter_map(|(of, voters)| quorum(of, voters, &facts.name))
        .collect()
}

/// Whether those that remain are a majority of themselves.
fn quorum(of: &'static str, voters: &[Voter], without: &str) -> Option<Refusal> {
    let remaining: Vec<&Voter> = voters.iter().filter(|voter| voter.name != without).collect();
    let silent: Vec<String> = remaining.iter().filter(|v| !v.answers).map(|v| v.name.clone()).collect();
    let answering = remaining.len() - silent.len();
    let refusal = Refusal::Quorum { of, remaining: remaining.len(), silent };
    (answering * 2 <= remaining.len()).then_some(refusal)
}

fn labels(facts: &Facts, which: impl Fn(&Guest) -> bool) -> Option<String> {
    let found: Vec<Guest> = facts.guests.iter().filter(|guest| which(guest)).cloned().collect();
    (!found.is_empty()).then(|| guest_names(&found))
}

/// What speaks against it on the side of guests. A lost node's guests run nowhere: there is nothing to stop.
fn guests(facts: &Facts, allowed: Allowed) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = labels(facts, |guest| guest.is_pinned).map(Refusal::Pinned).into_iter().collect();
    refusals.extend(labels(facts, |guest| !guest.has_vm).map(Refusal::Bare));
    if !allowed.stop_guests {
        refusals.extend(labels(facts, |guest| guest.has_vm && !guest.is_pinned).map(Refusal::Guests));
    }
    if !facts.imports.is_empty() {
        refusals.push(Refusal::Imports(facts.imports.join(", ")));
    }
    refusals
}

/// The copies that are lowered, and whether all others can be kept.
fn copies(facts: &Facts, allowed: Allowed, is_lost: bool) -> Result<(Vec<Step>, bool), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if facts.osds.is_empty() {
        return Ok((Vec::new(), true));
    }
    if !facts.idle_groups.is_empty() {
        refusals.push(Refusal::IdleGroups(facts.idle_groups.join(", ")));
    }
    if facts.unfound > 0 {
        refusals.push(Refusal::Unfound(facts.unfound));
    }
    let (mut lower, mut whole) = (Vec::new(), true);
    for pool in facts.pools.iter().filter(|pool| pool.places < pool.size) {
        let (name, domain, places) = (pool.name.clone(), pool.domain.clone(), pool.places);
        match (places, allowed.fewer_copies) {
            (0, _) => refusals.push(Refusal::OnlyCopy { pool: name, domain, places }),
            (2.., true) => lower.push(Step::LowerCopies { pool: name, size: places }),
            // What it held is lost already; the copies that are left serve, as the groups say, and stay as they are.
            (_, _) if is_lost => whole = false,
            (1, _) => refusals.push(Refusal::OnlyCopy { pool: name, domain, places }),
            (_, _) => refusals.push(Refusal::Copies { pool: name, size: pool.size, domain, places }),
        }
    }
    if refusals.is_empty() { Ok((lower, whole)) } else { Err(refusals) }
}

/// Hundredths of a disk beyond which Ceph warns that it is nearly full.
const NEARLY_FULL: u64 = 85;

/// Whether what the node holds fits on the others.
fn room(facts: &Facts) -> Option<Refusal> {
    let moved: u64 = facts.osds.iter().map(|osd| osd.used).sum();
    let takes = |host: &Host| host.size / 100 * NEARLY_FULL;
    let refuse = |place: String, needed: u64, size: u64| {
        (needed > size).then(|| Refusal::Room { place, needed: gigabytes(needed), size: gigabytes(size) })
    };
    let copies = facts.pools.iter().filter(|p| p.domain == "host").map(|pool| pool.size).max().unwrap_or(1);
    let used: u64 = facts.hosts.iter().map(|host| host.used).sum();
    // Where there are as many hosts as copies, each of them holds all.
    if facts.hosts.len() as u64 <= copies && !facts.hosts.is_empty() {
        let each = (used + moved) / copies.max(1);
        return facts.hosts.iter().find_map(|host| refuse(host.name.clone(), each, takes(host)));
    }
    let size = facts.hosts.iter().map(takes).sum();
    refuse("all other hosts together".to_owned(), used + moved, size)
}

/// Bytes for people.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
}

fn order(facts: &Facts, is_lost: bool, lower: Vec<Step>, whole: bool) -> Plan {
    let mut warnings = Vec::new();
    let others = facts.other_servers().count();
    let promote = (facts.is_server() && others < WANTED_SERVERS).then(|| facts.successor()).flatten();
    let promote = promote.map(|node| Step::Promote(node.name.clone()));
    let after = others + usize::from(promote.is_some());
    if facts.is_server() && after < WANTED_SERVERS {
        warnings.push(format!("{after} servers remain: when one of them fails, the cluster stops"));
    }
    for pool in facts.pools.iter().filter(|pool| !whole && pool.places < pool.size) {
        let (name, size, places) = (&pool.name, pool.size, pool.places);
        warnings
            .push(format!("pool {name} wants {size} copies and has places for {places} until another node is there"));
    }
    if is_lost {
        let stays = |which: Option<String>, how: &str| which.map(|names| format!("{names}: {how}"));
        warnings.extend(stays(labels(facts, |g| g.is_pinned), "may run on this node only, and will wait for a change"));
        warnings.extend(stays(labels(facts, |g| !g.has_vm), "of no VirtualMachine, is gone; its volumes stay"));
    }
    let osds: Vec<u64> = facts.osds.iter().map(|osd| osd.id).collect();
    let drain = (!osds.is_empty()).then(|| Step::Drain { osds: osds.clone(), whole });
    let leave = facts.node.as_ref().map(|_| Step::Cordon);
    let servers = facts.is_server().then_some(Step::RemoveMonitor).into_iter().chain([Step::DeleteNode]);
    let mut steps: Vec<Step> = leave.into_iter().chain(lower).collect();
    if is_lost {
        steps.push(Step::Mark);
        if !facts.guests.is_empty() {
            steps.push(Step::ReleaseGuests(facts.guests.clone()));
        }
        // First what the cluster stands on; copying data may take hours.
        steps.extend(servers.chain(promote));
        steps.extend(drain);
        // An earlier run was stopped before the node had.
        if facts.osds.iter().any(|osd| osd.is_up) {
            steps.push(Step::AwaitStop(osds.clone()));
        }
        steps.push(Step::PurgeOsds(osds));
    } else {
        steps.extend(promote);
        if !facts.guests.is_empty() {
            steps.push(Step::StopGuests(facts.guests.clone()));
        }
        steps.push(Step::EvictPods);
        steps.extend(drain);
        steps.push(Step::Mark);
        steps.push(Step::AwaitStop(osds.clone()));
        steps.push(Step::PurgeOsds(osds));
        steps.extend(servers);
    }
    Plan { steps, warnings }
}
