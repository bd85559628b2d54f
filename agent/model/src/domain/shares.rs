//! File systems that a guest mounts by virtiofs: their devices, and the memory that guest and server both map. libvirt
//! starts a virtiofsd for each and finds it by `/usr/share/qemu/vhost-user`; its sandbox is virtiofsd's own default, a
//! namespace whose root is the directory. Owns that all of them are read-only: virtiofsd, which serves as root, refuses a
//! write whatever the guest's kernel thinks of the mount. Refuses to know what is in the directories.

use std::collections::HashSet;

use serde::Serialize;

use super::document::{Domain, Empty};
use super::memory::MemorySource;
use super::spec::{DomainError, DomainSpec, HostFacts};

/// Longest name of a shared file system, bytes: the device's field for its tag (virtio 1.2, 5.11.4).
pub const TAG_MAX_BYTES: usize = 36;

/// Length of the request queue; KubeVirt's.
const QUEUE: u32 = 1024;

/// `<access>` of `<memoryBacking>`.
#[derive(Debug, Serialize)]
pub(super) struct MemoryAccess {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

/// `<filesystem>`.
#[derive(Debug, Serialize)]
pub(super) struct Filesystem {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@accessmode")]
    access_mode: &'static str,
    driver: Driver,
    source: Directory,
    target: Directory,
    readonly: Empty,
}

#[derive(Debug, Serialize)]
struct Driver {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@queue")]
    queue: u32,
}

#[derive(Debug, Serialize)]
struct Directory {
    #[serde(rename = "@dir")]
    dir: String,
}

pub(super) fn validate(spec: &DomainSpec) -> Result<(), DomainError> {
    let mut seen = HashSet::new();
    for name in &spec.devices.shares {
        if name.len() > TAG_MAX_BYTES {
            return Err(DomainError::ShareName { name: name.clone(), max: TAG_MAX_BYTES });
        }
        if !seen.insert(name) {
            return Err(DomainError::NameTwice { name: name.clone() });
        }
    }
    Ok(())
}

/// After the memory: what backs it may be huge pages already, and stays so.
pub(super) fn configure(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    if spec.devices.shares.is_empty() {
        return;
    }
    let backing = domain.memory_backing.get_or_insert_default();
    backing.source = Some(MemorySource::MEMFD);
    backing.access = Some(MemoryAccess { mode: "shared" });
    let shares = spec.devices.shares.iter();
    domain.devices.filesystems = shares
        .map(|name| Filesystem {
            kind: "mount",
            access_mode: "passthrough",
            driver: Driver { kind: "virtiofs", queue: QUEUE },
            source: Directory { dir: facts.shares_dir.join(name).display().to_string() },
            target: Directory { dir: name.clone() },
            readonly: Empty {},
        })
        .collect();
}
