//! What a node does every two minutes: its `ceph.conf` follows the monitors that there are, and servers raise the copies
//! of pools to what the hosts that there are allow and remove what tokens that have ended left behind.

use super::{Node, StepError, ceph, pools, systemctl};
use crate::config::Role;
use crate::{membership, promotion, tokens};

/// One look, and what follows from it. Monitors or an API server that do not answer are no failure of this node's: the
/// next look comes in two minutes, and `status` tells how they are.
pub(crate) async fn once(node: &Node) -> Result<(), StepError> {
    if membership::look(node).await? {
        return Ok(());
    }
    match ceph_follows(node).await {
        Ok(true) => node.say("ceph.conf follows the cluster's members"),
        Ok(false) => {}
        Err(StepError::Ceph(error)) => node.say(&format!("the monitors are not followed for now: {error}")),
        Err(error) => return Err(error),
    }
    if node.role()? == Role::Agent {
        return follow_promotion(node).await;
    }
    match tokens::sweep().await {
        Ok(ids) => ids.iter().for_each(|id| node.say(&format!("removed what token {id} left behind"))),
        Err(error) => node.say(&format!("join tokens are not looked at for now: {error}")),
    }
    if let Err(error) = sweep_promotions().await {
        node.say(&format!("offers to become a server are not looked at for now: {error}"));
    }
    Ok(())
}

async fn sweep_promotions() -> Result<(), StepError> {
    promotion::sweep(&tokens::administrator().await?).await
}

/// A worker that is to become a server does so by its bootstrap, which goes on where it is stopped.
async fn follow_promotion(node: &Node) -> Result<(), StepError> {
    match promotion::look(node).await {
        Ok(true) => systemctl(&["restart", "--no-block", "furrow-bootstrap.service"]).await.map(|_| ()),
        Ok(false) => Ok(()),
        Err(error @ (StepError::Kubernetes { .. } | StepError::Timeout { .. } | StepError::Kubeconfig { .. })) => {
            node.say(&format!("whether it is to become a server is not known for now: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn ceph_follows(node: &Node) -> Result<bool, StepError> {
    let hosts = match node.role()? {
        Role::Server => Some(pools::replicate().await?),
        Role::Agent => None,
    };
    ceph::follow(node, hosts).await
}
