//! Processors of a node: sets of them as Linux writes them, which of them a guest has to itself, and which are left to
//! the others. Refuses to look at a node: its topology and the kubelet's record are arguments.
//!
//! ```text
//!  a guest's spec ──need──> CPUs of its reservation pod ──kubelet──> its exclusive CPUs ──pins──> vCPUs, emulator, I/O
//!                                                                            └──share──> what every other guest may use
//! ```

mod kubelet;
mod mask;
mod need;
mod pins;
mod share;
mod topology;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

pub use kubelet::{CpuSettings, KubeletState, NotAssigned, StateError, must_forget};
pub use mask::{MaskError, VcpuMask};
pub use need::{CpuNeed, PARITY_ANNOTATION};
pub use pins::{PinError, PinWish, Pins, choose};
pub use share::{InUse, Share, conflict, share};
pub use topology::HostTopology;

/// The largest number of processors that Linux can be built for (`NR_CPUS` of x86-64).
const CPUS_MAX: u32 = 8192;

/// A set of a node's processors, by the kernel's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<u32>);

/// A text that is no list of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} of {text:?} is no processor and no range of them, such as 0-3,8")]
pub struct CpuListError {
    /// The list.
    text: String,
    /// What is wrong in it.
    part: String,
}

impl CpuSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a processor is among them.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether all of them are in another set.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The lowest.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Those of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Those that are not in the other set.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Those of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuListError;

    /// Reads a list as Linux writes it (`cpulist` of sysfs, cpuset(7)): numbers and ranges, commas between them. An empty
    /// text is no processor.
    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        let mut cpus = BTreeSet::new();
        for part in trimmed.split(',') {
            let (first, last) = range(part).ok_or_else(|| CpuListError { text: text.into(), part: part.into() })?;
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

/// A number, or two with a dash between them, the lower one first.
fn range(part: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu < CPUS_MAX);
    let (first, last) = match part.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(part)?, number(part)?),
    };
    (first <= last).then_some((first, last))
}

impl fmt::Display for CpuSet {
    /// As Linux writes it: `0-3,8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            if first == last {
                write!(f, "{comma}{first}")?
            } else {
                write!(f, "{comma}{first}-{last}")?
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
fn cpus(list: &str) -> CpuSet {
    list.parse().expect("a list of processors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_as_linux_does() {
        let check = |text: &str, count: usize, written: &str| {
            let set = cpus(text);
            assert_eq!((set.len(), set.to_string().as_str()), (count, written), "{text:?}");
            assert_eq!(cpus(&set.to_string()), set, "{text:?}");
        };
        check("", 0, "");
        check("\n", 0, "");
        check("0\n", 1, "0");
        check("0-3,8", 5, "0-3,8");
        check("8,0-3", 5, "0-3,8");
        check("0,1,2,4", 4, "0-2,4");
        check("2-2", 1, "2");
        check("0-3,2-5", 6, "0-5");
        check(" 1 , 3 - 4 ", 3, "1,3-4");
        check("8191", 1, "8191");
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_part_that_is_wrong() {
        for (text, part) in [
            ("a", "a"),
            ("0,,1", ""),
            ("3-1", "3-1"),
            ("1-", "1-"),
            ("-1", "-1"),
            ("0-3:1/2", "0-3:1/2"),
            ("8192", "8192"),
        ] {
            let error = text.parse::<CpuSet>().expect_err("it is refused");
            assert_eq!(error.part, part, "{text}");
        }
    }

    #[test]
    fn sets_are_joined_and_taken_apart() {
        let (one, two) = (cpus("0-3"), cpus("2-5"));
        assert_eq!(one.union(&two), cpus("0-5"));
        assert_eq!(one.difference(&two), cpus("0-1"));
        assert_eq!(one.intersection(&two), cpus("2-3"));
        assert!(cpus("2-3").is_within(&two) && !one.is_within(&two));
    }
}
