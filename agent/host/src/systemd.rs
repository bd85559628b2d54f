//! systemd's units over `systemctl`: enable, start, restart, and what state a unit is in. Refuses to write units (they
//! belong to the image) and to wait for more than a job: whoever needs a service to be of use asks the service.

use std::time::Duration;

use crate::cmd::{Cmd, CmdError};

const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// A job such as a start of a daemon that reports readiness; longer ones are started with [`start_no_wait`].
const JOB_TIMEOUT: Duration = Duration::from_secs(90);

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// `ActiveState`: active, activating, inactive, failed, ...
    pub active: String,
    /// `SubState`: running, dead, auto-restart, ...
    pub sub: String,
    /// `Result` of its last run: success, exit-code, timeout, ...
    pub result: String,
    /// How often systemd has started it again by itself.
    pub restarts: u32,
}

impl UnitState {
    /// Whether it runs and, for a unit that notifies, has said that it is ready.
    pub fn is_active(&self) -> bool {
        self.active == "active"
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        Self {
            active: value("ActiveState"),
            sub: value("SubState"),
            result: value("Result"),
            restarts: value("NRestarts").parse().unwrap_or_default(),
        }
    }
}

/// One line for people: `activating (auto-restart), last result exit-code`.
impl std::fmt::Display for UnitState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.active, self.sub)?;
        if !self.result.is_empty() && self.result != "success" {
            write!(f, ", last result {}", self.result)?;
        }
        if self.restarts > 0 {
            write!(f, ", restarted {} times", self.restarts)?;
        }
        Ok(())
    }
}

async fn systemctl(args: &[&str], units: &[&str]) -> Result<String, CmdError> {
    Ok(Cmd::new(SYSTEMCTL).args(args).args(units).timeout(JOB_TIMEOUT).run().await?.text())
}

/// The state of a unit; one that does not exist is inactive.
///
/// # Errors
/// When systemd cannot be asked.
pub async fn state(unit: &str) -> Result<UnitState, CmdError> {
    let properties = "--property=ActiveState,SubState,Result,NRestarts";
    Ok(UnitState::parse(&systemctl(&["show", properties], &[unit]).await?))
}

/// Makes units start at boot.
///
/// # Errors
/// When a unit does not exist or its links cannot be written.
pub async fn enable(units: &[&str]) -> Result<(), CmdError> {
    systemctl(&["enable", "--quiet"], units).await.map(|_| ())
}

/// Starts units and waits for the jobs. A unit that gave up earlier starts from zero.
///
/// # Errors
/// When a job fails or is not done within 90 s.
pub async fn start(units: &[&str]) -> Result<(), CmdError> {
    reset_failed(units).await?;
    systemctl(&["start"], units).await.map(|_| ())
}

/// Queues the start of units and returns at once. A unit that gave up earlier starts from zero.
///
/// # Errors
/// When a job cannot be queued.
pub async fn start_no_wait(units: &[&str]) -> Result<(), CmdError> {
    reset_failed(units).await?;
    systemctl(&["start", "--no-block"], units).await.map(|_| ())
}

/// Queues a restart of those units that run, and returns at once.
///
/// # Errors
/// When a job cannot be queued.
pub async fn restart_running(units: &[&str]) -> Result<(), CmdError> {
    systemctl(&["try-restart", "--no-block"], units).await.map(|_| ())
}

/// Clears the start limit. It fails for a unit that systemd has not loaded yet, which then has nothing to clear.
async fn reset_failed(units: &[&str]) -> Result<(), CmdError> {
    Cmd::new(SYSTEMCTL).arg("reset-failed").args(units).run_unchecked().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_why_a_unit_does_not_run() {
        let state = UnitState::parse("ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nNRestarts=3\n");
        assert!(!state.is_active());
        assert_eq!(state.to_string(), "activating (auto-restart), last result exit-code, restarted 3 times");
    }

    #[test]
    fn a_running_unit_has_nothing_to_explain() {
        let state = UnitState::parse("NRestarts=0\nResult=success\nActiveState=active\nSubState=running\n");
        assert!(state.is_active());
        assert_eq!(state.to_string(), "active (running)");
    }
}
