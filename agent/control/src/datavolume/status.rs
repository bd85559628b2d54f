//! The status of a DataVolume as control writes it. Pure: from one state of the object to the next.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use furrow_api::DataVolume;
use furrow_api::datavolume::{DataVolumeCondition, DataVolumePhase, DataVolumeStatus};
use furrow_model::datavolume::Phase;

/// Progress before there is any.
const NO_PROGRESS: &str = "N/A";

/// What is to be said of a DataVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Reason of the condition and the event.
    pub(crate) reason: &'static str,
    /// A sentence.
    pub(crate) message: String,
    /// Somebody should look at it.
    pub(crate) warning: bool,
}

impl Note {
    /// All goes as it should.
    pub(crate) fn normal(reason: &'static str, message: String) -> Self {
        Self { reason, message, warning: false }
    }

    /// Somebody should look at it.
    pub(crate) fn warning(reason: &'static str, message: String) -> Self {
        Self { reason, message, warning: true }
    }
}

fn set(status: &mut DataVolumeStatus, type_: &str, value: &str, reason: &str, message: &str) {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let now = Some(Time(Timestamp::now()));
    let new = DataVolumeCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        last_transition_time: now.clone(),
        last_heartbeat_time: now,
        reason: text(reason),
        message: text(message),
    };
    let Some(old) = status.conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        status.conditions.push(new);
        return;
    };
    if (&old.status, &old.reason, &old.message) == (&new.status, &new.reason, &new.message) {
        return;
    }
    let since =
        if old.status == new.status { old.last_transition_time.clone() } else { new.last_transition_time.clone() };
    *old = DataVolumeCondition { last_transition_time: since, ..new };
}

fn condition<'a>(volume: &'a DataVolume, type_: &str) -> Option<&'a DataVolumeCondition> {
    volume.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a DataVolume does not say this already.
pub(crate) fn is_news(volume: &DataVolume, note: &Note) -> bool {
    let says = |type_| {
        condition(volume, type_).is_some_and(|condition| {
            condition.reason.as_deref() == Some(note.reason) && condition.message.as_ref() == Some(&note.message)
        })
    };
    !says("Bound") && !says("Running")
}

/// It waits.
pub(crate) fn waiting(volume: &DataVolume, phase: Phase, note: &Note) -> DataVolume {
    let mut new = volume.clone();
    let name = volume.name_any();
    let status = new.status.get_or_insert_default();
    status.phase = match phase {
        Phase::ImportScheduled => DataVolumePhase::ImportScheduled,
        Phase::CsiCloneInProgress => DataVolumePhase::CsiCloneInProgress,
        _ => DataVolumePhase::Pending,
    };
    status.claim_name = Some(name.clone());
    status.progress.get_or_insert_with(|| NO_PROGRESS.to_owned());
    if phase == Phase::ImportScheduled {
        set(status, "Bound", "True", "Bound", &format!("PVC {name} Bound"));
        set(status, "Running", "False", note.reason, &note.message);
    } else {
        set(status, "Bound", "False", note.reason, &note.message);
        set(status, "Running", "False", "", "");
    }
    set(status, "Ready", "False", "TransferRunning", "");
    new
}

/// It is filled.
pub(crate) fn succeeded(volume: &DataVolume) -> DataVolume {
    let mut new = volume.clone();
    let status = new.status.get_or_insert_default();
    status.phase = DataVolumePhase::Succeeded;
    status.claim_name = Some(volume.name_any());
    status.progress = Some("100.0%".to_owned());
    set(status, "Running", "False", "Completed", "Transfer complete");
    left(&new)
}

/// Somebody else fills it, or it is over: whether it is ready follows from the phase.
pub(crate) fn left(volume: &DataVolume) -> DataVolume {
    let mut new = volume.clone();
    let name = volume.name_any();
    let status = new.status.get_or_insert_default();
    status.claim_name = Some(name.clone());
    let bound = format!("PVC {name} Bound");
    match status.phase {
        DataVolumePhase::Succeeded => {
            set(status, "Bound", "True", "Bound", &bound);
            set(status, "Ready", "True", "", "");
        }
        DataVolumePhase::Failed => set(status, "Ready", "False", "Error", ""),
        _ => {
            set(status, "Bound", "True", "Bound", &bound);
            set(status, "Ready", "False", "TransferRunning", "");
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> DataVolume {
        DataVolume::new("disk", furrow_api::datavolume::DataVolumeSpec::default())
    }

    #[test]
    fn goes_from_pending_to_succeeded() {
        let pending = Note::normal("Pending", "PVC disk Pending".into());
        assert!(is_news(&volume(), &pending));
        let waits = waiting(&volume(), Phase::Pending, &pending);
        assert!(!is_news(&waits, &pending));
        assert_eq!(waits, waiting(&waits, Phase::Pending, &pending), "nothing to write when nothing changed");
        let scheduled = waiting(&waits, Phase::ImportScheduled, &Note::normal("ImportScheduled", "soon".into()));
        let of = |volume: &DataVolume, type_| condition(volume, type_).map(|c| c.status.clone()).unwrap();
        assert_eq!((of(&scheduled, "Bound"), of(&scheduled, "Ready")), ("True".into(), "False".into()));
        let done = succeeded(&scheduled);
        assert_eq!(of(&done, "Ready"), "True");
        assert_eq!(done.status.unwrap().progress.as_deref(), Some("100.0%"));
    }
}
