//! The list of fields that the agent does not realise. Admission refuses them first, with the same paths; the agent
//! refuses them again because it may be older or newer than the control plane that let an object in.

use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::{Devices, Disk, DomainSpec, Interface, StartStrategy, Volume};

use super::convert::ConvertError;

/// Refuses a VMI that uses a field which is not realised.
pub(super) fn refuse(vmi: &VirtualMachineInstance) -> Result<(), ConvertError> {
    let spec = &vmi.spec;
    let mut found = Vec::new();
    let mut check = |used: bool, path: &str| found.extend(used.then(|| format!("spec.{path}")));
    check(!spec.resource_claims.is_empty(), "resourceClaims");
    for (probe, name) in [(&spec.liveness_probe, "livenessProbe"), (&spec.readiness_probe, "readinessProbe")] {
        let Some(probe) = probe else { continue };
        let asked = |host: Option<&String>| host.is_some_and(|host| !host.is_empty());
        let get = probe.http_get.as_ref().is_some_and(|get| asked(get.host.as_ref()));
        check(get, &format!("{name}.httpGet.host"));
        let socket = probe.tcp_socket.as_ref().is_some_and(|socket| asked(socket.host.as_ref()));
        check(socket, &format!("{name}.tcpSocket.host"));
    }
    check(spec.start_strategy.as_ref().is_some_and(|strategy| *strategy != StartStrategy::Paused), "startStrategy");
    check(spec.architecture.as_deref().is_some_and(|arch| !arch.is_empty() && arch != "amd64"), "architecture");
    found.extend(domain(&spec.domain).into_iter().map(|path| format!("spec.domain.{path}")));
    found.extend(devices(&spec.domain.devices).into_iter().map(|path| format!("spec.domain.devices.{path}")));
    for disk in &spec.domain.devices.disks {
        found.extend(disk_fields(disk).map(|path| format!("spec.domain.devices.disks[{}].{path}", disk.name)));
        if !spec.volumes.iter().any(|volume| volume.name == disk.name) {
            return Err(ConvertError::NoVolume { disk: disk.name.clone() });
        }
    }
    for filesystem in &spec.domain.devices.filesystems {
        // Anything else would have to be mounted on the node.
        let shown = spec.volumes.iter().any(|volume| volume.name == filesystem.name && volume.is_config());
        found.extend((!shown).then(|| format!("spec.domain.devices.filesystems[{}]", filesystem.name)));
    }
    for interface in &spec.domain.devices.interfaces {
        let fields = interface_fields(interface);
        found.extend(fields.map(|path| format!("spec.domain.devices.interfaces[{}].{path}", interface.name)));
    }
    for volume in &spec.volumes {
        found.extend(volume_source(volume).map(|path| format!("spec.volumes[{}].{path}", volume.name)));
    }
    found.into_iter().next().map_or(Ok(()), |path| Err(ConvertError::Unsupported { path }))
}

fn domain(spec: &DomainSpec) -> Vec<&'static str> {
    let firmware = spec.firmware.clone().unwrap_or_default();
    used([(firmware.acpi.is_some(), "firmware.acpi"), (spec.launch_security.is_some(), "launchSecurity")])
}

fn devices(devices: &Devices) -> Vec<&'static str> {
    used([
        (devices.use_virtio_transitional == Some(true), "useVirtioTransitional"),
        (devices.autoattach_vsock == Some(true), "autoattachVSOCK"),
        (!devices.gpus.is_empty(), "gpus"),
        (!devices.host_devices.is_empty(), "hostDevices"),
        (devices.watchdog.as_ref().is_some_and(|watchdog| watchdog.diag288.is_some()), "watchdog.diag288"),
    ])
}

fn disk_fields(disk: &Disk) -> impl Iterator<Item = &'static str> {
    used([
        (disk.lun.is_some(), "lun"),
        (
            disk.block_size
                .as_ref()
                .is_some_and(|size| size.custom.as_ref().is_some_and(|custom| custom.discard_granularity.is_some())),
            "blockSize.custom.discardGranularity",
        ),
        (disk.tag.is_some(), "tag"),
        (disk.changed_block_tracking == Some(true), "changedBlockTracking"),
    ])
    .into_iter()
}

fn interface_fields(interface: &Interface) -> impl Iterator<Item = &'static str> {
    used([
        (interface.slirp.is_some(), "slirp"),
        (interface.sriov.is_some(), "sriov"),
        (interface.macvtap.is_some(), "macvtap"),
        (interface.passt.is_some(), "passt"),
        (interface.passt_binding.is_some(), "passtBinding"),
        (interface.binding.is_some(), "binding"),
        (interface.tag.is_some(), "tag"),
    ])
    .into_iter()
}

fn volume_source(volume: &Volume) -> impl Iterator<Item = &'static str> {
    used([
        (volume.host_disk.as_ref().is_some_and(|disk| disk.shared == Some(true)), "hostDisk.shared"),
        (volume.memory_dump.is_some(), "memoryDump"),
        (volume.container_path.is_some(), "containerPath"),
    ])
    .into_iter()
}

fn used<const N: usize>(fields: [(bool, &'static str); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(used, _)| *used).map(|(_, path)| path).collect()
}
