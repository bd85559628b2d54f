//! IP objects that users write, to keep an address for a virtual machine or for something else. Those that control writes
//! follow from an allocation and never come here: the webhook's `matchConditions` leave them out.

use std::net::Ipv4Addr;
use std::sync::Arc;

use furrow_api::IP;
use furrow_model::ipam::Range;
use furrow_model::mac::Mac;
use kube::ResourceExt;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::{is_own, malformed, settled, verdict};

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) || is_own(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let mut causes = Causes::default();
    if !request.is_create() {
        causes.forbidden("spec", "an address cannot be changed: delete the IP and make another one");
        return Ok(verdict(causes, Vec::new()));
    }
    let ip: IP = match request.object() {
        Ok(ip) => ip,
        Err(error) => return Ok(malformed(&error)),
    };
    let spec = &ip.spec;
    let holders = facts.addresses();
    let in_subnet = || holders.iter().filter(|holder| holder.subnet == spec.subnet && holder.object != request.name());
    match spec.mac_address.parse::<Mac>() {
        Err(error) => causes.invalid("spec.macAddress", error),
        Ok(mac) => {
            if let Some(holder) = in_subnet().find(|holder| holder.mac == Some(mac)) {
                causes.duplicate("spec.macAddress", format!("{mac} is already that of IP {}", holder.object));
            }
        }
    }
    let subnets = facts.subnets();
    let Some(subnet) = subnets.iter().find(|subnet| subnet.name_any() == spec.subnet) else {
        causes.invalid("spec.subnet", format!("Subnet {} does not exist", spec.subnet));
        return Ok(verdict(causes, Vec::new()));
    };
    let Ok(address) = spec.ip_address.parse::<Ipv4Addr>() else {
        causes.invalid("spec.ipAddress", format!("{:?} is not an IPv4 address", spec.ip_address));
        return Ok(verdict(causes, Vec::new()));
    };
    if spec.v4_ip_address.as_ref().is_some_and(|other| *other != spec.ip_address) {
        causes.invalid("spec.v4IpAddress", "must be the same as ipAddress");
    }
    let subnet_spec = &subnet.spec;
    if let Ok(range) = Range::parse(&subnet_spec.cidr_block, subnet_spec.gateway.as_deref(), &[])
        && !range.open(address)
    {
        causes.invalid("spec.ipAddress", format!("{address} is not an address that Subnet {} gives", spec.subnet));
    }
    if let Some(holder) = in_subnet().find(|holder| holder.address == Some(address)) {
        causes.duplicate("spec.ipAddress", format!("{address} is already given, to IP {}", holder.object));
    }
    Ok(verdict(causes, Vec::new()))
}
