//! etcd's members, asked where a server's own etcd answers its peers: a read that needs no quorum. Knows of k3s only the
//! places of its certificates, which are part of its contract.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use furrow_model::reasons::chain;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::facts::Voter;
use crate::kubeconfig::document;
use crate::steps::StepError;

const TLS: &str = "/var/lib/rancher/k3s/server/tls/etcd";
const PEER_PORT: u16 = 2380;
/// A member answers within milliseconds.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);

/// As etcd tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default)]
    is_learner: bool,
}

/// The members, and whether each of them answers. A learner does not vote, and one that has no name yet never ran.
pub(super) async fn members(own: IpAddr) -> Result<Vec<Voter>, StepError> {
    let own = ask(format!("https://{}", SocketAddr::new(own, PEER_PORT))).await;
    let members = own.map_err(|reason| StepError::Answer("this server's etcd", reason))?;
    let mut asking = JoinSet::new();
    for member in members {
        asking.spawn(async move {
            let url = member.peer_urls.first().cloned().unwrap_or_default();
            let answers = !member.is_learner && ask(url.clone()).await.is_ok();
            Voter { name: if member.name.is_empty() { url } else { member.name }, answers }
        });
    }
    let mut voters = asking.join_all().await;
    voters.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(voters)
}

async fn ask(url: String) -> Result<Vec<Member>, String> {
    let client = client(&url).await?;
    let request = http::Request::get("/members").body(Vec::new()).map_err(|e| e.to_string())?;
    match tokio::time::timeout(ASK_TIMEOUT, client.request_text(request)).await {
        Ok(Ok(text)) => serde_json::from_str(&text).map_err(|e| e.to_string()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ASK_TIMEOUT.as_secs())),
    }
}

async fn client(url: &str) -> Result<Client, String> {
    let read = |name: &str| {
        let path = Path::new(TLS).join(name);
        std::fs::read(&path).map(|text| BASE64_STANDARD.encode(text)).map_err(|e| format!("{}: {e}", path.display()))
    };
    let cluster = json!({"server": url, "certificate-authority-data": read("peer-ca.crt")?});
    let user: Value = json!({
        "client-certificate-data": read("peer-server-client.crt")?,
        "client-key-data": read("peer-server-client.key")?,
    });
    let document: Kubeconfig = serde_json::from_value(document(&cluster, "peer", &user)).map_err(|e| e.to_string())?;
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|e| e.to_string())?;
    config.connect_timeout = Some(ASK_TIMEOUT);
    Client::try_from(config).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::Member;

    #[test]
    fn etcds_own_words_are_understood() {
        let text = r#"[{"id":1,"peerURLs":["https://10.0.0.1:2380"],"name":"n1","clientURLs":["https://10.0.0.1:2379"]},
            {"id":2,"peerURLs":["https://10.0.0.2:2380"],"isLearner":true}]"#;
        let members: Vec<Member> = serde_json::from_str(text).expect("members");
        assert_eq!(members[0].name, "n1");
        assert!(members[1].name.is_empty() && members[1].is_learner && !members[0].is_learner);
    }
}
