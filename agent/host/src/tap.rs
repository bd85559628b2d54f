//! Persistent tap devices (Documentation/networking/tuntap.rst): QEMU's end of a guest's NIC, made here so that
//! neither QEMU nor libvirt needs the right to. Refuses to take over a device that exists: whether it fits is the
//! caller's judgement. Removing one is `Netlink::delete_link`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const TUN_DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h
const IFF_TAP: i16 = 0x0002;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const IFF_TUN_EXCL: i16 = i16::MIN; // 0x8000: fail if the device exists

/// The part of `struct ifreq` (40 bytes on 64-bit Linux) that TUNSETIFF reads.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: i16,
    padding: [u8; 22],
}

/// The two requests of linux/if_tun.h. Both codes are declared with the size of an int, whatever they point to.
mod request {
    #![allow(missing_docs, unreachable_pub, reason = "made by nix's macros, which take no documentation")]
    use std::ffi::c_int;

    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<c_int>()), super::TunRequest);
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<c_int>()));
}

/// Why there is no new tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel takes 1 to 15 bytes.
    #[error("{0:?} cannot be the name of a tap")]
    Name(String),
    /// The tun driver is missing, or this process may not use it.
    #[error("could not open {TUN_DEVICE}")]
    Driver(#[source] io::Error),
    /// Exists already (EBUSY), or not permitted.
    #[error("could not make tap {name}")]
    Make {
        /// Its name.
        name: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The host must not speak on a guest's wire.
    #[error("could not silence the host on tap {name}: {setting}")]
    Silence {
        /// Its name.
        name: String,
        /// The sysctl.
        setting: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Makes a persistent tap with virtio headers, down, with nothing attached. Blocks for microseconds.
///
/// # Errors
/// See [`TapError`]; nothing is left behind.
pub fn create(name: &str, multi_queue: bool) -> Result<(), TapError> {
    let mut wanted = TunRequest { name: [0; 16], flags: 0, padding: [0; 22] };
    // The last byte stays the terminator.
    if name.is_empty() || name.len() > 15 || name.contains(['/', '\0', '%']) {
        return Err(TapError::Name(name.to_owned()));
    }
    wanted.name[..name.len()].copy_from_slice(name.as_bytes());
    wanted.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL;
    if multi_queue {
        wanted.flags |= IFF_MULTI_QUEUE;
    }
    let driver = File::options().read(true).write(true).open(TUN_DEVICE).map_err(TapError::Driver)?;
    let make = |errno: nix::Error| TapError::Make { name: name.to_owned(), source: errno.into() };
    // SAFETY: the descriptor is open, and `wanted` is a live structure of the size of `struct ifreq`.
    unsafe { request::set_iff(driver.as_raw_fd(), &raw const wanted) }.map_err(make)?;
    // Until it is persistent, an error below removes the device with the descriptor.
    silence(name)?;
    // SAFETY: the descriptor is open and attached to the device; the argument is a plain number.
    unsafe { request::set_persist(driver.as_raw_fd(), 1) }.map_err(make)?;
    Ok(())
}

/// Keeps the host's own IP off the guest's wire. With the kernel datapath OVS takes every frame first; with the
/// userspace one the host would see the guest's frames too, answer its ARP and forward its packets.
fn silence(name: &str) -> Result<(), TapError> {
    let settings = [("ipv6", "disable_ipv6", "1"), ("ipv4", "arp_ignore", "8"), ("ipv4", "forwarding", "0")];
    for (family, setting, value) in settings {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
        match std::fs::write(&path, value) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(TapError::Silence { name: name.to_owned(), setting: path, source });
            }
            // Without that family in the kernel there is nothing to silence.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Netlink;

    /// Runs on a thread with a network namespace of its own; needs root and the tun driver, and says so without.
    fn in_namespace(work: impl AsyncFnOnce() + Send + 'static) {
        let unshared = || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err()
                || !std::fs::exists(TUN_DEVICE).unwrap()
            {
                eprintln!("SKIPPED: no right to make a network namespace, or no {TUN_DEVICE}");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work());
        };
        std::thread::spawn(unshared).join().unwrap();
    }

    #[test]
    fn a_tap_stays_and_knows_its_queues() {
        in_namespace(async || {
            create("fw1", false).unwrap();
            create("fw2", true).unwrap();
            let netlink = Netlink::open().unwrap();
            let one = netlink.link("fw1").await.unwrap().unwrap();
            assert_eq!((one.kind.as_deref(), one.tun_multi_queue, one.up), (Some("tun"), Some(false), false));
            let two = netlink.link("fw2").await.unwrap().unwrap();
            assert_eq!(two.tun_multi_queue, Some(true));
            netlink.set_up(one.index, Some(9000)).await.unwrap();
            let one = netlink.link("fw1").await.unwrap().unwrap();
            assert_eq!((one.up, one.mtu), (true, 9000));
            netlink.delete_link(one.index).await.unwrap();
            netlink.delete_link(one.index).await.unwrap();
            assert_eq!(netlink.link("fw1").await.unwrap(), None);
        });
    }

    #[test]
    fn a_name_in_use_or_too_long_is_refused() {
        in_namespace(async || {
            create("fw1", false).unwrap();
            assert!(matches!(create("fw1", false), Err(TapError::Make { .. })));
            assert!(matches!(create("fw01234567890123", false), Err(TapError::Name(_))));
        });
    }

    #[test]
    fn a_route_through_a_gateway_nobody_reaches_is_refused() {
        in_namespace(async || {
            let netlink = Netlink::open().unwrap();
            create("fw1", false).unwrap();
            let link = netlink.link("fw1").await.unwrap().unwrap();
            netlink.set_up(link.index, None).await.unwrap();
            let refused = netlink.replace_route(("10.1.0.0".parse().unwrap(), 24), "10.0.0.2".parse().unwrap()).await;
            assert!(refused.is_err(), "the gateway is not on a connected network");
            assert_eq!(netlink.routes().await.unwrap(), []);
        });
    }
}
