//! A virtual machine that is being deleted: what becomes of its guest, and when its finalizer goes.
//!
//! | asked for                                  | its guest                       | the finalizer goes            |
//! |--------------------------------------------|---------------------------------|-------------------------------|
//! | deletion (background or foreground)        | is stopped, with its grace time | when the guest's object is gone |
//! | deletion with `--cascade=orphan`           | runs on, belongs to nobody      | at once                       |
//!
//! Refuses to delete DataVolumes and revisions: owner references do, once the object is gone.

/// What is known of a virtual machine on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departing {
    /// Its own finalizer is on it.
    pub kept: bool,
    /// Its dependants are to be left alone: Kubernetes' finalizer `orphan` is on it.
    pub orphan: bool,
    /// A guest that it owns, as the API server has it now: whether that one is being deleted.
    pub guest_deleting: Option<bool>,
}

/// What to do for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Nothing: it is somebody else's to end.
    Wait,
    /// Delete its guest and say that it is terminating.
    StopGuest,
    /// Say that it is terminating; its guest is on its way.
    WaitForGuest,
    /// Take the finalizer off.
    Release,
}

/// Decides what to do for a virtual machine that is being deleted.
#[must_use]
pub fn departure(departing: Departing) -> Departure {
    match departing {
        Departing { kept: false, .. } => Departure::Wait,
        Departing { orphan: true, .. } | Departing { guest_deleting: None, .. } => Departure::Release,
        Departing { guest_deleting: Some(false), .. } => Departure::StopGuest,
        Departing { guest_deleting: Some(true), .. } => Departure::WaitForGuest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_out() {
        let check = |kept, orphan, guest_deleting, expected| {
            let departing = Departing { kept, orphan, guest_deleting };
            assert_eq!(departure(departing), expected, "{departing:?}");
        };
        check(true, false, Some(false), Departure::StopGuest);
        check(true, false, Some(true), Departure::WaitForGuest);
        check(true, false, None, Departure::Release);
        check(true, true, Some(false), Departure::Release);
        check(true, true, None, Departure::Release);
        check(false, false, Some(false), Departure::Wait);
        check(false, true, None, Departure::Wait);
    }
}
