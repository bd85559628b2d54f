//! One allocation, call by call.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::range::{Range, RangeError};
use crate::mac::{ATTEMPTS, Mac};

/// How often an allocation starts over because others were faster. More means a livelock that waiting cures better.
const ROUNDS: u32 = 32;

/// Whom an address belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// `VirtualMachine` or `VirtualMachineInstance`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A decision that stands, written on the Subnet before its IP object exists. The JSON form is the value of the
/// annotation `furrow.io/pending-allocation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the IP object.
    pub object: String,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The address.
    pub ip: Ipv4Addr,
    /// The hardware address.
    pub mac: String,
}

/// An IP object as far as allocation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its name.
    pub object: String,
    /// Its Subnet.
    pub subnet: String,
    /// Its IPv4 address, if it has a valid one.
    pub ip: Option<Ipv4Addr>,
    /// Its hardware address, if it has a valid one.
    pub mac: Option<Mac>,
    /// UID of its owner; `None` for one that somebody made by hand.
    pub owner_uid: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the IP object.
    pub object: String,
    /// The Subnet.
    pub subnet: String,
    /// Whom it is for.
    pub owner: Owner,
    /// A particular address.
    pub ip: Option<Ipv4Addr>,
    /// A particular hardware address.
    pub mac: Option<Mac>,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub ip: Ipv4Addr,
    /// The hardware address.
    pub mac: Mac,
}

/// The next call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Read the IP object of this name; answered by [`Answer::Own`].
    FindOwn(String),
    /// Delete the IP object of this name, which does not fit the request; answered by [`Answer::Done`].
    DropOwn(String),
    /// Read the Subnet, not from a cache; answered by [`Answer::Subnet`].
    ReadSubnet,
    /// List all IP objects, not from a cache; answered by [`Answer::Holdings`].
    List,
    /// Whether this owner exists with this UID and is not being deleted, not from a cache; answered by
    /// [`Answer::Alive`].
    OwnerAlive(Owner),
    /// Replace the Subnet read last, on condition of its version, with this claim on it; answered by [`Answer::Done`]
    /// or [`Answer::Conflict`].
    Record(Claim),
    /// Create the IP object of this claim; answered by [`Answer::Done`], or [`Answer::Conflict`] if one of its name
    /// exists.
    Create(Claim),
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The IP object, if there is one.
    Own(Option<Holding>),
    /// The Subnet's addresses and the claim that it carries.
    Subnet(Result<Range, RangeError>, Option<Claim>),
    /// All IP objects.
    Holdings(Vec<Holding>),
    /// Whether the owner lives.
    Alive(bool),
    /// Done.
    Done,
    /// Somebody else was faster.
    Conflict,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// All are taken.
    #[error("subnet {subnet} has no free address: all {size} are taken")]
    Exhausted {
        /// The Subnet.
        subnet: String,
        /// How many it has.
        size: u64,
    },
    /// The Subnet is malformed.
    #[error("subnet {subnet} cannot be used: {source}")]
    Subnet {
        /// The Subnet.
        subnet: String,
        /// What is wrong with it.
        source: RangeError,
    },
    /// The address asked for is not one that guests may have.
    #[error("address {ip} cannot be given: subnet {subnet} does not have it, or excludes it")]
    NotOpen {
        /// The Subnet.
        subnet: String,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Another IP object has the address asked for.
    #[error("address {ip} cannot be given: IP {holder} has it")]
    IpTaken {
        /// The address.
        ip: Ipv4Addr,
        /// The IP object that has it.
        holder: String,
    },
    /// Another IP object has the hardware address asked for.
    #[error("hardware address {mac} cannot be given: IP {holder} has it")]
    MacTaken {
        /// The hardware address.
        mac: Mac,
        /// The IP object that has it.
        holder: String,
    },
    /// The IP object of this NIC still belongs to something of the same name that is going away.
    #[error("address of IP {object} cannot be used: it still belongs to an earlier object of the same name")]
    ForeignOwner {
        /// The IP object.
        object: String,
    },
    /// An answer that does not belong to the call: a defect.
    #[error("allocation of IP {object} got an answer that does not fit its call")]
    Confused {
        /// The IP object.
        object: String,
    },
    /// Others were always faster.
    #[error("address of IP {object} could not be reserved: subnet {subnet} kept changing")]
    Contended {
        /// The IP object.
        object: String,
        /// The Subnet.
        subnet: String,
    },
}

#[derive(Debug, Clone)]
enum State {
    Find,
    Drop,
    Read,
    List { range: Range, pending: Option<Claim> },
    Check { range: Range, pending: Claim, holdings: Vec<Holding> },
    Finish { range: Range, pending: Claim },
    Record(Claim),
    Create(Claim),
}

/// One allocation. Call [`Self::call`], carry it out, tell [`Self::answer`], until that gives a result.
#[derive(Debug, Clone)]
pub struct Allocation {
    request: Request,
    state: State,
    rounds: u32,
}

impl Allocation {
    /// Begins, or begins again after a crash: the same request has the same result.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { request, state: State::Find, rounds: 0 }
    }

    /// The call to make now.
    #[must_use]
    pub fn call(&self) -> Call {
        match &self.state {
            State::Find => Call::FindOwn(self.request.object.clone()),
            State::Drop => Call::DropOwn(self.request.object.clone()),
            State::Read => Call::ReadSubnet,
            State::List { .. } => Call::List,
            State::Check { pending, .. } => Call::OwnerAlive(pending.owner.clone()),
            State::Finish { pending, .. } => Call::Create(pending.clone()),
            State::Record(claim) => Call::Record(claim.clone()),
            State::Create(claim) => Call::Create(claim.clone()),
        }
    }

    /// Takes the answer to [`Self::call`]. Gives the result when there is one.
    ///
    /// # Errors
    /// When there is no address to be had as things stand.
    pub fn answer(&mut self, answer: Answer) -> Result<Option<Assigned>, AllocationError> {
        let state = std::mem::replace(&mut self.state, State::Find);
        self.state = match (state, answer) {
            (State::Find, Answer::Own(Some(own))) => match self.judge(&own)? {
                Some(assigned) => return Ok(Some(assigned)),
                None => State::Drop,
            },
            (State::Find, Answer::Own(None)) | (State::Drop, Answer::Done) => State::Read,
            (State::Read, Answer::Subnet(range, pending)) => State::List { range: self.usable(range)?, pending },
            (State::List { range, pending }, Answer::Holdings(holdings)) => match self.unfinished(pending, &holdings) {
                (Some(pending), _) => State::Check { range, pending, holdings },
                (None, after) => State::Record(self.choose(&range, &holdings, after)?),
            },
            (State::Check { range, pending, .. }, Answer::Alive(true)) => State::Finish { range, pending },
            (State::Check { range, pending, holdings }, Answer::Alive(false)) => {
                State::Record(self.choose(&range, &holdings, Some(pending.ip))?)
            }
            // Whoever made it: the list shows it now, and the version still guards the choice.
            (State::Finish { range, pending }, Answer::Done | Answer::Conflict) => {
                self.again()?;
                State::List { range, pending: Some(pending) }
            }
            (State::Record(claim), Answer::Done) => State::Create(claim),
            (State::Record(_), Answer::Conflict) => {
                self.again()?;
                State::Read
            }
            (State::Create(claim), Answer::Done) => return Ok(Some(self.assigned(&claim)?)),
            // Another allocator finished this claim, or it is from an earlier one: look at what is there.
            (State::Create(_), Answer::Conflict) => {
                self.again()?;
                State::Find
            }
            _ => return Err(AllocationError::Confused { object: self.request.object.clone() }),
        };
        Ok(None)
    }

    /// Whether the IP object of this NIC fits: its address, or `None` if it must go because something else is asked for.
    fn judge(&self, own: &Holding) -> Result<Option<Assigned>, AllocationError> {
        if own.owner_uid.as_ref().is_some_and(|uid| *uid != self.request.owner.uid) {
            return Err(AllocationError::ForeignOwner { object: own.object.clone() });
        }
        Ok(match (own.ip, own.mac) {
            (Some(ip), Some(mac))
                if own.subnet == self.request.subnet
                    && self.request.ip.is_none_or(|wanted| wanted == ip)
                    && self.request.mac.is_none_or(|wanted| wanted == mac) =>
            {
                Some(Assigned { ip, mac })
            }
            _ => None,
        })
    }

    /// The pending claim if its IP object is missing, and the address after which to look for a free one. A claim for
    /// this very NIC is not finished but replaced: it is from before the request changed, or the same is chosen again.
    fn unfinished(&self, pending: Option<Claim>, holdings: &[Holding]) -> (Option<Claim>, Option<Ipv4Addr>) {
        let after = pending.as_ref().map(|claim| claim.ip);
        let missing = pending.filter(|claim| {
            claim.object != self.request.object && !holdings.iter().any(|holding| holding.object == claim.object)
        });
        (missing, after)
    }

    fn usable(&self, range: Result<Range, RangeError>) -> Result<Range, AllocationError> {
        range.map_err(|source| AllocationError::Subnet { subnet: self.request.subnet.clone(), source })
    }

    fn again(&mut self) -> Result<(), AllocationError> {
        self.rounds += 1;
        if self.rounds <= ROUNDS {
            return Ok(());
        }
        Err(AllocationError::Contended { object: self.request.object.clone(), subnet: self.request.subnet.clone() })
    }

    fn assigned(&self, claim: &Claim) -> Result<Assigned, AllocationError> {
        let confused = |_| AllocationError::Confused { object: self.request.object.clone() };
        Ok(Assigned { ip: claim.ip, mac: claim.mac.parse().map_err(confused)? })
    }

    fn choose(&self, range: &Range, holdings: &[Holding], after: Option<Ipv4Addr>) -> Result<Claim, AllocationError> {
        let others = || holdings.iter().filter(|holding| holding.object != self.request.object);
        let ip = match self.request.ip {
            Some(ip) => {
                if !range.open(ip) {
                    return Err(AllocationError::NotOpen { subnet: self.request.subnet.clone(), ip });
                }
                let holder = others().find(|h| h.subnet == self.request.subnet && h.ip == Some(ip));
                match holder {
                    Some(holding) => return Err(AllocationError::IpTaken { ip, holder: holding.object.clone() }),
                    None => ip,
                }
            }
            None => {
                let taken: HashSet<_> =
                    others().filter(|h| h.subnet == self.request.subnet).filter_map(|h| h.ip).collect();
                range.next_free(&taken, after).ok_or_else(|| AllocationError::Exhausted {
                    subnet: self.request.subnet.clone(),
                    size: range.size(),
                })?
            }
        };
        let mac = self.choose_mac(others().filter_map(|h| Some((h.mac?, h.object.as_str()))))?;
        Ok(Claim { object: self.request.object.clone(), owner: self.request.owner.clone(), ip, mac: mac.to_string() })
    }

    /// Hardware addresses are unique in the cluster, not only in a Subnet: Subnets may share a layer 2.
    fn choose_mac<'a>(&self, others: impl Iterator<Item = (Mac, &'a str)>) -> Result<Mac, AllocationError> {
        let others: Vec<_> = others.collect();
        let holder = |mac: Mac| others.iter().find(|(taken, _)| *taken == mac).map(|(_, object)| (*object).to_owned());
        let seed = format!("{}/{}", self.request.object, self.request.owner.uid);
        let first = self.request.mac.unwrap_or_else(|| Mac::derived(&seed, 0));
        let Some(in_the_way) = holder(first) else { return Ok(first) };
        let taken = AllocationError::MacTaken { mac: first, holder: in_the_way };
        if self.request.mac.is_some() {
            return Err(taken);
        }
        (1..ATTEMPTS).map(|n| Mac::derived(&seed, n)).find(|mac| holder(*mac).is_none()).ok_or(taken)
    }
}
