//! Starts a program that handles bytes of strangers: as an unprivileged user, in a directory of its own, with hard
//! limits and nothing inherited; and, from inside such a program, gives up what is left. Refuses to be a place for
//! secrets in arguments or the environment: they go through standard input.
//!
//! The starter sets (before `exec`): user and group, no supplementary groups, working directory, an environment of
//! its choice only, no new privileges, resource limits, death with the starting process, no open files but the three
//! standard ones. The program then calls [`give_up_rights`] (Landlock, seccomp) once it has loaded its libraries.
//!
//! There is no limit on address space: librbd maps far more than it touches. What bounds memory is the program's own
//! queues, and `RLIMIT_DATA` above them as the last resort.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::unistd::User;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

mod rights;

pub use rights::{Rights, RightsError, give_up_rights};

/// How many bytes of the end of standard error are kept.
const STDERR_TAIL: usize = 2048;

/// What is to be started and within which limits.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The whole of its environment.
    pub env: Vec<(&'static str, OsString)>,
    /// User it runs as.
    pub user: User,
    /// Its working directory, the only place it may write to.
    pub directory: PathBuf,
    /// Largest file it may write, in bytes.
    pub file_bytes: u64,
    /// Most private memory it may have, in bytes.
    pub data_bytes: u64,
    /// Most open files.
    pub open_files: u64,
}

/// Why a program was not started, or what went wrong while it was talked to.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// None of the users exists.
    #[error("could not find an unprivileged user: none of {} exists", .tried.join(", "))]
    NoUser {
        /// Names that were tried.
        tried: Vec<String>,
    },
    /// The operating system's user list cannot be read.
    #[error("could not look up user {user}")]
    User {
        /// The name.
        user: String,
        /// The reason.
        #[source]
        source: nix::Error,
    },
    /// No process could be made.
    #[error("could not start {} in a sandbox", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Its standard input or output failed.
    #[error("could not talk to the sandboxed {}", .program.display())]
    Talk {
        /// The program.
        program: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// The first of `names` that exists and is not root.
pub fn unprivileged_user(names: &[&str]) -> Result<User, SandboxError> {
    for name in names {
        let found = User::from_name(name).map_err(|source| SandboxError::User { user: (*name).to_owned(), source })?;
        if let Some(user) = found.filter(|user| !user.uid.is_root()) {
            return Ok(user);
        }
    }
    Err(SandboxError::NoUser { tried: names.iter().map(|name| (*name).to_owned()).collect() })
}

/// A sandboxed program that runs; killed when dropped.
#[derive(Debug)]
pub struct Sandboxed {
    program: PathBuf,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// How a sandboxed program ended.
#[derive(Debug)]
pub struct End {
    /// Its exit status.
    pub status: ExitStatus,
    /// The end of its standard error, lossily decoded.
    pub stderr_tail: String,
}

impl Sandbox {
    /// Starts the program and gives it `input` on its standard input. To be called from a thread that lives as long as
    /// the process does (a runtime's worker): the program dies with the thread that started it.
    pub async fn spawn(&self, input: &[u8]) -> Result<Sandboxed, SandboxError> {
        let mut child =
            self.command().spawn().map_err(|source| SandboxError::Start { program: self.program.clone(), source })?;
        let talk = |source| SandboxError::Talk { program: self.program.clone(), source };
        let mut stdin = child.stdin.take().ok_or_else(|| talk(io::Error::other("it has no standard input")))?;
        stdin.write_all(input).await.map_err(talk)?;
        drop(stdin);
        let stdout = child.stdout.take().ok_or_else(|| talk(io::Error::other("it has no standard output")))?;
        Ok(Sandboxed { program: self.program.clone(), child, lines: BufReader::new(stdout).lines() })
    }

    #[expect(clippy::disallowed_methods, reason = "Cmd is for programs that end soon and are trusted; this is not one")]
    fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory).uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let limits = [
            (libc::RLIMIT_FSIZE, self.file_bytes),
            (libc::RLIMIT_DATA, self.data_bytes),
            (libc::RLIMIT_NOFILE, self.open_files),
            (libc::RLIMIT_CORE, 0),
        ];
        // SAFETY: the closure only makes system calls; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || confine(&limits)) };
        command
    }
}

/// Runs between fork and exec, after the user was changed.
fn confine(limits: &[(libc::__rlimit_resource_t, u64)]) -> io::Result<()> {
    let check = |code: libc::c_int| if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    for (resource, limit) in limits {
        let limit = libc::rlimit { rlim_cur: *limit, rlim_max: *limit };
        // SAFETY: a valid resource and a valid pointer.
        check(unsafe { libc::setrlimit(*resource, &limit) })?;
    }
    // SAFETY: prctl and close_range with constants touch no memory of ours.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Set after the change of user, which clears it.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        check(libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32))
    }
}

impl Sandboxed {
    /// Process id, for logs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The next line of its standard output; `None` at the end. Safe to cancel.
    pub async fn line(&mut self) -> Result<Option<String>, SandboxError> {
        self.lines.next_line().await.map_err(|source| SandboxError::Talk { program: self.program.clone(), source })
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // Not reaped yet, so the number is still its own; it may have ended meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }

    /// Kills it, if it still runs, and waits until it is gone.
    pub async fn kill(mut self) {
        // The only failure is that it is gone already.
        let _ = self.child.kill().await;
    }

    /// Waits until it has ended by itself.
    pub async fn wait(mut self) -> Result<End, SandboxError> {
        let talk = |source| SandboxError::Talk { program: self.program.clone(), source };
        let mut tail = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let mut buffer = [0u8; 4096];
            loop {
                let read = stderr.read(&mut buffer).await.map_err(talk)?;
                if read == 0 {
                    break;
                }
                tail.extend_from_slice(&buffer[..read]);
                tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
            }
        }
        let status = self.child.wait().await.map_err(talk)?;
        Ok(End { status, stderr_tail: String::from_utf8_lossy(&tail).trim().to_owned() })
    }
}

/// Makes `directory` anew, empty, owned by `user` and closed to everybody else.
pub fn private_directory(directory: &Path, user: &User) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = directory.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(directory)?;
    std::os::unix::fs::chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
}
