//! The section `management` of node.yaml as text, and its replacement in a document that a person wrote. The rest of the
//! document stays as it is, comments included; what comes out is read again and compared before anyone gets it.

use crate::config::{ConfigError, Management, NodeConfig, parse};

/// Why a section cannot be replaced.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum EditError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Anchors, several documents, keys in quotes: YAML can be written in ways that this does not understand.
    #[error("`management` of node.yaml is written in a way that cannot be edited here: edit /etc/furrow/node.yaml")]
    Shape,
}

/// A scalar that means itself: JSON, which is YAML.
pub(crate) fn quoted(text: impl ToString) -> String {
    serde_json::to_string(&text.to_string()).unwrap_or_default()
}

fn list<T: ToString>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item.to_string())).collect::<Vec<_>>().join(", "))
}

/// The section, with its key.
pub(crate) fn section(management: &Management) -> String {
    let mut text = format!("management:\n  interface: {}\n", quoted(&management.interface));
    let mut line = |key: &str, value: String| text += &format!("  {key}: {value}\n");
    if let Some(bond) = &management.bond {
        line("bond", format!("{{mode: {}, members: {}}}", quoted(bond.mode.name()), list(&bond.members)));
    }
    if let Some(tag) = management.vlan {
        line("vlan", tag.to_string());
    }
    line("address", quoted(management.address));
    if let Some(prefix) = management.prefix_length {
        line("prefixLength", prefix.to_string());
    }
    if let Some(gateway) = management.gateway {
        line("gateway", quoted(gateway));
    }
    if !management.dns.is_empty() {
        line("dns", list(&management.dns));
    }
    if !management.search_domains.is_empty() {
        line("searchDomains", list(&management.search_domains));
    }
    if let Some(second) = &management.second {
        let gateway = second.gateway.map(|g| format!(", gateway: {}", quoted(g))).unwrap_or_default();
        let prefix = second.prefix_length;
        line("second", format!("{{address: {}, prefixLength: {prefix}{gateway}}}", quoted(second.address)));
    }
    if let Some(vip) = management.vip {
        line("vip", quoted(vip));
    }
    text
}

/// The document with another `management`.
///
/// # Errors
/// When the document or the new section is not valid, or the section cannot be told from the rest.
pub(crate) fn replace_management(document: &str, management: &Management) -> Result<String, EditError> {
    let old = parse(document)?;
    let wanted = NodeConfig { management: management.clone(), ..old };
    let lines: Vec<&str> = document.lines().collect();
    let begin = lines.iter().position(|l| l.starts_with("management:")).ok_or(EditError::Shape)?;
    let continues = |line: &&str| line.is_empty() || line.starts_with([' ', '\t', '}', ']']);
    let end = begin + 1 + lines[begin + 1..].iter().take_while(|l| continues(l)).count();
    let join = |lines: &[&str]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    let text = format!("{}{}{}", join(&lines[..begin]), section(management), join(&lines[end..]));
    match parse(&text) {
        Ok(read) if read == wanted => Ok(text),
        Err(error @ ConfigError::Value { .. }) => Err(error.into()),
        _ => Err(EditError::Shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bond, BondMode, SecondAddress};

    const BLOCK: &str = "# head\napiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement:\n  # the first port\n  interface: eno1\n  address: 10.0.0.11\n\n# storage\nceph:\n  disks: # all\n    - path: /dev/b\n";

    fn changed() -> Management {
        Management {
            interface: "bond0".into(),
            bond: Some(Bond { mode: BondMode::Lacp, members: vec!["eno1".into(), "52:54:00:00:00:01".into()] }),
            vlan: Some(9),
            address: "10.0.0.12".parse().expect("an address"),
            prefix_length: Some(24),
            gateway: Some("10.0.0.1".parse().expect("an address")),
            dns: vec!["10.0.0.2".parse().expect("an address")],
            search_domains: vec!["example.com".into()],
            second: Some(SecondAddress {
                address: "fd00::12".parse().expect("an address"),
                prefix_length: 64,
                gateway: Some("fd00::1".parse().expect("an address")),
            }),
            vip: Some("10.0.0.10".parse().expect("an address")),
        }
    }

    #[test]
    fn a_section_reads_back_as_it_was() {
        let text = replace_management(BLOCK, &changed()).expect("replaced");
        assert_eq!(parse(&text).expect("valid").management, changed());
    }

    #[test]
    fn the_rest_stays_with_its_comments() {
        let text = replace_management(BLOCK, &changed()).expect("replaced");
        assert!(
            text.starts_with("# head\n") && text.ends_with("# storage\nceph:\n  disks: # all\n    - path: /dev/b\n")
        );
        assert!(!text.contains("the first port"));
    }

    #[test]
    fn other_ways_to_write_it_are_replaced_or_refused_but_never_broken() {
        let flow = BLOCK.replace(
            "management:\n  # the first port\n  interface: eno1\n  address: 10.0.0.11\n",
            "management: {interface: eno1,\n  address: 10.0.0.11\n}\n",
        );
        assert!(replace_management(&flow, &changed()).is_ok());
        let quoted = BLOCK.replace("management:", "\"management\":");
        assert_eq!(replace_management(&quoted, &changed()), Err(EditError::Shape));
    }

    #[test]
    fn an_invalid_section_is_refused() {
        let wrong = Management { vlan: Some(0), ..changed() };
        assert!(matches!(replace_management(BLOCK, &wrong), Err(EditError::Config(_))));
    }
}
