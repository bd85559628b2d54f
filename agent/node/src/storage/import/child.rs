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
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::ImportError;
use super::fetch::Source;
use super::protocol::{Report, Spec};
use super::stream::{Copied, Progress, copy};
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
    let spec: Spec = serde_json::from_str(&text).context("could not understand the task")?;
    drop(text);
    be_killed_first();
    let report = match import(&spec) {
        Ok((copied, read)) => {
            Report::Done { read, written: copied.written, virtual_size: copied.virtual_size, peak_kib: peak_kib() }
        }
        Err(error) => {
            Report::Failed { reason: error.reason().to_owned(), message: chain(&error), severity: error.severity() }
        }
    };
    say(&report);
    Ok(())
}

fn import(spec: &Spec) -> Result<(Copied, u64), ImportError> {
    let mut readable: Vec<&Path> = READABLE.iter().map(Path::new).collect();
    readable.extend([Path::new("/proc"), Path::new("/dev/urandom"), Path::new("/dev/random")]);
    give_up_rights(&readable, &[&spec.directory, Path::new("/dev/null")])?;
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
    let mut source = Source::new(spec, (runtime.handle().clone(), stop))?;
    let target = Target::open(spec)?;
    let progress = Arc::new(Progress::default());
    let copied = while_reporting(&progress, || copy(spec, &mut source, &target, &progress))?;
    target.complete()?;
    let read = source.received();
    runtime.shutdown_background();
    Ok((copied, read))
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
