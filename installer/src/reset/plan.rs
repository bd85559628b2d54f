//! Whether a node can be made blank again, and by which steps. Pure: facts in, steps or reasons out.
//!
//! The order keeps one thing at every moment: a machine that was cut off boots from its disk and goes on. So the system's
//! own partition table goes last of all disks, and firmware's entry, which then leads nowhere, only after it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the node stands to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has neither made nor joined one.
    NoCluster,
    /// It was removed from one.
    Removed,
    /// It is the only node of one.
    Alone,
    /// There are others, in words.
    Member(String),
    /// There may be others, and this is why nobody can be asked.
    Unknown(String),
}

/// An OSD of this node, on a disk that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Osd {
    /// Its identity, which its disk carries whatever that is called at the next boot.
    pub(super) uuid: String,
    /// The disk as people know it: name, size, model, serial number.
    pub(super) disk: String,
}

/// What is known of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its name.
    pub(super) name: String,
    pub(super) standing: Standing,
    /// The disk that it runs from, in words; None where that is no installed disk.
    pub(super) system: Option<String>,
    /// Its OSDs whose disks are here.
    pub(super) osds: Vec<Osd>,
    /// Identities of those whose disks are not.
    pub(super) missing: Vec<String>,
    /// What is lost with them, in one line, where that is known and matters.
    pub(super) lost: Option<String>,
}

/// Why a node is not reset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Others count on it.
    #[error("it is a member of a cluster with {others}: run `furrow node remove {name}` on another server first")]
    Member {
        /// The node.
        name: String,
        /// The others, in words.
        others: String,
    },
    /// Others may count on it.
    #[error(
        "whether other nodes count on it is not known: {reason}. `furrow reset --leave-cluster-behind` erases it all the \
         same: what only this node held is lost, and the others keep its OSDs, its votes and its Node until one of them \
         runs `furrow node remove {name} --dead`"
    )]
    Unknown {
        /// The node.
        name: String,
        /// Why nobody can be asked.
        reason: String,
    },
    /// Nothing here could be erased and leave a blank machine.
    #[error("this system does not run from an installed disk")]
    NotInstalled,
}

/// What was confirmed, as it is kept on the disk until all of it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The node's name.
    pub(super) node: String,
    /// The disk that the system is on, in words.
    pub(super) system: String,
    /// The OSDs that are still to be erased.
    pub(super) osds: Vec<Osd>,
}

/// One step of a reset. Each can be executed again at any time: it looks first and does what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing of the cluster starts any more.
    Mark,
    /// What runs is stopped. The node's name.
    Services(String),
    /// The disks of the OSDs are erased.
    Osds(Vec<Osd>),
    /// The firmware's entry for the disk goes.
    FirmwareEntry,
    /// The system's partition table goes. Its disk, in words.
    PartitionTable(String),
    /// The machine restarts.
    Restart,
}

impl Step {
    /// The step's name, in the plan and in the progress.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Step::Mark => "mark",
            Step::Services(_) => "services",
            Step::Osds(_) => "osds",
            Step::FirmwareEntry => "firmware-entry",
            Step::PartitionTable(_) => "partition-table",
            Step::Restart => "restart",
        }
    }
}

/// What would be done, for people.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mark => f.write_str(
                "note on the disk that it is reset: from here on it goes on by itself, also after a power cut",
            ),
            Step::Services(_) => f.write_str("stop the guests, Kubernetes, Ceph and Furrow's own services"),
            Step::Osds(osds) if osds.is_empty() => f.write_str("erase no OSD: there is none (any more)"),
            Step::Osds(osds) => {
                let disks: Vec<&str> = osds.iter().map(|osd| osd.disk.as_str()).collect();
                write!(f, "ERASE {}", disks.join("; "))
            }
            Step::FirmwareEntry => f.write_str("remove the firmware's boot entry `Furrow`"),
            Step::PartitionTable(disk) => write!(f, "ERASE the partition table of {disk}"),
            Step::Restart => {
                f.write_str("restart: the firmware finds no system on the disks, and boots what comes next")
            }
        }
    }
}

/// What will be done, with every disk already chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(super) mark: Mark,
    lost: Option<String>,
    warnings: Vec<String>,
}

impl Plan {
    /// The name that confirms it.
    pub(crate) fn node(&self) -> &str {
        &self.mark.node
    }

    /// The plan for people, line by line: what is erased and lost, the steps, what else there is to know.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} is made blank:", self.mark.node)];
        let disks = self.mark.osds.iter().map(|osd| osd.disk.clone());
        lines.extend(std::iter::once(self.mark.system.clone()).chain(disks).map(|disk| format!("ERASED {disk}")));
        lines.extend(self.lost.iter().map(|lost| format!("LOST   {lost}")));
        let steps = steps(&self.mark);
        lines.extend(steps.iter().enumerate().map(|(n, step)| format!("{:2}. {:15} {step}", n + 1, step.name())));
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines
    }
}

/// The steps for what was confirmed.
pub(super) fn steps(mark: &Mark) -> Vec<Step> {
    vec![
        Step::Mark,
        Step::Services(mark.node.clone()),
        Step::Osds(mark.osds.clone()),
        Step::PartitionTable(mark.system.clone()),
        Step::FirmwareEntry,
        Step::Restart,
    ]
}

/// The plan, or every reason against it. `leave_cluster_behind`: also where nobody can be asked whether others count on
/// the node.
pub(super) fn plan(facts: Facts, leave_cluster_behind: bool) -> Result<Plan, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let mut warnings = Vec::new();
    let name = facts.name;
    match facts.standing {
        Standing::NoCluster | Standing::Removed | Standing::Alone => {}
        Standing::Member(others) => refusals.push(Refusal::Member { name: name.clone(), others }),
        Standing::Unknown(reason) if leave_cluster_behind => warnings.push(format!(
            "{reason}: if other nodes count on this one, what only it held is lost, and one of them must run `furrow node \
             remove {name} --dead`"
        )),
        Standing::Unknown(reason) => refusals.push(Refusal::Unknown { name: name.clone(), reason }),
    }
    warnings.extend(
        facts.missing.iter().map(|uuid| {
            format!("the OSD {uuid} of this node is on no disk that is here: that disk keeps what it holds")
        }),
    );
    match facts.system {
        Some(system) if refusals.is_empty() => {
            Ok(Plan { mark: Mark { node: name, system, osds: facts.osds }, lost: facts.lost, warnings })
        }
        Some(_) => Err(refusals),
        None => {
            refusals.push(Refusal::NotInstalled);
            Err(refusals)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn osd() -> Osd {
        Osd { uuid: "u".into(), disk: "/dev/vdb (12 GB, serial DATA): osd.0".into() }
    }

    fn facts(standing: Standing) -> Facts {
        Facts {
            name: "n1".into(),
            standing,
            system: Some("/dev/vda (17 GB, serial SYSTEM): the system".into()),
            osds: vec![osd()],
            missing: Vec::new(),
            lost: Some("2 volumes".into()),
        }
    }

    /// None: it is reset.
    fn check(facts: &Facts, leave_cluster_behind: bool, expected: Option<&str>) {
        match (plan(facts.clone(), leave_cluster_behind), expected) {
            (Ok(_), None) => {}
            (Err(refusals), Some(text)) => {
                let said: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                assert!(said.join("\n").contains(text), "`{said:?}` does not contain `{text}`");
            }
            (answer, expected) => panic!("{facts:?} gave {answer:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_node_that_others_count_on_is_not_reset() {
        let silent = || Standing::Unknown("no server answers".into());
        for (standing, behind, refusal) in [
            (Standing::NoCluster, false, None),
            (Standing::Removed, false, None),
            (Standing::Alone, false, None),
            (silent(), false, Some("no server answers. `furrow reset --leave-cluster-behind` erases it")),
            (silent(), true, None),
            (Standing::Member("n2, n3".into()), false, Some("a cluster with n2, n3: run `furrow node remove n1`")),
            // Whoever can be asked can also let it go in order.
            (Standing::Member("n2".into()), true, Some("a cluster with n2")),
        ] {
            check(&facts(standing), behind, refusal);
        }
    }

    #[test]
    fn what_runs_from_no_disk_of_its_own_is_not_reset() {
        let medium = Facts { system: None, ..facts(Standing::NoCluster) };
        check(&medium, false, Some("does not run from an installed disk"));
        let both = Facts { system: None, ..facts(Standing::Member("n2".into())) };
        assert_eq!(plan(both, true).expect_err("refused").len(), 2, "every reason is told");
    }

    #[test]
    fn the_systems_table_goes_last() {
        let plan = plan(facts(Standing::NoCluster), false).expect("a plan");
        let names: Vec<&str> = steps(&plan.mark).iter().map(Step::name).collect();
        assert_eq!(names, ["mark", "services", "osds", "partition-table", "firmware-entry", "restart"]);
    }

    #[test]
    fn what_is_erased_and_lost_is_named() {
        let missing = vec!["v".to_owned()];
        let facts = Facts { missing, ..facts(Standing::Unknown("no answer".into())) };
        let text = plan(facts, true).expect("a plan").lines().join("\n");
        for line in [
            "n1 is made blank:\nERASED /dev/vda (17 GB, serial SYSTEM): the system\nERASED /dev/vdb (12 GB, serial DATA): osd.0",
            "LOST   2 volumes",
            " 3. osds            ERASE /dev/vdb (12 GB, serial DATA): osd.0",
            "warning: the OSD v of this node is on no disk that is here",
            "warning: no answer: if other nodes count on this one",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }
}
