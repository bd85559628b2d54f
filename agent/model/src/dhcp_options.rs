//! What a guest asks its own DHCP answers to say beside the address. Owns which options those may be. Refuses the others:
//! they are the network's affair.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Longest value of an option, bytes (RFC 2132 section 2).
const VALUE_MAX: usize = 255;

/// Most that all of them may take, bytes: an answer is one frame, and the rest of it, domains to search among it, needs room, too.
const TOTAL_MAX: usize = 700;

/// Codes that are nobody's (RFC 3942).
const PRIVATE: std::ops::RangeInclusive<i32> = 224..=254;

/// More options of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DhcpOptions {
    /// Option 67.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<String>,
    /// Option 66.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tftp_server: Option<String>,
    /// Option 42.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 15: what follows the guest's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Option 119: where names are looked for, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    /// Options 224 to 254, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub private: BTreeMap<u8, String>,
}

/// Why something cannot be an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DhcpOptionError {
    /// Not an address.
    #[error("ntpServers: {0:?} is not an IPv4 address")]
    Ntp(String),
    /// A code with a meaning of its own.
    #[error("privateOptions: {0} is not between 224 and 254")]
    Code(i32),
    /// One code, two values.
    #[error("privateOptions: {0} is given twice")]
    Twice(u8),
    /// More than an option holds.
    #[error("{0}: a value has at most {VALUE_MAX} bytes and is not empty")]
    Length(&'static str),
    /// More than a frame holds.
    #[error("all options together have {0} bytes, more than {TOTAL_MAX}")]
    Total(usize),
}

/// Options as they were asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked<'a> {
    /// Option 67.
    pub boot_file: Option<&'a str>,
    /// Option 66.
    pub tftp_server: Option<&'a str>,
    /// Addresses as text.
    pub ntp_servers: Vec<&'a str>,
    /// Codes and values.
    pub private: Vec<(i32, &'a str)>,
}

impl DhcpOptions {
    /// Understands what was asked for.
    ///
    /// # Errors
    /// The first thing that cannot be said.
    pub fn parse(asked: &Asked<'_>) -> Result<Self, DhcpOptionError> {
        let text = |name, text: Option<&str>| text.map(|text| value(name, text)).transpose();
        let ntp = |text: &&str| text.parse::<Ipv4Addr>().map_err(|_| DhcpOptionError::Ntp((*text).to_owned()));
        let mut private = BTreeMap::new();
        for (code, text) in &asked.private {
            let number = u8::try_from(*code).ok().filter(|_| PRIVATE.contains(code));
            let number = number.ok_or(DhcpOptionError::Code(*code))?;
            if private.insert(number, value("privateOptions", text)?).is_some() {
                return Err(DhcpOptionError::Twice(number));
            }
        }
        let ntp_servers: Vec<_> = asked.ntp_servers.iter().map(ntp).collect::<Result<_, _>>()?;
        if ntp_servers.len() * 4 > VALUE_MAX {
            return Err(DhcpOptionError::Length("ntpServers"));
        }
        let options = Self {
            boot_file: text("bootFileName", asked.boot_file)?,
            tftp_server: text("tftpServerName", asked.tftp_server)?,
            ntp_servers,
            private,
            ..Self::default()
        };
        let texts = options.boot_file.iter().chain(&options.tftp_server).chain(options.private.values());
        let total = texts.map(String::len).sum::<usize>() + options.ntp_servers.len() * 4;
        if total > TOTAL_MAX { Err(DhcpOptionError::Total(total)) } else { Ok(options) }
    }
}

fn value(name: &'static str, text: &str) -> Result<String, DhcpOptionError> {
    if text.is_empty() || text.len() > VALUE_MAX {
        return Err(DhcpOptionError::Length(name));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_dhcp_can_say() {
        let asked = Asked {
            boot_file: Some("boot.efi"),
            tftp_server: Some("10.0.0.1"),
            ntp_servers: vec!["10.0.0.2"],
            private: vec![(224, "a"), (254, "b")],
        };
        let options = DhcpOptions::parse(&asked).expect("they can be said");
        assert_eq!(options.ntp_servers, [Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(options.private[&254], "b");
        let refused = |asked: Asked<'_>| DhcpOptions::parse(&asked).expect_err("it is refused");
        let private = |private| Asked { private, ..Asked::default() };
        assert_eq!(refused(private(vec![(3, "a")])), DhcpOptionError::Code(3));
        assert_eq!(refused(private(vec![(224, "a"), (224, "b")])), DhcpOptionError::Twice(224));
        assert_eq!(refused(private(vec![(224, "")])), DhcpOptionError::Length("privateOptions"));
        let ntp = Asked { ntp_servers: vec!["pool.ntp.org"], ..Asked::default() };
        assert_eq!(refused(ntp), DhcpOptionError::Ntp("pool.ntp.org".to_owned()));
        let long = "x".repeat(250);
        let many = private((224..=227).map(|code| (code, long.as_str())).collect());
        assert_eq!(refused(many), DhcpOptionError::Total(1000));
    }
}
