//! Golden documents of guests with processors of their own, and what cannot be placed.

use super::*;
use crate::cpus::{CpuSet, HostTopology, PinError};

fn cpus(list: &str) -> CpuSet {
    list.parse().expect("a list of processors")
}

/// Two NUMA nodes with four cores each of two threads: `n` and `n + 8` are one core.
fn topology() -> HostTopology {
    let siblings: Vec<_> = (0..8).map(|cpu| CpuSet::from_iter([cpu, cpu + 8])).collect();
    HostTopology::new(&cpus("0-15"), &[(0, cpus("0-3,8-11")), (1, cpus("4-7,12-15"))], &siblings)
}

fn pinning(assigned: &str) -> PinningSpec {
    PinningSpec {
        assigned: cpus(assigned),
        topology: topology(),
        isolate_emulator: false,
        even: false,
        map_nodes: false,
        realtime: None,
    }
}

/// Two cores of two threads.
fn pinned(assigned: &str) -> DomainSpec {
    let mut spec = tiny();
    (spec.cpu.cores, spec.cpu.threads) = (2, 2);
    spec.pinning = Some(pinning(assigned));
    spec
}

/// One that sees the nodes.
fn mapped(assigned: &str) -> DomainSpec {
    let mut spec = pinned(assigned);
    spec.hugepage_kib = Some(2048);
    spec.pinning = Some(PinningSpec { map_nodes: true, ..pinning(assigned) });
    spec
}

#[test]
fn each_vcpu_has_a_processor_and_threads_stay_on_their_core() {
    check("cpu-dedicated", &pinned("2-3,10-11"), Virtualization::Kvm);
}

#[test]
fn the_translator_has_the_processors_as_a_whole() {
    let xml = render(&pinned("2-3,10-11"), &facts(Virtualization::Tcg)).expect("a domain");
    assert!(!xml.contains("vcpupin"), "{xml}");
    for part in ["cpuset=\"2-3,10-11\">4</vcpu>", "<emulatorpin cpuset=\"2-3,10-11\"/>", "/dedicated"] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}

#[test]
fn the_emulator_and_io_threads_can_have_their_own() {
    let mut spec = pinned("2-4,10-11");
    spec.pinning = Some(PinningSpec { isolate_emulator: true, ..pinning("2-4,10-11") });
    spec.io_threads = IoThreadPolicy::Auto;
    spec.cpu.model = CpuModelSpec::HostPassthrough;
    check("cpu-isolated-emulator", &spec, Virtualization::Kvm);
    spec.io_threads = IoThreadPolicy::Pool(1);
    let few = render(&spec, &facts(Virtualization::Kvm));
    let error = PinError::TooFew { needed: 6, found: 5, assigned: "2-4,10-11".into() };
    assert_eq!(few, Err(DomainError::Pins(error)));
}

#[test]
fn the_guest_sees_the_nodes_that_its_processors_are_on() {
    let mut spec = mapped("2,4,10,12");
    // An odd page goes to the first node.
    spec.memory_kib = 129 * 1024 + 1024;
    check("cpu-numa", &spec, Virtualization::Kvm);
    let one = render(&mapped("2-3,10-11"), &facts(Virtualization::Kvm)).expect("a domain");
    assert!(one.contains("<cell id=\"0\" cpus=\"0-3\" memory=\"131072\" unit=\"KiB\"/>"), "{one}");
    assert!(one.contains("<memory mode=\"strict\" nodeset=\"0\"/>"), "{one}");
}

#[test]
fn memory_that_cannot_be_spread_is_refused() {
    let refused = |change: fn(&mut DomainSpec)| {
        let mut spec = mapped("2,4,10,12");
        change(&mut spec);
        render(&spec, &facts(Virtualization::Kvm)).expect_err("it is refused")
    };
    let error = |kib| DomainError::NodeMemory { kib, nodes: 2 };
    assert_eq!(refused(|spec| spec.hugepage_kib = None), error(131_072));
    assert_eq!(refused(|spec| spec.memory_kib = 2048), error(2048));
    assert_eq!(refused(|spec| spec.memory_kib = 131_073), error(131_073));
    let crossing = refused(|spec| spec.pinning = Some(PinningSpec { map_nodes: true, ..pinning("2-4,10") }));
    assert_eq!(crossing, DomainError::Pins(PinError::Crosses { cores: 1 }));
}

#[test]
fn vcpus_in_real_time_are_those_of_the_mask() {
    let mut spec = mapped("2-3,10-11");
    let realtime = "0-3,^0".parse().ok();
    spec.pinning = Some(PinningSpec { map_nodes: true, realtime, ..pinning("2-3,10-11") });
    check("cpu-realtime", &spec, Virtualization::Kvm);
    let with = |mask: &str| {
        let realtime = mask.parse().ok();
        let pinning = Some(PinningSpec { realtime, ..pinning("2-3,10-11") });
        render(&DomainSpec { pinning, ..spec.clone() }, &facts(Virtualization::Kvm)).expect("a domain")
    };
    assert!(with("").contains("<vcpusched vcpus=\"0-3\" scheduler=\"fifo\" priority=\"1\"/>"), "{}", with(""));
    assert!(!with("9").contains("vcpusched"), "{}", with("9"));
}
