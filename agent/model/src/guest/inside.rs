//! The guest's agent: whether it knows what KubeVirt needs of one, and how often it is asked. Refuses to know how.
//!
//! A guest is asked soon after its agent connected, since its addresses come up after its agent does, and then more and more
//! rarely while its answers stay the same: each question wakes the guest. Nothing tells of an address that changes inside,
//! so that the pause has a ceiling.

use std::time::Duration;

/// The first pause between two questions.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest; KubeVirt's own poller asks as often.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Commands without which KubeVirt calls an agent unsupported (`requiredGuestAgentCommands`).
const BASIC: &[&str] = &[
    "guest-ping",
    "guest-get-time",
    "guest-info",
    "guest-shutdown",
    "guest-network-get-interfaces",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-users",
    "guest-get-timezone",
    "guest-get-osinfo",
];
/// Commands that SSH keys need.
const SSH_KEYS: &[&str] =
    &["guest-ssh-get-authorized-keys", "guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys"];
/// Commands that passwords need.
const PASSWORDS: &[&str] = &["guest-set-user-password"];
/// Commands that probes of a command need.
const EXEC: &[&str] = &["guest-exec-status", "guest-exec"];

/// What a guest asks of its agent beyond the basic commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentNeeds {
    /// SSH keys are handed to it while it runs.
    pub ssh_keys: bool,
    /// Passwords are.
    pub passwords: bool,
    /// A probe runs a command.
    pub exec: bool,
}

/// What an agent lacks, in KubeVirt's words; `None` when it has everything. `commands`: those that it knows and allows.
#[must_use]
pub fn agent_lacks(needs: AgentNeeds, commands: &[String]) -> Option<&'static str> {
    let missing = |wanted: &[&str]| wanted.iter().any(|name| !commands.iter().any(|command| command == name));
    let rows = [
        (true, BASIC, "This guest agent doesn't support required basic commands"),
        (needs.ssh_keys, SSH_KEYS, "This guest agent doesn't support required public key commands"),
        (needs.passwords, PASSWORDS, "This guest agent doesn't support required password commands"),
        (needs.exec, EXEC, "This guest agent doesn't support required exec probe commands"),
    ];
    rows.into_iter().find(|(needed, wanted, _)| *needed && missing(wanted)).map(|(_, _, words)| words)
}

/// The pause before the next question. `last`: the pause before this one; `None` after the agent connected. `same`: the
/// answer was the same as before.
#[must_use]
pub fn next_pause(last: Option<Duration>, same: bool) -> Duration {
    match last {
        Some(last) if same => (last * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_but(missing: &str) -> Vec<String> {
        let known = BASIC.iter().chain(SSH_KEYS).chain(PASSWORDS).chain(EXEC);
        known.filter(|name| **name != missing).map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_agent_must_know_what_its_guest_needs() {
        let none = AgentNeeds::default();
        assert_eq!(agent_lacks(none, &all_but("")), None);
        assert!(agent_lacks(none, &all_but("guest-get-users")).is_some_and(|words| words.contains("basic")));
        assert_eq!(agent_lacks(none, &all_but("guest-exec")), None);
        let exec = AgentNeeds { exec: true, ..none };
        assert!(agent_lacks(exec, &all_but("guest-exec")).is_some_and(|words| words.contains("exec probe")));
        let keys = AgentNeeds { ssh_keys: true, ..none };
        assert!(agent_lacks(keys, &all_but("guest-ssh-add-authorized-keys")).is_some_and(|w| w.contains("public key")));
        let passwords = AgentNeeds { passwords: true, ..none };
        assert!(agent_lacks(passwords, &all_but("guest-set-user-password")).is_some_and(|w| w.contains("password")));
    }

    #[test]
    fn a_guest_that_says_the_same_is_asked_more_and_more_rarely() {
        let mut pause = None;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let next = next_pause(pause, true);
            seen.push(next.as_secs());
            pause = Some(next);
        }
        assert_eq!(seen, [10, 20, 40, 80, 120, 120]);
        assert_eq!(next_pause(pause, false), FIRST_PAUSE);
    }
}
