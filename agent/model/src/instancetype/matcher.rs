//! References of a virtual machine: which kinds they may name, what must be in them, and the names of what is derived
//! from them. Names of labels and annotations are KubeVirt's (`api/instancetype/register.go`, `api/core/v1/types.go`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::Fault;
use super::json::text;

/// What is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// An instancetype.
    Instancetype,
    /// A preference.
    Preference,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Of the virtual machine's namespace.
    Namespace,
    /// Of the cluster.
    Cluster,
}

impl Which {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Instancetype, Self::Preference];

    /// Name of the field below `spec` of a virtual machine.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Instancetype => "instancetype",
            Self::Preference => "preference",
        }
    }

    /// The kind's name.
    #[must_use]
    pub fn kind(self, scope: Scope) -> &'static str {
        match (self, scope) {
            (Self::Instancetype, Scope::Namespace) => "VirtualMachineInstancetype",
            (Self::Instancetype, Scope::Cluster) => "VirtualMachineClusterInstancetype",
            (Self::Preference, Scope::Namespace) => "VirtualMachinePreference",
            (Self::Preference, Scope::Cluster) => "VirtualMachineClusterPreference",
        }
    }

    /// The scope that a reference's `kind` says: singular or plural, in any case. None said: the cluster's.
    #[must_use]
    pub fn scope(self, kind: &str) -> Option<Scope> {
        if kind.is_empty() {
            return Some(Scope::Cluster);
        }
        let kind = kind.to_ascii_lowercase();
        [Scope::Namespace, Scope::Cluster].into_iter().find(|scope| {
            let name = self.kind(*scope).to_ascii_lowercase();
            kind == name || kind.strip_suffix('s') == Some(name.as_str())
        })
    }

    /// Annotation of a guest that names what its virtual machine refers to.
    #[must_use]
    pub fn annotation(self, scope: Scope) -> &'static str {
        match (self, scope) {
            (Self::Instancetype, Scope::Namespace) => "kubevirt.io/instancetype-name",
            (Self::Instancetype, Scope::Cluster) => "kubevirt.io/cluster-instancetype-name",
            (Self::Preference, Scope::Namespace) => "kubevirt.io/preference-name",
            (Self::Preference, Scope::Cluster) => "kubevirt.io/cluster-preference-name",
        }
    }

    /// Labels of a volume that name the default: its name and its kind.
    #[must_use]
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Instancetype => {
                ("instancetype.kubevirt.io/default-instancetype", "instancetype.kubevirt.io/default-instancetype-kind")
            }
            Self::Preference => {
                ("instancetype.kubevirt.io/default-preference", "instancetype.kubevirt.io/default-preference-kind")
            }
        }
    }
}

/// What is wrong with a reference. `old`: what it was before, if it was there.
#[must_use]
pub fn faults(which: Which, matcher: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (word, field) = (which.field(), format!("spec.{}", which.field()));
    let (name, kind, volume) = (text(matcher, "name"), text(matcher, "kind"), text(matcher, "inferFromVolume"));
    if name.is_empty() && volume.is_empty() {
        let message = format!("Either Name or InferFromVolume should be provided within the {word} matcher");
        faults.push(Fault::new(&field, message));
    }
    if !volume.is_empty() {
        for (what, said, path) in [("Name", name, "name"), ("Kind", kind, "kind")] {
            if !said.is_empty() {
                let message =
                    format!("{what} should not be provided when InferFromVolume is used within the {word} matcher");
                faults.push(Fault::new(format!("{field}.{path}"), message));
            }
        }
    }
    if which.scope(kind).is_none() {
        let matcher = if which == Which::Instancetype { "InstancetypeMatcher" } else { "PreferenceMatcher" };
        faults.push(Fault::new(format!("{field}.kind"), format!("got unexpected kind in {matcher}: {kind}")));
    }
    let policy = text(matcher, "inferFromVolumeFailurePolicy");
    if !["", "Ignore", "Reject"].contains(&policy) {
        let message = format!("Invalid value '{policy}' for InferFromVolumeFailurePolicy");
        faults.push(Fault::new(format!("{field}.inferFromVolumeFailurePolicy"), message));
    }
    if let Some(old) = old {
        let revision = text(old, "revisionName");
        if !revision.is_empty() && text(old, "name") != name && text(matcher, "revisionName") == revision {
            let message = "the Matcher Name has been updated without updating the RevisionName";
            faults.push(Fault::new(format!("{field}.revisionName"), message));
        }
    }
    faults
}

/// Name of the ControllerRevision that keeps an object as a virtual machine found it.
#[must_use]
pub fn revision_name(vm: &str, object: &Value, version: &str) -> String {
    let generation = super::json::count(object, "metadata.generation");
    let (name, uid) = (text(object, "metadata.name"), text(object, "metadata.uid"));
    format!("{vm}-{name}-{version}-{uid}-{generation}")
}

/// Its labels: by them upstream's tools find what it keeps.
#[must_use]
pub fn revision_labels(object: &Value, version: &str) -> BTreeMap<String, String> {
    let generation = super::json::count(object, "metadata.generation").to_string();
    let said = [
        ("generation", generation.as_str()),
        ("kind", text(object, "kind")),
        ("name", text(object, "metadata.name")),
        ("uid", text(object, "metadata.uid")),
        ("version", version),
    ];
    said.into_iter().map(|(key, value)| (format!("instancetype.kubevirt.io/object-{key}"), value.to_owned())).collect()
}
