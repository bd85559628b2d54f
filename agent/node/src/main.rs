//! furrow-agent: the resident of every node. Owns the wiring of guests, volumes and networks to each other, to
//! Kubernetes and to the machine, and the process itself (logs, signals, readiness). Refuses decisions.

mod channel;
mod config;
mod guest;
mod identity;
mod memory;
mod metrics;
mod network;
mod processors;
mod storage;

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use furrow_api::names;
use furrow_host::libvirt::{CephSecret, EventStream, Libvirt, LibvirtOptions, kvm_usable};
use kube::Client;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use config::{Cli, Command, Options};
use guest::{NodeFacts, Parts};

/// Threads of the asynchronous runtime. The work is waiting; libvirt and librbd have threads of their own.
const RUNTIME_THREADS: usize = 2;
/// Threads for blocking calls (files, secrets, images): few, for the node's memory budget.
const BLOCKING_THREADS: usize = 16;
/// Stack of each, of which only what is used becomes memory: reading a VMI in an unoptimised build takes over 2 MiB.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Heaps of the C library's allocator, which would make eight a core: each keeps what its threads once used.
const MALLOC_ARENAS: i32 = 2;

fn main() -> anyhow::Result<()> {
    // SAFETY: called before any thread is started; an unknown parameter is refused, not undefined.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, MALLOC_ARENAS) };
    match Cli::parse().command {
        Command::Run(options) => runtime()?.block_on(run(options)),
        Command::Plan { vm, options } => runtime()?.block_on(show_plan(&vm, options)),
        Command::ImportChild => storage::import_child(),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("could not start the runtime")
}

async fn run(options: Options) -> anyhow::Result<()> {
    start_logging(&options.log)?;
    end_on_panic();
    let stop = stop_on_signals()?;
    let node = identity::node_name(options.node_name.as_deref())?;
    tracing::info!(node = %node, version = env!("CARGO_PKG_VERSION"), "agent starting");
    install_crypto();
    let Some(client) = identity::client(&options.kubeconfig, &stop).await? else { return Ok(()) };
    let (parts, events, libvirt, served) = parts(&options, &node, client, &stop).await?;
    start_metrics(&options, &parts, libvirt.clone(), &stop);
    start_channel(&options, &parts, (libvirt, served), &stop);
    feed_watchdog(&stop);
    memory::start(&stop);
    let ready = || {
        tracing::info!("agent ready");
        notify(&[NotifyState::Ready]);
    };
    let result = guest::run(parts, events, stop.clone(), ready).await;
    // Everything else that the agent started ends by the same token.
    stop.cancel();
    notify(&[NotifyState::Stopping]);
    result.context("the guests of this node are not looked after any more")
}

async fn show_plan(vm: &str, options: Options) -> anyhow::Result<()> {
    install_crypto();
    let stop = CancellationToken::new();
    let node = identity::node_name(options.node_name.as_deref())?;
    let Some(client) = identity::client(&options.kubeconfig, &stop).await? else { return Ok(()) };
    let (libvirt, _events) = start_libvirt(&options)?;
    libvirt.connected().await;
    let ports = network::observer(&stop).await.context("could not look at the network")?;
    let text = guest::show(client, (&libvirt, &ports), &facts(&options, node), vm).await?;
    stop.cancel();
    std::io::stdout().write_all(text.as_bytes()).context("could not print the plan")
}

/// Starts the parts of the node and joins them.
async fn parts(
    options: &Options,
    node: &str,
    client: Client,
    stop: &CancellationToken,
) -> anyhow::Result<(Parts, EventStream, Libvirt, Served)> {
    let (libvirt, events) = start_libvirt(options)?;
    let ports =
        network::start(client.clone(), node.to_owned(), stop.clone()).await.context("could not start the network")?;
    let directories = storage::Directories { ceph: options.ceph_dir.clone(), tpm: options.tpm_dir.clone() };
    let (volumes, tpm, images) = storage::start(client.clone(), node.to_owned(), directories, stop.clone())
        .await
        .context("could not start the storage")?;
    let (guests, links) = (Arc::new(libvirt.clone()), Arc::new(ports.clone()));
    let forwards = Arc::new(channel::Forwards::new(guests, links, stop.clone()));
    let parts = Parts {
        facts: facts(options, node.to_owned()),
        volumes: Arc::new(volumes),
        tpm: Arc::new(tpm),
        ports: Arc::new(ports),
        domains: Arc::new(libvirt.clone()),
        statistics: Arc::new(libvirt.clone()),
        dial: Arc::clone(&forwards) as Arc<dyn guest::ports::Dial>,
        kernels: Arc::new(images.clone()),
        processors: Arc::new(processors::NodeProcessors::new(client.clone(), node.to_owned())),
        shown: Arc::default(),
        client,
    };
    Ok((parts, events, libvirt, Served { forwards, images }))
}

/// What control is served with, beside libvirt.
struct Served {
    forwards: Arc<channel::Forwards>,
    images: storage::Images,
}

fn start_channel(options: &Options, parts: &Parts, (libvirt, served): (Libvirt, Served), stop: &CancellationToken) {
    let channel = channel::Parts {
        client: parts.client.clone(),
        guests: Arc::new(libvirt),
        images: Arc::new(served.images),
        forwards: served.forwards,
        kubeconfig: options.kubeconfig.clone(),
        guests_dir: options.guests_dir.clone(),
        thaw_dir: options.guests_dir.with_file_name("thaw"),
    };
    channel::start(channel, stop.clone());
}

fn start_metrics(options: &Options, parts: &Parts, libvirt: Libvirt, stop: &CancellationToken) {
    let metrics = metrics::Parts {
        client: parts.client.clone(),
        statistics: Arc::new(libvirt),
        shown: Arc::clone(&parts.shown),
        node: parts.facts.node.clone(),
        kubeconfig: options.kubeconfig.clone(),
    };
    metrics::start(metrics, stop.clone());
}

fn start_libvirt(options: &Options) -> anyhow::Result<(Libvirt, EventStream)> {
    let secret = CephSecret {
        uuid: names::CEPH_SECRET_UUID.parse().context("the uuid of the ceph secret is malformed")?,
        usage: names::CEPH_SECRET_USAGE.to_owned(),
        keyring: options.ceph_dir.join(format!("ceph.client.{}.keyring", names::CEPH_USER_QEMU)),
    };
    let started = Libvirt::start(LibvirtOptions { uri: options.libvirt.clone(), secrets: vec![secret] });
    started.context("could not start libvirt's threads")
}

fn facts(options: &Options, node: String) -> NodeFacts {
    let kvm = kvm_usable();
    if !kvm {
        tracing::warn!("there is no usable /dev/kvm: guests run in software emulation");
    }
    NodeFacts {
        node,
        emulator: options.emulator.clone(),
        firmware_dir: options.firmware_dir.clone(),
        guests_dir: options.guests_dir.clone(),
        shares_dir: options.shares_dir.clone(),
        tpm_dir: options.tpm_dir.clone(),
        kvm,
    }
}

fn install_crypto() {
    // The only failure is that one is installed already, and there is only one in the dependency graph.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Logs to the journal with fields when a service, to the terminal for people.
fn start_logging(directives: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives).context("could not understand the log directives")?;
    let registry = tracing_subscriber::registry().with(filter);
    let journal = if std::io::stderr().is_terminal() { None } else { tracing_journald::layer().ok() };
    match journal {
        Some(journal) => registry.with(journal.with_field_prefix(None)).init(),
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
    Ok(())
}

/// A task that panicked has left something half done: the process ends, systemd starts it again, and it adopts what
/// runs.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!(panic = %panic, "the agent panicked, ending it");
        std::process::abort();
    }));
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        // Safe to cancel on both arms: a signal only has to be seen once.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("agent stopping, guests go on");
        token.cancel();
    });
    Ok(stop)
}

/// Tells systemd's watchdog, if it watches, that the runtime still runs tasks.
fn feed_watchdog(stop: &CancellationToken) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let stop = stop.clone();
    let half = (interval / 2).max(Duration::from_millis(100));
    tokio::spawn(async move {
        // Safe to cancel: a skipped beat is followed by the process's end.
        while tokio::time::timeout(half, stop.cancelled()).await.is_err() {
            notify(&[NotifyState::Watchdog]);
        }
    });
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %error, "systemd could not be told");
    }
}
