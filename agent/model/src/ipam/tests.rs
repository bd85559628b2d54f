//! Addresses: tables for ranges, and a store in which allocators are interleaved and killed at every call.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::mac::Mac;

fn range(cidr: &str, gateway: &str, exclude: &[&str]) -> Range {
    let exclude: Vec<_> = exclude.iter().map(|e| (*e).to_owned()).collect();
    Range::parse(cidr, Some(gateway).filter(|g| !g.is_empty()), &exclude).unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn check_refused(cidr: &str, gateway: &str, exclude: &str, expected: &str) {
    let exclude: Vec<_> = Some(exclude).filter(|e| !e.is_empty()).map(str::to_owned).into_iter().collect();
    let error = Range::parse(cidr, Some(gateway), &exclude).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_range_leaves_out_network_broadcast_gateway_and_exclusions() {
    let small = range("192.168.12.0/26", "192.168.12.1", &["192.168.12.1", "192.168.12.2..192.168.12.12"]);
    assert_eq!(small.size(), 50);
    assert_eq!(small.next_free(&HashSet::new(), None), Some(ip("192.168.12.13")));
    for closed in ["192.168.12.0", "192.168.12.1", "192.168.12.7", "192.168.12.12", "192.168.12.63", "192.168.13.1"] {
        assert!(!small.open(ip(closed)), "{closed}");
    }
    assert!(small.open(ip("192.168.12.62")));
    let wide = range("192.168.10.0/23", "192.168.10.1", &["192.168.10.1"]);
    assert_eq!((wide.size(), wide.prefix(), wide.gateway()), (509, 23, Some(ip("192.168.10.1"))));
    assert_eq!(range("10.0.0.0/30", "", &[]).size(), 2);
}

#[test]
fn overlapping_and_foreign_exclusions_count_once() {
    let overlapping = range("10.0.0.0/24", "10.0.0.5", &["10.0.0.1..10.0.0.9", "10.0.0.5..10.0.0.20", "11.0.0.1"]);
    assert_eq!(overlapping.size(), 254 - 20);
    assert_eq!(range("10.0.0.0/24", "", &["9.0.0.0..12.0.0.0"]).size(), 0);
}

#[test]
fn a_given_back_address_is_the_last_to_be_given_again() {
    let range = range("10.0.0.0/29", "10.0.0.1", &[]);
    let mut taken: HashSet<_> = ["10.0.0.2", "10.0.0.4"].map(ip).into();
    assert_eq!(range.next_free(&taken, Some(ip("10.0.0.4"))), Some(ip("10.0.0.5")));
    taken.extend(["10.0.0.5", "10.0.0.6"].map(ip));
    assert_eq!(range.next_free(&taken, Some(ip("10.0.0.6"))), Some(ip("10.0.0.3")));
    taken.insert(ip("10.0.0.3"));
    assert_eq!(range.next_free(&taken, Some(ip("10.0.0.3"))), None);
    assert_eq!(range.next_free(&HashSet::new(), Some(ip("172.16.0.1"))), Some(ip("10.0.0.2")));
}

#[test]
fn says_what_is_wrong_with_a_range() {
    check_refused("10.0.0.0", "10.0.0.1", "", "cidrBlock");
    check_refused("10.0.0.0/33", "10.0.0.1", "", "prefix");
    check_refused("fd00::/64", "10.0.0.1", "", "cidrBlock");
    check_refused("10.0.0.0/24", "10.0.1.1", "", "gateway");
    check_refused("10.0.0.0/24", "10.0.0.1", "10.0.0.9..10.0.0.2", "excludeIps");
    check_refused("10.0.0.0/24", "10.0.0.1", "ten", "excludeIps");
}

/// A cluster as far as allocation goes.
#[derive(Default)]
struct Store {
    version: u64,
    pending: Option<Claim>,
    ips: BTreeMap<String, Claim>,
    living: HashSet<String>,
}

impl Store {
    fn carry_out(&mut self, call: Call, range: &Range, read: &mut u64) -> Answer {
        match call {
            Call::FindOwn(object) => Answer::Own(self.ips.get(&object).map(holding)),
            Call::DropOwn(object) => {
                self.ips.remove(&object);
                Answer::Done
            }
            Call::ReadSubnet => {
                *read = self.version;
                Answer::Subnet(Ok(range.clone()), self.pending.clone())
            }
            Call::List => Answer::Holdings(self.ips.values().map(holding).collect()),
            Call::OwnerAlive(owner) => Answer::Alive(self.living.contains(&owner.uid)),
            Call::Record(_) if *read != self.version => Answer::Conflict,
            Call::Record(claim) => {
                self.version += 1;
                self.pending = Some(claim);
                Answer::Done
            }
            Call::Create(claim) if self.ips.contains_key(&claim.object) => Answer::Conflict,
            Call::Create(claim) => {
                self.ips.insert(claim.object.clone(), claim);
                Answer::Done
            }
        }
    }

    /// The garbage collector: IP objects of owners that are gone go.
    fn collect(&mut self) {
        let living = &self.living;
        self.ips.retain(|_, claim| living.contains(&claim.owner.uid));
    }

    fn assert_nothing_given_twice(&self) {
        let mut addresses = HashSet::new();
        let mut macs = HashSet::new();
        for claim in self.ips.values().filter(|claim| self.living.contains(&claim.owner.uid)) {
            assert!(addresses.insert(claim.ip), "{} was given twice: {:?}", claim.ip, self.ips);
            assert!(macs.insert(claim.mac.clone()), "{} was given twice: {:?}", claim.mac, self.ips);
        }
    }
}

fn holding(claim: &Claim) -> Holding {
    Holding {
        object: claim.object.clone(),
        subnet: "s".into(),
        ip: Some(claim.ip),
        mac: claim.mac.parse().ok(),
        owner_uid: Some(claim.owner.uid.clone()),
    }
}

fn request(n: usize) -> Request {
    let owner = Owner {
        kind: "VirtualMachine".into(),
        namespace: "default".into(),
        name: format!("vm{n}"),
        uid: format!("uid{n}"),
    };
    Request { object: format!("vm{n}.default"), subnet: "s".into(), owner, ip: None, mac: None }
}

/// One process that works on one request.
struct Allocator {
    request: Request,
    allocation: Allocation,
    read: u64,
    result: Option<Result<Assigned, AllocationError>>,
}

impl Allocator {
    fn new(request: Request) -> Self {
        Self { allocation: Allocation::new(request.clone()), request, read: 0, result: None }
    }

    fn step(&mut self, store: &mut Store, range: &Range) {
        if self.result.is_none() {
            let answer = store.carry_out(self.allocation.call(), range, &mut self.read);
            self.result = self.allocation.answer(answer).transpose();
        }
    }

    fn run(&mut self, store: &mut Store, range: &Range) -> Result<Assigned, AllocationError> {
        for _ in 0..1000 {
            self.step(store, range);
            if let Some(result) = &self.result {
                return result.clone();
            }
        }
        panic!("the allocation does not end");
    }
}

fn allocate(store: &mut Store, range: &Range, request: Request) -> Result<Assigned, AllocationError> {
    store.living.insert(request.owner.uid.clone());
    Allocator::new(request).run(store, range)
}

#[test]
fn gives_the_same_address_again_and_says_when_all_are_taken() {
    let (mut store, range) = (Store::default(), range("10.0.0.0/29", "10.0.0.1", &[]));
    let first = allocate(&mut store, &range, request(0)).unwrap();
    assert_eq!(first.ip, ip("10.0.0.2"));
    for n in 1..5 {
        allocate(&mut store, &range, request(n)).unwrap();
    }
    assert_eq!(allocate(&mut store, &range, request(0)), Ok(first));
    let full = allocate(&mut store, &range, request(5));
    assert_eq!(full, Err(AllocationError::Exhausted { subnet: "s".into(), size: 5 }));
    store.living.remove("uid3");
    store.collect();
    assert_eq!(allocate(&mut store, &range, request(5)).unwrap().ip, ip("10.0.0.5"));
}

#[test]
fn gives_what_is_asked_for_or_says_who_has_it() {
    let (mut store, range) = (Store::default(), range("10.0.0.0/24", "10.0.0.1", &["10.0.0.2"]));
    let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
    let wanted = Request { ip: Some(ip("10.0.0.77")), mac: Some(mac), ..request(0) };
    assert_eq!(allocate(&mut store, &range, wanted.clone()), Ok(Assigned { ip: ip("10.0.0.77"), mac }));
    let same_ip = Request { ip: wanted.ip, ..request(1) };
    let holder = "vm0.default".to_owned();
    let taken = AllocationError::IpTaken { ip: ip("10.0.0.77"), holder: holder.clone() };
    assert_eq!(allocate(&mut store, &range, same_ip), Err(taken));
    let same_mac = Request { mac: Some(mac), ..request(2) };
    assert_eq!(allocate(&mut store, &range, same_mac), Err(AllocationError::MacTaken { mac, holder }));
    for closed in ["10.0.0.1", "10.0.0.2", "10.0.0.255", "10.0.1.5"] {
        let refused = Request { ip: Some(ip(closed)), ..request(3) };
        let error = AllocationError::NotOpen { subnet: "s".into(), ip: ip(closed) };
        assert_eq!(allocate(&mut store, &range, refused), Err(error));
    }
}

#[test]
fn a_changed_request_replaces_the_address() {
    let (mut store, range) = (Store::default(), range("10.0.0.0/24", "10.0.0.1", &[]));
    allocate(&mut store, &range, request(0)).unwrap();
    let changed = Request { ip: Some(ip("10.0.0.50")), ..request(0) };
    assert_eq!(allocate(&mut store, &range, changed).unwrap().ip, ip("10.0.0.50"));
    assert_eq!(store.ips.len(), 1);
    assert_eq!(allocate(&mut store, &range, request(0)).unwrap().ip, ip("10.0.0.50"));
}

#[test]
fn an_earlier_object_of_the_same_name_is_waited_for() {
    let (mut store, range) = (Store::default(), range("10.0.0.0/24", "10.0.0.1", &[]));
    allocate(&mut store, &range, request(0)).unwrap();
    store.living.remove("uid0");
    let mut reborn = request(0);
    reborn.owner.uid = "reborn".into();
    let waits = AllocationError::ForeignOwner { object: "vm0.default".into() };
    assert_eq!(allocate(&mut store, &range, reborn.clone()), Err(waits));
    store.collect();
    assert!(allocate(&mut store, &range, reborn).is_ok());
}

#[test]
fn a_claim_is_readable_by_the_next_version() {
    let text = r#"{"object":"a.b","owner":{"kind":"VirtualMachine","namespace":"b","name":"a","uid":"u"},"ip":"10.0.0.2","mac":"02:00:00:00:00:01"}"#;
    let claim: Claim = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&claim).unwrap(), text);
}

/// What happens next in the cluster.
#[derive(Debug, Clone)]
enum Event {
    Step(usize),
    Crash(usize),
    OwnerDies(usize),
    Collect,
    /// Somebody else writes the Subnet.
    Touch,
}

const VMS: usize = 6;
/// Every VM is worked on by two processes: an old leader and a new one.
const PROCESSES: usize = 2 * VMS;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => (0..PROCESSES).prop_map(Event::Step),
        3 => (0..PROCESSES).prop_map(Event::Crash),
        1 => (0..VMS).prop_map(Event::OwnerDies),
        2 => Just(Event::Collect),
        1 => Just(Event::Touch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_interleaving_and_no_crash_gives_an_address_twice_or_loses_one(
        events in proptest::collection::vec(event(), 0..400),
    ) {
        // Five addresses for six VMs: the end of the subnet is part of the game.
        let range = range("10.0.0.0/29", "10.0.0.1", &[]);
        let mut store = Store::default();
        store.living.extend((0..VMS).map(|n| request(n).owner.uid));
        let mut processes: Vec<_> = (0..PROCESSES).map(|n| Allocator::new(request(n % VMS))).collect();
        for event in events {
            match event {
                Event::Step(n) => processes[n].step(&mut store, &range),
                Event::Crash(n) => processes[n] = Allocator::new(processes[n].request.clone()),
                Event::OwnerDies(n) => drop(store.living.remove(&request(n).owner.uid)),
                Event::Collect => store.collect(),
                Event::Touch => store.version += 1,
            }
            store.assert_nothing_given_twice();
        }
        // Whatever was going on: everybody is begun again, one after another, and nothing was lost.
        let living: Vec<_> = (0..VMS).filter(|n| store.living.contains(&request(*n).owner.uid)).collect();
        store.collect();
        let given = living.iter().filter(|n| Allocator::new(request(**n)).run(&mut store, &range).is_ok()).count();
        prop_assert_eq!(given, living.len().min(5));
        prop_assert_eq!(store.ips.len(), given);
        store.assert_nothing_given_twice();
    }
}

/// One leader: works on one request after the other and remembers in between.
struct Leader {
    memory: Memory,
    read: u64,
    queue: Vec<Request>,
    at_work: Option<Allocation>,
}

impl Leader {
    fn new(vms: impl Iterator<Item = usize>) -> Self {
        Self { memory: Memory::default(), read: 0, queue: vms.map(request).collect(), at_work: None }
    }

    /// One call, from memory or made.
    fn step(&mut self, store: &mut Store, range: &Range) {
        let Some(request) = self.queue.last().cloned() else { return };
        let allocation = self.at_work.get_or_insert_with(|| Allocation::new(request));
        let call = allocation.call();
        let answer = self.memory.recall(&call).unwrap_or_else(|| {
            let answer = store.carry_out(call.clone(), range, &mut self.read);
            self.memory.learn(&call, &answer, "s");
            // The answer to a replace holds the new version.
            if matches!((&call, &answer), (Call::Record(_), Answer::Done)) {
                self.read = store.version;
            }
            answer
        });
        match allocation.answer(answer) {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.queue.pop();
                self.at_work = None;
            }
            Err(_) => {
                // What memory says is not final; what was just read is, and the next in the queue has its turn.
                if !self.memory.is_there() {
                    self.queue.rotate_right(1);
                }
                self.memory.forget();
                self.at_work = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn leaders_that_remember_give_nothing_twice_either(
        events in proptest::collection::vec((0..2_usize, 0..40_u8, 0..VMS), 0..300),
    ) {
        let range = range("10.0.0.0/29", "10.0.0.1", &[]);
        let mut store = Store::default();
        store.living.extend((0..VMS).map(|n| request(n).owner.uid));
        let mut leaders = [Leader::new(0..VMS), Leader::new((0..VMS).rev())];
        for (leader, event, vm) in events {
            match event {
                0 => leaders[leader] = Leader::new((0..VMS).map(|n| (n + vm) % VMS)),
                1 => drop(store.living.remove(&request(vm).owner.uid)),
                2 => store.collect(),
                3 => store.version += 1,
                _ => leaders[leader].step(&mut store, &range),
            }
            store.assert_nothing_given_twice();
        }
    }
}
