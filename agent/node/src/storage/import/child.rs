//! The import child: a process of its own, shut in before it sees a byte of the source.
//!
//! It reads its task from standard input, gives up its rights, copies, and reports on standard
//! output. It starts no program, opens no file but its own directory's, and ends with the agent.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use furrow_host::sandbox::give_up_rights;
use furrow_model::reasons::chain;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::ImportError;
use super::fetch::{Auth, Net, Source};
use super::layers;
use super::protocol::{Location, Look, Origin, Report, Spec, Take, Task};
use super::registry::{Image, Registry};
use super::stream::{Copied, Progress, copy};
use super::take;
use super::target::Target;

/// A task is a few KiB; certificates make it longer.
const MAX_SPEC_BYTES: u64 = 4 << 20;
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// What libraries and name resolution read.
const READABLE: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ssl",
    "/etc/ld.so.cache",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/run/systemd/resolve",
    "/sys/devices/system",
];

/// Runs as the import child. Failures of the import itself are reported, not returned.
pub(crate) fn import_child() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().take(MAX_SPEC_BYTES).read_to_string(&mut text).context("could not read the task")?;
    let task: Task = serde_json::from_str(&text).context("could not understand the task")?;
    drop(text);
    be_killed_first();
    let report = match &task {
        Task::Import(spec) => import(spec).map(|(copied, read)| Report::Done {
            read,
            written: copied.written,
            virtual_size: copied.virtual_size,
            peak_kib: peak_kib(),
        }),
        Task::Look(look) => self::look(look),
        Task::Take(take) => self::take(take),
    };
    say(&report.unwrap_or_else(|error| Report::Failed {
        reason: error.reason().to_owned(),
        message: chain(&error),
        severity: error.severity(),
    }));
    Ok(())
}

/// Gives up all rights but those to the network and the directory; what tasks run on.
fn shut_in(directory: &Path) -> Result<(Runtime, CancellationToken), ImportError> {
    let mut readable: Vec<&Path> = READABLE.iter().map(Path::new).collect();
    readable.extend([Path::new("/proc"), Path::new("/dev/urandom"), Path::new("/dev/random")]);
    give_up_rights(&readable, &[directory, Path::new("/dev/null")])?;
    // The only failure is that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .thread_stack_size(512 << 10)
        .enable_all()
        .build()
        .map_err(|e| ImportError::Setup(format!("no runtime: {e}")))?;
    let stop = CancellationToken::new();
    runtime.spawn(cancel_when_asked(stop.clone()));
    Ok((runtime, stop))
}

fn import(spec: &Spec) -> Result<(Copied, u64), ImportError> {
    let (runtime, stop) = shut_in(&spec.directory)?;
    let net = Net::new(&spec.origin, (runtime.handle().clone(), stop))?;
    let progress = Arc::new(Progress::default());
    let copied = match &spec.origin.location {
        Location::Http { url } => {
            let mut source = Source::new(net.clone(), url, Auth::basic(spec.origin.login.as_ref()))?;
            let target = Target::open(spec)?;
            let copied = while_reporting(&progress, || copy(spec, &mut source, &target, &progress))?;
            target.complete()?;
            copied
        }
        Location::Registry { path, .. } => {
            // Before the volume is touched: most of what can be wrong is wrong here.
            let (registry, image) = resolve(net.clone(), &spec.origin)?;
            let target = Target::open(spec)?;
            let disk = (&image, path.as_deref());
            let into = (&target, spec.directory.as_path());
            let copied = while_reporting(&progress, || layers::copy(&registry, disk, into, &progress))?;
            target.complete()?;
            copied
        }
    };
    let read = net.received();
    runtime.shutdown_background();
    Ok((copied, read))
}

fn look(look: &Look) -> Result<Report, ImportError> {
    let (runtime, stop) = shut_in(&look.directory)?;
    let net = Net::new(&look.origin, (runtime.handle().clone(), stop))?;
    let (registry, image) = resolve(net, &look.origin)?;
    let Location::Registry { path, .. } = &look.origin.location else {
        return Err(ImportError::Setup("only images of a registry are looked at".to_owned()));
    };
    let size = look.measure.then(|| layers::measure(&registry, &image, path.as_deref())).transpose()?;
    runtime.shutdown_background();
    Ok(Report::Seen { digest: image.digest.to_string(), disk_bytes: size })
}

fn take(take: &Take) -> Result<Report, ImportError> {
    let (runtime, stop) = shut_in(&take.directory)?;
    let net = Net::new(&take.origin, (runtime.handle().clone(), stop))?;
    let (registry, image) = resolve(net, &take.origin)?;
    let progress = Arc::new(Progress::default());
    while_reporting(&progress, || {
        let mut files = take.files.iter();
        files.try_for_each(|(path, name)| {
            take::write(&registry, (&image, path.as_str()), &take.directory.join(name), &progress)
        })
    })?;
    runtime.shutdown_background();
    Ok(Report::Taken {})
}

fn resolve(net: Net, origin: &Origin) -> Result<(Registry, Image), ImportError> {
    let Location::Registry { image, plain_http, .. } = &origin.location else {
        return Err(ImportError::Setup("the source is no image of a registry".to_owned()));
    };
    let mut registry = Registry::new(net, image, *plain_http, origin.login.clone())?;
    let image = registry.image()?;
    Ok((registry, image))
}

/// Ends the flow of bytes on SIGTERM: the copy then fails, and the image is closed as on any
/// error. Killed at once, it would stay open for the cluster for another half a minute.
async fn cancel_when_asked(stop: CancellationToken) {
    if let Ok(mut asked) = signal(SignalKind::terminate()) {
        asked.recv().await;
        stop.cancel();
    }
}

/// Reports progress until `work` is done.
fn while_reporting<T>(progress: &Progress, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (finished, wait) = sync_channel::<()>(1);
        scope.spawn(move || {
            while wait.recv_timeout(REPORT_EVERY) == Err(RecvTimeoutError::Timeout) {
                let total = Some(progress.total.load(Ordering::Relaxed)).filter(|total| *total > 0);
                say(&Report::Progress { done: progress.done.load(Ordering::Relaxed), total });
            }
        });
        let result = work();
        drop(finished);
        result
    })
}

fn say(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    // Nobody listens any more if this fails, and then the agent is gone and so are we.
    let _ = std::io::stdout().lock().write_all(&line);
}

/// An import can be repeated, a guest cannot: under memory pressure this process goes first.
fn be_killed_first() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

/// The most memory this process ever had, in KiB.
fn peak_kib() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| u64::try_from(usage.max_rss()).unwrap_or(0))
}
