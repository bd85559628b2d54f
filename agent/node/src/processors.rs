//! The node's processors as guests see them (`guest::Processors`): the kubelet's record, sysfs, the limit of
//! `machine.slice` through systemd, and the node's labels. Refuses decisions.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_api::names;
use furrow_host::cmd::Cmd;
use furrow_model::cpus::{CpuSet, HostTopology, KubeletState, Share};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::guest::Processors;
use crate::guest::ports::HostError;

/// The kubelet's record of CPUs: below its `--root-dir`, which k3s leaves as it is.
const RECORD: &str = "/var/lib/kubelet/cpu_manager_state";
/// Libvirt's domains are in it, but for those with processors of their own.
const SLICE: &str = "machine.slice";
/// What is in force of its limit; without that file no domain has run yet, or the node has no cgroup v2.
const LIMIT: &str = "/sys/fs/cgroup/machine.slice/cpuset.cpus";
/// Microseconds of each period that processes in real time may take; -1: all.
const REALTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// systemd answers in milliseconds; while it reloads, in seconds.
const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(15);

/// Something of the node that cannot be read or written.
#[derive(Debug, thiserror::Error)]
enum ProcessorsError {
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not understand {}", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: furrow_model::cpus::CpuListError,
    },
}

/// This node's.
pub(crate) struct NodeProcessors {
    client: Client,
    node: String,
    /// Root of the file system; another one in tests.
    root: PathBuf,
    /// The limit that was set last.
    set: tokio::sync::Mutex<Option<Share>>,
}

impl NodeProcessors {
    /// Those of the node of this name.
    pub(crate) fn new(client: Client, node: String) -> Self {
        Self { client, node, root: PathBuf::from("/"), set: tokio::sync::Mutex::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// A file's text; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, ProcessorsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ProcessorsError::Read { path: path.to_owned(), source }),
    }
}

fn list(path: &Path) -> Result<CpuSet, ProcessorsError> {
    let text = read(path)?.unwrap_or_default();
    text.parse().map_err(|source| ProcessorsError::List { path: path.to_owned(), source })
}

/// The numbers of a directory's entries that are called `prefix` and a number.
fn numbered(dir: &Path, prefix: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
    entries.filter_map(name).collect()
}

fn topology(system: &Path) -> Result<HostTopology, ProcessorsError> {
    let online = list(&system.join("cpu/online"))?;
    let nodes = system.join("node");
    let node = |id: u32| list(&nodes.join(format!("node{id}/cpulist"))).map(|cpus| (id, cpus));
    let nodes = numbered(&nodes, "node").into_iter().map(node).collect::<Result<Vec<_>, _>>()?;
    let core = |cpu: u32| list(&system.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list")));
    let siblings = online.iter().map(core).collect::<Result<Vec<_>, _>>()?;
    Ok(HostTopology::new(&online, &nodes, &siblings))
}

impl Processors for NodeProcessors {
    fn record(&self) -> Result<Option<KubeletState>, HostError> {
        let text = read(&self.path(RECORD)).map_err(|error| HostError::passing("CpusUnknown", &error))?;
        let record = text.map(|text| KubeletState::read(&text)).transpose();
        record.map_err(|error| HostError::passing("CpusUnknown", &error))
    }

    fn topology(&self) -> Result<HostTopology, HostError> {
        topology(&self.path("/sys/devices/system")).map_err(|error| HostError::passing("CpusUnknown", &error))
    }

    fn realtime(&self) -> bool {
        read(&self.path(REALTIME)).is_ok_and(|text| text.is_some_and(|text| text.trim() == "-1"))
    }

    fn confine<'a>(&'a self, share: &'a Share) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let mut set = self.set.lock().await;
            let passing = |error: &(dyn std::error::Error + 'static)| HostError::passing("CpusNotConfined", error);
            let limit = read(&self.path(LIMIT)).map_err(|error| passing(&error))?;
            if holds(share, limit.as_deref(), set.as_ref()) {
                return Ok(());
            }
            // For this boot: the kubelet's record is made anew by the next.
            let command = Cmd::new(SYSTEMCTL).args(["set-property", "--runtime", SLICE]);
            let command = command.arg(format!("AllowedCPUs={share}")).timeout(SYSTEMCTL_LIMIT);
            command.run().await.map_err(|error| passing(&error))?;
            tracing::info!(cpus = %share, "CPUs of guests without dedicated ones changed");
            *set = Some(share.clone());
            Ok(())
        })
    }

    fn label(&self, dedicated: bool, realtime: bool) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move {
            let realtime = realtime.then_some("true");
            let labels = json!({names::LABEL_CPU_MANAGER: dedicated.to_string(), names::LABEL_REALTIME: realtime});
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            let params =
                PatchParams { field_manager: Some(names::FIELD_MANAGER_AGENT.into()), ..PatchParams::default() };
            let patched = Api::<Node>::all(self.client.clone()).patch_metadata(&self.node, &params, &patch).await;
            patched.map(drop).map_err(|error| HostError::passing("NodeNotLabelled", &error))
        })
    }
}

/// Whether a limit is in force: by the kernel's word (`limit`), or where the slice is not there yet, by what was `set`.
fn holds(share: &Share, limit: Option<&str>, set: Option<&Share>) -> bool {
    let found = limit.map(str::parse::<CpuSet>);
    match (share, found) {
        (Share::All, Some(Ok(cpus))) => cpus.is_empty(),
        (Share::Only(wanted), Some(Ok(cpus))) => cpus == *wanted,
        (_, Some(Err(_))) => false,
        (share, None) => set.map_or(*share == Share::All, |set| set == share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(list: &str) -> Share {
        Share::Only(list.parse().expect("a list of CPUs"))
    }

    #[test]
    fn a_limit_is_set_where_it_does_not_hold() {
        let check = |share: Share, limit: Option<&str>, set: Option<Share>, expected: bool| {
            assert_eq!(holds(&share, limit, set.as_ref()), expected, "{share:?} {limit:?} {set:?}");
        };
        check(Share::All, None, None, true);
        check(Share::All, Some("\n"), None, true);
        check(Share::All, Some("0-1\n"), None, false);
        check(only("0-1"), Some("0-1\n"), None, true);
        check(only("0-1"), Some("\n"), Some(only("0-1")), false);
        check(only("0-1"), None, None, false);
        check(only("0-1"), None, Some(only("0-1")), true);
        check(Share::All, None, Some(only("0-1")), false);
    }

    #[test]
    fn processors_are_found_in_sysfs() {
        let root = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        put("cpu/online", "0-3\n");
        put("node/node0/cpulist", "0,2\n");
        put("node/node1/cpulist", "1,3\n");
        put("node/online", "0-1\n");
        put("cpu/cpu0/topology/thread_siblings_list", "0,2\n");
        let cpus = |list: &str| list.parse::<CpuSet>().expect("a list of CPUs");
        let nodes = [(0, cpus("0,2")), (1, cpus("1,3"))];
        let found = topology(root.path()).expect("a topology");
        assert_eq!(found, HostTopology::new(&cpus("0-3"), &nodes, &[cpus("0,2")]));
        assert_eq!((found.cell_of(2), found.cell_of(3)), (Some(0), Some(1)));
    }
}
