//! `furrow-control`: controllers, admission and the subresource API, on control-plane nodes, unprivileged. Here only the
//! parts are put together.
//!
//! ```text
//!   watches ──> caches ──marks──> queues ──> controllers ──> API server
//!                  └──────────> admission (always)     (only while this process holds the Lease)
//!   API server ──> subresources (always) ──> API server, agents
//! ```

mod address;
mod admission;
mod calls;
mod certificates;
mod cluster;
mod datavolume;
mod dispatch;
mod events;
mod instancetype;
mod ipam;
mod kubevirt;
mod leader;
mod marks;
mod metrics;
mod migration;
mod network;
mod pod;
mod pool;
mod replicaset;
#[cfg(test)]
mod roles_tests;
mod room;
mod selector;
mod server;
mod subnet;
mod subresources;
mod vm;
mod vmi;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use furrow_api::names::AGENT_PORT;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cluster::{Cluster, Queues};
use crate::dispatch::{MARKS, Reconcile};
use crate::events::Events;
use crate::ipam::Ipam;
use crate::server::Servers;

/// Controllers of guests and DataVolumes wait for the API server most of the time; so many passes hide that.
const BUSY: usize = 16;

/// Others have little to do.
const QUIET: usize = 4;

#[derive(Parser)]
#[command(name = "furrow-control", version, about = "Controllers and admission of a Furrow cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs until told to stop.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// How to reach the API server, and as whom.
    #[arg(long, default_value = "/var/lib/furrow/control/pki/control.kubeconfig")]
    kubeconfig: PathBuf,
    /// Directory with serving.crt and serving.key.
    #[arg(long, default_value = "/var/lib/furrow/control/pki")]
    pki: PathBuf,
    /// Where webhooks are served.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where the subresource API is served to the API servers of all server nodes.
    #[arg(long, default_value = "[::]:8444")]
    subresources: SocketAddr,
    /// Where metrics are shown.
    #[arg(long, default_value = "[::]:8447")]
    metrics: SocketAddr,
    /// Held locked while running: one process a node.
    #[arg(long, default_value = "/var/lib/furrow/control/lock")]
    lock: PathBuf,
    /// Name under which this node leads; absent: its host name.
    #[arg(long)]
    identity: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let Command::Run(options) = Cli::parse().command;
    log_to_journal_or_terminal();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("could not install the TLS provider"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Memory is counted, and the work is waiting.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    runtime.block_on(run(options))
}

fn log_to_journal_or_terminal() {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let journal = if std::io::stderr().is_terminal() { None } else { tracing_journald::layer().ok() };
    let terminal = journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    tracing_subscriber::registry().with(filter).with(journal).with(terminal).init();
}

async fn run(options: Run) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let identity = match options.identity.clone() {
        Some(identity) => identity,
        None => host_name().await?,
    };
    let client = client(&options).await?;
    let events = Events::start(client.clone(), &identity);
    let cluster = Cluster::start(client.clone(), events);
    let standing = metrics::Standing::default();
    let filled = Arc::clone(&standing.ready);
    let webhooks = admission::router(Arc::new(cluster.clone()));
    let settings = subresources::Settings {
        listen: options.subresources,
        pki: &options.pki,
        kubeconfig: &options.kubeconfig,
        agent_port: AGENT_PORT,
    };
    let reach = subresources::reach(&settings, client.clone())?;
    let mut servers = Servers {
        webhooks: server::start(options.listen, &options.pki, webhooks, Arc::clone(&filled)).await?,
        subresources: subresources::start(&settings, cluster.clone(), &reach).await?,
        metrics: metrics::start(options.metrics, &options.pki, cluster.clone(), standing.clone()).await?,
    };
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager was told");
    }
    tokio::select! {
        // Nothing acts yet: there is nothing to end.
        _ = terminate.recv() => return Ok(()),
        // The servers are asked again below.
        error = servers.ended() => return Err(error),
        // Waiting for a cache has no effect of its own.
        result = cluster.wait_until_filled() => result?,
    }
    filled.store(true, Ordering::Release);
    tracing::info!("caches filled");
    let mut leadership = tokio::select! {
        // Nothing acts yet.
        _ = terminate.recv() => {
            servers.stop().await;
            return Ok(());
        }
        // The servers are asked again below.
        error = servers.ended() => return Err(error),
        // A Lease that was taken by a cancelled call is taken again by this node at once.
        result = leader::acquire(client, &identity, &options.lock) => result?,
    };
    standing.leading.store(true, Ordering::Release);
    let stop = CancellationToken::new();
    let controllers = start_controllers(&cluster, vmi::Pulls::new(reach.agents), &stop);
    tokio::select! {
        // Told once is enough.
        _ = terminate.recv() => {}
        // One ended: so does this process.
        error = servers.ended() => return Err(error),
        // Whoever cannot renew must not act: the process ends at once, with whatever is under way.
        Err(error) = leadership.keep() => return Err(error),
    }
    stop.cancel();
    controllers.wait().await;
    leadership.release().await;
    servers.stop().await;
    Ok(())
}

/// Starts all controllers. They end when told to stop and the passes under way are done.
fn start_controllers(cluster: &Cluster, pulls: vmi::Pulls, stop: &CancellationToken) -> TaskTracker {
    let tracker = TaskTracker::new();
    let ipam = Arc::new(Ipam::default());
    let start = Start { tracker: &tracker, stop };
    let queues = Queues {
        vm: start.controller(vm::Machines { cluster: cluster.clone() }, BUSY),
        vmi: start.controller(vmi::Guests::new(cluster.clone(), Arc::clone(&ipam), pulls), BUSY),
        data_volume: start.controller(datavolume::DataVolumes { cluster: cluster.clone() }, BUSY),
        subnet: start.controller(subnet::Subnets { cluster: cluster.clone(), ipam }, QUIET),
        ip: start.controller(address::Addresses { cluster: cluster.clone() }, QUIET),
        kubevirt: start.controller(kubevirt::Settings { cluster: cluster.clone() }, QUIET),
        request: start.controller(certificates::Certificates { cluster: cluster.clone() }, QUIET),
        replica_set: start.controller(replicaset::ReplicaSets { cluster: cluster.clone() }, QUIET),
        pool: start.controller(pool::Pools { cluster: cluster.clone() }, QUIET),
        migration: start.controller(migration::Migrations { cluster: cluster.clone() }, QUIET),
        types: start.controller(instancetype::Revisions { cluster: cluster.clone() }, QUIET),
        endpoints: start.controller(subresources::endpoints::Endpoints { cluster: cluster.clone() }, QUIET),
    };
    cluster.lead(queues);
    tracker.close();
    tracker
}

struct Start<'a> {
    tracker: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Start<'_> {
    fn controller<R: Reconcile>(&self, reconciler: R, concurrency: usize) -> mpsc::Sender<dispatch::Key> {
        let (sender, marks) = mpsc::channel(MARKS);
        self.tracker.spawn(dispatch::run(Arc::new(reconciler), marks, concurrency, self.stop.clone()));
        sender
    }
}

async fn client(options: &Run) -> anyhow::Result<Client> {
    let path = options.kubeconfig.display();
    let document = Kubeconfig::read_from(&options.kubeconfig).with_context(|| format!("could not read {path}"))?;
    let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("could not use {path}"))?;
    Client::try_from(config).with_context(|| format!("could not make a client from {path}"))
}

async fn host_name() -> anyhow::Result<String> {
    let text = tokio::fs::read_to_string("/proc/sys/kernel/hostname").await.context("could not read the host name")?;
    Ok(text.trim().to_owned())
}
