//! One run of an import child: its directory, its task, what it says, and its end.
//!
//! Owns the directory for the child's life. Dropping a run kills the child, and with it every
//! request it has at Ceph; the image keeps its note.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_api::import::ImportJob;
use furrow_api::names::CEPH_USER_AGENT;
use furrow_host::sandbox::{Sandbox, Sandboxed, private_directory, unprivileged_user};

use furrow_model::import::Severity;
use furrow_model::proxy::{self, Proxies};
use furrow_model::reasons::chain;

use super::Place;
use super::protocol::{MAX_REPORT_BYTES, Origin, Report, Spec, Task};
use super::spool;
use super::status::Failure;
use super::take;

/// The user that imports run as, and what stands in where the image has none.
const USERS: [&str; 2] = ["furrow-import", "nobody"];
/// A child reports twice a second; one that says nothing for so long hangs. Longer than librados
/// may take to give up on an OSD, several times over: discarding a large image reports nothing.
const SILENCE: Duration = Duration::from_secs(600);
/// How long a cancelled child may take to close the image.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Private memory, the last resort above the queues' own bounds (128 MiB in all), in bytes. Most
/// of it is never touched: thread stacks and allocator arenas count here.
const DATA_BYTES: u64 = 1 << 30;
const OPEN_FILES: u64 = 1024;
/// A look at an image has nothing to write; some room, since the kernel ends a process that crosses the limit.
const LOOK_FILE_BYTES: u64 = 1 << 20;

type Refused = (Failure, Severity);

/// What a run does next.
pub(super) enum Outcome {
    Progress {
        done: u64,
        total: Option<u64>,
    },
    /// It reported its end.
    Ended(Report),
    /// It ended without a report.
    Broken(String),
}

/// The child's task; its secrets and the node's proxy are filled in by `start`.
pub(super) fn spec(place: &Place, task: &ImportJob, origin: Origin, golden: bool) -> Spec {
    Spec {
        conf: place.conf.clone(),
        ceph_user: CEPH_USER_AGENT.to_owned(),
        ceph_key: String::new(),
        pool: task.pool.clone(),
        image: task.image.clone(),
        capacity_bytes: u64::try_from(task.capacity_bytes).unwrap_or(0),
        golden,
        origin,
        directory: PathBuf::new(),
    }
}

/// A child that runs.
pub(super) struct Run {
    child: Option<Sandboxed>,
    directory: PathBuf,
}

impl Drop for Run {
    fn drop(&mut self) {
        // What is left there is a copy of ceph.conf; the next run clears it too.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Starts a child in the directory `name`: of a DataVolume its UID.
pub(super) async fn start(place: &Place, name: &str, mut task: Task) -> Result<Run, Refused> {
    let directory = place.directory.join(name);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        let message = format!("could not start the import: {}", chain(error));
        (Failure { reason: "ImportFailed".to_owned(), message }, Severity::Passing)
    };
    let user = unprivileged_user(&USERS).map_err(|e| failed(&e))?;
    private_directory(&directory, &user).map_err(|e| failed(&e))?;
    let mut run = Run { child: None, directory: directory.clone() };
    let proxies = proxies(Path::new(proxy::FILE)).map_err(|e| failed(&e))?;
    let file_bytes = match &mut task {
        Task::Import(spec) => {
            spec.ceph_key = key(&place.keyring).map_err(|e| failed(&e))?;
            spec.conf = copy_conf(&place.conf, &directory).map_err(|e| failed(&e))?;
            spec.origin.proxies = proxies;
            spec.directory.clone_from(&directory);
            spool::limit(spec.capacity_bytes)
        }
        // It gets no key.
        Task::Look(look) => {
            look.origin.proxies = proxies;
            look.directory.clone_from(&directory);
            LOOK_FILE_BYTES
        }
        Task::Take(take) => {
            take.origin.proxies = proxies;
            take.directory.clone_from(&directory);
            take::FILE_MAX_BYTES
        }
    };
    let sandbox = Sandbox {
        program: std::env::current_exe().map_err(|e| failed(&e))?,
        args: vec![OsString::from("import-child")],
        // Few arenas: with librados' threads, glibc's default costs tens of MiB.
        env: vec![("MALLOC_ARENA_MAX", OsString::from("2")), ("PATH", OsString::from("/usr/bin:/bin"))],
        user,
        directory,
        file_bytes,
        data_bytes: DATA_BYTES,
        open_files: OPEN_FILES,
    };
    let input = serde_json::to_vec(&task).map_err(|e| failed(&e))?;
    let child = sandbox.spawn(&input).await.map_err(|e| failed(&e))?;
    match &task {
        Task::Import(spec) => {
            tracing::info!(datavolume_uid = name, pid = child.pid(), image = %spec.image, "import started");
        }
        Task::Look(_) => tracing::debug!(name, pid = child.pid(), "look at an image started"),
        Task::Take(_) => tracing::info!(name, pid = child.pid(), "fetching files of an image"),
    }
    run.child = Some(child);
    Ok(run)
}

impl Run {
    /// Its directory, there as long as the run is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits for what the child says.
    pub(super) async fn next(&mut self) -> Outcome {
        let Some(child) = self.child.as_mut() else { return Outcome::Broken("the import has ended".to_owned()) };
        match tokio::time::timeout(SILENCE, child.line()).await {
            Ok(Ok(Some(line))) if line.len() <= MAX_REPORT_BYTES => match serde_json::from_str(&line) {
                Ok(Report::Progress { done, total }) => Outcome::Progress { done, total },
                Ok(report) => {
                    self.end().await;
                    Outcome::Ended(report)
                }
                Err(_) => self.broken("the import said something that is no report").await,
            },
            Ok(Ok(Some(_))) => self.broken("the import said something that is no report").await,
            Ok(Ok(None)) => self.ended_silently().await,
            Ok(Err(error)) => self.broken(&chain(&error)).await,
            Err(_) => self.broken("the import hung and was ended").await,
        }
    }

    /// The image must be closed before the DataVolume is said to be over.
    async fn end(&mut self) {
        let Some(child) = self.child.take() else { return };
        if tokio::time::timeout(Duration::from_secs(60), child.wait()).await.is_err() {
            tracing::warn!("an import that had ended did not go away in time");
        }
    }

    /// Asks the child to end, so that it closes the image; kills it when it does not.
    pub(super) async fn stop(mut self) {
        let Some(child) = self.child.take() else { return };
        child.terminate();
        // Dropping the wait kills the child.
        if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
            tracing::warn!("an import did not end in time and was killed");
        }
    }

    async fn broken(&mut self, why: &str) -> Outcome {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
        Outcome::Broken(why.to_owned())
    }

    async fn ended_silently(&mut self) -> Outcome {
        let Some(child) = self.child.take() else { return Outcome::Broken("the import has ended".to_owned()) };
        Outcome::Broken(match child.wait().await {
            Ok(end) => format!("the import ended without a report ({}): {}", end.status, end.stderr_tail),
            Err(error) => chain(&error),
        })
    }
}

/// A copy, since the child's user may not read the original's directory.
fn copy_conf(conf: &Path, directory: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = directory.join("ceph.conf");
    std::fs::write(&copy, std::fs::read(conf)?)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644))?;
    Ok(copy)
}

/// The proxy of node.yaml as it is now; none where the file is not there.
fn proxies(file: &Path) -> io::Result<Proxies> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Proxies::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Proxies::default()),
        Err(error) => Err(error),
    }
}

/// The key of a keyring: the value of its first `key =`.
fn key(keyring: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(keyring)?;
    let key =
        text.lines().filter_map(|line| line.trim().strip_prefix("key")).find_map(|rest| rest.trim().strip_prefix('='));
    key.map(|key| key.trim().to_owned()).ok_or_else(|| io::Error::other(format!("{} holds no key", keyring.display())))
}
