//! Disks into a running guest and out of it. Owns the order that keeps an image from having two writers: taken on this node,
//! looked at in Ceph, then given to QEMU. Refuses to choose disks: the plan has. Processors are `super::plug`.

use furrow_host::libvirt::{DomainRecord, LibvirtError};
use furrow_model::domain::{ALIAS_PREFIX, free_target, render_disk};

use super::execute::{Failure, Pass};

/// What QEMU says (`device_del`) while a guest still holds a device that it was asked to let go of.
const ASKED_ALREADY: &str = "already in the process of unplug";

impl Pass<'_> {
    /// Plugs a disk in. What it took is given back by the next pass when QEMU did not take it.
    pub(super) async fn plug_in(&self, disk: &str, domain: Option<&DomainRecord>) -> Result<(), Failure> {
        let (Some(request), Some(domain)) = (self.request, domain) else { return Ok(()) };
        let Some(volume) = request.volumes().find(|volume| volume.name == disk) else { return Ok(()) };
        let name = self.key.domain_name();
        if request.is_exclusive(volume) {
            let image = format!("{}/{}", volume.pool, volume.image);
            if let Err((image, other)) = self.context.images.take(&name, &[image]) {
                let message =
                    format!("could not plug in disk {disk}: its image {image} is in use by the domain {other}");
                return Err(Failure { reason: "ImageInUse", message, permanent: false });
            }
        }
        let (_, source) = self.check_volume(request, volume).await?;
        let spec = request.disk(disk, source).map_err(|error| Failure::from(&error))?;
        let used: Vec<_> = domain.disks.iter().map(|live| live.target.clone()).collect();
        let target = free_target(spec.bus, &used);
        let xml = render_disk(&spec, target.clone())?;
        self.context.domains.plug_in(&name, xml).await?;
        tracing::info!(vm = %self.key, disk, target, "disk plugged in");
        if let Some(vmi) = &self.subject.vmi {
            let note = format!("Successfully attach hotplugged volume {disk} to VM");
            self.context.events.normal(vmi, "VolumeReady", &note);
        }
        Ok(())
    }

    /// Asks the guest to let go of a disk. That it has is seen by the disk's absence.
    pub(super) async fn plug_out(&self, disk: &str) -> Result<(), Failure> {
        let asked = self.context.domains.plug_out(&self.key.domain_name(), format!("{ALIAS_PREFIX}{disk}")).await;
        match asked {
            // A guest that is gone, or was asked before and has not answered yet.
            Err(LibvirtError::WrongState { .. } | LibvirtError::NoDomain { .. }) => Ok(()),
            Err(LibvirtError::Failed { message, .. }) if message.contains(ASKED_ALREADY) => Ok(()),
            other => {
                other?;
                tracing::info!(vm = %self.key, disk, "guest asked to let go of a disk");
                Ok(())
            }
        }
    }
}
