//! The record of finished steps, `/var/lib/furrow/bootstrap/state.json`: for people and for `status`. A step's own look at
//! the machine decides what it does, so a lost or stale record loses nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::replace;

/// Step name to the time it last finished, seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) finished: BTreeMap<String, u64>,
}

/// Where the record lies.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("bootstrap/state.json")
}

/// The record, empty when there is none or it cannot be read.
pub(crate) fn load(state: &Path) -> Record {
    let text = std::fs::read_to_string(path(state)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Notes a step as finished, on stable storage before it returns.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn finish(state: &Path, step: &str, now: u64) -> std::io::Result<()> {
    let mut record = load(state);
    record.finished.insert(step.to_owned(), now);
    let text = serde_json::to_string_pretty(&record)? + "\n";
    replace(&path(state), text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        finish(dir.path(), "hostname", 1).expect("written");
        finish(dir.path(), "furrow-ca", 2).expect("written");
        assert_eq!(load(dir.path()).finished.len(), 2);
    }

    #[test]
    fn a_broken_record_is_an_empty_one() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("bootstrap")).expect("made");
        std::fs::write(path(dir.path()), "{").expect("written");
        assert_eq!(load(dir.path()), Record::default());
    }
}
