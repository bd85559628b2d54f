//! The questions that a node asks of a cluster that it is to join. The first is asked without trust, for the CA alone;
//! nothing of the token's secret is sent before that CA has been proved by the token's hash. Each question has a limit.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use furrow_model::reasons::chain;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use super::{Machine, Material, NAMESPACE, Token, TokenError, hash, material_secret, token_secret};
use crate::kubeconfig;

/// A server answers in milliseconds; after this long it, or the way to it, is broken.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// What the API server says of itself to anybody.
const CLUSTER_INFO: &str = "cluster-info";
/// What makes a node a server.
const SERVER_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Why a cluster could not be joined. Names the token by its id.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("node.yaml has no section `join` any more, and this node had not joined yet")]
    NoSection,
    #[error("{server} does not answer: {reason}")]
    Unreachable { server: String, reason: String },
    #[error(
        "the CA of {0} is not the one that the join token names: the token is of another cluster, or something stands \
         between this node and the server"
    )]
    WrongCa(String),
    #[error(
        "{server} does not take token {id}: it has expired, was used or was revoked; make another one on a server with \
         `furrow-install token create`"
    )]
    Rejected { server: String, id: String },
    #[error(
        "token {id} does not make a node of role {role}, since {missing} is missing: make one with `--role {role}`"
    )]
    OtherRole { id: String, role: &'static str, missing: String },
    #[error(
        "{node} and {other}, a node of the cluster, tell the same product UUID, {uuid}: if this is the machine that was \
         {other}, remove that first with `furrow node remove {other}`; otherwise give one of them another in its firmware"
    )]
    SameMachine { node: String, other: String, uuid: String },
    #[error("{server} gave an answer that makes no sense: {reason}")]
    Answer { server: String, reason: String },
    #[error(
        "this node has made a cluster of its own already ({0} is there): what is in it is not thrown away; install the \
         node anew to join another"
    )]
    OwnCluster(String),
}

/// What the cluster has told.
pub(crate) struct Fetched {
    /// For the token.
    pub(crate) material: Material,
    /// Servers that there are.
    pub(crate) servers: usize,
    /// The machines that its nodes are.
    pub(crate) machines: Vec<Machine>,
}

/// A client as the token's user, for a server whose CA is the one that the token names.
///
/// # Errors
/// When the server cannot be reached, or its CA is another one.
pub(crate) async fn connect(server: &str, token: &Token) -> Result<Client, JoinError> {
    let ca = authority(server).await?;
    if hash(&ca) != token.ca_hash {
        return Err(JoinError::WrongCa(server.to_owned()));
    }
    let cluster = json!({"server": server, "certificate-authority-data": BASE64_STANDARD.encode(&ca)});
    client(server, cluster, json!({"token": token.bearer()})).await
}

/// The material for the token, and which nodes there are.
///
/// # Errors
/// When the cluster does not know the token or has nothing for it.
pub(crate) async fn fetch(client: &Client, server: &str, token: &Token) -> Result<Fetched, JoinError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let name = material_secret(&token.id);
    let secret = ask(server, token, secrets.get(&name)).await?;
    let senseless = |reason: String| JoinError::Answer { server: server.to_owned(), reason };
    let data = secret.data.unwrap_or_default().remove("material");
    let data = data.ok_or_else(|| senseless(format!("Secret {name} has no material")))?;
    // The parser's words could show a part of it.
    let material =
        serde_json::from_slice(&data.0).map_err(|_| senseless(format!("Secret {name} holds no material")))?;
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = ask(server, token, nodes.list(&ListParams::default())).await?.items;
    let servers = nodes.iter().filter(|node| node.labels().contains_key(SERVER_LABEL)).count();
    Ok(Fetched { material, servers, machines: nodes.into_iter().map(machine).collect() })
}

fn machine(node: Node) -> Machine {
    let name = node.name_any();
    let uuid = node.status.and_then(|status| status.node_info).map(|info| info.system_uuid);
    Machine { node: name, uuid: uuid.unwrap_or_default() }
}

/// Makes the cluster forget the token and its material. What is gone already is no error.
///
/// # Errors
/// When the server cannot be reached.
pub(crate) async fn consume(client: &Client, server: &str, token: &Token) -> Result<(), JoinError> {
    // The token's own Secret goes last: with it goes the right to remove anything.
    for (namespace, name) in [(NAMESPACE, material_secret(&token.id)), ("kube-system", token_secret(&token.id))] {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        match ask(server, token, secrets.delete(&name, &DeleteParams::default())).await {
            Ok(_) | Err(JoinError::Rejected { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The server CA's PEM, as anybody may read it. It proves nothing yet.
async fn authority(server: &str) -> Result<Vec<u8>, JoinError> {
    let client = client(server, json!({"server": server, "insecure-skip-tls-verify": true}), json!({})).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-public");
    let unreachable = |reason: String| JoinError::Unreachable { server: server.to_owned(), reason };
    let map = match tokio::time::timeout(ASK_TIMEOUT, maps.get(CLUSTER_INFO)).await {
        Ok(Ok(map)) => map,
        // A cluster that is a few seconds old has not written it yet.
        Ok(Err(error)) => return Err(unreachable(chain(&error))),
        Err(_) => return Err(unreachable(format!("no answer within {} s", ASK_TIMEOUT.as_secs()))),
    };
    let senseless = |reason: &str| JoinError::Answer { server: server.to_owned(), reason: reason.to_owned() };
    let text = map.data.unwrap_or_default().remove("kubeconfig").ok_or_else(|| senseless("no kubeconfig"))?;
    let document = Kubeconfig::from_yaml(&text).map_err(|e| senseless(&e.to_string()))?;
    let cluster = document.clusters.into_iter().next().and_then(|c| c.cluster);
    let encoded = cluster.and_then(|c| c.certificate_authority_data).ok_or_else(|| senseless("no CA"))?;
    BASE64_STANDARD.decode(encoded).map_err(|e| senseless(&e.to_string()))
}

async fn client(server: &str, cluster: Value, user: Value) -> Result<Client, JoinError> {
    let unusable = |reason: String| JoinError::Answer { server: server.to_owned(), reason };
    let document = kubeconfig::document(&cluster, "joiner", &user);
    let document: Kubeconfig = serde_json::from_value(document).map_err(|e| unusable(e.to_string()))?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(document, &options).await.map_err(|e| unusable(e.to_string()))?;
    config.connect_timeout = Some(ASK_TIMEOUT);
    Client::try_from(config).map_err(|e| unusable(e.to_string()))
}

/// One question as the token's user.
async fn ask<T>(server: &str, token: &Token, question: impl Future<Output = kube::Result<T>>) -> Result<T, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable { server: server.to_owned(), reason };
    match tokio::time::timeout(ASK_TIMEOUT, Box::pin(question)).await {
        Ok(Ok(answer)) => Ok(answer),
        // An unknown user, one whose rights are gone, and what is gone itself: all of it is a token that was used.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => {
            Err(JoinError::Rejected { server: server.to_owned(), id: token.id.clone() })
        }
        Ok(Err(error)) => Err(unreachable(chain(&error))),
        Err(_) => Err(unreachable(format!("no answer within {} s", ASK_TIMEOUT.as_secs()))),
    }
}
