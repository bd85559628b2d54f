//! A service account whose token a guest is given: the kubelet puts it into the reservation pod, where the node's agent
//! takes it from. Nobody else has to be allowed to make tokens: the kubelet may for the pods of its own node only.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use furrow_api::names;
use furrow_api::vmi::VirtualMachineInstanceSpec;

/// Where pods have it. The kubelet fetches nothing that no container mounts.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Seconds that a token lives, as those of pods; the API server makes a year of just this number (KEP-1205).
const TOKEN_SECONDS: i64 = 3607;

/// What the pod gets for it.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) name: Option<String>,
    pub(super) volumes: Option<Vec<Volume>>,
    pub(super) mounts: Option<Vec<VolumeMount>>,
}

/// The account of the guest's volume, if it has one.
pub(super) fn of(spec: &VirtualMachineInstanceSpec) -> Account {
    let Some(name) = spec.token_account().map(str::to_owned) else { return Account::default() };
    let mount = VolumeMount {
        name: names::SERVICE_ACCOUNT_VOLUME.to_owned(),
        mount_path: MOUNT_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Account { name: Some(name), volumes: Some(vec![volume()]), mounts: Some(vec![mount]) }
}

fn volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    let authority = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.namespace".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        name: names::SERVICE_ACCOUNT_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { default_mode: None, sources: Some(sources) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_guest_that_asks_has_a_token() {
        let spec = |volumes: serde_json::Value| -> VirtualMachineInstanceSpec {
            serde_json::from_value(json!({"domain": {"devices": {}}, "volumes": volumes})).unwrap()
        };
        let none = of(&spec(json!([{"name": "a", "secret": {"secretName": "s"}}])));
        assert!(none.name.is_none() && none.volumes.is_none() && none.mounts.is_none());
        let some = of(&spec(json!([{"name": "a", "serviceAccount": {"serviceAccountName": "robot"}}])));
        assert_eq!(some.name.as_deref(), Some("robot"));
        assert_eq!(some.volumes.unwrap()[0].name, some.mounts.unwrap()[0].name);
    }
}
