//! Executes the plan: for each step look, do what is missing, record. One `match`, no decisions.
//!
//! Owns the order of looking, doing and recording, and the time limits. A kill at any point is answered by the next run:
//! each step finds what an earlier one left.

mod ceph;
mod ceph_conf;
mod cpus;
mod follow;
mod huge_pages;
mod identity;
mod join;
mod kubernetes;
mod osd;
mod pools;
mod ready;
mod vip;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use furrow_host::ceph::Monitor;
use furrow_host::cmd::{Cmd, CmdError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::{NodeConfig, Role};
use crate::files;
use crate::join::{JoinError, Joined};
use crate::pki::PkiError;
use crate::plan::Step;
use crate::record;
use crate::secrets::SecretError;

pub(crate) use ceph::{describe as describe_ceph, keyring_of as ceph_keyring, reader as ceph_reader};
pub(crate) use ceph_conf::copies;
pub(crate) use follow::once as follow;
pub(crate) use identity::{ensure_namespace, gone, made, refused};
pub(crate) use kubernetes::{client, mark_changed as mark_kubernetes_changed, server_url, unit as k3s_unit};
pub(crate) use osd::{any_made, made as made_osds};
pub(crate) use ready::readiness;
pub(crate) use vip::{api_is_ready, holder as vip_holder};

/// Where everything of Furrow's own lies.
pub(crate) const STATE: &str = "/var/lib/furrow";

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Command(#[from] CmdError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("could not {what} {path}")]
    File {
        what: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("kubernetes refused to {what}")]
    Kubernetes {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the kubeconfig {path} cannot be used: {reason}")]
    Kubeconfig { path: String, reason: String },
    #[error("certificate request {name} is refused: {reason}")]
    Refused { name: String, reason: String },
    #[error("waited {seconds} s for {what}: {last}")]
    Timeout { what: String, seconds: u64, last: String },
    #[error("{0} gave an answer that makes no sense: {1}")]
    Answer(&'static str, String),
    #[error("disk {path} holds {what}, and nothing allows erasing it")]
    DiskHolds { path: String, what: String },
    #[error(
        "the monitor's data is in {data}, but {lost} is gone: put it back, it is not made anew over a living cluster"
    )]
    Lost { data: String, lost: &'static str },
    #[error(
        "the cluster's CA, in ConfigMap furrow-system/furrow-ca, is not the one in {0}: put ca.crt and ca.key back from another server"
    )]
    ForeignCa(String),
    #[error(transparent)]
    HugePages(#[from] huge_pages::HugePagesError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Block(#[from] furrow_host::block::BlockError),
    #[error(transparent)]
    Ceph(#[from] furrow_host::ceph::CephError),
}

pub(crate) fn file_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StepError {
    let path = path.display().to_string();
    move |source| StepError::File { what, path, source }
}

/// Writes a file that is not as it should be.
fn update(path: &Path, text: &str, mode: u32) -> Result<(), StepError> {
    files::update(path, text, mode).map_err(file_error("write", path))
}

/// What the steps know of the node.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) state: PathBuf,
    started: Instant,
    /// Asks Ceph for a server.
    administrator: Monitor,
    /// Asks Ceph for a node without the administrator's key.
    osd_maker: Monitor,
}

impl Node {
    pub(crate) fn new(config: NodeConfig) -> Node {
        Node {
            config,
            state: PathBuf::from(STATE),
            started: Instant::now(),
            administrator: Monitor::administrator(),
            osd_maker: ceph::osd_maker(),
        }
    }

    /// The record that this node has joined a cluster; None where it makes one, or has made it.
    pub(crate) fn joined(&self) -> Result<Option<Joined>, StepError> {
        Joined::load(&self.state).map_err(file_error("read the join record below", &self.state))
    }

    /// What this node is. Known from the step `join` on.
    pub(crate) fn role(&self) -> Result<Role, StepError> {
        Joined::role(&self.state).map_err(file_error("read the join record below", &self.state))
    }

    /// Ceph's monitors, asked as what this node is.
    pub(crate) fn ceph(&self) -> Result<&Monitor, StepError> {
        Ok(match self.role()? {
            Role::Server => &self.administrator,
            Role::Agent => &self.osd_maker,
        })
    }

    /// A line of progress with the time since the start, and the same to systemd's status.
    pub(crate) fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(text)]);
    }

    /// Calls `probe` until it answers Ok, and says why it waits every few seconds.
    pub(crate) async fn wait<T, F>(&self, what: &str, limit: Duration, mut probe: F) -> Result<T, StepError>
    where
        F: AsyncFnMut() -> Result<T, String>,
    {
        let from = Instant::now();
        let mut said = Instant::now();
        loop {
            let last = match probe().await {
                Ok(value) => return Ok(value),
                Err(last) => last,
            };
            if from.elapsed() >= limit {
                return Err(StepError::Timeout { what: what.to_owned(), seconds: limit.as_secs(), last });
            }
            if said.elapsed() >= Duration::from_secs(5) {
                said = Instant::now();
                self.say(&format!("waiting for {what}: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Kills this process where it was told to die after this step.
pub(crate) fn crash(told: Option<&str>, step: &str) {
    if told == Some(step) {
        println!("{step}: done, crashing as told");
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

/// Runs `systemctl` with these arguments.
pub(crate) async fn systemctl(args: &[&str]) -> Result<String, StepError> {
    Ok(Cmd::new("/usr/bin/systemctl").args(args).timeout(Duration::from_secs(90)).run().await?.text())
}

/// Whether a unit is active.
pub(crate) async fn is_active(unit: &str) -> Result<bool, StepError> {
    let out = Cmd::new("/usr/bin/systemctl").args(["is-active", "--quiet", unit]).run_unchecked().await?;
    Ok(out.code == Some(0))
}

/// Executes the steps in order. `crash_after` names a step after whose action, before it is recorded, the process kills
/// itself: the scenario of kills needs a point that timing cannot hit.
///
/// # Errors
/// The first step that failed; what was done stays, and the next run goes on there.
pub(crate) async fn run(
    node: &Node,
    steps: &[Step],
    crash_after: Option<&str>,
) -> Result<(), (&'static str, StepError)> {
    for step in steps {
        let from = Instant::now();
        execute(node, step).await.map_err(|error| (step.name(), error))?;
        crash(crash_after, step.name());
        record::finish(&node.state, step.name(), now())
            .map_err(|e| (step.name(), file_error("record", &record::path(&node.state))(e)))?;
        node.say(&format!("{}: done in {:.1} s", step.name(), from.elapsed().as_secs_f64()));
    }
    Ok(())
}

async fn execute(node: &Node, step: &Step) -> Result<(), StepError> {
    match step {
        Step::Hostname => hostname(node),
        Step::Settings(_) => crate::settings::ensure(node).await,
        Step::Join { .. } => join::join(node).await,
        Step::FurrowCa { .. } => identity::ca(node),
        Step::KubernetesFiles => kubernetes::files(node),
        Step::KubernetesStart(_) => kubernetes::start(node).await,
        Step::CephMonitor => ceph::monitor(node).await,
        Step::CephManager => ceph::manager(node).await,
        Step::CephOsds(disks) => ceph::osds(node, disks).await,
        Step::CephPool => pools::ensure(node).await,
        Step::CephUsers => ceph::users(node).await,
        Step::CephClient => ceph::client(node).await,
        Step::OpenVSwitch => open_vswitch().await,
        Step::KubernetesCertificates => kubernetes::renew(node).await,
        Step::KubernetesReady => kubernetes::ready(node).await,
        Step::AgentIdentity => identity::agent(node).await,
        Step::ControlIdentity => identity::control(node).await,
        Step::Services(_) => services(node).await,
        Step::VirtualAddress(vip) => vip::ensure(node, *vip).await,
        Step::NodeReady => ready::wait(node).await,
    }
}

fn hostname(node: &Node) -> Result<(), StepError> {
    let path = Path::new("/etc/hostname");
    let wanted = format!("{}\n", node.config.hostname);
    update(path, &wanted, 0o644)?;
    let running = nix::unistd::gethostname().unwrap_or_default();
    if running.to_string_lossy() != node.config.hostname {
        nix::unistd::sethostname(&node.config.hostname)
            .map_err(|e| file_error("set the host name of", path)(e.into()))?;
    }
    Ok(())
}

async fn open_vswitch() -> Result<(), StepError> {
    systemctl(&["start", "openvswitch-switch.service"]).await?;
    Cmd::new("/usr/bin/ovs-vsctl").args(["--timeout=20", "get", "Open_vSwitch", ".", "ovs_version"]).run().await?;
    Ok(())
}

/// Runs what this node is to run, and stops what it is not to run any more.
async fn services(node: &Node) -> Result<(), StepError> {
    let role = node.role()?;
    let units: &[&str] = match role {
        Role::Server => &["furrow-agent.service", "furrow-control.service"],
        Role::Agent => &["furrow-agent.service"],
    };
    systemctl(&[&["enable"], units].concat()).await?;
    // A unit that gave up while its identity was missing starts from zero.
    let _ = systemctl(&[&["reset-failed"], units].concat()).await;
    systemctl(&[&["start"], units].concat()).await?;
    if role == Role::Agent || node.config.management.vip.is_none() { vip::remove(node).await } else { Ok(()) }
}
