//! The servers' common address: keepalived moves it, by VRRP on the management network, to a server whose API server is
//! ready. Servers are equal, and an address that has moved stays until it must move again.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use furrow_host::cmd::Cmd;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::{Node, StepError, file_error, is_active, systemctl};
use crate::config::NodeConfig;
use crate::files::{differs, replace};
use crate::kubeconfig;

const CONF: &str = "/etc/keepalived/keepalived.conf";
const UNIT: &str = "keepalived.service";
/// The user of the checks; it is in the image.
const CHECK_USER: &str = "keepalived_script";
/// A ready API server answers within milliseconds. Below keepalived's own limit, so that this process ends by itself.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// Writes keepalived's configuration and runs it.
pub(crate) async fn ensure(node: &Node, vip: IpAddr) -> Result<(), StepError> {
    let (path, wanted) = (Path::new(CONF), render(&node.config, vip));
    if differs(path, &wanted) {
        replace(path, wanted.as_bytes(), 0o644).map_err(file_error("write", path))?;
        // A reload keeps the address where it is.
        let _ = systemctl(&["try-reload-or-restart", UNIT]).await;
    }
    systemctl(&["enable", UNIT]).await?;
    let _ = systemctl(&["reset-failed", UNIT]).await;
    systemctl(&["start", UNIT]).await.map(|_| ())
}

/// Stops keepalived on a node that has no part in the address (any more).
pub(crate) async fn remove(node: &Node) -> Result<(), StepError> {
    let path = Path::new(CONF);
    if !path.exists() && !is_active(UNIT).await? {
        return Ok(());
    }
    node.say("giving up the servers' common address");
    systemctl(&["disable", "--now", UNIT]).await?;
    crate::files::remove(path).map_err(file_error("remove", path))
}

/// Who has the address, for people.
///
/// # Errors
/// When nobody has it, or that cannot be told.
pub(crate) async fn holder(interface: &str, vip: IpAddr) -> Result<String, String> {
    let ask = async |what: &[&str]| -> Result<Value, String> {
        let out = Cmd::new("/usr/bin/ip").args(["-j"]).args(what).args(["show", "dev", interface]).run().await;
        serde_json::from_slice(&out.map_err(|e| e.to_string())?.stdout).map_err(|e| e.to_string())
    };
    if has_address(&ask(&["addr"]).await?, vip) {
        return Ok(format!("{vip} is here"));
    }
    // The neighbours' table knows whom the address leads to once it has been used.
    match tokio::time::timeout(CHECK_TIMEOUT, tokio::net::TcpStream::connect((vip, 6443))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("{vip} does not answer: {error}")),
        Err(_) => return Err(format!("{vip} does not answer within {} s", CHECK_TIMEOUT.as_secs())),
    }
    let neighbours = ask(&["neigh"]).await?;
    let name = owner(&neighbours, vip).unwrap_or_else(|| "another server".to_owned());
    Ok(format!("{vip} is at {name}"))
}

/// Whether the answer of `ip -j addr` holds the address.
fn has_address(links: &Value, vip: IpAddr) -> bool {
    let addresses =
        links.as_array().into_iter().flatten().flat_map(|l| l["addr_info"].as_array().into_iter().flatten());
    addresses.filter_map(|a| a["local"].as_str()).any(|a| a.parse() == Ok(vip))
}

/// Another address of the machine that has this one, from the answer of `ip -j neigh`.
fn owner(neighbours: &Value, vip: IpAddr) -> Option<String> {
    let all = || neighbours.as_array().into_iter().flatten();
    let address = |n: &Value| n["dst"].as_str().and_then(|dst| dst.parse::<IpAddr>().ok());
    let mac = all().find(|n| address(n) == Some(vip))?["lladdr"].as_str()?;
    let same = |n: &&Value| n["lladdr"] == mac && address(n).is_some_and(|a| a != vip && a.is_ipv4() == vip.is_ipv4());
    all().find(same).and_then(address).map(|a| a.to_string())
}

/// VRRP's number for the address on its network, 1 to 255: neighbouring addresses have different ones.
fn router_id(vip: IpAddr) -> u128 {
    let number = match vip {
        IpAddr::V4(vip) => u128::from(u32::from(vip)),
        IpAddr::V6(vip) => u128::from(vip),
    };
    number % 255 + 1
}

fn render(config: &NodeConfig, vip: IpAddr) -> String {
    let (name, interface, id) = (&config.hostname, config.management.device(), router_id(vip));
    let bits = if vip.is_ipv4() { 32 } else { 128 };
    format!(
        "# Written by furrow-install from /etc/furrow/node.yaml.\n\
         global_defs {{\n\
         \x20   router_id {name}\n\
         \x20   vrrp_version 3\n\
         \x20   enable_script_security\n\
         \x20   script_user {CHECK_USER}\n\
         }}\n\
         vrrp_script api_server {{\n\
         \x20   script \"/usr/bin/furrow-install api-ready\"\n\
         \x20   interval 2\n\
         \x20   timeout 6\n\
         \x20   fall 3\n\
         \x20   rise 2\n\
         \x20   init_fail\n\
         }}\n\
         vrrp_instance furrow {{\n\
         \x20   state BACKUP\n\
         \x20   nopreempt\n\
         \x20   interface {interface}\n\
         \x20   virtual_router_id {id}\n\
         \x20   priority 100\n\
         \x20   advert_int 1\n\
         \x20   track_script {{\n\
         \x20       api_server\n\
         \x20   }}\n\
         \x20   virtual_ipaddress {{\n\
         \x20       {vip}/{bits} dev {interface}\n\
         \x20   }}\n\
         }}\n"
    )
}

/// Whether this node's API server says that it is ready. Nothing secret is sent and the answer's author does not matter,
/// so its certificate, which the checks' user could not verify, is not looked at.
pub(crate) async fn api_is_ready() -> bool {
    matches!(tokio::time::timeout(CHECK_TIMEOUT, asked()).await, Ok(true))
}

async fn asked() -> bool {
    let cluster = json!({"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true});
    let document = kubeconfig::document(&cluster, "nobody", &json!({}));
    let Ok(document) = serde_json::from_value::<Kubeconfig>(document) else { return false };
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await;
    let Some(client) = config.ok().and_then(|config| Client::try_from(config).ok()) else { return false };
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    match client.request_text(request).await {
        Ok(_) => true,
        // An API server without anonymous questions; it is up.
        Err(kube::Error::Api(status)) => matches!(status.code, 401 | 403),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_different_numbers() {
        let id = |text: &str| router_id(text.parse().expect("an address"));
        let all: std::collections::BTreeSet<u128> = (1..=254).map(|n| id(&format!("10.0.0.{n}"))).collect();
        assert_eq!(all.len(), 254);
        assert!(all.into_iter().chain([id("fd00::1")]).all(|id| (1..=255).contains(&id)));
    }

    #[test]
    fn the_holder_is_found_by_its_other_address() {
        let vip = "10.0.0.9".parse().expect("an address");
        let links = json!([{"addr_info": [{"local": "10.0.0.1"}, {"local": "10.0.0.9"}]}]);
        assert!(has_address(&links, vip) && !has_address(&json!([{"addr_info": []}]), vip));
        let neighbour = |dst: &str, mac: &str| json!({"dst": dst, "lladdr": mac});
        let table = json!([
            neighbour("10.0.0.9", "b"),
            neighbour("fd00::2", "b"),
            neighbour("10.0.0.1", "a"),
            neighbour("10.0.0.2", "b")
        ]);
        assert_eq!(owner(&table, vip).as_deref(), Some("10.0.0.2"));
        assert_eq!(owner(&json!([{"dst": "10.0.0.9"}]), vip), None);
    }

    #[test]
    fn the_check_decides_and_an_address_stays_where_it_is() {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n2\nmanagement: {interface: eth0, address: 10.0.0.2, vip: 10.0.0.9}\nceph: {disks: [{path: /dev/b}]}\n";
        let config = crate::config::parse(text).expect("good");
        let text = render(&config, "10.0.0.9".parse().expect("an address"));
        for line in [
            "    script \"/usr/bin/furrow-install api-ready\"\n",
            "    state BACKUP\n    nopreempt\n    interface eth0\n",
            "        10.0.0.9/32 dev eth0\n",
            "    vrrp_version 3\n    enable_script_security\n    script_user keepalived_script\n",
        ] {
            assert!(text.contains(line), "`{line}` is not in {text}");
        }
    }
}
