//! What a node does every two minutes: its `ceph.conf` follows the monitors that there are, and servers raise the copies
//! of pools to what the hosts that there are allow and remove what tokens that have ended left behind.

use super::{Node, StepError, ceph, pools};
use crate::config::Role;
use crate::tokens;

/// One look, and what follows from it. Monitors or an API server that do not answer are no failure of this node's: the
/// next look comes in two minutes, and `status` tells how they are.
pub(crate) async fn once(node: &Node) -> Result<(), StepError> {
    match ceph_follows(node).await {
        Ok(true) => node.say("ceph.conf follows the cluster's members"),
        Ok(false) => {}
        Err(StepError::Ceph(error)) => node.say(&format!("the monitors are not followed for now: {error}")),
        Err(error) => return Err(error),
    }
    if node.role()? == Role::Agent {
        return Ok(());
    }
    match tokens::sweep().await {
        Ok(ids) => ids.iter().for_each(|id| node.say(&format!("removed what token {id} left behind"))),
        Err(error) => node.say(&format!("join tokens are not looked at for now: {error}")),
    }
    Ok(())
}

async fn ceph_follows(node: &Node) -> Result<bool, StepError> {
    let hosts = match node.role()? {
        Role::Server => Some(pools::replicate().await?),
        Role::Agent => None,
    };
    ceph::follow(node, hosts).await
}
