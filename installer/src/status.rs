//! `furrow-install status`: what this node is doing, with reasons. Reads only.

use std::path::Path;
use std::time::Duration;

use furrow_host::cmd::Cmd;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Api;

use crate::config::{self, Role};
use crate::join::Joined;
use crate::record;
use crate::steps::{STATE, ceph_reader, client, k3s_unit, vip_holder};

/// Health checks of Ceph that a single node cannot help having; they are shown, but are no fault.
const EXPECTED: [&str; 3] = ["POOL_NO_REDUNDANCY", "MON_DISK_LOW", "OSD_NO_DOWN_OUT_INTERVAL"];

/// How long a node may need from its start until all parts are well: Ceph's recovery after a restart included.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(900);

/// Waits until all parts are well, for as long as a new version has to become so.
pub(crate) async fn wait_healthy() -> bool {
    let begun = std::time::Instant::now();
    while begun.elapsed() < HEALTHY_TIMEOUT {
        if print().await {
            return true;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    println!("not healthy within {} s", HEALTHY_TIMEOUT.as_secs());
    false
}

/// Prints a line for each part of the node. Says whether all of them are well.
pub(crate) async fn print() -> bool {
    let mut well = true;
    let mut line = |part: &str, state: Result<String, String>| {
        well &= state.is_ok();
        let (mark, text) = match state {
            Ok(text) => ("ok  ", text),
            Err(text) => ("FAIL", text),
        };
        println!("{part:14} {mark} {text}");
    };
    line("version", version().await);
    let finished = record::load(std::path::Path::new(STATE)).finished;
    line(
        "bootstrap",
        if finished.contains_key("node-ready") {
            Ok(format!("{} steps done", finished.len()))
        } else {
            Err(format!("{} steps done, node-ready is not", finished.len()))
        },
    );
    let role = Joined::role(Path::new(STATE)).unwrap_or_else(|error| {
        line("join record", Err(error.to_string()));
        Role::Server
    });
    line("kubernetes", kubernetes(role).await);
    line("ceph", ceph(role).await);
    line(
        "open vswitch",
        command("/usr/bin/ovs-vsctl", &["--timeout=5", "get", "Open_vSwitch", ".", "ovs_version"]).await,
    );
    let control: &[&str] = if role == Role::Server { &["furrow-control"] } else { &[] };
    for unit in [k3s_unit(role).trim_end_matches(".service"), "libvirtd", "furrow-agent"].iter().chain(control) {
        line(unit, command("/usr/bin/systemctl", &["is-active", unit]).await);
    }
    if let Some(holder) = virtual_address().await {
        line("vip", holder);
    }
    well
}

/// Who has the servers' common address, where node.yaml names one.
async fn virtual_address() -> Option<Result<String, String>> {
    let text = std::fs::read_to_string("/etc/furrow/node.yaml").ok()?;
    let management = config::parse(&text).ok()?.management;
    let vip = management.vip?;
    Some(vip_holder(&management.interface, vip).await)
}

/// The running version, and those that were tried and did not become healthy.
async fn version() -> Result<String, String> {
    let release = std::fs::read_to_string("/usr/lib/os-release").unwrap_or_default();
    let running = release.lines().find_map(|l| l.strip_prefix("IMAGE_VERSION=")).unwrap_or("unknown");
    // systemd mounts the ESP on /boot where there is that directory.
    let failed: Vec<String> =
        ["/boot", "/efi"].iter().flat_map(|esp| crate::update::failed_versions(Path::new(esp))).collect();
    let failed = failed.iter().map(|v| format!("; {v} was tried and did not become healthy"));
    Ok(std::iter::once(running.to_owned()).chain(failed).collect())
}

async fn command(program: &'static str, args: &[&str]) -> Result<String, String> {
    let out = Cmd::new(program).args(args).timeout(Duration::from_secs(10)).run_unchecked().await;
    let out = out.map_err(|e| e.to_string())?;
    let text = out.text().trim().trim_matches('"').to_owned();
    if out.code == Some(0) { Ok(text) } else { Err(format!("{text} {}", out.stderr_tail.trim())) }
}

async fn kubernetes(role: Role) -> Result<String, String> {
    let client = client(role).await.map_err(|e| e.to_string())?;
    let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let get = Api::<KubeNode>::all(client);
    let get = get.get(&name);
    let node = tokio::time::timeout(Duration::from_secs(10), get).await;
    let node = node.map_err(|_| "the API server does not answer within 10 s".to_owned())?.map_err(|e| e.to_string())?;
    let status = node.status.unwrap_or_default();
    let version = status.node_info.map(|i| i.kubelet_version).unwrap_or_default();
    let ready = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Ready");
    match ready {
        Some(c) if c.status == "True" => Ok(format!("node {name} ({}) is Ready, {version}", role.name())),
        Some(c) => Err(c.message.unwrap_or_default()),
        None => Err("the node has no Ready condition".into()),
    }
}

async fn ceph(role: Role) -> Result<String, String> {
    let ask = [ceph_reader(role), &["--connect-timeout", "5", "health", "detail", "-f", "json"]].concat();
    let text = command("/usr/bin/ceph", &ask).await?;
    let health: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let status = health["status"].as_str().unwrap_or("no status");
    let checks = health["checks"].as_object().cloned().unwrap_or_default();
    let say = |name: &str| format!("{name}: {}", checks[name]["summary"]["message"].as_str().unwrap_or(""));
    let faults: Vec<String> = checks.keys().filter(|c| !EXPECTED.contains(&c.as_str())).map(|c| say(c)).collect();
    let known: Vec<String> = checks.keys().filter(|c| EXPECTED.contains(&c.as_str())).map(|c| say(c)).collect();
    let all = [faults.as_slice(), known.as_slice()].concat().join("; ");
    let text = if all.is_empty() { status.to_owned() } else { format!("{status} ({all})") };
    if status == "HEALTH_ERR" { Err(text) } else { Ok(text) }
}
