//! A DataVolume up to the agent that fills it: the claim to make, the phase, and which node does the work.
//!
//! ```text
//!   http, registry:
//!           Pending ──bound──> ImportScheduled, node chosen ──> (agent: ImportInProgress ──> Succeeded | Failed)
//!   blank:  Pending ──bound──> Succeeded
//!   pvc:    Pending ──source there and filled──> CSICloneInProgress ──bound──> Succeeded
//! ```
//!
//! Refuses to move bytes: the storage makes copies, an agent imports.

use std::collections::BTreeMap;

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A web server or a registry: an agent moves them.
    Import,
    /// Nowhere: the disk is empty.
    Blank,
    /// Another claim: the storage copies it.
    Clone(SourceClaim),
}

/// The claim to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceClaim {
    /// There is none.
    Missing,
    /// It has no volume yet, or its own DataVolume is being filled.
    Unready,
    /// It can be copied.
    Ready,
}

/// The claim of the DataVolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is none.
    Missing,
    /// One of its name belongs to somebody else.
    Foreign,
    /// It has no volume yet.
    Unbound,
    /// It has one.
    Bound,
    /// It is being deleted, or its volume is lost.
    Lost,
}

/// CDI's phases, as far as control writes them or tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "CDI's own words")]
pub enum Phase {
    Unset,
    Pending,
    ImportScheduled,
    CsiCloneInProgress,
    Succeeded,
    Failed,
    /// Any other: an agent wrote it.
    Other,
}

/// What is known of a DataVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its phase.
    pub phase: Phase,
    /// Where the bytes come from.
    pub source: Source,
    /// Its claim.
    pub claim: Claim,
    /// The node that was chosen to fill it.
    pub node: Option<String>,
    /// The agent of that node has said something of the import.
    pub started: bool,
}

/// What control does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the claim and enter this phase.
    MakeClaim(Phase),
    /// Stay, or enter, this phase; what is waited for is a [`Waiting`].
    Wait(Phase, Waiting),
    /// Choose a node, write the job for it and enter ImportScheduled.
    Schedule,
    /// Enter Succeeded.
    Finish,
    /// It is over, or an agent is at it.
    Leave,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The storage makes the volume.
    Binding,
    /// The claim to copy is not there.
    SourceMissing,
    /// The claim to copy is not filled.
    SourceUnready,
    /// A claim of its name belongs to somebody else.
    ForeignClaim,
    /// Its claim is going away.
    LostClaim,
    /// The agent begins.
    Agent,
}

/// Decides what control does next. `nodes`: the nodes that can import now; a job whose node is not among them and which
/// nobody has begun is given to another.
#[must_use]
pub fn step(observed: &Observed, nodes: &BTreeMap<String, usize>) -> Step {
    if matches!(observed.phase, Phase::Succeeded | Phase::Failed) || observed.started {
        return Step::Leave;
    }
    let waiting = match observed.source {
        Source::Clone(_) if observed.phase == Phase::CsiCloneInProgress => Phase::CsiCloneInProgress,
        _ => Phase::Pending,
    };
    match observed.claim {
        Claim::Foreign => Step::Wait(waiting, Waiting::ForeignClaim),
        Claim::Lost => Step::Wait(waiting, Waiting::LostClaim),
        Claim::Missing => match observed.source {
            Source::Clone(SourceClaim::Missing) => Step::Wait(Phase::Pending, Waiting::SourceMissing),
            Source::Clone(SourceClaim::Unready) => Step::Wait(Phase::Pending, Waiting::SourceUnready),
            Source::Clone(SourceClaim::Ready) => Step::MakeClaim(Phase::CsiCloneInProgress),
            Source::Import | Source::Blank => Step::MakeClaim(Phase::Pending),
        },
        Claim::Unbound => match observed.source {
            Source::Clone(_) => Step::Wait(Phase::CsiCloneInProgress, Waiting::Binding),
            Source::Import | Source::Blank => Step::Wait(Phase::Pending, Waiting::Binding),
        },
        Claim::Bound => match observed.source {
            Source::Blank | Source::Clone(_) => Step::Finish,
            Source::Import => import(observed, nodes),
        },
    }
}

fn import(observed: &Observed, nodes: &BTreeMap<String, usize>) -> Step {
    match &observed.node {
        None => Step::Schedule,
        // The image's exclusive lock and watcher check keep a second importer out should the first come back.
        Some(node) if !nodes.is_empty() && !nodes.contains_key(node) => Step::Schedule,
        Some(_) => Step::Wait(Phase::ImportScheduled, Waiting::Agent),
    }
}

/// The node with the fewest imports under way; among equals the seed decides, so that they do not all go to one.
#[must_use]
pub fn choose_node(nodes: &BTreeMap<String, usize>, seed: u64) -> Option<&str> {
    let fewest = nodes.values().min()?;
    let idle: Vec<_> = nodes.iter().filter(|(_, imports)| *imports == fewest).map(|(name, _)| name.as_str()).collect();
    let index = usize::try_from(seed % u64::try_from(idle.len()).ok()?).ok()?;
    idle.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[(&str, usize)]) -> BTreeMap<String, usize> {
        names.iter().map(|(name, imports)| ((*name).to_owned(), *imports)).collect()
    }

    fn volume(source: Source, claim: Claim) -> Observed {
        Observed { phase: Phase::Pending, source, claim, node: None, started: false }
    }

    fn check(observed: Observed, expected: Step) {
        assert_eq!(step(&observed, &nodes(&[("a", 0), ("b", 0)])), expected, "{observed:?}");
    }

    #[test]
    fn an_import_goes_to_an_agent_when_its_claim_is_bound() {
        let import = |claim| volume(Source::Import, claim);
        check(Observed { phase: Phase::Unset, ..import(Claim::Missing) }, Step::MakeClaim(Phase::Pending));
        check(import(Claim::Unbound), Step::Wait(Phase::Pending, Waiting::Binding));
        check(import(Claim::Bound), Step::Schedule);
        let chosen = Observed { node: Some("a".into()), ..import(Claim::Bound) };
        check(chosen.clone(), Step::Wait(Phase::ImportScheduled, Waiting::Agent));
        let started = Observed { started: true, phase: Phase::Other, ..chosen.clone() };
        check(started.clone(), Step::Leave);
        check(Observed { claim: Claim::Lost, ..started }, Step::Leave);
        check(Observed { node: Some("gone".into()), ..chosen.clone() }, Step::Schedule);
        check(Observed { node: Some("gone".into()), started: true, ..chosen.clone() }, Step::Leave);
        check(Observed { phase: Phase::Failed, ..chosen }, Step::Leave);
    }

    #[test]
    fn a_blank_disk_is_done_when_bound() {
        check(volume(Source::Blank, Claim::Missing), Step::MakeClaim(Phase::Pending));
        check(volume(Source::Blank, Claim::Bound), Step::Finish);
    }

    #[test]
    fn a_copy_waits_for_its_source_and_no_longer() {
        let copy = |source, claim| volume(Source::Clone(source), claim);
        check(copy(SourceClaim::Missing, Claim::Missing), Step::Wait(Phase::Pending, Waiting::SourceMissing));
        check(copy(SourceClaim::Unready, Claim::Missing), Step::Wait(Phase::Pending, Waiting::SourceUnready));
        check(copy(SourceClaim::Ready, Claim::Missing), Step::MakeClaim(Phase::CsiCloneInProgress));
        let copying = Step::Wait(Phase::CsiCloneInProgress, Waiting::Binding);
        check(copy(SourceClaim::Missing, Claim::Unbound), copying);
        check(copy(SourceClaim::Missing, Claim::Bound), Step::Finish);
    }

    #[test]
    fn a_claim_of_somebody_else_is_left_alone() {
        check(volume(Source::Import, Claim::Foreign), Step::Wait(Phase::Pending, Waiting::ForeignClaim));
        check(volume(Source::Blank, Claim::Lost), Step::Wait(Phase::Pending, Waiting::LostClaim));
    }

    #[test]
    fn imports_are_spread() {
        assert_eq!(choose_node(&nodes(&[("a", 2), ("b", 1), ("c", 1)]), 0), Some("b"));
        assert_eq!(choose_node(&nodes(&[("a", 2), ("b", 1), ("c", 1)]), 5), Some("c"));
        assert_eq!(choose_node(&nodes(&[]), 5), None);
    }
}
