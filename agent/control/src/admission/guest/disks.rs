//! Disks and volumes of a guest, and the seeds of cloud-init.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use furrow_api::vmi::{CloudInit, Disk, DiskBus, VirtualMachineInstanceSpec, Volume};

use super::is_label;
use crate::admission::causes::Causes;

/// Longest user data or network data that stands in the spec itself, bytes decoded; KubeVirt's. More goes to a Secret.
const INLINE_MAX: usize = 2048;

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    volumes(base, spec, causes);
    let mut seen = HashMap::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let field = format!("{base}.domain.devices.disks[{index}]");
        if let Some(first) = seen.insert(disk.name.as_str(), index) {
            let other = format!("{base}.domain.devices.disks[{first}]");
            causes.duplicate(format!("{field}.name"), format!("{field} and {other} must not have the same Name."));
        }
        if !spec.volumes.iter().any(|volume| volume.name == disk.name) {
            let field = format!("{field}.name");
            causes.invalid(&field, format!("{field} '{}' not found.", disk.name));
        }
        metrics_disk(&field, disk, &spec.volumes, causes);
        self::disk(&field, disk, spec.volumes.iter().find(|volume| volume.name == disk.name), causes);
    }
    boot_order(base, spec, causes);
}

fn disk(field: &str, disk: &Disk, volume: Option<&Volume>, causes: &mut Causes) {
    let targets = [disk.disk.is_some(), disk.cdrom.is_some(), disk.lun.is_some()];
    if targets.into_iter().filter(|there| *there).count() > 1 {
        causes.invalid(field, format!("{field} must have only a single device type"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if disk.serial.as_deref().is_some_and(|serial| !serial.chars().all(allowed)) {
        let field = format!("{field}.serial");
        causes.invalid(
            &field,
            format!("{field} must be made up of the following characters [A-Za-z0-9_.+-], if specified"),
        );
    }
    if let Some(cdrom) = &disk.cdrom {
        if cdrom.bus == Some(DiskBus::Virtio) {
            causes.invalid(format!("{field}.cdrom.bus"), "Bus type virtio is invalid for a CD-ROM");
        }
        if cdrom.readonly == Some(false) {
            causes.unsupported(format!("{field}.cdrom.readonly"), "a CD-ROM is always read-only");
        }
    }
    let target = disk.disk.as_ref();
    let is_sata = target.and_then(|target| target.bus.as_ref()).is_none_or(|bus| *bus == DiskBus::Sata);
    let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
    if disk.cdrom.is_none() && is_sata && claim.is_some_and(|claim| claim.read_only == Some(true)) {
        let text = "the volume is read-only, and a disk on the sata bus cannot be: use virtio or scsi";
        causes.unsupported(format!("{field}.disk.bus"), text);
    }
    if is_sata && target.is_some_and(|target| target.readonly) && !volume.is_some_and(is_file) {
        let text = "a disk on the sata bus cannot be read-only: use virtio or scsi";
        causes.unsupported(format!("{field}.disk.readonly"), text);
    }
}

/// KubeVirt's rules: what reads it in the guest looks for a virtio disk.
fn metrics_disk(field: &str, disk: &Disk, volumes: &[Volume], causes: &mut Causes) {
    if !volumes.iter().any(|volume| volume.name == disk.name && volume.downward_metrics.is_some()) {
        return;
    }
    let field = format!("{field}.disk");
    if disk.cdrom.is_some() || disk.lun.is_some() {
        let text = format!("DownwardMetrics volume must be mapped to a disk, but disk is not set on {field}.");
        return causes.required(field, text);
    }
    let bus = disk.disk.as_ref().and_then(|target| target.bus.as_ref());
    if let Some(bus) = bus.filter(|bus| **bus != DiskBus::Virtio) {
        let field = format!("{field}.bus");
        let bus = bus.as_str();
        let text = format!("DownwardMetrics volume must be mapped to virtio bus, but {field} is set to {bus}");
        causes.invalid(field, text);
    }
}

/// Whether a volume is a file that is written anew at each start, so that what a guest writes to it is lost anyway.
fn is_file(volume: &Volume) -> bool {
    let seed = volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some();
    seed || volume.object_kind().is_some() || volume.downward_metrics.is_some()
}

/// Boot order is one sequence over disks and interfaces.
fn boot_order(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let devices = &spec.domain.devices;
    let disks = devices.disks.iter().enumerate().map(|(i, disk)| (format!("disks[{i}]"), disk.boot_order));
    let interfaces = devices.interfaces.iter().enumerate().map(|(i, nic)| (format!("interfaces[{i}]"), nic.boot_order));
    let mut seen = HashMap::new();
    for (device, order) in disks.chain(interfaces) {
        let Some(order) = order else { continue };
        let field = format!("{base}.domain.devices.{device}.bootOrder");
        if order < 1 {
            causes.invalid(&field, format!("{field} must have a boot order > 0, if supplied"));
        } else if seen.insert(order, ()).is_some() {
            causes.duplicate(&field, format!("Boot order for {field} already set for a different device."));
        }
    }
}

fn volumes(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let mut seen = HashMap::new();
    let mut seeds = Vec::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("{base}.volumes[{index}]");
        if !is_label(&volume.name) {
            causes.invalid(format!("{field}.name"), format!("{:?} is not a DNS label", volume.name));
        }
        if let Some(first) = seen.insert(volume.name.as_str(), index) {
            let other = format!("{base}.volumes[{first}]");
            causes.duplicate(format!("{field}.name"), format!("{field} and {other} must not have the same Name."));
        }
        if sources(volume) != 1 {
            causes.invalid(&field, format!("{field} must have exactly one source type set"));
        }
        let claims = [
            ("persistentVolumeClaim.claimName", volume.persistent_volume_claim.as_ref().map(|claim| &claim.claim_name)),
            ("dataVolume.name", volume.data_volume.as_ref().map(|reference| &reference.name)),
        ];
        for (part, name) in claims {
            if name.is_some_and(String::is_empty) {
                causes.required(format!("{field}.{part}"), "must not be empty");
            }
        }
        let kinds = [
            ("cloudInitNoCloud", volume.cloud_init_no_cloud.as_ref()),
            ("cloudInitConfigDrive", volume.cloud_init_config_drive.as_ref()),
        ];
        for (kind, source) in kinds {
            let Some(source) = source else { continue };
            cloud_init(&format!("{field}.{kind}"), source, causes);
            seeds.push(format!("{field}.{kind}"));
        }
    }
    // cloud-init takes the first that it finds, and which one that is depends on the guest.
    for other in seeds.iter().skip(1) {
        causes.invalid(other, format!("{other} and {} are both cloud-init seeds: one is all a guest reads", seeds[0]));
    }
    if spec.volumes.iter().filter(|volume| volume.downward_metrics.is_some()).count() > 1 {
        let field = format!("{base}.volumes");
        causes.invalid(&field, format!("{field} must have max one downwardMetric volume set"));
    }
    same_claim(base, spec, causes);
}

/// Two disks on one claim would write over each other.
fn same_claim(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let mut seen = HashMap::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
        let Some(claim) = claim.or(volume.data_volume.as_ref().map(|reference| reference.name.as_str())) else {
            continue;
        };
        if let Some(first) = seen.insert(claim, index) {
            let field = format!("{base}.volumes[{index}]");
            causes
                .duplicate(&field, format!("{field} and {base}.volumes[{first}] must not be the same claim, {claim}"));
        }
    }
}

fn sources(volume: &Volume) -> usize {
    let there = [
        volume.cloud_init_config_drive.is_some(),
        volume.cloud_init_no_cloud.is_some(),
        volume.config_map.is_some(),
        volume.container_disk.is_some(),
        volume.container_path.is_some(),
        volume.data_volume.is_some(),
        volume.downward_api.is_some(),
        volume.downward_metrics.is_some(),
        volume.empty_disk.is_some(),
        volume.ephemeral.is_some(),
        volume.host_disk.is_some(),
        volume.memory_dump.is_some(),
        volume.persistent_volume_claim.is_some(),
        volume.secret.is_some(),
        volume.service_account.is_some(),
        volume.sysprep.is_some(),
    ];
    there.into_iter().filter(|there| *there).count()
}

fn cloud_init(field: &str, source: &CloudInit, causes: &mut Causes) {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let user = [source.secret_ref.is_some(), given(&source.user_data_base64), given(&source.user_data)];
    let network =
        [source.network_data_secret_ref.is_some(), given(&source.network_data_base64), given(&source.network_data)];
    let count = |places: [bool; 3]| places.into_iter().filter(|there| *there).count();
    if count(user) > 1 {
        causes.invalid(field, format!("{field} must have only one userdatasource set."));
    }
    if count(network) > 1 {
        causes.invalid(field, format!("{field} must have only one networkdata source set."));
    }
    if count(user) + count(network) == 0 {
        causes.required(field, format!("{field} must have at least one userdatasource or one networkdatasource set."));
    }
    let parts = [
        ("userData", &source.user_data, &source.user_data_base64, "userdata", "UserDataSecretRef"),
        ("networkData", &source.network_data, &source.network_data_base64, "networkdata", "NetworkDataSecretRef"),
    ];
    for (name, plain, encoded, what, instead) in parts {
        let plain_bytes = plain.as_ref().map_or(0, String::len);
        inline(&format!("{field}.{name}"), plain_bytes, what, instead, causes);
        let Some(encoded) = encoded else { continue };
        let path = format!("{field}.{name}Base64");
        match STANDARD.decode(encoded.trim()) {
            Ok(bytes) => inline(&path, bytes.len(), what, instead, causes),
            Err(_) => causes.invalid(&path, format!("{path} is not a valid base64 value.")),
        }
    }
}

fn inline(field: &str, bytes: usize, what: &str, instead: &str, causes: &mut Causes) {
    if bytes > INLINE_MAX {
        let text = format!("{field} {what} exceeds {INLINE_MAX} byte limit. Should use {instead} for larger data.");
        causes.invalid(field, text);
    }
}
