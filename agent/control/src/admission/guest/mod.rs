//! What a guest's spec must satisfy beyond its schema. Wording follows KubeVirt's admitter where that has one, since users
//! search for it. Pure; refuses to look at the cluster, except for the hardware addresses it is told of.

pub(in crate::admission) mod compute;
mod credentials;
mod devices;
mod disks;
mod dns;
mod filesystems;
mod kernel;
mod networks;
mod objects;
mod pinning;
mod ports;
mod probes;
#[cfg(test)]
mod tests;

use furrow_api::vmi::{EvictionStrategy, VirtualMachineInstanceSpec};
use serde_json::Value;

use super::causes::Causes;
use super::facts::MacHolder;
use super::supported;

/// Longest name that fits into a label's value; a guest's pod carries it as one.
const NAME_MAX: usize = 63;

/// Who a guest is: its hardware addresses are not in anybody's way but others'.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Checks a spec. `base`: where it stands in its object; `raw`: the same spec as it was written.
pub(crate) fn check(
    base: &str,
    raw: &Value,
    spec: &VirtualMachineInstanceSpec,
    (identity, holders): (Identity<'_>, &[MacHolder]),
    causes: &mut Causes,
) {
    supported::refuse(base, raw, supported::GUEST, causes);
    if let Some(hostname) = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty() && !is_label(hostname)) {
        let field = format!("{base}.hostname");
        causes.invalid(&field, format!("{field} does not conform to the kubernetes DNS_LABEL rules: {hostname:?}"));
    }
    eviction_strategy(base, spec, causes);
    compute::check(base, spec, causes);
    pinning::check(&format!("{base}.domain"), &spec.domain, causes);
    devices::check(base, &spec.domain, causes);
    disks::check(base, spec, causes);
    filesystems::check(base, spec, causes);
    objects::check(base, spec, identity.namespace, causes);
    networks::check(base, spec, causes);
    probes::check(base, spec, causes);
    dns::check(base, spec, identity.namespace, causes);
    credentials::check(base, spec, causes);
    networks::check_hardware_addresses(base, spec, identity, holders, causes);
}

fn eviction_strategy(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    if let Some(EvictionStrategy::Other(word)) = &spec.eviction_strategy {
        let field = format!("{base}.evictionStrategy");
        causes.invalid(&field, format!("{field} is set with an unrecognized option: {word}"));
    }
}

/// What to tell of a guest that is let in and may surprise.
pub(crate) fn warnings(base: &str, spec: &VirtualMachineInstanceSpec) -> Vec<String> {
    let waits = [EvictionStrategy::LiveMigrate, EvictionStrategy::LiveMigrateIfPossible];
    let strategy = spec.eviction_strategy.as_ref().filter(|strategy| waits.contains(strategy));
    let text = |strategy: &EvictionStrategy| {
        format!(
            "{base}.evictionStrategy {strategy}: guests are not migrated yet, so that a drain waits until this one is stopped"
        )
    };
    strategy.map(text).into_iter().collect()
}

/// Checks the name of a guest or of the virtual machine that makes it.
pub(crate) fn check_name(name: &str, causes: &mut Causes) {
    // Without a name the API server makes one of generateName, which it checks itself.
    if name.is_empty() {
        return;
    }
    if name.len() > NAME_MAX {
        causes.invalid("metadata.name", format!("must have at most {NAME_MAX} characters, has {}", name.len()));
    } else if !is_label(name) {
        causes.invalid(
            "metadata.name",
            "must consist of lower case letters, digits and '-': it is the guest's host name",
        );
    }
}

/// RFC 1123 label, as Kubernetes has it.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=NAME_MAX).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner)
}
