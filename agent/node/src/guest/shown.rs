//! The guests of this node as others in the agent may see them: their VMIs, and the file systems that their agents told of.
//! Kept by the dispatcher and the owners; read by metrics. Refuses to be a cache that decisions rest on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use furrow_api::VirtualMachineInstance;
use furrow_model::metrics::guest::GuestFilesystem;

use super::Key;

#[derive(Debug, Default)]
struct Entry {
    vmi: Option<Arc<VirtualMachineInstance>>,
    filesystems: Vec<GuestFilesystem>,
}

/// The guests of this node.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    guests: Mutex<HashMap<Key, Entry>>,
}

impl Shown {
    fn guests(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // An entry is replaced whole: one who panicked meanwhile left nothing half done.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest is there, or has changed.
    pub(super) fn put(&self, key: &Key, vmi: &Arc<VirtualMachineInstance>) {
        self.guests().entry(key.clone()).or_default().vmi = Some(Arc::clone(vmi));
    }

    /// What a guest's agent said of its file systems; empty once it is gone.
    pub(super) fn put_filesystems(&self, key: &Key, filesystems: Vec<GuestFilesystem>) {
        if let Some(entry) = self.guests().get_mut(key) {
            entry.filesystems = filesystems;
        }
    }

    /// A guest is gone.
    pub(super) fn remove(&self, key: &Key) {
        self.guests().remove(key);
    }

    /// Every guest, with the file systems that are known.
    pub(crate) fn all(&self) -> Vec<(Arc<VirtualMachineInstance>, Vec<GuestFilesystem>)> {
        let guests = self.guests();
        let known = guests.values().filter_map(|entry| Some((entry.vmi.clone()?, entry.filesystems.clone())));
        known.collect()
    }
}
