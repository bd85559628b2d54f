//! Commands on the build host: run one with a deadline, wait for a condition with a deadline, start a process that outlives the testbed.
//!
//! Owns nothing but processes that it started itself; never kills by name.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code, 128 + signal when killed by one.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The standard output, or an error with the tail of both streams.
    pub(crate) fn ok(self, what: &str) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        bail!("{what} exited with {}: {} {}", self.code, tail(&self.stderr, 1500), tail(&self.stdout, 1500))
    }
}

/// The end of a text, about so many bytes of it.
pub(crate) fn tail(text: &str, bytes: usize) -> &str {
    let text = text.trim();
    &text[text.floor_char_boundary(text.len().saturating_sub(bytes))..]
}

/// Runs a script of the checkout that builds something, and returns the directory that it prints last.
pub(crate) fn built(script: &Path, args: &[&str], timeout: Duration) -> Result<PathBuf> {
    let program = script.display().to_string();
    let text = run_with(&[&[program.as_str()], args].concat(), "", timeout)?.ok(&program)?;
    Ok(PathBuf::from(text.lines().last().with_context(|| format!("{program} printed no directory"))?))
}

/// Runs `argv` with `stdin`, and kills it at `timeout`.
pub(crate) fn run_with(argv: &[&str], stdin: &str, timeout: Duration) -> Result<Output> {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("could not start {}", argv[0]))?;
    let mut input = child.stdin.take().context("stdin")?;
    let text = stdin.to_owned();
    let feeder = std::thread::spawn(move || {
        // A command that does not read its input closes it; that is not an error of ours.
        let _ = input.write_all(text.as_bytes());
    });
    let pid = child.id();
    let (done, expired) = std::sync::mpsc::sync_channel::<()>(1);
    let watchdog = std::thread::spawn(move || {
        let overdue = expired.recv_timeout(timeout).is_err();
        if overdue {
            kill(pid as i32, libc::SIGKILL);
        }
        overdue
    });
    let out = child.wait_with_output()?;
    let _ = done.send(());
    let overdue = watchdog.join().map_err(|_| anyhow!("watchdog thread panicked"))?;
    let _ = feeder.join();
    if overdue {
        bail!("`{}` did not end within {} s", argv.join(" "), timeout.as_secs());
    }
    use std::os::unix::process::ExitStatusExt;
    Ok(Output {
        code: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// Runs `argv` and returns its standard output; anything but exit code 0 is an error.
pub(crate) fn run(argv: &[&str]) -> Result<String> {
    run_with(argv, "", Duration::from_secs(120))?.ok(&argv.join(" "))
}

/// Like [`run`], for clean-up: a failure is of no interest.
pub(crate) fn run_quietly(argv: &[&str]) {
    let _ = run_with(argv, "", Duration::from_secs(30));
}

/// Starts a process in a session of its own, its output in `log`, and returns its pid.
pub(crate) fn spawn_detached(argv: &[&str], env: &[(&str, &str)], log: &Path) -> Result<i32> {
    let out = File::create(log).with_context(|| format!("could not create {}", log.display()))?;
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).envs(env.iter().copied());
    command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(Into::into));
    }
    let child = command.spawn().with_context(|| format!("could not start {}", argv[0]))?;
    Ok(child.id() as i32)
}

/// Sends a signal to one process; a process that is gone is fine.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: kill has no memory effects.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Whether a process exists and is no zombie. One whose first thread has ended lives on in the others, and holds its files.
pub(crate) fn alive(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("stat"))
            .ok()
            .and_then(|stat| stat.rsplit(") ").next().map(|rest| !rest.starts_with(['Z', 'X'])))
            .unwrap_or(false)
    })
}

/// Waits until a process is gone.
pub(crate) fn ended(what: &str, pid: i32, timeout: Duration) -> Result<()> {
    until(&format!("{what} to end"), timeout, || {
        ensure!(!alive(pid), "pid {pid} lives");
        Ok(())
    })
}

/// Calls `probe` until it gives a value. The last error is the reason when the deadline passes.
pub(crate) fn until<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= timeout => {
                return Err(error.context(format!("waited {} s for {what}", timeout.as_secs())));
            }
            Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// A progress line with the time since `started`.
pub(crate) fn progress(started: Instant, text: &str) {
    eprintln!("[{:6.1} s] {text}", started.elapsed().as_secs_f64());
}
