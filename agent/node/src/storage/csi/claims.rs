//! Finds what a claim is to be a copy of when its DataVolume names a claim in another namespace.
//!
//! Kubernetes lets a claim name only sources of its own namespace, so control leaves such a
//! claim's `dataSource` empty and the DataVolume says it (admission has checked that its author
//! may read the source). Believes only a DataVolume that is the claim's controller, with the
//! same UID. Changes nothing.

use furrow_api::DataVolume;
use furrow_api::names::CSI_DRIVER;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client, ResourceExt as _};
use tonic::Status;

use super::request::ImageId;

/// The image that the claim's DataVolume wants copied, if it wants that.
pub(super) async fn source_of(client: &Client, namespace: &str, claim: &str) -> Result<Option<ImageId>, Status> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let Some(pvc) = claims.get_opt(claim).await.map_err(|e| unreachable("claim", claim, &e))? else {
        return Err(Status::failed_precondition(format!("claim {namespace}/{claim} is gone")));
    };
    let owner = pvc.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let Some(owner) = owner.filter(|o| o.kind == "DataVolume" && o.api_version.starts_with("cdi.kubevirt.io/")) else {
        return Ok(None);
    };
    let volumes: Api<DataVolume> = Api::namespaced(client.clone(), namespace);
    let dv = volumes.get_opt(&owner.name).await.map_err(|e| unreachable("DataVolume", &owner.name, &e))?;
    let Some(dv) = dv.filter(|dv| dv.uid().as_deref() == Some(owner.uid.as_str())) else {
        return Err(Status::failed_precondition(format!("DataVolume {namespace}/{} is gone", owner.name)));
    };
    let Some(source) = dv.spec.source.and_then(|source| source.pvc) else { return Ok(None) };
    let from = if source.namespace.is_empty() { namespace } else { source.namespace.as_str() };
    image_of(client, from, &source.name).await.map(Some)
}

/// The image of a bound claim.
async fn image_of(client: &Client, namespace: &str, claim: &str) -> Result<ImageId, Status> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let pvc = claims.get_opt(claim).await.map_err(|e| unreachable("claim", claim, &e))?;
    let Some(pvc) = pvc else {
        return Err(Status::not_found(format!("the claim to copy, {namespace}/{claim}, does not exist")));
    };
    let Some(name) = pvc.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty()) else {
        return Err(Status::unavailable(format!("the claim to copy, {namespace}/{claim}, is not bound yet")));
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let pv = volumes.get(&name).await.map_err(|e| unreachable("volume", &name, &e))?;
    let csi = pv.spec.and_then(|spec| spec.csi).filter(|csi| csi.driver == CSI_DRIVER);
    csi.and_then(|csi| ImageId::parse(&csi.volume_handle)).ok_or_else(|| {
        Status::failed_precondition(format!("the claim to copy, {namespace}/{claim}, is no volume of {CSI_DRIVER}"))
    })
}

fn unreachable(kind: &str, name: &str, error: &kube::Error) -> Status {
    Status::unavailable(format!("could not read {kind} {name}: {error}"))
}
