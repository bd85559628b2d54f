//! furrow-install: brings a machine to what its node.yaml says. `validate` and `plan` change nothing; `bootstrap` executes
//! the plan and can be killed at any point; `status` says how the node is.

mod boot_entry;
mod checks;
mod config;
mod console;
mod device;
mod disks;
mod download;
mod events;
mod files;
mod firmware_entry;
mod install;
mod join;
mod kubeconfig;
mod membership;
mod network;
mod observe;
mod pki;
mod places;
mod plan;
mod promotion;
mod pxe;
mod record;
mod removal;
mod settings;
mod status;
mod steps;
mod tokens;
mod tui;
mod update;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use furrow_host::block;

use crate::config::NodeConfig;
use crate::install::InstallPlan;
use crate::join::Joined;
use crate::plan::{Membership, Step};
use crate::steps::Node;

/// The variable by which ceph-volume, and we, take loop devices.
const ALLOW_LOOPS: &str = "CEPH_VOLUME_ALLOW_LOOP_DEVICES";

/// Installs and bootstraps a Furrow node.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a node.yaml: names line, key and what was expected.
    Validate { file: PathBuf },
    /// Print what `bootstrap` would do. Changes nothing.
    Plan {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
        /// Only the names of the steps, one a line.
        #[arg(long)]
        names: bool,
        /// Take loop devices for OSDs: for tests.
        #[arg(long, env = ALLOW_LOOPS, hide = true)]
        allow_loops: bool,
    },
    /// Bring this node to what its node.yaml says. Goes on where an earlier run was stopped.
    Bootstrap {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
        /// Print the plan and stop.
        #[arg(long)]
        dry_run: bool,
        /// Stop after this step.
        #[arg(long)]
        until: Option<String>,
        /// Die by SIGKILL after this step's action, before it is recorded: for tests.
        #[arg(long, env = "FURROW_CRASH_AFTER", hide = true)]
        crash_after: Option<String>,
        /// Take loop devices for OSDs: for tests.
        #[arg(long, env = ALLOW_LOOPS, hide = true)]
        allow_loops: bool,
    },
    /// Renew the certificates that end soon. A timer runs it every day.
    Renew {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
    },
    /// One-time tokens by which nodes join the cluster. On a server.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Nodes of the cluster: remove one, make a worker a server. On a server.
    Node {
        /// This server's configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Before the services start: whether this node still belongs to its cluster.
    #[command(hide = true)]
    Membership {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
    },
    /// Follow the cluster's members: the monitors in ceph.conf and, on servers, the copies of pools. A timer runs it every
    /// two minutes.
    Follow {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
    },
    /// Exit code 0 when this node's API server is ready. keepalived asks.
    #[command(hide = true)]
    ApiReady,
    /// Install to a disk what this medium carries. Erases only what `install.disk` allows.
    Install {
        /// The configuration; without it, node.yaml of the file system labelled FURROW-CONFIG.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Print what would be written and stop.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write another version to the free slot and boot it on trial: if the node does not become healthy, the running version
    /// comes back.
    Update {
        /// The medium of the other version, an ISO file or its URL.
        medium: String,
        #[command(flatten)]
        checks: update::Checks,
        /// Leave the restart to the administrator.
        #[arg(long)]
        no_reboot: bool,
        /// Die by SIGKILL after this step: for tests.
        #[arg(long, hide = true)]
        crash_after: Option<String>,
    },
    /// Wait until this node is healthy; what a new version must pass to stay. Exit code 1 when it does not become so.
    #[command(hide = true)]
    Healthy,
    /// What the medium starts: the installation, unattended where the kernel's command line says so.
    #[command(hide = true)]
    Medium,
    /// Install other machines over the network.
    Pxe {
        #[command(subcommand)]
        command: pxe::Command,
    },
    /// What stands on this node's screen: its state, and the keys that an administrator needs there.
    Console {
        /// As the unit of tty1, which also tells the serial lines.
        #[arg(long, hide = true)]
        service: bool,
    },
    /// The management network of this node.
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// How this node is, with reasons. Exit code 1 when something is not well.
    Status,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Empty a node and take it out of the cluster; refused with the reasons where data or a quorum would be lost.
    Remove(removal::Removal),
    /// Make a worker a server, such as after a server was lost.
    Promote {
        /// The worker's name.
        name: String,
    },
}

#[derive(Subcommand)]
enum NetworkCommand {
    /// Make the network as a node.yaml says. It is taken back after 60 s, or by a restart, unless `confirm` comes first.
    Apply {
        /// The configuration; it becomes this node's.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
    },
    /// Keep the network that `apply` made.
    Confirm,
    /// Take back a network that was not confirmed.
    Rollback,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token for one node and print it.
    Create {
        /// How long it is valid, such as 30m, 1h or 1d.
        #[arg(long, default_value = "1h", value_parser = tokens::parse_life)]
        ttl: Duration,
        /// What it may make of a node. With a token for servers a node can become the cluster's administrator.
        #[arg(long, value_enum, default_value = "any")]
        role: tokens::Kind,
    },
    /// Print the tokens that are valid and not used yet.
    List,
    /// Make a token invalid.
    Revoke {
        /// Its id: the six letters after `::`.
        id: String,
    },
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(act(Arguments::parse().command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("furrow-install: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn act(command: Command) -> Result<bool> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a TLS provider is installed already"))?;
    match command {
        Command::Validate { file } => {
            read(&file)?;
            println!("{} is valid", file.display());
        }
        Command::Plan { file, names, allow_loops } => {
            for (number, step) in steps_for(&read(&file)?, allow_loops).await?.iter().enumerate() {
                if names {
                    println!("{}", step.name());
                } else {
                    println!("{:2}. {:17} {step}", number + 1, step.name());
                }
            }
        }
        Command::Bootstrap { file, dry_run, until, crash_after, allow_loops } => {
            let run = Bootstrap { dry_run, until, crash_after, allow_loops };
            run.execute(read(&file)?).await?;
        }
        Command::Renew { file } => {
            let node = Node::new(read(&file)?);
            execute(&node, &plan::renewal(node.role()?), None).await?;
        }
        Command::Follow { file } => steps::follow(&Node::new(read(&file)?)).await?,
        Command::Node { file, command } => {
            let node = Node::new(read(&file)?);
            match command {
                NodeCommand::Remove(removal) => return Box::pin(removal::remove(&node, &removal)).await,
                NodeCommand::Promote { name } => Box::pin(removal::promote(&node, &name)).await?,
            }
        }
        Command::Membership { file } => {
            membership::look(&Node::new(read(&file)?)).await?;
        }
        Command::ApiReady => return Ok(steps::api_is_ready().await),
        Command::Token { command } => token(command).await?,
        Command::Install { file, dry_run } => {
            let text = match file {
                Some(file) => text_of(&file)?,
                None => configured().await?,
            };
            install(text, dry_run).await?;
        }
        Command::Medium => return medium().await,
        Command::Update { medium, checks, no_reboot, crash_after } => {
            let begun = Instant::now();
            let say = |line: &str| println!("update [{:5.1} s] {line}", begun.elapsed().as_secs_f64());
            let version = update::from(&medium, &checks, crash_after.as_deref(), &say).await?;
            println!("version {version} is tried at the next boot");
            if !no_reboot {
                steps::systemctl(&["--no-block", "reboot"]).await?;
            }
        }
        Command::Pxe { command } => pxe::run(command).await?,
        Command::Console { service } => return console(service).await,
        Command::Network { command } => network_command(command).await?,
        Command::Healthy => return Ok(status::wait_healthy().await),
        Command::Status => return Ok(status::print().await),
    }
    Ok(true)
}

/// How to bootstrap.
struct Bootstrap {
    dry_run: bool,
    until: Option<String>,
    crash_after: Option<String>,
    allow_loops: bool,
}

impl Bootstrap {
    /// Plans and executes; twice where the cluster had to be asked what this node becomes.
    async fn execute(&self, config: NodeConfig) -> Result<()> {
        let node = Node::new(config);
        if let Some(reason) = membership::removed(&node.state) {
            anyhow::bail!(reason);
        }
        let mut done = 0;
        loop {
            let mut steps = steps_for(&node.config, self.allow_loops).await?;
            let is_open = matches!(steps.last(), Some(Step::Join { role: None, .. }));
            let end = self.until.as_ref().map(|last| steps.iter().position(|s| s.name() == *last));
            match end {
                Some(Some(end)) => steps.truncate(end + 1),
                Some(None) if !is_open => anyhow::bail!("no step `{}`", self.until.as_deref().unwrap_or_default()),
                Some(None) | None => {}
            }
            let steps = steps.get(done..).unwrap_or_default();
            for step in steps {
                println!("plan: {:17} {step}", step.name());
            }
            if self.dry_run {
                return Ok(());
            }
            network::trial::settled().await;
            install::end_interrupted().await?;
            execute(&node, steps, self.crash_after.as_deref()).await?;
            if !is_open || matches!(end, Some(Some(_))) {
                return Ok(());
            }
            done += steps.len();
        }
    }
}

/// Executes steps, unless another run is at it.
async fn execute(node: &Node, steps: &[Step], crash_after: Option<&str>) -> Result<()> {
    let lock = files::lock(&node.state).context("could not lock this node's steps")?;
    let _lock = lock.context("another furrow-install is at work on this node: see `systemctl status furrow-*`")?;
    let done = steps::run(node, steps, crash_after).await;
    done.map_err(|(step, error)| anyhow::Error::from(error).context(format!("step {step} failed")))
}

async fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { ttl, role } => {
            let token = tokens::create(ttl, role).await.context("could not make a join token")?;
            println!("{token}");
        }
        TokenCommand::List => tokens::list().await.context("could not list the join tokens")?,
        TokenCommand::Revoke { id } => {
            let was_there = tokens::revoke(&id).await.with_context(|| format!("could not revoke token {id}"))?;
            anyhow::ensure!(was_there, "there is no token {id}: it has expired, was used or was revoked");
        }
    }
    Ok(())
}

/// The node.yaml that the medium was told of.
async fn configured() -> Result<String> {
    let document = install::read_config().await?;
    println!("node.yaml  {}", document.origin);
    Ok(document.text)
}

async fn network_command(command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Apply { file } => {
            let text = text_of(&file)?;
            let config = config::parse(&text).with_context(|| format!("{} is not valid", file.display()))?;
            println!("network: {}", network::describe(&config.management));
            network::trial::begin(&text).await.context("could not change the network")?;
            let seconds = network::trial::TRIAL.as_secs();
            println!("in place; `furrow-install network confirm` within {seconds} s keeps it");
        }
        NetworkCommand::Confirm => {
            network::trial::confirm().await.context("could not keep the network")?;
            println!("the new network stays");
        }
        NetworkCommand::Rollback => {
            let was_there = network::trial::rollback().await.context("could not take the network back")?;
            println!("{}", if was_there { "the old network is back" } else { "no change is waiting to be confirmed" });
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a login takes this process's place and terminal")]
async fn console(service: bool) -> Result<bool> {
    match console::run(service).await? {
        console::End::Left => Ok(true),
        console::End::Login => Err(std::process::Command::new("/usr/bin/login").arg("root").exec()).context("no login"),
    }
}

/// Installs as a node.yaml says, and restarts the machine.
async fn install(text: String, dry_run: bool) -> Result<()> {
    let config = config::parse(&text).context("node.yaml is not valid")?;
    check_machine().await?;
    let plan = match install::plan(config.clone(), text).await {
        Ok(plan) => plan,
        Err(error) => {
            if !dry_run {
                install::tell_refusal(&config, &error);
            }
            return Err(error.into());
        }
    };
    println!("{plan}");
    if dry_run {
        return Ok(());
    }
    let begun = Instant::now();
    plan.execute(&|line| println!("install [{:5.1} s] {line}", begun.elapsed().as_secs_f64())).await?;
    leave(&plan).await
}

/// Prints what is to be said of this machine.
///
/// # Errors
/// When it cannot become a node.
async fn check_machine() -> Result<()> {
    let medium = install::medium_disk().map_err(anyhow::Error::msg)?;
    let facts = tui::facts::Facts::observe(&medium).await.context("could not look at this machine")?;
    for check in &facts.checks {
        println!("check      {check}");
    }
    let bad = facts.checks.iter().find(|check| check.result == checks::Verdict::Bad);
    bad.map_or(Ok(()), |check| Err(anyhow!("this machine cannot become a node: {}: {}", check.what, check.text)))
}

#[expect(clippy::disallowed_methods, reason = "a shell takes this process's place and terminal")]
async fn medium() -> Result<bool> {
    if install::is_unattended() {
        install(configured().await?, false).await?;
        return Ok(true);
    }
    match tui::run().await? {
        tui::End::Installed(plan) => leave(&plan).await?,
        tui::End::Left => {
            println!(
                "A shell on the medium; `exit` asks again. `furrow-install install` takes node.yaml from a file system \
                 labelled {}.",
                install::CONFIG_LABEL
            );
            let shell = std::process::Command::new("/bin/bash").arg("--login").exec();
            return Err(shell).context("no shell");
        }
    }
    Ok(true)
}

/// Restarts the machine, or switches it off, as the plan says.
async fn leave(plan: &InstallPlan) -> Result<()> {
    let verb = if plan.powers_off() { "poweroff" } else { "reboot" };
    println!("{verb} follows; take the medium out");
    steps::systemctl(&["--no-block", verb]).await?;
    Ok(())
}

fn read(file: &Path) -> Result<NodeConfig> {
    config::parse(&text_of(file)?).with_context(|| format!("{} is not valid", file.display()))
}

fn text_of(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// The whole plan; nothing is written before it is valid.
async fn steps_for(config: &NodeConfig, allow_loops: bool) -> Result<Vec<Step>> {
    let devices = block::list().await.context("could not list the disks")?;
    let resolved =
        |path: &str| std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |p| p.display().to_string());
    let selection = disks::choose(&devices, &config.ceph.disks, allow_loops, &resolved);
    // Before the first OSD a wrong selector is a mistake to correct; later a disk may have died, and the others must run.
    let has_osds = steps::any_made(Path::new(steps::STATE))?;
    for fault in selection.faults {
        anyhow::ensure!(has_osds, fault);
        eprintln!("warning: {fault}");
    }
    Ok(plan::plan(config, membership(config)?, selection.chosen))
}

/// How the node comes to its cluster: as it has been recorded, otherwise as node.yaml says.
fn membership(config: &NodeConfig) -> Result<Membership> {
    let joined = Joined::load(Path::new(steps::STATE)).context("could not read the record of joining")?;
    let Some(joined) = joined else {
        return Ok(config.join.as_ref().map_or(Membership::Founder, |_| Membership::Joiner(config.role)));
    };
    if config.role.is_some_and(|role| role != joined.role) {
        eprintln!("warning: this node has joined as {}, whatever node.yaml says now", joined.role.name());
    }
    Ok(Membership::Joined(joined.role))
}
