//! Name servers, search domains and subdomain of a guest: what `furrow_model::dns` can tell it.

use furrow_api::vmi::VirtualMachineInstanceSpec;
use furrow_model::dns::{DnsAsked, DnsError, GuestDns};

use crate::admission::causes::Causes;

pub(super) fn check(base: &str, spec: &VirtualMachineInstanceSpec, namespace: &str, causes: &mut Causes) {
    let config = spec.dns_config.clone().unwrap_or_default();
    let text = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (nameservers, searches) = (text(&config.nameservers), text(&config.searches));
    let asked = DnsAsked {
        policy: spec.dns_policy.as_deref(),
        nameservers: nameservers.iter().map(String::as_str).collect(),
        searches: searches.iter().map(String::as_str).collect(),
        subdomain: spec.subdomain.as_deref(),
        namespace,
    };
    match GuestDns::parse(&asked) {
        // The list of supported fields has refused it.
        Ok(_) | Err(DnsError::Policy(_)) => {}
        Err(error) => causes.invalid(format!("{base}.{}", error.field()), error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn name_servers_domains_and_subdomain_are_what_dhcp_can_say() {
        let check = |mut spec: Value, expected: &[&str]| {
            spec["domain"] = json!({"devices": {}});
            let mut causes = Causes::default();
            super::check("spec", &serde_json::from_value(spec.clone()).unwrap(), "shop", &mut causes);
            assert_eq!(causes.fields(), expected, "{spec}");
        };
        check(json!({}), &[]);
        let own = json!({"nameservers": ["10.0.0.2"], "searches": ["example.com"]});
        check(json!({"dnsPolicy": "None", "dnsConfig": own, "subdomain": "db"}), &[]);
        check(json!({"dnsPolicy": "None"}), &["spec.dnsConfig.nameservers"]);
        check(json!({"dnsConfig": {"nameservers": ["fe80::1"]}}), &["spec.dnsConfig.nameservers"]);
        check(json!({"dnsConfig": {"searches": ["a b"]}}), &["spec.dnsConfig.searches"]);
        check(json!({"subdomain": "a.b"}), &["spec.subdomain"]);
        check(json!({"dnsPolicy": "ClusterFirst"}), &[]);
    }
}
