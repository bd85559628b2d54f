//! Where the specs come from: the ControllerRevision that a virtual machine names or once got, or the object as it is.

use furrow_api::instancetype::VERSION;
use furrow_api::vm::{InstancetypeMatcher, InstancetypeStatusRef};
use furrow_api::{
    DataVolume, VirtualMachine, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference,
    VirtualMachineInstancetype, VirtualMachinePreference,
};
use furrow_model::instancetype::{Scope, Source, Which, revision_labels, revision_name};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{ApiResource, DynamicObject, ObjectMeta};
use kube::{Api, Resource, ResourceExt};
use serde_json::Value;
use std::collections::BTreeMap;

use super::{TypesError, spec};
use crate::calls::{self, CallError, Object};
use crate::cluster::{Cluster, find};

/// Label of a revision with the name of what it keeps.
const LABEL_NAME: &str = "instancetype.kubevirt.io/object-name";

/// Versions of the group whose specs have the fields that are read here.
const READABLE: [&str; 2] = ["instancetype.kubevirt.io/v1beta1", "instancetype.kubevirt.io/v1"];

/// A spec, and the revision that keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kept {
    pub(super) spec: Value,
    pub(super) revision: String,
}

/// The reference of a virtual machine.
pub(super) fn matcher(vm: &VirtualMachine, which: Which) -> Option<&InstancetypeMatcher> {
    match which {
        Which::Instancetype => vm.spec.instancetype.as_ref(),
        Which::Preference => vm.spec.preference.as_ref(),
    }
}

/// What the status says of it.
pub(super) fn status_ref(vm: &VirtualMachine, which: Which) -> Option<&InstancetypeStatusRef> {
    let status = vm.status.as_ref()?;
    match which {
        Which::Instancetype => status.instancetype_ref.as_ref(),
        Which::Preference => status.preference_ref.as_ref(),
    }
}

/// The revision that the status names for the reference as it is now.
pub(super) fn kept_revision(vm: &VirtualMachine, which: Which) -> Option<&str> {
    let (matcher, status) = (matcher(vm, which)?, status_ref(vm, which)?);
    let revision = status.controller_revision_ref.as_ref()?.name.as_deref().filter(|name| !name.is_empty())?;
    let scope = |kind: &Option<String>| which.scope(kind.as_deref().unwrap_or_default());
    (status.name == matcher.name && scope(&status.kind) == scope(&matcher.kind)).then_some(revision)
}

/// The spec of what a virtual machine refers to, `None` when it refers to nothing.
///
/// # Errors
/// When it cannot be had.
pub(crate) async fn spec_of(cluster: &Cluster, vm: &VirtualMachine, which: Which) -> Result<Option<Value>, TypesError> {
    let Some(matcher) = matcher(vm, which) else { return Ok(None) };
    if let Some(kept) = revised(cluster, vm, (which, matcher)).await? {
        return Ok(Some(kept.spec));
    }
    Ok(Some(spec(&object(cluster, vm, (which, matcher)).await?)))
}

/// The same, kept as a revision that belongs to the virtual machine.
///
/// # Errors
/// When it cannot be had or kept.
pub(super) async fn keep(cluster: &Cluster, vm: &VirtualMachine, which: Which) -> Result<Option<Kept>, TypesError> {
    let Some(matcher) = matcher(vm, which) else { return Ok(None) };
    if let Some(kept) = revised(cluster, vm, (which, matcher)).await? {
        return Ok(Some(kept));
    }
    let object = object(cluster, vm, (which, matcher)).await?;
    let revision = revision(vm, &object);
    let name = revision.name_any();
    let api = cluster.api::<ControllerRevision>(&vm.namespace().unwrap_or_default());
    if calls::create(&api, &revision).await?.is_none() {
        // An earlier pass made it; somebody else's of that name keeps something else.
        let there = calls::get(&api, &name).await?;
        let same =
            there.as_ref().and_then(|there| there.data.as_ref()).is_some_and(|data| spec(&data.0) == spec(&object));
        if !same {
            return Err(TypesError::Revision { name, expected: kind_of(which, matcher)? });
        }
    }
    Ok(Some(Kept { spec: spec(&object), revision: name }))
}

fn kind_of(which: Which, matcher: &InstancetypeMatcher) -> Result<&'static str, TypesError> {
    Ok(which.kind(scope_of(which, matcher)?))
}

fn scope_of(which: Which, matcher: &InstancetypeMatcher) -> Result<Scope, TypesError> {
    let kind = matcher.kind.as_deref().unwrap_or_default();
    which.scope(kind).ok_or_else(|| TypesError::Matcher {
        field: format!("spec.{}.kind", which.field()),
        message: format!("is {kind:?}, expected {} or {}", which.kind(Scope::Namespace), which.kind(Scope::Cluster)),
    })
}

/// What a revision keeps: the one that the reference names goes before the one that the status names.
async fn revised(
    cluster: &Cluster,
    vm: &VirtualMachine,
    (which, matcher): (Which, &InstancetypeMatcher),
) -> Result<Option<Kept>, TypesError> {
    let asked = matcher.revision_name.as_deref().filter(|name| !name.is_empty());
    let Some(name) = asked.or_else(|| kept_revision(vm, which)) else { return Ok(None) };
    let api = cluster.api::<ControllerRevision>(&vm.namespace().unwrap_or_default());
    let Some(revision) = calls::get(&api, name).await? else {
        let missing = TypesError::Missing { kind: "ControllerRevision", name: name.to_owned() };
        return if asked.is_some() { Err(missing) } else { Ok(None) };
    };
    let label = revision.labels().get(LABEL_NAME);
    if asked.is_none() && label != matcher.name.as_ref() {
        return Ok(None);
    }
    let data = revision.data.map(|data| data.0).unwrap_or_default();
    match readable(which, &data) {
        true => Ok(Some(Kept { spec: spec(&data), revision: name.to_owned() })),
        false => Err(TypesError::Revision { name: name.to_owned(), expected: kind_of(which, matcher)? }),
    }
}

fn readable(which: Which, data: &Value) -> bool {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    READABLE.contains(&text("apiVersion"))
        && [Scope::Namespace, Scope::Cluster].iter().any(|scope| which.kind(*scope) == text("kind"))
        && data.get("spec").is_some_and(Value::is_object)
}

/// The object that is referred to, as it is now.
async fn object(
    cluster: &Cluster,
    vm: &VirtualMachine,
    (which, matcher): (Which, &InstancetypeMatcher),
) -> Result<Value, TypesError> {
    let scope = scope_of(which, matcher)?;
    let name = matcher.name.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| TypesError::Matcher {
        field: format!("spec.{}.name", which.field()),
        message: "is empty: the reference names nothing".to_owned(),
    })?;
    let namespace = vm.namespace().unwrap_or_default();
    let found = match (which, scope) {
        (Which::Instancetype, Scope::Namespace) => {
            read(&cluster.api::<VirtualMachineInstancetype>(&namespace), name).await
        }
        (Which::Instancetype, Scope::Cluster) => {
            read(&cluster.api_all::<VirtualMachineClusterInstancetype>(), name).await
        }
        (Which::Preference, Scope::Namespace) => read(&cluster.api::<VirtualMachinePreference>(&namespace), name).await,
        (Which::Preference, Scope::Cluster) => read(&cluster.api_all::<VirtualMachineClusterPreference>(), name).await,
    };
    found?.ok_or_else(|| TypesError::Missing { kind: which.kind(scope), name: name.to_owned() })
}

async fn read<K: Object>(api: &Api<K>, name: &str) -> Result<Option<Value>, TypesError> {
    let Some(object) = calls::get(api, name).await? else { return Ok(None) };
    let shape = |source| TypesError::Shape { vm: format!("{} {name}", K::kind(&())), source };
    serde_json::to_value(&object).map(Some).map_err(shape)
}

/// The revision of an object for a virtual machine. What only says how the object came to be is left out.
fn revision(vm: &VirtualMachine, object: &Value) -> ControllerRevision {
    let mut kept = object.clone();
    if let Some(metadata) = kept.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
            metadata.remove(field);
        }
    }
    let owner = OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: vm.name_any(),
        uid: vm.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revision_name(&vm.name_any(), object, VERSION)),
            namespace: vm.namespace(),
            labels: Some(revision_labels(object, VERSION)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(kept)),
        revision: 0,
    }
}

/// Labels and spec of what a volume's defaults may come from; `None` when there is no such object.
///
/// # Errors
/// When it could not be read.
pub(crate) async fn labels_of(
    cluster: &Cluster,
    source: &Source,
) -> Result<Option<(BTreeMap<String, String>, Value)>, CallError> {
    match source {
        Source::Claim { namespace, name } => {
            let claim = match find(&cluster.claims, namespace, name) {
                Some(claim) => Some(claim.labels().clone()),
                None => calls::get(&cluster.api::<PersistentVolumeClaim>(namespace), name)
                    .await?
                    .map(|claim| claim.labels().clone()),
            };
            Ok(claim.map(|labels| (labels, Value::Null)))
        }
        Source::DataVolume { namespace, name } => {
            let volume = match find(&cluster.data_volumes, namespace, name) {
                Some(volume) => Some(volume.as_ref().clone()),
                None => calls::get(&cluster.api::<DataVolume>(namespace), name).await?,
            };
            Ok(volume.map(|volume| {
                let spec = serde_json::to_value(&volume.spec).unwrap_or_default();
                (volume.labels().clone(), spec)
            }))
        }
        Source::DataSource { namespace, name } => {
            let kind = ApiResource {
                group: "cdi.kubevirt.io".to_owned(),
                version: "v1beta1".to_owned(),
                api_version: "cdi.kubevirt.io/v1beta1".to_owned(),
                kind: "DataSource".to_owned(),
                plural: "datasources".to_owned(),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, &kind);
            let found = calls::within(|| format!("read DataSource {namespace}/{name}"), api.get_opt(name)).await?;
            Ok(found.map(|found| (found.labels().clone(), spec(&found.data))))
        }
        Source::Nowhere(_) | Source::NoVolume(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vm(status: Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "shop", "uid": "machine"},
            "spec": {"instancetype": {"name": "u1.small"}, "template": {"spec": {"domain": {"devices": {}}}}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_revision_of_the_status_counts_for_its_own_reference_only() {
        let status = |name: &str, kind: &str| json!({"instancetypeRef": {"name": name, "kind": kind, "controllerRevisionRef": {"name": "r"}}});
        let check = |status: Value, expected: Option<&str>| {
            assert_eq!(kept_revision(&vm(status.clone()), Which::Instancetype), expected, "{status}");
        };
        check(status("u1.small", "VirtualMachineClusterInstancetype"), Some("r"));
        check(status("u1.large", "VirtualMachineClusterInstancetype"), None);
        check(status("u1.small", "VirtualMachineInstancetype"), None);
        check(json!({}), None);
    }

    #[test]
    fn a_revision_keeps_the_object_and_belongs_to_the_machine() {
        let object = json!({"apiVersion": "instancetype.kubevirt.io/v1beta1",
            "kind": "VirtualMachineClusterInstancetype",
            "metadata": {"name": "u1.small", "uid": "size", "generation": 1, "labels": {"a": "b"}},
            "spec": {"cpu": {"guest": 1}, "memory": {"guest": "2Gi"}}});
        let revision = revision(&vm(json!({})), &object);
        assert_eq!(revision.name_any(), "web-u1.small-v1beta1-size-1");
        assert_eq!(revision.labels()[LABEL_NAME], "u1.small");
        assert_eq!(revision.owner_references()[0].uid, "machine");
        let data = revision.data.unwrap().0;
        assert_eq!(data["metadata"].get("labels"), None);
        assert!(readable(Which::Instancetype, &data));
        assert!(!readable(Which::Preference, &data));
        assert!(!readable(Which::Instancetype, &json!({"spec": {}})));
    }
}
