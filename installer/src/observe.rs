//! What this node is doing, part by part, with reasons. Observes only. `furrow-install status` prints all of it once; the
//! console shows it for as long as the node runs, so that each [`Probe`] says how often it is worth its cost, and none of them
//! takes longer than [`LIMIT`], whatever does not answer.

mod cluster;
mod machine;

use std::path::Path;
use std::time::Duration;

use furrow_host::cmd::Cmd;

use crate::config::{self, NodeConfig, Role};
use crate::join::Joined;
use crate::steps::{STATE, vip_holder};

/// After this a probe says that there is no answer. A little more than any one question in it may take.
const LIMIT: Duration = Duration::from_secs(15);

/// How a part of a machine or of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Well,
    /// Worth a look; it works, or can be installed.
    Warning,
    /// It does not do its work, or cannot be installed.
    Fault,
}

impl Level {
    /// How it is marked in a list.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Level::Well => "ok  ",
            Level::Warning => "warn",
            Level::Fault => "FAIL",
        }
    }
}

/// One part of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) text: String,
}

impl Part {
    pub(crate) fn new(name: &'static str, level: Level, text: impl Into<String>) -> Part {
        // One line, whatever a program answers.
        let text = text.into().split_whitespace().collect::<Vec<_>>().join(" ");
        Part { name, level, text }
    }

    fn of(name: &'static str, state: Result<String, String>) -> Part {
        match state {
            Ok(text) => Part::new(name, Level::Well, text),
            Err(text) => Part::new(name, Level::Fault, text),
        }
    }
}

/// What is asked together, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Probe {
    Version,
    Bootstrap,
    Network,
    Kubernetes,
    Ceph,
    OpenVSwitch,
    Services,
    VirtualAddress,
    Machine,
}

impl Probe {
    /// All of them.
    pub(crate) const ALL: [Probe; 9] = [
        Probe::Version,
        Probe::Bootstrap,
        Probe::Network,
        Probe::Kubernetes,
        Probe::Ceph,
        Probe::OpenVSwitch,
        Probe::Services,
        Probe::VirtualAddress,
        Probe::Machine,
    ];

    /// How long an answer is good for on a screen.
    pub(crate) fn every(self) -> Duration {
        Duration::from_secs(match self {
            // Files of the kernel: no process, no packet.
            Probe::Network | Probe::Machine => 3,
            // A process each, a few milliseconds.
            Probe::Bootstrap => 5,
            Probe::Services => 10,
            Probe::Kubernetes | Probe::VirtualAddress => 15,
            // A connection each, for one question.
            Probe::Ceph | Probe::OpenVSwitch => 30,
            // Mounts the ESP.
            Probe::Version => 300,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Probe::Version => "version",
            Probe::Bootstrap => "bootstrap",
            Probe::Network => "addresses",
            Probe::Kubernetes => "kubernetes",
            Probe::Ceph => "ceph",
            Probe::OpenVSwitch => "open vswitch",
            Probe::Services => "services",
            Probe::VirtualAddress => "vip",
            Probe::Machine => "disks",
        }
    }

    /// Asks. Never longer than [`LIMIT`].
    pub(crate) async fn observe(self) -> Vec<Part> {
        // Dropping the question is safe: it reads only, and its process is killed.
        match tokio::time::timeout(LIMIT, Box::pin(self.ask())).await {
            Ok(parts) => parts,
            Err(_) => vec![Part::new(self.name(), Level::Fault, format!("no answer within {} s", LIMIT.as_secs()))],
        }
    }

    async fn ask(self) -> Vec<Part> {
        let config = node_yaml();
        let role = Joined::role(Path::new(STATE)).unwrap_or(Role::Server);
        match self {
            Probe::Version => vec![machine::version()],
            Probe::Bootstrap => cluster::bootstrap(&config).await,
            Probe::Network => config.iter().map(machine::network).collect(),
            Probe::Kubernetes => {
                let url = config.iter().map(machine::api);
                url.chain(cluster::kubernetes(role).await).collect()
            }
            Probe::Ceph => vec![Part::of("ceph", cluster::ceph(role).await)],
            Probe::OpenVSwitch => {
                let ask = ["--timeout=5", "get", "Open_vSwitch", ".", "ovs_version"];
                vec![Part::of("open vswitch", command("/usr/bin/ovs-vsctl", &ask).await)]
            }
            Probe::Services => cluster::services(role).await,
            Probe::VirtualAddress => match config.map(|c| c.management) {
                Ok(management) => match management.vip {
                    Some(vip) => vec![Part::of("vip", vip_holder(&management.device(), vip).await)],
                    None => Vec::new(),
                },
                Err(_) => Vec::new(),
            },
            Probe::Machine => machine::hardware(config.ok().as_ref()),
        }
    }
}

/// This node's configuration, or why there is none.
pub(crate) fn node_yaml() -> Result<NodeConfig, String> {
    let text = std::fs::read_to_string("/etc/furrow/node.yaml").map_err(|e| format!("/etc/furrow/node.yaml: {e}"))?;
    config::parse(&text).map_err(|e| format!("/etc/furrow/node.yaml: {e}"))
}

/// What a program prints, or what it says instead.
async fn command(program: &'static str, args: &[&str]) -> Result<String, String> {
    let out = Cmd::new(program).args(args).timeout(Duration::from_secs(10)).run_unchecked().await;
    let out = out.map_err(|e| e.to_string())?;
    let text = out.text().trim().trim_matches('"').to_owned();
    if out.code == Some(0) { Ok(text) } else { Err(format!("{text} {}", out.stderr_tail.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_line() {
        assert_eq!(Part::new("a", Level::Well, "one\n two\t three ").text, "one two three");
    }

    #[test]
    fn what_costs_more_is_asked_more_rarely() {
        assert!(Probe::Ceph.every() > Probe::Services.every() && Probe::Version.every() > Probe::Ceph.every());
        assert!(Probe::ALL.is_sorted(), "shown in their order");
    }
}
