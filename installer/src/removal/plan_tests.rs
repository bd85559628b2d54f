//! When a node may leave, and by which steps: each refusal with its reason, each order with what it protects.

use super::facts::{Facts, Guest, Host, NodeFacts, Osd, Pool, Voter};
use super::plan::{Allowed, Plan, Step, plan};

const GB: u64 = 1_000_000_000;

fn node(name: &str, is_server: bool) -> NodeFacts {
    let address = Some(format!("10.0.0.1{}", &name[1..]));
    NodeFacts { name: name.into(), is_ready: true, is_server, address, ..NodeFacts::default() }
}

fn voters(names: &[&str]) -> Vec<Voter> {
    names.iter().map(|name| Voter { name: (*name).into(), answers: true }).collect()
}

/// Servers n1 to n3 and the worker n4, an OSD on each, three copies; n1 goes, seen from n2.
fn four() -> Facts {
    let host = |name: &str| Host { name: name.into(), used: 10 * GB, size: 100 * GB };
    let pool = |name: &str| Pool { name: name.into(), size: 3, domain: "host".into(), places: 3 };
    Facts {
        name: "n1".into(),
        own: "n2".into(),
        node: Some(node("n1", true)),
        others: vec![node("n2", true), node("n3", true), node("n4", false)],
        members: voters(&["n1", "n2", "n3"]),
        monitors: voters(&["n1", "n2", "n3"]),
        osds: vec![Osd { id: 0, is_up: true, used: 10 * GB }],
        hosts: vec![host("n2"), host("n3"), host("n4")],
        has_bucket: true,
        pools: vec![pool("volumes"), pool(".mgr")],
        ..Facts::default()
    }
}

/// The same without n4.
fn three() -> Facts {
    let mut facts = four();
    facts.others.pop();
    facts.hosts.pop();
    facts.pools.iter_mut().for_each(|pool| pool.places = 2);
    facts
}

fn lost(mut facts: Facts) -> Facts {
    if let Some(node) = &mut facts.node {
        node.is_ready = false;
    }
    facts.osds.iter_mut().for_each(|osd| osd.is_up = false);
    for voter in facts.members.iter_mut().chain(&mut facts.monitors).filter(|voter| voter.name == "n1") {
        voter.answers = false;
    }
    facts
}

fn guest(name: &str) -> Guest {
    Guest { namespace: "default".into(), name: name.into(), has_vm: true, restarts: true, is_pinned: false }
}

fn planned(facts: &Facts, allowed: Allowed) -> Plan {
    plan(facts, allowed).unwrap_or_else(|refusals| panic!("refused: {refusals:?}"))
}

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::name).collect()
}

/// It is refused for exactly one reason, which says this.
fn refused(change: impl FnOnce(&mut Facts), allowed: Allowed, expected: &str) {
    let mut facts = four();
    change(&mut facts);
    refused_as(&facts, allowed, expected);
}

fn refused_as(facts: &Facts, allowed: Allowed, expected: &str) {
    let reasons: Vec<String> =
        plan(facts, allowed).expect_err("it was planned").iter().map(ToString::to_string).collect();
    assert!(reasons.len() == 1 && reasons[0].contains(expected), "`{expected}` is not all of {reasons:?}");
}

const NOTHING: Allowed = Allowed { stop_guests: false, dead: false, fewer_copies: false };
const STOP: Allowed = Allowed { stop_guests: true, ..NOTHING };
const DEAD: Allowed = Allowed { dead: true, ..NOTHING };
const FEWER: Allowed = Allowed { fewer_copies: true, ..NOTHING };

#[test]
fn a_server_that_lives_is_replaced_and_emptied_before_it_stops() {
    let plan = planned(&four(), NOTHING);
    let expected = [
        "cordon",
        "promote",
        "evict-pods",
        "drain",
        "mark",
        "await-stop",
        "purge-osds",
        "remove-monitor",
        "delete-node",
    ];
    assert_eq!(names(&plan), expected);
    assert_eq!(plan.steps[1], Step::Promote("n4".into()));
    assert_eq!(plan.steps[3], Step::Drain { osds: vec![0], whole: true });
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn a_lost_servers_member_goes_before_another_comes() {
    let plan = planned(&lost(four()), DEAD);
    let expected = ["cordon", "mark", "remove-monitor", "delete-node", "promote", "drain", "purge-osds"];
    assert_eq!(names(&plan), expected);
}

#[test]
fn a_worker_leaves_the_control_plane_alone() {
    let mut facts = four();
    facts.node = Some(node("n4", false));
    facts.others = vec![node("n1", true), node("n2", true), node("n3", true)];
    facts.name = "n4".into();
    let plan = planned(&facts, NOTHING);
    assert_eq!(names(&plan), ["cordon", "evict-pods", "drain", "mark", "await-stop", "purge-osds", "delete-node"]);
}

#[test]
fn the_successor_is_of_a_zone_without_a_server() {
    let mut facts = four();
    let zoned = |name: &str, is_server, zone: &str| NodeFacts { zone: Some(zone.into()), ..node(name, is_server) };
    facts.others = vec![
        zoned("n2", true, "b"),
        zoned("n3", true, "c"),
        zoned("n4", false, "b"),
        node("n5", false),
        zoned("n6", false, "a"),
    ];
    assert_eq!(facts.successor().map(|node| node.name.as_str()), Some("n6"));
    facts.others[4].is_ready = false;
    assert_eq!(facts.successor().map(|node| node.name.as_str()), Some("n4"), "any is better than none");
    facts.others[2].is_cordoned = true;
    assert_eq!(facts.successor().map(|node| node.name.as_str()), Some("n5"));
}

#[test]
fn with_three_servers_left_nobody_is_promoted() {
    let mut facts = four();
    facts.others.push(node("n5", true));
    facts.members.push(Voter { name: "n5".into(), answers: true });
    assert!(!names(&planned(&facts, NOTHING)).contains(&"promote"));
}

#[test]
fn what_is_not_there_or_must_not_go_is_refused() {
    let stranger = Facts { name: "n9".into(), own: "n2".into(), others: four().others, ..Facts::default() };
    refused_as(&stranger, NOTHING, "there is no node n9");
    refused(|facts| facts.own = "n1".into(), NOTHING, "run it on another server");
    let last = |facts: &mut Facts| {
        facts.others = vec![node("n4", false)];
        facts.members = voters(&["n1"]);
        facts.monitors = voters(&["n1"]);
    };
    refused(last, NOTHING, "n1 is the last server");
}

#[test]
fn a_quorum_is_never_given_up() {
    let reason = "etcd would lose the quorum: 1 of the 2 that remain do not answer (n3)";
    refused(|facts| facts.members[2].answers = false, NOTHING, reason);
    refused(|facts| facts.monitors[2].answers = false, NOTHING, "the monitors would lose the quorum");
    let mut facts = lost(four());
    facts.members[2].answers = false;
    refused_as(&facts, DEAD, "etcd would lose the quorum");
    let mut five = four();
    five.others.extend([node("n5", true), node("n6", true)]);
    five.members.extend(voters(&["n5", "n6"]));
    five.members[2].answers = false;
    assert!(plan(&five, NOTHING).is_ok(), "three of the four that remain answer");
}

#[test]
fn a_node_that_is_silent_is_not_taken_for_lost_and_one_that_lives_neither() {
    refused_as(&lost(four()), NOTHING, "say --dead");
    refused(|_| {}, DEAD, "n1 lives");
}

#[test]
fn copies_are_kept_or_an_administrator_says_otherwise() {
    let facts = three();
    let reasons = plan(&facts, NOTHING).expect_err("two hosts cannot keep three copies");
    assert_eq!(reasons.len(), 2, "one for each pool: {reasons:?}");
    assert!(reasons[0].to_string().contains("without the node there are 2: add a node first, or say --fewer-copies"));
    let plan = planned(&facts, FEWER);
    assert_eq!(plan.steps[1], Step::LowerCopies { pool: "volumes".into(), size: 2 });
    assert!(plan.steps.contains(&Step::Drain { osds: vec![0], whole: true }));
    assert_eq!(plan.warnings, ["2 servers remain: when one of them fails, the cluster stops"]);
}

#[test]
fn the_only_copy_is_never_all_that_is_left() {
    let mut facts = three();
    facts.pools = vec![Pool { name: "volumes".into(), size: 2, domain: "host".into(), places: 1 }];
    refused_as(&facts, FEWER, "no second copy");
    facts.pools[0].places = 0;
    refused_as(&lost(facts), DEAD, "no second copy");
}

#[test]
fn a_lost_node_leaves_pools_that_want_more_as_they_are() {
    let plan = planned(&lost(three()), DEAD);
    assert!(plan.steps.contains(&Step::Drain { osds: vec![0], whole: false }));
    assert!(plan.warnings.iter().any(|w| w.contains("pool volumes wants 3 copies and has places for 2")), "{plan:?}");
}

#[test]
fn data_that_may_be_on_the_node_alone_keeps_it() {
    refused(|facts| facts.idle_groups = vec!["2 down".into()], NOTHING, "2 down");
    refused(|facts| facts.unfound = 4, NOTHING, "4 objects have no copy");
    let mut facts = lost(four());
    facts.idle_groups = vec!["1 incomplete".into()];
    refused_as(&facts, DEAD, "1 incomplete");
}

#[test]
fn what_it_holds_must_fit_elsewhere() {
    refused(|facts| facts.hosts[1].size = 10 * GB, NOTHING, "n3 would have to hold 13.3 GB of the 8.5 GB");
    let many = |facts: &mut Facts| {
        facts.hosts.push(Host { name: "n5".into(), used: 0, size: 0 });
        facts.hosts.iter_mut().for_each(|host| host.size = 11 * GB);
        facts.pools.iter_mut().for_each(|pool| pool.places = 4);
    };
    refused(many, NOTHING, "all other hosts together would have to hold 40.0 GB of the 37.4 GB");
}

#[test]
fn guests_are_stopped_with_permission_only() {
    refused(|facts| facts.guests = vec![guest("a"), guest("b")], NOTHING, "say --stop-guests to stop them and start");
    let mut facts = four();
    facts.guests = vec![guest("a"), Guest { restarts: false, ..guest("b") }];
    let plan = planned(&facts, STOP);
    let text = plan.steps[2].to_string();
    assert_eq!(text, "STOP default/a, default/b; they start anew on other nodes, but these stay off: default/b");
}

#[test]
fn guests_that_could_not_start_elsewhere_keep_the_node() {
    refused(|facts| facts.guests = vec![Guest { is_pinned: true, ..guest("a") }], STOP, "on this node only");
    refused(|facts| facts.guests = vec![Guest { has_vm: false, ..guest("a") }], STOP, "no VirtualMachine");
    refused(|facts| facts.imports = vec!["default/disk".into()], STOP, "default/disk");
}

#[test]
fn guests_of_a_lost_node_are_released() {
    let mut facts = lost(four());
    facts.guests = vec![Guest { is_pinned: true, ..guest("a") }];
    let plan = planned(&facts, DEAD);
    assert_eq!(names(&plan)[1..4], ["mark", "release-guests", "remove-monitor"]);
    assert_eq!(plan.warnings, ["default/a: may run on this node only, and will wait for a change"]);
}

#[test]
fn a_removal_that_was_stopped_goes_on() {
    // After the mark the node is not asked for anything any more, whether it has stopped or not.
    let mut facts = four();
    facts.is_marked = true;
    let expected = ["cordon", "mark", "remove-monitor", "delete-node", "promote", "drain", "await-stop", "purge-osds"];
    assert_eq!(names(&planned(&facts, NOTHING)), expected);
    // After the deletion of its Node only the mark tells that it was a server.
    let facts = Facts {
        node: None,
        is_marked: true,
        was_server: true,
        members: voters(&["n2", "n3"]),
        monitors: voters(&["n2", "n3"]),
        osds: Vec::new(),
        has_bucket: false,
        ..four()
    };
    let expected = ["mark", "remove-monitor", "delete-node", "promote", "purge-osds"];
    assert_eq!(names(&planned(&facts, NOTHING)), expected);
}
