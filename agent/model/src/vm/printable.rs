//! `status.printableStatus`: the first that fits, in KubeVirt's order (`setPrintableStatus`).

use super::Strategy;
use crate::vmi::Phase;

/// The words. Their text is their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "KubeVirt's own words")]
pub enum Printable {
    Terminating,
    Stopping,
    Migrating,
    Paused,
    Running,
    ErrorPvcNotFound,
    DataVolumeError,
    ErrorUnschedulable,
    Provisioning,
    WaitingForVolumeBinding,
    ErrImagePull,
    ImagePullBackOff,
    Starting,
    CrashLoopBackOff,
    Stopped,
    WaitingForReceiver,
    Unknown,
}

impl Printable {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terminating => "Terminating",
            Self::Stopping => "Stopping",
            Self::Migrating => "Migrating",
            Self::Paused => "Paused",
            Self::Running => "Running",
            Self::ErrorPvcNotFound => "ErrorPvcNotFound",
            Self::DataVolumeError => "DataVolumeError",
            Self::ErrorUnschedulable => "ErrorUnschedulable",
            Self::Provisioning => "Provisioning",
            Self::WaitingForVolumeBinding => "WaitingForVolumeBinding",
            Self::ErrImagePull => "ErrImagePull",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::Starting => "Starting",
            Self::CrashLoopBackOff => "CrashLoopBackOff",
            Self::Stopped => "Stopped",
            Self::WaitingForReceiver => "WaitingForReceiver",
            Self::Unknown => "Unknown",
        }
    }
}

/// The guest, as far as the word goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFacts<'a> {
    /// Its phase.
    pub phase: Phase,
    /// It is being deleted.
    pub deleting: bool,
    /// Condition Paused is true.
    pub paused: bool,
    /// A migration is under way.
    pub migrating: bool,
    /// Reason of a condition Synchronized that is false.
    pub sync_failure: Option<&'a str>,
    /// Condition PodScheduled is false for reason Unschedulable.
    pub unschedulable: bool,
}

/// What the word is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrintableFacts<'a> {
    /// The virtual machine is being deleted.
    pub deleting: bool,
    /// What the spec says.
    pub strategy: Strategy,
    /// The guest.
    pub guest: Option<GuestFacts<'a>>,
    /// A start is wanted and not held back by a failure.
    pub to_be_started: bool,
    /// See [`super::crash_looping`].
    pub crash_looping: bool,
    /// One of its DataVolumes failed.
    pub volume_failed: bool,
    /// One of its DataVolumes is being filled.
    pub volume_filling: bool,
    /// One of its claims is not bound.
    pub claim_unbound: bool,
}

/// The word for a virtual machine.
#[must_use]
pub fn printable(facts: &PrintableFacts<'_>) -> Printable {
    if facts.deleting {
        return Printable::Terminating;
    }
    if let Some(word) = facts.guest.and_then(|guest| of_guest(&guest)) {
        return word;
    }
    // A guest that has been accepted by a node, or is over, does not wait for volumes.
    let before_node =
        facts.guest.is_none_or(|guest| matches!(guest.phase, Phase::Unset | Phase::Pending | Phase::Scheduling));
    let waiting = before_node && (facts.guest.is_some() || facts.to_be_started);
    if facts.volume_failed && before_node {
        return Printable::DataVolumeError;
    }
    if facts.guest.is_some_and(|guest| guest.unschedulable && before_node) {
        return Printable::ErrorUnschedulable;
    }
    if facts.volume_filling && before_node {
        return Printable::Provisioning;
    }
    if facts.claim_unbound && waiting {
        return Printable::WaitingForVolumeBinding;
    }
    let starting = |guest: GuestFacts<'_>| {
        matches!(guest.phase, Phase::Unset | Phase::Pending | Phase::Scheduling | Phase::Scheduled)
    };
    match facts.guest {
        Some(guest) if guest.sync_failure == Some("ErrImagePull") => Printable::ErrImagePull,
        Some(guest) if guest.sync_failure == Some("ImagePullBackOff") => Printable::ImagePullBackOff,
        Some(guest) if starting(guest) => Printable::Starting,
        None if facts.to_be_started => Printable::Starting,
        _ if facts.crash_looping => Printable::CrashLoopBackOff,
        None if facts.strategy == Strategy::WaitAsReceiver => Printable::WaitingForReceiver,
        Some(guest) if guest.phase == Phase::Unknown => Printable::Unknown,
        _ => Printable::Stopped,
    }
}

/// The words that depend on the guest alone.
fn of_guest(guest: &GuestFacts<'_>) -> Option<Printable> {
    if guest.deleting && !guest.phase.is_final() {
        return Some(Printable::Stopping);
    }
    if guest.migrating {
        return Some(Printable::Migrating);
    }
    if guest.paused && guest.phase == Phase::Running {
        return Some(Printable::Paused);
    }
    if guest.phase == Phase::Running {
        return Some(Printable::Running);
    }
    (guest.sync_failure == Some("FailedPvcNotFound") && !guest.phase.is_final()).then_some(Printable::ErrorPvcNotFound)
}
