//! What becomes of a guest whose pod is to be evicted, as by a drain: KubeVirt's rules and words (`PodEvictionAdmitter`).
//! Descheduler and cluster autoscalers look for the words. Refuses to move or stop a guest.
//!
//! | strategy               | its guest can migrate                  | it cannot                     |
//! |------------------------|----------------------------------------|-------------------------------|
//! | none, `None`           | the pod goes, the guest is shut down   | the pod goes                  |
//! | `LiveMigrate`          | the node is marked, the pod stays      | the pod stays                 |
//! | `LiveMigrateIfPossible`| the node is marked, the pod stays      | the pod goes                  |
//! | `External`             | the node is marked, the pod stays      | the node is marked, it stays  |

/// KubeVirt's eviction strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above says what they mean")]
pub enum Strategy {
    None,
    LiveMigrate,
    LiveMigrateIfPossible,
    External,
}

/// What is known of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Its own strategy, or the cluster's; `None` when neither says anything.
    pub strategy: Option<Strategy>,
    /// Condition LiveMigratable is true.
    pub migratable: bool,
    /// It is over, or its pod is.
    pub over: bool,
    /// A node that it is to leave is written in its status.
    pub marked: bool,
    /// It runs on the node of the pod that is to be evicted, not only on its way there.
    pub here: bool,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may go.
    Let,
    /// The pod stays; these are the words.
    Deny(String),
    /// Write the pod's node into the guest's status; the pod stays, with these words.
    Mark(String),
}

/// Decides.
#[must_use]
pub fn verdict(evicted: &Evicted<'_>) -> Verdict {
    let Evicted { namespace, name, strategy, migratable, over, marked, here } = evicted;
    if *over {
        return Verdict::Let;
    }
    match strategy {
        None | Some(Strategy::None) => return Verdict::Let,
        Some(Strategy::LiveMigrateIfPossible) if !migratable => return Verdict::Let,
        Some(Strategy::LiveMigrate) if !migratable => {
            let text = "is configured with an eviction strategy but is not live-migratable";
            return Verdict::Deny(format!("VMI {name} {text}"));
        }
        Some(Strategy::LiveMigrate | Strategy::LiveMigrateIfPossible | Strategy::External) => {}
    }
    let triggered = format!("Eviction triggered evacuation of VMI \"{namespace}/{name}\"");
    match (marked, here) {
        (true, _) => Verdict::Deny(format!("Evacuation in progress: {triggered}")),
        (false, false) => Verdict::Deny("Eviction request for target Pod".to_owned()),
        (false, true) => Verdict::Mark(triggered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Evicted<'static> = Evicted {
        namespace: "shop",
        name: "web",
        strategy: Some(Strategy::LiveMigrate),
        migratable: true,
        over: false,
        marked: false,
        here: true,
    };

    fn check(evicted: &Evicted<'_>, expected: &Verdict) {
        assert_eq!(&verdict(evicted), expected, "{evicted:?}");
    }

    #[test]
    fn each_strategy_with_and_without_a_way_to_migrate() {
        let marks = Verdict::Mark("Eviction triggered evacuation of VMI \"shop/web\"".into());
        let stays = "VMI web is configured with an eviction strategy but is not live-migratable";
        let rows = [
            (None, true, Verdict::Let),
            (None, false, Verdict::Let),
            (Some(Strategy::None), true, Verdict::Let),
            (Some(Strategy::None), false, Verdict::Let),
            (Some(Strategy::LiveMigrate), true, marks.clone()),
            (Some(Strategy::LiveMigrate), false, Verdict::Deny(stays.into())),
            (Some(Strategy::LiveMigrateIfPossible), true, marks.clone()),
            (Some(Strategy::LiveMigrateIfPossible), false, Verdict::Let),
            (Some(Strategy::External), true, marks.clone()),
            (Some(Strategy::External), false, marks),
        ];
        for (strategy, migratable, expected) in rows {
            check(&Evicted { strategy, migratable, ..GUEST }, &expected);
            check(&Evicted { strategy, migratable, over: true, ..GUEST }, &Verdict::Let);
        }
    }

    #[test]
    fn a_guest_is_marked_once_and_where_it_runs() {
        let again = "Evacuation in progress: Eviction triggered evacuation of VMI \"shop/web\"";
        check(&Evicted { marked: true, ..GUEST }, &Verdict::Deny(again.into()));
        let target = Verdict::Deny("Eviction request for target Pod".into());
        check(&Evicted { here: false, ..GUEST }, &target);
    }
}
