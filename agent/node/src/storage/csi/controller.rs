//! The CSI controller service: volumes and snapshots as RBD images.
//!
//! Every call can be repeated: names are derived from the request's, and what a cut-short call
//! left is completed or removed by the next. Two calls on one image do not run at once; the
//! second is told so (ABORTED). A snapshot is a clone of its own, so a volume can be deleted
//! before its snapshots and a snapshot before what was restored from it.
//!
//! Refuses volumes that containers would mount as file systems, and shrinking.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use furrow_host::rbd::{Ceph, Pool, RbdError, RbdErrorKind};
use kube::Client;
use tonic::{Request, Response, Status};

use super::claims;
use super::proto::controller_server::Controller;
use super::proto::controller_service_capability::{Rpc, Type, rpc};
use super::proto::volume_content_source;
use super::proto::{self as csi};
use super::request::{ImageId, Parameters, capabilities, size};
use crate::storage::images::{self, ImageError, Size};

/// Creating, cloning, growing: milliseconds, or a round through monitors and peering OSDs.
const SHORT: Duration = Duration::from_secs(60);
/// Removing frees every object of an image; it goes on when the caller's own patience ends.
const LONG: Duration = Duration::from_secs(600);
/// Note on a snapshot: when it was taken, in seconds since 1970.
const NOTE_CREATED: &str = "furrow.created";

pub(super) struct Service {
    client: Client,
    ceph: Ceph,
    busy: Arc<Mutex<HashSet<String>>>,
}

/// The right to work on one image; given back when dropped.
struct Turn {
    busy: Arc<Mutex<HashSet<String>>>,
    image: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.image);
    }
}

impl Service {
    pub(super) fn new(client: Client, ceph: Ceph) -> Self {
        Self { client, ceph, busy: Arc::default() }
    }

    fn turn(&self, id: &ImageId) -> Result<Turn, Status> {
        let image = id.handle();
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.insert(image.clone()) {
            Ok(Turn { busy: Arc::clone(&self.busy), image })
        } else {
            Err(Status::aborted(format!("another operation on {image} is not finished yet")))
        }
    }

    /// Runs `call` on the image's pool. The turn ends with the call itself, not with the wait
    /// for it: a caller that gave up must not start a second one beside it.
    async fn on_image<T, F>(&self, id: &ImageId, action: &'static str, limit: Duration, call: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Pool, &ImageId) -> Result<T, ImageError> + Send + 'static,
    {
        let turn = self.turn(id)?;
        let image = id.clone();
        let result = self.ceph.run(&id.pool, action, limit, move |pool| {
            let _turn = turn;
            Ok(call(pool, &image))
        });
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(status(&error)),
            Err(error) => Err(status(&ImageError::Rbd(error))),
        }
    }

    /// The image that a new volume is to be a copy of.
    async fn source(
        &self,
        request: &csi::CreateVolumeRequest,
        parameters: &Parameters,
    ) -> Result<Option<ImageId>, Status> {
        let given = request.volume_content_source.as_ref().and_then(|source| source.r#type.as_ref());
        let handle = match (given, &parameters.claim) {
            (Some(volume_content_source::Type::Volume(volume)), _) => &volume.volume_id,
            (Some(volume_content_source::Type::Snapshot(snapshot)), _) => &snapshot.snapshot_id,
            (None, Some((namespace, claim))) => return claims::source_of(&self.client, namespace, claim).await,
            (None, None) => return Ok(None),
        };
        let id = ImageId::parse(handle);
        id.map(Some).ok_or_else(|| {
            Status::not_found(format!("the volume or snapshot to copy, {handle:?}, is none of this driver's"))
        })
    }

    async fn clone(&self, source: &ImageId, id: &ImageId, size: Size) -> Result<u64, Status> {
        if source.pool != id.pool {
            return Err(Status::invalid_argument(format!("cannot copy from pool {} to pool {}", source.pool, id.pool)));
        }
        let from = source.image.clone();
        self.on_image(id, "clone the volume", SHORT, move |pool, id| images::clone(pool, &from, &id.image, size)).await
    }
}

/// The specification's code for an error.
fn status(error: &ImageError) -> Status {
    let text = furrow_model::reasons::chain(error);
    match error {
        ImageError::NoSource { .. } => Status::not_found(text),
        ImageError::Importing { .. } => Status::unavailable(text),
        ImageError::TooSmall { .. } => Status::out_of_range(text),
        ImageError::Different { .. } => Status::already_exists(text),
        ImageError::InUse { .. } | ImageError::HasSnapshots { .. } => Status::failed_precondition(text),
        ImageError::Rbd(error) => match error.kind() {
            RbdErrorKind::NotFound => Status::not_found(text),
            RbdErrorKind::Full => Status::resource_exhausted(text),
            RbdErrorKind::Busy | RbdErrorKind::NotEmpty => Status::failed_precondition(text),
            RbdErrorKind::Denied => Status::permission_denied(text),
            RbdErrorKind::Unreachable | RbdErrorKind::Fenced => Status::unavailable(text),
            RbdErrorKind::Exists | RbdErrorKind::Other => Status::internal(text),
        },
    }
}

fn bytes_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn required_id(handle: &str, what: &str) -> Result<ImageId, Status> {
    if handle.is_empty() {
        return Err(Status::invalid_argument(format!("no {what} is given")));
    }
    ImageId::parse(handle).ok_or_else(|| Status::not_found(format!("{what} {handle:?} is none of this driver's")))
}

#[tonic::async_trait]
impl Controller for Service {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        capabilities(&request.volume_capabilities)?;
        let parameters = Parameters::parse(&request.parameters)?;
        let id = ImageId::of_volume(&parameters.pool, &request.name)?;
        let source = self.source(&request, &parameters).await?;
        let size = size(request.capacity_range.as_ref(), source.is_some())?;
        let started = std::time::Instant::now();
        let bytes = match &source {
            Some(source) => self.clone(source, &id, size).await?,
            None => {
                let make = move |pool: &Pool, id: &ImageId| images::create(pool, &id.image, size);
                self.on_image(&id, "create the volume", SHORT, make).await?
            }
        };
        let elapsed_ms = started.elapsed().as_millis() as u64;
        let from = source.as_ref().map(ImageId::handle);
        tracing::info!(volume = %id.handle(), from, bytes, elapsed_ms, "volume made");
        let context = HashMap::from([("pool".to_owned(), id.pool.clone()), ("image".to_owned(), id.image.clone())]);
        let volume = csi::Volume {
            capacity_bytes: bytes_i64(bytes),
            volume_id: id.handle(),
            volume_context: context,
            content_source: request.volume_content_source,
            accessible_topology: Vec::new(),
        };
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let handle = request.into_inner().volume_id;
        if handle.is_empty() {
            return Err(Status::invalid_argument("no volume id is given"));
        }
        // A handle that this driver never gave out names a volume that does not exist.
        if let Some(id) = ImageId::parse(&handle) {
            self.on_image(&id, "remove the volume", LONG, |pool, id| images::remove(pool, &id.image)).await?;
            tracing::info!(volume = %handle, "volume removed");
        }
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = required_id(&request.volume_id, "volume")?;
        if request.capacity_range.is_none() {
            return Err(Status::invalid_argument("no capacity range is given"));
        }
        let size = size(request.capacity_range.as_ref(), true)?;
        let grow = move |pool: &Pool, id: &ImageId| images::grow(pool, &id.image, size.required);
        let bytes = self.on_image(&id, "grow the volume", SHORT, grow).await?;
        tracing::info!(volume = %id.handle(), bytes, "volume grown");
        // A guest sees the new size by itself: QEMU is told by the image's watch.
        Ok(Response::new(csi::ControllerExpandVolumeResponse {
            capacity_bytes: bytes_i64(bytes),
            node_expansion_required: false,
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let source = required_id(&request.source_volume_id, "source volume")?;
        let id = ImageId::of_snapshot(&source.pool, &request.name)?;
        let from = source.image.clone();
        let now = jiff::Timestamp::now().as_second();
        let take = move |pool: &Pool, id: &ImageId| take_snapshot(pool, &from, &id.image, now);
        let (bytes, seconds) = self.on_image(&id, "take the snapshot", SHORT, take).await?;
        let snapshot = csi::Snapshot {
            size_bytes: bytes_i64(bytes),
            snapshot_id: id.handle(),
            source_volume_id: source.handle(),
            creation_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ready_to_use: true,
            group_snapshot_id: String::new(),
        };
        Ok(Response::new(csi::CreateSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        let handle = request.into_inner().snapshot_id;
        if handle.is_empty() {
            return Err(Status::invalid_argument("no snapshot id is given"));
        }
        if let Some(id) = ImageId::parse(&handle) {
            self.on_image(&id, "remove the snapshot", LONG, |pool, id| images::remove(pool, &id.image)).await?;
        }
        Ok(Response::new(csi::DeleteSnapshotResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        let id = required_id(&request.volume_id, "volume")?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("no volume capability is given"));
        }
        let look = |pool: &Pool, id: &ImageId| pool.open_read_only(&id.image)?.size();
        let limit = SHORT;
        let result =
            self.ceph.run(&id.pool.clone(), "look at the volume", limit, move |pool| Ok(look(pool, &id))).await;
        result.map_err(ImageError::Rbd).and_then(|found: Result<u64, RbdError>| Ok(found?)).map_err(|e| status(&e))?;
        let (confirmed, message) = match capabilities(&request.volume_capabilities) {
            Ok(()) => {
                let confirmed = csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                };
                (Some(confirmed), String::new())
            }
            Err(refused) => (None, refused.message().to_owned()),
        };
        Ok(Response::new(csi::ValidateVolumeCapabilitiesResponse { confirmed, message }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let realised = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::CreateDeleteSnapshot,
            rpc::Type::CloneVolume,
            rpc::Type::ExpandVolume,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capability =
            |kind: rpc::Type| csi::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) };
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
            capabilities: realised.into_iter().map(capability).collect(),
        }))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are not attached to nodes: QEMU opens them"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are not attached to nodes: QEMU opens them"))
    }

    async fn list_volumes(
        &self,
        _: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        Err(Status::unimplemented("volumes are not listed"))
    }

    async fn get_capacity(
        &self,
        _: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        Err(Status::unimplemented("volumes are thin: there is no capacity that would bound them"))
    }

    async fn list_snapshots(
        &self,
        _: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        Err(Status::unimplemented("snapshots are not listed"))
    }

    async fn get_snapshot(
        &self,
        _: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        Err(Status::unimplemented("a snapshot cannot be asked for alone"))
    }

    async fn controller_get_volume(
        &self,
        _: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        Err(Status::unimplemented("a volume cannot be asked for alone"))
    }

    async fn controller_modify_volume(
        &self,
        _: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes have nothing that could be modified"))
    }
}

/// Takes a snapshot as a clone; answers its size and when it was taken first.
fn take_snapshot(pool: &Pool, source: &str, image: &str, now: i64) -> Result<(u64, i64), ImageError> {
    let bytes = images::clone(pool, source, image, Size { required: 0, limit: None })?;
    let snapshot = pool.open_image(image)?;
    if let Some(before) = snapshot.metadata(NOTE_CREATED)?.and_then(|text| text.parse().ok()) {
        return Ok((bytes, before));
    }
    snapshot.set_metadata(NOTE_CREATED, &now.to_string())?;
    Ok((bytes, now))
}
