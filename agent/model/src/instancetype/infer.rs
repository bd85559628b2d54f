//! Inference: the labels of a volume, or of what it is a copy of, name the instancetype and the preference. Here is where
//! to look next; who can read objects follows it:
//!
//! ```text
//!  volume ──> claim
//!         ──> DataVolume ──(no label)──> its source: a claim, or a DataSource ──(no label)──> its claim
//!         ──> template of a DataVolume ──> as its source
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::Which;
use super::json::{at, text};

/// Where to look for labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A claim.
    Claim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A DataVolume, or, when it is gone since it has done its work, the claim of its name.
    DataVolume {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A DataSource.
    DataSource {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Nowhere, for this reason; `inferFromVolumeFailurePolicy: Ignore` passes over it.
    Nowhere(String),
    /// The reference names no volume of the virtual machine; nothing passes over that.
    NoVolume(String),
}

/// What a volume's labels name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Name.
    pub name: String,
    /// Kind; empty: the cluster's.
    pub kind: String,
}

/// What labels name.
#[must_use]
pub fn labelled(which: Which, labels: &BTreeMap<String, String>) -> Option<Named> {
    let (name, kind) = which.labels();
    let name = labels.get(name)?.clone();
    Some(Named { name, kind: labels.get(kind).cloned().unwrap_or_default() })
}

/// Where to begin: the volume of a virtual machine in a namespace.
#[must_use]
pub fn of_volume(vm: &Value, namespace: &str, volume: &str) -> Source {
    let volumes = at(vm, "spec.template.spec.volumes").and_then(Value::as_array).into_iter().flatten();
    let Some(found) = volumes.into_iter().find(|candidate| text(candidate, "name") == volume) else {
        return Source::NoVolume(format!("unable to find volume {volume} to infer defaults"));
    };
    let own = |name: &str| (namespace.to_owned(), name.to_owned());
    if let Some(claim) = at(found, "persistentVolumeClaim") {
        let (namespace, name) = own(text(claim, "claimName"));
        return Source::Claim { namespace, name };
    }
    let Some(reference) = at(found, "dataVolume") else {
        return Source::Nowhere(format!("unable to infer defaults from volume {volume} as type is not supported"));
    };
    let name = text(reference, "name");
    let templates = at(vm, "spec.dataVolumeTemplates").and_then(Value::as_array).into_iter().flatten();
    match templates.into_iter().find(|template| text(template, "metadata.name") == name) {
        Some(template) => of_data_volume(&template["spec"], namespace),
        None => {
            let (namespace, name) = own(name);
            Source::DataVolume { namespace, name }
        }
    }
}

/// Where to look after a DataVolume, or a DataSource, of this spec in a namespace.
#[must_use]
pub fn of_data_volume(spec: &Value, namespace: &str) -> Source {
    let place = |reference: &Value| {
        let said = text(reference, "namespace");
        let namespace = if said.is_empty() { namespace } else { said };
        (namespace.to_owned(), text(reference, "name").to_owned())
    };
    if let Some(claim) = at(spec, "source.pvc") {
        let (namespace, name) = place(claim);
        return Source::Claim { namespace, name };
    }
    let Some(reference) = at(spec, "sourceRef") else {
        let text = "unable to infer defaults from DataVolumeSpec as DataVolumeSource is not supported";
        return Source::Nowhere(text.to_owned());
    };
    match text(reference, "kind") {
        "DataSource" => {
            let (namespace, name) = place(reference);
            Source::DataSource { namespace, name }
        }
        kind => {
            let text = format!("unable to infer defaults from DataVolumeSourceRef as Kind {kind} is not supported");
            Source::Nowhere(text)
        }
    }
}
