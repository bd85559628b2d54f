//! The guest's USB bus: its controller, and the ports by which a client lends the guest devices of its own (usbredir). Owns
//! their number and the names of their sockets, which QEMU serves, one client each. Refuses devices of the node.

use serde::Serialize;

use super::document::{Controller, Domain, SocketSource};
use super::spec::{DiskBus, DomainSpec, HostFacts};

/// Devices that clients can lend a guest at once: KubeVirt's `UsbClientPassthroughMaxNumberOf`.
pub const USB_REDIRECTIONS: u8 = 4;

/// The socket of one of them in the guest's directory. `slot`: below [`USB_REDIRECTIONS`].
#[must_use]
pub fn usb_redirection_socket(slot: u8) -> String {
    format!("usbredir-{slot}.sock")
}

/// `<redirdev>`.
#[derive(Debug, Serialize)]
pub(super) struct Redirection {
    #[serde(rename = "@bus")]
    bus: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    source: SocketSource,
}

/// After the inputs and the disks: they are on the bus too.
pub(super) fn configure(spec: &DomainSpec, facts: &HostFacts, domain: &mut Domain) {
    let redirected = spec.devices.usb_redirection;
    let inputs = spec.inputs.iter().any(|input| !input.virtio);
    let needed = redirected || inputs || spec.disks.iter().any(|disk| disk.bus == DiskBus::Usb);
    // Without it libvirt adds a controller that polls for devices which are not there.
    let model = if needed { "qemu-xhci" } else { "none" };
    domain.devices.controllers.push(Controller { kind: "usb", index: 0, model: Some(model) });
    let slots = if redirected { USB_REDIRECTIONS } else { 0 };
    domain.devices.redirections = (0..slots)
        .map(|slot| {
            let path = facts.guest_dir.join(usb_redirection_socket(slot)).display().to_string();
            Redirection { bus: "usb", kind: "unix", source: SocketSource { mode: "bind", path } }
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_of_a_guest_fit_an_address() {
        let dir = "/var/lib/furrow/guests/01234567-89ab-cdef-0123-456789abcdef";
        for slot in 0..USB_REDIRECTIONS {
            let path = format!("{dir}/{}", usb_redirection_socket(slot));
            // `sun_path` of unix(7) has 108 bytes, with the zero at its end.
            assert!(path.len() < 108, "{path}");
        }
    }
}
