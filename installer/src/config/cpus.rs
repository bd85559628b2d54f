//! `kubernetes.cpuManager` and `kubernetes.topologyManagerPolicy`: which processors of the node pods and guests may have to
//! themselves. Owns these keys and the kubelet's flags for them. Refuses to start a kubelet, which is
//! `crate::steps::kubernetes`' affair. Pure.

use serde::Deserialize;

use furrow_model::cpus::{self, CpuSet};

use super::{Kubernetes, Refusal, refuse};

/// Which processors pods and guests may have to themselves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DedicatedCpus {
    /// `static`: those who ask for whole ones get them; `none`: nobody does.
    pub(crate) policy: CpuPolicy,
    /// Those that nobody gets, as Linux lists them (`0-1,8`): the system, pods and guests without their own run there.
    pub(crate) reserved_cpus: Option<String>,
}

/// Policy of the kubelet's CPU manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum CpuPolicy {
    /// Sets none aside.
    None,
    /// Sets whole ones aside for those who ask for them.
    Static,
}

/// Policy of the kubelet's topology manager: whether what a pod gets must be of few NUMA nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TopologyPolicy {
    /// Whatever there is.
    None,
    /// Of few where that can be.
    BestEffort,
    /// A pod that cannot have it so is refused.
    Restricted,
    /// Of one, or the pod is refused.
    SingleNumaNode,
}

impl TopologyPolicy {
    /// As the kubelet writes it.
    fn name(self) -> &'static str {
        match self {
            TopologyPolicy::None => "none",
            TopologyPolicy::BestEffort => "best-effort",
            TopologyPolicy::Restricted => "restricted",
            TopologyPolicy::SingleNumaNode => "single-numa-node",
        }
    }
}

impl DedicatedCpus {
    /// In the model's words. What `check` let pass is a list.
    pub(crate) fn settings(&self) -> cpus::CpuSettings {
        let reserved = self.reserved_cpus.as_deref().and_then(|list| list.parse().ok()).unwrap_or_default();
        cpus::CpuSettings { is_static: self.policy == CpuPolicy::Static, reserved }
    }
}

/// Checks what is said of processors.
pub(super) fn check(kubernetes: &Kubernetes) -> Result<(), Refusal> {
    let Some(manager) = &kubernetes.cpu_manager else { return Ok(()) };
    let key = "kubernetes.cpuManager.reservedCpus";
    let expected = "CPUs as Linux lists them, such as 0-1,8, at least one: the node itself needs some";
    match (manager.policy, &manager.reserved_cpus) {
        (CpuPolicy::None, None) => Ok(()),
        (CpuPolicy::None, Some(list)) => refuse(key, list, "nothing, or policy static beside it"),
        (CpuPolicy::Static, None) => refuse(key, "nothing", expected),
        (CpuPolicy::Static, Some(list)) if list.parse::<CpuSet>().is_ok_and(|cpus| !cpus.is_empty()) => Ok(()),
        (CpuPolicy::Static, Some(list)) => refuse(key, list, expected),
    }
}

/// The kubelet's flags, `name=value`.
pub(crate) fn kubelet_flags(kubernetes: &Kubernetes) -> Vec<String> {
    let manager = kubernetes.cpu_manager.as_ref().map(DedicatedCpus::settings);
    let policy = manager.as_ref().map(|manager| format!("cpu-manager-policy={}", manager.policy()));
    let reserved = manager.filter(|manager| manager.is_static).map(|cpus| format!("reserved-cpus={}", cpus.reserved));
    let topology = kubernetes.topology_manager_policy;
    let topology = topology.map(|policy| format!("topology-manager-policy={}", policy.name()));
    [policy, reserved, topology].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    use super::*;

    fn document(kubernetes: &str) -> String {
        format!(
            "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{interface: e, address: 10.0.0.1}}\n\
             kubernetes: {kubernetes}\nceph: {{disks: [{{path: /dev/b}}]}}\n"
        )
    }

    fn check_flags(kubernetes: &str, expected: &[&str]) {
        assert_eq!(kubelet_flags(&parse(&document(kubernetes)).expect("good").kubernetes), expected, "{kubernetes}");
    }

    #[test]
    fn the_kubelet_is_told_what_the_document_says() {
        check_flags("{}", &[]);
        check_flags("{cpuManager: {policy: none}}", &["cpu-manager-policy=none"]);
        check_flags(
            "{cpuManager: {policy: static, reservedCpus: '0,1,8'}}",
            &["cpu-manager-policy=static", "reserved-cpus=0-1,8"],
        );
        check_flags(
            "{cpuManager: {policy: static, reservedCpus: '0'}, topologyManagerPolicy: single-numa-node}",
            &["cpu-manager-policy=static", "reserved-cpus=0", "topology-manager-policy=single-numa-node"],
        );
        check_flags("{topologyManagerPolicy: best-effort}", &["topology-manager-policy=best-effort"]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        let check = |kubernetes: &str, expected: &str| {
            let error = parse(&document(kubernetes)).expect_err("it was accepted").to_string();
            assert!(error.contains(expected), "{kubernetes}: `{error}` does not contain `{expected}`");
        };
        let key = "line 5: kubernetes.cpuManager.reservedCpus: ";
        check(
            "{cpuManager: {policy: static}}",
            &format!("{key}`nothing` is not allowed, expected CPUs as Linux lists"),
        );
        check("{cpuManager: {policy: static, reservedCpus: ''}}", &format!("{key}`` is not allowed"));
        check("{cpuManager: {policy: static, reservedCpus: '3-1'}}", &format!("{key}`3-1` is not allowed"));
        check("{cpuManager: {policy: static, reservedCpus: all}}", &format!("{key}`all` is not allowed"));
        check("{cpuManager: {policy: none, reservedCpus: '0'}}", &format!("{key}`0` is not allowed, expected nothing"));
        check("{cpuManager: {policy: dynamic}}", "dynamic");
        check("{cpuManager: {}}", "policy");
        check("{topologyManagerPolicy: strict}", "strict");
    }
}
