//! The one way Furrow runs another program: a fixed absolute path and an argument vector, never a shell; a cleared
//! environment; an empty (or given) standard input; a time limit; a cap on what is kept of the output; and the tail of
//! standard error in the error. Refuses to be a place for secrets: arguments end up in errors and in `/proc`, so a
//! secret goes through standard input or a file.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How long a program may run unless [`Cmd::timeout`] says otherwise: long enough for any query, short enough to
/// notice one that hangs.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How many bytes of standard output are kept unless [`Cmd::output_limit`] says otherwise.
pub const DEFAULT_OUTPUT_LIMIT: usize = 4 * 1024 * 1024;

/// How many bytes of the end of standard error an error carries.
const STDERR_TAIL: usize = 2048;

/// A program about to be run. Built by chaining, consumed by [`Cmd::run`] or [`Cmd::run_unchecked`].
#[derive(Debug, Clone)]
pub struct Cmd {
    program: &'static str,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
    timeout: Duration,
    output_limit: usize,
}

/// What a program that ended by itself left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, whole.
    pub stdout: Vec<u8>,
    /// The end of standard error, at most 2048 bytes, lossily decoded.
    pub stderr_tail: String,
}

impl Output {
    /// Standard output as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// The program is missing, not executable, or no process could be made.
    #[error("could not start {program}")]
    Start {
        /// Absolute path of the program.
        program: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It was still running at its time limit and has been killed with everything it started.
    #[error("{program} {args} did not end within {timeout_ms} ms")]
    Timeout {
        /// Absolute path of the program.
        program: &'static str,
        /// Its arguments, for the reader.
        args: String,
        /// The limit in milliseconds.
        timeout_ms: u128,
    },
    /// It wrote more than its output cap and has been killed.
    #[error("{program} {args} wrote more than {limit} bytes")]
    TooMuchOutput {
        /// Absolute path of the program.
        program: &'static str,
        /// Its arguments, for the reader.
        args: String,
        /// The cap in bytes.
        limit: usize,
    },
    /// It ended with a code other than 0, or by a signal.
    #[error("{program} {args} ended with {}: {stderr_tail}", describe_code(.code))]
    Failed {
        /// Absolute path of the program.
        program: &'static str,
        /// Its arguments, for the reader.
        args: String,
        /// The exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// The end of what it said on standard error.
        stderr_tail: String,
    },
    /// A pipe to it broke in an unexpected way.
    #[error("could not talk to {program}")]
    Pipe {
        /// Absolute path of the program.
        program: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
}

fn describe_code(code: &Option<i32>) -> String {
    match code {
        Some(code) => format!("code {code}"),
        None => "a signal".to_owned(),
    }
}

impl Cmd {
    /// A program by its absolute path. A relative one would depend on who calls.
    pub fn new(program: &'static str) -> Self {
        debug_assert!(program.starts_with('/'), "programs are named by absolute paths");
        Self {
            program,
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            output_limit: DEFAULT_OUTPUT_LIMIT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments in order.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the otherwise minimal environment (`PATH`, `LC_ALL=C.UTF-8`).
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    /// Gives bytes for standard input; without it the program reads end of file at once.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Changes the time limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Changes the cap on standard output, in bytes.
    #[must_use]
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Runs it to its end; any code but 0 is an error.
    ///
    /// # Errors
    /// See [`CmdError`].
    pub async fn run(self) -> Result<Output, CmdError> {
        let program = self.program;
        let args = self.display_args();
        let output = self.run_unchecked().await?;
        if output.code == Some(0) {
            return Ok(output);
        }
        Err(CmdError::Failed { program, args, code: output.code, stderr_tail: output.stderr_tail })
    }

    /// Runs it to its end and leaves the judgement of its exit code to the caller.
    ///
    /// # Errors
    /// Every [`CmdError`] but `Failed`.
    pub async fn run_unchecked(self) -> Result<Output, CmdError> {
        let (program, args, limit) = (self.program, self.display_args(), self.output_limit);
        let timeout = self.timeout;
        let mut child = self.spawn()?;
        let group = child.id();
        // Dropping the future at the deadline is safe: the child is killed with its process group right below.
        let ended = tokio::time::timeout(timeout, converse(&mut child, &self.stdin, limit)).await;
        let error = match ended {
            Ok(Ok(output)) => return Ok(output),
            Ok(Err(ConverseError::TooMuch)) => CmdError::TooMuchOutput { program, args, limit },
            Ok(Err(ConverseError::Io(source))) => CmdError::Pipe { program, source },
            Err(_) => CmdError::Timeout { program, args, timeout_ms: timeout.as_millis() },
        };
        kill_group(group);
        // The group is dead or dying; waiting reaps it. A failure here leaves nothing to do.
        let _ = child.wait().await;
        Err(error)
    }

    pub(crate) fn program(&self) -> &'static str {
        self.program
    }

    pub(crate) fn spawn(&self) -> Result<tokio::process::Child, CmdError> {
        #[expect(clippy::disallowed_methods, reason = "this is the place the ban points to")]
        let mut command = tokio::process::Command::new(self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().map_err(|source| CmdError::Start { program: self.program, source })
    }

    pub(crate) fn display_args(&self) -> String {
        let words: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        words.join(" ")
    }
}

enum ConverseError {
    TooMuch,
    Io(std::io::Error),
}

impl From<std::io::Error> for ConverseError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Feeds standard input and drains both outputs at the same time, so that no full pipe can stop the program.
async fn converse(child: &mut tokio::process::Child, stdin: &[u8], limit: usize) -> Result<Output, ConverseError> {
    let to_child = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let feed = async move {
        if let Some(mut pipe) = to_child {
            // A program may end, or close its input, before reading everything: its exit code tells what that meant.
            let _ = pipe.write_all(stdin).await;
        }
        Ok::<(), ConverseError>(())
    };
    let (_, stdout, stderr_tail) = tokio::try_join!(feed, read_capped(stdout, limit), read_tail(stderr))?;
    let status = child.wait().await?;
    Ok(Output { code: status.code(), stdout, stderr_tail: String::from_utf8_lossy(&stderr_tail).trim().to_owned() })
}

async fn read_capped(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Result<Vec<u8>, ConverseError> {
    let mut kept = Vec::new();
    let Some(pipe) = pipe else { return Ok(kept) };
    pipe.take(limit as u64 + 1).read_to_end(&mut kept).await?;
    if kept.len() > limit { Err(ConverseError::TooMuch) } else { Ok(kept) }
}

async fn read_tail(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, ConverseError> {
    let mut tail = Vec::new();
    let Some(mut pipe) = pipe else { return Ok(tail) };
    let mut chunk = [0_u8; 1024];
    loop {
        let read = pipe.read(&mut chunk).await?;
        if read == 0 {
            return Ok(tail);
        }
        tail.extend_from_slice(&chunk[..read]);
        if tail.len() > STDERR_TAIL {
            tail.drain(..tail.len() - STDERR_TAIL);
        }
    }
}

fn kill_group(leader: Option<u32>) {
    let Some(leader) = leader.and_then(|pid| i32::try_from(pid).ok()) else { return };
    // It may have ended in the meantime; then there is no such group and nothing to kill.
    let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_program_wrote() {
        let output = Cmd::new("/bin/cat").stdin("seed").run().await.expect("cat runs");
        assert_eq!(output.text(), "seed");
    }

    #[tokio::test]
    async fn a_failure_carries_code_and_the_end_of_stderr() {
        let error = Cmd::new("/bin/sh").args(["-c", "echo broken >&2; exit 3"]).run().await.expect_err("it fails");
        assert!(matches!(&error, CmdError::Failed { code: Some(3), stderr_tail, .. } if stderr_tail == "broken"));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let started = std::time::Instant::now();
        let command = Cmd::new("/bin/sh").args(["-c", "sleep 30 & sleep 30"]).timeout(Duration::from_millis(200));
        assert!(matches!(command.run().await, Err(CmdError::Timeout { .. })));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn output_over_the_cap_is_refused() {
        let command = Cmd::new("/bin/sh").args(["-c", "head -c 4096 /dev/zero"]).output_limit(1024);
        assert!(matches!(command.run().await, Err(CmdError::TooMuchOutput { limit: 1024, .. })));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Cmd::new("/nonexistent/program").run().await.expect_err("it is not there");
        assert_eq!(error.to_string(), "could not start /nonexistent/program");
    }
}
