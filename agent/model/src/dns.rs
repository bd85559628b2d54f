//! Name servers, search domains and the full name of a guest, as its spec asks for them and DHCP tells them. Pure; refuses
//! what DHCP cannot say, and the cluster's own name server: guests are on their VLAN, where that has no address.

use std::net::Ipv4Addr;

/// Kubernetes' bounds of `dnsConfig` (its validation of pods, 1.36).
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// An option of DHCP has room for so much (RFC 2132 section 2).
const OPTION_MAX: usize = 255;

/// Longest name, and longest part of one (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// Domain of the cluster's services; every part of the cluster has it as its default.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// What a spec asks for.
#[derive(Debug, Clone, Default)]
pub struct DnsAsked<'a> {
    /// `dnsPolicy`; absent: the name servers of the Subnet.
    pub policy: Option<&'a str>,
    /// `dnsConfig.nameservers`.
    pub nameservers: Vec<&'a str>,
    /// `dnsConfig.searches`.
    pub searches: Vec<&'a str>,
    /// `subdomain`.
    pub subdomain: Option<&'a str>,
    /// Of the guest.
    pub namespace: &'a str,
}

/// What cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum DnsError {
    #[error("{0:?} is not supported: use None with dnsConfig, or leave it out for the Subnet's name servers")]
    Policy(String),
    #[error("{0:?} is not an IPv4 address")]
    Server(String),
    #[error("must not have more than {SERVERS_MAX} nameservers")]
    Servers,
    #[error("must provide at least one DNS nameserver when `dnsPolicy` is None")]
    NoServer,
    #[error("{0:?} is not the name of a domain")]
    Search(String),
    #[error("must not have more than {SEARCHES_MAX} search paths")]
    Searches,
    #[error("DHCP has room for {OPTION_MAX} bytes, and these are {0}")]
    Length(usize),
    #[error("{0:?} does not conform to the kubernetes DNS_LABEL rules")]
    Subdomain(String),
}

impl DnsError {
    /// The field, below the spec.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Policy(_) => "dnsPolicy",
            Self::Server(_) | Self::Servers | Self::NoServer => "dnsConfig.nameservers",
            Self::Search(_) | Self::Searches | Self::Length(_) => "dnsConfig.searches",
            Self::Subdomain(_) => "subdomain",
        }
    }
}

/// What a guest is told of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestDns {
    /// The Subnet's name servers are not told.
    own_only: bool,
    servers: Vec<Ipv4Addr>,
    /// Where names are looked for that have no dot, in order.
    pub searches: Vec<String>,
    /// What follows its host name.
    pub domain: Option<String>,
}

impl GuestDns {
    /// Understands a spec.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn parse(asked: &DnsAsked<'_>) -> Result<Self, DnsError> {
        let own_only = match asked.policy.unwrap_or_default() {
            "" => false,
            "None" => true,
            other => return Err(DnsError::Policy(other.to_owned())),
        };
        let servers = asked
            .nameservers
            .iter()
            .map(|text| text.parse::<Ipv4Addr>().map_err(|_| DnsError::Server((*text).to_owned())));
        let servers: Vec<_> = servers.collect::<Result<_, _>>()?;
        if servers.len() > SERVERS_MAX {
            return Err(DnsError::Servers);
        }
        if own_only && servers.is_empty() {
            return Err(DnsError::NoServer);
        }
        if asked.searches.len() > SEARCHES_MAX {
            return Err(DnsError::Searches);
        }
        let subdomain = asked.subdomain.filter(|text| !text.is_empty());
        if let Some(subdomain) = subdomain.filter(|text| !is_name(text) || text.contains('.')) {
            return Err(DnsError::Subdomain(subdomain.to_owned()));
        }
        let domain = subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", asked.namespace));
        let mut searches: Vec<String> = domain.iter().cloned().collect();
        for search in &asked.searches {
            let name = search.trim_end_matches('.');
            if !is_name(name) {
                return Err(DnsError::Search((*search).to_owned()));
            }
            if !searches.iter().any(|known| known == name) {
                searches.push(name.to_owned());
            }
        }
        let bytes = encode(&searches).len();
        if bytes > OPTION_MAX {
            return Err(DnsError::Length(bytes));
        }
        Ok(Self { own_only, servers, searches, domain })
    }

    /// The name servers of a NIC in order, each once. `subnet`: those of its Subnet.
    #[must_use]
    pub fn servers(&self, subnet: &[String]) -> Vec<String> {
        let subnet = subnet.iter().filter(|_| !self.own_only).cloned();
        let mut all: Vec<String> = Vec::new();
        for server in subnet.chain(self.servers.iter().map(Ipv4Addr::to_string)) {
            if !all.contains(&server) {
                all.push(server);
            }
        }
        all
    }

    /// The whole name of a guest: with its domain, if it has one.
    #[must_use]
    pub fn full_name(&self, hostname: &str) -> String {
        self.domain.as_ref().map_or_else(|| hostname.to_owned(), |domain| format!("{hostname}.{domain}"))
    }
}

/// Domains as DHCP's option 119 has them (RFC 3397), without its compression.
#[must_use]
pub fn encode(domains: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for domain in domains {
        for label in domain.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.len() <= LABEL_MAX
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
            && bytes.first().copied().is_some_and(inner)
            && bytes.last().copied().is_some_and(inner)
    };
    text.len() <= NAME_MAX && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(policy: Option<&'a str>, nameservers: &[&'a str], searches: &[&'a str]) -> DnsAsked<'a> {
        let (nameservers, searches) = (nameservers.to_vec(), searches.to_vec());
        DnsAsked { policy, nameservers, searches, subdomain: None, namespace: "shop" }
    }

    #[test]
    fn own_servers_follow_those_of_the_subnet_or_stand_alone() {
        let subnet = ["10.0.0.2".to_owned(), "10.0.0.3".to_owned()];
        let check = |policy: Option<&str>, own: &[&str], expected: &[&str]| {
            let dns = GuestDns::parse(&asked(policy, own, &[])).expect("it can be");
            assert_eq!(dns.servers(&subnet), expected, "{policy:?} {own:?}");
        };
        check(None, &[], &["10.0.0.2", "10.0.0.3"]);
        check(None, &["1.1.1.1", "10.0.0.2"], &["10.0.0.2", "10.0.0.3", "1.1.1.1"]);
        check(Some("None"), &["1.1.1.1"], &["1.1.1.1"]);
    }

    #[test]
    fn a_subdomain_makes_the_whole_name_and_is_searched_first() {
        let dns =
            DnsAsked { subdomain: Some("db"), ..asked(None, &[], &["example.com.", "db.shop.svc.cluster.local"]) };
        let dns = GuestDns::parse(&dns).expect("it can be");
        assert_eq!(dns.full_name("web"), "web.db.shop.svc.cluster.local");
        assert_eq!(dns.searches, ["db.shop.svc.cluster.local", "example.com"]);
        let none = GuestDns::parse(&DnsAsked { subdomain: Some(""), ..asked(None, &[], &[]) }).expect("it can be");
        assert_eq!((none.full_name("web"), none.domain), ("web".to_owned(), None));
    }

    #[test]
    fn what_cannot_be_is_named_by_its_field() {
        let check = |asked: &DnsAsked<'_>, field: &str| {
            assert_eq!(GuestDns::parse(asked).expect_err(field).field(), field);
        };
        check(&asked(Some("ClusterFirst"), &[], &[]), "dnsPolicy");
        check(&asked(Some("None"), &[], &["a"]), "dnsConfig.nameservers");
        check(&asked(None, &["fe80::1"], &[]), "dnsConfig.nameservers");
        check(&asked(None, &["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"], &[]), "dnsConfig.nameservers");
        check(&asked(None, &[], &["Example.com"]), "dnsConfig.searches");
        check(&asked(None, &[], &["a..b"]), "dnsConfig.searches");
        check(&asked(None, &[], &["x"; 33]), "dnsConfig.searches");
        let long = "a".repeat(60);
        let long = [&long, &format!("b{long}"), &format!("c{long}"), &format!("d{long}"), &format!("e{long}")];
        check(&asked(None, &[], &long.map(String::as_str)), "dnsConfig.searches");
        check(&DnsAsked { subdomain: Some("a.b"), ..asked(None, &[], &[]) }, "subdomain");
    }

    #[test]
    fn domains_are_lengths_and_labels() {
        assert_eq!(encode(&["a.bc".to_owned(), "d".to_owned()]), b"\x01a\x02bc\x00\x01d\x00");
    }
}
