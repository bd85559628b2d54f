//! The last step: the node is Ready and, on servers, control leads and its admission answers, the storage class is there.

use std::time::Duration;

use furrow_api::ProviderNetwork;
use furrow_api::providernetwork::ProviderNetworkSpec;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as KubeNode;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Client};

use super::kubernetes::client;
use super::{Node, StepError, is_active};
use crate::config::Role;

/// The agent writes the pod network's configuration, the kubelet looks for it every few seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// A failure of the API server itself, or of a webhook that it called; what is lower is an answer.
const SERVER_ERROR: u16 = 500;

/// Waits for all of it, and says what is missing meanwhile.
pub(crate) async fn wait(node: &Node) -> Result<(), StepError> {
    let role = node.role()?;
    let client = client(role).await?;
    node.wait("the node to be ready", READY_TIMEOUT, async || {
        is_ready(&client, &node.config.hostname).await?;
        match role {
            Role::Server => missing(&client).await,
            // The kubelet's identity, which is all that is here, sees no more of the cluster than its node.
            Role::Agent => match is_active("furrow-agent.service").await {
                Ok(true) => Ok(()),
                _ => Err("furrow-agent is not active".to_owned()),
            },
        }
    })
    .await
}

async fn is_ready(client: &Client, name: &str) -> Result<(), String> {
    let text = |error: kube::Error| error.to_string();
    readiness(&Api::<KubeNode>::all(client.clone()).get(name).await.map_err(text)?)
}

/// Whether a Node is Ready, and why not.
pub(crate) fn readiness(node: &KubeNode) -> Result<(), String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    match conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => Err(ready.message.clone().unwrap_or_else(|| "the node is not Ready".into())),
        None => Err("the node has no Ready condition".into()),
    }
}

/// What a cluster must have beside its nodes.
async fn missing(client: &Client) -> Result<(), String> {
    let text = |error: kube::Error| error.to_string();
    Api::<StorageClass>::all(client.clone()).get("csi-rbd-sc").await.map_err(text)?;
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    if webhooks.list(&Default::default()).await.map_err(text)?.items.is_empty() {
        return Err("admission webhooks are not registered".into());
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), "furrow-system");
    let held = |l: &Lease| l.spec.as_ref().and_then(|s| s.holder_identity.as_ref()).is_some_and(|h| !h.is_empty());
    let list = leases.list(&Default::default()).await.map_err(text)?;
    if !list.items.iter().any(|l| l.metadata.name.as_deref() == Some("furrow-control") && held(l)) {
        return Err("no furrow-control leads".into());
    }
    admission_answers(client).await
}

/// Asks for an object that is not made, as an administrator's next command would.
async fn admission_answers(client: &Client) -> Result<(), String> {
    let spec = ProviderNetworkSpec { default_interface: "ready".into(), ..Default::default() };
    let network = ProviderNetwork::new("furrow-ready", spec);
    let dry_run = PostParams { dry_run: true, ..Default::default() };
    match Api::all(client.clone()).create(&dry_run, &network).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code < SERVER_ERROR => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
