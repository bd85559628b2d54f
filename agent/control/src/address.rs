//! Gives addresses back: an IP object goes when the virtual machine it was made for is gone. Never one that somebody
//! made by hand, and never on the word of a cache alone. Refuses to allocate.

use std::sync::Arc;

use kube::ResourceExt;

use furrow_api::IP;

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, find, find_cluster, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::ipam;

/// The controller of IP objects.
pub(crate) struct Addresses {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Addresses {
    type Error = CallError;

    const NAME: &'static str = "address";

    fn keys(&self) -> Vec<Key> {
        self.cluster.ips.state().iter().map(|ip| key_of(ip.as_ref())).collect()
    }

    /// Observe: the IP and, from caches, its owner. Validate and plan: is it gone? Execute: ask the API server, delete.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        let Some(ip): Option<Arc<IP>> = find_cluster(&self.cluster.ips, &key.name) else { return Ok(Next::OnChange) };
        let Some(owner) = ipam::owner_of(&ip) else { return Ok(Next::OnChange) };
        let is_owner = |uid: Option<String>| uid.as_deref() == Some(owner.uid.as_str());
        let vm = find(&self.cluster.vms, &owner.namespace, &owner.name);
        let vmi = find(&self.cluster.vmis, &owner.namespace, &owner.name);
        if vm.is_some_and(|vm| is_owner(vm.uid())) || vmi.is_some_and(|vmi| is_owner(vmi.uid())) {
            return Ok(Next::OnChange);
        }
        if ipam::alive(&self.cluster, &owner).await? {
            return Ok(Next::OnChange);
        }
        calls::delete(&self.cluster.api_all::<IP>(), ip.as_ref()).await?;
        tracing::info!(ip = key.name, address = ip.spec.ip_address, "address given back: its owner is gone");
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        if error.is_conflict() { Disposition::Stale } else { Disposition::Retry }
    }
}
