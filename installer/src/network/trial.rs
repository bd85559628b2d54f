//! A change of the network that comes back by itself. Whoever changes the network of a server from afar may lose it; so the
//! old one is on disk, and the way back is armed, before anything changes.
//!
//! ```text
//!  (nothing) --begin: record on disk, timer, then the change--> pending --confirm: record removed--> (changed)
//!                                                                  |
//!                           60 s, or the next boot: rollback ------+--> (as before)
//! ```
//! Removing the record is what confirms. Until then a systemd timer, or at the next boot `furrow-network-rollback.service`
//! before networkd, puts the old files back; neither needs the program that began. Refuses a change of the address by which
//! etcd and Ceph's monitor of this node are known.

mod networkd;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::cards::Card;
use super::{DIR, files, made, present};
use crate::config::{self, Management, NodeConfig, is_mac};
use crate::files::{replace, try_lock, update};
use crate::steps::{StepError, file_error, now};

/// How long a change is tried.
pub(crate) const TRIAL: Duration = Duration::from_secs(60);
/// Beginning, confirming and going back exclude each other; each of them ends within this.
const LOCK_TIMEOUT: Duration = Duration::from_secs(90);
/// What makes this node's address one that cannot change: etcd's data.
const ETCD: &str = "/var/lib/rancher/k3s/server/db";

/// Why the network stays, or became again, what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("another change of the network is being tried: confirm it or wait until it is taken back")]
    Pending,
    #[error("there is no change of the network to confirm: it was taken back, or was never made")]
    NotPending,
    #[error(
        "management.address: etcd and Ceph's monitor of this node are known by {old}, so that {new} cannot take its place"
    )]
    AddressIsFixed { old: std::net::IpAddr, new: std::net::IpAddr },
    #[error("management: there is no network card {wanted}; there are: {present}")]
    NoSuchNic { wanted: String, present: String },
    #[error("management: {nic} is a port of {master}, which carries the networks of guests")]
    IsPort { nic: String, master: String },
    #[error("another furrow-install is changing the network for more than {} s", LOCK_TIMEOUT.as_secs())]
    Busy,
    #[error("the change was taken back")]
    TakenBack(#[source] Box<TrialError>),
    #[error(transparent)]
    Step(#[from] StepError),
}

/// What was there before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// When it was begun, seconds since 1970.
    begun: u64,
    /// node.yaml.
    node_yaml: String,
    /// The units, by their file names.
    units: BTreeMap<String, String>,
    /// Devices that the change makes, and the old network did not have.
    new_devices: BTreeSet<String>,
    /// NICs of both networks.
    nics: BTreeSet<String>,
    /// Whether the bootstrap was at work, and was stopped.
    bootstrap: bool,
}

/// Where things are; tests have another root.
struct Places {
    node_yaml: PathBuf,
    units: PathBuf,
    state: PathBuf,
}

impl Places {
    fn of(root: &Path) -> Places {
        Places {
            node_yaml: root.join("etc/furrow/node.yaml"),
            units: root.join(DIR.trim_start_matches('/')),
            state: root.join("var/lib/furrow/network"),
        }
    }

    fn record(&self) -> PathBuf {
        self.state.join("trial.json")
    }

    async fn lock(&self) -> Result<Flock<File>, TrialError> {
        let path = self.state.join("lock");
        let begun = Instant::now();
        while begun.elapsed() < LOCK_TIMEOUT {
            if let Some(lock) = try_lock(&path).map_err(file_error("lock", &path))? {
                return Ok(lock);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(TrialError::Busy)
    }

    fn load(&self) -> Result<Option<Record>, StepError> {
        let path = self.record();
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(file_error("read", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| file_error("understand", &path)(e.into()))
    }

    /// The record, on stable storage before anything changes. It holds node.yaml, which may hold secrets.
    fn arm(&self, record: &Record) -> Result<(), StepError> {
        let path = self.record();
        let text = serde_json::to_vec_pretty(record).map_err(|e| file_error("write", &path)(e.into()))?;
        replace(&path, &text, 0o600).map_err(file_error("write", &path))
    }

    fn disarm(&self) -> Result<(), StepError> {
        let path = self.record();
        std::fs::remove_file(&path).map_err(file_error("remove", &path))?;
        let synced = File::open(&self.state).and_then(|dir| dir.sync_all());
        synced.map_err(file_error("sync", &self.state))
    }

    /// Makes the files such: units that are not named are removed.
    fn write(&self, node_yaml: &str, units: &BTreeMap<String, String>) -> Result<(), StepError> {
        for name in present(&self.units).map_err(file_error("read", &self.units))?.into_keys() {
            let path = self.units.join(&name);
            if !units.contains_key(&name) {
                std::fs::remove_file(&path).map_err(file_error("remove", &path))?;
            }
        }
        for (name, text) in units {
            let path = self.units.join(name);
            update(&path, text, 0o644).map_err(file_error("write", &path))?;
        }
        update(&self.node_yaml, node_yaml, 0o600).map_err(file_error("write", &self.node_yaml))
    }
}

fn here() -> Places {
    Places::of(Path::new("/"))
}

/// Tries the network of this node.yaml: it is in place when this returns, and is taken back after [`TRIAL`] unless
/// [`confirm`] comes first.
///
/// # Errors
/// Why nothing has changed.
pub(crate) async fn begin(text: &str) -> Result<(), TrialError> {
    let places = here();
    let _lock = places.lock().await?;
    if places.load()?.is_some() {
        return Err(TrialError::Pending);
    }
    let old_text = std::fs::read_to_string(&places.node_yaml).map_err(file_error("read", &places.node_yaml))?;
    let (old, new) = (config::parse(&old_text)?, config::parse(text)?);
    allow(&old, &new, Path::new(ETCD).exists(), &networkd::nics())?;
    let record = Record {
        begun: now(),
        units: present(&places.units).map_err(file_error("read", &places.units))?,
        new_devices: made(&new.management).difference(&made(&old.management)).cloned().collect(),
        nics: nics_of(&old.management).union(&nics_of(&new.management)).cloned().collect(),
        bootstrap: networkd::stop_bootstrap().await?,
        node_yaml: old_text,
    };
    places.arm(&record)?;
    let done = async {
        networkd::arm_timer().await?;
        places.write(text, &files(&new.management))?;
        let gone: Vec<String> = made(&old.management).difference(&made(&new.management)).cloned().collect();
        networkd::apply(&gone, &record.nics).await
    };
    match done.await {
        Ok(()) => Ok(()),
        Err(error) => {
            take_back(&places, &record).await?;
            Err(TrialError::TakenBack(Box::new(error)))
        }
    }
}

/// What must hold before a change is tried.
fn allow(old: &NodeConfig, new: &NodeConfig, is_server: bool, nics: &[Card]) -> Result<(), TrialError> {
    if is_server && old.management.address != new.management.address {
        return Err(TrialError::AddressIsFixed { old: old.management.address, new: new.management.address });
    }
    for wanted in nics_of(&new.management) {
        let found = nics.iter().find(|n| n.name == wanted || n.mac.eq_ignore_ascii_case(&wanted));
        let Some(nic) = found else {
            let present = nics.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(TrialError::NoSuchNic { wanted, present });
        };
        if let Some(master) = nic.master.as_ref().filter(|m| **m != old.management.interface) {
            return Err(TrialError::IsPort { nic: nic.name.clone(), master: master.clone() });
        }
    }
    Ok(())
}

/// The NICs of a network, by name or MAC address as node.yaml has them.
fn nics_of(management: &Management) -> BTreeSet<String> {
    match &management.bond {
        Some(bond) => bond.members.iter().map(|m| if is_mac(m) { m.to_lowercase() } else { m.clone() }).collect(),
        None => BTreeSet::from([management.interface.clone()]),
    }
}

/// Keeps the network that is being tried; the rest of the node follows it.
///
/// # Errors
/// When it has been taken back already.
pub(crate) async fn confirm() -> Result<(), TrialError> {
    let places = here();
    let _lock = places.lock().await?;
    let record = places.load()?.ok_or(TrialError::NotPending)?;
    places.disarm()?;
    networkd::stop_timer().await;
    networkd::follow(record.bootstrap).await;
    Ok(())
}

/// Puts the old network back, if one is being tried. Says whether it did.
///
/// # Errors
/// What could not be put back; the record stays, so that the next boot tries again.
pub(crate) async fn rollback() -> Result<bool, TrialError> {
    let places = here();
    let _lock = places.lock().await?;
    let Some(record) = places.load()? else { return Ok(false) };
    take_back(&places, &record).await?;
    Ok(true)
}

async fn take_back(places: &Places, record: &Record) -> Result<(), TrialError> {
    places.write(&record.node_yaml, &record.units)?;
    let gone: Vec<String> = record.new_devices.iter().cloned().collect();
    // The files count: where networkd cannot be told, it reads them when it starts.
    let told = networkd::apply(&gone, &record.nics).await;
    places.disarm()?;
    networkd::stop_timer().await;
    if record.bootstrap {
        networkd::follow(true).await;
    }
    told
}

/// Seconds until the network that is being tried is taken back; None when none is.
pub(crate) fn seconds_left() -> Option<u64> {
    let record = here().load().ok().flatten()?;
    Some((record.begun + TRIAL.as_secs()).saturating_sub(now()))
}

/// Waits until no network is being tried any more: what is built on an address that may go must wait.
pub(crate) async fn settled() {
    let begun = Instant::now();
    while seconds_left().is_some() && begun.elapsed() < TRIAL + LOCK_TIMEOUT {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
