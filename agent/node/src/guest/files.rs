//! The directory of a guest: `<guests>/<uid>/` with its seed, console socket and log, display socket and NVRAM. Owns
//! its mode and owner; refuses anything beyond it.

use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::Path;

use super::seed::SeedError;

/// The user that Debian's libvirt runs QEMU as. Where there is none QEMU runs as root, as in the testbed.
const QEMU_USER: &str = "libvirt-qemu";

/// Makes a guest's directory. QEMU itself makes the display's socket in it, so it belongs to QEMU's user; nobody else
/// may look into it, because a seed can hold secrets and a console log what was typed.
pub(super) fn ensure_guest_dir(dir: &Path) -> Result<(), SeedError> {
    let failed = |source| SeedError::Write { path: dir.to_owned(), source };
    if let Some(parent) = dir.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    match nix::unistd::User::from_name(QEMU_USER) {
        Ok(Some(user)) => chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed),
        Ok(None) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}
