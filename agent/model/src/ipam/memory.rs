//! What a process remembers of a Subnet between two allocations, so that a burst needs two calls an address and not four.
//!
//! A memory is only ever wrong in two ways, and neither gives an address twice. Somebody else wrote the Subnet: then its
//! version is another, the claim is refused and all is read again. An address came back: then it counts as taken until
//! the list is read again, which is why a failure found by memory is not final. An IP object that somebody makes by hand
//! is seen when the list is read again; whoever holds a memory bounds its age.

use super::allocation::{Answer, Call, Claim, Holding};
use super::range::Range;

/// What is remembered of one Subnet.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    read: Option<(Range, Option<Claim>)>,
    holdings: Option<Vec<Holding>>,
}

impl Memory {
    /// The answer to a call, if it is remembered.
    #[must_use]
    pub fn recall(&self, call: &Call) -> Option<Answer> {
        match call {
            // One without the other would be of two different moments.
            Call::ReadSubnet => {
                let (range, pending) = self.read.as_ref().filter(|_| self.holdings.is_some())?;
                Some(Answer::Subnet(Ok(range.clone()), pending.clone()))
            }
            Call::List => self.holdings.clone().map(Answer::Holdings),
            _ => None,
        }
    }

    /// Takes in what became of a call that was made. `subnet`: the name of the Subnet.
    pub fn learn(&mut self, call: &Call, answer: &Answer, subnet: &str) {
        match (call, answer) {
            (Call::ReadSubnet, Answer::Subnet(Ok(range), pending)) => {
                // The list must be read after the Subnet: it has to hold every claim up to this version.
                self.holdings = None;
                self.read = Some((range.clone(), pending.clone()));
            }
            (Call::List, Answer::Holdings(holdings)) => self.holdings = Some(holdings.clone()),
            (Call::Record(claim), Answer::Done) => {
                if let Some((_, pending)) = &mut self.read {
                    *pending = Some(claim.clone());
                }
            }
            (Call::Create(claim), Answer::Done) => {
                if let Some(holdings) = &mut self.holdings {
                    holdings.push(Holding {
                        object: claim.object.clone(),
                        subnet: subnet.to_owned(),
                        ip: Some(claim.ip),
                        mac: claim.mac.parse().ok(),
                        owner_uid: Some(claim.owner.uid.clone()),
                    });
                }
            }
            (Call::FindOwn(_) | Call::OwnerAlive(_), _) => {}
            _ => self.forget(),
        }
    }

    /// Forgets all: the next allocation asks again.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether an allocation would be answered from it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.read.is_some() && self.holdings.is_some()
    }
}
