//! Probes: exactly one action, numbers that mean something, a command that is there. Which actions are carried out is the
//! list of supported fields.

use furrow_api::vmi::{Probe, VirtualMachineInstanceSpec};
use furrow_model::guest::{AskedPort, HttpAsked, HttpProbe, probe_port};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::admission::causes::Causes;

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    if let Some(probe) = &spec.readiness_probe {
        one(&format!("{base}.readinessProbe"), (spec, probe), causes);
    }
    if let Some(probe) = &spec.liveness_probe {
        let field = format!("{base}.livenessProbe");
        one(&field, (spec, probe), causes);
        // Kubernetes' rule: a guest that is alive needs no row of successes to be so.
        if probe.success_threshold.is_some_and(|count| count > 1) {
            causes.invalid(format!("{field}.successThreshold"), "must be 1");
        }
    }
}

fn one(field: &str, (spec, probe): (&VirtualMachineInstanceSpec, &Probe), causes: &mut Causes) {
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
    if let Some(get) = &probe.http_get {
        let headers = get.http_headers.iter().flatten();
        let asked = HttpAsked {
            path: get.path.as_deref(),
            scheme: get.scheme.as_deref(),
            headers: headers.map(|header| (header.name.as_str(), header.value.as_str())).collect(),
        };
        let field = format!("{field}.httpGet");
        if let Some(port) = port(&field, (spec, &get.port), causes)
            && let Err(error) = HttpProbe::parse(&asked, port)
        {
            causes.invalid(field, error);
        }
    }
    if let Some(socket) = &probe.tcp_socket {
        port(&format!("{field}.tcpSocket"), (spec, &socket.port), causes);
    }
}

/// A port that no interface names would never answer.
fn port(field: &str, (spec, port): (&VirtualMachineInstanceSpec, &IntOrString), causes: &mut Causes) -> Option<u16> {
    let asked = match port {
        IntOrString::Int(number) => AskedPort::Number(i64::from(*number)),
        IntOrString::String(name) => AskedPort::Name(name),
    };
    let ports = spec.domain.devices.interfaces.iter().flat_map(|interface| &interface.ports);
    let found = probe_port(asked, ports.filter_map(|port| Some((port.name.as_deref()?, port.port))));
    found.map_err(|error| causes.invalid(field, error)).ok()
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
    fn a_port_is_a_number_or_a_name_of_an_interface_and_a_request_can_be_said() {
        let interfaces = json!([{"name": "default", "bridge": {}, "ports": [{"name": "web", "port": 80}]}]);
        let check = |probe: Value, expected: &[&str]| {
            let spec = json!({"readinessProbe": probe, "domain": {"devices": {"interfaces": interfaces}}});
            let mut causes = Causes::default();
            super::check("spec", &serde_json::from_value(spec.clone()).unwrap(), &mut causes);
            assert_eq!(causes.fields(), expected, "{spec}");
        };
        check(json!({"httpGet": {"port": "web", "path": "/healthz", "scheme": "HTTPS"}}), &[]);
        check(json!({"tcpSocket": {"port": 22}}), &[]);
        check(json!({"tcpSocket": {"port": "ssh"}}), &["spec.readinessProbe.tcpSocket"]);
        check(json!({"httpGet": {"port": 0}}), &["spec.readinessProbe.httpGet"]);
        check(json!({"httpGet": {"port": 80, "scheme": "ftp"}}), &["spec.readinessProbe.httpGet"]);
        let headers = json!([{"name": "a b", "value": ""}]);
        check(json!({"httpGet": {"port": 80, "httpHeaders": headers}}), &["spec.readinessProbe.httpGet"]);
    }

    #[test]
    fn a_command_must_be_there_and_liveness_counts_one_success() {
        check(json!({"readinessProbe": {"exec": {}}}), &["spec.readinessProbe.exec.command"]);
        check(json!({"readinessProbe": {"guestAgentPing": {}, "successThreshold": 3}}), &[]);
        let liveness = json!({"guestAgentPing": {}, "successThreshold": 2});
        check(json!({"livenessProbe": liveness}), &["spec.livenessProbe.successThreshold"]);
    }
}
