//! A VirtualMachineInstance up to the node that takes it, and again after that node is done with it.
//!
//! ```text
//!   "" ──accept──> Pending ──volumes and addresses there, pod made──> Scheduling ──bound──> (the node's agent)
//!                     │                                                   │ pod gone
//!                     └── deleted: finalizer off                          └──> Failed
//!   (agent: Succeeded | Failed) ──> pod deleted ──> deleted: finalizer off
//! ```
//!
//! From the moment a node is named in the status, only its agent writes the phase. Refuses to know how a pod looks.

/// KubeVirt's phases of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "KubeVirt's own words")]
pub enum Phase {
    Unset,
    Pending,
    Scheduling,
    Scheduled,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

impl Phase {
    /// Whether the guest is over.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// The reservation pod of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// It is being deleted.
    pub deleting: bool,
    /// The node it is bound to.
    pub node: Option<String>,
    /// It ended; a node may refuse a pod it was bound to.
    pub ended: bool,
}

/// What is known of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// It is being deleted.
    pub deleting: bool,
    /// Control's finalizer is on it.
    pub finalizer: bool,
    /// Its phase.
    pub phase: Phase,
    /// A node took it.
    pub taken: bool,
    /// Its reservation pod.
    pub pod: Option<Pod>,
}

/// What control does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Put the finalizer on and enter Pending; then go on as for [`Stage::Reserve`].
    Accept,
    /// Find volumes and addresses, make the pod, enter Scheduling.
    Reserve,
    /// The pod exists: enter Scheduling if that was not written yet, and show what the scheduler says of it.
    Schedule,
    /// Enter Failed: the pod was taken away before a node took the guest.
    Fail,
    /// Delete the pod.
    DropPod,
    /// Nothing keeps the object: take the finalizer off.
    Release,
    /// The node's agent, or the end of the pod, is waited for.
    Wait,
}

/// Decides what control does next.
#[must_use]
pub fn stage(observed: &Observed) -> Stage {
    let Observed { deleting, finalizer, phase, taken, pod } = observed;
    if *deleting && !finalizer {
        return Stage::Wait;
    }
    if phase.is_final() {
        return match pod {
            Some(pod) if !pod.deleting => Stage::DropPod,
            // Its end is under way and nothing of the guest depends on it.
            _ if *deleting => Stage::Release,
            _ => Stage::Wait,
        };
    }
    if *taken {
        return Stage::Wait;
    }
    if *deleting {
        return match pod {
            Some(pod) if !pod.deleting => Stage::DropPod,
            // A node could still act on the binding: only a pod that is gone binds nothing.
            Some(_) => Stage::Wait,
            None => Stage::Release,
        };
    }
    match (pod, phase) {
        (Some(pod), _) if pod.ended || pod.deleting => Stage::Fail,
        (Some(_), _) => Stage::Schedule,
        (None, Phase::Scheduling | Phase::Scheduled | Phase::Running) => Stage::Fail,
        (None, _) if !finalizer || *phase == Phase::Unset => Stage::Accept,
        (None, _) => Stage::Reserve,
    }
}

/// A DataVolume as far as a guest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// There is none: the claim is what somebody made it.
    None,
    /// It is being filled.
    UnderWay,
    /// It is filled.
    Done,
    /// It cannot be filled.
    Failed,
}

/// The claim of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// There is none.
    Missing,
    /// It has no volume yet.
    Unbound,
    /// It has one.
    Bound,
    /// It is being deleted, or its volume is lost.
    Lost,
}

/// Whether a volume can be given to a guest. Ordered: the worst of all volumes is what the guest waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumeState {
    /// It can.
    Ready,
    /// Its claim has no volume yet.
    Unbound,
    /// Its DataVolume is being filled.
    Filling,
    /// There is no claim, and no DataVolume that would make it.
    Missing,
    /// Its claim is going away.
    Lost,
    /// Its DataVolume cannot be filled.
    Failed,
}

/// Judges a volume. `by_data_volume`: the guest names a DataVolume, not a claim.
#[must_use]
pub fn volume_state(by_data_volume: bool, filling: Filling, claim: ClaimState) -> VolumeState {
    match (filling, claim) {
        (Filling::Failed, _) => VolumeState::Failed,
        (Filling::UnderWay, _) => VolumeState::Filling,
        (_, ClaimState::Lost) => VolumeState::Lost,
        // A DataVolume of that name may still come, as one made just after the guest does.
        (Filling::None, ClaimState::Missing) if by_data_volume => VolumeState::Filling,
        (_, ClaimState::Missing) => VolumeState::Missing,
        (_, ClaimState::Unbound) => VolumeState::Unbound,
        (_, ClaimState::Bound) => VolumeState::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod { deleting: false, node: None, ended: false }
    }

    fn live(phase: Phase, pod: Option<Pod>) -> Observed {
        Observed { deleting: false, finalizer: true, phase, taken: false, pod }
    }

    fn check(observed: Observed, expected: Stage) {
        assert_eq!(stage(&observed), expected, "{observed:?}");
    }

    #[test]
    fn goes_from_accepted_to_the_agent() {
        check(Observed { finalizer: false, ..live(Phase::Unset, None) }, Stage::Accept);
        check(Observed { finalizer: false, ..live(Phase::Pending, None) }, Stage::Accept);
        check(live(Phase::Unset, None), Stage::Accept);
        check(live(Phase::Pending, None), Stage::Reserve);
        check(live(Phase::Pending, Some(pod())), Stage::Schedule);
        check(live(Phase::Scheduling, Some(pod())), Stage::Schedule);
        for phase in [Phase::Scheduling, Phase::Scheduled, Phase::Running, Phase::Unknown] {
            check(Observed { taken: true, ..live(phase, Some(pod())) }, Stage::Wait);
        }
    }

    #[test]
    fn a_pod_that_is_taken_away_before_a_node_took_the_guest_fails_it() {
        check(live(Phase::Scheduling, None), Stage::Fail);
        check(live(Phase::Scheduling, Some(Pod { deleting: true, ..pod() })), Stage::Fail);
        check(live(Phase::Pending, Some(Pod { ended: true, ..pod() })), Stage::Fail);
    }

    #[test]
    fn a_deleted_guest_keeps_its_finalizer_until_nothing_can_run_it() {
        let deleted = |phase, taken, pod| Observed { deleting: true, taken, ..live(phase, pod) };
        check(deleted(Phase::Pending, false, None), Stage::Release);
        check(deleted(Phase::Scheduling, false, Some(pod())), Stage::DropPod);
        check(deleted(Phase::Scheduling, false, Some(Pod { deleting: true, ..pod() })), Stage::Wait);
        check(deleted(Phase::Running, true, Some(pod())), Stage::Wait);
        check(deleted(Phase::Running, true, None), Stage::Wait);
        check(deleted(Phase::Succeeded, true, Some(pod())), Stage::DropPod);
        check(deleted(Phase::Succeeded, true, Some(Pod { deleting: true, ..pod() })), Stage::Release);
        check(deleted(Phase::Failed, true, None), Stage::Release);
        check(Observed { finalizer: false, ..deleted(Phase::Failed, true, None) }, Stage::Wait);
    }

    #[test]
    fn a_guest_that_ended_gives_its_reservation_back() {
        check(Observed { taken: true, ..live(Phase::Succeeded, Some(pod())) }, Stage::DropPod);
        check(Observed { taken: true, ..live(Phase::Failed, None) }, Stage::Wait);
    }

    #[test]
    fn judges_volumes() {
        let check = |by_data_volume, filling, claim, expected| {
            assert_eq!(volume_state(by_data_volume, filling, claim), expected, "{filling:?} {claim:?}");
        };
        check(false, Filling::None, ClaimState::Bound, VolumeState::Ready);
        check(false, Filling::None, ClaimState::Missing, VolumeState::Missing);
        check(false, Filling::None, ClaimState::Unbound, VolumeState::Unbound);
        check(false, Filling::UnderWay, ClaimState::Bound, VolumeState::Filling);
        check(true, Filling::None, ClaimState::Missing, VolumeState::Filling);
        check(true, Filling::Done, ClaimState::Bound, VolumeState::Ready);
        check(true, Filling::Done, ClaimState::Missing, VolumeState::Missing);
        check(true, Filling::Failed, ClaimState::Missing, VolumeState::Failed);
        check(true, Filling::Done, ClaimState::Lost, VolumeState::Lost);
        assert!(VolumeState::Failed > VolumeState::Filling && VolumeState::Filling > VolumeState::Ready);
    }
}
