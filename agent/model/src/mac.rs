//! Hardware addresses of guests: parsing what users write and choosing one where they write none. Refuses group
//! addresses and the all-zero one, which mean something else on the wire and to libvirt.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// First octet of chosen addresses: unicast, locally administered (IEEE 802 clause 8), so that no vendor's block is hit.
const LOCAL: u8 = 0x02;

/// Chosen addresses are tried in this many places before giving up; two guests out of a million collide in the first
/// with a probability of about one half, in eight in a row never.
pub const ATTEMPTS: u32 = 8;

/// A unicast hardware address. Its text form is lower case with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// A text that is no unicast hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a unicast hardware address such as 02:00:5e:10:00:01")]
pub struct MacError(String);

impl Mac {
    /// The address for a NIC: the same seed and attempt always give the same one, so that an allocation that is begun
    /// again after a crash asks for what it asked for before.
    #[must_use]
    pub fn derived(seed: &str, attempt: u32) -> Self {
        let digest = Sha256::new().chain_update(seed).chain_update(attempt.to_be_bytes()).finalize();
        Self([LOCAL, digest[0], digest[1], digest[2], digest[3], digest[4]])
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let refuse = || MacError(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0_u8; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(part.ok_or_else(refuse)?, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() || octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(refuse());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<Mac>().ok().map(|mac| mac.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn reads_both_separators_and_writes_one() {
        check("02:AB:00:00:00:01", Some("02:ab:00:00:00:01"));
        check("de-ad-00-00-be-ef", Some("de:ad:00:00:be:ef"));
    }

    #[test]
    fn refuses_what_no_guest_may_have() {
        for text in ["", "02:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            check(text, None);
        }
        for text in ["02:00:00:00:00:01:02", "02-00:00:00:00:01", "+2:00:00:00:00:01", "0x:00:00:00:00:01"] {
            check(text, None);
        }
    }

    #[test]
    fn a_derived_address_is_stable_and_unicast() {
        let first = Mac::derived("uid/nic", 0);
        assert_eq!(first, Mac::derived("uid/nic", 0));
        assert_ne!(first, Mac::derived("uid/nic", 1));
        check(&first.to_string(), Some(&first.to_string()));
    }
}
