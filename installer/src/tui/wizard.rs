//! The questions, their answers, and what keys do: a state machine without a terminal. Pure.
//!
//! ```text
//!  checks ─> disk ─> storage ─> card ─> address ─> node ─> summary ─> (typed confirmation)
//!         Enter goes on when the answer is valid, Esc goes back; no answer is lost.
//! ```

use furrow_host::block::Device;

use super::facts::Facts;
use super::form::{Field, items};
use super::network_form;
use crate::config::Management;
use crate::disks::{MIN_OSD_BYTES, holds};
use crate::install::{MIN_DISK_BYTES, MIN_SHARED_BYTES, unusable_disk};
use crate::network::{quoted, section};
use crate::observe::Level;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Up,
    Down,
    /// To the right: turns a choice, otherwise goes on.
    Next,
    /// To the left: turns a choice, otherwise goes back.
    Previous,
    PageUp,
    PageDown,
    Enter,
    Back,
    Space,
    Erase,
    Char(char),
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Checks,
    Disk,
    Storage,
    Card,
    Address,
    Node,
    Summary,
}

const ORDER: [Screen; 7] =
    [Screen::Checks, Screen::Disk, Screen::Storage, Screen::Card, Screen::Address, Screen::Node, Screen::Summary];

/// What follows a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Stay,
    /// Go back from the first screen: a shell.
    Leave,
    /// Make this password's hash; [`Wizard::hashed`] follows.
    Hash(String),
    /// Install as this node.yaml says.
    Install(String),
}

/// Places among the questions about the node.
const HOST_NAME: usize = 0;
const PASSWORD: usize = 1;
const AGAIN: usize = 2;
const SSH_KEY: usize = 3;
const TIME: usize = 4;
const PROXY: usize = 5;
const NO_PROXY: usize = 6;
/// Longer than any word that is asked for.
const MAX_WORD: usize = 20;
/// A password shorter than this is guessed.
const MIN_PASSWORD: usize = 8;

/// All questions and answers.
pub(super) struct Wizard {
    pub(super) facts: Facts,
    pub(super) screen: Screen,
    pub(super) cursor: usize,
    /// Why the last key did not go on.
    pub(super) refusal: Option<String>,
    /// Index of the system's disk.
    pub(super) disk: usize,
    /// Which disks Ceph gets; that of the system means the rest of it.
    pub(super) storage: Vec<bool>,
    /// The card, or the first one of a bond.
    pub(super) card: usize,
    /// The cards of a bond.
    pub(super) bonded: Vec<bool>,
    pub(super) address: Vec<Field>,
    pub(super) node: Vec<Field>,
    pub(super) confirmation: String,
    /// The last password that was written, and its hash.
    hash: Option<(String, String)>,
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl Wizard {
    pub(super) fn new(facts: Facts) -> Wizard {
        let disk = facts.disks.iter().position(|d| unfit(d).is_none()).unwrap_or(0);
        // Every other disk that is empty and large enough is Ceph's, or else the rest of the only one.
        let mut storage: Vec<bool> = (0..facts.disks.len())
            .map(|n| n != disk && holds(&facts.disks[n]).is_none() && facts.disks[n].size >= MIN_OSD_BYTES)
            .collect();
        if !storage.contains(&true)
            && let Some(own) = storage.get_mut(disk)
        {
            *own = true;
        }
        let mut address = network_form::questions();
        address[network_form::GATEWAY].set(facts.gateway.map(|a| a.to_string()).unwrap_or_default());
        address[network_form::DNS].set(join(&facts.dns));
        let mut wizard = Wizard {
            screen: Screen::Checks,
            cursor: 0,
            refusal: None,
            disk,
            storage,
            card: 0,
            bonded: vec![false; facts.nics.len()],
            address,
            node: vec![
                Field::text("host name", "a-z, 0-9 and -", "node-1"),
                Field::hidden("password", "of root on consoles, at least 8 characters; empty for none"),
                Field::hidden("again", "the same password"),
                Field::text("SSH key", "a public key for root, empty for none", ""),
                Field::text("time", "servers with commas between, empty for DHCP's and Debian's", ""),
                Field::text("proxy", "for images and updates, such as http://proxy:3128; empty for none", ""),
                Field::text("no proxy", "hosts, .domains and networks reached directly, beside the cluster's", ""),
            ],
            confirmation: String::new(),
            hash: None,
            facts,
        };
        wizard.take_lease();
        wizard
    }

    /// Offers the address that the card has now.
    fn take_lease(&mut self) {
        let lease = self.facts.nics.get(self.card).and_then(|n| n.address);
        let field = &mut self.address[network_form::ADDRESS];
        if let (Some((address, bits)), true) = (lease, field.answer().is_empty()) {
            field.set(format!("{address}/{bits}"));
        }
    }

    /// The cards of the management network.
    fn cards(&self) -> Vec<&str> {
        let name = |n: usize| self.facts.nics.get(n).map(|nic| nic.name.as_str());
        let marked = (0..self.bonded.len()).filter(|n| self.bonded[*n]).filter_map(name).collect::<Vec<_>>();
        if marked.is_empty() { name(self.card).into_iter().collect() } else { marked }
    }

    /// The word that must be typed on the last screen.
    pub(super) fn word(&self) -> &'static str {
        if self.erased().is_empty() { "install" } else { "erase" }
    }

    /// What is lost, a line a disk.
    pub(super) fn erased(&self) -> Vec<String> {
        let chosen = |n: usize| n == self.disk || self.storage[n];
        let disks = self.facts.disks.iter().enumerate().filter(|(n, _)| chosen(*n));
        disks.filter_map(|(_, d)| Some(format!("{}: {}", show(d), holds(d)?))).collect()
    }

    /// How many lines the cursor moves over.
    fn lines(&self) -> usize {
        match self.screen {
            Screen::Checks | Screen::Summary => 1,
            Screen::Disk | Screen::Storage => self.facts.disks.len().max(1),
            Screen::Card => self.facts.nics.len().max(1),
            Screen::Address => self.address.len(),
            Screen::Node => self.node.len(),
        }
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Outcome {
        self.refusal = None;
        match key {
            Key::Up => self.cursor = self.cursor.saturating_sub(1),
            Key::Down => self.cursor = (self.cursor + 1).min(self.lines() - 1),
            Key::Back => return self.back(),
            Key::Enter => return self.forward(),
            Key::Next if self.on_choice() => self.turn(true),
            Key::Previous if self.on_choice() => self.turn(false),
            Key::Next => return self.forward(),
            Key::Previous => return self.back(),
            Key::Space if self.screen == Screen::Storage => self.toggle(),
            Key::Space if self.screen == Screen::Card => self.mark_card(),
            Key::Space => self.type_in(' '),
            Key::Char(c) => self.type_in(c),
            Key::Erase if self.screen == Screen::Summary => {
                self.confirmation.pop();
            }
            Key::Erase => {
                if let Some(field) = self.field() {
                    field.erase();
                }
            }
            Key::PageUp | Key::PageDown => {}
        }
        Outcome::Stay
    }

    fn on_choice(&mut self) -> bool {
        self.field().is_some_and(|field| field.is_choice())
    }

    fn turn(&mut self, forward: bool) {
        if let Some(field) = self.field() {
            field.turn(forward);
        }
    }

    /// Takes a card into the bond, or out of it.
    fn mark_card(&mut self) {
        if let Some(marked) = self.bonded.get_mut(self.cursor) {
            *marked = !*marked;
        }
    }

    fn toggle(&mut self) {
        let at = self.cursor;
        let Some(device) = self.facts.disks.get(at) else { return };
        let reason = if at == self.disk && device.size < MIN_SHARED_BYTES {
            Some(format!("the system leaves too little room: {MIN_SHARED_BYTES} bytes are needed for both"))
        } else if at != self.disk {
            unusable_disk(device, MIN_OSD_BYTES)
        } else {
            None
        };
        match reason {
            Some(reason) => self.refusal = Some(reason),
            None => self.storage[at] = !self.storage[at],
        }
    }

    fn type_in(&mut self, c: char) {
        if self.screen == Screen::Summary && self.confirmation.len() < MAX_WORD {
            self.confirmation.push(c);
        } else if let Some(field) = self.field() {
            field.write(c);
        }
    }

    /// The line that is being written.
    fn field(&mut self) -> Option<&mut Field> {
        match self.screen {
            Screen::Address => self.address.get_mut(self.cursor),
            Screen::Node => self.node.get_mut(self.cursor),
            _ => None,
        }
    }

    /// The hash of the password that [`Outcome::Hash`] asked for.
    pub(super) fn hashed(&mut self, result: Result<String, String>) -> Outcome {
        match result {
            Ok(hash) => {
                self.hash = Some((self.node[PASSWORD].answer().to_owned(), hash));
                self.forward()
            }
            Err(reason) => {
                self.refusal = Some(format!("the password: {reason}"));
                Outcome::Stay
            }
        }
    }

    fn back(&mut self) -> Outcome {
        self.confirmation.clear();
        let at = ORDER.iter().position(|s| *s == self.screen).unwrap_or(0);
        match at.checked_sub(1) {
            None => Outcome::Leave,
            Some(before) => {
                self.enter(ORDER[before]);
                Outcome::Stay
            }
        }
    }

    fn forward(&mut self) -> Outcome {
        // Enter in a field that is not the last goes to the next one.
        if matches!(self.screen, Screen::Address | Screen::Node) && self.cursor + 1 < self.lines() {
            self.cursor += 1;
            return Outcome::Stay;
        }
        if let Err(refusal) = self.accept() {
            self.refusal = Some(refusal);
            return Outcome::Stay;
        }
        let password = self.node[PASSWORD].answer();
        let is_hashed = self.hash.as_ref().is_some_and(|(of, _)| of == password);
        if self.screen == Screen::Node && !password.is_empty() && !is_hashed {
            return Outcome::Hash(password.to_owned());
        }
        let at = ORDER.iter().position(|s| *s == self.screen).unwrap_or(0);
        match ORDER.get(at + 1) {
            Some(next) => {
                self.enter(*next);
                Outcome::Stay
            }
            None => Outcome::Install(self.node_yaml()),
        }
    }

    fn enter(&mut self, screen: Screen) {
        self.screen = screen;
        self.cursor = match screen {
            Screen::Disk => self.disk,
            Screen::Card => self.card,
            _ => 0,
        };
    }

    /// Checks this screen's answer and takes it.
    fn accept(&mut self) -> Result<(), String> {
        match self.screen {
            Screen::Checks => {
                let bad = self.facts.checks.iter().find(|c| c.level == Level::Fault);
                bad.map_or(Ok(()), |c| Err(format!("{}: {}", c.name, c.text)))
            }
            Screen::Disk => {
                let device = self.facts.disks.get(self.cursor).ok_or("there is no disk")?;
                if let Some(reason) = unfit(device) {
                    return Err(format!("{}: {reason}", device.path));
                }
                self.disk = self.cursor;
                Ok(())
            }
            Screen::Storage if !self.storage.contains(&true) => Err("Ceph needs at least one disk".into()),
            Screen::Storage if self.storage[self.disk] && self.facts.disks[self.disk].size < MIN_SHARED_BYTES => {
                Err(format!(
                    "{} is too small to share: {MIN_SHARED_BYTES} bytes are needed",
                    self.facts.disks[self.disk].path
                ))
            }
            Screen::Storage => Ok(()),
            Screen::Card => {
                self.facts.nics.get(self.cursor).ok_or("there is no network card")?;
                self.card = self.bonded.iter().position(|marked| *marked).unwrap_or(self.cursor);
                self.take_lease();
                let is_bond = self.address[network_form::MODE].answer() != "none";
                match (self.cards().len(), is_bond) {
                    (2.., false) => network_form::set_mode(&mut self.address, "active-backup"),
                    (..=1, true) if !self.bonded.contains(&true) => network_form::set_mode(&mut self.address, "none"),
                    _ => {}
                }
                Ok(())
            }
            Screen::Address => {
                self.management()?;
                // Of the whole document only the network is known by now.
                match crate::config::parse(&self.node_yaml()) {
                    Err(error) if error.to_string().contains("management.") => Err(error.to_string()),
                    _ => Ok(()),
                }
            }
            Screen::Node => {
                let (password, again) = (self.node[PASSWORD].answer(), self.node[AGAIN].answer());
                if password != again {
                    return Err("the two passwords differ".into());
                }
                if !password.is_empty() && password.chars().count() < MIN_PASSWORD {
                    return Err(format!("a password has at least {MIN_PASSWORD} characters, or is empty for none"));
                }
                crate::config::parse(&self.node_yaml()).map(|_| ()).map_err(|e| e.to_string())
            }
            Screen::Summary if self.confirmation.trim() == self.word() => Ok(()),
            Screen::Summary => Err(format!("type `{}` and press Enter, or Esc to go back", self.word())),
        }
    }

    fn management(&self) -> Result<Management, String> {
        network_form::management(&self.address, &self.cards())
    }

    /// The answers as a document. Scalars are JSON, which is YAML, so that nothing in them means something else.
    pub(super) fn node_yaml(&self) -> String {
        let mut text = format!("apiVersion: {}\nkind: Node\n", crate::config::API_VERSION);
        text += &format!("hostname: {}\n", quoted(self.node[HOST_NAME].answer()));
        if let Ok(management) = self.management() {
            text += &section(&management);
        }
        text += "ceph:\n  disks:\n";
        for (n, device) in self.facts.disks.iter().enumerate().filter(|(n, _)| self.storage[*n]) {
            if n == self.disk {
                text += "    - partitionLabel: furrow-osd\n";
            } else {
                text += &format!("    - {}\n", selector(device));
            }
        }
        text += &self.settings();
        if let Some(device) = self.facts.disks.get(self.disk) {
            text += &format!("install:\n  disk: {}\n", selector(device));
        }
        text
    }
}

impl Wizard {
    /// Who may log in, time servers, proxy.
    fn settings(&self) -> String {
        let answer = |n: usize| self.node[n].answer();
        let list = |n| items(answer(n)).into_iter().map(quoted).collect::<Vec<_>>().join(", ");
        let mut admin = String::new();
        if !answer(SSH_KEY).is_empty() {
            admin += &format!("  sshKeys: [{}]\n", quoted(answer(SSH_KEY)));
        }
        if let Some((_, hash)) = self.hash.as_ref().filter(|(of, _)| !of.is_empty() && of == answer(PASSWORD)) {
            admin += &format!("  passwordHash: {}\n", quoted(hash));
        }
        let mut text = if admin.is_empty() { admin } else { format!("admin:\n{admin}") };
        if !answer(TIME).is_empty() {
            text += &format!("ntp: [{}]\n", list(TIME));
        }
        if !answer(PROXY).is_empty() {
            let proxy = quoted(answer(PROXY));
            text += &format!("proxy: {{http: {proxy}, https: {proxy}, noProxy: [{}]}}\n", list(NO_PROXY));
        }
        text
    }
}

/// A selector that means this disk: by its serial number, which a changed order of disks does not change.
fn selector(device: &Device) -> String {
    let serial = device.serial.as_deref().map(str::trim).filter(|s| !s.is_empty());
    let (key, value) = serial.map_or(("path", device.path.as_str()), |serial| ("id", serial));
    let wipe = if holds(device).is_some() { ", wipe: true" } else { "" };
    format!("{{{key}: {}{wipe}}}", quoted(value))
}

/// A disk for people: path, size, model, serial number.
pub(super) fn show(device: &Device) -> String {
    let mut text = format!("{} {} GB", device.path, device.size / 1_000_000_000);
    for word in [&device.model, &device.serial].into_iter().flatten() {
        text += &format!(" {}", word.trim());
    }
    text
}

/// Why a disk cannot be the system's.
pub(super) fn unfit(device: &Device) -> Option<String> {
    unusable_disk(device, MIN_DISK_BYTES)
}

#[cfg(test)]
#[path = "wizard_tests.rs"]
mod tests;
