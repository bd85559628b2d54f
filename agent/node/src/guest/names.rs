//! How a guest is called and what it is told of names, by DHCP and by cloud-init: the wire types of
//! `furrow_model::dns`. Refuses to know a network.

use furrow_api::VirtualMachineInstance;
use furrow_model::dhcp_options::DhcpOptions;
use furrow_model::dns::{DnsAsked, GuestDns};
use kube::ResourceExt as _;

use super::convert::ConvertError;

/// What the spec asks for.
pub(super) fn dns(vmi: &VirtualMachineInstance) -> Result<GuestDns, ConvertError> {
    let spec = &vmi.spec;
    let config = spec.dns_config.as_ref();
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let nameservers = list(config.and_then(|config| config.nameservers.as_ref()));
    let searches = list(config.and_then(|config| config.searches.as_ref()));
    let namespace = vmi.namespace().unwrap_or_default();
    let asked = DnsAsked {
        policy: spec.dns_policy.as_deref(),
        nameservers: nameservers.iter().map(String::as_str).collect(),
        searches: searches.iter().map(String::as_str).collect(),
        subdomain: spec.subdomain.as_deref(),
        namespace: &namespace,
    };
    GuestDns::parse(&asked)
        .map_err(|error| ConvertError::Value { path: format!("spec.{}", error.field()), message: error.to_string() })
}

/// The options of DHCP with what they say of domains.
pub(super) fn told(dns: &GuestDns, options: Option<DhcpOptions>) -> Option<DhcpOptions> {
    if dns.domain.is_none() && dns.searches.is_empty() {
        return options;
    }
    let (domain, searches) = (dns.domain.clone(), dns.searches.clone());
    Some(DhcpOptions { domain, searches, ..options.unwrap_or_default() })
}

/// The guest's host name: the spec's, or the VMI's name up to its first dot.
pub(super) fn hostname(vmi: &VirtualMachineInstance) -> String {
    vmi.spec
        .hostname
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| vmi.name_any().split('.').next().unwrap_or_default().chars().take(63).collect())
}

/// The same with its domain. One that cannot be is refused before anybody asks.
pub(super) fn full_name(vmi: &VirtualMachineInstance) -> String {
    let hostname = hostname(vmi);
    dns(vmi).map_or_else(|_| hostname.clone(), |dns| dns.full_name(&hostname))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vmi(mut spec: Value) -> VirtualMachineInstance {
        spec["domain"] = json!({"devices": {}});
        let metadata = json!({"name": "web.1", "namespace": "shop"});
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata,
            "spec": spec});
        serde_json::from_value(vmi).expect("a vmi")
    }

    #[test]
    fn a_subdomain_is_part_of_the_name_and_told_by_dhcp() {
        assert_eq!(full_name(&vmi(json!({}))), "web");
        let named = vmi(json!({"hostname": "db", "subdomain": "rooms", "dnsConfig": {"searches": ["example.com"]}}));
        assert_eq!(
            (hostname(&named), full_name(&named)),
            ("db".to_owned(), "db.rooms.shop.svc.cluster.local".to_owned())
        );
        let told = told(&dns(&named).expect("it can be"), None).expect("there is something to tell");
        assert_eq!(told.domain.as_deref(), Some("rooms.shop.svc.cluster.local"));
        assert_eq!(told.searches, ["rooms.shop.svc.cluster.local", "example.com"]);
        assert_eq!(super::told(&GuestDns::default(), None), None);
    }

    #[test]
    fn what_cannot_be_names_its_field() {
        let error = dns(&vmi(json!({"dnsPolicy": "ClusterFirst"}))).expect_err("guests have no way there");
        assert!(error.to_string().contains("spec.dnsPolicy"), "{error}");
    }
}
