//! What the console shows and what keys do: a state machine without a terminal, a clock or a system. Pure.
//!
//! ```text
//!  state ─N─> network ─> trial (60 s) ─K─> state
//!    ├───L─> logs                └─T, or nobody answers─> state, as it was
//!    ├───R, P─> a typed word ─> restart, power off
//!    ├───X─> the plan of a reset, or what is against it ─the node's name─> erased
//!    └───S─> login
//! ```
//! Everything but looking at the state asks for root's password first, where root has one.

use std::collections::BTreeMap;

use crate::config::Management;
use crate::observe::{Level, Part, Probe};
use crate::tui::form::Field;
use crate::tui::network_form;
use crate::tui::wizard::Key;

use super::erasure::{Answer, Erasure};
use super::logs::{LOGS, Logs};

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    State,
    /// Asks for root's password on the way to another page.
    Password(Goal),
    Network,
    /// A network is being tried.
    Trial,
    Logs,
    /// Asks for a word.
    Power(Power),
    /// Shows what a reset erases, and asks for the node's name.
    Reset,
}

/// A page behind the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Network,
    Logs,
    Power(Power),
    Reset,
}

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Restart,
    Off,
}

impl Power {
    /// The word that must be typed, and systemctl's.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Power::Restart => ("restart", "reboot"),
            Power::Off => ("off", "poweroff"),
        }
    }
}

/// What follows a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Stay,
    /// End the program: on a node's screen systemd starts it again.
    Leave,
    /// Ask all probes now.
    Refresh,
    /// Check root's password; [`Pages::password_checked`] follows.
    CheckPassword(String),
    /// Read node.yaml; [`Pages::open_network`] follows.
    OpenNetwork,
    /// Try this network.
    Try(Box<Management>),
    /// Keep the network that is being tried.
    Keep,
    /// Take it back now.
    TakeBack,
    /// A login in this program's place.
    Login,
    /// Read the journal anew: another one was chosen.
    ReadLogs,
    Stop(Power),
    /// Plan a reset; [`Pages::open_reset`] follows.
    OpenReset,
    /// Erase what the plan that is shown says.
    Reset,
}

/// All that is shown.
pub(super) struct Pages {
    pub(super) page: Page,
    pub(super) parts: BTreeMap<Probe, Vec<Part>>,
    /// The part that is shown whole.
    pub(super) cursor: usize,
    /// What the last action came to, and whether it failed.
    pub(super) notice: Option<(String, bool)>,
    /// Seconds until a network that is being tried is taken back.
    pub(super) trial: Option<u64>,
    pub(super) form: Vec<Field>,
    /// The network before it is changed.
    old: Option<Management>,
    pub(super) typed: Field,
    pub(super) logs: Logs,
    pub(super) erasure: Erasure,
    /// Whether root has a password.
    pub(super) locked: bool,
}

impl Pages {
    pub(super) fn new(locked: bool) -> Pages {
        Pages {
            page: Page::State,
            parts: BTreeMap::new(),
            cursor: 0,
            notice: None,
            trial: None,
            form: Vec::new(),
            old: None,
            typed: Field::hidden("password", ""),
            logs: Logs::new(),
            erasure: Erasure::new(&[], None),
            locked,
        }
    }

    /// All parts in their order.
    pub(super) fn all_parts(&self) -> Vec<&Part> {
        self.parts.values().flatten().collect()
    }

    /// The worst of all parts; None while nothing is known.
    pub(super) fn level(&self) -> Option<Level> {
        self.all_parts().iter().map(|part| part.level).max()
    }

    /// A probe's answer.
    pub(super) fn observed(&mut self, probe: Probe, parts: Vec<Part>) {
        self.parts.insert(probe, parts);
        self.cursor = self.cursor.min(self.all_parts().len().saturating_sub(1));
    }

    /// How the trial of a network stands: it may have been begun, kept or taken back elsewhere.
    pub(super) fn trial_is(&mut self, left: Option<u64>) {
        match (self.trial, left) {
            (None, Some(_)) if !matches!(self.page, Page::Password(_)) => self.page = Page::Trial,
            (Some(_), None) if self.page == Page::Trial => {
                self.page = Page::State;
                if self.notice.is_none() {
                    self.notice = Some(("the network is as it was before the change".into(), true));
                }
            }
            _ => {}
        }
        self.trial = left;
    }

    /// Locks what needs a password, where root has one.
    pub(super) fn lock(&mut self, has_password: bool) {
        self.locked = has_password;
        if has_password && !matches!(self.page, Page::State | Page::Trial | Page::Password(_)) {
            self.page = Page::State;
        }
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Action {
        self.notice = None;
        match self.page {
            Page::State => self.on_state(key),
            Page::Password(_) => self.on_password(key),
            Page::Network => self.on_network(key),
            Page::Trial => self.on_trial(key),
            Page::Logs => self.on_logs(key),
            Page::Power(power) => self.on_power(power, key),
            Page::Reset => self.on_reset(key),
        }
    }

    fn on_state(&mut self, key: Key) -> Action {
        match key {
            Key::Up => self.cursor = self.cursor.saturating_sub(1),
            Key::Down => self.cursor = (self.cursor + 1).min(self.all_parts().len().saturating_sub(1)),
            Key::Space => return Action::Refresh,
            Key::Enter => return self.go(Goal::Logs),
            Key::Char(c) => {
                return match c.to_ascii_lowercase() {
                    'n' => self.go(Goal::Network),
                    'l' => self.go(Goal::Logs),
                    's' => Action::Login,
                    'r' => self.go(Goal::Power(Power::Restart)),
                    'p' => self.go(Goal::Power(Power::Off)),
                    'x' => self.go(Goal::Reset),
                    'q' => Action::Leave,
                    _ => Action::Stay,
                };
            }
            _ => {}
        }
        Action::Stay
    }

    /// Goes to a page, by way of the password where it is locked.
    fn go(&mut self, goal: Goal) -> Action {
        if self.locked {
            self.typed = Field::hidden("password", "");
            self.page = Page::Password(goal);
            return Action::Stay;
        }
        match goal {
            Goal::Network => {
                self.page = Page::State;
                Action::OpenNetwork
            }
            Goal::Logs => {
                self.page = Page::Logs;
                self.logs = Logs::for_part(self.all_parts().get(self.cursor).map(|part| part.name));
                Action::ReadLogs
            }
            Goal::Power(power) => {
                self.typed = Field::text("word", "", "");
                self.page = Page::Power(power);
                Action::Stay
            }
            Goal::Reset => {
                self.page = Page::State;
                Action::OpenReset
            }
        }
    }

    fn on_password(&mut self, key: Key) -> Action {
        match key {
            Key::Back => self.page = Page::State,
            Key::Enter => return Action::CheckPassword(self.typed.answer().to_owned()),
            key => write(&mut self.typed, key),
        }
        Action::Stay
    }

    /// Whether the password was root's.
    pub(super) fn password_checked(&mut self, good: Result<bool, String>) -> Action {
        self.typed = Field::hidden("password", "");
        match (good, self.page) {
            (Ok(true), Page::Password(goal)) => {
                self.locked = false;
                self.go(goal)
            }
            (Ok(_), _) => {
                self.notice = Some(("that is not root's password".into(), true));
                Action::Stay
            }
            (Err(reason), _) => {
                self.notice = Some((format!("the password cannot be checked: {reason}"), true));
                Action::Stay
            }
        }
    }

    /// Shows the network as node.yaml says it, to be changed.
    pub(super) fn open_network(&mut self, now: Result<Management, String>) {
        match now {
            Ok(management) => {
                self.form = network_form::of(&management);
                self.old = Some(management);
                self.cursor = 0;
                self.page = Page::Network;
            }
            Err(reason) => self.notice = Some((reason, true)),
        }
    }

    fn on_network(&mut self, key: Key) -> Action {
        let last = self.form.len().saturating_sub(1);
        match key {
            Key::Back => self.leave_form(),
            Key::Up => self.cursor = self.cursor.saturating_sub(1),
            Key::Down => self.cursor = (self.cursor + 1).min(last),
            Key::Enter if self.cursor < last => self.cursor += 1,
            Key::Enter => return self.submit(),
            key => {
                if let Some(field) = self.form.get_mut(self.cursor) {
                    write(field, key);
                }
            }
        }
        Action::Stay
    }

    fn leave_form(&mut self) {
        self.page = Page::State;
        self.cursor = 0;
    }

    fn submit(&mut self) -> Action {
        let wanted = network_form::management(&self.form, &[]);
        match (wanted, &self.old) {
            (Ok(wanted), Some(old)) => {
                // What the form does not ask stays.
                let wanted = Management { vip: old.vip, ..wanted };
                if wanted == *old {
                    self.notice = Some(("nothing has changed".into(), true));
                    return Action::Stay;
                }
                Action::Try(Box::new(wanted))
            }
            (Ok(_), None) => Action::Stay,
            (Err(reason), _) => {
                self.notice = Some((reason, true));
                Action::Stay
            }
        }
    }

    /// What became of an attempt to try a network; the form stays as it is where it failed.
    pub(super) fn tried(&mut self, result: Result<u64, String>) {
        match result {
            Ok(left) => {
                self.trial_is(Some(left));
                self.page = Page::Trial;
                self.cursor = 0;
            }
            Err(reason) => self.notice = Some((reason, true)),
        }
    }

    fn on_trial(&mut self, key: Key) -> Action {
        match key {
            Key::Char('k' | 'K') => Action::Keep,
            Key::Char('t' | 'T') => Action::TakeBack,
            _ => Action::Stay,
        }
    }

    fn on_logs(&mut self, key: Key) -> Action {
        match key {
            Key::Back => self.page = Page::State,
            Key::Up => self.logs.scroll(1),
            Key::Down => self.logs.scroll(-1),
            Key::Space => self.logs.follow(),
            Key::PageUp => self.logs.scroll(15),
            Key::PageDown => self.logs.scroll(-15),
            Key::Enter | Key::Next => {
                self.logs = Logs::of((self.logs.which + 1) % LOGS.len());
                return Action::ReadLogs;
            }
            Key::Previous => {
                self.logs = Logs::of((self.logs.which + LOGS.len() - 1) % LOGS.len());
                return Action::ReadLogs;
            }
            _ => {}
        }
        Action::Stay
    }

    /// Shows what a reset would erase, or, without a `name`, what is against it.
    pub(super) fn open_reset(&mut self, lines: &[String], name: Option<String>) {
        self.erasure = Erasure::new(lines, name);
        self.page = Page::Reset;
    }

    fn on_reset(&mut self, key: Key) -> Action {
        match self.erasure.key(key) {
            Answer::Stay => {}
            Answer::Wrong(name) => {
                self.notice = Some((format!("type `{name}` and press Enter, or Esc to go back"), true))
            }
            Answer::Leave => self.page = Page::State,
            Answer::Erase => {
                self.page = Page::State;
                return Action::Reset;
            }
        }
        Action::Stay
    }

    fn on_power(&mut self, power: Power, key: Key) -> Action {
        let (word, _) = power.words();
        match key {
            Key::Back => self.page = Page::State,
            Key::Enter if self.typed.answer() == word => {
                self.page = Page::State;
                return Action::Stop(power);
            }
            Key::Enter => self.notice = Some((format!("type `{word}` and press Enter, or Esc to go back"), true)),
            key => write(&mut self.typed, key),
        }
        Action::Stay
    }
}

/// Writes a key into a field.
fn write(field: &mut Field, key: Key) {
    match key {
        Key::Char(c) => field.write(c),
        Key::Space => field.write(' '),
        Key::Erase => field.erase(),
        Key::Next => field.turn(true),
        Key::Previous => field.turn(false),
        _ => {}
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
