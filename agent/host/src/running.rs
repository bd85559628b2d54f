//! A program that runs beside ours for as long as it is wanted, such as a server that we configure: started as [`Cmd`]
//! starts one, its output handed over line by line, ended when dropped. Refuses to restart it: whoever wants it decides.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

use crate::cmd::{Cmd, CmdError};

/// What is kept of the last lines, for the reason when it ends.
const KEPT_LINES: usize = 8;
/// How long it may take to end when it is asked to.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    program: &'static str,
    args: String,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    kept: VecDeque<String>,
}

impl Cmd {
    /// Starts the program and leaves it running; its time limit does not count.
    ///
    /// # Errors
    /// [`CmdError::Start`] when it cannot be started.
    pub fn start(self) -> Result<Running, CmdError> {
        let (program, args) = (self.program(), self.display_args());
        let mut child = self.spawn()?;
        // It reads end of file, and what it writes there is of no interest: servers log to standard error.
        drop(child.stdin.take());
        drop(child.stdout.take());
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| CmdError::Start { program, source: std::io::Error::other("it has no standard error") })?;
        Ok(Running { program, args, child, lines: BufReader::new(stderr).lines(), kept: VecDeque::new() })
    }
}

impl Running {
    /// The next line of its standard error; `None` when it has closed it. Safe to cancel.
    pub async fn line(&mut self) -> Option<String> {
        let line = self.lines.next_line().await.ok().flatten()?;
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line.clone());
        Some(line)
    }

    /// Waits until it has ended, and says how, with its last lines.
    pub async fn ended(mut self) -> CmdError {
        let code = self.child.wait().await.ok().and_then(|status| status.code());
        let stderr_tail = Vec::from(self.kept).join("; ");
        CmdError::Failed { program: self.program, args: self.args, code, stderr_tail }
    }

    /// Asks it to end (SIGTERM), and kills it when it does not.
    pub async fn end(mut self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_as_they_are_written_and_the_end_is_told() {
        let mut running =
            Cmd::new("/bin/sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]).start().expect("starts");
        assert_eq!(running.line().await.as_deref(), Some("one"));
        assert_eq!(running.line().await.as_deref(), Some("two"));
        assert_eq!(running.line().await, None);
        assert_eq!(
            running.ended().await.to_string(),
            "/bin/sh -c echo one >&2; echo two >&2; exit 3 ended with code 3: one; two"
        );
    }

    #[tokio::test]
    async fn it_ends_when_asked() {
        let running = Cmd::new("/bin/sleep").arg("60").start().expect("starts");
        let begun = std::time::Instant::now();
        running.end().await;
        assert!(begun.elapsed() < END_TIMEOUT);
    }
}
