//! Volumes that are made of Kubernetes objects, scratch volumes, and files of a node.

use furrow_api::quantity;
use furrow_api::vmi::{ContainerDisk, DownwardApiVolume, HostDisk, VirtualMachineInstanceSpec, Volume};
use furrow_model::oci::{self, PullPolicy, Reference};
use furrow_model::{downward, host_disk};

use crate::admission::causes::Causes;

/// Longest label of a file system (ECMA-119 8.4.7).
const LABEL_MAX: usize = 32;

/// `base`: where `spec` stands in its object.
pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, namespace: &str, causes: &mut Causes) {
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("{base}.volumes[{index}]");
        objects(&field, volume, causes);
        scratch(&field, volume, causes);
        if let Some(disk) = &volume.host_disk {
            host_disk(&format!("{field}.hostDisk"), disk, namespace, causes);
        }
    }
    let accounts = spec.volumes.iter().enumerate().filter(|(_, volume)| volume.service_account.is_some());
    for (index, _) in accounts.skip(1) {
        let field = format!("{base}.volumes[{index}].serviceAccount");
        causes.duplicate(&field, format!("{field} must have max one serviceAccount volume set"));
    }
}

fn objects(field: &str, volume: &Volume, causes: &mut Causes) {
    let mut named = |part: &str, name: Option<&str>| {
        if name.is_none_or(str::is_empty) {
            causes.required(format!("{field}.{part}"), "must not be empty");
        }
    };
    if let Some(source) = &volume.config_map {
        named("configMap.name", source.name.as_deref());
    }
    if let Some(source) = &volume.secret {
        named("secret.secretName", source.secret_name.as_deref());
    }
    if let Some(source) = &volume.service_account {
        named("serviceAccount.serviceAccountName", source.service_account_name.as_deref());
    }
    if let Some(source) = &volume.sysprep {
        match (&source.secret, &source.config_map) {
            (Some(secret), None) => named("sysprep.secret.name", Some(&secret.name)),
            (None, Some(map)) => named("sysprep.configMap.name", Some(&map.name)),
            _ => {
                let field = format!("{field}.sysprep");
                causes.invalid(&field, format!("{field} must have Secret or ConfigMap reference set, and not both"));
            }
        }
    }
    let labels = [
        ("configMap", volume.config_map.as_ref().and_then(|source| source.volume_label.as_deref())),
        ("secret", volume.secret.as_ref().and_then(|source| source.volume_label.as_deref())),
        ("downwardAPI", volume.downward_api.as_ref().and_then(|source| source.volume_label.as_deref())),
    ];
    for (kind, label) in labels {
        if label.is_some_and(|label| label.len() > LABEL_MAX || !label.is_ascii()) {
            let text = format!("must have at most {LABEL_MAX} ASCII characters");
            causes.invalid(format!("{field}.{kind}.volumeLabel"), text);
        }
    }
    if let Some(source) = &volume.downward_api {
        downward_api(&format!("{field}.downwardAPI"), source, causes);
    }
}

fn downward_api(field: &str, source: &DownwardApiVolume, causes: &mut Causes) {
    for (index, item) in source.fields.iter().enumerate() {
        let field = format!("{field}.fields[{index}]");
        if let Err(error) = downward::file_name(&item.path) {
            causes.invalid(format!("{field}.path"), error);
        }
        let path = item.field_ref.as_ref().map(|reference| reference.field_path.as_str()).unwrap_or_default();
        if let (None, Err(error)) = (&item.resource_field_ref, downward::check(path)) {
            causes.invalid(format!("{field}.fieldRef.fieldPath"), error);
        }
    }
}

fn host_disk(field: &str, disk: &HostDisk, namespace: &str, causes: &mut Causes) {
    if let Err(error) = host_disk::file_name(namespace, &disk.path) {
        causes.invalid(format!("{field}.path"), error);
    }
    let size = disk.capacity.as_ref().map(quantity::units);
    match disk.type_.as_str() {
        "Disk" | host_disk::OR_CREATE => {}
        other => causes.invalid(format!("{field}.type"), format!("{other:?} is neither Disk nor DiskOrCreate")),
    }
    match size {
        Some(Err(error)) => causes.invalid(format!("{field}.capacity"), error),
        Some(Ok(bytes)) if bytes <= 0 => causes.invalid(format!("{field}.capacity"), "must be above 0"),
        Some(Ok(_)) if disk.type_ == "Disk" => {
            causes.invalid(format!("{field}.capacity"), "a Disk is there already: only DiskOrCreate has a capacity");
        }
        None if disk.type_ == host_disk::OR_CREATE => {
            causes.required(format!("{field}.capacity"), "a disk that may have to be made needs a size");
        }
        Some(Ok(_)) | None => {}
    }
}

fn container_disk(field: &str, disk: &ContainerDisk, causes: &mut Causes) {
    if disk.image.is_empty() {
        causes.required(format!("{field}.image"), "must not be empty");
    } else {
        match Reference::parse(&disk.image) {
            Err(error) => causes.invalid(format!("{field}.image"), error),
            Ok(image) if PullPolicy::parse(disk.image_pull_policy.as_deref(), &image).is_none() => {
                causes.unsupported(format!("{field}.imagePullPolicy"), "must be Always, IfNotPresent or Never");
            }
            Ok(_) => {}
        }
    }
    let path = disk.path.as_deref().filter(|path| !path.is_empty());
    if let Some(problem) = path.and_then(oci::path_problem) {
        causes.invalid(format!("{field}.path"), problem);
    }
}

fn scratch(field: &str, volume: &Volume, causes: &mut Causes) {
    if let Some(disk) = &volume.container_disk {
        container_disk(&format!("{field}.containerDisk"), disk, causes);
    }
    if let Some(empty) = &volume.empty_disk {
        let field = format!("{field}.emptyDisk.capacity");
        match quantity::units(&empty.capacity) {
            Err(error) => causes.invalid(field, error),
            Ok(bytes) if bytes <= 0 => causes.invalid(field, format!("must be above 0, is {}", empty.capacity.0)),
            Ok(_) => {}
        }
    }
    if let Some(ephemeral) = &volume.ephemeral {
        let name = ephemeral.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
        if name.is_none_or(str::is_empty) {
            causes.required(format!("{field}.ephemeral.persistentVolumeClaim.claimName"), "must not be empty");
        }
    }
}
