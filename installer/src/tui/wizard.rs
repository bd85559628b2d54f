//! The questions, their answers, and what keys do: a state machine without a terminal. Pure.
//!
//! ```text
//!  checks ─> disk ─> storage ─> card ─> address ─> node ─> summary ─> (typed confirmation)
//!         Enter goes on when the answer is valid, Esc goes back; no answer is lost.
//! ```

use std::net::IpAddr;

use furrow_host::block::Device;

use super::facts::{Facts, Verdict};
use crate::disks::{MIN_OSD_BYTES, holds};
use crate::install::{MIN_DISK_BYTES, MIN_SHARED_BYTES, unusable_disk};

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
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
    /// Install as this node.yaml says.
    Install(String),
}

/// A line of text that is being written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) hint: &'static str,
    pub(super) value: String,
}

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
    pub(super) card: usize,
    pub(super) address: Vec<Field>,
    pub(super) node: Vec<Field>,
    pub(super) confirmation: String,
}

fn field(name: &'static str, hint: &'static str, value: String) -> Field {
    Field { name, hint, value }
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
        let gateway = facts.gateway.map(|a| a.to_string()).unwrap_or_default();
        let mut wizard = Wizard {
            screen: Screen::Checks,
            cursor: 0,
            refusal: None,
            disk,
            storage,
            card: 0,
            address: vec![
                field("address", "with its prefix length, such as 10.0.0.11/24", String::new()),
                field("gateway", "empty for none", gateway),
                field("DNS", "addresses with commas between, empty for none", join(&facts.dns)),
            ],
            node: vec![
                field("host name", "a-z, 0-9 and -", "node-1".into()),
                field("SSH key", "a public key for root, empty for none", String::new()),
            ],
            confirmation: String::new(),
            facts,
        };
        wizard.take_lease();
        wizard
    }

    /// Offers the address that the card has now.
    fn take_lease(&mut self) {
        let lease = self.facts.nics.get(self.card).and_then(|n| n.address);
        if let (Some((address, bits)), true) = (lease, self.address[0].value.is_empty()) {
            self.address[0].value = format!("{address}/{bits}");
        }
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
            Key::Space if self.screen == Screen::Storage => self.toggle(),
            Key::Space => self.type_in(' '),
            Key::Char(c) => self.type_in(c),
            Key::Erase => {
                if let Some(text) = self.text() {
                    text.pop();
                }
            }
        }
        Outcome::Stay
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
        if let Some(text) = self.text()
            && text.len() < 1000
        {
            text.push(c);
        }
    }

    /// The text that is being written.
    fn text(&mut self) -> Option<&mut String> {
        match self.screen {
            Screen::Address => self.address.get_mut(self.cursor).map(|f| &mut f.value),
            Screen::Node => self.node.get_mut(self.cursor).map(|f| &mut f.value),
            Screen::Summary => Some(&mut self.confirmation),
            _ => None,
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
                let bad = self.facts.checks.iter().find(|c| c.result == Verdict::Bad);
                bad.map_or(Ok(()), |c| Err(format!("{}: {}", c.what, c.text)))
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
                self.card = self.cursor;
                self.take_lease();
                Ok(())
            }
            Screen::Address => self.addresses().map(|_| ()),
            Screen::Node => crate::config::parse(&self.node_yaml()).map(|_| ()).map_err(|e| e.to_string()),
            Screen::Summary if self.confirmation.trim() == self.word() => Ok(()),
            Screen::Summary => Err(format!("type `{}` and press Enter, or Esc to go back", self.word())),
        }
    }

    #[expect(clippy::type_complexity, reason = "read once, right below")]
    fn addresses(&self) -> Result<((IpAddr, u8), Option<IpAddr>, Vec<IpAddr>), String> {
        let value = |n: usize| self.address[n].value.trim();
        let parsed = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("`{text}` is no address"));
        let (address, bits) = value(0).split_once('/').ok_or("the address needs a prefix length, such as /24")?;
        let address = parsed(address)?;
        let bits = bits.parse().map_err(|_| format!("`{bits}` is no prefix length"))?;
        let gateway = if value(1).is_empty() { None } else { Some(parsed(value(1))?) };
        let dns = value(2).split([',', ' ']).filter(|w| !w.is_empty()).map(parsed).collect::<Result<_, _>>()?;
        Ok(((address, bits), gateway, dns))
    }

    /// The answers as a document. Scalars are JSON, which is YAML, so that nothing in them means something else.
    pub(super) fn node_yaml(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let mut text = format!("apiVersion: {}\nkind: Node\n", crate::config::API_VERSION);
        text += &format!("hostname: {}\n", quoted(self.node[0].value.trim()));
        let card = self.facts.nics.get(self.card).map(|n| n.name.as_str()).unwrap_or_default();
        text += &format!("management:\n  interface: {}\n", quoted(card));
        if let Ok(((address, bits), gateway, dns)) = self.addresses() {
            text += &format!("  address: {}\n  prefixLength: {bits}\n", quoted(&address.to_string()));
            if let Some(gateway) = gateway {
                text += &format!("  gateway: {}\n", quoted(&gateway.to_string()));
            }
            if !dns.is_empty() {
                text += &format!(
                    "  dns: [{}]\n",
                    dns.iter().map(|a| quoted(&a.to_string())).collect::<Vec<_>>().join(", ")
                );
            }
        }
        text += "ceph:\n  disks:\n";
        for (n, device) in self.facts.disks.iter().enumerate().filter(|(n, _)| self.storage[*n]) {
            if n == self.disk {
                text += "    - partitionLabel: furrow-osd\n";
            } else {
                text += &format!("    - {}\n", selector(device));
            }
        }
        let key = self.node[1].value.trim();
        if !key.is_empty() {
            text += &format!("admin:\n  sshKeys: [{}]\n", quoted(key));
        }
        if let Some(device) = self.facts.disks.get(self.disk) {
            text += &format!("install:\n  disk: {}\n", selector(device));
        }
        text
    }
}

/// A selector that means this disk: by its serial number, which a changed order of disks does not change.
fn selector(device: &Device) -> String {
    let serial = device.serial.as_deref().map(str::trim).filter(|s| !s.is_empty());
    let (key, value) = serial.map_or(("path", device.path.as_str()), |serial| ("id", serial));
    let wipe = if holds(device).is_some() { ", wipe: true" } else { "" };
    format!("{{{key}: {}{wipe}}}", serde_json::to_string(value).unwrap_or_default())
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
