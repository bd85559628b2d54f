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
    /// It is being deleted, or was told to stop in this pass.
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
    /// The strategy and the requests want it to run, whether or not it does.
    pub set_to_start: bool,
    /// See [`super::crash_looping`].
    pub crash_looping: bool,
    /// One of its DataVolumes failed.
    pub volume_failed: bool,
    /// One of its DataVolumes is being filled.
    pub volume_filling: bool,
    /// One of its claims is not bound.
    pub claim_unbound: bool,
}

/// Whether a word fits.
type Fits = fn(&PrintableFacts<'_>) -> bool;

/// The words in KubeVirt's order: the first that fits is shown. `WaitingForReceiver` stands before `Stopped`, which would
/// hide it: KubeVirt knows that a guest is about to be made by other means.
const ORDER: [(Printable, Fits); 16] = [
    (Printable::Terminating, |facts| facts.deleting),
    (Printable::Stopping, |facts| guest(facts, |guest| guest.deleting && !guest.phase.is_final())),
    (Printable::Migrating, |facts| guest(facts, |guest| guest.migrating)),
    (Printable::Paused, |facts| guest(facts, |guest| guest.phase == Phase::Running && guest.paused)),
    (Printable::Running, |facts| guest(facts, |guest| guest.phase == Phase::Running && !guest.paused)),
    (Printable::ErrorPvcNotFound, |facts| failed_for(facts, "FailedPvcNotFound")),
    (Printable::DataVolumeError, |facts| facts.volume_failed),
    (Printable::ErrorUnschedulable, |facts| guest(facts, |guest| guest.unschedulable)),
    (Printable::Provisioning, |facts| facts.volume_filling),
    (Printable::WaitingForVolumeBinding, |facts| facts.set_to_start && facts.claim_unbound),
    (Printable::ErrImagePull, |facts| failed_for(facts, "ErrImagePull")),
    (Printable::ImagePullBackOff, |facts| failed_for(facts, "ImagePullBackOff")),
    (Printable::Starting, |facts| facts.guest.map_or(facts.to_be_started, |guest| guest.phase < Phase::Running)),
    (Printable::CrashLoopBackOff, |facts| facts.crash_looping),
    (Printable::WaitingForReceiver, |facts| facts.guest.is_none() && facts.strategy == Strategy::WaitAsReceiver),
    (Printable::Stopped, |facts| facts.guest.is_none_or(|guest| guest.phase.is_final())),
];

fn guest(facts: &PrintableFacts<'_>, fits: fn(GuestFacts<'_>) -> bool) -> bool {
    facts.guest.is_some_and(fits)
}

fn failed_for(facts: &PrintableFacts<'_>, reason: &str) -> bool {
    facts.guest.is_some_and(|guest| guest.sync_failure == Some(reason))
}

/// The word for a virtual machine.
#[must_use]
pub fn printable(facts: &PrintableFacts<'_>) -> Printable {
    ORDER.iter().find(|(_, fits)| fits(facts)).map_or(Printable::Unknown, |(word, _)| *word)
}
