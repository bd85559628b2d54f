//! Credentials: one kind each, from a Secret that is named, for users that are named; keys in a seed where the guest has
//! that seed.

use furrow_api::vmi::{CredentialSource, SshPropagation, VirtualMachineInstanceSpec, Volume};

use crate::admission::causes::Causes;

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let field = format!("{base}.accessCredentials[{index}]");
        match (&credential.ssh_public_key, &credential.user_password) {
            (Some(key), None) => {
                source(&format!("{field}.sshPublicKey.source"), &key.source, causes);
                let method = &key.propagation_method;
                let agent = method.qemu_guest_agent.as_ref();
                if agent.is_some_and(|agent| agent.users.is_empty() || agent.users.iter().any(String::is_empty)) {
                    let field = format!("{field}.sshPublicKey.propagationMethod.qemuGuestAgent.users");
                    causes.required(
                        &field,
                        format!("{field} requires at least one user to be present in the users list"),
                    );
                }
                let ways = [method.config_drive.is_some(), method.no_cloud.is_some(), agent.is_some()];
                let field = format!("{field}.sshPublicKey.propagationMethod");
                one_way(&field, &ways, causes);
                carried(&field, method, &spec.volumes, causes);
            }
            (None, Some(password)) => {
                source(&format!("{field}.userPassword.source"), &password.source, causes);
                let ways = [password.propagation_method.qemu_guest_agent.is_some()];
                one_way(&format!("{field}.userPassword.propagationMethod"), &ways, causes);
            }
            (Some(_), Some(_)) => causes.invalid(&field, format!("{field} must have exactly one credential type set")),
            (None, None) => causes.required(&field, format!("{field} requires an access credential type to be set")),
        }
    }
}

fn source(field: &str, source: &CredentialSource, causes: &mut Causes) {
    if source.secret.as_ref().is_none_or(|secret| secret.secret_name.is_empty()) {
        causes.required(format!("{field}.secret.secretName"), "the Secret is missing");
    }
}

/// A key that goes by a seed needs the volume which is that seed.
fn carried(field: &str, method: &SshPropagation, volumes: &[Volume], causes: &mut Causes) {
    let has = |there: fn(&Volume) -> bool| volumes.iter().any(there);
    if method.no_cloud.is_some() && !has(|volume| volume.cloud_init_no_cloud.is_some()) {
        let text = "requires a volume of kind cloudInitNoCloud, which carries the keys";
        causes.invalid(format!("{field}.noCloud"), text);
    }
    if method.config_drive.is_some() && !has(|volume| volume.cloud_init_config_drive.is_some()) {
        let text = "requires a volume of kind cloudInitConfigDrive, which carries the keys";
        causes.invalid(format!("{field}.configDrive"), text);
    }
}

fn one_way(field: &str, ways: &[bool], causes: &mut Causes) {
    if ways.iter().filter(|way| **way).count() != 1 {
        causes.required(field, format!("{field} must have exactly one propagation method set"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(credential: Value, expected: &[&str]) {
        let spec = json!({"domain": {"devices": {}}, "accessCredentials": [credential]});
        let spec = serde_json::from_value(spec).unwrap();
        let mut causes = Causes::default();
        super::check("spec", &spec, &mut causes);
        let fields: Vec<_> =
            causes.fields().into_iter().map(|field| field.trim_start_matches("spec.accessCredentials[0]")).collect();
        assert_eq!(fields, expected, "{credential}");
    }

    #[test]
    fn a_credential_has_one_kind_one_secret_and_one_way() {
        let source = json!({"secret": {"secretName": "s"}});
        let agent = json!({"qemuGuestAgent": {"users": ["root"]}});
        check(json!({"sshPublicKey": {"source": source, "propagationMethod": agent}}), &[]);
        check(json!({"userPassword": {"source": source, "propagationMethod": {"qemuGuestAgent": {}}}}), &[]);
        check(json!({}), &[""]);
        check(
            json!({"sshPublicKey": {"source": {}, "propagationMethod": {"qemuGuestAgent": {}}}}),
            &[".sshPublicKey.source.secret.secretName", ".sshPublicKey.propagationMethod.qemuGuestAgent.users"],
        );
        let two = json!({"qemuGuestAgent": {"users": ["root"]}, "noCloud": {}});
        check(
            json!({"sshPublicKey": {"source": source, "propagationMethod": two}}),
            &[".sshPublicKey.propagationMethod", ".sshPublicKey.propagationMethod.noCloud"],
        );
    }
}
