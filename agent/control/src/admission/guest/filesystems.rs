//! File systems that a guest mounts by virtiofs: each shows a volume whose files the node writes itself. What stands on a
//! block device is refused: the node would have to mount what the guest or its user has written there, and a second guest
//! could have it open.

use std::collections::HashSet;

use furrow_api::vmi::{VirtualMachineInstanceSpec, Volume};
use furrow_model::domain::TAG_MAX_BYTES;

use crate::admission::causes::Causes;

/// `base`: where `spec` stands in its object.
pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (index, filesystem) in spec.domain.devices.filesystems.iter().enumerate() {
        let name = filesystem.name.as_str();
        let field = format!("{base}.domain.devices.filesystems[{index}].name");
        if !seen.insert(name) {
            causes.duplicate(&field, format!("{field} '{name}' is already that of another file system."));
        }
        if name.len() > TAG_MAX_BYTES {
            causes.invalid(
                &field,
                format!("must have at most {TAG_MAX_BYTES} characters: it is the tag that is mounted"),
            );
        }
        match spec.volumes.iter().find(|volume| volume.name == name) {
            // KubeVirt's words for a disk of no volume.
            None => causes.invalid(&field, format!("{field} '{name}' not found.")),
            Some(volume) if volume.is_config() => {}
            Some(volume) => causes.unsupported(&field, why_not(volume)),
        }
    }
}

fn why_not(volume: &Volume) -> &'static str {
    if volume.claim_name().is_some() {
        "claims are block devices, which a node does not mount: give the guest a disk"
    } else {
        "only a configMap, secret, downwardAPI or serviceAccount volume can be a file system: give the guest a disk"
    }
}
