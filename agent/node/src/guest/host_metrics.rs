//! Metrics of the node for guests that asked for them (`devices.downwardMetrics`): a task a guest, which listens at the
//! guest's serial port and answers its requests one after the other; what is said is `furrow_model::vhostmd`. Refuses to
//! ask libvirt for each of them: guests share what it said some seconds ago.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_model::domain::HOST_METRICS_SOCKET;
use furrow_model::reasons::chain;
use furrow_model::vhostmd::{self, HostReading, INVALID};
use futures::future::BoxFuture;
use kube::ResourceExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Context, Key, now_ms};
use crate::metrics::{AllStats, Statistics};

/// What libvirt said is repeated for so long; KubeVirt's own refresh.
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// A guest is answered once in this time, as by KubeVirt.
const PAUSE: Duration = Duration::from_secs(1);
/// Between attempts to reach the port: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const CHUNK: usize = 512;

/// Statistics of all guests as of some seconds ago.
pub(super) struct RecentStats {
    source: Arc<dyn Statistics>,
    last: Mutex<Option<(Instant, AllStats)>>,
}

impl RecentStats {
    pub(super) fn new(source: Arc<dyn Statistics>) -> Self {
        Self { source, last: Mutex::new(None) }
    }

    async fn of(&self, domain: &str) -> Option<HashMap<String, String>> {
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() > FRESH) {
            *last = match self.source.all().await {
                Ok(all) => Some((Instant::now(), all)),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "guests are told nothing of themselves");
                    None
                }
            };
        }
        last.as_ref().and_then(|(_, all)| all.get(domain).cloned())
    }
}

/// Starts answering a running guest, until the guard is dropped; `None` when it has no such port.
pub(super) fn start(context: &Arc<Context>, key: &Key, vmi: &VirtualMachineInstance) -> Option<DropGuard> {
    vmi.spec.domain.devices.downward_metrics.as_ref()?;
    let socket = context.facts.guests_dir.join(vmi.uid().unwrap_or_default()).join(HOST_METRICS_SOCKET);
    let stop = context.stop.child_token();
    tokio::spawn(run(Arc::clone(context), key.domain_name(), socket, stop.clone()));
    Some(stop.drop_guard())
}

async fn run(context: Arc<Context>, domain: String, socket: PathBuf, stop: CancellationToken) {
    let mut retry = FIRST_RETRY;
    let answering = async {
        loop {
            match UnixStream::connect(&socket).await {
                Ok(mut stream) => {
                    retry = FIRST_RETRY;
                    let answer = || -> BoxFuture<'_, String> { Box::pin(document(&context, &domain)) };
                    if let Err(error) = serve(&mut stream, answer).await {
                        tracing::debug!(domain, error = chain(&error), "the guest's port of metrics broke");
                    }
                }
                Err(error) => tracing::debug!(domain, error = chain(&error), "the guest has no port of metrics yet"),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    };
    // Safe to cancel: a guest whose port is closed in the middle of an answer is over, or is answered by the next agent.
    stop.run_until_cancelled(answering).await;
}

/// What a guest is told of the node and of itself.
pub(super) async fn document(context: &Context, domain: &str) -> String {
    let host = HostReading {
        node: context.facts.node.clone(),
        stat: read("/proc/stat").await,
        meminfo: read("/proc/meminfo").await,
        vmstat: read("/proc/vmstat").await,
        cpuinfo: read("/proc/cpuinfo").await,
        now_s: now_ms() / 1000,
    };
    vhostmd::document(&host, context.stats.of(domain).await.as_ref())
}

/// What cannot be read says nothing.
async fn read(path: &str) -> String {
    tokio::fs::read_to_string(path).await.unwrap_or_default()
}

/// Answers requests until the other side closes.
async fn serve<'a>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: impl Fn() -> BoxFuture<'a, String>,
) -> std::io::Result<()> {
    let (mut said, mut chunk) = (Vec::new(), [0; CHUNK]);
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        said.extend_from_slice(&chunk[..read]);
        while let Some(request) = vhostmd::take_request(&mut said) {
            let text = if request.is_ok() { answer().await } else { INVALID.to_owned() };
            stream.write_all(text.as_bytes()).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_answered_in_order_and_what_is_none_is_said_to_be() {
        let (mut guest, mut port) = tokio::io::duplex(64);
        let answer = || -> BoxFuture<'static, String> { Box::pin(async { "<metrics/>\n\n".to_owned() }) };
        let serving = tokio::spawn(async move { serve(&mut port, answer).await });
        guest.write_all(b"GET /metrics/XML\n\nwhat?\n\nGET /metrics/XML\n\n").await.expect("written");
        let expected = format!("<metrics/>\n\n{INVALID}<metrics/>\n\n");
        let mut told = vec![0; expected.len()];
        guest.read_exact(&mut told).await.expect("answered");
        assert_eq!(String::from_utf8_lossy(&told), expected);
        drop(guest);
        serving.await.expect("it ends").expect("without an error");
    }
}
