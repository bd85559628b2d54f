//! Who the agent is: its node's name and its Kubernetes client, made from the kubeconfig that bootstrap wrote. Owns
//! waiting for that file, because the agent may be started before the cluster has issued it. Refuses any other
//! identity: no service account, no environment.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio_util::sync::CancellationToken;

/// Between two looks for the kubeconfig.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The node's name in Kubernetes: what is given, or the host name in lower case as the kubelet takes it.
pub(crate) fn node_name(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let name = nix::unistd::gethostname().context("could not read the host name")?;
    let name = name.to_string_lossy().to_lowercase();
    anyhow::ensure!(!name.is_empty(), "the host has no name, so the node has none");
    Ok(name)
}

/// A client with the agent's identity. Waits for its kubeconfig; `None` when told to stop meanwhile.
pub(crate) async fn client(kubeconfig: &Path, stop: &CancellationToken) -> anyhow::Result<Option<Client>> {
    let mut told = false;
    while !tokio::fs::try_exists(kubeconfig).await.unwrap_or(false) {
        if !told {
            tracing::info!(kubeconfig = %kubeconfig.display(), "waiting for the agent's identity");
            told = true;
        }
        // Safe to cancel: waiting changes nothing.
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    let document =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("could not read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("could not use {}", kubeconfig.display()))?;
    Ok(Some(Client::try_from(config).context("could not make a kubernetes client")?))
}
