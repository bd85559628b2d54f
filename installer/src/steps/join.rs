//! Joining: what the node needs is fetched with the one-time token and kept, once; then the cluster forgets the token.

use std::path::Path;
use std::time::Duration;

use super::{Node, StepError, file_error};
use crate::checks::PRODUCT_UUID;
use crate::config::SecretKey;
use crate::join::{self, JoinError, Joined, Token};
use crate::{membership, secrets};

/// A server that restarts, or whose address moves to another, is back within this.
const REACH_TIMEOUT: Duration = Duration::from_secs(180);

/// Joins, unless the record says that this node has.
pub(crate) async fn join(node: &Node) -> Result<(), StepError> {
    if let Some(joined) = node.joined()? {
        node.say(&format!("joined as {} by token {}", joined.role.name(), joined.token_id));
        return if joined.consumed { Ok(()) } else { forget_token(node, joined).await };
    }
    // A CA of this node's own is the first thing that a new cluster is made of.
    let own = node.state.join("ca/ca.key");
    if own.exists() {
        return Err(JoinError::OwnCluster(own.display().to_string()).into());
    }
    let (server, token) = target(node).await?;
    let (client, fetched) = node
        .wait(&format!("the cluster at {server}"), REACH_TIMEOUT, async || {
            let answer = async {
                let client = join::connect(&server, &token).await?;
                let fetched = join::fetch(&client, &server, &token).await?;
                Ok((client, fetched))
            };
            match Box::pin(answer).await {
                Err(error @ JoinError::Unreachable { .. }) => Err(error.to_string()),
                answer => Ok(answer),
            }
        })
        .await??;
    // Before anything of it is written to the cluster. Firmware may tell none, and a container shows none.
    let uuid = std::fs::read_to_string(PRODUCT_UUID).unwrap_or_default();
    if let Some(warning) = join::distinct(&node.config.hostname, &uuid, &fetched.machines)? {
        node.say(&format!("warning: {warning}"));
    }
    let role = join::choose_role(node.config.role, fetched.servers);
    fetched.material.check(role).map_err(|missing| JoinError::OtherRole {
        id: token.id.clone(),
        role: role.name(),
        missing,
    })?;
    node.say(&format!("the cluster has {} servers: this node becomes {}", fetched.servers, role.name()));
    // It may be a node that was removed and comes back.
    let unmarked = membership::unmark(&client, &node.config.hostname).await;
    unmarked.map_err(super::refused("take away the mark that a node of this name was removed"))?;
    let joined = Joined {
        role,
        server: server.clone(),
        token_id: token.id.clone(),
        material: fetched.material,
        consumed: false,
    };
    joined.save(&node.state).map_err(file_error("write the join record below", &node.state))?;
    consumed(node, joined, join::consume(&client, &server, &token).await)
}

/// The server and the token of node.yaml.
async fn target(node: &Node) -> Result<(String, Token), StepError> {
    let section = node.config.join.as_ref().ok_or(JoinError::NoSection)?;
    let text = match (&section.token, &section.token_file) {
        (Some(token), _) => secrets::open(SecretKey::JoinToken, token, Some(Path::new(secrets::DIRECTORY))).await?.0,
        (None, Some(file)) => {
            let path = Path::new(file);
            std::fs::read_to_string(path).map_err(file_error("read the join token in", path))?
        }
        (None, None) => return Err(JoinError::NoSection.into()),
    };
    Ok((section.server.clone(), Token::parse(&text).map_err(JoinError::from)?))
}

/// An earlier run was killed after the record was written. Without the token the cluster's own clock has to do it.
async fn forget_token(node: &Node, joined: Joined) -> Result<(), StepError> {
    let Ok((server, token)) = target(node).await else { return Ok(()) };
    if token.id != joined.token_id {
        return Ok(());
    }
    let done = match join::connect(&server, &token).await {
        Ok(client) => join::consume(&client, &server, &token).await,
        Err(error) => Err(error),
    };
    consumed(node, joined, done)
}

/// A token that could not be removed expires; the node has what it needs.
fn consumed(node: &Node, mut joined: Joined, done: Result<(), JoinError>) -> Result<(), StepError> {
    match done {
        Ok(()) | Err(JoinError::Rejected { .. }) => {
            joined.consumed = true;
            joined.save(&node.state).map_err(file_error("write the join record below", &node.state))
        }
        Err(error) => {
            node.say(&format!("token {} is not removed, it will expire: {error}", joined.token_id));
            Ok(())
        }
    }
}
