//! The virtual machine of an index, from a pool's template: names of what it must not share with its neighbours end in
//! its index. Works on the JSON of a VirtualMachine's spec.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Which references get the index, besides DataVolumes, which always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suffixes {
    /// ConfigMaps of volumes.
    pub config_maps: bool,
    /// Secrets of volumes.
    pub secrets: bool,
}

/// References to Secrets below a volume.
const SECRETS: [&str; 9] = [
    "/secret/secretName",
    "/cloudInitNoCloud/secretRef/name",
    "/cloudInitNoCloud/networkDataSecretRef/name",
    "/cloudInitNoCloud/metaDataSecretRef/name",
    "/cloudInitConfigDrive/secretRef/name",
    "/cloudInitConfigDrive/networkDataSecretRef/name",
    "/cloudInitConfigDrive/metaDataSecretRef/name",
    "/sysprep/secret/name",
    "/sysprep/secret/secretName",
];

/// References to ConfigMaps below a volume.
const CONFIG_MAPS: [&str; 2] = ["/configMap/name", "/sysprep/configMap/name"];

/// The spec of the virtual machine of an index.
#[must_use]
pub fn indexed(spec: &Value, index: usize, suffixes: Suffixes) -> Value {
    let mut spec = spec.clone();
    let mut renamed = BTreeMap::new();
    for template in elements(&mut spec, "/dataVolumeTemplates") {
        if let Some(name) = template.pointer_mut("/metadata/name") {
            let old = name.as_str().unwrap_or_default().to_owned();
            let new = format!("{old}-{index}");
            *name = json!(new);
            renamed.insert(old, new);
        }
    }
    for volume in elements(&mut spec, "/template/spec/volumes") {
        for path in ["/persistentVolumeClaim/claimName", "/dataVolume/name"] {
            if let Some(name) = volume.pointer_mut(path)
                && let Some(new) = name.as_str().and_then(|old| renamed.get(old))
            {
                *name = json!(new);
            }
        }
        let paths =
            SECRETS.iter().filter(|_| suffixes.secrets).chain(CONFIG_MAPS.iter().filter(|_| suffixes.config_maps));
        for path in paths {
            if let Some(name) = volume.pointer_mut(path)
                && let Some(old) = name.as_str()
            {
                *name = json!(format!("{old}-{index}"));
            }
        }
    }
    spec
}

fn elements<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Digests of a pool's template: of all of it, of what makes the guest, of what makes the disks. 16 hexadecimal digits
/// each.
#[must_use]
pub fn digests(template: &Value) -> [String; 3] {
    let spec = &template["spec"];
    let guest = json!([spec["template"], spec["instancetype"], spec["preference"]]);
    [digest(template), digest(&guest), digest(&spec["dataVolumeTemplates"])]
}

/// Objects are written with their keys in order.
fn digest(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
