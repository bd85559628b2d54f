//! What the guest agent reports, read from libvirt's flat list of named values
//! (<https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainGetGuestInfo>). Owns the reading; refuses to trust:
//! a guest writes these values, so every text and count is capped.

use std::collections::HashMap;

use furrow_api::vmi::GuestOsInfo;
use furrow_model::metrics::guest::GuestFilesystem;

use super::status;

/// Interfaces and addresses beyond these are left out: a guest may claim any number.
const MAX_INTERFACES: usize = 32;
const MAX_ADDRESSES: usize = 16;
/// File systems beyond these are left out.
const MAX_FILESYSTEMS: usize = 64;
/// More commands than an agent has.
const MAX_COMMANDS: usize = 256;
/// Longest text taken from a guest, in characters.
const MAX_TEXT: usize = 256;

/// A report of the guest agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GuestReport {
    /// The operating system.
    pub(crate) os: GuestOsInfo,
    /// Interfaces as the guest names them.
    pub(crate) interfaces: Vec<GuestInterface>,
    /// Commands that the agent knows and allows, once it said so.
    pub(crate) commands: Option<Vec<String>>,
}

/// An interface inside the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestInterface {
    /// Name in the guest.
    pub(crate) name: String,
    /// MAC address in lower case.
    pub(crate) mac: Option<String>,
    /// Addresses without prefix.
    pub(crate) addresses: Vec<String>,
}

impl GuestReport {
    /// Reads libvirt's values.
    pub(crate) fn read(values: &HashMap<String, String>) -> Self {
        let values: HashMap<String, String> =
            values.iter().map(|(name, value)| (name.clone(), value.chars().take(MAX_TEXT).collect())).collect();
        let count = |name: &str, limit: usize| {
            values.get(name).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0).min(limit)
        };
        let interfaces = (0..count("if.count", MAX_INTERFACES))
            .filter_map(|index| {
                let name = values.get(&format!("if.{index}.name"))?.clone();
                let mac = values.get(&format!("if.{index}.hwaddr")).map(|mac| mac.to_ascii_lowercase());
                let addresses = (0..count(&format!("if.{index}.addr.count"), MAX_ADDRESSES))
                    .filter_map(|address| values.get(&format!("if.{index}.addr.{address}.addr")).cloned())
                    .filter(|address| address.parse::<std::net::IpAddr>().is_ok())
                    .collect();
                Some(GuestInterface { name, mac, addresses })
            })
            .collect();
        Self { os: status::os_info(&values), interfaces, commands: None }
    }
}

/// The file systems of a guest.
pub(crate) fn filesystems(values: &HashMap<String, String>) -> Vec<GuestFilesystem> {
    let count = values.get("fs.count").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    let one = |index: usize| {
        let text = |name: &str| {
            let value = values.get(&format!("fs.{index}.{name}")).map(String::as_str).unwrap_or_default();
            value.chars().take(MAX_TEXT).collect::<String>()
        };
        let bytes = |name: &str| text(name).parse().unwrap_or(0);
        GuestFilesystem {
            disk: text("name"),
            mount_point: text("mountpoint"),
            kind: text("fstype"),
            used_bytes: bytes("used-bytes"),
            total_bytes: bytes("total-bytes"),
        }
    };
    (0..count.min(MAX_FILESYSTEMS)).map(one).collect()
}

/// The commands that an agent knows and allows, from its answer to `guest-info`.
pub(crate) fn commands(answer: &str) -> Option<Vec<String>> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    let commands = answer["return"]["supported_commands"].as_array()?;
    let enabled = commands.iter().filter(|command| command["enabled"] == true).take(MAX_COMMANDS);
    Some(enabled.filter_map(|command| Some(command["name"].as_str()?.chars().take(MAX_TEXT).collect())).collect())
}

/// Whether file systems are frozen, from the answer to `guest-fsfreeze-status`.
pub(crate) fn is_frozen(answer: &str) -> Option<bool> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    Some(answer["return"].as_str()? == "frozen")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> GuestReport {
        GuestReport::read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn reads_system_and_interfaces() {
        let report = read(&[
            ("os.id", "debian"),
            ("os.pretty-name", "Debian GNU/Linux 13 (trixie)"),
            ("if.count", "1"),
            ("if.0.name", "enp1s0"),
            ("if.0.hwaddr", "02:00:00:00:00:0A"),
            ("if.0.addr.count", "2"),
            ("if.0.addr.0.addr", "192.168.10.2"),
            ("if.0.addr.1.addr", "not an address"),
        ]);
        assert_eq!(report.os.id.as_deref(), Some("debian"));
        let expected = GuestInterface {
            name: "enp1s0".into(),
            mac: Some("02:00:00:00:00:0a".into()),
            addresses: vec!["192.168.10.2".into()],
        };
        assert_eq!(report.interfaces, [expected]);
    }

    #[test]
    fn a_guest_cannot_make_the_report_large() {
        let long = "x".repeat(10_000);
        let report = read(&[("os.name", long.as_str()), ("if.count", "4000000000"), ("if.0.name", "a")]);
        assert_eq!(report.os.name.map(|name| name.len()), Some(MAX_TEXT));
        assert_eq!(report.interfaces.len(), 1);
    }

    #[test]
    fn reads_what_the_agent_says_of_itself() {
        let about = r#"{"return":{"supported_commands":[{"enabled":true,"name":"guest-ping"},
            {"enabled":false,"name":"guest-exec"}]}}"#;
        assert_eq!(commands(about), Some(vec!["guest-ping".to_owned()]));
        assert_eq!((commands("{}"), commands("no json")), (None, None));
        assert_eq!(is_frozen(r#"{"return":"frozen"}"#), Some(true));
        assert_eq!(is_frozen(r#"{"return":"thawed"}"#), Some(false));
        assert_eq!(is_frozen(r#"{"error":{}}"#), None);
    }
}
