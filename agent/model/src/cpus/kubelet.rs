//! The kubelet's CPU manager: its record of who has which processors (`cpu_manager_state`, written by
//! `pkg/kubelet/cm/cpumanager/state` of Kubernetes), what a reservation pod has by it, and whether a kubelet would start
//! with it at all. Refuses to read the file, and to write it: it is the kubelet's.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{CpuListError, CpuSet};

/// Name of the policy that sets processors aside.
const STATIC: &str = "static";

/// What a node's administrator says of the CPU manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSettings {
    /// Processors are set aside for pods that ask for whole ones.
    pub is_static: bool,
    /// Those that no pod ever has to itself.
    pub reserved: CpuSet,
}

impl CpuSettings {
    /// The policy's name, as the kubelet has it.
    #[must_use]
    pub fn policy(&self) -> &'static str {
        if self.is_static { STATIC } else { "none" }
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeletState {
    /// The policy that wrote it: `none` or `static`.
    policy: String,
    /// What pods without processors of their own run on; empty where the policy is not `static`.
    pool: CpuSet,
    /// By the pod's UID.
    exclusive: BTreeMap<String, CpuSet>,
}

/// A record that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No document of this kind.
    #[error("the kubelet's record of CPUs is malformed")]
    Json(#[from] serde_json::Error),
    /// A list of processors that is none.
    #[error("the kubelet's record of CPUs is malformed")]
    List(#[from] CpuListError),
}

/// Why a pod has no processors of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAssigned {
    /// The kubelet sets none aside.
    #[error(
        "spec.domain.cpu.dedicatedCpuPlacement: the kubelet of this node sets no CPUs aside, its CPU manager's policy is \
         {policy:?} where static is needed"
    )]
    Policy {
        /// The policy.
        policy: String,
    },
    /// It has not come to this pod yet.
    #[error("spec.domain.cpu.dedicatedCpuPlacement: the kubelet has not set CPUs aside for the guest's pod yet")]
    NotYet,
}

/// As it is written. Later releases add keys, and a checksum over their own layout, which is not ours to judge.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    policy_name: String,
    #[serde(default)]
    default_cpu_set: String,
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

impl KubeletState {
    /// Reads the record.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(text: &str) -> Result<Self, StateError> {
        let written: Written = serde_json::from_str(text)?;
        let mut exclusive = BTreeMap::new();
        for (pod, containers) in written.entries {
            let mut all = CpuSet::default();
            for list in containers.values() {
                all = all.union(&list.parse()?);
            }
            exclusive.insert(pod, all);
        }
        Ok(Self { policy: written.policy_name, pool: written.default_cpu_set.parse()?, exclusive })
    }

    /// Whether the kubelet sets processors aside.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.policy == STATIC
    }

    /// What everybody without processors of their own may use; `None` where all may use all.
    #[must_use]
    pub fn pool(&self) -> Option<&CpuSet> {
        Some(&self.pool).filter(|pool| self.is_static() && !pool.is_empty())
    }

    /// The processors of a pod.
    ///
    /// # Errors
    /// When it has none, with the reason.
    pub fn assigned(&self, pod_uid: &str) -> Result<&CpuSet, NotAssigned> {
        if !self.is_static() {
            return Err(NotAssigned::Policy { policy: self.policy.clone() });
        }
        self.exclusive.get(pod_uid).filter(|cpus| !cpus.is_empty()).ok_or(NotAssigned::NotYet)
    }
}

/// Why a kubelet with these settings would refuse to start with a record, which has to go before then; `None` when it
/// takes it. `online`: the node's processors. The rules are those of the kubelet (`restoreState`, `validateState`).
#[must_use]
pub fn must_forget(state: &KubeletState, wanted: &CpuSettings, online: &CpuSet) -> Option<String> {
    if state.policy != wanted.policy() {
        return Some(format!("it is of policy {:?}, and {:?} is wanted", state.policy, wanted.policy()));
    }
    if !wanted.is_static || (state.pool.is_empty() && state.exclusive.is_empty()) {
        return None;
    }
    let taken = wanted.reserved.difference(&state.pool);
    if !taken.is_empty() {
        return Some(format!("the reserved CPUs {taken} are dedicated to pods in it"));
    }
    let known = state.exclusive.values().fold(state.pool.clone(), |all, cpus| all.union(cpus));
    (known != *online).then(|| format!("it is about the CPUs {known}, and the node has {online}"))
}

#[cfg(test)]
mod tests {
    use super::super::cpus;
    use super::*;

    const STATE: &str = r#"{"policyName":"static","defaultCpuSet":"0-1,4-5",
        "entries":{"uid-1":{"compute":"2-3"},"uid-2":{"a":"6","b":"7"}},"podEntries":{},"checksum":14413152}"#;

    fn state(text: &str) -> KubeletState {
        KubeletState::read(text).expect("a record")
    }

    #[test]
    fn a_pod_has_what_the_record_says() {
        let state = state(STATE);
        assert_eq!(state.pool(), Some(&cpus("0-1,4-5")));
        assert_eq!(state.assigned("uid-1"), Ok(&cpus("2-3")));
        assert_eq!(state.assigned("uid-2"), Ok(&cpus("6-7")));
        assert_eq!(state.assigned("uid-3"), Err(NotAssigned::NotYet));
    }

    #[test]
    fn a_kubelet_that_sets_none_aside_is_named_with_the_field() {
        let state = state(r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#);
        assert_eq!(state.pool(), None);
        let error = state.assigned("uid-1").expect_err("it has none").to_string();
        assert!(error.starts_with("spec.domain.cpu.dedicatedCpuPlacement: ") && error.contains("\"none\""), "{error}");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in ["", "7", r#"{"policyName":"static","defaultCpuSet":"x"}"#] {
            assert!(KubeletState::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_record_is_forgotten_where_the_kubelet_would_not_start() {
        let check = |written: &str, reserved: Option<&str>, online: &str, expected: Option<&str>| {
            let wanted = CpuSettings { is_static: reserved.is_some(), reserved: cpus(reserved.unwrap_or_default()) };
            let found = must_forget(&state(written), &wanted, &cpus(online));
            assert_eq!(found.as_deref(), expected, "{wanted:?}");
        };
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1}"#;
        check(none, None, "0-7", None);
        check(none, Some("0"), "0-7", Some(r#"it is of policy "none", and "static" is wanted"#));
        check(STATE, None, "0-7", Some(r#"it is of policy "static", and "none" is wanted"#));
        check(STATE, Some("0-1"), "0-7", None);
        check(STATE, Some("0,4"), "0-7", None);
        check(STATE, Some("0-2"), "0-7", Some("the reserved CPUs 2 are dedicated to pods in it"));
        check(STATE, Some("0-1"), "0-5", Some("it is about the CPUs 0-7, and the node has 0-5"));
        // It has not been begun: the kubelet fills it in.
        check(r#"{"policyName":"static","defaultCpuSet":"","checksum":1}"#, Some("0"), "0-7", None);
    }
}
