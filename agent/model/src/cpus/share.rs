//! What guests without processors of their own may run on. The kubelet keeps other pods off the processors that it has set
//! aside; guests are no pods, so the node does the same for them. A guest that is on its way out keeps its processors
//! until it has ended, whatever the kubelet has done with them meanwhile. Refuses to enforce anything.

use std::collections::BTreeMap;
use std::fmt;

use super::{CpuSet, KubeletState};

/// What ordinary guests may run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// All there is.
    All,
    /// These.
    Only(CpuSet),
}

impl fmt::Display for Share {
    /// As systemd and cpuset(7) write it, where nothing means no limit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Only(cpus) => cpus.fmt(f),
        }
    }
}

/// What ordinary guests may run on. `state`: the kubelet's record, if there is one; `online`: the node's processors;
/// `held`: those of each domain that has some to itself, by its name.
#[must_use]
pub fn share(state: Option<&KubeletState>, online: &CpuSet, held: &BTreeMap<String, CpuSet>) -> Share {
    let pool = state.and_then(KubeletState::pool);
    let taken = held.values().fold(CpuSet::default(), |all, cpus| all.union(cpus));
    if pool.is_none() && taken.is_empty() {
        return Share::All;
    }
    let all = pool.unwrap_or(online);
    let left = all.difference(&taken);
    // Nobody can run on nothing: then those share who need not.
    if left.is_empty() { Share::Only(all.clone()) } else { Share::Only(left) }
}

/// Two guests that were given one processor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CPUs {cpus} are still in use by the domain {domain}")]
pub struct InUse {
    /// Which.
    pub cpus: String,
    /// Whose they are.
    pub domain: String,
}

/// Whether another domain than `domain` still has one of these processors to itself: its pod is gone and it is not.
#[must_use]
pub fn conflict(domain: &str, wanted: &CpuSet, held: &BTreeMap<String, CpuSet>) -> Option<InUse> {
    let others = held.iter().filter(|(other, _)| *other != domain);
    let mut common = others.map(|(other, cpus)| (other, cpus.intersection(wanted)));
    let (other, cpus) = common.find(|(_, cpus)| !cpus.is_empty())?;
    Some(InUse { cpus: cpus.to_string(), domain: other.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::cpus;
    use super::*;

    fn held(domains: &[(&str, &str)]) -> BTreeMap<String, CpuSet> {
        domains.iter().map(|(name, list)| ((*name).to_owned(), cpus(list))).collect()
    }

    #[test]
    fn ordinary_guests_have_what_nobody_has_to_himself() {
        let record = |pool: &str, exclusive: &str| {
            let text = format!(
                r#"{{"policyName":"static","defaultCpuSet":"{pool}","entries":{{"u":{{"compute":"{exclusive}"}}}}}}"#
            );
            KubeletState::read(&text).expect("a record")
        };
        let none = KubeletState::read(r#"{"policyName":"none"}"#).expect("a record");
        let check = |state: Option<&KubeletState>, domains: &[(&str, &str)], expected: &str| {
            assert_eq!(share(state, &cpus("0-7"), &held(domains)).to_string(), expected, "{state:?} {domains:?}");
        };
        // No policy: no limit.
        check(None, &[], "");
        check(Some(&none), &[], "");
        // The kubelet's own pool, with and without the guest that has the rest.
        check(Some(&record("0-7", "")), &[], "0-7");
        check(Some(&record("0-1,4-7", "2-3")), &[], "0-1,4-7");
        check(Some(&record("0-1,4-7", "2-3")), &[("ns_a", "2-3")], "0-1,4-7");
        // The kubelet has taken back what a guest that ends still runs on.
        check(Some(&record("0-7", "")), &[("ns_a", "2-3")], "0-1,4-7");
        check(Some(&record("0-5", "6")), &[("ns_a", "2-3"), ("ns_b", "5")], "0-1,4");
        // The policy was switched off while a guest ran.
        check(Some(&none), &[("ns_a", "2-3")], "0-1,4-7");
        check(None, &[("ns_a", "2-3")], "0-1,4-7");
        // Never nothing.
        check(Some(&record("2-3", "")), &[("ns_a", "0-7")], "2-3");
    }

    #[test]
    fn a_processor_is_not_given_to_a_second_guest() {
        let held = held(&[("ns_a", "2-3"), ("ns_b", "4")]);
        assert_eq!(conflict("ns_c", &cpus("5-6"), &held), None);
        assert_eq!(conflict("ns_a", &cpus("2-3"), &held), None);
        let found = conflict("ns_c", &cpus("3-4"), &held).expect("a conflict");
        assert_eq!(found, InUse { cpus: "3".into(), domain: "ns_a".into() });
    }
}
