//! The pull secrets of the service account that a guest's pod has: they are the login for images of volumes that name none,
//! as for the containers of a pod. Owns which account that is. Refuses the Secrets themselves, which control cannot read:
//! agents are told their names.

use furrow_api::VirtualMachineInstance;
use furrow_api::import::PullSecret;
use furrow_api::vmi::VirtualMachineInstanceSpec;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt as _;

use crate::calls::{self, CallError};
use crate::cluster::Cluster;

/// The account of a pod that names none.
const DEFAULT: &str = "default";

/// Secrets of an account that are looked at, which is asked for at each start; more are passed over.
const MAX_SECRETS: usize = 16;

/// The pull secrets of a guest's account; `None` when it has none, or there is no such account.
///
/// # Errors
/// When the account cannot be read.
pub(super) async fn secrets(cluster: &Cluster, vmi: &VirtualMachineInstance) -> Result<Option<PullSecret>, CallError> {
    let namespace = vmi.namespace().unwrap_or_default();
    let account = calls::get(&cluster.api::<ServiceAccount>(&namespace), name(&vmi.spec)).await?;
    Ok(account.and_then(|account| of(&namespace, &account)))
}

/// The pod has the account whose token the guest is given, like KubeVirt's.
fn name(spec: &VirtualMachineInstanceSpec) -> &str {
    spec.token_account().unwrap_or(DEFAULT)
}

fn of(namespace: &str, account: &ServiceAccount) -> Option<PullSecret> {
    let listed = account.image_pull_secrets.iter().flatten();
    PullSecret::of_account(namespace, listed.map(|secret| secret.name.clone()).take(MAX_SECRETS).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_account_is_that_of_the_guests_pod() {
        let guest = |volumes: serde_json::Value| -> VirtualMachineInstance {
            serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"},
                "spec": {"domain": {"devices": {}}, "volumes": volumes},
            }))
            .unwrap()
        };
        assert_eq!(name(&guest(json!([{"name": "a", "secret": {"secretName": "s"}}])).spec), "default");
        let robot = guest(json!([{"name": "a", "serviceAccount": {"serviceAccountName": "robot"}}]));
        assert_eq!(name(&robot.spec), "robot");
    }

    #[test]
    fn an_account_has_some_secrets_or_none() {
        let account = |secrets: serde_json::Value| -> ServiceAccount {
            serde_json::from_value(json!({"metadata": {"name": "default"}, "imagePullSecrets": secrets})).unwrap()
        };
        assert_eq!(of("shop", &account(json!(null))), None);
        assert_eq!(of("shop", &account(json!([]))), None);
        let two = of("shop", &account(json!([{"name": "one"}, {"name": "two"}]))).unwrap();
        assert!(two.of_account && two.names().eq(["one", "two"]), "{two:?}");
        let many: Vec<_> = (0..40).map(|n| json!({"name": format!("s{n}")})).collect();
        assert_eq!(of("shop", &account(json!(many))).unwrap().names().count(), MAX_SECRETS);
    }
}
