//! Renaming a virtual machine, step by step. Kubernetes' objects keep their names, so that a successor takes over: what the
//! old machine owns goes to it before the old one goes, and every step is decided from what is there, so that whoever is
//! killed in the middle goes on where it was.
//!
//! ```text
//!  mark on the old ─> successor (held) ─> volumes change hands ─> addresses kept for it ─> old deleted ─> released
//! ```
//! Refuses a machine that has a guest, and a name that another machine has.

/// A machine of the new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namesake {
    /// UID of the machine that it says it succeeds.
    pub succeeds: Option<String>,
    /// It is being deleted.
    pub going: bool,
}

/// What is there, none of it from a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// UID of the old machine.
    pub uid: String,
    /// The old machine has a guest.
    pub guest: bool,
    /// A machine of the new name.
    pub namesake: Option<Namesake>,
    /// DataVolumes that the old one owns.
    pub data_volumes: Vec<String>,
    /// Claims that the old one owns.
    pub claims: Vec<String>,
    /// ControllerRevisions that the old one owns and its spec refers to: what its instancetype was.
    pub revisions: Vec<String>,
    /// IP objects of the old one, each with the name that the successor's has.
    pub addresses: Vec<(String, String)>,
    /// Names of all IP objects that the successor owns.
    pub kept: Vec<String>,
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The guest has to end first.
    WaitForGuest,
    /// The machine of the new name has to go first.
    WaitForNamesake,
    /// Another machine has the name: the old one keeps its own.
    GiveUp,
    /// Make the successor, which is held until it is released.
    CreateSuccessor,
    /// Give a DataVolume to it.
    HandOverDataVolume(String),
    /// Give a claim to it.
    HandOverClaim(String),
    /// Give a ControllerRevision to it.
    HandOverRevision(String),
    /// Make the successor's record of the address that the first one records.
    KeepAddress(String, String),
    /// The old machine owns nothing any more that is to stay.
    DeleteOld,
}

/// Decides the next step of the old machine.
#[must_use]
pub fn next(observed: &Observed) -> Step {
    if observed.guest {
        return Step::WaitForGuest;
    }
    match &observed.namesake {
        None => return Step::CreateSuccessor,
        Some(other) if other.succeeds.as_ref() != Some(&observed.uid) => return Step::GiveUp,
        Some(successor) if successor.going => return Step::WaitForNamesake,
        Some(_) => {}
    }
    if let Some(name) = observed.data_volumes.first() {
        return Step::HandOverDataVolume(name.clone());
    }
    if let Some(name) = observed.claims.first() {
        return Step::HandOverClaim(name.clone());
    }
    if let Some(name) = observed.revisions.first() {
        return Step::HandOverRevision(name.clone());
    }
    let missing = observed.addresses.iter().find(|(_, new)| !observed.kept.contains(new));
    missing.map_or(Step::DeleteOld, |(old, new)| Step::KeepAddress(old.clone(), new.clone()))
}

/// The name of the successor's record of an address; `None` for a record that is not named by its machine.
#[must_use]
pub fn record_name(record: &str, namespace: &str, old: &str, new: &str) -> Option<String> {
    let rest = record.strip_prefix(old)?.strip_prefix('.')?.strip_prefix(namespace)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{new}.{namespace}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster that does what a step says, and can stop before any.
    #[derive(Debug, Clone)]
    struct World {
        observed: Observed,
        old_there: bool,
        /// What the successor owns.
        taken: Vec<String>,
    }

    impl World {
        fn new() -> Self {
            let observed = Observed {
                uid: "v-1".into(),
                data_volumes: vec!["root".into(), "data".into()],
                claims: vec!["lone".into()],
                revisions: vec!["web-u1.small".into()],
                addresses: vec![
                    ("web.shop".into(), "site.shop".into()),
                    ("web.shop.lan".into(), "site.shop.lan".into()),
                ],
                ..Observed::default()
            };
            Self { observed, old_there: true, taken: Vec::new() }
        }

        fn carry_out(&mut self, step: Step) {
            match step {
                Step::CreateSuccessor => {
                    self.observed.namesake = Some(Namesake { succeeds: Some("v-1".into()), going: false });
                }
                Step::HandOverDataVolume(name) | Step::HandOverClaim(name) | Step::HandOverRevision(name) => {
                    self.observed.data_volumes.retain(|other| *other != name);
                    self.observed.claims.retain(|other| *other != name);
                    self.observed.revisions.retain(|other| *other != name);
                    self.taken.push(name);
                }
                Step::KeepAddress(_, new) => self.observed.kept.push(new),
                Step::DeleteOld => {
                    // Everything that it still owns goes with it.
                    self.old_there = false;
                }
                other => panic!("{other:?} changes nothing"),
            }
        }
    }

    #[test]
    fn nothing_is_lost_wherever_it_is_killed() {
        for killed_after in 0..9 {
            let mut world = World::new();
            for _ in 0..killed_after {
                if world.old_there {
                    let step = next(&world.observed);
                    world.carry_out(step);
                }
            }
            // The next one knows nothing but what is there.
            let mut steps = 0;
            while world.old_there {
                let step = next(&world.observed);
                world.carry_out(step);
                steps += 1;
                assert!(steps < 10, "it does not come to an end");
            }
            assert_eq!(world.taken, ["root", "data", "lone", "web-u1.small"], "killed after {killed_after}");
            assert_eq!(world.observed.kept, ["site.shop", "site.shop.lan"]);
        }
    }

    #[test]
    fn a_guest_and_another_machine_of_the_name_stand_in_the_way() {
        let check = |change: fn(&mut Observed), expected: Step| {
            let mut observed = World::new().observed;
            change(&mut observed);
            assert_eq!(next(&observed), expected);
        };
        check(|observed| observed.guest = true, Step::WaitForGuest);
        check(|observed| observed.namesake = Some(Namesake { succeeds: None, going: false }), Step::GiveUp);
        let other = |observed: &mut Observed| {
            observed.namesake = Some(Namesake { succeeds: Some("v-0".into()), going: false });
        };
        check(other, Step::GiveUp);
        let going = |observed: &mut Observed| {
            observed.namesake = Some(Namesake { succeeds: Some("v-1".into()), going: true });
        };
        check(going, Step::WaitForNamesake);
    }

    #[test]
    fn records_of_addresses_are_named_anew() {
        let check = |record: &str, expected: Option<&str>| {
            assert_eq!(record_name(record, "shop", "web", "site").as_deref(), expected, "{record}");
        };
        check("web.shop", Some("site.shop"));
        check("web.shop.vlan100.default.ovn", Some("site.shop.vlan100.default.ovn"));
        check("web.shopping", None);
        check("web2.shop", None);
        check("by-hand", None);
    }
}
