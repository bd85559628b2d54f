//! The command line of furrow-install: its commands, options and help. Does nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::SecretKey;
use crate::{pxe, removal, reset, tokens, update};

/// The variable by which ceph-volume, and we, take loop devices.
const ALLOW_LOOPS: &str = "CEPH_VOLUME_ALLOW_LOOP_DEVICES";

/// Installs and bootstraps a Furrow node.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
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
    /// Make this machine blank again: its OSDs and its system are erased, and it restarts without them. Refused while other
    /// nodes count on it.
    Reset {
        /// The configuration.
        #[arg(long, default_value = "/etc/furrow/node.yaml")]
        file: PathBuf,
        #[command(flatten)]
        how: reset::Reset,
        /// Go on with one that has begun. Its unit does.
        #[arg(long, hide = true)]
        go_on: bool,
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
    /// Seal a secret of node.yaml for this machine's TPM 2.0, and print what stands there under `sealed`. It is read from
    /// standard input, and asked for on a terminal.
    Seal {
        /// The key that holds the secret. For the password's hash the password itself may be given.
        #[arg(value_enum)]
        key: SecretKey,
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
pub(crate) enum NodeCommand {
    /// Empty a node and take it out of the cluster; refused with the reasons where data or a quorum would be lost.
    Remove(removal::Removal),
    /// Make a worker a server, such as after a server was lost.
    Promote {
        /// The worker's name.
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
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
pub(crate) enum TokenCommand {
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
