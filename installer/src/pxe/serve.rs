//! `pxe serve`: everything is looked at first, then the HTTP server and dnsmasq run until one of them fails or somebody
//! interrupts. Leaves no process behind; one that was killed leaves its dnsmasq, which the next run ends.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use furrow_host::cmd::Cmd;
use furrow_host::running::Running;
use nix::fcntl::Flock;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::dnsmasq::{self, Mode, Settings};
use super::http::{self, Server};
use super::lan::{self, Lan};
use super::source::{self, Source, SourceError};
use super::{LOADERS, Say, Serve, probe};
use crate::files::{replace, try_lock};

/// dnsmasq's configuration, leases and files for TFTP.
const RUN: &str = "/run/furrow/pxe";
/// Where Debian's package has iPXE.
const IPXE: &str = "/usr/lib/ipxe";
/// A program that is told to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Firmware and iPXE ask for an address, and for a file, more than once.
const SAME_EVENT: Duration = Duration::from_secs(10);
/// Memory that a machine needs beside the medium: the initrd, and the running installer. While the initrd is unpacked, the
/// medium is there twice.
const BESIDE_MEDIUM_MIB: u64 = 768;

/// Serves until it is interrupted.
///
/// # Errors
/// Why nothing is served, or is not any longer.
pub(super) async fn run(arguments: &Serve) -> Result<()> {
    let lan = Lan::of(&arguments.interface)?;
    let mode = match arguments.range {
        Some(range) => {
            lan.check(range)?;
            Mode::Full(range)
        }
        None => Mode::Proxy,
    };
    let medium = match &arguments.medium {
        Some(path) => path.clone(),
        None => PathBuf::from(crate::install::medium_disk().map_err(SourceError::NoMedium)?),
    };
    let source = source::open(&medium).await?;
    let tftp = Path::new(RUN).join("tftp");
    let settings =
        Settings { lan: &lan, mode, loader: &arguments.loader, port: arguments.port, tftp: &tftp, run: Path::new(RUN) };
    let config = dnsmasq::config(&settings);
    print!("{}", summary(&settings, &source));
    if arguments.print {
        println!("\n{config}");
        super::print_hosts(&arguments.place.hosts()?.list()?);
        return Ok(());
    }
    let _only = only_one()?;
    end_leftover().await?;
    lan::check_ports(mode == Mode::Proxy)?;
    let address = SocketAddr::from((lan.address, arguments.port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
    if mode != Mode::Proxy {
        warn_of_others(&lan).await;
    }
    let say = sayer();
    let server = Arc::new(Server {
        hosts: arguments.place.hosts()?,
        source,
        base: format!("http://{address}"),
        words: arguments.words.clone(),
        loaders: IPXE.into(),
        say: say.clone(),
    });
    let child = start_dnsmasq(&tftp, &config)?;
    say("serving; interrupt ends it");
    until_ended(listener, server, child, &say).await
}

/// What is served, for people.
fn summary(settings: &Settings<'_>, source: &Source) -> String {
    let Lan { interface, address, prefix } = settings.lan;
    let how = match settings.mode {
        Mode::Full(range) => format!("gives the addresses {range}"),
        Mode::Proxy => "another DHCP server gives addresses".to_owned(),
    };
    let mib = source.bytes >> 20;
    format!(
        "LAN        {interface}, {address}/{prefix}; {how}\n\
         medium     {}, version {}, {mib} MiB\n\
         memory     a machine needs {} MiB\n\
         UEFI PXE   tftp://{address}/{loader}\n\
         UEFI HTTP  http://{address}:{port}/{loader}\n\
         iPXE       {}\n",
        source.path.display(),
        source.image.version,
        2 * mib + BESIDE_MEDIUM_MIB,
        dnsmasq::script_url(*address, settings.port),
        loader = settings.loader,
        port = settings.port,
    )
}

fn sayer() -> Say {
    let begun = Instant::now();
    Arc::new(move |line: &str| println!("pxe [{:6.1} s] {line}", begun.elapsed().as_secs_f64()))
}

async fn warn_of_others(lan: &Lan) {
    let interface = &lan.interface;
    match probe::server(interface).await {
        Ok(Some(server)) => eprintln!(
            "warning: {server} gives addresses on {interface} too: machines take whichever answers first; without --range \
             this server leaves addresses to it"
        ),
        Ok(None) => {}
        Err(error) => eprintln!("warning: could not look for other DHCP servers on {interface}: {error}"),
    }
}

fn start_dnsmasq(tftp: &Path, config: &str) -> Result<Running> {
    let put = |path: &Path, content: &[u8]| {
        replace(path, content, 0o644).with_context(|| format!("could not write {}", path.display()))
    };
    for loader in LOADERS {
        let from = Path::new(IPXE).join(loader);
        let content =
            std::fs::read(&from).with_context(|| format!("could not read {} (package ipxe)", from.display()))?;
        put(&tftp.join(loader), &content)?;
    }
    let file = Path::new(RUN).join("dnsmasq.conf");
    put(&file, config.as_bytes())?;
    let child = Cmd::new("/usr/sbin/dnsmasq").args(["--keep-in-foreground", "--log-facility=-"]);
    Ok(child.arg(format!("--conf-file={}", file.display())).start()?)
}

async fn until_ended(listener: TcpListener, server: Arc<Server>, mut child: Running, say: &Say) -> Result<()> {
    let app = http::routes(server).into_make_service_with_connect_info::<SocketAddr>();
    let mut http = std::pin::pin!(std::future::IntoFuture::into_future(axum::serve(listener, app)));
    let mut interrupted = signal(SignalKind::interrupt()).context("signals")?;
    let mut terminated = signal(SignalKind::terminate()).context("signals")?;
    let mut last = (String::new(), Instant::now());
    let outcome = loop {
        tokio::select! {
            // Cancelled at the next line of dnsmasq and continued: it is the same future, pinned outside.
            ended = &mut http => break Err(anyhow!("the HTTP server ended: {ended:?}")),
            // A line that is half read stays in the reader's buffer.
            line = child.line() => match line {
                Some(line) => {
                    let event = dnsmasq::event(&line).filter(|e| *e != last.0 || last.1.elapsed() > SAME_EVENT);
                    if let Some(event) = event {
                        say(&event);
                        last = (event, Instant::now());
                    }
                }
                None => return Err(child.ended().await).context("dnsmasq ended"),
            },
            // Receiving a signal can be cancelled: it is kept for the next call.
            _ = interrupted.recv() => break Ok(()),
            _ = terminated.recv() => break Ok(()),
        }
    };
    child.end().await;
    say("ended");
    outcome
}

/// The lock that keeps two servers of one machine apart; it ends with the process.
fn only_one() -> Result<Flock<File>> {
    let path = Path::new(RUN).join("lock");
    let lock = try_lock(&path).with_context(|| format!("could not lock {}", path.display()))?;
    lock.context("a LAN is served already by another `pxe serve` of this machine")
}

/// Ends the dnsmasq of a run that was killed, which still has the ports.
async fn end_leftover() -> Result<()> {
    let path = dnsmasq::pid_file(Path::new(RUN));
    let Some(pid) = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return Ok(());
    };
    let is_ours =
        || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(RUN));
    if !is_ours() {
        return Ok(());
    }
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    let begun = Instant::now();
    while is_ours() {
        if begun.elapsed() > END_TIMEOUT {
            bail!("the dnsmasq of an earlier `pxe serve`, process {pid}, does not end");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
