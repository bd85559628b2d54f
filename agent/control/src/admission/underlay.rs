//! Vlans and ProviderNetworks.

use std::collections::HashMap;
use std::sync::Arc;

use furrow_api::{ProviderNetwork, Vlan};
use kube::ResourceExt;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::guest::is_label;
use super::review::{Answer, Request};
use super::{malformed, settled, supported, unless_needed, verdict};

/// The bridge is called `br-<name>`, and Linux gives a link's name 15 characters.
const PROVIDER_NAME_MAX: usize = 12;

pub(super) async fn validate_vlan<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if request.is_delete() {
        let subnets = facts.subnets();
        let users = subnets.iter().filter(|subnet| subnet.spec.vlan.as_deref() == Some(request.name()));
        return Ok(unless_needed(users.map(|subnet| format!("Subnet {}", subnet.name_any())).collect()));
    }
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let vlan: Vlan = match request.object() {
        Ok(vlan) => vlan,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    let mut warnings = Vec::new();
    supported::refuse("spec", &request.object["spec"], supported::VLAN, &mut causes);
    let provider = vlan.spec.provider.as_deref().unwrap_or_default();
    if provider.is_empty() {
        causes.required("spec.provider", "a Vlan needs a ProviderNetwork");
    } else if !facts.provider_networks().iter().any(|network| network.name_any() == provider) {
        warnings.push(format!("spec.provider: ProviderNetwork {provider} does not exist (yet)"));
    }
    let others = facts.vlans();
    let same = others.iter().find(|other| {
        other.name_any() != request.name()
            && other.spec.id == vlan.spec.id
            && other.spec.provider.as_deref() == Some(provider)
    });
    if let Some(other) = same {
        let text = format!("Vlan {} has id {} on {provider} already", other.name_any(), vlan.spec.id);
        causes.duplicate("spec.id", text);
    }
    if !request.is_create()
        && let Some(subnet) = facts.subnets().iter().find(|subnet| subnet.spec.vlan.as_deref() == Some(request.name()))
    {
        let text = format!("a Vlan cannot be changed while a Subnet uses it, as {} does", subnet.name_any());
        causes.forbidden("spec", text);
    }
    Ok(verdict(causes, warnings))
}

pub(super) async fn validate_provider_network<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if request.is_delete() {
        let vlans = facts.vlans();
        let users = vlans.iter().filter(|vlan| vlan.spec.provider.as_deref() == Some(request.name()));
        return Ok(unless_needed(users.map(|vlan| format!("Vlan {}", vlan.name_any())).collect()));
    }
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let network: ProviderNetwork = match request.object() {
        Ok(network) => network,
        Err(error) => return Ok(malformed(&error)),
    };
    let mut causes = Causes::default();
    supported::refuse("spec", &request.object["spec"], supported::PROVIDER_NETWORK, &mut causes);
    let name = request.name();
    if name.len() > PROVIDER_NAME_MAX {
        let text =
            format!("must have at most {PROVIDER_NAME_MAX} characters: the bridge of every node is called br-{name}");
        causes.invalid("metadata.name", text);
    } else if !is_label(name) {
        causes.invalid("metadata.name", "must consist of lower case letters, digits and '-'");
    }
    link_name("spec.defaultInterface", &network.spec.default_interface, &mut causes);
    let mut seen = HashMap::new();
    for (index, custom) in network.spec.custom_interfaces.iter().enumerate() {
        let field = format!("spec.customInterfaces[{index}]");
        link_name(&format!("{field}.interface"), &custom.interface, &mut causes);
        for (position, node) in custom.nodes.iter().enumerate() {
            if let Some(other) = seen.insert(node.clone(), custom.interface.clone()) {
                let text = format!("node {node} is named for {other} already");
                causes.duplicate(format!("{field}.nodes[{position}]"), text);
            }
        }
    }
    Ok(verdict(causes, Vec::new()))
}

/// What Linux takes as a link's name (`dev_valid_name`).
fn link_name(field: &str, name: &str, causes: &mut Causes) {
    if name.is_empty() {
        causes.required(field, "the name of a network interface is missing");
    } else if name.len() > 15
        || name == "."
        || name == ".."
        || name.contains(['/', ':'])
        || name.contains(char::is_whitespace)
    {
        causes.invalid(field, format!("{name:?} is not the name of a network interface"));
    }
}
