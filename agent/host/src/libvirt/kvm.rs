//! Whether this machine has KVM: `/dev/kvm` opens for reading and writing and speaks the one stable API version.
//! Refuses to judge whether a guest would boot in it: an operator sets `useEmulation` where it would not.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;

/// The only version there has been since Linux 2.6.22 (Documentation/virt/kvm/api.rst).
const KVM_API_VERSION: i32 = 12;

nix::ioctl_none!(
    /// `KVM_GET_API_VERSION`.
    kvm_get_api_version,
    0xAE,
    0x00
);

/// True when `/dev/kvm` can be used.
pub fn kvm_usable() -> bool {
    let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else { return false };
    // SAFETY: the descriptor is open for the length of the call; the request takes no argument.
    matches!(unsafe { kvm_get_api_version(device.as_raw_fd()) }, Ok(KVM_API_VERSION))
}
