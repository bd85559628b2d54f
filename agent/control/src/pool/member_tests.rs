//! A pool's template and the virtual machines made from it.

use super::*;

pub(crate) fn pool(spec: Value) -> VirtualMachinePool {
    let mut full = json!({
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "virtualMachineTemplate": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "runStrategy": "Always",
                "dataVolumeTemplates": [{"metadata": {"name": "root"}, "spec": {"source": {"blank": {}}}}],
                "template": {"spec": {"domain": {"devices": {"interfaces": [{"name": "n"}]}},
                    "volumes": [{"name": "root", "dataVolume": {"name": "root"}}]}},
            },
        },
    });
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "pool.kubevirt.io/v1beta1", "kind": "VirtualMachinePool",
        "metadata": {"name": "web", "namespace": "shop", "uid": "pool", "generation": 4}, "spec": full,
    }))
    .unwrap()
}

pub(crate) fn machine_of(pool: &VirtualMachinePool, index: usize) -> VirtualMachine {
    Template::of(pool).unwrap().machine(index).unwrap()
}

#[test]
fn a_machine_has_its_index_in_its_name_and_its_disks() {
    let of = pool(json!({}));
    let vm = machine_of(&of, 3);
    assert_eq!(vm.name_any(), "web-3");
    assert!(owned_by(&vm, &of));
    assert_eq!((vm.labels()["app"].as_str(), vm.labels()[LABEL_REVISION].as_str()), ("web", "web-4"));
    assert_eq!(guest_revision(&vm).as_deref(), Some("web-4"));
    assert_eq!(vm.spec.data_volume_templates[0].metadata.name.as_deref(), Some("root-3"));
}

fn changed(change: impl FnOnce(&mut VirtualMachinePool)) -> VirtualMachinePool {
    let mut new = pool(json!({}));
    new.metadata.generation = Some(5);
    change(&mut new);
    new
}

#[test]
fn a_change_of_the_number_alone_leaves_machines_as_they_are() {
    let vm = machine_of(&pool(json!({})), 0);
    let new = changed(|pool| pool.spec.replicas = Some(9));
    let facts = facts(&new, &Template::of(&new).unwrap(), (&vm, None));
    assert!(facts.current && !facts.disks_changed);
}

#[test]
fn a_guest_is_outdated_only_when_it_would_be_another() {
    let vm = machine_of(&pool(json!({})), 0);
    let vmi = |vm: &VirtualMachine| VirtualMachineInstance {
        metadata: ObjectMeta { labels: vm.spec.template.metadata.clone().unwrap().labels, ..ObjectMeta::default() },
        ..VirtualMachineInstance::default()
    };
    let check = |new: VirtualMachinePool, outdated: bool| {
        let template = Template::of(&new).unwrap();
        assert!(!facts(&new, &template, (&vm, None)).current);
        let written = template.renewed(&vm, 0).unwrap();
        let facts = facts(&new, &template, (&written, Some(&vmi(&vm))));
        assert_eq!((facts.current, facts.guest.unwrap().outdated), (true, outdated));
        assert_eq!(written.labels()[LABEL_REVISION], "web-5");
    };
    let template = |pool: &mut VirtualMachinePool| pool.spec.virtual_machine_template.clone();
    check(
        changed(|pool| {
            let mut new = template(pool);
            new.spec.run_strategy = Some(furrow_api::vm::RunStrategy::Manual);
            pool.spec.virtual_machine_template = new;
        }),
        false,
    );
    check(
        changed(|pool| {
            let mut new = template(pool);
            new.spec.template.spec.hostname = Some("x".into());
            pool.spec.virtual_machine_template = new;
        }),
        true,
    );
}

#[test]
fn what_a_guest_is_known_by_stays() {
    let mut vm = machine_of(&pool(json!({})), 0);
    vm.spec.template.spec.domain.devices.interfaces[0].mac_address = Some("02:00:00:00:00:01".into());
    vm.annotations_mut().insert("other".into(), "stays".into());
    let new = Template::of(&pool(json!({}))).unwrap().renewed(&vm, 0).unwrap();
    let mac = new.spec.template.spec.domain.devices.interfaces[0].mac_address.clone();
    assert_eq!(mac.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(new.annotations()["other"], "stays");
}

#[test]
fn strategies_are_read_with_their_defaults() {
    let check = |said: Value, scale_in: ScaleIn, update: Update, down: usize| {
        let got = spec(&pool(said.clone()), 1);
        assert_eq!((got.scale_in, got.update, got.max_unavailable), (scale_in, update, down), "{said}");
    };
    let random = (ScaleIn::Proactive(Order::Random), Update::Proactive(Order::Random));
    check(json!({}), random.0, random.1, 2);
    check(json!({"maxUnavailable": 1}), random.0, random.1, 1);
    check(json!({"maxUnavailable": "50%"}), random.0, random.1, 1);
    let manual = json!({"scaleInStrategy": {"opportunistic": {}}, "updateStrategy": {"unmanaged": {}}});
    check(manual, ScaleIn::Manual, Update::Unmanaged, 2);
    let sorted = json!({"scaleInStrategy": {"proactive": {"selectionPolicy": {"sortPolicy": "Oldest"}}},
        "updateStrategy": {"opportunistic": {}}});
    check(sorted, ScaleIn::Proactive(Order::Oldest), Update::Opportunistic, 2);
}

#[test]
fn a_member_that_does_not_start_is_lost_when_its_pool_asks_for_it() {
    let mut vm = machine_of(&pool(json!({})), 0);
    vm.status = serde_json::from_value(json!({"printableStatus": "CrashLoopBackOff",
        "startFailure": {"consecutiveFailCount": 1},
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
    .unwrap();
    let lost = |of: &VirtualMachinePool| facts(of, &Template::of(of).unwrap(), (&vm, None)).lost;
    assert!(!lost(&pool(json!({}))));
    assert!(lost(&pool(json!({"autohealing": {"minFailingToStartDuration": "1m"}}))));
    let patient = pool(json!({"autohealing": {"minFailingToStartDuration": "876000h"}}));
    assert!(!lost(&patient) && may_be_lost(&patient, &vm));
    assert!(lost(&pool(json!({"autohealing": {"startUpFailureThreshold": 1,
        "minFailingToStartDuration": "876000h"}}))));
}

#[test]
fn a_policy_takes_only_what_its_selectors_match() {
    let of = pool(json!({"scaleInStrategy": {"proactive": {"selectionPolicy": {"selectors": {
        "labelSelector": {"matchLabels": {"tier": "spare"}},
        "nodeSelectorRequirementMatcher": [{"key": "zone", "operator": "In", "values": ["a"]}]}}}}}));
    let template = Template::of(&of).unwrap();
    let mut vm = machine_of(&of, 0);
    assert!(!facts(&of, &template, (&vm, None)).removable);
    let metadata = vm.spec.template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().insert("tier".into(), "spare".into());
    vm.spec.template.spec.node_selector.insert("zone".into(), "a".into());
    let facts = facts(&of, &template, (&vm, None));
    assert!(facts.removable && facts.updatable);
}
