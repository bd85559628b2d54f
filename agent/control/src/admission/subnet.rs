//! Subnets: addresses that two of them give on one layer 2 would be given twice.

use std::net::Ipv4Addr;
use std::sync::Arc;

use furrow_api::subnet::SubnetSpec;
use furrow_api::{Subnet, Vlan};
use furrow_model::ipam::{Range, RangeError};
use kube::ResourceExt;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::{malformed, settled, supported, unless_needed, verdict};

/// Provider of the default network.
const DEFAULT_PROVIDER: &str = "ovn";

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if request.is_delete() {
        let holders = facts.addresses().into_iter().filter(|holder| holder.subnet == request.name());
        return Ok(unless_needed(holders.map(|holder| format!("IP {}", holder.object)).collect()));
    }
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let subnet: Subnet = match request.object() {
        Ok(subnet) => subnet,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    let mut warnings = Vec::new();
    let spec = &subnet.spec;
    supported::refuse("spec", &request.object["spec"], supported::SUBNET, &mut causes);
    addresses(spec, &mut causes);
    options(spec, &mut causes);
    if let Ok(old) = serde_json::from_value::<Subnet>(request.old_object.clone()) {
        changes(facts.as_ref(), &old, &subnet, &mut causes);
    }
    let vlans = facts.vlans();
    match spec.vlan.as_deref().filter(|vlan| !vlan.is_empty()) {
        None => causes.required("spec.vlan", "a Subnet needs a Vlan: there is no overlay network"),
        Some(name) if !vlans.iter().any(|vlan| vlan.name_any() == name) => {
            warnings
                .push(format!("spec.vlan: Vlan {name} does not exist (yet); no guest gets an address until it does"));
        }
        Some(_) => {}
    }
    let others = facts.subnets();
    let others = others.iter().filter(|other| other.name_any() != request.name());
    for other in others {
        neighbours(spec, other, &vlans, &mut causes);
    }
    Ok(verdict(causes, warnings))
}

fn addresses(spec: &SubnetSpec, causes: &mut Causes) {
    let error = match Range::parse(&spec.cidr_block, spec.gateway.as_deref(), &spec.exclude_ips) {
        Ok(range) => return excluded_outside(spec, &range, causes),
        Err(error) => error,
    };
    let text = error.to_string();
    let field = match error {
        RangeError::Cidr(_) | RangeError::Prefix(_) => "spec.cidrBlock".to_owned(),
        RangeError::Gateway { .. } => "spec.gateway".to_owned(),
        RangeError::Exclude(entry) => {
            let index = spec.exclude_ips.iter().position(|other| *other == entry).unwrap_or_default();
            format!("spec.excludeIps[{index}]")
        }
    };
    if field == "spec.cidrBlock" && spec.cidr_block.is_empty() {
        causes.required(field, "a Subnet needs a cidrBlock");
    } else {
        causes.invalid(field, text);
    }
}

/// An excluded address outside the network is a typing error: the one that was meant is still given.
fn excluded_outside(spec: &SubnetSpec, range: &Range, causes: &mut Causes) {
    for (index, entry) in spec.exclude_ips.iter().enumerate() {
        let ends = entry.split_once("..").map_or([entry.as_str(), entry.as_str()], |(first, last)| [first, last]);
        for end in ends {
            if end.trim().parse::<Ipv4Addr>().is_ok_and(|address| !range.contains(address)) {
                causes.invalid(
                    format!("spec.excludeIps[{index}]"),
                    format!("{end} is not an address of {}", spec.cidr_block),
                );
                break;
            }
        }
    }
}

/// Only the name servers are read of OVN's DHCP options.
fn options(spec: &SubnetSpec, causes: &mut Causes) {
    let options = spec.dhcp_v4_options.as_deref().unwrap_or_default();
    let mut depth = 0_usize;
    let top = options.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for option in top.map(str::trim).filter(|option| !option.is_empty()) {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        if name != "dns_server" {
            causes.unsupported("spec.dhcpV4Options", format!("option {name} is not supported yet, only dns_server"));
        }
    }
}

fn changes<F: Facts>(facts: &F, old: &Subnet, new: &Subnet, causes: &mut Causes) {
    if old.spec.cidr_block != new.spec.cidr_block {
        let text = format!("cannot be changed from {}: make another Subnet", old.spec.cidr_block);
        causes.forbidden("spec.cidrBlock", text);
    }
    let moved =
        [("spec.vlan", old.spec.vlan != new.spec.vlan), ("spec.provider", old.spec.provider != new.spec.provider)];
    let held = facts.addresses().into_iter().filter(|holder| holder.subnet == new.name_any()).count();
    for (field, _) in moved.into_iter().filter(|(_, moved)| *moved && held > 0) {
        causes.forbidden(field, format!("cannot be changed while {held} of the Subnet's addresses are given"));
    }
}

fn neighbours(spec: &SubnetSpec, other: &Subnet, vlans: &[Arc<Vlan>], causes: &mut Causes) {
    let name = other.name_any();
    if spec.default && other.spec.default {
        causes.duplicate("spec.default", format!("Subnet {name} is the default already"));
    }
    let provider = spec.provider.as_deref().filter(|provider| !provider.is_empty() && *provider != DEFAULT_PROVIDER);
    if provider.is_some() && provider == other.spec.provider.as_deref() {
        causes.duplicate(
            "spec.provider",
            format!("Subnet {name} has the same provider: which one is meant could not be told"),
        );
    }
    let same_wire = match (tag(spec, vlans), tag(&other.spec, vlans)) {
        (Some(ours), Some(theirs)) => ours == theirs,
        // A Vlan that is not there yet is known by its name only.
        _ => spec.vlan.is_some() && spec.vlan == other.spec.vlan,
    };
    if same_wire && overlap(&spec.cidr_block, &other.spec.cidr_block) {
        let text = format!("{} overlaps {} of Subnet {name} on the same Vlan", spec.cidr_block, other.spec.cidr_block);
        causes.invalid("spec.cidrBlock", text);
    }
}

/// Physical network and tag.
fn tag<'a>(spec: &SubnetSpec, vlans: &'a [Arc<Vlan>]) -> Option<(&'a str, i32)> {
    let vlan = vlans.iter().find(|vlan| Some(vlan.name_any().as_str()) == spec.vlan.as_deref())?;
    Some((vlan.spec.provider.as_deref()?, vlan.spec.id))
}

fn overlap(one: &str, other: &str) -> bool {
    let base = |cidr: &str| cidr.trim().split_once('/').and_then(|(base, _)| base.parse::<Ipv4Addr>().ok());
    let range = |cidr: &str| Range::parse(cidr, None, &[]).ok();
    let (Some(first), Some(second)) = (base(one), base(other)) else { return false };
    let (Some(first_range), Some(second_range)) = (range(one), range(other)) else { return false };
    // Networks are nested or disjoint, so that one contains the base of the other or they have nothing in common.
    first_range.contains(second) || second_range.contains(first)
}
