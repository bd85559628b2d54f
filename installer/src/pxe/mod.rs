//! Installing other machines over the network: `pxe serve` on a node, or on a laptop that runs from the medium, and the list
//! of the machines that it serves.
//!
//! ```text
//!  serve ─┬─ dnsmasq, a child: DHCP or proxy DHCP, TFTP (`dnsmasq`)
//!         └─ HTTP: iPXE, scripts, kernel, initrd, medium (`source`), node.yaml (`http`, `script`, `content`)
//!  hosts, approve, forget ── the list, files in a directory (`hosts`)
//! ```
//! Refuses to give a node.yaml to a machine that nobody has approved, and to answer on any but the chosen interface.
//! What it serves is neither secret from the LAN nor proof against it: boot firmware speaks plain HTTP and TFTP.

mod content;
mod dnsmasq;
mod hosts;
mod http;
mod lan;
mod probe;
mod script;
mod serve;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

pub(crate) use hosts::Subject;
pub(crate) use lan::Range;

use hosts::{Host, Hosts, State};

use crate::steps::now;

/// iPXE's programs: with drivers of its own, and with the firmware's driver of the card that it was loaded by.
const LOADERS: [&str; 2] = ["ipxe.efi", "snponly.efi"];

/// Tells people how it goes.
type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// `furrow-install pxe ...`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Offer this version to machines that boot over the network, until it is interrupted.
    Serve(#[command(flatten)] Serve),
    /// The machines that have asked, and those that are expected.
    Hosts(#[command(flatten)] Place),
    /// Let a machine install: the one that shows this fingerprint, or one that will come.
    Approve {
        /// The fingerprint on its screen; or mac=ADDRESS, uuid=UUID or serial=NUMBER of a machine that will come.
        subject: Subject,
        /// Its node.yaml, with a section `install`. Without one the installer asks at the machine's console.
        #[arg(long)]
        config: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Make a machine unknown: it must be approved again before it is installed again.
    Forget {
        /// Its name in `pxe hosts`.
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the list is.
#[derive(Args)]
pub(crate) struct Place {
    /// Directory of the list of machines.
    #[arg(long, default_value = "/var/lib/furrow/pxe")]
    state: PathBuf,
}

impl Place {
    fn hosts(&self) -> Result<Hosts> {
        Hosts::open(&self.state.join("hosts")).context("could not open the list of machines")
    }
}

/// How to serve.
#[derive(Args)]
pub(crate) struct Serve {
    /// The interface of the LAN with the machines. It has an address already.
    #[arg(long)]
    interface: String,
    /// Give addresses, FIRST-LAST. Without it another DHCP server gives them and this one only says what to boot.
    #[arg(long)]
    range: Option<Range>,
    /// The medium: an ISO file, or a stick's or drive's device; without it, what this system runs from.
    #[arg(long)]
    medium: Option<PathBuf>,
    /// iPXE's program: with drivers of its own, or, where a card needs it, with the firmware's.
    #[arg(long, default_value = LOADERS[0], value_parser = LOADERS)]
    loader: String,
    /// Port of the HTTP server.
    #[arg(long, default_value_t = 8067)]
    port: u16,
    /// More words for the kernel of the machines, such as `console=ttyS1,115200`.
    #[arg(long, default_value = "")]
    words: String,
    /// Print dnsmasq's configuration, the URLs and the machines, and stop.
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    place: Place,
}

/// Does what the command says.
///
/// # Errors
/// Why it cannot.
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(serve) => serve::run(&serve).await,
        Command::Hosts(place) => {
            print_hosts(&place.hosts()?.list().context("could not read the list of machines")?);
            Ok(())
        }
        Command::Approve { subject, config, place } => {
            let config = config.map(|file| checked(&file)).transpose()?;
            let how = if config.is_some() { "by its node.yaml" } else { "at its console" };
            let host = place.hosts()?.approve(&subject, config, now()).context("could not approve the machine")?;
            println!("{} is approved, to be installed {how}", host.name);
            Ok(())
        }
        Command::Forget { name, place } => {
            place.hosts()?.forget(&name).context("could not forget the machine")?;
            println!("{name} is forgotten");
            Ok(())
        }
    }
}

/// A node.yaml that can be installed by.
fn checked(file: &Path) -> Result<String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {shown}"))?;
    let config = crate::config::parse(&text).with_context(|| format!("{shown} is not valid"))?;
    anyhow::ensure!(config.install.is_some(), "{shown} has no section `install`, which names the machine's disk");
    for key in config.references() {
        if let Some(crate::config::Secret::File(path)) = config.secret(key) {
            anyhow::ensure!(path.starts_with('/'), "{shown}: {}.file: {path} does not come with it", key.name());
        }
    }
    Ok(text)
}

fn print_hosts(hosts: &[Host]) {
    if hosts.is_empty() {
        println!("no machine has asked, none is expected");
        return;
    }
    println!("{:20} {:9} {:17} {:20} {:36} {:>9}  NODE", "NAME", "STATE", "MAC", "SERIAL", "UUID", "SEEN");
    let time = now();
    for host in hosts {
        let state = match host.state {
            State::Pending => "pending",
            State::Approved => "approved",
            State::Given => "given",
        };
        let seen =
            if host.seen == 0 { "never".to_owned() } else { format!("{} s ago", time.saturating_sub(host.seen)) };
        let config = host.config.as_deref().and_then(|text| crate::config::parse(text).ok());
        let node = config.map_or_else(|| "-".to_owned(), |config| config.hostname);
        let hosts::Identity { mac, uuid, serial } = &host.identity;
        println!("{:20} {state:9} {mac:17} {serial:20} {uuid:36} {seen:>9}  {node}", host.name);
    }
}
