//! Which virtual processors run in real time: `realtime.mask` of a guest, in libvirt's notation of bit maps
//! (`virBitmapParse`): `0-3,^1` is 0, 2 and 3. A processor that is taken out stays out, wherever in the list it is named.
//! The texts are KubeVirt's (`parseCPUMask`). Refuses to know how many processors there are.

use std::collections::BTreeSet;
use std::str::FromStr;

/// Processors that a mask names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VcpuMask {
    /// `None`: all.
    named: Option<BTreeSet<u32>>,
}

/// No mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A range whose end is below its beginning.
    #[error("invalid mask range `{0}`")]
    Range(String),
    /// Anything else.
    #[error("invalid mask value '{part}' in '{mask}'")]
    Value {
        /// What is wrong.
        part: String,
        /// The whole.
        mask: String,
    },
}

/// A machine has no more virtual processors.
const VCPUS_MAX: u32 = 1024;

impl FromStr for VcpuMask {
    type Err = MaskError;

    fn from_str(mask: &str) -> Result<Self, MaskError> {
        if mask.is_empty() {
            return Ok(Self { named: None });
        }
        let (mut named, mut out) = (BTreeSet::new(), BTreeSet::new());
        for part in mask.split(',').map(str::trim) {
            let wrong = || MaskError::Value { part: part.to_owned(), mask: mask.to_owned() };
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse::<u32>().ok().filter(|number| digits && *number < VCPUS_MAX);
                number.ok_or_else(wrong)
            };
            if let Some(rest) = part.strip_prefix('^') {
                out.insert(number(rest)?);
            } else if let Some((first, last)) = part.split_once('-') {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(MaskError::Range(part.to_owned()));
                }
                named.extend(first..=last);
            } else {
                named.insert(number(part)?);
            }
        }
        Ok(Self { named: Some(named.difference(&out).copied().collect()) })
    }
}

impl VcpuMask {
    /// Those of the first `count` processors that the mask names.
    #[must_use]
    pub fn within(&self, count: u32) -> BTreeSet<u32> {
        let named = |vcpu: &u32| self.named.as_ref().is_none_or(|named| named.contains(vcpu));
        (0..count).filter(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_ranges_and_exceptions() {
        let check = |mask: &str, expected: &[u32]| {
            let found: Vec<_> = mask.parse::<VcpuMask>().expect("a mask").within(4).into_iter().collect();
            assert_eq!(found, expected, "{mask}");
        };
        check("", &[0, 1, 2, 3]);
        check("0-3,^1", &[0, 2, 3]);
        check("^1,0-3", &[0, 2, 3]);
        check("0 , 2", &[0, 2]);
        check("2-9", &[2, 3]);
        check("1,1-2,^2,2", &[1]);
        check("^1", &[]);
        check("7", &[]);
    }

    #[test]
    fn what_is_no_mask_is_refused() {
        let check = |mask: &str, expected: &str| {
            assert_eq!(mask.parse::<VcpuMask>().expect_err("it is refused").to_string(), expected);
        };
        check("3-1", "invalid mask range `3-1`");
        check("a", "invalid mask value 'a' in 'a'");
        check("0-3,^", "invalid mask value '^' in '0-3,^'");
        check("0,,1", "invalid mask value '' in '0,,1'");
        check("+1", "invalid mask value '+1' in '+1'");
        check("0-4000000000", "invalid mask value '0-4000000000' in '0-4000000000'");
    }
}
