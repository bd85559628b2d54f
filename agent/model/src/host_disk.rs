//! Which files of a node may be a guest's disk: those of its own namespace, in one directory that holds nothing else.
//! Whoever may write a VirtualMachine would otherwise read and write any file of the node. Refuses to follow: a path is
//! taken as it is written, without links and without `..`.

/// What holds the disks, a directory a namespace.
pub const HOST_DISKS_DIR: &str = "/var/lib/furrow/host-disks";

/// Type of a disk that is made when it is missing.
pub const OR_CREATE: &str = "DiskOrCreate";

/// Share of a file system that stays free when a disk is made, in percent: the node lives on the same one.
const KEPT_FREE_PERCENT: u64 = 10;

/// Why a file may not be a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostDiskError {
    /// Somewhere else.
    #[error("{path:?} is not a file of the namespace's own directory, {HOST_DISKS_DIR}/{namespace}/")]
    Outside {
        /// As it was given.
        path: String,
        /// The guest's.
        namespace: String,
    },
    /// Too little room.
    #[error("a disk of {bytes} bytes would leave less than {KEPT_FREE_PERCENT} % of its file system free")]
    NoRoom {
        /// As asked for.
        bytes: u64,
    },
}

/// The name of the file in its namespace's directory.
///
/// # Errors
/// When it is anywhere else.
pub fn file_name<'a>(namespace: &str, path: &'a str) -> Result<&'a str, HostDiskError> {
    let outside = || HostDiskError::Outside { path: path.to_owned(), namespace: namespace.to_owned() };
    let rest = path.strip_prefix(HOST_DISKS_DIR).and_then(|rest| rest.strip_prefix('/'));
    let name = rest.and_then(|rest| rest.strip_prefix(namespace)?.strip_prefix('/')).ok_or_else(outside)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_file = !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain) && !namespace.is_empty();
    if is_file { Ok(name) } else { Err(outside()) }
}

/// Whether a disk of this size may be made on a file system of which so much is free.
///
/// # Errors
/// When the node would be left with too little.
pub fn check_room(bytes: u64, free: u64, total: u64) -> Result<(), HostDiskError> {
    let kept = total / 100 * KEPT_FREE_PERCENT;
    if bytes.saturating_add(kept) > free { Err(HostDiskError::NoRoom { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_of_its_namespaces_directory() {
        assert_eq!(file_name("shop", "/var/lib/furrow/host-disks/shop/db.img"), Ok("db.img"));
        for path in [
            "",
            "/etc/shadow",
            "/var/lib/furrow/host-disks/bank/db.img",
            "/var/lib/furrow/host-disks/shop/",
            "/var/lib/furrow/host-disks/shop/a/b",
            "/var/lib/furrow/host-disks/shop/..",
            "/var/lib/furrow/host-disks/shop/.hidden",
            "/var/lib/furrow/host-disks/shop/../bank/db.img",
            "/var/lib/furrow/host-disks//shop/db.img",
            "/var/lib/furrow/host-disks/shopping/db.img",
        ] {
            assert!(file_name("shop", path).is_err(), "{path}");
        }
        assert!(file_name("", "/var/lib/furrow/host-disks//db.img").is_err());
    }

    #[test]
    fn a_disk_leaves_the_node_room() {
        assert_eq!(check_room(80, 90, 100), Ok(()));
        assert_eq!(check_room(81, 90, 100), Err(HostDiskError::NoRoom { bytes: 81 }));
        assert_eq!(check_room(u64::MAX, 90, 100), Err(HostDiskError::NoRoom { bytes: u64::MAX }));
    }
}
