//! The agent's command line. A node needs none of these options: their defaults are the paths of the image and of the
//! bootstrap. Refuses node.yaml: that is `furrow-install`'s.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Runs the guests, volumes and networks of this node.
#[derive(Debug, Parser)]
#[command(name = "furrow-agent", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look after this node until told to stop.
    Run(Options),
    /// Print what would be done for one guest, and do nothing.
    Plan {
        /// The guest as namespace/name.
        #[arg(long)]
        vm: String,
        #[command(flatten)]
        options: Options,
    },
    /// Move the bytes of one import; started by `run`, in a sandbox.
    #[command(hide = true)]
    ImportChild,
}

/// Where things are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Kubernetes name of this node; the host name unless given.
    #[arg(long, env = "FURROW_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// The agent's own identity.
    #[arg(long, default_value = "/var/lib/furrow/pki/agent.kubeconfig")]
    pub(crate) kubeconfig: PathBuf,
    /// Connection URI of libvirt.
    #[arg(long, default_value = "qemu:///system")]
    pub(crate) libvirt: String,
    /// Directory of guests' seeds, sockets and logs.
    #[arg(long, default_value = "/var/lib/furrow/guests")]
    pub(crate) guests_dir: PathBuf,
    /// Directory of what guests mount by virtiofs. In memory: it may be Secrets.
    #[arg(long, default_value = "/run/furrow/shares")]
    pub(crate) shares_dir: PathBuf,
    /// Directory of the states of guests' TPMs. It must not outlive the node's run: see `storage::tpm`.
    #[arg(long, default_value = "/run/furrow/tpm")]
    pub(crate) tpm_dir: PathBuf,
    /// QEMU.
    #[arg(long, default_value = "/usr/bin/qemu-system-x86_64")]
    pub(crate) emulator: String,
    /// OVMF's images.
    #[arg(long, default_value = "/usr/share/OVMF")]
    pub(crate) firmware_dir: String,
    /// Directory of ceph.conf and the keyrings.
    #[arg(long, default_value = "/etc/ceph")]
    pub(crate) ceph_dir: PathBuf,
    /// What is logged: tracing's directives.
    #[arg(long, env = "FURROW_LOG", default_value = "info")]
    pub(crate) log: String,
}
