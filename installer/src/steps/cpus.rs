//! The kubelet's record of CPUs (`cpu_manager_state`). A kubelet refuses to start with one of another policy, of other
//! reserved CPUs or of another machine, and asks that it be deleted; so it goes before k3s starts, when that is how it
//! would end. Refuses to touch it while a kubelet runs, and where node.yaml says nothing of it and has not changed: the
//! policy may be set by a file of the administrator's own.

use std::path::Path;

use furrow_model::cpus::{CpuSet, CpuSettings, KubeletState, must_forget};

use super::{Node, StepError, file_error};

/// Below the kubelet's `--root-dir`, which k3s leaves as it is.
const RECORD: &str = "/var/lib/kubelet/cpu_manager_state";
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Takes the record away that the kubelet would not start with. `changed`: its configuration did since it last ran.
pub(super) fn forget_unusable(node: &Node, changed: bool) -> Result<(), StepError> {
    let record = Path::new(RECORD);
    let text = match std::fs::read_to_string(record) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(file_error("read", record))?,
    };
    let online = std::fs::read_to_string(ONLINE).map_err(file_error("read", Path::new(ONLINE)))?;
    let said = node.config.kubernetes.cpu_manager.as_ref().map(crate::config::DedicatedCpus::settings);
    if let Some(why) = unusable(&text, said, changed, &online) {
        node.say(&format!("removing the kubelet's record of dedicated CPUs: {why}"));
        crate::files::remove(record).map_err(file_error("remove", record))?;
    }
    Ok(())
}

/// Why the record must go. `said`: what node.yaml says; `online`: the node's processors, as Linux lists them.
fn unusable(record: &str, said: Option<CpuSettings>, changed: bool, online: &str) -> Option<String> {
    let wanted = said.or_else(|| changed.then(CpuSettings::default))?;
    let online: CpuSet = online.parse().ok()?;
    match KubeletState::read(record) {
        Ok(state) => must_forget(&state, &wanted, &online),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_goes_when_the_kubelet_would_not_start_with_it() {
        let check = |record: &str, reserved: Option<&str>, changed: bool, expected: Option<&str>| {
            let said = reserved.map(|list| CpuSettings {
                is_static: !list.is_empty(),
                reserved: list.parse().expect("a list of CPUs"),
            });
            let found = unusable(record, said, changed, "0-3\n");
            assert_eq!(found.is_some(), expected.is_some(), "{record} {reserved:?} {changed}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1}"#;
        let fixed = r#"{"policyName":"static","defaultCpuSet":"0-2","entries":{"u":{"c":"3"}},"checksum":1}"#;
        check(none, Some("0"), false, Some("\"static\" is wanted"));
        check(none, Some(""), false, None);
        check(fixed, Some("0"), true, None);
        check(fixed, Some("0,3"), true, Some("reserved CPUs 3"));
        check(fixed, Some(""), false, Some("\"none\" is wanted"));
        // It was taken out of node.yaml, or never stood there.
        check(fixed, None, true, Some("\"none\" is wanted"));
        check(fixed, None, false, None);
        check("{", Some("0"), false, Some("malformed"));
        // Another machine's.
        check(&fixed.replace("0-2", "0-1"), Some("0"), false, Some("0-1,3"));
    }
}
