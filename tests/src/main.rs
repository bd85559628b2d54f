//! The testbed: nodes as boxes on a test LAN, on the build machine, and the scenarios that run in them.
//!
//! `make run` and `make test` are thin calls of this program. It drives the product from outside only: kubectl,
//! TCP from hosts of the LAN, a shell on the node.

#![allow(clippy::disallowed_methods, reason = "the testbed runs on the build host, where host::Cmd does not reach")]

mod bench;
mod cluster;
mod figures;
mod forward;
mod host;
mod host_sniff;
mod http;
mod httpd;
mod inject;
mod lan;
mod layout;
mod machine;
mod netns;
mod node_box;
mod phase_watch;
mod provisioning;
mod proxy;
mod random;
mod scenario;
mod server;
mod terminal;
mod testbed;
mod watch;
mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::testbed::Testbed;

/// Runs Furrow nodes as boxes on this machine, and the scenarios in them.
#[derive(Parser)]
struct Arguments {
    /// The testbed's name: the directory under build/ that holds its state.
    #[arg(long, default_value = "run")]
    name: String,
    /// The checkout whose image, manifests and build/ are meant. The binary's cache is shared by all checkouts.
    #[arg(long, default_value = ".")]
    checkout: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what is missing, start the nodes, return when they are ready.
    Up {
        /// How many nodes: the first makes the cluster, the others join it. One when the testbed is new.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(layout::MAX_NODES)))]
        nodes: Option<u8>,
        /// Take this root directory instead of building the image.
        #[arg(long)]
        image: Option<PathBuf>,
        /// Return as soon as the boxes are on; those that must join first are left to another `up`.
        #[arg(long)]
        no_wait: bool,
    },
    /// Switch the nodes off and remove their state.
    Down {
        /// Keep the nodes' state: the next `up` boots them again.
        #[arg(long)]
        keep: bool,
    },
    /// The nodes and their state.
    Status,
    /// Run a command in a node.
    Exec {
        #[arg(long, default_value = "n1")]
        node: String,
        #[arg(trailing_var_arg = true, required = true)]
        argv: Vec<String>,
    },
    /// Run scenarios, all when none is named; an unknown name lists them. Prints a line for each check and closes with the
    /// counts.
    Scenario {
        names: Vec<String>,
        /// Take this root directory instead of building the image.
        #[arg(long)]
        image: Option<PathBuf>,
        /// Leave the boxes running when a check failed.
        #[arg(long)]
        keep: bool,
    },
    /// Measure the budgets in the running appliance and print them.
    Bench {
        /// Guests to start.
        #[arg(long, default_value_t = 20)]
        guests: u32,
        /// Where the JSON goes.
        #[arg(long, default_value = "build/bench.json")]
        json: PathBuf,
    },
    /// Forward TCP from this machine into a namespace (started by `up`).
    #[command(hide = true)]
    Forward { listen: SocketAddr, netns: String, target: SocketAddr },
    /// Serve files inside a namespace (started by `up`).
    #[command(hide = true)]
    Httpd { listen: SocketAddr, netns: String, directory: PathBuf },
}

fn main() -> ExitCode {
    match act(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> Result<()> {
    let source = arguments.checkout;
    match arguments.command {
        Command::Forward { listen, netns, target } => forward::serve(listen, &netns, target),
        Command::Httpd { listen, netns, directory } => httpd::serve(listen, &netns, &directory),
        Command::Scenario { names, image, keep } => scenario::run(&source, &names, image.as_deref(), keep),
        Command::Up { nodes, image, no_wait } => {
            let bed = Testbed::new(&source, &arguments.name, image.as_deref(), nodes)?;
            if no_wait { bed.power_on() } else { bed.up()?.announce() }
        }
        Command::Down { keep } => Testbed::existing(&source, &arguments.name)?.down(keep),
        Command::Status => Testbed::existing(&source, &arguments.name)?.announce(),
        Command::Exec { node, argv } => {
            let words: Vec<&str> = argv.iter().map(String::as_str).collect();
            let bed = Testbed::existing(&source, &arguments.name)?;
            let out = bed.node_named(&node)?.exec(&words, Duration::from_secs(600))?;
            print!("{}", out.stdout);
            eprint!("{}", out.stderr);
            if out.code != 0 {
                bail!("exit code {}", out.code);
            }
            Ok(())
        }
        Command::Bench { guests, json } => bench::run(&Testbed::existing(&source, &arguments.name)?, guests, &json),
    }
}
