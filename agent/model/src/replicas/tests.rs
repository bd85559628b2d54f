//! Tables: what is there, what is wanted, what is done.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// `r` ready, `n` not ready, `o` over, `d` being deleted; the name is the position, and the later the younger.
fn replicas(states: &str) -> Vec<Replica> {
    let replica = |(at, state): (usize, char)| Replica {
        name: at.to_string(),
        deleting: state == 'd',
        over: state == 'o',
        ready: state == 'r',
        born_ms: i64::try_from(at).unwrap(),
    };
    states.chars().enumerate().map(replica).collect()
}

fn check_set(wanted: usize, states: &str, create: usize, delete: &[&str]) {
    let plan = replica_set(wanted, &replicas(states));
    assert_eq!((plan.create, plan.delete), (create, delete.iter().map(ToString::to_string).collect()), "{states}");
}

#[test]
fn a_set_has_as_many_guests_as_it_wants() {
    check_set(3, "", 3, &[]);
    check_set(3, "rrr", 0, &[]);
    check_set(3, "rrd", 1, &[]);
    check_set(0, "rn", 0, &["1", "0"]);
    check_set(1000, "", BURST, &[]);
}

#[test]
fn the_least_useful_goes_first() {
    check_set(2, "rrnr", 0, &["2", "3"]);
    check_set(3, "rrrr", 0, &["3"]);
}

#[test]
fn what_is_over_is_cleared_away_and_made_anew() {
    check_set(2, "ro", 1, &["1"]);
    check_set(1, "rod", 0, &["1"]);
}

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        deleting: false,
        born_ms: i64::try_from(name_index(name).unwrap()).unwrap(),
        removable: true,
        updatable: true,
        current: true,
        disks_changed: false,
        lost: false,
        guest: Some(Guest { deleting: false, ready: true, outdated: false }),
    }
}

fn spec(replicas: usize) -> PoolSpec {
    PoolSpec {
        replicas,
        scale_in: ScaleIn::Proactive(Order::Descending),
        update: Update::Proactive(Order::Ascending),
        max_unavailable: 1,
        seed: 7,
    }
}

fn decide(spec: &PoolSpec, members: &[Member]) -> PoolPlan {
    let taken = members.iter().map(|member| member.name.clone()).collect();
    pool(spec, "web", members, &taken)
}

#[test]
fn free_indices_are_taken_first() {
    let members = [member("web-0"), member("web-2")];
    assert_eq!(decide(&spec(4), &members).create, [1, 3]);
    let taken = BTreeSet::from(["web-0".to_owned()]);
    assert_eq!(pool(&spec(1), "web", &[], &taken).create, [1], "somebody else's is not taken over");
}

#[test]
fn members_go_by_the_policy() {
    let members: Vec<_> = (0..4).map(|index| member(&format!("web-{index}"))).collect();
    let with = |order| PoolSpec { scale_in: ScaleIn::Proactive(order), ..spec(2) };
    assert_eq!(decide(&with(Order::Descending), &members).delete, ["web-3", "web-2"]);
    assert_eq!(decide(&with(Order::Ascending), &members).delete, ["web-0", "web-1"]);
    assert_eq!(decide(&with(Order::Newest), &members).delete, ["web-3", "web-2"]);
    assert_eq!(decide(&with(Order::Oldest), &members).delete, ["web-0", "web-1"]);
    assert_eq!(decide(&with(Order::Random), &members).delete.len(), 2);
    let manual = PoolSpec { scale_in: ScaleIn::Manual, ..spec(2) };
    assert_eq!(decide(&manual, &members), PoolPlan::default());
    let mut going = members.clone();
    going[0].deleting = true;
    going[3].removable = false;
    assert_eq!(decide(&with(Order::Descending), &going).delete, ["web-2"], "one is on its way, one is not to be taken");
}

#[test]
fn an_update_keeps_as_many_up_as_it_may_not_take_down() {
    let mut members: Vec<_> = (0..3).map(|index| member(&format!("web-{index}"))).collect();
    for member in &mut members {
        member.current = false;
    }
    let plan = decide(&spec(3), &members);
    assert_eq!((plan.update.len(), plan.restart.len()), (3, 0), "first the virtual machines");
    for member in &mut members {
        member.current = true;
        member.guest = Some(Guest { deleting: false, ready: true, outdated: true });
    }
    let plan = decide(&spec(3), &members);
    assert_eq!((plan.restart.as_slice(), plan.waiting), (["web-0".to_owned()].as_slice(), true));
    // The first is on its way down, so that no other goes.
    members[0].guest = Some(Guest { deleting: true, ready: false, outdated: true });
    let plan = decide(&spec(3), &members);
    assert_eq!((plan.restart.len(), plan.waiting), (0, true));
    let all = PoolSpec { max_unavailable: 3, ..spec(3) };
    assert_eq!(decide(&all, &members).restart, ["web-1", "web-2"]);
}

#[test]
fn a_guest_that_serves_nobody_is_restarted_at_once() {
    let mut members: Vec<_> = (0..2).map(|index| member(&format!("web-{index}"))).collect();
    members[1].guest = Some(Guest { deleting: false, ready: false, outdated: true });
    assert_eq!(decide(&spec(2), &members).restart, ["web-1"]);
}

#[test]
fn an_update_does_what_its_strategy_says() {
    let mut members = vec![member("web-0")];
    members[0].current = false;
    let with = |update| PoolSpec { update, ..spec(1) };
    assert_eq!(decide(&with(Update::Unmanaged), &members), PoolPlan::default());
    assert_eq!(decide(&with(Update::Opportunistic), &members).update, ["web-0"]);
    members[0].current = true;
    members[0].guest = Some(Guest { deleting: false, ready: true, outdated: true });
    assert_eq!(decide(&with(Update::Opportunistic), &members), PoolPlan::default());
    members[0].disks_changed = true;
    let plan = decide(&spec(1), &members);
    assert_eq!((plan.delete.as_slice(), plan.update.len()), (["web-0".to_owned()].as_slice(), 0), "made anew");
    members[0].updatable = false;
    assert_eq!(decide(&spec(1), &members), PoolPlan::default());
}

#[test]
fn what_does_not_start_is_replaced() {
    let healing = Healing { failures: 3, after_ms: 1000 };
    let check = |failures, failing, down_since_ms, expected| {
        assert_eq!(is_lost(&Starts { failures, failing, down_since_ms }, &healing, 5000), expected);
    };
    check(2, false, Some(0), false);
    check(3, false, None, true);
    check(0, true, Some(4001), false);
    check(0, true, Some(4000), true);
    check(0, true, None, false);
    let mut members = vec![member("web-0"), member("web-1")];
    members[1].lost = true;
    assert_eq!(decide(&spec(2), &members).delete, ["web-1"]);
    members[1].deleting = true;
    assert_eq!(decide(&spec(2), &members), PoolPlan::default());
}

#[test]
fn percent_is_of_the_replicas_and_never_nothing() {
    let check = |said: Option<&str>, expected: Option<usize>| {
        assert_eq!(max_unavailable(said, 10).ok(), expected, "{said:?}");
    };
    check(None, Some(10));
    check(Some("25%"), Some(2));
    check(Some("0"), Some(1));
    check(Some("3"), Some(3));
    check(Some("many"), None);
    check(Some("150%"), None);
    check(Some("-1"), None);
}

#[test]
fn each_index_has_disks_of_its_own() {
    let template = json!({
        "dataVolumeTemplates": [{"metadata": {"name": "root"}}],
        "template": {"spec": {"volumes": [
            {"name": "a", "dataVolume": {"name": "root"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "c", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
            {"name": "d", "configMap": {"name": "settings"}},
        ]}},
    });
    let got = indexed(&template, 3, Suffixes { config_maps: false, secrets: true });
    assert_eq!(got["dataVolumeTemplates"][0]["metadata"]["name"], "root-3");
    let volumes = &got["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["dataVolume"]["name"], "root-3");
    assert_eq!(volumes[1]["persistentVolumeClaim"]["claimName"], "shared");
    assert_eq!(volumes[2]["cloudInitNoCloud"]["secretRef"]["name"], "seed-3");
    assert_eq!(volumes[3]["configMap"]["name"], "settings");
}

#[test]
fn digests_tell_what_has_changed() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"runStrategy": "Always",
        "template": {"spec": {"hostname": "x"}}, "dataVolumeTemplates": []}});
    let before = digests(&template);
    let mut stopped = template.clone();
    stopped["spec"]["runStrategy"] = json!("Halted");
    let after = digests(&stopped);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..]);
    let mut renamed = template;
    renamed["spec"]["template"]["spec"]["hostname"] = json!("y");
    let after = digests(&renamed);
    assert_ne!(before[1], after[1]);
    assert_eq!(before[2], after[2]);
}
