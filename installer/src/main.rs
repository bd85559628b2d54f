//! furrow-install: brings a machine to what its node.yaml says. `validate` and `plan` change nothing; `bootstrap` executes
//! the plan and can be killed at any point; `status` says how the node is.

mod arguments;
mod boot_entry;
mod bootstrap;
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
mod reset;
mod secrets;
mod settings;
mod status;
mod steps;
mod tokens;
mod tui;
mod update;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Parser;

use crate::arguments::{Arguments, Command, NetworkCommand, NodeCommand, TokenCommand};
use crate::bootstrap::{Bootstrap, execute, steps_for};
use crate::config::NodeConfig;
use crate::install::InstallPlan;
use crate::observe::Level;
use crate::steps::Node;

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
        Command::Reset { go_on: true, .. } => Box::pin(reset::go_on()).await?,
        Command::Reset { file, how, .. } => return Box::pin(reset::run(&Node::new(read(&file)?), &how)).await,
        Command::Seal { key } => {
            println!("{}", secrets::seal(key).await?);
            eprintln!("{0} of node.yaml for this machine: `{{sealed: BASE64}}`, with that line for BASE64", key.name());
        }
        Command::Membership { file } => {
            membership::look(&Node::new(read(&file)?)).await?;
        }
        Command::ApiReady => return Ok(steps::api_is_ready().await),
        Command::Token { command } => token(command).await?,
        Command::Install { file, dry_run } => {
            let text = match file {
                Some(file) => secrets::resolved(text_of(&file)?, file.parent()).await?,
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
        println!("check      {} {:15} {}", check.level.mark(), check.name, check.text);
    }
    let bad = facts.checks.iter().find(|check| check.level == Level::Fault);
    bad.map_or(Ok(()), |check| Err(anyhow!("this machine cannot become a node: {}: {}", check.name, check.text)))
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
