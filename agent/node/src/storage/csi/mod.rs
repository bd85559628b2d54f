//! The CSI service of this node on a Unix socket, for upstream's side-cars beside it.
//!
//! Owns the socket and the identity service. The controller service is in `controller`; the node
//! service for container volumes does not exist yet, and the capabilities say so. Refuses to
//! listen where anybody but root could connect.

mod claims;
mod controller;
#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, clippy::pedantic)]
mod proto;
mod request;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use furrow_api::names::CSI_DRIVER;
use furrow_host::rbd::Ceph;
use kube::Client;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use proto::controller_server::ControllerServer;
use proto::identity_server::{Identity, IdentityServer};
use proto::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};

/// Where the side-cars find the socket; csi-provisioner mounts the directory.
pub(super) const SOCKET: &str = "/run/furrow/csi/csi.sock";
/// Requests that are worked on at once on one connection; more wait in the connection.
const CONCURRENT: usize = 32;

/// Why the service does not listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsiError {
    /// The socket cannot be made.
    #[error("could not listen on {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Listens and serves until `stop`.
pub(super) fn start(socket: &Path, client: Client, ceph: Ceph, stop: CancellationToken) -> Result<(), CsiError> {
    let listener = listen(socket).map_err(|source| CsiError::Socket { path: socket.to_owned(), source })?;
    let controller = controller::Service::new(client, ceph.clone());
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(CONCURRENT)
            .add_service(IdentityServer::new(Plugin { ceph }))
            .add_service(ControllerServer::new(controller))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(error = %error, "the CSI service ended");
        }
    });
    tracing::info!(socket = %socket.display(), "CSI service listening");
    Ok(())
}

/// A socket that only root can connect to, in place of what an earlier process left.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Plugin {
    ceph: Ceph,
}

#[tonic::async_trait]
impl Identity for Plugin {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: CSI_DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let service = Type::Service(Service { r#type: service::Type::ControllerService.into() });
        let expansion = Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online.into() });
        let capabilities =
            [service, expansion].map(|kind| proto::PluginCapability { r#type: Some(kind) }).into_iter().collect();
        Ok(Response::new(proto::GetPluginCapabilitiesResponse { capabilities }))
    }

    /// Ready as soon as Ceph answers: until then side-cars wait instead of failing claims.
    async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        let limit = std::time::Duration::from_secs(5);
        let reached = self.ceph.run(furrow_api::names::CEPH_POOL, "reach the pool", limit, |_| Ok(())).await;
        if let Err(error) = &reached {
            tracing::debug!(error = %error, "probed while ceph does not answer");
        }
        Ok(Response::new(proto::ProbeResponse { ready: Some(reached.is_ok()) }))
    }
}
