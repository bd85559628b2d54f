//! Probes: exactly one action, numbers that mean something, a command that is there. Which actions are carried out is the
//! list of supported fields.

use furrow_api::vmi::{Probe, VirtualMachineInstanceSpec};

use crate::admission::causes::Causes;

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    if let Some(probe) = &spec.readiness_probe {
        one(&format!("{base}.readinessProbe"), probe, causes);
    }
    if let Some(probe) = &spec.liveness_probe {
        let field = format!("{base}.livenessProbe");
        one(&field, probe, causes);
        // Kubernetes' rule: a guest that is alive needs no row of successes to be so.
        if probe.success_threshold.is_some_and(|count| count > 1) {
            causes.invalid(format!("{field}.successThreshold"), "must be 1");
        }
    }
}

fn one(field: &str, probe: &Probe, causes: &mut Causes) {
    let actions =
        [probe.exec.is_some(), probe.guest_agent_ping.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some()];
    match actions.into_iter().filter(|there| *there).count() {
        1 => {}
        0 => causes.required(
            field,
            format!("one of {field}.exec, {field}.guestAgentPing, {field}.httpGet and {field}.tcpSocket must be set"),
        ),
        _ => causes.invalid(field, format!("{field} must have exactly one probe type set")),
    }
    if let Some(exec) = &probe.exec
        && exec.command.as_ref().and_then(|command| command.first()).is_none_or(String::is_empty)
    {
        causes.required(format!("{field}.exec.command"), "the command to run in the guest is missing");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(mut probes: Value, expected: &[&str]) {
        probes["domain"] = json!({"devices": {}});
        let spec = serde_json::from_value(probes.clone()).unwrap();
        let mut causes = Causes::default();
        super::check("spec", &spec, &mut causes);
        assert_eq!(causes.fields(), expected, "{probes}");
    }

    #[test]
    fn a_probe_has_one_action() {
        check(json!({}), &[]);
        check(json!({"readinessProbe": {"guestAgentPing": {}}, "livenessProbe": {"exec": {"command": ["true"]}}}), &[]);
        check(json!({"readinessProbe": {}}), &["spec.readinessProbe"]);
        let two = json!({"guestAgentPing": {}, "exec": {"command": ["true"]}});
        check(json!({"livenessProbe": two}), &["spec.livenessProbe"]);
    }

    #[test]
    fn a_command_must_be_there_and_liveness_counts_one_success() {
        check(json!({"readinessProbe": {"exec": {}}}), &["spec.readinessProbe.exec.command"]);
        check(json!({"readinessProbe": {"guestAgentPing": {}, "successThreshold": 3}}), &[]);
        let liveness = json!({"guestAgentPing": {}, "successThreshold": 2});
        check(json!({"livenessProbe": liveness}), &["spec.livenessProbe.successThreshold"]);
    }
}
