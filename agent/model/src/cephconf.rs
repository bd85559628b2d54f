//! Reads the monitors' addresses out of a `ceph.conf`, for QEMU, which gets them one by one.
//!
//! Knows nothing else of the file: librados reads it itself. Refuses what it cannot understand
//! instead of leaving a monitor out. The syntax is that of `mon_host` in Ceph's manual: addresses
//! with or without port, address vectors `[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]`, separated by
//! commas, semicolons or spaces.

/// The port of messenger v2 (IANA), which a monitor has unless told otherwise.
pub const MONITOR_PORT: u16 = 3300;

/// Why a `ceph.conf` names no monitors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MonitorsError {
    /// The key is not there, or has no value.
    #[error("ceph.conf has no mon_host in section [global]")]
    Missing,
    /// An address that is none.
    #[error("mon_host in ceph.conf: cannot understand the address {address:?}")]
    Address {
        /// What stands there.
        address: String,
    },
}

/// The monitors of a `ceph.conf`'s text as host (no brackets) and port, each once, in order.
pub fn monitors(conf: &str) -> Result<Vec<(String, u16)>, MonitorsError> {
    let value = mon_host(conf).ok_or(MonitorsError::Missing)?;
    let mut found: Vec<(String, u16)> = Vec::new();
    for entry in entries(&value) {
        let monitor = monitor(&entry)?;
        if !found.contains(&monitor) {
            found.push(monitor);
        }
    }
    if found.is_empty() { Err(MonitorsError::Missing) } else { Ok(found) }
}

fn mon_host(conf: &str) -> Option<String> {
    let mut global = true;
    let mut value = None;
    for line in conf.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("").trim();
        if let Some(section) = line.strip_prefix('[')
            && let Some(section) = section.strip_suffix(']')
            && !line.contains('=')
        {
            global = section.trim() == "global";
        } else if global
            && let Some((key, text)) = line.split_once('=')
            && matches!(key.trim().replace([' ', '-'], "_").as_str(), "mon_host")
        {
            value = Some(text.trim().trim_matches('"').to_owned()).filter(|t| !t.is_empty());
        }
    }
    value
}

/// Cuts at separators that stand outside brackets: a vector is one monitor.
fn entries(value: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut depth = 0u32;
    for c in value.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_whitespace()) {
            found.push(String::new());
        } else if let Some(last) = found.last_mut() {
            last.push(c);
        }
    }
    found.retain(|entry| !entry.is_empty());
    found
}

/// One monitor; of a vector the v2 address, else its first.
fn monitor(entry: &str) -> Result<(String, u16), MonitorsError> {
    let vector =
        entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).filter(|e| e.contains("v1:") || e.contains("v2:"));
    let address = match vector {
        Some(vector) => {
            let mut addresses = vector.split([',', ' ']).filter(|a| !a.is_empty());
            let first = addresses.clone().next().unwrap_or("");
            addresses.find(|a| a.starts_with("v2:")).unwrap_or(first)
        }
        None => entry,
    };
    let bare = ["v1:", "v2:", "any:"].iter().find_map(|p| address.strip_prefix(p)).unwrap_or(address);
    // The nonce after the slash is a daemon's incarnation; monitors have 0.
    let bare = bare.split('/').next().unwrap_or("");
    host_port(bare).ok_or_else(|| MonitorsError::Address { address: entry.to_owned() })
}

fn host_port(text: &str) -> Option<(String, u16)> {
    if let Some(v6) = text.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        let port = if rest.is_empty() { MONITOR_PORT } else { rest.strip_prefix(':')?.parse().ok()? };
        return host.parse::<std::net::Ipv6Addr>().ok().map(|_| (host.to_owned(), port));
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((text.to_owned(), MONITOR_PORT));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, MONITOR_PORT),
    };
    let valid = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    valid.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mon_host: &str, expected: &[(&str, u16)]) {
        let conf = format!("# a comment\n[global]\nfsid = x\nmon host = {mon_host}\n[osd]\nmon_host = no\n");
        let expected: Vec<(String, u16)> = expected.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect();
        assert_eq!(monitors(&conf), Ok(expected), "{mon_host}");
    }

    #[test]
    fn addresses_are_read_in_every_form() {
        check("10.0.0.1", &[("10.0.0.1", 3300)]);
        check("10.0.0.1:6789, mon-b.example", &[("10.0.0.1", 6789), ("mon-b.example", 3300)]);
        check(
            "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:10.0.0.2:3300/0,v1:10.0.0.2:6789/0]",
            &[("10.0.0.1", 3300), ("10.0.0.2", 3300)],
        );
        check("[v1:10.0.0.1:6789/0] 10.0.0.1:6789", &[("10.0.0.1", 6789)]);
        check("v2:10.0.0.1:3300", &[("10.0.0.1", 3300)]);
        check(
            "[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0] [fd00::2]:6789 fd00::3",
            &[("fd00::1", 3300), ("fd00::2", 6789), ("fd00::3", 3300)],
        );
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        assert_eq!(monitors("[global]\nmon_host =\n"), Err(MonitorsError::Missing));
        assert_eq!(monitors("[client]\nmon_host = 10.0.0.1\n"), Err(MonitorsError::Missing));
        for bad in ["10.0.0.1:x", "[fd00::zz]", "a b/c d!", "[v2:]"] {
            let result = monitors(&format!("mon_host = {bad}"));
            assert!(matches!(result, Err(MonitorsError::Address { .. })), "{bad}: {result:?}");
        }
    }
}
