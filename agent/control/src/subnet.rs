//! How full Subnets are: the counters in their status. Refuses to allocate, and to make an allocation wait.

use std::sync::Arc;
use std::time::Duration;

use furrow_api::Subnet;

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, find_cluster, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};
use crate::ipam::{self, Ipam};

/// Counters follow addresses after this long: once for a burst, not once for each.
const SETTLE: Duration = Duration::from_millis(300);

/// The controller of Subnets.
pub(crate) struct Subnets {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// Allocations under way.
    pub(crate) ipam: Arc<Ipam>,
}

impl Reconcile for Subnets {
    type Error = CallError;

    const NAME: &'static str = "subnet";

    fn keys(&self) -> Vec<Key> {
        self.cluster.subnets.state().iter().map(|subnet| key_of(subnet.as_ref())).collect()
    }

    /// Observe: the Subnet and its IP objects. Plan: count. Report: the status.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        if find_cluster(&self.cluster.subnets, &key.name).is_none() {
            return Ok(Next::OnChange);
        }
        tokio::time::sleep(SETTLE).await;
        // Every write of a Subnet makes an allocation that has read it begin again.
        let _turn = self.ipam.turn(&key.name).await;
        let api = self.cluster.api_all::<Subnet>();
        let Some(old) = calls::get(&api, &key.name).await? else { return Ok(Next::OnChange) };
        let mut new = old.clone();
        let holdings = self.cluster.ips.state();
        let holdings = holdings.iter().map(|ip| ipam::holding(ip)).filter(|holding| holding.subnet == key.name);
        let used = holdings.filter_map(|holding| holding.ip).collect::<std::collections::HashSet<_>>();
        let Ok(range) = ipam::range_of(&old) else { return Ok(Next::OnChange) };
        let taken_open = used.iter().filter(|ip| range.open(**ip)).count();
        let status = new.status.get_or_insert_default();
        status.v4_using_ips = Some(count(used.len()));
        status.v4_available_ips = Some(count(usize::try_from(range.size()).unwrap_or(usize::MAX) - taken_open));
        status.v6_using_ips = Some(0.0);
        status.v6_available_ips = Some(0.0);
        calls::update_status(&api, &old, &new).await?;
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        if error.is_conflict() { Disposition::Stale } else { Disposition::Retry }
    }
}

/// Kube-OVN's counters are floating point numbers.
#[expect(
    clippy::cast_precision_loss,
    reason = "an IPv4 network has at most 2^24 addresses here, which f64 has exactly"
)]
fn count(number: usize) -> f64 {
    number as f64
}
