//! The machines that have asked for a system, and those that are expected: a file each, written whole or not at all, under
//! a lock, because `serve` and `approve` are two processes. Says who gets what; knows neither HTTP nor iPXE.
//!
//! ```text
//!  asks for the first time ──> pending ──approve──> approved ──has its system──> given ──forget──> (asks again)
//!                                        approve mac=... ─┘ (before it has asked)
//! ```
//! A pending machine has a name, its *fingerprint*, which depends on a random number of this very session. An approval
//! therefore means the machine whose screen shows the fingerprint, and not everything that claims its MAC.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::device::hex;
use crate::files::replace;

/// More than a LAN of machines to install has; a flood of made-up ones must not fill the disk.
const MAX_HOSTS: usize = 256;
/// A pending machine asks every 30 s; one that is silent for longer was switched off or restarted.
pub(super) const SILENT_S: u64 = 180;
/// An approved one that never came for its system.
const STALE_S: u64 = 6 * 3600;
/// Longest text that a machine may say of itself.
const MAX_WORD: usize = 64;

/// Why the list cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostsError {
    #[error("{path}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no record of a machine: {reason}")]
    Record { path: String, reason: String },
    #[error("there is no machine `{0}`: `pxe hosts` lists them")]
    Unknown(String),
    #[error("{name} has been silent for {silent_s} s: it was restarted and shows another fingerprint, or is off")]
    Silent { name: String, silent_s: u64 },
    #[error("{0} has its system already: `pxe forget {0}` makes it ask again")]
    Given(String),
    #[error("`{0}` is neither a fingerprint, such as 4f3a-91bc-07de, nor mac=, uuid= or serial= and a value")]
    Subject(String),
    #[error("the machine gives no random numbers")]
    Random,
}

/// What a machine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) mac: String,
    pub(super) uuid: String,
    pub(super) serial: String,
}

/// How far a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    Pending,
    Approved,
    Given,
}

/// One property by which a machine is known before it asks.
#[derive(Clone, Debug, PartialEq)]
enum Key {
    Mac(String),
    Uuid(String),
    Serial(String),
}

/// Who is approved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    /// A machine that shows this fingerprint.
    Fingerprint(String),
    /// A machine that will come, by one of its properties.
    Expected(Expected),
}

/// A machine that will come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected(Key);

/// A machine.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Host {
    /// Its fingerprint; for an expected one, `mac-...`, `uuid-...` or `serial-...`.
    pub(super) name: String,
    /// Empty while an expected machine has not come.
    pub(super) identity: Identity,
    /// Names this session in URLs. Whoever has it gets what the machine gets.
    pub(super) token: String,
    pub(super) state: State,
    /// When it last asked, seconds since 1970; 0 for never.
    pub(super) seen: u64,
    /// Its node.yaml, which may hold a join token. Without one the installer asks at the console.
    pub(super) config: Option<String>,
}

/// What is to be done with a machine that asks.
pub(super) enum Arrival {
    /// It must be approved first.
    Pending(Host),
    /// It gets its system.
    Approved(Host),
    /// It has had its system, and boots from its disk.
    Given(Host),
    /// There are too many.
    Full,
}

/// The list.
pub(super) struct Hosts {
    dir: PathBuf,
}

impl Identity {
    /// Keeps of what a machine says only what can stand in a script, a file name and a terminal.
    pub(super) fn cleaned(mac: &str, uuid: &str, serial: &str) -> Identity {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:+-".contains(c);
        let clean =
            |text: &str| text.chars().take(MAX_WORD).map(|c| if is_plain(c) { c } else { '_' }).collect::<String>();
        Identity {
            mac: clean(&mac.to_ascii_lowercase().replace('-', ":")),
            uuid: clean(&uuid.to_ascii_lowercase()),
            serial: clean(serial),
        }
    }
}

impl FromStr for Subject {
    type Err = HostsError;

    fn from_str(text: &str) -> Result<Subject, HostsError> {
        let refused = || HostsError::Subject(text.to_owned());
        let Some((kind, value)) = text.split_once('=') else {
            let groups: Vec<&str> = text.split('-').collect();
            let is_group = |g: &&str| g.len() == 4 && g.bytes().all(|b| b.is_ascii_hexdigit());
            let is_one = groups.len() == 3 && groups.iter().all(is_group);
            return if is_one { Ok(Subject::Fingerprint(text.to_ascii_lowercase())) } else { Err(refused()) };
        };
        if value.is_empty() {
            return Err(refused());
        }
        let key = match kind {
            "mac" => Key::Mac(Identity::cleaned(value, "", "").mac),
            "uuid" => Key::Uuid(Identity::cleaned("", value, "").uuid),
            "serial" => Key::Serial(Identity::cleaned("", "", value).serial),
            _ => return Err(refused()),
        };
        Ok(Subject::Expected(Expected(key)))
    }
}

impl Host {
    /// Whether it was approved before it came.
    fn is_expected(&self) -> bool {
        !matches!(self.name.parse(), Ok(Subject::Fingerprint(_)))
    }
}

impl Expected {
    fn name(&self) -> String {
        let (kind, value) = match &self.0 {
            Key::Mac(value) => ("mac", value),
            Key::Uuid(value) => ("uuid", value),
            Key::Serial(value) => ("serial", value),
        };
        format!("{kind}-{}", value.replace(':', ""))
    }
}

/// Names of the records that would expect this machine.
fn expected_names(identity: &Identity) -> Vec<String> {
    let Identity { mac, uuid, serial } = identity.clone();
    let keys =
        [(mac.is_empty(), Key::Mac(mac)), (uuid.is_empty(), Key::Uuid(uuid)), (serial.is_empty(), Key::Serial(serial))];
    keys.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, key)| Expected(key).name()).collect()
}

fn random_token() -> Result<String, HostsError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| HostsError::Random)?;
    Ok(hex(&bytes))
}

/// The name that a machine shows on its screen.
fn fingerprint(identity: &Identity, token: &str) -> String {
    let text = format!("furrow pxe\n{token}\n{}\n{}\n{}", identity.mac, identity.uuid, identity.serial);
    let digest = hex(&Sha256::digest(text.as_bytes()));
    format!("{}-{}-{}", &digest[..4], &digest[4..8], &digest[8..12])
}

impl Hosts {
    /// The list in `dir`, which is made when it is missing.
    pub(super) fn open(dir: &Path) -> Result<Hosts, HostsError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| HostsError::File { path: dir.display().to_string(), source })?;
        Ok(Hosts { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// All of them, by name. Others may change the list at the same time.
    pub(super) fn list(&self) -> Result<Vec<Host>, HostsError> {
        let file = |source| HostsError::File { path: self.dir.display().to_string(), source };
        let mut hosts = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(file)? {
            let path = entry.map_err(file)?.path();
            if path.extension().is_some_and(|e| e == "json") {
                hosts.extend(read(&path)?);
            }
        }
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    fn save(&self, host: &Host) -> Result<(), HostsError> {
        let path = self.path(&host.name);
        let file = |source| HostsError::File { path: path.display().to_string(), source };
        let text = serde_json::to_vec_pretty(host).map_err(|e| file(e.into()))?;
        replace(&path, &text, 0o600).map_err(file)
    }

    fn locked<T>(&self, work: impl FnOnce() -> Result<T, HostsError>) -> Result<T, HostsError> {
        let path = self.dir.join("lock");
        let file = |source| HostsError::File { path: path.display().to_string(), source };
        let lock = File::options().create(true).append(true).open(&path).map_err(file)?;
        // Every holder is done within milliseconds.
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| file(error.into()))?;
        work()
    }

    /// A machine asks; `now` in seconds since 1970.
    pub(super) fn arrive(&self, identity: Identity, now: u64) -> Result<Arrival, HostsError> {
        self.locked(|| {
            let mut hosts = self.list()?;
            for host in hosts.extract_if(.., |h| is_gone(h, now)) {
                self.remove(&host.name)?;
            }
            let expected = expected_names(&identity);
            let is_it = |h: &Host| expected.contains(&h.name) || h.identity == identity;
            if let Some(host) = hosts.iter().find(|h| h.state == State::Approved && expected.contains(&h.name)) {
                let host = Host { identity, token: random_token()?, seen: now, ..host.clone() };
                self.save(&host)?;
                return Ok(Arrival::Approved(host));
            }
            if let Some(host) = hosts.iter().find(|h| h.state == State::Given && is_it(h)) {
                return Ok(Arrival::Given(host.clone()));
            }
            if hosts.len() >= MAX_HOSTS {
                return Ok(Arrival::Full);
            }
            let token = random_token()?;
            let name = fingerprint(&identity, &token);
            let host = Host { name, identity, token, state: State::Pending, seen: now, config: None };
            self.save(&host)?;
            Ok(Arrival::Pending(host))
        })
    }

    /// The machine of a session, noted as seen.
    pub(super) fn session(&self, token: &str, now: u64) -> Result<Option<Host>, HostsError> {
        self.locked(|| {
            let Some(mut host) = self.list()?.into_iter().find(|h| h.token == token) else { return Ok(None) };
            host.seen = now;
            self.save(&host)?;
            Ok(Some(host))
        })
    }

    /// Approves a machine.
    ///
    /// # Errors
    /// When it is not there, is silent, or has its system.
    pub(super) fn approve(&self, subject: &Subject, config: Option<String>, now: u64) -> Result<Host, HostsError> {
        self.locked(|| {
            let host = match subject {
                Subject::Expected(expected) => {
                    let (name, token) = (expected.name(), random_token()?);
                    Host { name, identity: Identity::default(), token, state: State::Approved, seen: 0, config }
                }
                Subject::Fingerprint(name) => {
                    let host = self.load(name)?;
                    let silent_s = now.saturating_sub(host.seen);
                    match host.state {
                        State::Given => return Err(HostsError::Given(host.name)),
                        State::Pending if silent_s > SILENT_S => {
                            return Err(HostsError::Silent { name: host.name, silent_s });
                        }
                        State::Pending | State::Approved => Host { state: State::Approved, config, ..host },
                    }
                }
            };
            self.save(&host)?;
            Ok(host)
        })
    }

    /// Notes that a machine has its system. Its configuration is not kept any longer.
    pub(super) fn given(&self, name: &str) -> Result<(), HostsError> {
        self.locked(|| {
            let host = self.load(name)?;
            self.save(&Host { state: State::Given, config: None, ..host })
        })
    }

    /// Makes a machine unknown.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn forget(&self, name: &str) -> Result<(), HostsError> {
        self.locked(|| self.load(name).and_then(|host| self.remove(&host.name)))
    }

    fn remove(&self, name: &str) -> Result<(), HostsError> {
        let path = self.path(name);
        std::fs::remove_file(&path).map_err(|source| HostsError::File { path: path.display().to_string(), source })
    }

    fn load(&self, name: &str) -> Result<Host, HostsError> {
        let found = self.list()?.into_iter().find(|host| host.name == name);
        found.ok_or_else(|| HostsError::Unknown(name.to_owned()))
    }
}

/// Whether nobody will miss its record.
fn is_gone(host: &Host, now: u64) -> bool {
    let silent = now.saturating_sub(host.seen);
    match host.state {
        State::Pending => silent > SILENT_S,
        State::Approved => silent > STALE_S && !host.is_expected(),
        State::Given => false,
    }
}

/// A record; None when it has been removed meanwhile.
fn read(path: &Path) -> Result<Option<Host>, HostsError> {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(host) => Ok(Some(host)),
            // The parser's words could show a part of the configuration.
            Err(e) => Err(HostsError::Record { path: shown, reason: format!("line {}", e.line()) }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostsError::File { path: shown, source }),
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
