//! What a node does every two minutes: it looks whether it was removed; its `ceph.conf` follows the monitors that there are;
//! servers raise the copies of pools to what the hosts that there are allow and remove what tokens that have ended left
//! behind; a worker becomes a server where it is to, and leaves a server that is none any more.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Node, StepError, ceph, file_error, pools, server_url, systemctl};
use crate::config::Role;
use crate::join::Joined;
use crate::{files, membership, promotion, tokens};

/// A server that lives takes a connection within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

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

/// A worker without a common address asks at the server that it joined at. Where that has left the cluster, it goes to
/// another. Says whether it does.
async fn follow_server(node: &Node) -> Result<bool, StepError> {
    let Some(joined) = node.joined()?.filter(|_| node.config.management.vip.is_none()) else { return Ok(false) };
    let Some(other) = other_server(&joined.server, &membership::other_servers(&node.config)) else { return Ok(false) };
    let address = joined.server.trim_start_matches("https://");
    // It may be an address that moves between the servers.
    if let Ok(Ok(_)) = tokio::time::timeout(ANSWER_TIMEOUT, tokio::net::TcpStream::connect(address)).await {
        return Ok(false);
    }
    node.say(&format!("{} is no server of the cluster any more: going to {other}", joined.server));
    let certificate = node.state.join("pki/agent.crt");
    // Its kubeconfig, which names the server, is made with it.
    files::remove(&certificate).map_err(file_error("remove", &certificate))?;
    let joined = Joined { server: other, ..joined };
    joined.save(&node.state).map_err(file_error("write the join record below", &node.state))?;
    Ok(true)
}

/// The server to go to, where the one that was joined at is none any more.
fn other_server(joined: &str, servers: &BTreeSet<IpAddr>) -> Option<String> {
    let address: SocketAddr = joined.strip_prefix("https://")?.parse().ok()?;
    if servers.contains(&address.ip()) { None } else { servers.first().map(|server| server_url(*server)) }
}

async fn sweep_promotions() -> Result<(), StepError> {
    promotion::sweep(&tokens::administrator().await?).await
}

/// A worker that is to become a server does so by its bootstrap, which goes on where it is stopped.
async fn follow_promotion(node: &Node) -> Result<(), StepError> {
    if follow_server(node).await? {
        return bootstrap_again().await;
    }
    match promotion::look(node).await {
        Ok(true) => bootstrap_again().await,
        Ok(false) => Ok(()),
        Err(error @ (StepError::Kubernetes { .. } | StepError::Timeout { .. } | StepError::Kubeconfig { .. })) => {
            node.say(&format!("whether it is to become a server is not known for now: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn bootstrap_again() -> Result<(), StepError> {
    systemctl(&["restart", "--no-block", "furrow-bootstrap.service"]).await.map(|_| ())
}

async fn ceph_follows(node: &Node) -> Result<bool, StepError> {
    let role = node.role()?;
    let monitors = ceph::reader(role);
    let hosts = match role {
        Role::Server => Some(pools::replicate(&monitors).await?),
        Role::Agent => None,
    };
    ceph::follow(node, &monitors, hosts).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_left_is_replaced_by_one_that_is_there() {
        let servers: BTreeSet<IpAddr> = ["10.0.0.2", "10.0.0.3"].map(|a| a.parse().expect("an address")).into();
        assert_eq!(other_server("https://10.0.0.1:6443", &servers).as_deref(), Some("https://10.0.0.2:6443"));
        assert_eq!(other_server("https://10.0.0.3:6443", &servers), None);
        assert_eq!(other_server("https://10.0.0.1:6443", &BTreeSet::new()), None, "nobody is known");
        assert_eq!(other_server("https://api.example:6443", &servers), None, "a name may lead anywhere");
    }
}
